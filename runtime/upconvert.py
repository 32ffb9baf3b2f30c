"""`vtsr-upconvert`: a video at 2**N times its frame rate, or 2**N times slower."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from vtsr.errors import OptionError, OutputError
from vtsr.options import MAX_LEVELS, Parser, add_model_options, run_cli, termination_interrupts
from vtsr.runtime.batch import check_batch, is_batch, run_batch
from vtsr.runtime.conversion import DEMO, PIPE, Outcome, convert, say, write_report
from vtsr.runtime.segments.ledger import MARKED
from vtsr.runtime.segments.span import SEGMENT_FRAMES
from vtsr.runtime.video.codecs import CODECS, container_for
from vtsr.runtime.video.images import means_images
from vtsr.runtime.video.partial import check_folder
from vtsr.runtime.video.raw import RAW_EXTENSIONS

# Frame rates people write as decimals but which are exact fractions.
NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "47.952": 48, "59.94": 60, "119.88": 120}

DESCRIPTION = "Makes a video of 2^N times the frame rate and sharpness in motion, or plays it 2^N times slower."
EXAMPLES = """examples:
  vtsr-upconvert demo demo_x4.mp4 --compare compare.png     a clip rendered on the spot, no footage needed
  vtsr-upconvert IN.mp4 OUT.mp4 --levels 2                  4 times the frame rate, same speed
  vtsr-upconvert IN.mkv OUT.mkv --slow-motion --audio stretch
  vtsr-upconvert frames/%05d.png out/ --fps 24 --levels 1
  vtsr-upconvert VIDEOS/ RESULTS/                           every video in a folder and below
  vtsr-upconvert IN.mp4 OUT.mp4 --resume                    go on after Ctrl-C, a crash or a full disk
  ffmpeg -i IN -f yuv4mpegpipe - | vtsr-upconvert - - | ffplay -
"""


def parser() -> Parser:
    """The command's options."""
    options = Parser(prog="vtsr-upconvert", description=DESCRIPTION, epilog=EXAMPLES, guide="upconvert.md")
    options.add_argument(
        "input", metavar="IN",
        help="video file, folder of videos, folder of images, pattern such as in/%%05d.png, - for y4m or raw video "
        f"on stdin, or the word {DEMO}",
    )  # fmt: skip
    options.add_argument(
        "output", metavar="OUT",
        help="video file (.mp4 .mov .mkv .webm .nut .y4m), folder or pattern for images, folder for a "
        "folder of videos, - for y4m on stdout",
    )  # fmt: skip
    add_model_options(options)
    time = options.add_argument_group("time")
    time.add_argument("--slow-motion", action="store_true", help="keep the frame rate, last 2^N times longer")
    time.add_argument("--start", type=_time, metavar="T", help="begin at T: seconds or [HH:]MM:SS[.s]")
    time.add_argument("--duration", type=_time, metavar="T", help="use only T of the input")
    time.add_argument("--fps", type=_rate, metavar="R", help="rate of images or raw video, e.g. 24 or 30000/1001")
    time.add_argument(
        "--scene-threshold", type=float, metavar="X",
        help="how different frames must be for a cut, 0 to 1; 1 finds none (default: 0.35)",
    )  # fmt: skip
    video = options.add_argument_group("encoding")
    video.add_argument("--codec", metavar="NAME", help=f"{', '.join(CODECS)}, or any encoder of PyAV's build")
    video.add_argument("--crf", type=int, metavar="N", help="quality, lower is better (default: by codec)")
    video.add_argument("--preset", metavar="NAME", help="the encoder's speed preset (default: by codec)")
    video.add_argument("--pix-fmt", metavar="NAME", help="stored pixel format (default: the input's)")
    video.add_argument(
        "--audio", choices=("copy", "stretch", "none"),
        help="copy packets; stretch with slow motion, pitch kept; none (default: copy, in slow motion none)",
    )  # fmt: skip
    raw = options.add_argument_group("raw video")
    raw.add_argument(
        "--size", type=_size, metavar="WxH", help="frame size of raw video on stdin; without it stdin is y4m"
    )
    raw.add_argument("--input-pix-fmt", metavar="NAME", help="pixel format of raw video, e.g. yuv420p")
    raw.add_argument("--raw", action="store_true", help="write bare samples to stdout instead of y4m")
    long = options.add_argument_group("long jobs")
    long.add_argument(
        "--resume", action="store_true",
        help="go on where an earlier run of the same command was stopped; begin if there was none",
    )  # fmt: skip
    long.add_argument(
        "--segment-frames", type=int, default=SEGMENT_FRAMES, metavar="N",
        help=f"input frames after which it can go on (default: {SEGMENT_FRAMES})",
    )  # fmt: skip
    long.add_argument(
        "--ray", metavar="ADDRESS",
        help='make the segments on a Ray cluster: its address, "auto", or "local" to start one here',
    )  # fmt: skip
    report = options.add_argument_group("report and files")
    report.add_argument("--report", type=Path, metavar="FILE.json", help="write what was done as JSON")
    report.add_argument(
        "--compare", type=Path, metavar="PICTURE.png", help="write an input frame beside its output frames"
    )
    report.add_argument(
        "--keep-partial", action="store_true", help="when interrupted, keep what there is as OUT.partial"
    )
    report.add_argument("-y", "--yes", action="store_true", help="replace existing output")
    report.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_cli(parser(), upconvert, argv)


