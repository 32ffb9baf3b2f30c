"""Frames into a video file, with exact times and everything else the input had."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
from av.video.stream import VideoStream

from vtsr.errors import OptionError, OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.video.codecs import Container, Encoder, Encoding, choose_encoder, container_for
from vtsr.runtime.video.facts import Timeline, VideoFacts
from vtsr.runtime.video.partial import PartialFile
from vtsr.runtime.video.passthrough import CLASSIC_TAGS, Passthrough, kept_file_tags, kept_stream_tags
from vtsr.runtime.video.storage import Storage

MAX_TICKS = 2**31 - 1  # per second, what an MP4 header can say
DEFAULT_TRACK = 1  # AV_DISPOSITION_DEFAULT
MATROSKA_TICK = Fraction(1, 1000)  # seconds; FFmpeg's muxer knows no other
ISO_FORMATS = ("mp4", "mov")
# Since version 17.1 of PyAV; before, the pixels are turned instead.
CAN_NOTE_ROTATION = hasattr(VideoStream, "set_display_matrix")
# Encoders that write the sample aspect ratio themselves; PyAV hands it to the MP4 and MOV muxers only.
ASPECT_IN_BITSTREAM = ("libx264", "libx265", "ffv1")
MAX_ENCODER_THREADS = 16  # more gain nothing, and cost x264 quality


class CodedPicture(NamedTuple):
    """A packet of video: times in the output's ticks, and the encoder's bytes."""

    pts: int
    dts: int
    duration: int
    is_keyframe: bool
    data: bytes


@dataclass(frozen=True)
class VideoTarget:
    """All that is settled about the video of an output file before its first frame.

    timeline
        How the frames' times become times of the file.
    tick
        Seconds per tick of these times.
    threads
        Threads of the encoder; some encoders' output depends on it.
    notes
        What the user should know about the choices made, one sentence each.

    `choose` raises `OptionError` for settings that do not go together.
    """

    suffix: str
    container: Container
    encoder: Encoder
    options: dict[str, str]
    facts: VideoFacts
    timeline: Timeline
    frame_rate: Fraction
    tick: Fraction
    threads: int
    notes: tuple[str, ...]

    @classmethod
    def choose(
        cls, suffix: str, facts: VideoFacts, encoding: Encoding, parts: int = 1, timeline: Timeline | None = None
    ) -> VideoTarget:
        """The target for a file name ending in ``suffix``, of ``parts`` frames per input frame."""
        container, timeline = container_for(suffix), timeline or Timeline()
        encoder = choose_encoder(container, encoding, facts.format, facts.width, facts.height)
        notes = list(encoder.notes)
        options = dict(encoder.options)
        if facts.hdr is not None:
            described = facts.hdr.options(encoder.name)
            for name, value in described.items():
                options[name] = f"{options[name]}:{value}" if name in options else value
            if not described:
                notes.append(f"{encoder.name} cannot store the HDR10 metadata; h264, hevc and av1 can.")
        frame_rate = facts.frame_rate * parts / timeline.stretch
        notes += _rounding_notes(container.format, frame_rate)
        ratio = facts.sample_aspect_ratio
        if ratio and container.format not in ISO_FORMATS and encoder.name not in ASPECT_IN_BITSTREAM:
            notes.append(
                f"{encoder.name} in {suffix} cannot note the pixels' aspect ratio ({ratio}); .mp4 and .mov can."
            )
        tick = output_tick(facts.time_base, timeline, parts)
        threads = encoding.threads or min(os.cpu_count() or 1, MAX_ENCODER_THREADS)
        return cls(
            suffix, container, encoder, options, facts, timeline, frame_rate, tick, threads, tuple(notes)
        )

    def add_to(self, container: Any) -> Any:
        """The video stream of an FFmpeg container, its encoder open. Raises `OptionError` if it does not start."""
        facts, name = self.facts, self.encoder.name
        stream = container.add_stream(name, rate=self.frame_rate, options=self.options)
        context = stream.codec_context
        stream.width, stream.height = facts.width, facts.height
        stream.pix_fmt = self.encoder.pix_fmt
        stream.time_base = context.time_base = self.tick
        context.thread_count = self.threads
        tags = Storage(facts, self.encoder.pix_fmt).tags
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if facts.sample_aspect_ratio:
            context.sample_aspect_ratio = facts.sample_aspect_ratio
        if name == "libx265" and self.container.format in ISO_FORMATS:
            context.codec_tag = "hvc1"  # what Apple's players look for
        if facts.display_matrix is not None and CAN_NOTE_ROTATION:
            stream.set_display_matrix(facts.display_matrix)
        stream.metadata.update(kept_stream_tags(facts.stream_metadata))
        stream.disposition = DEFAULT_TRACK
        try:
            context.open()
        except (av.error.FFmpegError, ValueError) as error:
            settings = ", ".join(f"{k}={v}" for k, v in self.options.items()) or "no options"
            raise OptionError(
                f"{name} does not start with {settings}, {stream.width}x{stream.height} {stream.pix_fmt} "
                f"({error.strerror if hasattr(error, 'strerror') else error}); choose other settings."
            ) from error
        return stream


class FrameEncoder:
    """Frames into coded pictures, by the encoder of ``stream``.

    The pictures' times are ticks of the target from the beginning of the output, and ``end`` is the tick at
    which the last frame taken so far ends.
    """

    def __init__(self, target: VideoTarget, stream: Any) -> None:
        self._target, self._stream = target, stream
        self._store = Storage(target.facts, target.encoder.pix_fmt)
        self._durations: dict[int, int] = {}  # by pts, of frames inside the encoder
        self._holder: Any = None
        self.end = 0

    @classmethod
    def alone(cls, target: VideoTarget) -> FrameEncoder:
        """An encoder without a file, set up as the container of the target wants it."""
        holder = av.open(io.BytesIO(), "w", format=target.container.format)
        encoder = cls(target, target.add_to(holder))
        encoder._holder = holder  # a stream does not keep its container alive
        return encoder

    def encode(self, frame: Frame) -> list[CodedPicture]:
        """Takes one frame, whose times are those of the input's clock; returns the pictures that are done."""
        line, tick = self._target.timeline, self._target.tick
        picture = self._store(frame.planes)
        pts = round(line(frame.pts) / tick)
        picture.pts, picture.time_base = pts, tick
        # The encoder delays and reorders frames, and not every one hands durations on.
        self.end = round(line(frame.pts + frame.duration) / tick)
        self._durations[pts] = max(1, self.end - pts)
        return self._coded(self._stream.encode(picture))

    def flush(self) -> list[CodedPicture]:
        """The pictures the encoder still holds; it takes no more frames."""
        return self._coded(self._stream.encode(None))

    def _coded(self, packets: Iterable[Any]) -> list[CodedPicture]:
        return [
            CodedPicture(p.pts, p.dts, self._durations.pop(p.pts, p.duration or 0), p.is_keyframe, bytes(p))
            for p in packets
        ]


