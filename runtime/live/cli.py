"""`vtsr-live`: a camera or a stream at up to 2**N times its frame rate, while it runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vtsr.errors import OptionError, OutputError
from vtsr.options import MAX_LEVELS, Parser, add_model_options, add_yes, run_cli, termination_interrupts
from vtsr.runtime.frame import Frame, Planes
from vtsr.runtime.live import address, duty
from vtsr.runtime.live.address import Kind
from vtsr.runtime.live.loopback import CameraSink
from vtsr.runtime.live.notes import Notes
from vtsr.runtime.live.pipeline import SOURCE_THREAD, Pipeline, Presenter
from vtsr.runtime.live.playout import Playout
from vtsr.runtime.live.prometheus import LOCAL, MetricsServer
from vtsr.runtime.live.regular import Regular
from vtsr.runtime.live.sink import LiveSink, NullSink, PersistentSink, StreamSink, WindowSink, check_window, live_facts
from vtsr.runtime.live.source import (
    NETWORK_OPTIONS,
    OPEN_SECONDS,
    READ_SECONDS,
    SCHEME_OPTIONS,
    AvSource,
    CameraSource,
    Reconnecting,
    Source,
    paced,
)
from vtsr.runtime.live.statistics import Counter, LiveStatistics
from vtsr.runtime.live.waiting import Policy
from vtsr.runtime.video.codecs import Encoding, container_for
from vtsr.runtime.video.facts import VideoFacts
from vtsr.runtime.video.partial import check_folder
from vtsr.runtime.video.pictures import plane_sizes
from vtsr.runtime.video.raw import RAW_EXTENSIONS, RawWriter, raw_options
from vtsr.runtime.video.reader import check_readable
from vtsr.runtime.video.writer import VideoWriter

DESCRIPTION = "Turns a live stream into one of up to 2^N times the frame rate and sharpness in motion, while it runs."
EXAMPLES = """sources: /dev/video0, a URL (rtsp rtmp udp rtp http srt), a video file at its own pace, - for y4m or
         raw video on stdin
sinks:   window, a v4l2loopback device such as /dev/video10, a URL (rtsp rtmp udp rtp srt), a video file, - for y4m
         on stdout, null to measure

examples:
  vtsr-live /dev/video0 --levels 2                              camera to window
  vtsr-live rtsp://camera/stream /dev/video10 --latency-budget 150
  vtsr-live udp://127.0.0.1:5000 rtmp://server/live/key --policy drop-oldest
  vtsr-live holiday.mp4 null --stats                            how fast is this machine?
