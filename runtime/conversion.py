"""One input into one output: what `vtsr-upconvert` does, once or for every file of a folder."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tqdm import tqdm

import vtsr
from vtsr.errors import InputError, OptionError, OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.job import Job, Processor, Result, Sink, Timing
from vtsr.runtime.segments.identity import check_same, input_identity, software_identity
from vtsr.runtime.segments.journal import DamagedJournalError, End, Journal, Value
from vtsr.runtime.segments.ledger import Ledger, Observed
from vtsr.runtime.segments.marks import Mark
from vtsr.runtime.segments.sink import SegmentSink
from vtsr.runtime.segments.source import OtherPicturesError, open_at
from vtsr.runtime.segments.span import Span, gaps
from vtsr.runtime.segments.stores import IMAGES_NAME, RAW_NAME, ImageStore, RawStore, Store, VideoStore
from vtsr.runtime.video.codecs import Encoding
from vtsr.runtime.video.comparison import Comparison
from vtsr.runtime.video.facts import Timeline, VideoFacts
from vtsr.runtime.video.images import ImageReader, ImageWriter, is_image_sequence, list_images, means_images
from vtsr.runtime.video.orientation import is_right_angled, upright, upright_facts
from vtsr.runtime.video.passthrough import Passthrough
from vtsr.runtime.video.raw import RAW_EXTENSIONS, RawWriter, raw_options
from vtsr.runtime.video.reader import VideoReader
from vtsr.runtime.video.rendered import RenderedReader
from vtsr.runtime.video.space import Need, check_room, estimate
from vtsr.runtime.video.writer import CAN_NOTE_ROTATION, MAX_ENCODER_THREADS, VideoTarget, VideoWriter

DEMO = "demo"
PIPE = "-"
# From this share of burnt-out pixels on, the user is told.
CLIPPED_NOTE = 0.05
# What a journal says of its job, but is not held against the options of a run that goes on with it: whether existing
# output may be replaced, and the encoder's threads, which are taken from there.
REPLACES, THREADS = "replaces", "encoder threads"
NOT_COMPARED = (REPLACES, THREADS)

Reader = VideoReader | ImageReader | RenderedReader
Writer = VideoWriter | ImageWriter | RawWriter | Store


@dataclass
class Outcome:
    """What came of a conversion.

    frames_in, frames_out, timing
        Of this run; a job that went on has done the rest before.
    before
        Input frames that were done in earlier runs.
    skipped
        Whether the output was there already.
    """

    frames_in: int = 0
    frames_out: int = 0
    timing: Timing = field(default_factory=Timing)
    before: int = 0
    skipped: bool = False
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """An input that has been opened and what is to become of it.

    view
        What is done to frames before the network sees them (turning them upright).
    timeline
        From input times to output times.
    """

    reader: Reader
    facts: VideoFacts
    view: Callable[[Iterator[Frame]], Iterator[Frame]]
    timeline: Timeline
    parts: int


class Network(Protocol):
    """What makes the segments of a job: this machine or a cluster."""

    @property
    def backend_name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def stage_seconds(self) -> dict[str, float]: ...

    def fill(self, journal: Journal, store: Store, span: Span, watch: Watch, timing: Timing) -> None:
        """Makes and notes all segments of ``span``; adds to ``timing``."""


def convert(
    args: argparse.Namespace, network: Callable[[Plan], AbstractContextManager[Network]] | None = None
) -> Outcome:
    """Converts ``args.input`` to ``args.output``; raises `VtsrError` where that cannot be done.

    network
        Opens what makes the segments; this machine unless given.
    """
    folder = job_folder(args)
    if args.resume and folder is None:
        raise OptionError("A pipe cannot be rewound, so --resume needs files or folders as input and output.")
    if args.resume and not args.yes and is_done(args):
        return Outcome(skipped=True)
    with contextlib.ExitStack() as stack:
        reader = open_input(args)
        stack.callback(reader.close)
        plan = make_plan(reader, args)
        if folder is None:
            return _convert_at_once(plan, args, stack)
        local = functools.partial(LocalNetwork, args=args)
        return _convert_in_segments(plan, args, folder, stack.enter_context((network or local)(plan)), stack)


# Names on the disk


def job_folder(args: argparse.Namespace) -> Path | None:
    """Where the finished segments of a job are kept; None for pipes, which cannot be begun in the middle."""
    if PIPE in (args.input, args.output):
        return None
    output = Path(args.output)
    if means_images(args.output):
        output = (output.parent if "%" in output.name else output).resolve()
    return output.with_name(f".{output.name}.vtsr")


def is_done(args: argparse.Namespace) -> bool:
    """Whether the output is there, complete, and nothing of it is left to do."""
    folder = job_folder(args)
    if folder is None or (folder / "journal.jsonl").exists():
        return False
    return output_exists(args)


def output_exists(args: argparse.Namespace) -> bool:
    """Whether the output's file, or one of its images, is there."""
    output = Path(args.output)
    if not means_images(args.output):
        return output.exists()
    with contextlib.suppress(InputError):
        return bool(list_images(output))
    return False


