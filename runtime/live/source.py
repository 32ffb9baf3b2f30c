"""Live sources: cameras, network streams, paced files, pipes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Protocol

import av
import av.error
import cv2

from vtsr.errors import InputError
from vtsr.runtime.frame import Frame, PixelFormat, Planes
from vtsr.runtime.live.address import shown
from vtsr.runtime.live.notes import Notes
from vtsr.runtime.live.statistics import Counter
from vtsr.runtime.video.colour import ALIASES, LIMITED, UNSPECIFIED, ColourTags, pixel_format, pixel_name
from vtsr.runtime.video.containers import open_address, open_container
from vtsr.runtime.video.facts import MAX_PIXELS, VideoFacts
from vtsr.runtime.video.pictures import Converter, planes_of
from vtsr.runtime.video.streams import is_cover

OPEN_SECONDS = 10.0  # for a connection to be made
READ_SECONDS = 3.0  # without a packet before a connection is given up
FIRST_WAIT, LONGEST_WAIT = 0.25, 5.0  # seconds between attempts to connect again; doubled each time
DEFAULT_RATE = Fraction(30)
TICK = Fraction(1, 90_000)  # seconds, for sources without a time base of their own
MOST_ERRORS = 100  # packets in a row that cannot be decoded before the stream is opened again

# Little is probed, and what was read meanwhile is used (fflags=nobuffer would throw away the first key frame).
NETWORK_OPTIONS = {"flags": "low_delay", "analyzeduration": "1000000", "probesize": "1000000"}
SCHEME_OPTIONS = {
    "udp": {"overrun_nonfatal": "1", "fifo_size": "50000"},
    "rtsp": {"rtsp_transport": "tcp"},
}


class Source(Protocol):
    """Where frames come from: iterate once, in a thread that may be blocked; `close` from there as well."""

    facts: VideoFacts

    def __iter__(self) -> Iterator[Frame]: ...
    def close(self) -> None: ...


class AvSource:
    """A file, pipe, device or network stream that PyAV reads.

    size
        (width, height) in pixels that all frames are scaled to; None takes the first frame's.
    timeout
        Seconds to open and seconds without data before `InputError` is raised; None for pipes and files.
    on_resize
        Called with the new width and height when the source changes its size.

    Frames hold YUV planes as they were stored, wherever that is supported.
    """

    def __init__(
        self,
        file: Any,
        *,
        size: tuple[int, int] | None = None,
        format: str | None = None,
        options: dict[str, str] | None = None,
        timeout: tuple[float, float] | None = None,
        threads: int = 1,
        on_resize: Callable[[int, int], None] | None = None,
    ) -> None:
        self.name = shown(file) if isinstance(file, str) else "the input"
        self._size, self._convert = size, Converter()
        self._on_resize = on_resize
        self._scaler = av.video.reformatter.VideoReformatter()
        try:
            address = isinstance(file, str) and not file.startswith("file:")
            named = file if address or not isinstance(file, str) else file.removeprefix("file:")
            opened = open_address if address else open_container
            self._container = opened(named, format=format, options=dict(options or {}), timeout=timeout)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            late = isinstance(error, av.error.ExitError)  # what FFmpeg says when our time limit stops it
            why = "nothing came in time" if late else reason(error)
            raise InputError(f"{self.name} cannot be opened ({why}); check that it is there and on.") from error
        try:
            streams = [s for s in self._container.streams.video if not is_cover(s)]
            if not streams:
                raise InputError(f"{self.name} has no video; give a source with pictures.")
            self._stream = streams[0]
            self._stream.codec_context.thread_count = threads
            self._stream.thread_type = "SLICE"  # threads by frame would hold back one frame each
            self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise InputError(f"No picture of {self.name} could be decoded; check the source.")
            self._first = first
            self._size = self._size or (first.width, first.height)
            self._stored = first.width, first.height
            self.facts = self._facts(first)
        except BaseException:
            self._container.close()
            raise

    def _facts(self, frame: av.VideoFrame) -> VideoFacts:
        stream = self._stream
        tags = _tags(frame)
        assert self._size is not None
        width, height = self._size
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_RATE
        return VideoFacts(
            name=self.name,
            container=self._container.format.name,
            codec=stream.codec_context.name,
            width=width,
            height=height,
            pix_fmt=frame.format.name,
            format=pixel_format(frame.format.name, tags, frame.height),
            frame_rate=Fraction(rate),
            time_base=Fraction(stream.time_base or TICK),
            tags=tags,
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
        )

    def _decode(self) -> Iterator[av.VideoFrame]:
        errors = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.EOFError):
                return
            except av.error.ExitError as error:
                raise InputError(f"{self.name} has sent nothing for a while; check the source.") from error
            except (av.error.FFmpegError, OSError) as error:
                raise InputError(f"{self.name} stopped sending ({reason(error)}); check the source.") from error
            try:
                frames = self._stream.decode(packet)
                errors = 0
            except av.error.FFmpegError as error:
                # Joining in the middle of a stream: nothing can be decoded until the next key frame.
                errors += 1
                if errors > MOST_ERRORS:
                    raise InputError(f"{self.name} cannot be decoded ({reason(error)}); check the source.") from error
                continue
            yield from frames

    def __iter__(self) -> Iterator[Frame]:
        index, frame = 0, self._first
        rate = self.facts.frame_rate
        while frame is not None:
            base = frame.time_base or self._stream.time_base or TICK
            pts = index / rate if frame.pts is None else Fraction(frame.pts * base)
            yield Frame(self._planes(frame), pts, 1 / rate, index)
            index += 1
            frame = next(self._frames, None)

    def _planes(self, frame: av.VideoFrame) -> Planes:
        fmt = self.facts.format
        if (frame.width, frame.height) != self._stored:
            self._stored = frame.width, frame.height
            if self._on_resize is not None:
                self._on_resize(*self._stored)
        assert self._size is not None
        if self._stored != self._size:
            frame = self._scaler.reformat(frame, width=self._size[0], height=self._size[1])
        if ALIASES.get(frame.format.name, frame.format.name) != pixel_name(fmt):
            frame = self._convert(frame, pixel_name(fmt), fmt.full_range)
        return planes_of(frame, fmt)

    def close(self) -> None:
        self._container.close()


def _tags(frame: av.VideoFrame) -> ColourTags:
    def code(attribute: str) -> int:
        value = int(getattr(frame, attribute, UNSPECIFIED))
        return value or UNSPECIFIED

    return ColourTags(
        int(frame.colorspace), int(frame.color_range), code("color_primaries"), code("color_trc")
    )


class CameraSource:
    """A camera that OpenCV opens: ``/dev/videoN`` or a number. Frames are RGB, timed when they arrive.

    A camera that gives no frame for a while ends the iteration with `InputError`.
    """

    def __init__(self, device: str, *, size: tuple[int, int] | None = None, rate: Fraction | None = None) -> None:
        self.name = device if device.startswith("/") else f"/dev/video{device}"
        number = int(self.name.removeprefix("/dev/video"))
        backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
        self._camera = cv2.VideoCapture(number, backend)
        if not self._camera.isOpened():
            raise InputError(f"The camera {self.name} cannot be opened; check that it is there and not in use.")
        self._camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if size is not None:
            self._camera.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._camera.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if rate is not None:
            self._camera.set(cv2.CAP_PROP_FPS, float(rate))
        self._size = size
        ok, image = self._camera.read()
        if not ok:
            self._camera.release()
            raise InputError(f"The camera {self.name} gives no pictures; check that nothing else uses it.")
        self._first = image
        found = self._camera.get(cv2.CAP_PROP_FPS)
        self.facts = rgb_facts(
            self.name, size or (image.shape[1], image.shape[0]),
            rate or (Fraction(found).limit_denominator(1001) if found > 0 else DEFAULT_RATE),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Frame]:
        image, index = self._first, 0
        began = time.monotonic()
        while True:
            if self._size is not None and (image.shape[1], image.shape[0]) != self._size:
                image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
            arrived = Fraction(round((time.monotonic() - began) / TICK)) * TICK
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), arrived, 1 / self.facts.frame_rate, index)
            index += 1
            ok, image = self._camera.read()
            if not ok:
                raise InputError(f"The camera {self.name} stopped sending; check its cable.")

    def close(self) -> None:
        self._camera.release()


def rgb_facts(name: str, size: tuple[int, int], rate: Fraction) -> VideoFacts:
    """Facts of a source of 8-bit RGB pictures."""
    return VideoFacts(
        name=name, container="camera", codec="rawvideo", width=size[0], height=size[1], pix_fmt="rgb24",
        format=PixelFormat(), frame_rate=rate, time_base=TICK, tags=ColourTags(range=LIMITED),
    )  # fmt: skip


def paced(frames: Iterator[Frame], stop: threading.Event) -> Iterator[Frame]:
    """The frames of a file, each at its time; ends when ``stop`` is set."""
    began: float | None = None
    first = Fraction(0)
    for frame in frames:
        if began is None:
            began, first = time.monotonic(), frame.pts
        if stop.wait(max(0.0, began + float(frame.pts - first) - time.monotonic())):
            return
        yield frame


class Reconnecting:
    """A source that is opened again whenever it ends or fails, until ``stop`` is set.

    open
        Opens the source; called once at once, whose `InputError` is the caller's, then after every end. It gets the
        size (width, height) that all frames must have: the first connection's.
    patience
        Seconds without a connection after which `InputError` is raised; None for ever.
    """

    def __init__(
        self,
        open: Callable[[tuple[int, int] | None], Source],
        notes: Notes,
        counter: Counter,
        stop: threading.Event,
        patience: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._open, self._notes, self._counter, self._stop = open, notes, counter, stop
        self._patience = patience
        self._source: Source | None = open(size)
        self.facts = self._source.facts
        self._size = (self.facts.width, self.facts.height)

    def __iter__(self) -> Iterator[Frame]:
        while not self._stop.is_set():
            source = self._source or self._again()
            if source is None:
                return
            self._source = source
            why = "The stream has ended."
            try:
                for frame in source:
                    if self._stop.is_set():
                        return
                    yield frame
            except InputError as error:
                why = str(error)
            source.close()
            self._source = None
            if not self._stop.is_set():
                self._notes.say("lost", f"Connecting again. {why}")

    def _again(self) -> Source | None:
        wait, began = FIRST_WAIT, time.monotonic()
        while not self._stop.wait(wait):
            try:
                source = self._open(self._size)
            except InputError as error:
                if self._patience is not None and time.monotonic() - began > self._patience:
                    raise InputError(f"{self.facts.name} did not come back within {self._patience:g} s.") from error
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            self._counter.add("reconnects")
            self._notes.say("back", f"Connected to {self.facts.name} again.")
            return source
        return None

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()


def reason(error: BaseException) -> str:
    """Why FFmpeg or the system refused, in their words."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")
