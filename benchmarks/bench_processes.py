"""What only whole processes show: cold start, peak memory, conversions of files."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from vtsr.benchmarks.child import measure
from vtsr.benchmarks.footage import write_texture
from vtsr.benchmarks.paired import ratio, summary
from vtsr.benchmarks.plan import Plan, Size
from vtsr.runtime.backend import load_backend

FILE_SIZE = Size(640, 360)  # of the clips that are converted
LENGTH_SIZE = Size(256, 144)
PUSHES = 3  # frames until every level has run its full batch
# Pixels x pairs per input frame beyond which memory is not measured, because it would take minutes.
MOST_WORK = 7 * 1920 * 1088
STAGES = ("import_s", "session_s", "first_frame_s")


def common(plan: Plan, precision: str = "") -> dict[str, Any]:
    return {"model": plan.model, "precision": precision or chosen(plan), "threads": plan.threads}


def chosen(plan: Plan) -> str:
    """The precision that users get on this machine without asking, if it is part of the plan."""
    automatic = load_backend("onnxruntime", plan.model, plan.threads, "auto").precision
    return automatic if automatic in plan.precisions else "fp32"


def test_cold_start(benchmark: Any, plan: Plan) -> None:
    """From an interpreter that starts to the first finished frame."""
    options = {**common(plan), **plan.typical._asdict()}
    found: list[dict[str, float]] = []
    bare: list[float] = []

    def run() -> None:
        bare.append(measure("python")["process_s"])
        found.append(measure("cold_start", **options))

    benchmark.pedantic(run, rounds=3 if plan.quick else 5, warmup_rounds=1)  # the first fills the file cache
    middle = {name: statistics.median(run[name] for run in found[1:]) for name in found[0]}
    benchmark.extra_info["rows"] = [{
        "bench": "cold start", "size": str(plan.typical), "precision": options["precision"], "threads": plan.threads,
        **{stage: middle[stage] for stage in STAGES}, "seconds": middle["process_s"],
        "fastest": min(run["process_s"] for run in found[1:]), "interpreter_s": statistics.median(bare[1:]),
    }]  # fmt: skip


def test_memory(benchmark: Any, plan: Plan) -> None:
    """Peak resident memory by size and level."""
    precision = chosen(plan)
    rows: list[dict[str, Any]] = []

    def run() -> None:
        for size in plan.sizes:
            for levels in plan.levels:
                if size.padded.pixels * (2**levels - 1) > MOST_WORK:
                    continue
                found = measure("push", levels=levels, frames=PUSHES, **common(plan), **size._asdict())
                rows.append({
                    "bench": "memory", "size": str(size), "pixels": size.padded.pixels, "levels": levels,
                    "precision": precision, "threads": plan.threads, "peak_mib": found["peak_mib"],
                    "base_mib": found["base_mib"],
                })  # fmt: skip

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["rows"] = rows


@pytest.fixture
def clip(plan: Plan, tmp_path: Path) -> tuple[Path, int]:
    """A clip and its number of frames."""
    frames = 8 if plan.quick else 24
    path = tmp_path / "in.mp4"
    write_texture(path, file_size(plan), frames)
    return path, frames


def file_size(plan: Plan) -> Size:
    size = FILE_SIZE if FILE_SIZE in plan.sizes else plan.typical
    return even(size)


def even(size: Size) -> Size:
    """What video with halved chroma can hold."""
    return Size(size.width & ~1, size.height & ~1)


def file_levels(plan: Plan) -> int:
    return 2 if 2 in plan.levels else plan.levels[0]


def test_pipeline(benchmark: Any, plan: Plan, clip: tuple[Path, int], tmp_path: Path) -> None:
    """vtsr-upconvert on a file against a naive loop, and against the network's steps alone."""
    path, frames = clip
    levels, options = file_levels(plan), common(plan)
    files = {"source": str(path), "levels": levels, **options}
    size = file_size(plan)
    rounds: list[dict[str, dict[str, Any]]] = []

    def once() -> None:
        rounds.append({
            "naive": measure("naive", target=str(tmp_path / "naive.mp4"), **files),
            "steps": measure("steps", frames=frames, levels=levels, **options, **size._asdict()),
            "stream": measure("stream", target=str(tmp_path / "stream.mp4"), **files),
        })  # fmt: skip

    benchmark.pedantic(once, rounds=2 if plan.quick else 3)
    spent = {name: [r[name]["seconds"] for r in rounds] for name in rounds[0]}
    typical = sorted(rounds, key=lambda r: r["stream"]["seconds"])[len(rounds) // 2]
    # The job's own clock: without imports, which every program has, and without loading the model.
    job = [r["stream"]["stages"]["total"] for r in rounds]
    shared = {
        "size": str(size), "levels": levels, "precision": options["precision"], "threads": plan.threads,
        "frames": frames, "frames_out": frames << levels,
    }  # fmt: skip
    benchmark.extra_info["rows"] = [
        {
            "bench": "pipeline", "what": what, **shared, **summary(spent[what]),
            "fps_out": (frames << levels) / statistics.median(spent[what]),
            "stages": typical[what]["stages"], "peak_mib": max(r[what]["peak_mib"] for r in rounds),
            "ratio": ratio(spent["naive"], spent[what]),
        }
        for what in ("naive", "stream")
    ] + [{
        "bench": "overhead", **shared, "steps_s": statistics.median(spent["steps"]), "job_s": statistics.median(job),
        "overhead": statistics.median(j / s for j, s in zip(job, spent["steps"], strict=True)) - 1,
    }]  # fmt: skip


def test_length(benchmark: Any, plan: Plan, tmp_path: Path) -> None:
    """Time and memory of vtsr-upconvert against the length of the video."""
    lengths = (8, 16, 32) if plan.quick else (32, 64, 128, 256)
    size = even(LENGTH_SIZE if LENGTH_SIZE in plan.sizes else plan.typical)
    rows: list[dict[str, Any]] = []

    def run() -> None:
        for frames in lengths:
            source = tmp_path / f"{frames}.mp4"
            write_texture(source, size, frames)
            found = measure("stream", source=str(source), target=str(tmp_path / "out.mp4"), levels=1, **common(plan))
            rows.append({
                "bench": "length", "size": str(size), "levels": 1, "precision": chosen(plan), "threads": plan.threads,
                "frames": frames, "seconds": found["stages"]["total"], "peak_mib": found["peak_mib"],
            })  # fmt: skip

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["rows"] = rows