# Opening


def open_input(args: argparse.Namespace) -> Reader:
    """The reader for ``args.input``."""
    path, part = args.input, {"start": args.start, "duration": args.duration}
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


def make_plan(reader: Reader, args: argparse.Namespace) -> Plan:
    """How the frames of ``reader`` become those of the output."""
    parts, facts = 2**args.levels, reader.facts
    matrix, view = facts.display_matrix, _as_they_are
    if matrix is not None and _must_stand_upright(args.output):
        if is_right_angled(matrix):
            facts = upright_facts(facts)

            def view(frames: Iterator[Frame]) -> Iterator[Frame]:
                return upright(frames, matrix)

        else:
            say("warning: the video is rotated by an odd angle, which this kind of output cannot express.")
    line = reader.timeline
    timeline = Timeline(line.origin, line.begin, parts if args.slow_motion else 1, line.end, line.cut)
    return Plan(reader, facts, view, timeline, parts)


def _as_they_are(frames: Iterator[Frame]) -> Iterator[Frame]:
    return frames


def _must_stand_upright(output: str) -> bool:
    """Whether the output has no place for a rotation, so that the pixels have to be turned."""
    suffix = Path(output).suffix.lower()
    noted = suffix in (".mp4", ".m4v", ".mov", ".mkv") and CAN_NOTE_ROTATION
    return output == PIPE or means_images(output) or not noted


def open_upconverter(plan: Plan, args: argparse.Namespace) -> Any:
    from vtsr.runtime.upconverter import Upconverter

    threshold = {} if args.scene_threshold is None else {"scene_threshold": args.scene_threshold}
    return Upconverter(
        args.levels, backend=args.backend, model=args.model, threads=args.threads, precision=args.precision,
        frame_rate=plan.facts.frame_rate, **threshold,
    )  # fmt: skip


def encoding_of(args: argparse.Namespace) -> Encoding:
    return Encoding(args.codec, args.crf, args.preset, args.pix_fmt, args.threads or 0)


@contextlib.contextmanager
def other_streams(plan: Plan, args: argparse.Namespace) -> Iterator[Passthrough | None]:
    """What is carried over beside the video, if the input has such a thing."""
    if not isinstance(plan.reader, VideoReader) or args.input == PIPE:
        yield None
        return
    audio = args.audio or ("none" if args.slow_motion else "copy")
    with Passthrough(Path(args.input), plan.reader.stream_index, plan.timeline, audio) as passthrough:
        yield passthrough


# In one go: from or to a pipe


def _convert_at_once(plan: Plan, args: argparse.Namespace, stack: contextlib.ExitStack) -> Outcome:
    upconverter = stack.enter_context(open_upconverter(plan, args))
    writer = _open_writer(plan, args, stack)
    stack.callback(writer.abandon)  # does nothing once the output is complete
    ledger = Ledger(None, Span(), lambda: True)
    watch = stack.enter_context(Watch(plan, args))
    try:
        result = watch.run(plan.view(iter(plan.reader)), upconverter, writer, ledger, Span())
    finally:
        watch.close()
    reader, seen = plan.reader, ledger.take(0)
    end = End(tuple(reader.warnings), reader.damaged_packets, reader.damaged_frames)
    return _finished(plan, args, writer, upconverter.precision, result, seen, end, sorted(upconverter.cuts), watch)


