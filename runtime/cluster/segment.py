"""One segment, made from nothing but its description: what a machine of a cluster does.

Nothing here needs Ray. The input is opened by its path, positioned, and looked at: frames whose times are not the
expected ones are not processed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from vtsr.errors import InputError, OutputError, VtsrError
from vtsr.runtime.backend import Backend, load_backend
from vtsr.runtime.conversion import make_plan, open_input, video_target
from vtsr.runtime.frame import Frame
from vtsr.runtime.job import Job
from vtsr.runtime.segments.identity import check_same, software_identity
from vtsr.runtime.segments.journal import End, Segment, Value
from vtsr.runtime.segments.ledger import Ledger
from vtsr.runtime.segments.marks import Mark
from vtsr.runtime.segments.sink import SegmentSink
from vtsr.runtime.segments.span import Span
from vtsr.runtime.segments.stores import VideoPart
from vtsr.runtime.video.writer import VideoTarget


@dataclass(frozen=True)
class Order:
    """What is to be made.

    options
        Of `vtsr-upconvert`, with backend and precision settled and an absolute input path.
    number, span
        The segment and its input frames; the last one has no ``stop``.
    times
        When the frames that have to be read begin, in seconds; the first is ``span.begin(levels)``.
    encoder_threads, software
        As in the journal: a machine with other versions must not take part.
    exact
        Whether to decode everything before instead of seeking.
    """

    options: Mapping[str, Any]
    number: int
    span: Span
    times: tuple[Fraction, ...]
    encoder_threads: int
    software: Mapping[str, Value]
    exact: bool = False


@dataclass(frozen=True)
class Made:
    """A finished segment.

    segment, packets
        What the journal says of it, and its file.
    head
        The frames before it, as they were decoded here.
    end
        What the reader said at the end of the input, from the last segment.
    error, other_times
        Why it could not be made, in a sentence; and whether that is because frames do not begin when expected.
    """

    number: int
    segment: dict[str, Any] = field(default_factory=dict)
    packets: bytes = b""
    head: tuple[Mark, ...] = ()
    end: dict[str, Any] | None = None
    error: str = ""
    other_times: bool = False


class OtherTimesError(InputError):
    """Frames do not begin when they should."""


_backends: dict[tuple[Any, ...], Backend] = {}  # a process makes many segments with one model


def make_segment(order: Order) -> Made:
    """Makes one segment; whatever is wrong comes back in the result."""
    try:
        return _make(order)
    except OtherTimesError as error:
        return Made(order.number, error=str(error), other_times=True)
    except VtsrError as error:
        return Made(order.number, error=str(error))


def _make(order: Order) -> Made:
    from vtsr.runtime.upconverter import Upconverter

    args = argparse.Namespace(**order.options)
    check_same("The job", order.software, software_identity(args.model))
    begin, span = order.span.begin(args.levels), order.span
    with contextlib.closing(open_input(args)) as looked_at:
        plan = make_plan(looked_at, args)
    target = video_target(plan, args)
    if target is None:
        raise OutputError("Only video files are made on a cluster.")
    target = replace(target, threads=order.encoder_threads)
    threshold = {} if args.scene_threshold is None else {"scene_threshold": args.scene_threshold}
    with contextlib.ExitStack() as stack:
        reader = open_input(args)
        stack.callback(reader.close)
        if begin and not order.exact and not reader.skip_to(begin, order.times[0]):
            reader = open_input(args)
            stack.callback(reader.close)
        frames = (frame for frame in plan.view(iter(reader)) if frame.source_index >= begin)
        upconverter = Upconverter(
            args.levels, backend=_backend(args), frame_rate=plan.facts.frame_rate, **threshold
        )
        notes = _Notes()
        ledger = Ledger(args.segment_frames, span, lambda: reader.is_clean)
        parts = _Parts(target, Path(args.output))
        sink = SegmentSink(notes, parts, span, args.segment_frames, ledger, lambda: upconverter.cuts)
        head: list[Mark] = []

        def on_input(frame: Frame) -> None:
            if frame.source_index < span.first:
                head.append(Mark.of(frame))
            ledger.see(frame)

        checked = _as_expected(span.limited(frames, args.levels), order)
        Job(checked, upconverter, sink, parts=plan.parts, on_input=on_input).run()
        if len(notes.segments) != 1:
            raise OtherTimesError("There are not as many frames as expected.")
        end = None
        if span.stop is None:
            end = End(tuple(reader.warnings), reader.damaged_packets, reader.damaged_frames).to_json()
        return Made(
            order.number, notes.segments[0].to_json(), parts.stream.getvalue(), tuple(head), end
        )


def _as_expected(frames: Iterable[Frame], order: Order) -> Iterable[Frame]:
    count = 0
    for frame in frames:
        if count >= len(order.times) or frame.pts != order.times[count]:
            raise OtherTimesError("A frame does not begin when it should.")
        count += 1
        yield frame
    if count != len(order.times):
        raise OtherTimesError("There are fewer frames than expected.")


def _backend(args: argparse.Namespace) -> Backend:
    key = (args.model, args.backend, args.precision, args.threads, args.levels)
    if key not in _backends:
        _backends[key] = load_backend(args.backend, args.model, args.threads, args.precision, args.levels)
    return _backends[key]


class _Notes:
    """Takes the place of a journal."""

    folder = Path("the segment")

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def add(self, segment: Segment) -> None:
        self.segments.append(segment)


class _Parts:
    """Takes the place of a store: one part, in memory."""

    def __init__(self, target: VideoTarget, output: Path) -> None:
        self._target, self._output = target, output
        self.stream = io.BytesIO()

    def begin(self, number: int) -> VideoPart:
        self.stream = io.BytesIO()
        return VideoPart(self._target, self.stream, self._output)
