"""The TensorRT runtime on this machine's GPU: throughput, latency, and what each mechanism is worth.

    python benchmarks/bench_tensorrt.py --deploy DIR [--size 1280x720 ...] [--levels 1 2 3] [--precision fp16 int8]

DIR holds one deployment folder per precision and number of levels, named MODEL-PRECISION-lLEVELS; those that are not
there are written first, which needs torch and onnx (--graphs-only does only that). Pictures are 8-bit RGB, from host
memory to host memory. The file is one of `vtsr.benchmarks.results`; its rows have size, precision and levels, and by
``bench``:

operations    ``ms`` on the GPU of each engine's call and of the copies, alone and back to back, by events; ``gb_per_s``
throughput    ``fps_in``, ``fps_out``, ``ms_per_frame``; ``efficiency``: what is reached of 1 / max(copy in, compute,
              copy out), and the one that `vtsr.runtime.tensorrt.timeline` predicts from the durations; ``overhead``
              over the bare engines; host time per push and per launch; memory taken on the GPU
lanes         the same with several lanes, and whether the frames are the same bit for bit
latency       at a fixed feed, from the arrival of a frame to its results; ``dropped``: frames that came too late
mechanisms    throughput with each mechanism off, and how many times as fast it is with all on
accuracy      PSNR with ONNX Runtime in fp32 on the CPU, of the worst phase, and whether two runs give the same bits
baselines     a step in PyTorch (eager, compiled) and ONNX Runtime on this GPU, and on the CPU, beside the engine
goals         what the project has set itself for an H200, and what came out on this GPU
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr import Frame, Upconverter
from vtsr.benchmarks.gpu_baselines import baselines
from vtsr.benchmarks.gpu_setup import RESULTS, deployment, gpu_results, save
from vtsr.benchmarks.results import Row
from vtsr.errors import OptionError
from vtsr.options import Parser, run_cli
from vtsr.runtime.frame import PixelFormat
from vtsr.runtime.models import open_model
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.layout import Layout
from vtsr.runtime.tensorrt.planning import plan_stream
from vtsr.runtime.tensorrt.schedule import HOST
from vtsr.runtime.tensorrt.settings import Settings
from vtsr.runtime.tensorrt.timeline import COMPUTE, COPY_IN, COPY_OUT, ENGINE_OF, efficiency, engine_of, timeline

Image = NDArray[np.uint8]
Open = Callable[[Settings], TensorRTBackend]

WARM_UP = 30  # frames: engines, graphs and clocks are ready then
SWITCHES: dict[str, dict[str, Any]] = {
    "pageable memory": {"pinned": False}, "no overlap": {"overlap": False}, "no graphs": {"graphs": False},
    "no batching": {"batching": False}, "no priorities": {"priorities": False}, "1 slot": {"slots": 1},
    "2 slots": {"slots": 2},
}  # fmt: skip
BEHIND = 3  # pushes after which results are read
PERCENTILES = (50, 95, 99)
CALLS = 50  # of each operation, back to back
CLIP = 24  # frames, shown again and again
LANES_UP_TO = 1080  # rows: larger frames fill any GPU
JUDGED = 6  # frames whose results are compared

HD, FULL_HD, UHD = "1280x720", "1920x1080", "3840x2160"
FPS_GOALS = ((HD, 1, 2000), (HD, 3, 2500), (FULL_HD, 1, 1000), (UHD, 1, 240))  # size, levels, output fps at least
MIN_EFFICIENCY, MAX_OVERHEAD, MIN_PSNR = 0.9, 0.05, 50.0
LATENCY_GOAL = (HD, 2, 60.0, 8.0)  # size, levels, frames per second, milliseconds at most at the 99th percentile


def moving_clip(count: int, width: int, height: int) -> list[Image]:
    """A blurred noise texture that moves by three pixels a frame."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 4 + 2, (width + 3 * count) // 4 + 2, 3), dtype=np.uint8)
    texture = noise.repeat(4, axis=0).repeat(4, axis=1)
    return [np.ascontiguousarray(texture[:height, 3 * n : 3 * n + width]) for n in range(count)]


