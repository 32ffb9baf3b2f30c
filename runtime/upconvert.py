"""`vtsr-upconvert`: a video at 2**N times its frame rate, or 2**N times slower."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from tqdm import tqdm

import vtsr
from vtsr.errors import OptionError, OutputError
from vtsr.options import MAX_LEVELS, Parser, add_model_options, run_cli
from vtsr.runtime.frame import Frame
from vtsr.runtime.job import Job, Result
from vtsr.runtime.video.codecs import CODECS, Encoding, container_for
from vtsr.runtime.video.comparison import Comparison
from vtsr.runtime.video.facts import Timeline, VideoFacts
from vtsr.runtime.video.images import ImageReader, ImageWriter, is_image_sequence, means_images
from vtsr.runtime.video.orientation import is_right_angled, upright, upright_facts
from vtsr.runtime.video.partial import check_folder
from vtsr.runtime.video.passthrough import Passthrough
from vtsr.runtime.video.raw import RAW_EXTENSIONS, RawWriter, raw_options
from vtsr.runtime.video.reader import VideoReader
from vtsr.runtime.video.rendered import RenderedReader
from vtsr.runtime.video.statistics import Statistics
from vtsr.runtime.video.writer import CAN_NOTE_ROTATION, VideoWriter

DEMO = "demo"
PIPE = "-"
# Frame rates people write as decimals but which are exact fractions.
NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "47.952": 48, "59.94": 60, "119.88": 120}
# From this share of burnt-out pixels on, the user is told.
CLIPPED_NOTE = 0.05

DESCRIPTION = "Makes a video of 2^N times the frame rate and sharpness in motion, or plays it 2^N times slower."
EXAMPLES = """examples:
  vtsr-upconvert demo demo_x4.mp4 --compare compare.png     a clip rendered on the spot, no footage needed
  vtsr-upconvert IN.mp4 OUT.mp4 --levels 2                  4 times the frame rate, same speed
  vtsr-upconvert IN.mkv OUT.mkv --slow-motion --audio stretch
  vtsr-upconvert frames/%05d.png out/ --fps 24 --levels 1
  ffmpeg -i IN -f yuv4mpegpipe - | vtsr-upconvert - - | ffplay -
