"""When to show which frame: results come in bursts, one per input frame, and are to be seen evenly."""

from __future__ import annotations

from fractions import Fraction

SETTLE_SECONDS = 5.0  # after which slack that was never used is given back
GIVE_BACK = 0.5  # share of it


class Playout:
    """Gives each frame the moment at which it is due, on the clock of whoever calls.

    A frame is due at its timestamp plus a delay. A late frame raises the delay, up to ``most`` seconds above the least
    one seen; slack that no frame has used for some seconds lowers it again. So the delay is as short as the jitter of
    source and network allows.
    """

    def __init__(self, most: float = 1.0) -> None:
        self._most = most
        self._least: float | None = None  # smallest lateness seen: the delay without any jitter
        self.delay: float | None = None  # seconds from timestamp to due moment
        self._slack = 0.0
        self._window_ends = 0.0

    def due(self, pts: Fraction, now: float) -> float:
        """The moment for a frame that is ready now; earlier than ``now`` if it is too late."""
        needed = now - float(pts)
        if self.delay is None or self._least is None:
            self.delay = self._least = needed
            self._slack, self._window_ends = 0.0, now + SETTLE_SECONDS
            return now
        self._least = min(self._least, needed)
        if needed > self.delay:
            self.delay = min(needed, self._least + self._most)
            self._slack, self._window_ends = 0.0, now + SETTLE_SECONDS
        else:
            self._slack = min(self._slack, self.delay - needed)
            if now >= self._window_ends:
                self.delay -= GIVE_BACK * self._slack
                self._slack, self._window_ends = self.delay - needed, now + SETTLE_SECONDS
        return float(pts) + self.delay

    def restart(self) -> None:
        """After a pause: the next frame is due at once."""
        self.delay = self._least = None
