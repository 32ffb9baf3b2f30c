"""Builds and tests every engine of the shipped models on this machine's GPU, and writes down what came out.

    python benchmarks/build_engines.py [--ranges ranges.json] [--graphs DIR] [--out benchmarks/results]

For each shipped model and precision (fp32, fp16, and int8 with --ranges) at 1280x720 and 1920x1080, levels 1 to 3:
deployment folder, engines, self-test of each engine against ONNX Runtime, milliseconds per call. Graphs that lie in
--graphs already are taken as they are, so that only TensorRT and pycuda are needed where the GPU is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from vtsr.errors import VtsrError
from vtsr.export.cli import main as export
from vtsr.options import Parser, run_cli
from vtsr.runtime.engines.cache import EngineCache
from vtsr.runtime.engines.platform import find_platform
from vtsr.runtime.engines.recipe import RECIPE_NAME, make_engines, open_recipe, summary
from vtsr.runtime.models import shipped_models

SIZES = ("1280x720", "1920x1080")
LEVELS = 3


def graphs(model: str, precision: str, folder: Path, ranges: Path | None) -> None:
    """Writes the deployment folder unless it is there."""
    if (folder / RECIPE_NAME).exists():
        return
    sizes = [word for size in SIZES for word in ("--size", size)]
    calibration = ["--calibration", str(ranges)] if precision == "int8" else []
    options = ["--levels", str(LEVELS), "--onnx-only", *sizes, *calibration]
    if export(["--model", model, f"--{precision}", *options, "-o", str(folder)]) != 0:
        raise VtsrError(f"The graphs of {model} in {precision} could not be written.")


def _body(args: argparse.Namespace) -> int:
    platform = None if args.graphs_only else find_platform()
    results: list[dict[str, Any]] = []
    precisions = ["fp32", "fp16", *(["int8"] if args.ranges else [])]
    for model in shipped_models():
        for precision in precisions:
            folder = args.graphs / f"{model}-{precision}"
            graphs(model, precision, folder, args.ranges)
            if platform is None:
                continue
            recipe = open_recipe(folder)
            for manifest in make_engines(recipe, EngineCache(args.cache), lambda line: None):
                print(summary(manifest), flush=True)
                results.append({
                    "model": model,
                    "precision": precision,
                    "name": manifest["name"],
                    "bytes": manifest["plan"]["bytes"],
                    **manifest["facts"],
                })  # fmt: skip
    if platform is None:
        return 0
    name = f"engines-{platform['GPU']}-TensorRT-{platform['TensorRT']}.json".replace(" ", "-")
    args.out.mkdir(parents=True, exist_ok=True)
    report = {"platform": platform, "date": time.strftime("%Y-%m-%d"), "engines": results}
    (args.out / name).write_text(json.dumps(report, indent=1) + "\n")
    print(f"{len(results)} engines, all self-tests passed: {args.out / name}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="build_engines", description=__doc__)
    parser.add_argument("--ranges", type=Path, help="ranges of vtsr-calibrate: adds int8")
    parser.add_argument("--graphs", type=Path, default=Path("deploy"), help="where deployment folders are or go")
    parser.add_argument("--graphs-only", action="store_true", help="write the graphs and stop")
    parser.add_argument("--cache", type=Path, help="engine cache (default: $VTSR_CACHE, else yours)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the report")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
