"""Frames into a video file, with exact times and everything else the input had."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.video.stream import VideoStream

from vtsr.errors import OptionError, OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.video.codecs import Encoding, choose_encoder, container_for
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
        encoding = encoding or Encoding()
        self.path = path
        self.notes: list[str] = []
        self._timeline = timeline or Timeline()
        self._passthrough = passthrough
        self._durations: dict[int, int] = {}  # by pts, of frames inside the encoder
        self._first_packet: tuple[int, int] | None = None  # its pts and dts
        self._end = 0
        container = container_for(path.suffix)
        encoder = choose_encoder(container, encoding, facts.format, facts.width, facts.height)
        self.notes += encoder.notes
        options = dict(encoder.options)
        if facts.hdr is not None:
            described = facts.hdr.options(encoder.name)
            for name, value in described.items():
                options[name] = f"{options[name]}:{value}" if name in options else value
            if not described:
                self.notes.append(f"{encoder.name} cannot store the HDR10 metadata; h264, hevc and av1 can.")
        self.pix_fmt, self.codec = encoder.pix_fmt, encoder.name
        self.frame_rate = facts.frame_rate * parts / self._timeline.stretch
        self._tick = output_tick(facts.time_base, self._timeline, parts)
        self._check_tick(container.format, facts)
        self._store = Storage(facts, encoder.pix_fmt)
        self._file = PartialFile(path, overwrite)
        self._container: Any = None
        try:
            self._container = av.open(
                f"file:{self._file.working}", "w", format=container.format,
                container_options=self._container_options(container.format, facts),
            )  # fmt: skip
            self._stream = self._add_video(facts, encoder.name, options, encoding.threads)
            if passthrough is not None:
                passthrough.add_streams(self._container)
                passthrough.copy_chapters(self._container)
                self.notes += passthrough.notes
            self._container.metadata.update(kept_file_tags(facts.metadata))
            self._start(encoder.name, options)
        except BaseException:
            self.abandon()
            raise

    # Opening

    def _check_tick(self, format: str, facts: VideoFacts) -> None:
        if format not in ("matroska", "webm"):
            return
        if 1 / self.frame_rate < MATROSKA_TICK:
            raise OptionError(
                f"Matroska and WebM count milliseconds and cannot tell frames at {float(self.frame_rate):g} "
                "per second apart; write .mp4 or .mov, use fewer levels, or --slow-motion."
            )
        if (1 / self.frame_rate) % MATROSKA_TICK:
            self.notes.append(
                "Matroska and WebM count milliseconds, so each frame time is rounded to the nearest one; "
                ".mp4 and .mov keep them exactly."
            )

    def _container_options(self, format: str, facts: VideoFacts) -> dict[str, str]:
        if format not in ISO_FORMATS:
            # Without this, audio that begins a little before zero (encoder padding) would move the pictures.
            return {"avoid_negative_ts": "disabled"}
        # Edit lists (a start other than zero) count in the movie's ticks, 1/1000 s unless told.
        scale = str(self._tick.denominator)
        options = {"video_track_timescale": scale, "movie_timescale": scale}
        if any(tag.lower() not in CLASSIC_TAGS for tag in kept_file_tags(facts.metadata)):
            options["movflags"] = "use_metadata_tags"
        return options

    def _add_video(
        self, facts: VideoFacts, encoder: str, options: dict[str, str], threads: int
    ) -> Any:
        stream = self._container.add_stream(encoder, rate=self.frame_rate, options=options)
        context = stream.codec_context
        stream.width, stream.height = facts.width, facts.height
        stream.pix_fmt = self.pix_fmt
        stream.time_base = self._tick
        context.time_base = self._tick
        context.thread_count = threads
        tags = self._store.tags
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if facts.sample_aspect_ratio:
            context.sample_aspect_ratio = facts.sample_aspect_ratio
            if self._container.format.name not in ISO_FORMATS and encoder not in ASPECT_IN_BITSTREAM:
                self.notes.append(
                    f"{encoder} in {self.path.suffix} cannot note the pixels' aspect ratio "
                    f"({facts.sample_aspect_ratio}); .mp4 and .mov can."
                )
        if encoder == "libx265" and self._container.format.name in ISO_FORMATS:
            context.codec_tag = "hvc1"  # what Apple's players look for
        if facts.display_matrix is not None and CAN_NOTE_ROTATION:
            stream.set_display_matrix(facts.display_matrix)
        stream.metadata.update(kept_stream_tags(facts.stream_metadata))
        stream.disposition = DEFAULT_TRACK
        return stream

    def _start(self, encoder: str, options: dict[str, str]) -> None:
        try:
            self._stream.codec_context.open()
        except (av.error.FFmpegError, ValueError) as error:
            settings = ", ".join(f"{k}={v}" for k, v in options.items()) or "no options"
            raise OptionError(
                f"{encoder} does not start with {settings}, {self._stream.width}x{self._stream.height} "
                f"{self.pix_fmt} ({error.strerror if hasattr(error, 'strerror') else error}); choose other settings."
            ) from error
        try:
            self._container.start_encoding()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    # Writing

    def write(self, frame: Frame) -> None:
        """Encodes one frame; its times are those of the input's clock."""
        line, tick = self._timeline, self._tick
        picture = self._store(frame.planes)
        begin, end = line(frame.pts), line(frame.pts + frame.duration)
        pts = round(begin / tick)
        picture.pts, picture.time_base = pts, tick
        # The encoder delays and reorders frames, and not every one hands durations on.
        self._end = round(end / tick)
        self._durations[pts] = max(1, self._end - pts)
        try:
            self._mux_video(self._stream.encode(picture))
            self._mux_others(frame.pts)
        except (av.error.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def finish(self) -> None:
        """Writes what is left and gives the file its name."""
        try:
            packets = self._stream.encode(None)
            if self._first_packet is None and packets:
                self._first_packet = (packets[0].pts, packets[0].dts)
            self._set_end(packets)
            self._mux_video(packets)
            self._mux_others(None)
            self._container.close()
            self._container = None
            self._file.commit()
        except (av.error.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def abandon(self, keep: bool = False) -> Path | None:
        """Ends without success: removes the file, or keeps it as ``NAME.partial`` and returns that path."""
        container, self._container = self._container, None
        if container is not None:
            try:
                if keep:
                    for packet in self._stream.encode(None):
                        container.mux(packet)
                container.close()
            except (av.error.FFmpegError, OSError, ValueError):
                pass  # the reason why it is abandoned, perhaps; what is on the disk stays readable or goes
        if keep:
            return self._file.keep()
        self._file.discard()
        return None

    def _set_end(self, packets: list[Any]) -> None:
        # In MP4 and MOV a sample lasts until the next one in *decoding* order is due, and the track as long as
        # all samples together; so it is the last packet that has to make the track end where the video ends.
        if self._container.format.name not in ISO_FORMATS or not packets or self._first_packet is None:
            return
        first_pts, first_dts = self._first_packet
        duration = (self._end - first_pts) - (packets[-1].dts - first_dts)
        if duration > 0:
            self._durations[packets[-1].pts] = duration

    def _mux_video(self, packets: list[Any]) -> None:
        for packet in packets:
            if self._first_packet is None:
                self._first_packet = (packet.pts, packet.dts)  # an IDR frame: first in both orders
            duration = self._durations.pop(packet.pts, None)
            if duration is not None:
                packet.duration = duration
            self._container.mux(packet)

    def _mux_others(self, until: Fraction | None) -> None:
        if self._passthrough is not None:
            for packet in self._passthrough.packets(until):
                self._container.mux(packet)

    def _failure(self, error: BaseException) -> OutputError:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        return OutputError(f"{self.path} could not be written ({reason}); choose another place or free some space.")


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

