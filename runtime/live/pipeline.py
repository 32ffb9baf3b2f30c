"""One live run: a source thread, the upconverter's worker, a sink thread, and a caller who only waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from fractions import Fraction

from vtsr.errors import OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.job import Channel, Stopped
from vtsr.runtime.live.playout import Playout
from vtsr.runtime.live.regular import Regular
from vtsr.runtime.live.sink import LiveSink, WindowClosed
from vtsr.runtime.live.statistics import Counter
from vtsr.runtime.live.upconverter import LiveUpconverter

SOURCE_THREAD = "vtsr source"
POLL_SECONDS = 0.05  # how long a wait lasts before signals and other threads are looked at
LEAVE_SECONDS = 1.0  # a source that is blocked in a read is left behind after that
MOST_DUE = 512  # finished frames that may wait to be shown
LATEST = 4  # frame times by which a frame may be late and is still shown


class Presenter:
    """Hands results to a sink: evenly in time, at a constant rate, or as they come.

    playout
        Each frame is written when it is due, by a thread of its own; None writes it at once.
    regular
        Fills a constant frame rate; None keeps the frames' own times.
    """

    def __init__(
        self,
        sink: LiveSink,
        counter: Counter,
        playout: Playout | None = None,
        regular: Regular | None = None,
    ) -> None:
        self._sink, self._counter = sink, counter
        self._playout, self._regular = playout, regular
        self._due: Channel[tuple[Frame, float]] = Channel(MOST_DUE)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def show(self, frame: Frame) -> None:
        """Takes the next result; raises what an earlier one failed with."""
        if self._playout is None:
            self._write(frame)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_when_due, name="vtsr playout", daemon=True)
            self._thread.start()
        try:
            self._due.put((frame, self._playout.due(frame.pts, time.monotonic())))
        except Stopped:
            assert self._failure is not None
            raise self._failure from None

    def _write(self, frame: Frame) -> None:
        for shown in (frame,) if self._regular is None else self._regular.fill(frame):
            self._sink.write(shown)

    def _write_when_due(self) -> None:
        try:
            for frame, due in self._due:
                now = time.monotonic()
                if now - due > LATEST * float(frame.duration):
                    self._counter.add("skipped")
                    continue
                if due > now:
                    time.sleep(due - now)
                self._write(frame)
            self._end()
        except BaseException as error:  # noqa: BLE001  # raised by `show` and `finish`
            self._failure = error
            self._due.abort()

    def _end(self) -> None:
        if self._regular is not None:
            for shown in self._regular.finish():
                self._sink.write(shown)
        self._sink.finish()

    def finish(self) -> None:
        """Writes what is left and finishes the sink."""
        if self._thread is None:
            self._end()
            return
        self._due.close()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


class Pipeline:
    """Runs frames from ``source`` through ``live`` to ``presenter``.

    stop
        Ends the run when it is set: what waits is processed, and the sink finished.
    """

    def __init__(
        self,
        source: Iterable[Frame],
        live: LiveUpconverter,
        presenter: Presenter,
        sink: LiveSink,
        stop: threading.Event,
    ) -> None:
        self._source, self._live, self._presenter, self._sink = source, live, presenter, sink
        self._stop = stop
        self._failure: BaseException | None = None
        # What `run` waits for, asleep: up to Python 3.12, a `join` that a signal interrupts takes the thread for ended.
        self._was_read = self._shown = False

    def run(
        self,
        *,
        seconds: Fraction | None = None,
        each: Callable[[], None] | None = None,
        interval: float = 1.0,
    ) -> None:
        """Returns at the end of the source, after ``seconds``, or once stopped; calls ``each`` now and then.

        Raises the first error of any thread and `KeyboardInterrupt`, in both cases after the sink was finished if it
        still works.
        """
        reader = threading.Thread(target=self._read, name=SOURCE_THREAD, daemon=True)
        shower = threading.Thread(target=self._show, name="vtsr sink", daemon=True)
        began = time.monotonic()
        interrupted = False
        try:
            shower.start()
            reader.start()
            following = began + interval
            while not self._shown and not self._stop.is_set():
                time.sleep(POLL_SECONDS)
                now = time.monotonic()
                if seconds is not None and now - began >= seconds:
                    break
                if each is not None and now >= following:
                    each()
                    following = max(following + interval, now)
        except KeyboardInterrupt:
            interrupted = True
        self._stop.set()
        self._live.finish()
        while not self._shown:  # a second Ctrl-C ends this
            time.sleep(POLL_SECONDS)
        leave = time.monotonic() + LEAVE_SECONDS
        while not self._was_read and time.monotonic() < leave:
            time.sleep(POLL_SECONDS)
        if self._failure is not None:
            raise self._failure
        if interrupted:
            raise KeyboardInterrupt

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._stop.set()

    def _read(self) -> None:
        try:
            for frame in self._source:
                if self._stop.is_set():
                    break
                self._live.push(frame)
        except BaseException as error:  # noqa: BLE001  # raised by `run`
            self._fail(error)
        finally:
            self._live.finish()
            self._was_read = True

    def _show(self) -> None:
        try:
            self._show_all()
        finally:
            self._shown = True

    def _show_all(self) -> None:
        try:
            for frame in self._live:
                self._presenter.show(frame)
        except WindowClosed:
            self._stop.set()
        except BaseException as error:  # noqa: BLE001  # raised by `run`
            self._fail(error)
            if isinstance(error, OutputError):
                self._sink.abandon()
                return
        try:
            self._presenter.finish()
        except WindowClosed:
            pass
        except BaseException as error:  # noqa: BLE001  # raised by `run`
            self._sink.abandon()
            self._fail(error)
