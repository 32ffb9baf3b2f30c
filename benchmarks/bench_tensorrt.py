"""The TensorRT runtime on this machine's GPU: throughput, latency, and what each mechanism is worth.

    python benchmarks/bench_tensorrt.py --deploy DIR [--size 1280x720 ...] [--levels 1 2 3] [--precision fp16 int8]

DIR holds one deployment folder per precision and number of levels, named MODEL-PRECISION-lLEVELS, as
`run_gpu_runtime.sh` writes them. Pictures are 8-bit RGB, from host memory to host memory. Measured are, in one run:

calls         milliseconds per operation on the GPU (engines, copies), and host time per push
throughput    frames per second in and out, and the efficiency: what is reached of 1 / max(copy in, compute, copy out);
              beside it the one predicted from the durations by `vtsr.runtime.tensorrt.timeline`
latency       at a fixed feed: from the arrival of a frame to its results, and frames that came too late
switches      throughput with each mechanism off
agreement     PSNR with ONNX Runtime on the CPU per phase, and whether two runs give the same bits
baselines     the step in PyTorch (eager, compiled) on this GPU and in ONNX Runtime on the CPU, on the same frames
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr import Frame, Upconverter
from vtsr.errors import VtsrError
from vtsr.options import Parser, run_cli
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.models import open_model
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.planning import plan_stream
from vtsr.runtime.tensorrt.settings import Settings
from vtsr.runtime.tensorrt.timeline import COMPUTE, COPY_IN, COPY_OUT, efficiency, engine_of, timeline

Image = NDArray[np.uint8]
Open = Callable[[Settings], TensorRTBackend]

WARM_UP = 30  # frames: engines, graphs and clocks are ready then
SWITCHES: dict[str, dict[str, Any]] = {
    "all on": {}, "pageable memory": {"pinned": False}, "no overlap": {"overlap": False},
    "no graphs": {"graphs": False}, "no batching": {"batching": False}, "no priorities": {"priorities": False},
    "1 slot": {"slots": 1}, "2 slots": {"slots": 2},
}  # fmt: skip
BEHIND = 3  # pushes after which results are read
PERCENTILES = (50, 95, 99)


def moving_clip(count: int, width: int, height: int) -> list[Image]:
    """A blurred noise texture that moves by three pixels a frame."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 4 + 2, (width + 3 * count) // 4 + 2, 3), dtype=np.uint8)
    texture = noise.repeat(4, axis=0).repeat(4, axis=1)
    return [np.ascontiguousarray(texture[:height, 3 * n : 3 * n + width]) for n in range(count)]


def frames_of(images: Iterable[Image]) -> list[Frame]:
    """Frames whose results are waited for when they are read."""
    return [Frame(Planes((image,), PixelFormat())) for image in images]


def checksum(frames: Sequence[Frame]) -> int:
    """Touches every result, as a consumer would, at next to no cost."""
    return sum(int(frame.image[0, 0, 0]) for frame in frames)


def throughput(open_backend: Open, settings: Settings, images: Sequence[Image], count: int) -> dict[str, float]:
    """Frames per second in and out of a steady stream of ``count`` frames, and host time per push."""
    assert settings.levels is not None
    backend = open_backend(settings)
    with Upconverter(settings.levels, backend=backend, scene_threshold=1) as up:
        unread: deque[list[Frame]] = deque()
        pushing = 0.0
        frames = frames_of(images)
        for number in range(WARM_UP + count):
            if number == WARM_UP:
                while unread:
                    checksum(unread.popleft())
                began = time.perf_counter()
            mark = time.perf_counter()
            unread.append(up.push(frames[number % len(frames)]))
            if number >= WARM_UP:
                pushing += time.perf_counter() - mark
            if len(unread) > BEHIND:
                checksum(unread.popleft())
        while unread:
            checksum(unread.popleft())
        seconds = time.perf_counter() - began
        with backend._device.scope():
            free, total = backend._device.memory_info()
    per_second = count / seconds
    return {
        "fps_in": per_second,
        "fps_out": per_second * 2**settings.levels,
        "ms_per_frame": 1e3 / per_second,
        "push_ms": 1e3 * pushing / count,
        "gpu_memory_mib": (total - free) / 2**20,  # of all programs on the GPU
    }


