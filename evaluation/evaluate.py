"""vtsr-evaluate: judges how well methods turn blurred frames into shorter exposures, on clips of your own.

Every M consecutive original frames (--window) are averaged into one blurred input frame; level f^k is
compared with the averages of M / 2^k of them.

  vtsr-evaluate clip.mp4                                   the baselines and the default model
  vtsr-evaluate frames/ --methods flow+law,model.safetensors --json scores.json --plot plots/
  vtsr-evaluate clip.mp4 --crop 512x288 --pan 2            camera motion for a still camera
  vtsr-evaluate clip.mp4 --write-inputs inputs/            inputs for another system ...
  vtsr-evaluate clip.mp4 --external theirs=frames/:15      ... and its frames judged, at a window of 15
  vtsr-evaluate --suite validation/                        the validation suite of a folder
  vtsr-evaluate --experiment table-4.1 --data GOPRO_Large_all/
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from vtsr.errors import InputError, OptionError, OutputError
from vtsr.evaluation.clips import Clip, Crop, open_clip
from vtsr.evaluation.experiments import EXPERIMENTS, Experiment
from vtsr.evaluation.judge import METRICS, REGIONS, Observer, evaluate
from vtsr.evaluation.methods import External, Method, parse_method
from vtsr.evaluation.protocol import MAX_LEVEL, windows
from vtsr.evaluation.report import table, write_csv, write_json
from vtsr.evaluation.suite import load_suite
from vtsr.options import Parser, add_backend, add_threads, run_cli

DEFAULT_WINDOW = 8
DEFAULT_METHODS = "nothing,blend,flow,flow+law,default"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of vtsr-evaluate; returns the exit code."""
    return run_cli(_parser(), _run, argv)


def _parser() -> Parser:
    parser = Parser(prog="vtsr-evaluate", description=__doc__, guide="evaluation.md")
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP", help="videos, folders of frames, .npy arrays")

    source = parser.add_argument_group("what to judge on")
    source.add_argument("--suite", type=Path, metavar="DIR", help="clips, panned crops and photographs of a folder")
    source.add_argument("--cache", type=Path, metavar="DIR", help="keep the built suite here for the next time")
    source.add_argument("--experiment", choices=sorted(EXPERIMENTS), help="a table of the thesis; needs --data")
    source.add_argument("--data", type=Path, metavar="DIR", help="the data set of the experiment")
    source.add_argument("--scale", type=float, default=1.0, metavar="S", help="shrink frames to S times their size")
    source.add_argument(
        "--crop", type=_crop, metavar="WxH[+X+Y]", help="use a part of the scaled frames (default: their middle)"
    )
    source.add_argument(
        "--pan", type=float, default=0.0, metavar="PX",
        help="let the crop wander at up to PX pixels per original frame",
    )  # fmt: skip
    source.add_argument(
        "--first-frame", type=int, default=0, metavar="N", help="begin at this original frame (default: 0)"
    )
    source.add_argument("--max-frames", type=int, metavar="N", help="use at most N original frames of each clip")

    protocol = parser.add_argument_group("protocol")
    protocol.add_argument(
        "-w", "--window", type=int, metavar="M",
        help=f"original frames per input frame, a power of two (default: {DEFAULT_WINDOW})",
    )  # fmt: skip
    protocol.add_argument(
        "-l", "--levels", type=int, metavar="N", help=f"deepest level, at most log2(M) and {MAX_LEVEL} (default: that)"
    )
    protocol.add_argument("--linear", action="store_true", help="average in linear light, not in coded values")
    protocol.add_argument("--region", choices=REGIONS, help="score PSNR and SSIM only where something moves")
    protocol.add_argument(
        "--metrics", default=",".join(METRICS), metavar="LIST",
        help=f"of {', '.join(METRICS)}; fewer are faster (default: all)",
    )  # fmt: skip

    methods = parser.add_argument_group("methods")
    methods.add_argument(
        "-m", "--methods", default=None, metavar="LIST",
        help="nothing, blend, flow; a model by name or folder; a checkpoint FILE.safetensors, or "
        "raw:FILE.safetensors for it without the exposure law; +law after any name imposes the law on its "
        f"outputs, LABEL= before it names it in the report (default: {DEFAULT_METHODS})",
    )  # fmt: skip
    methods.add_argument(
        "--external", action="append", default=[], type=_external, metavar="NAME=PATH[:WINDOW]",
        help="frames another system made from our inputs, in PATH/CLIP/; may be repeated",
    )  # fmt: skip
    methods.add_argument(
        "--write-inputs", type=Path, metavar="DIR",
        help="write the blurred inputs to DIR/CLIP/*.png and end; any window will do",
    )  # fmt: skip
    add_backend(methods)
    add_threads(methods)

    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="all scores, frame by frame")
    output.add_argument("--csv", type=Path, metavar="FILE", help="a row per clip, method and level")
    output.add_argument("--plot", type=Path, metavar="DIR", help="curves, bars, and crops with difference maps")
    output.add_argument("--video", type=Path, metavar="DIR", help="side-by-side videos at the deepest level")
    return parser


