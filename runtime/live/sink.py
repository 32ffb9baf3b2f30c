"""Live sinks: network streams, windows, and what `vtsr.runtime.video` writes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, Protocol

import av
import av.error
import cv2

from vtsr.errors import OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.live.address import scheme, shown
from vtsr.runtime.live.notes import Notes
from vtsr.runtime.live.source import FIRST_WAIT, LONGEST_WAIT, TICK, reason
from vtsr.runtime.video.facts import VideoFacts
from vtsr.runtime.video.pictures import frame_of
from vtsr.runtime.video.storage import Storage

MUXERS = {"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv", "rtp": "rtp_mpegts"}  # else mpegts
MUXER_OPTIONS = {"rtsp": {"rtsp_transport": "tcp"}, "udp": {"pkt_size": "1316"}}
KEY_FRAME_SECONDS = 2
OPEN_SECONDS = 10.0
# x264 without look-ahead and reordering: a frame in, its packet out.
LIVE_ENCODER = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
ESCAPE = 27


class LiveSink(Protocol):
    """Where frames go, in order."""

    def write(self, frame: Frame) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> object: ...


class StreamSink:
    """H.264 over the network, with the frames' own timestamps.

    bitrate
        Bits per second; None encodes at constant quality.

    Raises `OutputError` if the connection cannot be made or breaks.
    """

    def __init__(
        self,
        url: str,
        facts: VideoFacts,
        rate: Fraction,
        *,
        bitrate: int | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self._name = shown(url)
        self._store = Storage(facts, "yuv420p")
        if facts.width % 2 or facts.height % 2:
            raise OutputError(
                f"H.264 streams need an even width and height, not {facts.width}x{facts.height}; choose with --size."
            )
        protocol = scheme(url)
        container_options = {**MUXER_OPTIONS.get(protocol, {}), **(options or {})}
        encoder = {**LIVE_ENCODER, "g": str(max(1, round(KEY_FRAME_SECONDS * rate)))}
        if bitrate is not None:
            del encoder["crf"]
        self._container: Any = None
        try:
            self._container = av.open(
                url, "w", format=MUXERS.get(protocol, "mpegts"), container_options=container_options,
                timeout=OPEN_SECONDS,
            )  # fmt: skip
            self._stream = self._container.add_stream("libx264", rate=rate, options=encoder)
            self._stream.width, self._stream.height = facts.width, facts.height
            self._stream.pix_fmt = "yuv420p"
            context = self._stream.codec_context
            self._stream.time_base = context.time_base = TICK
            context.thread_type = "SLICE"
            tags = self._store.tags
            context.colorspace, context.color_range = tags.matrix, tags.range
            if bitrate is not None:
                context.bit_rate = bitrate
            self._container.start_encoding()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.abandon()
            raise OutputError(
                f"{self._name} cannot be written to ({reason(error)}); check that it takes streams."
            ) from error

    def write(self, frame: Frame) -> None:
        picture = self._store(frame.planes)
        picture.pts, picture.time_base = round(frame.pts / TICK), TICK
        try:
            self._container.mux(self._stream.encode(picture))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise OutputError(f"The connection to {self._name} broke ({reason(error)}); check the server.") from error

    def finish(self) -> None:
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode(None))
        except (av.error.FFmpegError, OSError, ValueError):
            pass  # the other end has gone, and so would its last packets
        finally:
            self.abandon()

    def abandon(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                container.close()


class PersistentSink:
    """A sink that is opened again when it breaks; what comes meanwhile is not sent.

    open
        Opens the sink; the first time at once, and its error is the caller's.
    skipped
        Called for each frame that was not sent.
    """

    def __init__(self, open: Callable[[], LiveSink], notes: Notes, skipped: Callable[[], None]) -> None:
        self._open, self._notes, self._skipped = open, notes, skipped
        self._sink: LiveSink | None = open()
        self._wait, self._next = FIRST_WAIT, 0.0

    def write(self, frame: Frame) -> None:
        if self._sink is None and time.monotonic() >= self._next:
            self._reopen()
        if self._sink is None:
            self._skipped()
            return
        try:
            self._sink.write(frame)
        except OutputError as error:
            self._notes.say("sink", f"{str(error).rstrip('.')}; connecting again.")
            self._sink.abandon()
            self._sink, self._next = None, time.monotonic() + self._wait
            self._skipped()

    def _reopen(self) -> None:
        try:
            self._sink = self._open()
        except OutputError:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self._next = time.monotonic() + self._wait
        else:
            self._wait = FIRST_WAIT
            self._notes.say("sink back", "The output is connected again.")

    def finish(self) -> None:
        if self._sink is not None:
            self._sink.finish()

    def abandon(self) -> None:
        if self._sink is not None:
            self._sink.abandon()


class WindowSink:
    """Shows frames in a window until it is closed or Escape or q is pressed, which raises `WindowClosed`."""

    def __init__(self, title: str = "vtsr") -> None:
        check_window()
        self._title = title
        self._created = self._opened = False

    def _create(self) -> None:
        # Toolkits want a window to stay with the thread that made it.
        try:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise OutputError("A window cannot be opened on this display; choose another sink.") from error
        self._created = True

    def write(self, frame: Frame) -> None:
        if not self._created:
            self._create()
        image = frame_of(frame.planes).to_ndarray(format="bgr24")
        cv2.imshow(self._title, image)
        key = cv2.waitKey(1) & 0xFF
        closed = self._opened and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        if key in (ESCAPE, ord("q")) or closed:
            raise WindowClosed
        self._opened = True

    def finish(self) -> None:
        if self._created:
            self._created = False
            with contextlib.suppress(cv2.error):
                cv2.destroyWindow(self._title)

    def abandon(self) -> None:
        self.finish()


class WindowClosed(Exception):
    """The window of a `WindowSink` was closed: the user's wish, not an error."""


def check_window() -> None:
    """Raises `OutputError` unless a window can be shown."""
    gui = next((line.split(":", 1)[1] for line in cv2.getBuildInformation().splitlines() if "GUI:" in line), "")
    if gui.strip() in ("", "NONE"):
        raise OutputError(
            "The installed OpenCV cannot show windows (it is the headless build); install opencv-python in its place "
            "(pip uninstall opencv-python-headless, pip install opencv-python), or name another sink."
        )
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise OutputError("There is no display to show a window on; name another sink, such as a file or a URL.")


class NullSink:
    """Takes frames and does nothing: for measuring."""

    def write(self, frame: Frame) -> None:
        _ = frame.planes.planes  # a picture that is still on the GPU is waited for

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def live_facts(facts: VideoFacts) -> VideoFacts:
    """The facts with a time base that is fine enough for timestamps that were moved."""
    return replace(facts, time_base=TICK, frames=None, duration=None)