"""
LISTEN_SECONDS = "30"  # FFmpeg refuses to listen without a limit
PACED_SINKS = (Kind.URL, Kind.DEVICE, Kind.WINDOW)
# The encoders' presets that keep up with a camera; by codec.
LIVE_PRESETS = {"h264": "veryfast", "hevc": "veryfast", "vp9": "8", "av1": "12"}


def parser() -> Parser:
    """The command's options."""
    options = Parser(prog="vtsr-live", description=DESCRIPTION, epilog=EXAMPLES, guide="live.md")
    options.add_argument("source", metavar="SOURCE", help="where frames come from")
    options.add_argument("sink", metavar="SINK", nargs="?", default=address.WINDOW, help="(default: window)")
    add_model_options(options)
    timing = options.add_argument_group("time")
    timing.add_argument(
        "--policy", choices=[p.value for p in Policy], default=Policy.ADAPT.value,
        help="when frames come too fast: use fewer levels for a while (adapt), drop-oldest, drop-newest, or let the "
        "source wait (default: adapt)",
    )  # fmt: skip
    timing.add_argument("--latency-budget", type=float, metavar="MS", help="milliseconds from frame to last result")
    timing.add_argument("--queue", type=int, default=4, metavar="N", help="frames that may wait (default: 4)")
    timing.add_argument(
        "--duty", type=float, default=1.0, metavar="D",
        help="share of the frame time for which the shutter was open, above 0 to 1 (default: 1)",
    )  # fmt: skip
    timing.add_argument("--no-exposure-check", action="store_true", help="do not measure that share")
    timing.add_argument("--seconds", type=float, metavar="S", help="stop after S seconds")
    timing.add_argument(
        "--patience", type=float, metavar="S",
        help="end when a lost network source did not come back for S seconds (default: never)",
    )  # fmt: skip
    video = options.add_argument_group("video")
    video.add_argument("--size", metavar="WxH", type=_size, help="scale the source to this; of raw video, its size")
    video.add_argument("--fps", metavar="R", type=_rate, help="frame rate of a camera or of raw video")
    video.add_argument("--input-pix-fmt", metavar="NAME", help="pixel format of raw video on stdin, e.g. yuv420p")
    video.add_argument(
        "--input-option", metavar="KEY=VALUE", action="append", default=[], type=_option,
        help="an option of FFmpeg's demuxer or protocol, e.g. rtsp_transport=udp",
    )  # fmt: skip
    video.add_argument("--codec", metavar="NAME", help="encoder of a file (default: by its extension)")
    video.add_argument("--bitrate", metavar="BITS", type=_bits, help="of a URL, e.g. 4M (default: constant quality)")
    add_yes(video)
    report = options.add_argument_group("report")
    report.add_argument(
        "--stats", type=float, nargs="?", const=1.0, metavar="S",
        help="print statistics every S seconds (default: 1), and a summary at the end",
    )  # fmt: skip
    report.add_argument(
        "--prometheus", metavar="[HOST:]PORT", type=_endpoint,
        help=f"serve http://HOST:PORT/metrics for Prometheus (default host: {LOCAL})",
    )  # fmt: skip
    report.add_argument("-q", "--quiet", action="store_true", help="say nothing about events")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    code = run_cli(parser(), run, argv)
    if argv is None and any(thread.name.startswith("vtsr ") for thread in threading.enumerate()):
        # A thread sits in native code, perhaps in a read that nothing ends: the interpreter must not be torn down
        # around it.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def run(args: argparse.Namespace) -> int:
    """Runs what the parsed options describe; raises `VtsrError` where it cannot."""
    check_options(args)
    notes = Notes(log=(lambda text: None) if args.quiet else _say)
    stop, counter = threading.Event(), Counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(termination_interrupts())
        source, frames = open_source(args, notes, counter, stop)
        stack.callback(_close_later, source)
        facts = source.facts
        _check_budget(args, facts)
        from vtsr.runtime.live.upconverter import LiveUpconverter

        live = stack.enter_context(
            LiveUpconverter(
                args.levels, policy=args.policy, queue=args.queue,
                latency_budget=None if args.latency_budget is None else args.latency_budget / 1000,
                frame_rate=facts.frame_rate, duty=args.duty, check_exposure=not args.no_exposure_check,
                notes=notes, counter=counter, backend=args.backend, model=args.model, threads=args.threads,
                precision=args.precision,
            )
        )  # fmt: skip
        live.warm_up(Frame(blank(facts)))
        sink, presenter = open_sink(args, live_facts(facts), live, notes)
        stack.callback(sink.abandon)
        if args.prometheus is not None:
            host, port = args.prometheus
            server = MetricsServer(live.stats, port, host)
            stack.callback(server.close)
            notes.say("metrics", f"Metrics are at http://{host}:{server.port}/metrics.")
        shown = StatsLine(args.stats is not None)
        try:
            Pipeline(frames, live, presenter, sink, stop).run(
                seconds=args.seconds,
                each=lambda: shown.show(live.stats()), interval=args.stats or 1.0,
            )  # fmt: skip
        finally:
            shown.summary(live.stats())
    return 0