class VideoFile:
    """A container being written to ``working``: coded pictures of one or more encoders, and the other streams.

    Raises `OptionError` if the encoder or the container refuses the settings.
    """

    def __init__(self, working: Path | io.BytesIO, target: VideoTarget, passthrough: Passthrough | None = None) -> None:
        self._target, self._passthrough = target, passthrough
        self._held: CodedPicture | None = None  # the last one, whose duration is only known at the end
        self._first: tuple[int, int] | None = None  # pts and dts of the first
        self._last_dts: int | None = None
        facts, format = target.facts, target.container.format
        self._container = av.open(
            f"file:{working}" if isinstance(working, Path) else working,
            "w", format=format, container_options=self._options(),
        )  # fmt: skip
        try:
            self.stream = target.add_to(self._container)
            if passthrough is not None:
                passthrough.add_streams(self._container)
                passthrough.copy_chapters(self._container)
            self._container.metadata.update(kept_file_tags(facts.metadata))
            self._container.start_encoding()
        except BaseException:
            self.abandon()
            raise

    def _options(self) -> dict[str, str]:
        if self._target.container.format not in ISO_FORMATS:
            # Without this, audio that begins a little before zero (encoder padding) would move the pictures.
            return {"avoid_negative_ts": "disabled"}
        # Edit lists (a start other than zero) count in the movie's ticks, 1/1000 s unless told.
        scale = str(self._target.tick.denominator)
        options = {"video_track_timescale": scale, "movie_timescale": scale}
        if any(tag.lower() not in CLASSIC_TAGS for tag in kept_file_tags(self._target.facts.metadata)):
            options["movflags"] = "use_metadata_tags"
        return options

    def add(self, pictures: Iterable[CodedPicture]) -> None:
        """Writes coded pictures, in the order of decoding, and the other streams up to them."""
        for picture in pictures:
            if self._held is not None:
                self._put(self._held)
            self._held = picture

    def finish(self, end: int) -> None:
        """Writes what is left and closes the file; the video ends at tick ``end``."""
        last, self._held = self._held, None
        if last is not None:
            # In MP4 and MOV a sample lasts until the next one in *decoding* order is due, and the track as long
            # as all samples together; so it is the last packet that makes the track end where the video ends.
            if self._target.container.format in ISO_FORMATS:
                first_pts, first_dts = self._first or (last.pts, last.dts)
                last = last._replace(duration=max(end - first_pts - (self._later(last.dts) - first_dts), 1))
            self._put(last)
        self._put_others(None)
        self._container.close()

    def abandon(self) -> None:
        """Closes the file as it is, if that is possible."""
        try:
            if self._held is not None:
                self._put(self._held)
            self._container.close()
        except (av.error.FFmpegError, OSError, ValueError):
            pass  # the reason why it is abandoned, perhaps; what is on the disk stays readable or goes

    def _later(self, dts: int) -> int:
        # Where one encoder follows another and frame times vary, the decoding times of the second may begin
        # before those of the first end. There is always room: both run at least the encoder's delay ahead.
        return dts if self._last_dts is None else max(dts, self._last_dts + 1)

    def _put(self, picture: CodedPicture) -> None:
        dts = self._later(picture.dts)
        self._last_dts = dts
        if self._first is None:
            self._first = (picture.pts, dts)  # an IDR frame: first in both orders
        packet = av.Packet(picture.data)
        packet.pts, packet.dts, packet.time_base = picture.pts, dts, self._target.tick
        if picture.duration:
            packet.duration = picture.duration
        packet.is_keyframe = picture.is_keyframe
        packet.stream = self.stream
        self._container.mux(packet)
        line = self._target.timeline
        self._put_others(line.origin + (picture.pts * self._target.tick - line.begin) / line.stretch)

    def _put_others(self, until: Fraction | None) -> None:
        if self._passthrough is not None:
            for packet in self._passthrough.packets(until):
                self._container.mux(packet)