def endless(images: Sequence[Image], count: int) -> Iterator[Image]:
    """``count`` frames: the images again and again."""
    return (images[number % len(images)] for number in range(count))


def checksum(frames: Iterable[Frame]) -> int:
    """Touches every result, as a consumer would, at next to no cost."""
    return sum(int(frame.image[0, 0, 0]) for frame in frames)


def throughput(open_backend: Open, settings: Settings, images: Sequence[Image], count: int) -> dict[str, float]:
    """Frames per second in and out of a steady stream of ``count`` frames, host time per push, memory."""
    assert settings.levels is not None
    behind = max(BEHIND, settings.ahead)
    warm_up = max(WARM_UP, 2 * settings.ahead)
    backend = open_backend(settings)
    with Upconverter(settings.levels, backend=backend, scene_threshold=1) as up:
        free = backend.free_memory()
        unread: deque[list[Frame]] = deque()
        pushing = began = 0.0
        for number in range(warm_up + count):
            if number == warm_up:
                while unread:
                    checksum(unread.popleft())
                began = time.perf_counter()
            mark = time.perf_counter()
            unread.append(up.push(images[number % len(images)]))
            if number >= warm_up:
                pushing += time.perf_counter() - mark
            if len(unread) > behind:
                checksum(unread.popleft())
        while unread:
            checksum(unread.popleft())
        seconds = time.perf_counter() - began
        # Nothing is allocated in the steady state, and nothing freed before the end: this is the peak.
        taken, blocks = free - backend.free_memory(), backend.executor.taken
    per_second = count / seconds
    return {
        "fps_in": per_second,
        "fps_out": per_second * 2**settings.levels,
        "ms_per_frame": 1e3 / per_second,
        "push_ms": 1e3 * pushing / count,
        "gpu_mib": taken / 2**20,  # engines, contexts and buffers
        "buffers_mib": blocks / 2**20,
    }


def operations(open_backend: Open, settings: Settings, images: Sequence[Image]) -> dict[str, float]:
    """Milliseconds of the operations of a steady stream, each alone."""
    assert settings.levels is not None
    backend = open_backend(settings)
    with Upconverter(settings.levels, backend=backend, scene_threshold=1) as up:
        checksum(up.run(endless(images, WARM_UP), behind=BEHIND))
        return backend.operation_milliseconds(CALLS)


def launch_ms(open_backend: Open, settings: Settings, images: Sequence[Image], count: int) -> float:
    """Host time per launch of an engine, as a graph where it is one; of a steady stream, in milliseconds."""
    assert settings.levels is not None
    backend = open_backend(settings)
    spent: list[float] = []

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = work(*arguments)
            spent.append(time.perf_counter() - began)
            return result

        return call

    with Upconverter(settings.levels, backend=backend, scene_threshold=1) as up:
        checksum(up.run(endless(images, WARM_UP), behind=BEHIND))
        for name in ("launch", "enqueue"):
            setattr(backend.device, name, timed(getattr(backend.device, name)))
        for number in range(WARM_UP + count):
            if number == WARM_UP:
                spent.clear()
            checksum(up.push(images[number % len(images)]))
    return 1e3 * statistics.median(spent)


def bound(durations: dict[str, float]) -> dict[str, float]:
    """Milliseconds per input frame that each engine of the GPU is busy, from `operations`."""
    busy = {COPY_IN: 0.0, COMPUTE: 0.0, COPY_OUT: 0.0}
    for kind, value in durations.items():
        busy[ENGINE_OF.get(kind, COMPUTE)] += value
    return busy


