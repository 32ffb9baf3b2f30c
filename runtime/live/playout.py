"""When to show which frame: results come in bursts, one per input frame, and are to be seen evenly."""

from __future__ import annotations

from collections import deque
from fractions import Fraction

WINDOW_SECONDS = 2.0  # how long a late frame keeps the others waiting
BIN_SECONDS = 0.25


class Playout:
    """Gives each frame the moment at which it is due, on the clock of whoever calls.

    A frame is due at its timestamp plus a delay: the largest lateness of the last seconds, but at most ``most`` seconds
    more than the smallest. So the delay is as short as the jitter of source and network allows, and a hiccup, or the
    backlog that a new connection begins with, is forgotten soon.
    """

    def __init__(self, most: float = 1.0) -> None:
        self._most = most
        self._bins: deque[tuple[float, float, float]] = deque()  # begin, least and largest lateness

    @property
    def delay(self) -> float | None:
        """Seconds from timestamp to due moment; None before the first frame."""
        if not self._bins:
            return None
        return min(max(late for _, _, late in self._bins), min(early for _, early, _ in self._bins) + self._most)

    def due(self, pts: Fraction, now: float) -> float:
        """The moment for a frame that is ready now; earlier than ``now`` if it is too late."""
        needed = now - float(pts)
        if self._bins and now - self._bins[-1][0] < BIN_SECONDS:
            begin, early, late = self._bins[-1]
            self._bins[-1] = begin, min(early, needed), max(late, needed)
        else:
            self._bins.append((now, needed, needed))
        while now - self._bins[0][0] > WINDOW_SECONDS:
            self._bins.popleft()
        delay = self.delay
        assert delay is not None
        return float(pts) + delay
