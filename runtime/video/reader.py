"""Frames of a video file, a pipe or raw video, with exact times."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Generator, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import av.error

from vtsr.errors import InputError
from vtsr.runtime.frame import Frame, Planes
from vtsr.runtime.video.colour import ALIASES, UNSPECIFIED, ColourTags, has_alpha, pixel_format, pixel_name
from vtsr.runtime.video.containers import open_container
from vtsr.runtime.video.decoder import Decoder
from vtsr.runtime.video.extent import missing_bytes
from vtsr.runtime.video.facts import MAX_PIXELS, Timeline, VideoFacts, check_size
from vtsr.runtime.video.hdr import hdr_of
from vtsr.runtime.video.pictures import Converter, planes_of
from vtsr.runtime.video.streams import is_cover, side_data

DEFAULT_RATE = Fraction(25)  # frames per second, where a stream says nothing at all
CONTAINER_TICK = Fraction(1, 1_000_000)  # AV_TIME_BASE

# FFmpeg "plays" text as a terminal; nobody who passes a text file wants that.
_TEXT_FORMATS = {"tty", "bin", "adf", "idf", "xbin"}
# Containers that say at the beginning how long they last, so that a missing end shows.
_HEADED = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "flv"}
MISSING_SECONDS = Fraction(1, 2)
_UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


class VideoReader:
    """A video, open for reading: iterate once to get its `Frame`s.

    file
        A path, or a binary file object such as ``sys.stdin.buffer``.
    start, duration
        The part to use, in seconds from the beginning of the video; everything by default.
    threads
        Decoder threads, 0 for as many as there are cores.
    format, options
        FFmpeg's demuxer and its options, for input that does not describe itself.

    ``facts`` says what was found. Frames hold planes as they were stored wherever their format is
    supported (gray and planar YUV 4:2:0, 4:2:2, 4:4:4 of 8 to 16 bits), otherwise in the nearest format.
    A frame lasts until the next one; the last lasts as long as the stream says, or as long as the one before.

    Damaged packets are skipped and counted. Raises `InputError` if nothing can be decoded.
    """

    def __init__(
        self,
        file: str | Path | BinaryIO,
        *,
        start: Fraction | None = None,
        duration: Fraction | None = None,
        threads: int = 0,
        format: str | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self.damaged_frames = 0
        self.frames_read = 0
        self._warnings: list[str] = []
        self._discarded = 0
        self._longest = Fraction(0)
        self._shortest: Fraction | None = None
        self._convert = Converter()
        self._marked_packets = 0
        self._missing_bytes = missing_bytes(Path(file)) if isinstance(file, str | Path) else None
        self._container = _open(file, format, options, self._missing_bytes)
        try:
            self._stream = _video_stream(self._container, self._missing_bytes)
            context = self._stream.codec_context
            check_size(_name(self._container), context.width, context.height)
            context.thread_count = threads
            self._stream.thread_type = "AUTO"
            again = partial(open_container, file, format=format, options=options)
            self._reopen = again if isinstance(file, str | Path) else None
            self._decoder = Decoder(self._stream, self._reopen, MAX_PIXELS)
            self._note_streams()
            self.timeline = self._seek(start, duration)
            self._begin = self.timeline.origin if self.timeline.cut else None
            self._index = 0  # of the first frame handed out
            self._pictures = self._decode()
            self._first = self._first_picture()
            self.facts = self._facts(self._first[0])
            self._opening_warnings = len(self._warnings)
        except BaseException:
            self._container.close()
            raise

    # Opening

    def _note_streams(self) -> None:
        others = [s for s in self._container.streams.video if s.index != self._stream.index]
        others = [s for s in others if not is_cover(s)]
        if others:
            self._warnings.append(f"Only the first of {len(others) + 1} video streams is used.")

    def _seek(self, start: Fraction | None, duration: Fraction | None) -> Timeline:
        origin = self._begin_of_stream()
        if start is None and duration is None:
            return Timeline(origin=origin, begin=origin)
        origin += start or 0
        if start:
            # A pipe cannot be rewound; everything before the start is decoded and dropped then.
            with contextlib.suppress(av.error.FFmpegError):
                self._container.seek(int(origin / self._stream.time_base), stream=self._stream)
        return Timeline(origin=origin, end=None if duration is None else origin + duration, cut=True)

    def _first_picture(self) -> tuple[av.VideoFrame, Fraction, Fraction | None]:
        first = next(self._pictures, None)
        if first is None:
            if self.frames_read:
                raise InputError(
                    f"{_name(self._container)} ends after {_seconds(self._last_end)} s, before the part asked "
                    "for begins; choose an earlier --start."
                )
            raise InputError(
                f"No frame of {_name(self._container)} could be decoded; the file is damaged or incomplete."
            )
        return first

    def _facts(self, frame: av.VideoFrame) -> VideoFacts:
        stream, context = self._stream, self._stream.codec_context
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_RATE
        tags = _tags(frame, context)
        pix_fmt = frame.format.name
        fmt = pixel_format(pix_fmt, tags, frame.height)
        if has_alpha(pix_fmt):
            self._warnings.append("The video has transparency, which is dropped.")
        if frame.interlaced_frame:
            self._warnings.append(
                "The video is interlaced, which is not handled: deinterlace it first "
                "(e.g. ffmpeg -i IN -vf bwdif OUT) or moving edges will comb."
            )
        duration = None
        if stream.duration is not None:
            duration = stream.duration * stream.time_base
        elif self._container.duration is not None:
            duration = self._container.duration * CONTAINER_TICK
        whole = duration
        if self.timeline.cut and duration is not None:
            duration -= self.timeline.origin - self._begin_of_stream()
            if self.timeline.end is not None:
                duration = min(duration, self.timeline.end - self.timeline.origin)
        frames = stream.frames or None
        if duration is not None and (frames is None or duration != whole):
            frames = max(1, round(duration * rate))
        return VideoFacts(
            name=_name(self._container),
            container=self._container.format.name,
            codec=context.name,
            width=frame.width,
            height=frame.height,
            pix_fmt=pix_fmt,
            format=fmt,
            frame_rate=Fraction(rate),
            time_base=Fraction(stream.time_base),
            start=self._first[1],
            duration=duration,
            frames=frames,
            tags=tags,
            sample_aspect_ratio=_aspect(stream.sample_aspect_ratio),
            display_matrix=_display_matrix(frame),
            hdr=hdr_of(side_data(frame)),
            metadata=dict(self._container.metadata),
            stream_metadata=dict(stream.metadata),
        )

    def _begin_of_stream(self) -> Fraction:
        # Not the container's: encoded audio often begins a little earlier.
        if self._stream.start_time is not None:
            return Fraction(self._stream.start_time * self._stream.time_base)
        ticks = self._container.start_time
        return Fraction(0) if ticks is None else ticks * CONTAINER_TICK

    # Reading

    def _decode(self) -> Generator[tuple[av.VideoFrame, Fraction, Fraction | None], None, None]:
        """FFmpeg frames of the part to use, with pts and stored duration in seconds; one more ends a cut."""
        begin = self._begin
        previous: Fraction | None = None
        step = Fraction(1) / (self._stream.average_rate or DEFAULT_RATE)
        self._last_end = Fraction(0)
        for frame in self._frames():
            self.frames_read += 1
            time_base = frame.time_base or self._stream.time_base
            pts = None if frame.pts is None else frame.pts * time_base
            if pts is None:
                pts = Fraction(0) if previous is None else previous + step
            elif previous is not None and pts <= previous:
                self._warn_once("Some timestamps go backwards; the frame rate was used instead.")
                pts = previous + step
            duration = getattr(frame, "duration", None)
            own = duration * time_base if duration else None
            previous = pts
            self._last_end = pts + (own or step)
            if begin is not None and pts < begin:
                continue
            yield frame, pts, own
            if self.timeline.end is not None and pts >= self.timeline.end:
                return

    def _frames(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                self._warnings.append(f"Reading stopped before the end ({_reason(error)}).")
                # What the decoder still holds is good.
                yield from self._decoded(None)
                return
            if packet.is_discard:
                self._discarded += 1
            if packet.is_corrupt:
                self._marked_packets += 1
            yield from self._decoded(packet)

    def _decoded(self, packet: Any) -> list[av.VideoFrame]:
        try:
            frames: list[av.VideoFrame] = self._decoder.decode(packet)
        except MemoryError as error:
            raise InputError(
                f"There is not enough memory for the pictures of {_name(self._container)}; scale it down first."
            ) from error
        self.damaged_frames += sum(frame.is_corrupt for frame in frames)
        return frames

    def skip_to(self, index: int, pts: Fraction) -> bool:
        """Goes on with frame ``index``, which begins at ``pts`` seconds, without decoding all before it.

        To be called before iterating. False if no frame with that time is found there; the reader is of no more
        use then.
        """
        before = self.frames_read - 1  # the first frame of the part to use has been read
        self._pictures.close()
        try:
            self._container.seek(int(pts / self._stream.time_base), stream=self._stream)
        except av.error.FFmpegError:
            return False
        self._begin, self._index = pts, index
        self._decoder = Decoder(self._stream, self._reopen, MAX_PIXELS)
        self._pictures = self._decode()
        first = next(self._pictures, None)
        if first is None or first[1] != pts:
            return False
        self._first = first
        self.frames_read = before + index + 1
        return True

    def frame_times(self) -> list[Fraction] | None:
        """When each frame begins, in seconds, from the times of the packets; nothing is decoded.

        None where they do not say: packets without times or with the same, marked damage, or a pipe.
        """
        if self._reopen is None:
            return None
        times = []
        try:
            with self._reopen() as container:
                stream = container.streams[self._stream.index]
                for packet in container.demux(stream):
                    if packet.size == 0 or packet.is_discard:
                        continue
                    if packet.pts is None or packet.is_corrupt:
                        return None
                    times.append(packet.pts * packet.time_base)
        except (av.error.FFmpegError, OSError):
            return None
        begin, end = self._begin, self.timeline.end
        times = [time for time in sorted(times) if (begin is None or time >= begin) and (end is None or time < end)]
        return times if len(set(times)) == len(times) else None

    @property
    def is_clean(self) -> bool:
        """Whether nothing was damaged or missing so far."""
        return not (self.damaged_packets or self.damaged_frames or len(self._warnings) > self._opening_warnings)

    def __iter__(self) -> Iterator[Frame]:
        facts, end = self.facts, self.timeline.end
        index, span = self._index, Fraction(1) / facts.frame_rate
        waiting, (frame, pts, own) = None, self._first
        while True:
            if waiting is not None:
                yield self._timed(*waiting, pts - waiting[1], index - 1)
                span = pts - waiting[1]
            if end is not None and pts >= end and waiting is not None:
                return
            waiting = (self._planes(frame), pts)
            index += 1
            following = next(self._pictures, None)
            if following is None:
                yield self._timed(*waiting, self._last_duration(pts) or own or span, index - 1)
                return
            frame, pts, own = following

    def _last_duration(self, pts: Fraction) -> Fraction | None:
        # In MP4 and MOV the durations of packets are distances in decoding order, so the last picture's is
        # found from the end of the track instead.
        stream = self._stream
        if not self._container.format.name.startswith("mov") or stream.duration is None:
            return None
        end = ((stream.start_time or 0) + stream.duration) * stream.time_base
        return end - pts if end > pts and self.frames_read >= stream.frames > 0 else None

    def _timed(self, planes: Planes, pts: Fraction, duration: Fraction, index: int) -> Frame:
        self._longest = max(self._longest, duration)
        self._shortest = duration if self._shortest is None else min(self._shortest, duration)
        return Frame(planes, pts, duration, index)

    def _planes(self, frame: av.VideoFrame) -> Planes:
        facts = self.facts
        if (frame.width, frame.height) != (facts.width, facts.height):
            raise InputError(
                f"The frame size of {facts.name} changes from {facts.width}x{facts.height} to "
                f"{frame.width}x{frame.height}; cut the video there and process the parts one by one."
            )
        name = pixel_name(facts.format)
        stored = ALIASES.get(frame.format.name, frame.format.name)
        try:
            if stored != name:
                frame = self._convert(frame, name, facts.format.full_range)
            return planes_of(frame, facts.format)
        except (av.error.FFmpegError, MemoryError, ValueError) as error:
            raise InputError(
                f"A picture of {facts.name} cannot be converted from {frame.format.name} to {name} "
                f"({_reason(error)}); convert the video first."
            ) from error

    # Results

    @property
    def stream_index(self) -> int:
        """Which of the container's streams is read."""
        return int(self._stream.index)

    @property
    def has_audio(self) -> bool:
        return bool(self._container.streams.audio)

    @property
    def damaged_packets(self) -> int:
        """How many packets were marked as damaged or could not be decoded."""
        return self._marked_packets + self._decoder.damaged_packets

    @property
    def is_constant_rate(self) -> bool:
        """Whether all frames read so far last equally long, within the rounding of the time base."""
        return self._shortest is None or self._longest - self._shortest <= 2 * self.facts.time_base

    @property
    def warnings(self) -> list[str]:
        """What was not as it should be, one sentence each; complete after the last frame."""
        notes = list(self._warnings)
        if self.damaged_packets or self.damaged_frames:
            notes.append(
                f"{self.facts.name} is damaged: {self.damaged_packets} packets could not be decoded and "
                f"{self.damaged_frames} frames were decoded with errors."
            )
        missing = self._stream_frames - self._discarded - self.frames_read
        if not self.timeline.cut and self._stream_frames and missing > 0:
            notes.append(
                f"{self.facts.name} is incomplete: {self.frames_read} of "
                f"{self._stream_frames - self._discarded} frames could be read."
            )
        elif not self.timeline.cut and self._container.format.name in _HEADED and self.facts.duration is not None:
            end = self._begin_of_stream() + self.facts.duration
            if end - self._last_end > max(MISSING_SECONDS, self.facts.duration / 20):
                notes.append(
                    f"The pictures of {self.facts.name} end after {_seconds(self._last_end)} s, but it says it "
                    f"lasts {_seconds(end)} s; it may be incomplete."
                )
        if self._missing_bytes and not any("incomplete" in note for note in notes):
            lost = self._missing_bytes
            notes.append(f"{self.facts.name} is incomplete: at least {lost} bytes are missing at its end.")
        return notes

    @property
    def _stream_frames(self) -> int:
        return int(self._stream.frames or 0)

    def _warn_once(self, note: str) -> None:
        if note not in self._warnings:
            self._warnings.append(note)

    def close(self) -> None:
        self._pictures.close()
        self._decoder.close()
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(
    file: str | Path | BinaryIO, format: str | None, options: dict[str, str] | None, missing: int | None
) -> Any:
    name = str(file) if isinstance(file, str | Path) else "the input"
    if isinstance(file, str | Path):
        check_readable(Path(file))
    try:
        container = open_container(file, format=format, options=options)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        if missing:
            raise InputError(_cut_short(name, missing)) from error
        raise InputError(
            f"{name} is not a video that can be read ({_reason(error)}); give a video file, a folder of "
            "images or a pattern such as frames/%05d.png."
        ) from error
    if container.format.name in _TEXT_FORMATS:
        container.close()
        raise InputError(f"{name} is a text file, not a video; give a video file.")
    return container