class Stopwatch:
    """Milliseconds on the device per operation, through events around each."""

    def __init__(self, backend: TensorRTBackend, device: Any) -> None:
        self._device = device
        self._open: dict[int, tuple[str, Any]] = {}
        self._spans: list[tuple[str, Any, Any]] = []
        backend.measure(self)

    def __call__(self, kind: str, stream: Any) -> None:
        event = self._device.create_event(timing=True)
        self._device.record(event, stream)
        begun = self._open.pop(id(stream), None)
        if begun is None:
            self._open[id(stream)] = (kind, event)
        else:
            self._spans.append((kind, begun[1], event))

    def medians(self) -> dict[str, float]:
        """Per kind; the device must have finished."""
        found: dict[str, list[float]] = {}
        for kind, start, end in self._spans:
            found.setdefault(kind, []).append(self._device.milliseconds(start, end))
        return {kind: statistics.median(values) for kind, values in found.items()}


def calls(open_backend: Open, settings: Settings, images: Sequence[Image], count: int) -> dict[str, float]:
    """Milliseconds per operation in a steady stream, one at a time so that none waits for another."""
    assert settings.levels is not None
    alone = Settings(levels=settings.levels, mode="latency", overlap=False, device=settings.device)
    backend = open_backend(alone)
    with Upconverter(settings.levels, backend=backend, scene_threshold=1) as up:
        for frame in frames_of(images[: min(len(images), WARM_UP)]):
            up.push(frame)
        device = backend._device
        with device.scope():
            watch = Stopwatch(backend, device)
        for number in range(count):
            up.push(*frames_of([images[number % len(images)]]))
        backend.synchronize()
        with device.scope():
            return watch.medians()


def bound(durations: dict[str, float]) -> dict[str, float]:
    """Milliseconds per input frame that each engine of the GPU is busy, from `calls`."""
    busy = {COPY_IN: 0.0, COMPUTE: 0.0, COPY_OUT: 0.0}
    for kind, value in durations.items():
        busy[{"upload": COPY_IN, "download": COPY_OUT}.get(kind, COMPUTE)] += value
    return busy


def predicted_efficiency(settings: Settings, durations: dict[str, float], push_ms: float, layout: Any) -> float:
    """What the timeline of the schedule makes of the measured durations."""
    assert settings.levels is not None
    steps = [1 << level for level in range(settings.levels)]
    batches = {"ingest": [1], "step": steps, "finish": [1], "emit": sorted({2, 1 << settings.levels})}
    size = 12 * int(np.prod(layout.padded))
    operations, _ = plan_stream(
        layout, batches, size, settings, levels=settings.levels, scenes=(200,), behind=BEHIND
    )
    issued = settings.levels + 4  # upload, ingest, steps, emit, download
    spans = timeline(
        operations, lambda o: durations.get(o.kind, 0.0) if engine_of(o) != "host" else 0.0, issue=push_ms / issued
    )
    return efficiency(spans)


def latency(
    open_backend: Open, settings: Settings, images: Sequence[Image], rate: float, count: int
) -> dict[str, float]:
    """Milliseconds from the arrival of a frame at ``rate`` frames per second to its results in host memory.

    A frame that arrives while the one before is not done within its frame time is dropped, as a camera would.
    """
    assert settings.levels is not None
    choices = Settings(levels=settings.levels, mode="latency", device=settings.device)
    waits: list[float] = []
    dropped = 0
    with Upconverter(settings.levels, backend=open_backend(choices), scene_threshold=1) as up:
        for image in images[:WARM_UP]:
            up.push(image)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            began = time.perf_counter()
            for number in range(count):
                due = began + number / rate
                while (now := time.perf_counter()) < due:
                    if due - now > 2e-3:
                        time.sleep(due - now - 1e-3)
                if now > due + 1 / rate:
                    dropped += 1
                    continue
                checksum(up.push(*frames_of([images[number % len(images)]])))
                waits.append(1e3 * (time.perf_counter() - due))
        finally:
            gc.enable()
            gc.unfreeze()
    found = {f"p{p}_ms": float(np.percentile(waits, p)) for p in PERCENTILES}
    return {**found, "max_ms": max(waits), "dropped": dropped, "frames": count}


