"""The exposure check beside a running stream, in a thread of its own."""

from __future__ import annotations

import threading

from vtsr.runtime.frame import Planes
from vtsr.runtime.live.exposure import Exposure, ExposureCheck
from vtsr.runtime.live.notes import Notes

EAGER_SECONDS = 0.25  # between pairs that are looked at, until there is an estimate
IDLE_SECONDS = 10.0  # afterwards: light and exposure may change


class ExposureWatch:
    """Looks at a pair of frames now and then and says when the shutter was not open."""

    def __init__(self, notes: Notes) -> None:
        self.estimate: Exposure | None = None
        self._check = ExposureCheck()
        self._notes = notes
        self._pair: tuple[Planes, Planes] | None = None
        self._next = 0.0
        self._said = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, before: Planes, after: Planes, now: float) -> None:
        """Takes two consecutive frames if it is time for another look, else nothing; returns at once."""
        if now < self._next or before.format != after.format or before.planes[0].shape != after.planes[0].shape:
            return
        with self._changed:
            if self._pair is not None or self._closed:
                return  # still busy
            self._pair = before, after
            self._next = now + (EAGER_SECONDS if self.estimate is None else IDLE_SECONDS)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="vtsr exposure", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pair is not None or self._closed)
                if self._closed or self._pair is None:
                    return
                pair = self._pair
            self._check.see(*pair)
            self.estimate = self._check.estimate
            if self.estimate is not None and not self.estimate.is_open and not self._said:
                self._said = True
                self._notes.say("shutter", self.estimate.sentence)
            with self._changed:
                self._pair = None

    def close(self) -> None:
        """Ends the thread after what it is doing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)