def _run(args: argparse.Namespace) -> int:
    experiment = EXPERIMENTS[args.experiment] if args.experiment else None
    window = args.window or (experiment.window if experiment else DEFAULT_WINDOW)
    if args.threads is not None:
        if args.threads < 1:
            raise OptionError(f"The number of threads must be at least 1, not {args.threads}.")
        cv2.setNumThreads(args.threads)
    clips = _clips(args, experiment)
    if args.write_inputs is not None:
        write_inputs(clips, args.write_inputs, window, args.linear)
        return 0
    methods = _methods(args)
    _check_outputs(args)
    observers: list[Observer] = []
    if args.plot is not None:
        from vtsr.evaluation.plots import CropPlotter

        observers.append(CropPlotter(args.plot))
    if args.video is not None:
        from vtsr.evaluation.video import SideBySide

        observers.append(SideBySide(args.video))
    result = evaluate(
        clips, methods, window, levels=args.levels, linear=args.linear, region=args.region,
        metrics=[name.strip() for name in args.metrics.split(",")], observers=observers, progress=True,
    )  # fmt: skip
    if experiment is not None:
        print(f"{experiment.name}: {experiment.title}\n")
    print(table(result, experiment.published if experiment else None))
    if experiment is not None and experiment.note:
        print(f"\n{experiment.note}")
    if args.json is not None:
        extra = {"experiment": experiment.name, "published_psnr": experiment.published} if experiment else None
        write_json(result, args.json, extra)
    if args.csv is not None:
        write_csv(result, args.csv)
    if args.plot is not None:
        from vtsr.evaluation.plots import plot_result

        plot_result(result, args.plot)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Finds out before the work, not after it, that a result cannot be saved."""
    for file in filter(None, (args.json, args.csv)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder '{file.parent}' cannot be made: {error.strerror}.") from error
        if file.is_dir() or not os.access(file.parent, os.W_OK):
            raise OutputError(f"The file '{file}' cannot be written; choose another place.")


def write_inputs(clips: Sequence[Clip], folder: Path, window: int, linear: bool = False) -> None:
    """Writes every blurred input frame as ``folder``/CLIP/00000.png and so on.

    Raises `InputError` for a clip without a whole window, `OutputError` if a picture cannot be written.
    """
    for clip in clips:
        place = folder / clip.name
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder '{place}' cannot be made: {error.strerror}.") from error
        count = 0
        for piece in windows(clip, window, linear):
            file = place / f"{piece.index:05d}.png"
            if not cv2.imwrite(str(file), cv2.cvtColor(piece.blurred, cv2.COLOR_RGB2BGR)):
                raise OutputError(f"The picture '{file}' cannot be written; is there space on the disk?")
            count += 1
        if not count:
            raise InputError(f"The clip '{clip.name}' has fewer than the {window} frames of one window.")
        print(f"{place}: {count} input frames, each the mean of {window} original frames", file=sys.stderr)


def _clips(args: argparse.Namespace, experiment: Experiment | None) -> list[Clip]:
    sources = [bool(args.clips), args.suite is not None, experiment is not None]
    if sum(sources) != 1:
        raise OptionError("Give clips, or --suite, or --experiment: one of the three.")
    if (experiment is None) != (args.data is None):
        raise OptionError("--experiment and --data go together: the table, and the folder of its data set.")
    part = {"start": args.first_frame, "max_frames": args.max_frames}
    cut = {"scale": args.scale, "crop": args.crop, "pan": args.pan, **part}
    if args.suite is not None:
        if (args.scale, args.crop, args.pan, args.first_frame, args.max_frames) != (1.0, None, 0.0, 0, None):
            raise OptionError("The suite chooses scales, crops and frames itself; leave those options out.")
        return load_suite(args.suite, args.cache)
    if args.cache is not None:
        raise OptionError("--cache is for --suite only.")
    if experiment is not None:
        return experiment.find(args.data, **cut)
    return [open_clip(path, name=name, **cut) for path, name in zip(args.clips, _names(args.clips), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the files, with that of their folder where two are alike."""
    stems = [path.resolve().stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}_{path.resolve().name}"
        for stem, path in zip(stems, paths, strict=True)
    ]


def _methods(args: argparse.Namespace) -> list[Method | External]:
    names = [name.strip() for name in (args.methods or DEFAULT_METHODS).split(",") if name.strip()]
    methods: list[Method | External] = [parse_method(name, args.backend, args.threads) for name in names]
    return methods + args.external


def _crop(text: str) -> Crop:
    match = re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+)\+(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a crop; write WIDTHxHEIGHT or WIDTHxHEIGHT+X+Y")
    width, height, x, y = (int(group) if group else None for group in match.groups())
    assert width is not None
    assert height is not None
    return Crop(width, height, x, y)


def _external(text: str) -> External:
    match = re.fullmatch(r"([^=]+)=(.+?)(?::(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=PATH or NAME=PATH:WINDOW")
    name, path, window = match.groups()
    if window == "0":
        raise argparse.ArgumentTypeError("the window of an external system must be at least 1")
    return External(name, Path(path), int(window) if window else None)


if __name__ == "__main__":
    raise SystemExit(main())