def outputs(open_backend: Open, settings: Settings, images: Sequence[Image]) -> list[Image]:
    assert settings.levels is not None
    with Upconverter(settings.levels, backend=open_backend(settings), scene_threshold=1) as up:
        results = [f for frame in frames_of(images) for f in up.push(frame)] + up.flush()
        return [frame.image.copy() for frame in results]


def psnr(found: Sequence[Image], expected: Sequence[Image]) -> float:
    errors = [np.mean((one.astype(np.float32) - other) ** 2) for one, other in zip(found, expected, strict=True)]
    error = float(np.mean(errors))
    return 10 * float(np.log10(255**2 / error)) if error else float("inf")


def agreement(open_backend: Open, settings: Settings, images: Sequence[Image], model: str) -> dict[str, Any]:
    """Against ONNX Runtime in fp32 on the CPU, and of two runs with each other."""
    assert settings.levels is not None
    with Upconverter(settings.levels, backend="onnxruntime", model=model, precision="fp32", scene_threshold=1) as up:
        expected = [frame.image for frame in up.run(images)]
    first, second = (outputs(open_backend, settings, images) for _ in range(2))
    return {"psnr_db": psnr(first, expected), "repeatable": all(map(np.array_equal, first, second))}


def measure(
    open_backend: Open, levels: int, images: Sequence[Image], *, count: int, device: int = 0, switches: bool = False,
    rates: Sequence[float] = (30, 60), seconds: float = 10,
) -> dict[str, Any]:  # fmt: skip
    """All figures of one engine set and size."""
    from vtsr.runtime.tensorrt.layout import Layout

    settings = Settings(levels=levels, device=device)
    durations = calls(open_backend, settings, images, min(count, 200))
    reached = throughput(open_backend, settings, images, count)
    busy = bound(durations)
    layout = Layout(PixelFormat(), *images[0].shape[:2])
    report: dict[str, Any] = {
        "operations_ms": durations,
        "busy_ms": busy,
        "throughput": reached,
        "efficiency": max(busy.values()) / reached["ms_per_frame"],
        "efficiency_predicted": predicted_efficiency(settings, durations, reached["push_ms"], layout),
        "latency": {
            f"{rate:g} fps": latency(open_backend, settings, images, rate, int(seconds * rate)) for rate in rates
        },
    }
    if switches:
        report["switches"] = {
            name: throughput(open_backend, Settings(levels=levels, device=device, **off), images, count)
            for name, off in SWITCHES.items()
        }
    return report