class VideoWriter:
    """A video file being written; it appears under its name on `finish`.

    facts, format
        The input's facts and the pixel format of the frames that will come.
    parts
        Output frames per input frame (2**levels).
    timeline
        How the frames' times become times of the file.
    passthrough
        Other streams of the input, or None.

    Raises `OptionError` for settings that do not go together, `OutputError` if writing fails.
    """

    def __init__(
        self,
        path: Path,
        facts: VideoFacts,
        *,
        parts: int = 1,
        timeline: Timeline | None = None,
        encoding: Encoding | None = None,
        passthrough: Passthrough | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        target = VideoTarget.choose(path.suffix, facts, encoding or Encoding(), parts, timeline)
        self.pix_fmt, self.codec, self.frame_rate = target.encoder.pix_fmt, target.encoder.name, target.frame_rate
        self._partial = PartialFile(path, overwrite)
        self._file: VideoFile | None = None
        try:
            with said_as_output_error(path):
                self._file = VideoFile(self._partial.working, target, passthrough)
        except BaseException:
            self.abandon()
            raise
        self._encoder = FrameEncoder(target, self._file.stream)
        self.notes = [*target.notes, *(passthrough.notes if passthrough is not None else ())]

    def write(self, frame: Frame) -> None:
        """Encodes one frame; its times are those of the input's clock."""
        assert self._file is not None
        with said_as_output_error(self.path):
            self._file.add(self._encoder.encode(frame))

    def finish(self) -> None:
        """Writes what is left and gives the file its name."""
        assert self._file is not None
        with said_as_output_error(self.path):
            self._file.add(self._encoder.flush())
            self._file.finish(self._encoder.end)
            self._file = None
            self._partial.commit()

    def abandon(self, keep: bool = False) -> Path | None:
        """Ends without success: removes the file, or keeps it as ``NAME.partial`` and returns that path."""
        file, self._file = self._file, None
        if file is not None:
            if keep:
                with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                    file.add(self._encoder.flush())
            file.abandon()
        if keep:
            return self._partial.keep()
        self._partial.discard()
        return None


@contextlib.contextmanager
def said_as_output_error(path: Path, advice: str = "choose another place or free some space") -> Iterator[None]:
    """Turns FFmpeg's and the system's errors of writing into one sentence."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise OutputError(f"{path} could not be written ({reason}); {advice}.") from error


def _rounding_notes(format: str, frame_rate: Fraction) -> list[str]:
    if format not in ("matroska", "webm"):
        return []
    if 1 / frame_rate < MATROSKA_TICK:
        raise OptionError(
            f"Matroska and WebM count milliseconds and cannot tell frames at {float(frame_rate):g} "
            "per second apart; write .mp4 or .mov, use fewer levels, or --slow-motion."
        )
    if (1 / frame_rate) % MATROSKA_TICK:
        return [
            "Matroska and WebM count milliseconds, so each frame time is rounded to the nearest one; "
            ".mp4 and .mov keep them exactly."
        ]
    return []


def output_tick(time_base: Fraction, timeline: Timeline, parts: int) -> Fraction:
    """The longest 1/n s in which the start of every output frame is a whole number of ticks.

    Input times are multiples of ``time_base``; output times are multiples of time_base * stretch / parts,
    moved by the timeline. If that needs more ticks than a header can hold, the finest that fits.
    """
    step = time_base * timeline.stretch / parts
    shift = timeline.begin - timeline.origin * timeline.stretch
    ticks = math.lcm(step.denominator, shift.denominator)
    if ticks > MAX_TICKS:
        ticks = step.denominator
    if ticks > MAX_TICKS:
        ticks = MAX_TICKS
    return Fraction(1, ticks)
