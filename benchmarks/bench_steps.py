"""The network alone: engines, sizes, batches, threads and presets, in one run each."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import numpy as np
import pytest

from vtsr.benchmarks.contestants import (
    CHANNELS_LAST,
    COMPILED,
    EAGER,
    Feeds,
    OnnxSteps,
    Run,
    TorchSteps,
    check_same_work,
    open_session,
)  # fmt: skip
from vtsr.benchmarks.paired import Work, interleaved, ratio, summary
from vtsr.benchmarks.plan import Plan
from vtsr.errors import VtsrError
from vtsr.runtime.models import open_model

BATCHES = (1, 2, 4, 8)
ORT = "ONNX Runtime"
TEST_PRESET = "dense-tiny"


def onnx_runs(steps: OnnxSteps, precisions: tuple[str, ...], notes: list[str]) -> dict[str, tuple[str, Run]]:
    """Contestants by name with their precision; what cannot run goes to the notes."""
    found = {}
    for precision in precisions:
        try:
            found[f"{ORT} {precision}"] = (precision, steps.run(precision))
        except LookupError as why:
            notes.append(f"{ORT} {precision}: {why}")
    return found


def rows_of(
    found: dict[str, list[float]], precisions: dict[str, str], baseline: str | None, **common: Any
) -> list[dict[str, Any]]:
    """One row per contestant, with how many times faster it is than the baseline."""
    rows = []
    for name, spent in found.items():
        row = {**common, "engine": name, "precision": precisions[name], **summary(spent)}
        if baseline in found:
            row["ratio"] = ratio(found[baseline], spent)
        rows.append(row)
    return rows


def compiled_run(run: Run, feeds: Feeds, notes: list[str]) -> dict[str, tuple[str, Run]]:
    """The compiled step after its first call, which compiles; nothing, and a note, where that fails."""
    began = time.perf_counter()
    try:
        run(feeds)
    except Exception as why:  # noqa: BLE001  # the compiler's, of many kinds; the others are measured all the same
        notes.append(f"{COMPILED}: {(str(why).strip().splitlines() or [type(why).__name__])[0][:200]}")
        return {}
    notes.append(f"{COMPILED}: compiling took {time.perf_counter() - began:.0f} s, which its time does not include")
    return {COMPILED: ("fp32", run)}


def test_engines(benchmark: Any, plan: Plan) -> None:
    """ONNX Runtime in every precision against PyTorch eager, channels_last and compiled."""
    size, notes = plan.typical, list[str]()
    feeds = Feeds.random(size)
    runs: dict[str, tuple[str, Run]] = {}
    try:
        torch_steps = TorchSteps(plan)
    except pytest.skip.Exception as why:
        notes.append(f"PyTorch: {why}")
    else:
        runs = {way: ("fp32", torch_steps.run(way)) for way in (EAGER, CHANNELS_LAST)}
        if plan.quick:
            notes.append(f"{COMPILED}: left out by --quick, as compiling takes a minute")
        else:
            runs |= compiled_run(torch_steps.run(COMPILED), feeds, notes)
    onnx = onnx_runs(OnnxSteps(plan), plan.precisions, notes)
    runs |= onnx
    expected = next(iter(runs.values()))[1](feeds)
    for name, (precision, run) in runs.items():
        check_same_work(name, precision, run(feeds), expected)
    works = {name: partial(run, feeds) for name, (_, run) in runs.items()}
    found = interleaved(benchmark, works, plan.rounds, plan.budget)
    precisions = {name: precision for name, (precision, _) in runs.items()}
    rows = rows_of(found, precisions, EAGER, bench="engines", size=str(size), batch=1, threads=plan.threads)
    fp32, int8 = (found.get(f"{ORT} {precision}") for precision in ("fp32", "int8"))
    if fp32 and int8:
        rows[list(found).index(f"{ORT} int8")]["ratio_fp32"] = ratio(fp32, int8)
    benchmark.extra_info.update(rows=rows, notes=notes)


def test_sizes(benchmark: Any, plan: Plan) -> None:
    """One pair at every size."""
    notes: list[str] = []
    steps = OnnxSteps(plan)
    runs = onnx_runs(steps, plan.runtime_precisions, notes)
    try:
        runs[EAGER] = ("fp32", TorchSteps(plan).run(EAGER))
    except pytest.skip.Exception as why:
        notes.append(f"PyTorch: {why}")
    cases = {(size, name): Feeds.random(size) for size in plan.sizes for name in runs}
    works: dict[str, Work] = {
        f"{size} {name}": partial(runs[name][1], feeds) for (size, name), feeds in cases.items()
    }
    # A round is every engine at every size; the largest take seconds.
    found = interleaved(benchmark, works, max(plan.rounds // 3, 2), plan.budget)
    rows = []
    for size in plan.sizes:
        here = {name: found[f"{size} {name}"] for name in runs}
        precisions = {name: precision for name, (precision, _) in runs.items()}
        rows += rows_of(here, precisions, EAGER, bench="sizes", size=str(size), pixels=size.padded.pixels,
                        batch=1, threads=plan.threads)  # fmt: skip
    benchmark.extra_info.update(rows=rows, notes=notes)


def test_batches(benchmark: Any, plan: Plan) -> None:
    """Several pairs in one call, per pair: what batching a level's frames is worth."""
    notes: list[str] = []
    runs = onnx_runs(OnnxSteps(plan), plan.runtime_precisions, notes)
    batches = BATCHES[:3] if plan.quick else BATCHES
    works = {
        f"{batch} {name}": partial(run, Feeds.random(plan.typical, batch))
        for batch in batches
        for name, (_, run) in runs.items()
    }
    found = interleaved(benchmark, works, max(plan.rounds * 2 // 3, 2), plan.budget)
    rows = []
    for name, (precision, _) in runs.items():
        for batch in batches:
            per_pair = [s / batch for s in found[f"{batch} {name}"]]
            rows.append({
                "bench": "batches", "size": str(plan.typical), "engine": name, "precision": precision, "batch": batch,
                "threads": plan.threads, **summary(per_pair), "ratio": ratio(found[f"1 {name}"], per_pair),
            })  # fmt: skip
    benchmark.extra_info.update(rows=rows, notes=notes)


def test_threads(benchmark: Any, plan: Plan) -> None:
    """One pair on one core and on more, up to all."""
    notes: list[str] = []
    cores = os.cpu_count() or 1
    threads = sorted({1, *(n for n in (2, 4, 8, 16, 32, 64) if n < cores), cores})
    if len(threads) == 1:
        pytest.skip("this machine has one core")
    steps = OnnxSteps(plan)
    usable = onnx_runs(steps, plan.runtime_precisions, notes)
    feeds = Feeds.random(plan.typical)
    works = {
        f"{n} {name}": partial(steps.run(precision, n), feeds)
        for n in threads
        for name, (precision, _) in usable.items()
    }
    found = interleaved(benchmark, works, plan.rounds, plan.budget)
    rows = []
    for name, (precision, _) in usable.items():
        for n in threads:
            spent = found[f"{n} {name}"]
            rows.append({
                "bench": "threads", "size": str(plan.typical), "engine": name, "precision": precision, "batch": 1,
                "threads": n, **summary(spent), "ratio": ratio(found[f"1 {name}"], spent),
            })  # fmt: skip
    benchmark.extra_info.update(rows=rows, notes=notes)


def test_presets(benchmark: Any, plan: Plan) -> None:
    """The network's other sizes, untrained: what each would cost, and how much arithmetic it is."""
    if plan.quick:
        pytest.skip("left out by --quick")
    pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'vtsr[train]')")
    import torch

    from vtsr.benchmarks.work import count
    from vtsr.export.model import step_graph
    from vtsr.training.network import build_network, preset_names

    presets = [name for name in preset_names() if name.startswith("dense") and name != TEST_PRESET]
    shipped = open_model(plan.model).facts.get("facts", {}).get("preset")
    feeds = Feeds.random(plan.typical)
    works: dict[str, Work] = {}
    counted = {}
    for preset in presets:
        torch.manual_seed(0)
        graph = step_graph(build_network(preset))
        counted[preset] = count(graph)
        session = open_session(graph.SerializeToString(), plan.threads)
        carry = np.ones((1, 1, 1, 1), np.float32)
        works[preset] = partial(session.run, None, {"u": feeds.u, "a_u": feeds.a_u, "carry": carry, "v": feeds.v})
    found = interleaved(benchmark, works, plan.rounds, plan.budget)
    benchmark.extra_info["rows"] = [
        {
            "bench": "presets", "preset": preset, "shipped": preset == shipped, "size": str(plan.typical),
            "precision": "fp32", "threads": plan.threads, "macs_per_pixel": counted[preset].macs,
            "bytes_per_pixel": counted[preset].bytes_per_pixel, "weight_bytes": counted[preset].weight_bytes,
            **summary(spent),
        }
        for preset, spent in found.items()
    ]  # fmt: skip


def test_levels(benchmark: Any, plan: Plan) -> None:
    """One more input frame through the whole recursion: pixels in, pixels out."""
    from vtsr import Upconverter
    from vtsr.benchmarks.footage import texture

    frames = [texture(plan.typical, index) for index in range(4)]
    works: dict[str, Work] = {}
    cases = []
    notes: list[str] = []
    for precision in plan.runtime_precisions:
        for levels in plan.levels:
            try:
                up = Upconverter(
                    levels, model=plan.model, precision=precision, threads=plan.threads, backend="onnxruntime",
                    scene_threshold=1,
                )  # fmt: skip
            except VtsrError as why:
                notes.append(f"{ORT} {precision}: {why}")
                break
            for frame in frames[:3]:  # now every level has its state
                up.push(frame)
            cases.append((precision, levels))
            works[f"{precision} {levels}"] = partial(up.push, frames[3])
    found = interleaved(benchmark, works, max(plan.rounds * 2 // 3, 2), plan.budget)
    rows = []
    for precision, levels in cases:
        spent = found[f"{precision} {levels}"]
        rows.append({
            "bench": "levels", "size": str(plan.typical), "precision": precision, "levels": levels,
            "pairs": 2**levels - 1, "threads": plan.threads, **summary(spent),
            "fps_out": 2**levels / summary(spent)["seconds"],
        })  # fmt: skip
    benchmark.extra_info.update(rows=rows, notes=notes)