def check_options(args: argparse.Namespace) -> None:
    """Raises for options that cannot work, before anything is opened."""
    if not 1 <= args.levels <= MAX_LEVELS:
        raise OptionError(f"--levels goes from 1 to {MAX_LEVELS}, not {args.levels}.")
    if args.threads is not None and args.threads < 1:
        raise OptionError(f"--threads must be 1 or more, not {args.threads}.")
    if args.queue < 1:
        raise OptionError(f"--queue must be 1 or more, not {args.queue}.")
    for name in ("latency_budget", "seconds", "patience", "stats"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise OptionError(f"--{name.replace('_', '-')} must be more than 0, not {value:g}.")
    duty.checked(args.duty)
    address.kind_of(args.source)
    kind = address.kind_of(args.sink, sink=True)
    if kind is Kind.WINDOW:
        check_window()
    if kind is Kind.PIPE and sys.stdout.isatty():
        raise OptionError("Video would go to the terminal; redirect the output or name another sink.")
    if kind is Kind.FILE:
        _check_file(args)


def _check_file(args: argparse.Namespace) -> None:
    output = Path(args.sink)
    check_folder(output.parent)
    if output.is_dir():
        raise OutputError(f"{output} is a folder; name a video file.")
    if output.exists() and Path(args.source).exists() and output.samefile(args.source):
        raise OutputError(f"{output} is the source itself; choose another name for the output.")
    if output.exists() and not args.yes:
        raise OutputError(f"{output} exists already; add -y to replace it or choose another name.")
    if output.suffix.lower() not in (*RAW_EXTENSIONS, ".y4m"):
        container_for(output.suffix)


def _check_budget(args: argparse.Namespace, facts: VideoFacts) -> None:
    if args.latency_budget is None:
        return
    frame_time = 1000 / facts.frame_rate
    if args.latency_budget <= frame_time:
        raise OptionError(
            f"A latency budget of {args.latency_budget:g} ms cannot be kept: the second half of a frame takes the next "
            f"frame, which comes {float(frame_time):.1f} ms later; give two frame times or more."
        )


def open_source(
    args: argparse.Namespace, notes: Notes, counter: Counter, stop: threading.Event
) -> tuple[Source, Iterable[Frame]]:
    """The source, and its frames at their pace."""
    kind, options = address.kind_of(args.source), dict(args.input_option)

    def resized(width: int, height: int) -> None:
        counter.add("size_changes")
        notes.say("size", f"The source's frame size is {width}x{height} from now on; it is scaled.")

    if kind is Kind.PIPE:
        if args.input_pix_fmt is None:
            return _both(AvSource(sys.stdin.buffer, size=args.size, options=options, on_resize=resized))
        size = None if args.size is None else f"{args.size[0]}x{args.size[1]}"
        raw = raw_options(size, args.input_pix_fmt, args.fps)
        return _both(AvSource(sys.stdin.buffer, format="rawvideo", options=raw | options))
    if kind is Kind.FILE:
        check_readable(Path(args.source))
        file = AvSource(f"file:{args.source}", size=args.size, options=options, on_resize=resized)
        file.name = args.source
        return file, paced(iter(file), stop)

    opening = OPEN_SECONDS  # the first time; then it must not take longer than the user's patience

    def connect(size: tuple[int, int] | None) -> Source:
        nonlocal opening
        if kind is Kind.DEVICE:
            return CameraSource(args.source, size=size, rate=args.fps)
        settings = NETWORK_OPTIONS | SCHEME_OPTIONS.get(address.scheme(args.source), {}) | options
        if options.get("rtsp_flags") == "listen":
            settings.setdefault("listen_timeout", LISTEN_SECONDS)
        limits, opening = (opening, READ_SECONDS), min(OPEN_SECONDS, args.patience or OPEN_SECONDS)
        return AvSource(args.source, size=size, options=settings, timeout=limits, on_resize=resized)

    return _both(Reconnecting(connect, notes, counter, stop, args.patience, args.size))


def _both(source: Source) -> tuple[Source, Iterable[Frame]]:
    return source, source


def _source_is_blocked() -> bool:
    return any(thread.name == SOURCE_THREAD for thread in threading.enumerate())


def _close_later(source: Source) -> None:
    if not _source_is_blocked():  # else it would be freed under its feet, and the process ends anyway
        source.close()


def open_sink(
    args: argparse.Namespace, facts: VideoFacts, live: Any, notes: Notes
) -> tuple[LiveSink, Presenter]:
    """The sink, and what hands frames to it at the right time."""
    kind, parts = address.kind_of(args.sink, sink=True), 2**args.levels
    rate = facts.frame_rate * parts
    sink: LiveSink
    if kind is Kind.WINDOW:
        sink = WindowSink(f"vtsr-live {facts.name}")
    elif kind is Kind.NOTHING:
        sink = NullSink()
    elif kind is Kind.DEVICE:
        sink = CameraSink(args.sink, facts)
    elif kind is Kind.URL:

        def connect() -> LiveSink:
            return StreamSink(args.sink, facts, rate, bitrate=args.bitrate)

        sink = PersistentSink(connect, notes, lambda: live.counter.add("skipped"))
    elif kind is Kind.PIPE:
        sink = RawWriter(sys.stdout.buffer, facts, y4m=True, parts=parts)
    elif Path(args.sink).suffix.lower() in (*RAW_EXTENSIONS, ".y4m"):
        y4m = Path(args.sink).suffix.lower() == ".y4m"
        sink = RawWriter(Path(args.sink), facts, y4m=y4m, parts=parts, overwrite=args.yes)
    else:
        codec = args.codec or container_for(Path(args.sink).suffix).codec
        encoding = Encoding(args.codec, preset=LIVE_PRESETS.get(codec), threads=args.threads or 0)
        sink = VideoWriter(Path(args.sink), facts, parts=parts, encoding=encoding, overwrite=args.yes)
    playout = regular = None
    if kind in PACED_SINKS:
        playout = Playout(1.0 if args.latency_budget is None else args.latency_budget / 1000)
    if kind in (Kind.PIPE, Kind.DEVICE) or (isinstance(sink, RawWriter)):
        regular = Regular(1 / rate, live.counter)
    return sink, Presenter(sink, live.counter, playout, regular)


def blank(facts: VideoFacts) -> Planes:
    """A black picture as the source gives them."""
    fmt = facts.format
    if fmt.sampling == "rgb":
        return Planes((np.zeros((facts.height, facts.width, 3), fmt.dtype),), fmt)
    return Planes(tuple(np.zeros(s, fmt.dtype) for s in plane_sizes(fmt, facts.width, facts.height)), fmt)


class StatsLine:
    """Statistics on stderr: one line that is written over on a terminal, else one line each time."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def show(self, stats: LiveStatistics) -> None:
        if self._wanted:
            _say(f"{stats.seconds:.0f} s | {stats.line()}")

    def summary(self, stats: LiveStatistics) -> None:
        """What there was in all."""
        if not self._wanted:
            return
        counts, latency = stats.counts, stats.latency
        _say(
            f"{counts.frames_in} frames in, {counts.frames_out} out in {stats.seconds:.1f} s, {stats.dropped} dropped; "
            f"latency p50 {1000 * latency.p50:.0f} ms, p99 {1000 * latency.p99:.0f} ms, at most "
            f"{1000 * latency.max:.0f} ms"
        )


def _say(text: str) -> None:
    print(f"vtsr-live: {text}", file=sys.stderr, flush=True)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a frame size; write WIDTHxHEIGHT, such as 640x360")
    if not all(16 <= int(side) <= 16384 for side in (width, height)):
        raise argparse.ArgumentTypeError(f"'{text}' is no usable frame size; sides must be 16 to 16384 pixels")
    return int(width), int(height)


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a frame rate; write 30 or 30000/1001")
    return rate


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not an option; write KEY=VALUE")
    return name, value


def _bits(text: str) -> int:
    units = {"k": 1_000, "m": 1_000_000}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in units else (text, "")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a bit rate; write 800k or 4M")
    return int(number) * units.get(unit, 1)


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"'{text}' is not [HOST:]PORT; write a port such as 9100")
    return host or LOCAL, int(port)


if __name__ == "__main__":
    sys.exit(main())