def _open_writer(plan: Plan, args: argparse.Namespace, stack: contextlib.ExitStack) -> Any:
    output, suffix = Path(args.output), Path(args.output).suffix.lower()
    common = {"parts": plan.parts, "timeline": plan.timeline, "overwrite": args.yes}
    if args.output == PIPE:
        return RawWriter(sys.stdout.buffer, plan.facts, y4m=not args.raw, pix_fmt=args.pix_fmt, **common)
    if suffix in RAW_EXTENSIONS or suffix == ".y4m":
        return RawWriter(output, plan.facts, y4m=suffix == ".y4m", pix_fmt=args.pix_fmt, **common)
    if means_images(args.output):
        return ImageWriter(output, plan.facts, overwrite=args.yes)
    passthrough = stack.enter_context(other_streams(plan, args))
    return VideoWriter(output, plan.facts, encoding=encoding_of(args), passthrough=passthrough, **common)


# In segments: whenever a job could go on


def _convert_in_segments(
    plan: Plan, args: argparse.Namespace, folder: Path, network: Network, stack: contextlib.ExitStack
) -> Outcome:
    target = video_target(plan, args)
    job = describe_job(plan, args, network.backend_name, network.precision, target)
    journal = open_journal(folder, job, args)
    try:
        if target is not None:
            target = replace(target, threads=recorded_threads(journal))
        if is_moved(journal, args):
            journal.discard()
            return Outcome(skipped=True)
        size = segment_frames(args)
        store = open_store(plan, args, journal, target)
        drop_unusable(journal, store, size)
        store.go_on_behind(journal.segments.values())
        before = dict(journal.segments)
        done = Observed.total(segment.observed for segment in before.values())
        warn_of_little_room(plan, args, store, done.frames)
        watch = stack.enter_context(Watch(plan, args, sum(s.outputs for s in before.values())))
        began = time.perf_counter()
        timing = Timing()
        try:
            for span in gaps(journal.segments, size, journal.ended is not None):
                network.fill(journal, store, span, watch, timing)
            mark = time.perf_counter()
            store.join(journal.segments.values())
            timing.encode += time.perf_counter() - mark
        finally:
            watch.close()
        timing.total = time.perf_counter() - began
        timing.network_stages = dict(network.stage_seconds)
        segments = journal.segments.values()
        seen = Observed.total(segment.observed for segment in segments)
        result = Result(
            seen.frames - done.frames,
            sum(s.outputs for s in segments) - sum(s.outputs for s in before.values()),
            timing,
        )
        cuts = sorted(cut for segment in segments for cut in segment.cuts)
        end = journal.ended or End()
        journal.discard()
        return _finished(plan, args, store, network.precision, result, seen, end, cuts, watch, done.frames)
    except OtherPicturesError:
        journal.close()  # the same input may be found again; going on with this one will not help
        raise
    except BaseException:
        _leave(journal, plan)
        raise


def _leave(journal: Journal, plan: Plan) -> None:
    """Keeps what is finished of a job that was stopped, and says so; removes the journal if there is nothing."""
    if not journal.segments:
        journal.discard()
        return
    journal.close()
    done = sum(segment.observed.frames for segment in journal.segments.values())
    share = f"{min(1.0, done / plan.facts.frames):.0%}" if plan.facts.frames else f"{done} frames"
    say(f"{share} of the input is done and kept; the same command with --resume goes on from there.")


