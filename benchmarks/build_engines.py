"""Builds and tests every engine of the shipped models on this machine's GPU, and writes down what came out.

    python benchmarks/build_engines.py [--ranges ranges.json] [--graphs DIR] [--out benchmarks/results]

For each shipped model and precision (fp32, fp16, and int8 with --ranges) at 1280x720 and 1920x1080, levels 1 to 3:
deployment folder, engines, self-test of each engine against ONNX Runtime, milliseconds per call. Graphs that lie in
--graphs already are taken as they are, so that only TensorRT and pycuda are needed where the GPU is. The file is one of
`vtsr.benchmarks.results`, of rows with ``bench`` "engines".
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vtsr.benchmarks.gpu_setup import RESULTS, deployment, gpu_results, save
from vtsr.benchmarks.results import Row
from vtsr.options import Parser, run_cli
from vtsr.runtime.engines.cache import EngineCache
from vtsr.runtime.engines.platform import find_platform
from vtsr.runtime.engines.recipe import make_engines, open_recipe, summary
from vtsr.runtime.models import shipped_models

SIZES = ("1280x720", "1920x1080")
LEVELS = 3


def row_of(model: str, precision: str, manifest: dict[str, Any]) -> Row:
    """A row of the results: an engine's size, build, speed and agreement with its graph in ONNX Runtime."""
    facts = manifest["facts"]
    tested = facts.get("self_test", {"outputs": {}})
    outputs = tested["outputs"].values()
    row = {
        "bench": "engines", "model": model, "precision": precision, "engine": manifest["name"],
        "mib": manifest["plan"]["bytes"] / 2**20, "build_seconds": facts.get("build_seconds"), "ms": tested.get("ms"),
        "psnr_db": min((o["psnr"] for o in outputs if "psnr" in o), default=None),
        "unequal": max((o["unequal"] for o in outputs if "unequal" in o), default=None),
    }  # fmt: skip
    return {name: value for name, value in row.items() if value is not None}


def _body(args: argparse.Namespace) -> int:
    platform = None if args.graphs_only else find_platform()
    rows: list[Row] = []
    precisions = ["fp32", "fp16", *(["int8"] if args.ranges else [])]
    for model in shipped_models():
        for precision in precisions:
            folder = deployment(
                args.graphs / f"{model}-{precision}", model, precision, SIZES, LEVELS, ranges=args.ranges
            )
            if platform is None:
                continue
            for manifest in make_engines(open_recipe(folder), EngineCache(args.cache), lambda line: None):
                print(summary(manifest), flush=True)
                rows.append(row_of(model, precision, manifest))
    if platform is not None:
        path = save(gpu_results(platform, rows), args.out, "engines")
        print(f"{len(rows)} engines, all self-tests passed: {path}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="build_engines", description=__doc__)
    parser.add_argument("--ranges", type=Path, help="ranges of vtsr-calibrate: adds int8")
    parser.add_argument("--graphs", type=Path, default=Path("deploy"), help="where deployment folders are or go")
    parser.add_argument("--graphs-only", action="store_true", help="write the graphs and stop")
    parser.add_argument("--cache", type=Path, help="engine cache (default: $VTSR_CACHE, else yours)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