def predicted_efficiency(settings: Settings, durations: dict[str, float], push_ms: float, layout: Layout) -> float:
    """What the timeline of the schedule makes of the measured durations."""
    assert settings.levels is not None
    steps = [1 << level for level in range(settings.levels)]
    batches = {"ingest": [1], "step": steps, "finish": [1], "emit": sorted({2, 1 << settings.levels})}
    size = 12 * int(np.prod(layout.padded))
    planned, _ = plan_stream(layout, batches, size, settings, levels=settings.levels, scenes=(200,), behind=BEHIND)
    issued = settings.levels + 4  # upload, ingest, steps, emit, download
    spans = timeline(
        planned, lambda o: durations.get(o.kind, 0.0) if engine_of(o) != HOST else 0.0, issue=push_ms / issued
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
        for image in endless(images, WARM_UP):
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
                checksum(up.push(images[number % len(images)]))
                waits.append(1e3 * (time.perf_counter() - due))
        finally:
            gc.enable()
            gc.unfreeze()
    found = {f"p{p}_ms": float(np.percentile(waits, p)) for p in PERCENTILES}
    return {**found, "max_ms": max(waits), "dropped": dropped, "frames": count}


def outputs(open_backend: Open, settings: Settings, images: Sequence[Image]) -> list[Image]:
    """All pictures that come of a few frames."""
    assert settings.levels is not None
    with Upconverter(settings.levels, backend=open_backend(settings), scene_threshold=1) as up:
        return [frame.image.copy() for frame in up.run(images, behind=max(BEHIND, settings.ahead))]


def digests(open_backend: Open, settings: Settings, images: Iterable[Image]) -> list[bytes]:
    """What stands for every picture that comes of the frames, without keeping them."""
    assert settings.levels is not None
    with Upconverter(settings.levels, backend=open_backend(settings), scene_threshold=1) as up:
        frames = up.run(images, behind=max(BEHIND, settings.ahead))
        return [hashlib.blake2b(np.ascontiguousarray(frame.image).data).digest() for frame in frames]


def psnr(found: Sequence[Image], expected: Sequence[Image]) -> float:
    """Decibels for a peak of 255; infinite for equal pictures."""
    errors = [np.mean((one.astype(np.float32) - other) ** 2) for one, other in zip(found, expected, strict=True)]
    error = float(np.mean(errors))
    return 10 * float(np.log10(255**2 / error)) if error else float("inf")


def accuracy(open_backend: Open, settings: Settings, images: Sequence[Image], model: str) -> dict[str, Any]:
    """Against a model in ONNX Runtime in fp32 on the CPU, of the worst phase; and of two runs with each other."""
    assert settings.levels is not None
    with Upconverter(settings.levels, backend="onnxruntime", model=model, precision="fp32", scene_threshold=1) as up:
        expected = [frame.image for frame in up.run(images)]
    first, second = (outputs(open_backend, settings, images) for _ in range(2))
    parts = 2**settings.levels
    phases = [psnr(first[phase::parts], expected[phase::parts]) for phase in range(parts)]
    return {"psnr_db": min(min(phases), 150.0), "repeatable": same(first, second)}


def same(one: Sequence[Image], other: Sequence[Image]) -> bool:
    """Whether pictures are equal bit for bit."""
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def measure(
    open_backend: Open, levels: int, images: Sequence[Image], *, count: int, device: int = 0, switches: bool = False,
    lanes: Sequence[int] = (), rates: Sequence[float] = (30, 60), seconds: float = 10,
) -> Iterator[Row]:  # fmt: skip
    """The rows of one engine set and size."""
    settings = Settings(levels=levels, device=device)
    layout = Layout(PixelFormat(), *images[0].shape[:2])
    durations = operations(open_backend, settings, images)
    moved = {"upload": images[0].nbytes, "download": images[0].nbytes << levels}
    for kind, value in durations.items():
        speed = {"gb_per_s": moved[kind] / value / 1e6} if kind in moved and value else {}
        yield {"bench": "operations", "operation": kind, "ms": value, **speed}
    reached = throughput(open_backend, settings, images, count)
    busy = bound(durations)
    yield {
        "bench": "throughput",
        **reached,
        "launch_ms": launch_ms(open_backend, settings, images, min(count, 100)),
        "bound_by": max(busy, key=lambda engine: busy[engine]),
        "efficiency": max(busy.values()) / reached["ms_per_frame"],
        "efficiency_predicted": predicted_efficiency(settings, durations, reached["push_ms"], layout),
        "overhead": reached["ms_per_frame"] / busy[COMPUTE] - 1,
    }
    for number in lanes:
        choices = Settings(levels=levels, device=device, lanes=number)
        found = throughput(open_backend, choices, images, max(count, 4 * choices.ahead))
        short = Settings(levels=levels, device=device, lanes=number, stint=levels + 1)
        few = list(endless(images, 3 * short.ahead))
        equal = digests(open_backend, settings, few) == digests(open_backend, short, few)
        yield {"bench": "lanes", "lanes": number, "stint": choices.stint, **found, "same_bits": equal}
    for rate in rates:
        found = latency(open_backend, settings, images, rate, int(seconds * rate))
        yield {"bench": "latency", "rate": float(rate), **found}
    if switches:
        for name, off in SWITCHES.items():
            found = throughput(open_backend, Settings(levels=levels, device=device, **off), images, count)
            worth = reached["fps_in"] / found["fps_in"]
            yield {"bench": "mechanisms", "off": name, "fps_in": found["fps_in"], "all_on_is_times_as_fast": worth}


def goals(rows: Sequence[Row]) -> Iterator[Row]:
    """The goals that these rows can tell about, and whether they are reached."""

    def made(name: str, aim: float, value: float, reached: bool) -> Row:
        return {"bench": "goals", "goal": name, "aim": aim, "value": value, "reached": reached}

    speeds = [row for row in rows if row["bench"] in ("throughput", "lanes")]
    for size, levels, least in FPS_GOALS:
        found = [row["fps_out"] for row in speeds if (row["size"], row["levels"]) == (size, levels)]
        if found:
            yield made(f"{size} x{2**levels}, output fps, at least", least, max(found), max(found) >= least)
    steady = [row for row in rows if row["bench"] == "throughput"]
    if steady:
        value = min(row["efficiency"] for row in steady)
        yield made("pipeline efficiency everywhere, at least", MIN_EFFICIENCY, value, value >= MIN_EFFICIENCY)
    # Where copies take longer than the engines, the engines are not what there is an overhead over.
    bound_by_engines = [row["overhead"] for row in steady if row["bound_by"] == COMPUTE]
    if bound_by_engines:
        value = max(bound_by_engines)
        yield made("overhead over the bare engines, at most", MAX_OVERHEAD, value, value <= MAX_OVERHEAD)
    size, levels, rate, most = LATENCY_GOAL
    wanted = {"bench": "latency", "size": size, "levels": levels, "rate": rate, "precision": "fp16"}
    waits = [row["p99_ms"] for row in rows if wanted.items() <= row.items()]
    if waits:
        name = f"p99 latency at {size} x{2**levels} and {rate:g} fps, ms, at most"
        yield made(name, most, max(waits), max(waits) <= most)
    judged = [row for row in rows if row["bench"] == "accuracy"]
    half = [row["psnr_db"] for row in judged if row["precision"] == "fp16"]
    if half:
        yield made("PSNR of fp16 with the CPU, dB, at least", MIN_PSNR, min(half), min(half) >= MIN_PSNR)
    if judged:
        share = sum(row["repeatable"] for row in judged) / len(judged)
        yield made("runs repeatable bit for bit, share", 1.0, share, share == 1.0)


def _body(args: argparse.Namespace) -> int:
    from vtsr.runtime.engines.platform import find_platform

    if any(lanes < 2 for lanes in args.lanes):
        raise OptionError("--lanes takes numbers from 2 on; a single lane is always measured.")
    platform = None if args.graphs_only else find_platform(args.device)
    folders = {
        (precision, levels): deployment(
            args.deploy / f"{Path(args.model).name}-{precision}-l{levels}", args.model, precision, args.size, levels,
            ranges=args.ranges, pixels=("rgb24",),
        )
        for precision in args.precision for levels in args.levels
    }  # fmt: skip
    if platform is None:
        return 0
    print(f"{platform['GPU']}, driver {platform['driver']}, TensorRT {platform['TensorRT']}", flush=True)
    rows: list[Row] = []
    missing = ["Feature carry is no mechanism of the shipped networks; docs/tensorrt.md says what it could bring."]
    for size in args.size:
        width, height = (int(n) for n in size.split("x"))
        images = moving_clip(CLIP, width, height)
        on_cpu = height <= args.compare_up_to
        for (precision, levels), folder in folders.items():
            model = open_model(str(folder))

            def open_backend(settings: Settings, model: Any = model) -> TensorRTBackend:
                return TensorRTBackend.open(model, settings)

            first = precision == args.precision[0]
            found = list(measure(
                open_backend, levels, images, count=args.frames, device=args.device, seconds=args.seconds,
                switches=first and levels in (1, 2), lanes=args.lanes if first and height <= LANES_UP_TO else (),
            ))  # fmt: skip
            if on_cpu:
                settings = Settings(levels=levels, device=args.device)
                found.append({"bench": "accuracy", **accuracy(open_backend, settings, images[:JUDGED], args.model)})
            where = {"size": size, "precision": precision, "levels": levels}
            rows += [{"bench": row.pop("bench"), **where, **row} for row in found]
            _say(rows)
        folder = folders[args.precision[0], args.levels[0]]
        engine = next((r["ms"] for r in rows if r.get("operation") == "step 1" and r["size"] == size), None)
        for who, value in baselines(folder, args.model, width, height, on_cpu=on_cpu):
            if isinstance(value, str):
                missing.append(f"{size}: {value}")
            else:
                worth = {"engine_ms": engine, "engine_is_times_as_fast": value / engine} if engine else {}
                rows.append({"bench": "baselines", "size": size, "step in": who, "ms": value, **worth})
        if not on_cpu:
            missing.append(f"{size}: not compared with the CPU, which takes minutes; --compare-up-to {height} does.")
    rows += goals(rows)
    path = save(gpu_results(platform, rows, missing), args.out, "runtime")
    for row in rows:
        if row["bench"] == "goals":
            verdict = "reached" if row["reached"] else "not reached"
            print(f"{row['goal']} {row['aim']:g}: {row['value']:.4g}, {verdict}")
    print(f"Written to {path}")
    return 0


def _say(rows: Sequence[Row]) -> None:
    """One line about the configuration that was measured last."""
    steady = next(row for row in reversed(rows) if row["bench"] == "throughput")
    waits = [row for row in rows if row["bench"] == "latency"][-1]
    print(
        f"{steady['size']} {steady['precision']} x{2 ** steady['levels']}: {steady['fps_in']:.0f} fps in, "
        f"{steady['fps_out']:.0f} out, efficiency {steady['efficiency']:.2f} (predicted "
        f"{steady['efficiency_predicted']:.2f}), p99 {waits['p99_ms']:.2f} ms at {waits['rate']:g} fps",
        flush=True,
    )


def _size(text: str) -> str:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1280x720")
    return f"{int(width)}x{int(height)}"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="bench_tensorrt", description=__doc__)
    parser.add_argument("--deploy", type=Path, required=True, metavar="DIR", help="where deployment folders are or go")
    parser.add_argument("--graphs-only", action="store_true", help="write the deployment folders and stop")
    parser.add_argument("--model", default="default", help="shipped model (default: default)")
    parser.add_argument("--size", nargs="+", type=_size, default=[HD, FULL_HD, UHD], metavar="WxH")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3], choices=(1, 2, 3, 4), metavar="N")
    parser.add_argument("--precision", nargs="+", default=["fp16"], choices=("fp32", "fp16", "int8"))
    parser.add_argument("--ranges", type=Path, help="ranges of vtsr-calibrate, for int8")
    parser.add_argument("--lanes", type=int, nargs="*", default=[2, 4], metavar="N", help="measured besides one")
    parser.add_argument("--frames", type=int, default=400, metavar="N", help="frames per throughput (default: 400)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="of each latency (default: 10)")
    parser.add_argument("--compare-up-to", type=int, default=1080, metavar="ROWS", help="largest height run on the CPU")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="index of the GPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