class LocalNetwork:
    """The network on this machine, with its decoder and encoder."""

    def __init__(self, plan: Plan, args: argparse.Namespace) -> None:
        self._plan, self._args = plan, args
        self._upconverter = open_upconverter(plan, args)
        self.backend_name: str = self._upconverter.backend_name
        self.precision: str = self._upconverter.precision

    def __enter__(self) -> LocalNetwork:
        return self

    def __exit__(self, *exception: object) -> None:
        self._upconverter.close()

    @property
    def stage_seconds(self) -> dict[str, float]:
        return dict(self._upconverter.stage_seconds)

    def fill(self, journal: Journal, store: Store, span: Span, watch: Watch, timing: Timing) -> None:
        """Makes and notes all segments of ``span``, one after the other."""
        plan, args, upconverter = self._plan, self._args, self._upconverter
        size, mark = segment_frames(args), start_mark(journal, span, args)
        earlier = [segment for segment in journal.segments.values() if segment.number * size < span.first]
        reader, frames = plan.reader, plan.view(iter(plan.reader))
        with contextlib.ExitStack() as stack:
            if mark is not None:
                quick = all(segment.observed.clean for segment in earlier)
                reader, frames = open_at(lambda: open_input(args), plan.view, mark, quick)
                stack.callback(reader.close)
            ledger = Ledger(size, span, lambda: reader.is_clean)
            sink = SegmentSink(
                journal, store, span, size, ledger, lambda: upconverter.cuts,
                lambda part: store.keep(journal.segments.values(), part),
            )  # fmt: skip
            result = watch.run(span.limited(frames, args.levels), upconverter, sink, ledger, span)
            timing.decode += result.timing.decode
            timing.network += result.timing.network
            timing.encode += result.timing.encode
            if span.stop is None:
                journal.end(End(tuple(reader.warnings), reader.damaged_packets, reader.damaged_frames))


def segment_frames(args: argparse.Namespace) -> int:
    """Input frames per segment."""
    return int(args.segment_frames)


