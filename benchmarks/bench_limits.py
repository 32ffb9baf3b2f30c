"""How near the network comes to what the machine can do: the roofline, with both roofs measured in the same run."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from vtsr.benchmarks import peak
from vtsr.benchmarks.contestants import Feeds, OnnxSteps, step_bytes
from vtsr.benchmarks.paired import Work, interleaved, summary
from vtsr.benchmarks.plan import Plan, Size

LARGE = Size(1280, 720)


def test_roofline(benchmark: Any, plan: Plan) -> None:
    """Operations and bytes counted from the graph, the time they take at best, and the time they take."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install 'vtsr[bench]')")
    from vtsr.benchmarks.work import count

    steps, notes = OnnxSteps(plan), list[str]()
    sizes = [plan.typical, *([LARGE] if LARGE in plan.sizes else [])]
    copying, copied = peak.copy(plan.threads)
    works: dict[str, Work] = {
        "copy": copying, "fp32": peak.float_product(plan.threads), "int8": peak.integer_product(plan.threads)
    }  # fmt: skip
    counted = {}
    for precision in plan.runtime_precisions:
        try:
            run = steps.run(precision)
        except LookupError as why:
            notes.append(f"ONNX Runtime {precision}: {why}")
            continue
        counted[precision] = count(onnx.load_from_string(step_bytes(steps.model, precision)))
        works |= {f"{precision} {size}": partial(run, Feeds.random(size)) for size in sizes}
    found = interleaved(benchmark, works, plan.rounds, plan.budget)
    bandwidth = copied / min(found["copy"])  # a roof is what was reached once
    rows = []
    for precision, work in counted.items():
        roof = peak.product_operations() / min(found[precision])
        for size in sizes:
            pixels = size.padded.pixels
            spent = summary(found[f"{precision} {size}"])
            arithmetic = 2 * work.macs * pixels / roof
            traffic = (work.bytes_per_pixel * pixels + work.weight_bytes) / bandwidth
            limit = max(arithmetic, traffic)
            rows.append({
                "bench": "roofline", "model": plan.model, "size": str(size), "precision": precision,
                "threads": plan.threads, "macs_per_pixel": work.macs, "bytes_per_pixel": work.bytes_per_pixel,
                "weight_bytes": work.weight_bytes, "peak_gops": roof / 1e9, "bandwidth_gbs": bandwidth / 1e9,
                "limit_s": limit, "bound": "arithmetic" if arithmetic >= traffic else "memory",
                "fraction": limit / spent["seconds"], "gops": 2 * work.macs * pixels / spent["seconds"] / 1e9, **spent,
            })  # fmt: skip
    benchmark.extra_info.update(rows=rows, notes=notes)
