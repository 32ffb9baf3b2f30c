"""vtsr-calibrate: watches what a model computes with, level by level, and makes 8-bit graphs (INT8) from that.

    vtsr-calibrate -o ranges.json                            # rendered clips, the shipped model
    vtsr-calibrate street.mp4 match.mov -o ranges.json --sensitivity --budget 0.2
    vtsr-calibrate --merge a.json b.json -o ranges.json      # observed on two machines
    vtsr-calibrate --from ranges.json --gate clips/ --install
    vtsr-export --int8 --calibration ranges.json             # graphs and engines for TensorRT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vtsr.errors import MissingExtraError, OptionError
from vtsr.options import MAX_LEVELS, Parser, add_levels, add_model, add_quiet, add_seed, add_threads, run_cli

if TYPE_CHECKING:
    from vtsr.calibration.ranges import Ranges
    from vtsr.evaluation.clips import Clip
    from vtsr.runtime.models import ModelFolder

METHODS = ("minmax", "percentile", "entropy", "mse")  # those of `vtsr.calibration.ranges`, which needs onnx
TARGETS = ("tensorrt", "cpu")
SENSITIVITY_SIZE = (192, 128)  # width, height in pixels of the rendered clips layers are ranked on


def parser() -> Parser:
    """The command's options."""
    options = Parser(prog="vtsr-calibrate", description=__doc__, guide="int8.md")
    options.add_argument("clips", nargs="*", metavar="CLIPS", help="videos or folders of frames (default: rendered)")
    options.add_argument(
        "-o", "--out", type=Path, default=Path("ranges.json"), metavar="FILE",
        help="ranges to write (default: %(default)s)",
    )  # fmt: skip
    add_model(options)
    add_levels(options, 3, "how many the model is watched in")
    options.add_argument("--method", choices=METHODS, help="how ranges are found (default: percentile)")
    options.add_argument("--percentile", type=float, metavar="P", help="share of values kept by --method percentile")
    options.add_argument("--frames", type=int, default=48, metavar="N", help="frames to run, in all (default: 48)")
    add_seed(options)
    add_threads(options, 1)
    add_quiet(options)
    known = options.add_argument_group("instead of running the model")
    known.add_argument("--from", dest="known", type=Path, metavar="FILE", help="take these ranges")
    known.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="merge ranges of the same model")
    judge = options.add_argument_group("quality")
    judge.add_argument("--target", choices=TARGETS, default="cpu", help="whose graph is judged (default: %(default)s)")
    judge.add_argument(
        "--sensitivity", nargs="*", metavar="CLIPS",
        help="rank layers by the dB they cost alone, on high-speed clips or rendered ones",
    )  # fmt: skip
    judge.add_argument(
        "--budget", type=float, metavar="DB", help="keep the most harmful layers float until the drop is within DB"
    )
    judge.add_argument(
        "--gate", nargs="*", metavar="CLIPS",
        help="judge against fp32 on high-speed clips not used above, a suite folder, or rendered ones",
    )  # fmt: skip
    judge.add_argument("--install", action="store_true", help="gate, then add the CPU's INT8 graph to the model folder")
    judge.add_argument("--force", action="store_true", help="install a graph that fails the gate")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_cli(parser(), _body, argv)


def _body(args: argparse.Namespace) -> int:
    _check(args)
    try:
        import onnx

        from vtsr.calibration.quantize import quantize, quantize_for_cpu
    except ImportError as error:
        raise MissingExtraError(f"Calibration needs onnx: pip install 'vtsr[train]' ({error}).") from error
    from vtsr.runtime.models import open_model

    folder = open_model(args.model)
    model = onnx.load_from_string(folder.read("step.onnx"))
    ranges = _with_options(_ranges(args, folder), args)
    ranges.check_model(model)
    make = quantize if args.target == "tensorrt" else quantize_for_cpu

    def build(keep: Sequence[str]) -> Any:
        return make(model, replace(ranges, keep_float=()), keep_float=keep)

    build(())  # finds ranges that cannot be used
    if args.sensitivity is not None or args.budget is not None:
        ranges = _with_sensitivity(args, folder, ranges, build)
    ranges.save(args.out)
    tensors = len(ranges.levels[min(ranges.levels)])
    print(f"{args.out}: {tensors} tensors at {len(ranges.levels)} levels, ranges by {ranges.method}")
    if args.gate is None and not args.install:
        return 0
    from vtsr.calibration.gate import check

    verdict = check(
        folder, build(ranges.keep_float), _open(args.gate) if args.gate else None,
        threads=args.threads, progress=not args.quiet,
    )  # fmt: skip
    print(f"gate, {args.target} graph: {verdict.sentence()}")
    if args.install:
        from vtsr.calibration.install import install

        ratio = install(folder, build(ranges.keep_float), ranges, verdict, force=args.force)
        print(f"{folder.path}: INT8 step for CPUs added, {ratio:.2f} times as fast as fp32 here")
        return 0
    return 0 if verdict.passed else 1