def start_mark(journal: Journal, span: Span, args: argparse.Namespace) -> Mark | None:
    """The frame from which ``span`` has to be read; None for the very first."""
    begin = span.begin(args.levels)
    if begin == 0 and span.first == 0:
        return None
    tail = journal.segments[span.first // segment_frames(args) - 1].observed.tail
    for mark in tail:
        if mark.index == begin:
            return mark
    _misfit()


def _misfit() -> NoReturn:
    raise DamagedJournalError("The journal of the job does not fit together; start again with -y.")


def video_target(plan: Plan, args: argparse.Namespace) -> VideoTarget | None:
    suffix = Path(args.output).suffix.lower()
    if means_images(args.output) or suffix in RAW_EXTENSIONS or suffix == ".y4m":
        return None
    return VideoTarget.choose(suffix, plan.facts, encoding_of(args), plan.parts, plan.timeline)


def describe_job(
    plan: Plan, args: argparse.Namespace, backend: str, precision: str, target: VideoTarget | None
) -> dict[str, Value]:
    """Everything the output depends on; see `vtsr.runtime.segments.identity`."""
    path = Path(args.input)
    if isinstance(plan.reader, RenderedReader):
        source: dict[str, Value] = {"input name": DEMO}
    else:
        source = input_identity(path, isinstance(plan.reader, ImageReader))
    options: dict[str, Value] = {
        "--levels": args.levels,
        "--slow-motion": args.slow_motion,
        "--start": _text(args.start),
        "--duration": _text(args.duration),
        "--fps": _text(args.fps),
        "--scene-threshold": args.scene_threshold,
        "--backend": backend,
        "--precision": precision,
        "--codec": target.encoder.name if target else None,
        "--crf": args.crf,
        "--preset": args.preset,
        "--pix-fmt": args.pix_fmt,
        "--audio": args.audio,
        "--size": args.size,
        "--input-pix-fmt": args.input_pix_fmt,
        THREADS: target.threads if target else None,
        "--segment-frames": segment_frames(args),
        "the output name": Path(args.output).name,
    }
    return source | options | software_identity(args.model) | {REPLACES: args.yes}


def _text(value: Fraction | None) -> str | None:
    return None if value is None else str(value)


def open_journal(folder: Path, job: dict[str, Value], args: argparse.Namespace) -> Journal:
    """The journal of a job to go on with, or a new one."""
    if folder.exists():
        journal = None
        with contextlib.suppress(DamagedJournalError) if args.yes else contextlib.nullcontext():
            journal = Journal.reopen(folder)
        if journal is None:
            shutil.rmtree(folder, ignore_errors=True)
        elif not journal.segments:
            journal.discard()
        elif not args.resume and not args.yes:
            journal.close()
            raise OutputError(
                f"{args.output} was begun by an earlier run; go on with --resume, or start again with -y."
            )
        elif args.resume:
            try:
                check_same(args.output, _compared(journal.job), _compared(job))
            except OutputError:
                if not args.yes:
                    journal.close()
                    raise
                journal.discard()
            else:
                return journal
        else:
            journal.discard()
    if output_exists(args) and not args.yes:
        raise OutputError(f"{args.output} exists already; add -y to replace it or choose another name.")
    return Journal.begin(folder, job)


def _compared(job: dict[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in job.items() if name not in NOT_COMPARED}


def recorded_threads(journal: Journal) -> int:
    threads = journal.job.get(THREADS)
    return threads if type(threads) is int and 0 < threads <= MAX_ENCODER_THREADS else _misfit()


def is_moved(journal: Journal, args: argparse.Namespace) -> bool:
    """Whether the output of a finished job has its name already, and only the journal was left behind."""
    if journal.ended is None:
        return False
    if means_images(args.output):
        return not (journal.folder / IMAGES_NAME).exists()
    if Path(args.output).suffix.lower() in (*RAW_EXTENSIONS, ".y4m"):
        return not (journal.folder / RAW_NAME).exists()
    return Path(args.output).exists() and not (journal.job.get(REPLACES) or args.yes)


def open_store(plan: Plan, args: argparse.Namespace, journal: Journal, target: VideoTarget | None) -> Any:
    output, suffix = Path(args.output), Path(args.output).suffix.lower()
    replaces = bool(journal.job.get(REPLACES)) or args.yes
    if target is not None:
        return VideoStore(journal.folder, output, target, lambda: other_streams(plan, args))
    if means_images(args.output):
        return ImageStore(journal.folder, output, plan.facts, overwrite=replaces or journal.ended is not None)
    return RawStore(
        journal.folder, output, plan.facts,
        y4m=suffix == ".y4m", parts=plan.parts, timeline=plan.timeline, pix_fmt=args.pix_fmt,
    )  # fmt: skip


def drop_unusable(journal: Journal, store: Store, size: int) -> None:
    """Forgets segments that are not on the disk as the journal says, or that may not have been the last."""
    if store.in_order and journal.ended is not None:
        return  # part of it may have been moved to its place
    bad = {number for number, segment in journal.segments.items() if store.is_damaged(segment)}
    if journal.ended is None:
        bad |= {number for number, segment in journal.segments.items() if segment.observed.frames < size}
    if bad and store.in_order:
        bad = {number for number in journal.segments if number >= min(bad)}
    if bad:
        journal.drop(bad)


def warn_of_little_room(plan: Plan, args: argparse.Namespace, store: Store, done: int) -> None:
    """Warns if the output may not fit on the disk; raises `OutputError` if it cannot."""
    if plan.facts.frames is None:
        return
    frames = max(0, plan.facts.frames - done) * plan.parts
    need = estimate(frames, plan.facts.width, plan.facts.height, store.codec, store.pix_fmt)
    if isinstance(store, VideoStore):
        need = Need(2 * need.size)  # while the segments are being joined, everything is there twice
    warning = check_room(Path(args.output).absolute().parent, args.output, need, anyway=args.yes)
    if warning is not None:
        say(f"warning: {warning}")


class Watch:
    """What goes on beside a job: the progress bar and the comparison picture."""

    def __init__(self, plan: Plan, args: argparse.Namespace, done: int = 0) -> None:
        total = None if plan.facts.frames is None else plan.facts.frames * plan.parts
        self._plan, self._args = plan, args
        self._bar = tqdm(
            total=total, initial=done, unit=" frames", file=sys.stderr,
            disable=args.quiet or not sys.stderr.isatty(), dynamic_ncols=True, smoothing=0.1,
        )  # fmt: skip
        self.comparison = None
        if args.compare is not None:
            self.comparison = Comparison(args.compare, (plan.facts.frames or 1) // 2)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._bar.close()

    def advance(self, outputs: int) -> None:
        """That many output frames were made elsewhere."""
        self._bar.update(outputs)

    def run(
        self, frames: Iterable[Frame], upconverter: Processor, sink: Sink, ledger: Ledger, span: Span
    ) -> Result:
        """Runs a job, and says where an incomplete output was kept."""

        def on_input(frame: Frame) -> None:
            ledger.see(frame)
            if self.comparison is not None:
                self.comparison.see_input(frame)

        def on_output(frame: Frame) -> None:
            if frame.source_index in span:
                self._bar.update()
                if self.comparison is not None:
                    self.comparison.see_output(frame)

        job = Job(
            frames, upconverter, sink,
            parts=self._plan.parts, keep_partial=self._args.keep_partial, on_input=on_input, on_output=on_output,
        )  # fmt: skip
        try:
            return job.run()
        finally:
            if job.kept is not None:
                self.close()
                say(f"what was done so far is in {job.kept}")


# Afterwards


def _finished(
    plan: Plan,
    args: argparse.Namespace,
    writer: Writer,
    precision: str,
    result: Result,
    seen: Observed,
    end: End,
    cuts: list[int],
    watch: Watch,
    before: int = 0,
) -> Outcome:
    notes = _notes(plan, args, writer, seen, end)
    if watch.comparison is not None:
        watch.comparison.save()
        if watch.comparison.is_empty:
            notes.append("There is no comparison picture: the frame for it was done in an earlier run.")
    for note in notes:
        say(f"warning: {note}")
    report = _report(plan, args, writer, precision, result, seen, end, cuts, notes, before)
    return Outcome(result.frames_in, result.frames_out, result.timing, before, report=report)


def _is_constant(plan: Plan, seen: Observed) -> bool:
    if isinstance(plan.reader, VideoReader):
        return seen.is_constant_rate(2 * plan.facts.time_base)
    return plan.reader.is_constant_rate


def _notes(plan: Plan, args: argparse.Namespace, writer: Writer, seen: Observed, end: End) -> list[str]:
    """What the user should know about the finished job, one sentence each."""
    notes = [*end.warnings, *writer.notes]
    if args.slow_motion and args.audio is None and plan.reader.has_audio:
        notes.append("Audio is left out in slow motion; --audio stretch slows it down with the picture.")
    if not _is_constant(plan, seen) and not isinstance(writer, VideoWriter | VideoStore):
        notes.append("The frame times vary, which images and raw video cannot express; they count as even.")
    if seen.clipped_share >= CLIPPED_NOTE:
        notes.append(f"{seen.clipped_share:.0%} of the pixels are burnt out; motion inside them cannot be recovered.")
    return notes


def _report(
    plan: Plan,
    args: argparse.Namespace,
    writer: Writer,
    precision: str,
    result: Result,
    seen: Observed,
    end: End,
    cuts: list[int],
    notes: Iterable[str],
    before: int,
) -> dict[str, Any]:
    """What was done, as plain data; rates and times in seconds as fractions "n/d" where they are exact."""
    timing, facts = result.timing, plan.facts
    return {
        "vtsr": vtsr.__version__,
        "levels": args.levels,
        "slow_motion": args.slow_motion,
        "precision": precision,
        "input": {
            "name": facts.name,
            "container": facts.container,
            "codec": facts.codec,
            "width": facts.width,
            "height": facts.height,
            "pix_fmt": facts.pix_fmt,
            "frame_rate": str(facts.frame_rate),
            "constant_frame_rate": _is_constant(plan, seen),
            "start": str(facts.start),
            "frames": seen.frames,
            "damaged_packets": end.damaged_packets,
            "damaged_frames": end.damaged_frames,
            "duplicate_frames": seen.duplicates,
            "clipped_share": round(seen.clipped_share, 6),
        },
        "output": {
            "name": args.output,
            "codec": writer.codec,
            "pix_fmt": writer.pix_fmt,
            "frame_rate": str(writer.frame_rate),
            "frames": seen.frames * plan.parts,
        },
        "resumed_after": before,
        "scene_cuts": cuts,
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


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Raises `OutputError` if the file cannot be written."""
    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The report {path} could not be written ({error.strerror}).") from error


def say(text: str) -> None:
    print(f"vtsr-upconvert: {text}", file=sys.stderr)
