"""Measurements that need a process of their own: peak memory, cold start, whole conversions.

    python -m vtsr.benchmarks.child '{"task": "push", ...}'

prints the result as one line of JSON. `measure` starts such a process and reads it.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()  # before anything heavy is imported

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

STATUS = Path("/proc/self/status")
MIB = 1 << 20


def measure(task: str, **options: Any) -> dict[str, Any]:
    """The result of a task in a fresh process, and ``process_s``, its time from start to end in seconds."""
    command = [sys.executable, "-m", "vtsr.benchmarks.child", json.dumps({"task": task, **options})]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - began
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"The process for {task} ended with exit code {done.returncode}: {last}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "process_s": spent}


def peak_memory() -> float:
    """The most memory this process has had resident so far, in MiB."""
    try:
        # Not ru_maxrss: Linux counts into it what the parent held when it started this process.
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def cold_start(model: str, precision: str, threads: int, width: int, height: int) -> dict[str, Any]:
    """Seconds of the stages up to the first finished frame at level 1."""
    marks = [BEGAN]

    def lap() -> float:
        marks.append(time.perf_counter())
        return marks[-1] - marks[-2]

    from vtsr import Upconverter

    imported = lap()
    up = Upconverter(1, model=model, precision=precision, threads=threads, backend="onnxruntime")
    opened = lap()
    import numpy as np

    frames = [np.full((height, width, 3), shade, np.uint8) for shade in (100, 110)]
    lap()
    up.push(frames[0])
    assert up.push(frames[1])
    return {"import_s": imported, "session_s": opened, "first_frame_s": lap()}


def push(model: str, precision: str, threads: int, width: int, height: int, levels: int, frames: int) -> dict[str, Any]:
    """Peak memory of a stream of frames; ``base_mib`` is that with the model loaded, before the first frame."""
    import numpy as np

    from vtsr import Upconverter

    with Upconverter(
        levels, model=model, precision=precision, threads=threads, backend="onnxruntime", scene_threshold=1
    ) as up:
        base = peak_memory()
        rng = np.random.default_rng(0)
        for _ in range(frames):
            up.push(rng.integers(0, 256, (height, width, 3), np.uint8))
    return {"peak_mib": peak_memory(), "base_mib": base}


def steps(
    model: str, precision: str, threads: int, width: int, height: int, levels: int, frames: int
) -> dict[str, Any]:
    """Seconds of the network's steps for a clip, with nothing beside them: no file, no conversion of pixels."""
    import numpy as np

    from vtsr.runtime.backend import load_backend
    from vtsr.runtime.frame import Frame
    from vtsr.runtime.recursion import Recursion

    backend = load_backend("onnxruntime", model, threads, precision)
    recursion = Recursion(backend, levels)
    rng = np.random.default_rng(0)
    pictures = [Frame(rng.integers(0, 256, (height, width, 3), np.uint8)).planes for _ in range(2)]
    tensors = [backend.ingest([picture]) for picture in pictures]
    for index in range(3):
        recursion.push(tensors[index % 2])
    recursion.flush()
    began = time.perf_counter()
    for index in range(frames):
        recursion.push(tensors[index % 2])
    recursion.flush()
    return {"seconds": time.perf_counter() - began}


def stream(source: str, target: str, model: str, precision: str, threads: int, levels: int) -> dict[str, Any]:
    """One run of vtsr-upconvert: its seconds in all, by stage, and its peak memory."""
    from vtsr.runtime.upconvert import main

    report = Path(target).with_suffix(".json")
    options = ["--levels", str(levels), "--model", model, "--precision", precision, "--threads", str(threads)]
    began = time.perf_counter()
    options += ["--backend", "onnxruntime", "--scene-threshold", "1", "--report", str(report), "-y", "-q"]
    if main([source, target, *options]) != 0:
        raise SystemExit(2)
    spent = time.perf_counter() - began
    stages = json.loads(report.read_text(encoding="utf-8"))["seconds"]
    return {"seconds": spent, "stages": stages, "peak_mib": peak_memory()}


def naive(source: str, target: str, model: str, precision: str, threads: int, levels: int) -> dict[str, Any]:
    """The loop one writes first: the whole video in memory, one pair at a time, one thing after the other.

    The same decoder, network, pixel conversion and encoder as in `stream`.
    """
    from fractions import Fraction

    from vtsr.runtime.backend import load_backend
    from vtsr.runtime.frame import Frame
    from vtsr.runtime.recursion import Level
    from vtsr.runtime.video.codecs import Encoding
    from vtsr.runtime.video.reader import VideoReader
    from vtsr.runtime.video.writer import VideoWriter

    began = time.perf_counter()
    reader = VideoReader(source, threads=threads)
    frames = list(reader)
    read = time.perf_counter()
    backend = load_backend("onnxruntime", model, threads, precision)
    tensors = [backend.ingest([frame.planes]) for frame in frames]
    for _ in range(levels):
        level = Level(backend)
        pushed = [*(level.push(tensor) for tensor in tensors), level.flush()]
        halves = [half for half in pushed if half is not None]
        tensors = [backend.part(half, n, n + 1) for half in halves for n in range(backend.frames_in(half))]
    shape = frames[0].planes
    made = [picture for t in tensors for picture in backend.emit(t, shape.format, shape.height, shape.width)]
    inferred = time.perf_counter()
    writer = VideoWriter(
        Path(target), reader.facts, parts=2**levels, timeline=reader.timeline,
        encoding=Encoding(None, None, None, None, threads), overwrite=True,
    )  # fmt: skip
    for index, picture in enumerate(made):
        whole = frames[index >> levels]
        length = whole.duration / 2**levels
        phase = index % 2**levels
        writer.write(Frame(picture, whole.pts + Fraction(phase) * length, length, index >> levels, phase))
    writer.finish()
    reader.close()
    ended = time.perf_counter()
    stages = {"decode": read - began, "network": inferred - read, "encode": ended - inferred}
    return {"seconds": ended - began, "stages": stages, "peak_mib": peak_memory()}


def python() -> dict[str, Any]:
    """Nothing: what starting an interpreter costs."""
    return {}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    task.__name__: task for task in (cold_start, push, steps, stream, naive, python)
}


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    print(json.dumps(TASKS[options.pop("task")](**options)))