"""

Reader = VideoReader | ImageReader | RenderedReader
Writer = VideoWriter | ImageWriter | RawWriter


def parser() -> Parser:
    """The command's options."""
    options = Parser(prog="vtsr-upconvert", description=DESCRIPTION, epilog=EXAMPLES)
    options.add_argument(
        "input", metavar="IN",
        help="video file, folder of images, pattern such as in/%%05d.png, - for y4m or raw video on stdin, "
        f"or the word {DEMO}",
    )  # fmt: skip
    options.add_argument(
        "output", metavar="OUT",
        help="video file (.mp4 .mov .mkv .webm .nut .y4m), folder or pattern for images, - for y4m on stdout",
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
    with contextlib.ExitStack() as stack:
        stack.enter_context(_termination_interrupts())
        reader = _open_input(args.input, args)
        stack.callback(reader.close)
        _run(reader, args, stack)
    return 0


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Inside, SIGTERM (`kill`, a batch system's time limit) ends the job as Ctrl-C does: cleanly."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(number: int, place: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    if args.report is not None:
        check_folder(args.report.parent)
    _check_output(args)


def _check_output(args: argparse.Namespace) -> None:
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
    if output.exists() and not output.is_dir() and not args.yes:
        raise OutputError(f"{output} exists already; add -y to replace it or choose another name.")
    if output.suffix.lower() not in (*RAW_EXTENSIONS, ".y4m"):
        container_for(output.suffix)


def _open_input(path: str, args: argparse.Namespace) -> Reader:
    part = {"start": args.start, "duration": args.duration}
    threads = args.threads or 0
    if path == DEMO and not Path(DEMO).exists():
        from vtsr.runtime import demo

        return RenderedReader("the demo clip", demo.render_demo(), demo.FRAMES, demo.FRAME_RATE, **part)
    if path == PIPE:
        if args.size is None:
            return VideoReader(sys.stdin.buffer, threads=threads, **part)
        options = raw_options(args.size, args.input_pix_fmt or args.pix_fmt, args.fps)
        return VideoReader(sys.stdin.buffer, format="rawvideo", options=options, **part)
    if is_image_sequence(Path(path)):
        return ImageReader(Path(path), args.fps, **part)
    if Path(path).suffix.lower() in RAW_EXTENSIONS:
        options = raw_options(args.size, args.input_pix_fmt or args.pix_fmt, args.fps)
        return VideoReader(path, format="rawvideo", options=options, **part)
    if args.fps is not None:
        raise OptionError("--fps is for images and raw video; a video file has times of its own.")
    return VideoReader(path, threads=threads, **part)


def _run(reader: Reader, args: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    from vtsr.runtime.upconverter import Upconverter

    parts = 2**args.levels
    facts, source = reader.facts, iter(reader)
    if facts.display_matrix is not None and _must_stand_upright(args.output):
        if is_right_angled(facts.display_matrix):
            source, facts = upright(source, facts.display_matrix), upright_facts(facts)
        else:
            _say("warning: the video is rotated by an odd angle, which this kind of output cannot express.")
    timeline = _timeline(reader.timeline, parts if args.slow_motion else 1)
    threshold = {} if args.scene_threshold is None else {"scene_threshold": args.scene_threshold}
    upconverter = stack.enter_context(
        Upconverter(
            args.levels, backend=args.backend, model=args.model, threads=args.threads,
            precision=args.precision,
            frame_rate=facts.frame_rate, **threshold,
        )
    )  # fmt: skip
    comparison = None
    if args.compare is not None:
        comparison = Comparison(args.compare, (facts.frames or 1) // 2)
    writer = _open_output(reader, facts, timeline, parts, args, stack)
    stack.callback(writer.abandon)  # does nothing once the output is complete
    statistics = Statistics()
    total = None if facts.frames is None else facts.frames * parts
    bar = stack.enter_context(_progress_bar(total, args.quiet))

    def on_input(frame: Frame) -> None:
        statistics.see(frame)
        if comparison is not None:
            comparison.see_input(frame)

    def on_output(frame: Frame) -> None:
        bar.update()
        if comparison is not None:
            comparison.see_output(frame)

    job = Job(
        source, upconverter, writer,
        parts=parts, keep_partial=args.keep_partial, on_input=on_input, on_output=on_output,
    )  # fmt: skip
    try:
        result = job.run()
    finally:
        bar.close()
        if job.kept is not None:
            _say(f"what was done so far is in {job.kept}")
    if comparison is not None:
        comparison.save()
    notes = _notes(args, reader, writer, statistics)
    for note in notes:
        _say(f"warning: {note}")
    if args.report is not None:
        report = _report(args, reader, facts, writer, upconverter, result, statistics, notes)
        _write_report(args.report, report)
    if not args.quiet:
        rate = result.frames_out / result.timing.total if result.timing.total else 0.0
        _say(
            f"{result.frames_in} frames in, {result.frames_out} out in {result.timing.total:.1f} s "
            f"({rate:.1f} fps): {result.timing.line()}"
        )


def _notes(args: argparse.Namespace, reader: Reader, writer: Writer, statistics: Statistics) -> list[str]:
    """What the user should know about the finished job, one sentence each."""
    notes = [*reader.warnings, *writer.notes]
    if args.slow_motion and args.audio is None and reader.has_audio:
        notes.append("Audio is left out in slow motion; --audio stretch slows it down with the picture.")
    if not reader.is_constant_rate and not isinstance(writer, VideoWriter):
        notes.append("The frame times vary, which images and raw video cannot express; they count as even.")
    if statistics.clipped_share >= CLIPPED_NOTE:
        share = f"{statistics.clipped_share:.0%}"
        notes.append(f"{share} of the pixels are burnt out; motion inside them cannot be recovered.")
    return notes


def _must_stand_upright(output: str) -> bool:
    """Whether the output has no place for a rotation, so that the pixels have to be turned."""
    suffix = Path(output).suffix.lower()
    noted = suffix in (".mp4", ".m4v", ".mov", ".mkv") and CAN_NOTE_ROTATION
    return output == PIPE or means_images(output) or not noted


def _timeline(part: Timeline, stretch: int) -> Timeline:
    return Timeline(part.origin, part.begin, stretch, part.end, part.cut)


def _open_output(
    reader: Reader,
    facts: VideoFacts,
    timeline: Timeline,
    parts: int,
    args: argparse.Namespace,
    stack: contextlib.ExitStack,
) -> Writer:
    output, common = Path(args.output), {"parts": parts, "timeline": timeline, "overwrite": args.yes}
    suffix = output.suffix.lower()
    if args.output == PIPE:
        return RawWriter(sys.stdout.buffer, facts, y4m=not args.raw, pix_fmt=args.pix_fmt, **common)
    if suffix in RAW_EXTENSIONS or suffix == ".y4m":
        return RawWriter(output, facts, y4m=suffix == ".y4m", pix_fmt=args.pix_fmt, **common)
    if means_images(args.output):
        return ImageWriter(output, facts, overwrite=args.yes)
    passthrough = None
    if isinstance(reader, VideoReader) and args.input != PIPE:
        audio = args.audio or ("none" if args.slow_motion else "copy")
        passthrough = stack.enter_context(Passthrough(Path(args.input), reader.stream_index, timeline, audio))
    encoding = Encoding(args.codec, args.crf, args.preset, args.pix_fmt, args.threads or 0)
    return VideoWriter(output, facts, encoding=encoding, passthrough=passthrough, **common)


def _progress_bar(total: int | None, quiet: bool) -> Any:
    return tqdm(
        total=total, unit=" frames", file=sys.stderr, disable=quiet or not sys.stderr.isatty(),
        dynamic_ncols=True, smoothing=0.1,
    )  # fmt: skip


def _report(
    args: argparse.Namespace,
    reader: Reader,
    facts: VideoFacts,
    writer: Writer,
    upconverter: Any,
    result: Result,
    statistics: Statistics,
    notes: Iterable[str],
) -> dict[str, Any]:
    """What was done, as plain data; rates and times in seconds as fractions "n/d" where they are exact."""
    timing = result.timing
    return {
        "vtsr": vtsr.__version__,
        "levels": args.levels,
        "slow_motion": args.slow_motion,
        "precision": upconverter.precision,
        "input": {
            "name": facts.name,
            "container": facts.container,
            "codec": facts.codec,
            "width": facts.width,
            "height": facts.height,
            "pix_fmt": facts.pix_fmt,
            "frame_rate": str(facts.frame_rate),
            "constant_frame_rate": reader.is_constant_rate,
            "start": str(facts.start),
            "frames": result.frames_in,
            "damaged_packets": reader.damaged_packets,
            "damaged_frames": reader.damaged_frames,
            "duplicate_frames": statistics.duplicates,
            "clipped_share": round(statistics.clipped_share, 6),
        },
        "output": {
            "name": args.output,
            "codec": writer.codec,
            "pix_fmt": writer.pix_fmt,
            "frame_rate": str(writer.frame_rate),
            "frames": result.frames_out,
        },
        "scene_cuts": list(upconverter.cuts),
        "seconds": {
            "total": round(timing.total, 3),
            "decode": round(timing.decode, 3),
            "network": round(timing.network, 3),
            "encode": round(timing.encode, 3),
            "network_stages": {k: round(v, 3) for k, v in timing.network_stages.items()},
        },
        "bottleneck": timing.bottleneck,
        "warnings": list(notes),
    }


def _write_report(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The report {path} could not be written ({error.strerror}).") from error


def _say(text: str) -> None:
    print(f"vtsr-upconvert: {text}", file=sys.stderr)


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