def _check(args: argparse.Namespace) -> None:
    """Raises `OptionError` for options that cannot work together, before anything is run."""
    if sum((bool(args.clips), args.known is not None, args.merge is not None)) > 1:
        raise OptionError("Clips, --from and --merge exclude one another; give one of them.")
    if not 1 <= args.levels <= MAX_LEVELS:
        raise OptionError(f"--levels goes from 1 to {MAX_LEVELS}, not {args.levels}.")
    if args.threads < 1:
        raise OptionError(f"--threads must be 1 or more, not {args.threads}.")
    if args.seed < 0:
        raise OptionError(f"--seed must be 0 or more, not {args.seed}.")
    if args.percentile is not None and not 50 < args.percentile <= 100:
        raise OptionError(f"--percentile goes from 50 to 100, not {args.percentile}.")
    if args.budget is not None and not args.budget >= 0:
        raise OptionError(f"--budget must be 0 dB or more, not {args.budget}.")
    if args.install and args.target != "cpu":
        raise OptionError("--install adds the CPU's graph; leave out --target, or use vtsr-export for TensorRT.")
    if args.force and not args.install:
        raise OptionError("--force goes with --install.")
    same = {Path(clip).resolve() for clip in args.clips} & {Path(clip).resolve() for clip in args.gate or ()}
    if same:
        raise OptionError(f"The gate must not see a clip of the calibration; leave {min(same).name} out of one.")


def _ranges(args: argparse.Namespace, folder: ModelFolder) -> Ranges:
    """Ranges as observed, or read."""
    from vtsr.calibration.clips import RUN, rendered_runs, runs_of
    from vtsr.calibration.observe import observe
    from vtsr.calibration.ranges import Ranges

    if args.known is not None:
        return Ranges.load(args.known)
    if args.merge is not None:
        first, *others = (Ranges.load(path) for path in args.merge)
        for other in others:
            first = first.merged(other)
        return first
    given = _open(args.clips)
    runs = runs_of(given, args.frames, args.seed) if given else rendered_runs(args.frames, args.seed)
    quiet = args.quiet or not sys.stderr.isatty()

    def counted() -> Iterator[Any]:
        with tqdm(total=args.frames // RUN, unit="run", file=sys.stderr, disable=quiet) as bar:
            for run in runs:
                yield run
                bar.update()

    ranges = observe(folder, counted(), args.levels, threads=args.threads)
    source = [Path(clip).name for clip in args.clips] or "rendered"
    return replace(ranges, facts={**ranges.facts, "clips": source, "seed": args.seed})


def _with_options(ranges: Ranges, args: argparse.Namespace) -> Ranges:
    method = args.method or ("percentile" if args.percentile is not None else ranges.method)
    percentile = ranges.percentile if args.percentile is None else args.percentile
    return replace(ranges, method=method, percentile=percentile)


def _open(paths: Sequence[str]) -> list[Clip]:
    """Clips from videos, folders of frames, and folders that `vtsr.evaluation.suite` has written."""
    from vtsr.evaluation.clips import open_clip
    from vtsr.evaluation.suite import read_suite

    clips: list[Clip] = []
    for path in map(Path, paths):
        clips += read_suite(path) if path.is_dir() and any(path.glob("*-*.npy")) else [open_clip(path)]
    return clips


def _with_sensitivity(args: argparse.Namespace, folder: ModelFolder, ranges: Ranges, build: Any) -> Ranges:
    from vtsr.calibration.gate import rendered_clips
    from vtsr.calibration.sensitivity import keep_within, rank

    clips = _open(args.sensitivity or ()) or rendered_clips(3, SENSITIVITY_SIZE)
    costs = rank(folder, build, clips, threads=args.threads, progress=not args.quiet)
    if args.sensitivity is not None:
        for cost in costs:
            print(f"{cost.drop:+8.4f} dB  {', '.join(cost.layers)}")
    if args.budget is not None:
        keep, drop = keep_within(args.budget, costs, folder, build, clips, threads=args.threads)
        print(f"budget {args.budget} dB: {drop:+.4f} dB with {', '.join(keep) or 'no layer'} kept in floating point")
        ranges = replace(ranges, keep_float=keep)
    table = [{"layers": list(cost.layers), "drop_db": round(cost.drop, 5)} for cost in costs]
    return replace(ranges, facts={**ranges.facts, "sensitivity": table})


if __name__ == "__main__":
    raise SystemExit(main())