def check_readable(path: Path) -> None:
    """Raises `InputError` unless ``path`` is a file with something in it that may be read."""
    if not path.exists():
        raise InputError(f"{path} does not exist; check the name.")
    if path.is_dir():
        raise InputError(f"{path} is a folder without images; give a video file or a folder of images.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} may not be read; check its permissions.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty; give a complete video file.")


def _cut_short(name: str, missing: int) -> str:
    return (
        f"{name} is incomplete: at least {missing} bytes are missing at its end, without which nothing of it can be "
        "read; copy it again."
    )


def _video_stream(container: Any, missing: int | None) -> Any:
    streams = [s for s in container.streams.video if not is_cover(s)]
    if not streams and missing:
        raise InputError(_cut_short(_name(container), missing))
    if not streams:
        raise InputError(f"{_name(container)} has no video stream; give a file with pictures in it.")
    if streams[0].codec_context is None:
        raise InputError(
            f"The video in {_name(container)} is in a codec that this build of FFmpeg cannot decode; "
            "convert it first."
        )
    return streams[0]


def _name(container: Any) -> str:
    name = str(container.name)
    return name.removeprefix("file:") if name and not name.startswith("<") else "the input"


def _reason(error: BaseException) -> str:
    if getattr(error, "errno", None) == errno.EBUSY:  # what FFmpeg makes of a y4m header with an impossible size
        return "its header makes no sense"
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _seconds(time: Fraction) -> str:
    return f"{float(time):.3f}".rstrip("0").rstrip(".")


def _tags(frame: av.VideoFrame, context: Any) -> ColourTags:
    """Colour tags of the bitstream, else of the container."""

    def pick(attribute: str, unspecified: int) -> int:
        for owner in (frame, context):
            value = int(getattr(owner, attribute, unspecified))
            # 0 is "RGB" as a matrix but reserved for primaries and transfer.
            if value != unspecified and (value or attribute == "colorspace"):
                return value
        return unspecified

    colour_range = pick("color_range", 0)
    if frame.format.name in ALIASES:
        colour_range = 2
    return ColourTags(
        pick("colorspace", UNSPECIFIED),
        colour_range,
        pick("color_primaries", UNSPECIFIED),
        pick("color_trc", UNSPECIFIED),
    )


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    data = side_data(frame).get("DISPLAYMATRIX")
    if data is None or len(data) < 36:
        return None
    matrix = struct.unpack("=9i", data[:36])
    return None if matrix == _UPRIGHT else matrix


def _aspect(ratio: Fraction | None) -> Fraction | None:
    return None if not ratio else Fraction(ratio)
