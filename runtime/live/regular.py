"""A constant frame rate for outputs that know no other: y4m, virtual cameras, windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from vtsr.runtime.frame import Frame
from vtsr.runtime.live.statistics import Counter

MOST_REPEATS = 300  # a longer pause is left out rather than filled


class Regular:
    """Repeats and skips frames so that one comes every ``interval`` seconds.

    Slot n shows the newest frame that has begun by then. Repeats and skipped frames are counted in ``counter``.
    """

    def __init__(self, interval: Fraction, counter: Counter) -> None:
        self._interval, self._counter = interval, counter
        self._slot: Fraction | None = None  # time of the next slot
        self._shown: Frame | None = None
        self._used = False  # whether the newest frame has been shown

    def fill(self, frame: Frame) -> Iterator[Frame]:
        """Takes the next frame and gives the frames of all slots before it."""
        if self._slot is None or self._shown is None:
            self._slot, self._shown, self._used = frame.pts, frame, False
            return
        # Timestamps of sources are rounded to their ticks: a frame may be a little late for its slot.
        begin = frame.pts - self._interval / 4
        if begin - self._slot > MOST_REPEATS * self._interval:
            yield from self._show()
            self._slot = frame.pts
        while self._slot < begin:
            yield from self._show()
        if not self._used:
            self._counter.add("skipped")
        self._shown, self._used = frame, False

    def finish(self) -> Iterator[Frame]:
        """The slots of the last frame."""
        if self._shown is None or self._slot is None:
            return
        end = max(self._shown.pts + self._shown.duration, self._slot + self._interval if not self._used else self._slot)
        while self._slot < end - self._interval / 4:
            yield from self._show()

    def _show(self) -> Iterator[Frame]:
        assert self._shown is not None
        assert self._slot is not None
        if self._used:
            self._counter.add("repeats")
        self._used = True
        yield replace(self._shown, pts=self._slot, duration=self._interval)
        self._slot += self._interval