def baselines(checkpoint: Path, width: int, height: int, rounds: int = 30) -> dict[str, Any]:
    """Milliseconds of one step on a pair of frames that lie in GPU memory, in PyTorch; empty without CUDA in torch."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    from vtsr.export.step import Step
    from vtsr.training.checkpoint import load_network

    step = Step(load_network(checkpoint)).eval().cuda().half()
    padded = [-(-n // 32) * 32 for n in (height, width)]
    u, a, v = torch.rand(3, 1, 3, *padded, device="cuda", dtype=torch.half)
    carry = torch.ones(1, 1, 1, 1, device="cuda", dtype=torch.half)
    found: dict[str, Any] = {"pytorch": torch.__version__}
    for name, module in (("eager", step), ("compiled", torch.compile(step))):
        with torch.inference_mode():
            for _ in range(5):
                module(u, a, carry, v)
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            for _ in range(rounds):
                module(u, a, carry, v)
            ended.record()
            torch.cuda.synchronize()
        found[f"{name}_ms"] = begun.elapsed_time(ended) / rounds
    return found


def cpu_baseline(folder: Path, width: int, height: int, rounds: int = 3) -> dict[str, float]:
    """Milliseconds of one step on a pair of frames in ONNX Runtime on all cores, fp32."""
    from vtsr.runtime.onnx_backend import OnnxBackend

    backend = OnnxBackend(open_model(folder))
    padded = [-(-n // 32) * 32 for n in (height, width)]
    u, a, v = np.random.default_rng(0).random((3, 1, 3, *padded), np.float32)
    backend.step(u, a, v)
    began = time.perf_counter()
    for _ in range(rounds):
        backend.step(u, a, v)
    return {"onnxruntime_cpu_ms": 1e3 * (time.perf_counter() - began) / rounds}


def _body(args: argparse.Namespace) -> int:
    from vtsr.runtime.engines.platform import find_platform

    platform = find_platform(args.device)
    print(f"{platform['GPU']}, driver {platform['driver']}, TensorRT {platform['TensorRT']}", flush=True)
    results: list[dict[str, Any]] = []
    for size in args.size:
        width, height = (int(n) for n in size.split("x"))
        images = moving_clip(24, width, height)
        for precision in args.precision:
            for levels in args.levels:
                folder = args.deploy / f"{args.model}-{precision}-l{levels}"
                if not folder.is_dir():
                    raise VtsrError(f"There is no deployment folder {folder}; benchmarks/run_gpu_runtime.sh makes it.")
                model = open_model(folder)

                def open_backend(settings: Settings, model: Any = model) -> TensorRTBackend:
                    return TensorRTBackend.open(model, settings)

                found = measure(
                    open_backend, levels, images, count=args.frames, device=args.device,
                    switches=levels in (1, 2) and precision == args.precision[0],
                )  # fmt: skip
                if height <= args.compare_up_to:
                    found["agreement"] = agreement(open_backend, Settings(levels=levels), images[:6], str(folder))
                results.append({"size": size, "precision": precision, "levels": levels, **found})
                reached = found["throughput"]
                print(
                    f"{size} {precision} x{2**levels}: {reached['fps_in']:.0f} fps in, {reached['fps_out']:.0f} out, "
                    f"efficiency {found['efficiency']:.2f} (predicted {found['efficiency_predicted']:.2f}), "
                    f"p99 {found['latency']['60 fps']['p99_ms']:.2f} ms at 60 fps",
                    flush=True,
                )
        found = baselines(args.checkpoint, width, height) if args.checkpoint is not None else {}
        if height <= args.compare_up_to:
            found |= cpu_baseline(folder, width, height)
        results.append({"size": size, "baselines": found})
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"runtime-{platform['GPU']}-TensorRT-{platform['TensorRT']}.json".replace(" ", "-")
    report = {"platform": platform, "date": time.strftime("%Y-%m-%d"), "results": results}
    (args.out / name).write_text(json.dumps(report, indent=1) + "\n")
    print(f"Written to {args.out / name}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="bench_tensorrt", description=__doc__)
    parser.add_argument("--deploy", type=Path, required=True, metavar="DIR", help="where the deployment folders are")
    parser.add_argument("--model", default="default", help="model in the folders' names (default: default)")
    parser.add_argument("--size", nargs="+", default=["1280x720", "1920x1080", "3840x2160"], metavar="WxH")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    parser.add_argument("--precision", nargs="+", default=["fp16"], choices=("fp32", "fp16", "int8"))
    parser.add_argument("--frames", type=int, default=400, metavar="N", help="frames per throughput (default: 400)")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint for the PyTorch baselines (default: none)")
    parser.add_argument("--compare-up-to", type=int, default=1080, metavar="ROWS", help="largest height run on the CPU")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="index of the GPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the report")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
