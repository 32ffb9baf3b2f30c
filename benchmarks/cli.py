"""vtsr-bench: measures speed, memory and cold start on this machine, beside what one would use instead.

Contestants run in turn within every round, and ratios come first: they hold on a busy machine, seconds do not.
All footage is rendered on the spot.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vtsr.benchmarks.plan import PRECISIONS, QUICK_SIZES, SIZES, Plan, Size, parse_size
from vtsr.errors import OptionError, OutputError
from vtsr.options import MAX_LEVELS, Parser, add_model, add_quiet, add_threads, run_cli

EXAMPLES = """examples:
  vtsr-bench --quick                                  the essentials in about two minutes
  vtsr-bench --json mine.json --plot plots/           everything, in about ten
  vtsr-bench --only engines sizes --sizes 640x360 1280x720 --precisions fp32 int8
  vtsr-bench --gpu --sizes 1920x1080 --levels 1 2     the TensorRT runtime
"""


def parser() -> Parser:
    """The command's options."""
    from vtsr.benchmarks.runner import BENCHES

    options = Parser(prog="vtsr-bench", description=__doc__, epilog=EXAMPLES, guide="performance.md")
    device = options.add_mutually_exclusive_group()
    device.add_argument("--cpu", action="store_true", help="measure the CPU (this is the default)")
    device.add_argument("--gpu", action="store_true", help="measure the TensorRT runtime on an NVIDIA GPU")
    what = options.add_argument_group("what to measure")
    what.add_argument(
        "--sizes", nargs="+", type=_size, metavar="WxH",
        help=f"frame sizes (default: {' '.join(map(str, SIZES))}; on a GPU 1280x720 1920x1080)",
    )  # fmt: skip
    what.add_argument(
        "-l", "--levels", nargs="+", type=int, metavar="N", choices=range(1, MAX_LEVELS + 1),
        help=f"recursion levels, 1 to {MAX_LEVELS} (default: all; on a GPU 1 2 3)",
    )  # fmt: skip
    what.add_argument(
        "--precisions", nargs="+", metavar="P", choices=PRECISIONS,
        help=f"of {', '.join(PRECISIONS)} (default: all; on a GPU fp16)",
    )  # fmt: skip
    what.add_argument(
        "--only", nargs="+", metavar="NAME", choices=BENCHES, help=f"measurements on the CPU: {', '.join(BENCHES)}"
    )
    what.add_argument("--quick", action="store_true", help="small frames and few rounds: about two minutes")
    add_model(what)
    add_threads(what)
    output = options.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    output.add_argument("--plot", type=Path, metavar="DIR", help="write plots into this folder")
    add_quiet(output)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of vtsr-bench; returns the exit code."""
    return run_cli(parser(), bench, argv)


def bench(args: argparse.Namespace) -> int:
    """Measures what the parsed options ask for; raises `VtsrError` where it cannot."""
    from vtsr.benchmarks import report, runner

    _check_outputs(args)

    stderr = sys.stderr  # pytest's own words go elsewhere while it runs

    def say(line: str) -> None:
        if not args.quiet:
            print(line, file=stderr, flush=True)

    if args.gpu:
        from vtsr.benchmarks.gpu import run_gpu

        if args.only or args.quick or args.threads:
            raise OptionError("--only, --quick and --threads are for the CPU; leave them out with --gpu.")
        results = run_gpu(args.model, args.sizes, args.levels, args.precisions, say)
    else:
        runner.require_pytest_benchmark()
        results = runner.run(_plan(args), args.only or list(runner.BENCHES), say)
    if args.json is not None:
        results.save(args.json)
    if args.plot is not None:
        from vtsr.benchmarks.plots import plot

        for file in plot(results, args.plot):
            say(f"written: {file}")
    if not args.quiet:
        print(report.text(results))
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    from vtsr.runtime.models import open_model

    open_model(args.model)
    if args.threads is not None and args.threads < 1:
        raise OptionError(f"--threads must be 1 or more, not {args.threads}.")
    levels = (1, 2) if args.quick else tuple(range(1, MAX_LEVELS + 1))
    return Plan(
        sizes=tuple(dict.fromkeys(args.sizes or (QUICK_SIZES if args.quick else SIZES))),
        levels=tuple(sorted(set(args.levels or levels))),
        precisions=tuple(p for p in PRECISIONS if p in (args.precisions or PRECISIONS)),
        threads=args.threads or os.cpu_count() or 1,
        model=args.model,
        quick=args.quick,
    )


def _check_outputs(args: argparse.Namespace) -> None:
    """Finds out before minutes of measuring that the results could not be written."""
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise OutputError(f"--json {args.json} cannot be written; give a file in a folder that exists.")
    if args.plot is not None:
        from vtsr.evaluation.plots import require_matplotlib

        require_matplotlib()
        try:
            args.plot.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder {args.plot} cannot be made ({error.strerror}).") from error


def _size(text: str) -> Size:
    try:
        return parse_size(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