def upconvert(args: argparse.Namespace) -> int:
    """Runs the conversion that the parsed options describe; raises `VtsrError` where it cannot."""
    check_options(args)
    batch = is_batch(Path(args.input))
    if batch:
        check_batch(args)
    with contextlib.ExitStack() as stack:
        stack.enter_context(termination_interrupts())
        convert_one: Callable[[argparse.Namespace], Outcome] = _convert_one
        at_once = 1
        if args.ray is not None:
            args, convert_one, at_once = _on_cluster(args, stack)
        if batch:
            code, report = run_batch(args, convert_one, at_once)
            if args.report is not None:
                write_report(args.report, report)
            return code
        outcome = convert_one(args)
    if args.report is not None and not outcome.skipped:
        write_report(args.report, outcome.report)
    if not args.quiet:
        say(_summary(args, outcome))
    return 0


def _convert_one(args: argparse.Namespace) -> Outcome:
    check_output(args)
    return convert(args)


def _on_cluster(
    args: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[argparse.Namespace, Callable[[argparse.Namespace], Outcome], int]:
    """The options as they hold for all machines, what converts one video, and how many videos at a time."""
    from vtsr.runtime.cluster.network import ClusterNetwork, check_cluster_options, cpus_of, settled
    from vtsr.runtime.cluster.ray_cluster import connect

    check_cluster_options(args)

    def gpus(resources: dict[str, float]) -> int:
        return int(settled(args, resources.get("GPU", 0) > 0).backend == "tensorrt")

    cluster = stack.enter_context(connect(args.ray, gpus, cpus_of(args)))
    fixed = settled(args, cluster.gpus > 0)

    def convert_one(own: argparse.Namespace) -> Outcome:
        check_output(own)
        return convert(own, lambda plan: ClusterNetwork(plan, own, cluster))

    return fixed, convert_one, cluster.workers


def _summary(args: argparse.Namespace, outcome: Outcome) -> str:
    if outcome.skipped:
        return f"{args.output} is complete already; nothing is left to do."
    timing = outcome.timing
    rate = outcome.frames_out / timing.total if timing.total else 0.0
    before = f" (after {outcome.before} in, done before)" if outcome.before else ""
    return (
        f"{outcome.frames_in} frames in, {outcome.frames_out} out{before} in {timing.total:.1f} s "
        f"({rate:.1f} fps): {timing.line()}"
    )


def check_options(args: argparse.Namespace) -> None:
    """Raises for options that cannot work together, before anything is opened."""
    if not 1 <= args.levels <= MAX_LEVELS:
        raise OptionError(f"--levels goes from 1 to {MAX_LEVELS}, not {args.levels}.")
    if args.threads is not None and args.threads < 1:
        raise OptionError(f"--threads must be 1 or more, not {args.threads}.")
    if args.audio == "stretch" and not args.slow_motion:
        raise OptionError("--audio stretch goes with --slow-motion; at the same speed audio is copied.")
    if args.audio == "copy" and args.slow_motion:
        raise OptionError("Audio cannot be copied in slow motion; use --audio stretch or leave it out.")
    if args.duration is not None and args.duration <= 0:
        raise OptionError("--duration must be longer than zero.")
    if args.segment_frames < MARKED:
        raise OptionError(f"--segment-frames must be {MARKED} or more, not {args.segment_frames}.")
    if args.report is not None:
        check_folder(args.report.parent)


def check_output(args: argparse.Namespace) -> None:
    """Raises for an output that cannot be written, before the input is opened."""
    if args.output == PIPE:
        if sys.stdout.isatty():
            raise OptionError("Video would go to the terminal; redirect the output or name a file.")
        return
    output = Path(args.output)
    if args.input != PIPE and output.exists() and Path(args.input).exists() and output.samefile(args.input):
        raise OutputError(f"{output} is the input itself; choose another name for the output.")
    if means_images(args.output):
        return
    check_folder(output.parent)
    if output.exists() and not output.is_dir() and not args.yes and not args.resume:
        raise OutputError(f"{output} exists already; add -y to replace it or choose another name.")
    if output.suffix.lower() not in (*RAW_EXTENSIONS, ".y4m"):
        container_for(output.suffix)


def _time(text: str) -> Fraction:
    """Seconds from ``12.5`` or ``[HH:]MM:SS[.s]``, exact."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a time; write seconds or [HH:]MM:SS[.s]")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def _size(text: str) -> str:
    """``WIDTHxHEIGHT`` in pixels, checked."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a frame size; write WIDTHxHEIGHT, such as 640x360")
    return text


def _rate(text: str) -> Fraction:
    """Frames per second from ``25``, ``30000/1001`` or ``23.976``, exact."""
    if text in NTSC:
        return Fraction(NTSC[text] * 1000, 1001)
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a frame rate; write 25, 30000/1001 or 23.976")
    return rate


if __name__ == "__main__":
    sys.exit(main())
