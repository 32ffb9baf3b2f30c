"""How many recursion levels the machine can do at the source's frame rate."""

from __future__ import annotations

from collections import deque

WINDOW = 8  # frames over which the load is averaged
TOO_MUCH = 0.95  # load from which the number of levels goes down
ENOUGH = 0.75  # load that another level may bring at most
HOLD_SECONDS = 2.0  # without trouble before the number goes up
MAX_HOLD_SECONDS = 60.0  # after attempts that failed
STABLE_SECONDS = 30.0  # after which an attempt has succeeded


class LevelController:
    """Chooses the number of levels from the load: the share of the frame time that the worker is busy.

    highest, lowest
        Range of the number of levels. At 0 frames are handed on as they are.

    It goes down at once, to the highest number that is expected to fit, and up one by one, after a while in which there
    would have been room. What a level costs relative to the next is measured whenever the number changes; an attempt
    that fails doubles the time until the next one.
    """

    def __init__(self, highest: int, lowest: int = 0) -> None:
        self.highest, self.lowest = highest, lowest
        self.level = highest
        self._loads: deque[float] = deque(maxlen=WINDOW)
        self._since: float | None = None  # of the present level
        self._quiet_since: float | None = None
        self._hold = HOLD_SECONDS
        self._raised_at: float | None = None
        self._previous: tuple[int, float] | None = None  # the level before the present one, and its load
        # Cost of a level in pairs evaluated, until it is known better.
        self._cost = {level: float(2**level - 1) for level in range(highest + 1)}

    @property
    def load(self) -> float:
        """Mean over the last frames but the slowest, which may be somebody else's fault; 0 before the first."""
        loads = sorted(self._loads)
        counted = loads[:-1] or loads
        return sum(counted) / len(counted) if counted else 0.0

    def observe(self, busy: float, frame_time: float, late: bool, now: float) -> int:
        """The number of levels for the next frames.

        busy, frame_time
            Seconds that the last frame took, and that it lasts.
        late
            Whether a frame was dropped or exceeded the latency budget.
        now
            Seconds on any clock.
        """
        self._since = now if self._since is None else self._since
        self._loads.append(busy / frame_time)
        settled = len(self._loads) == WINDOW
        if settled and self.level > 0:
            self._learn()
        if self._raised_at is not None and now - self._raised_at > STABLE_SECONDS:
            self._raised_at, self._hold = None, HOLD_SECONDS
        trouble = late or (settled and self.load > TOO_MUCH)
        if trouble:
            self._quiet_since = None
            # A single hiccup, or what is left in the queue from before the last change, is no reason.
            if len(self._loads) >= WINDOW // 2 and self.level > self.lowest and self.load > ENOUGH:
                self._lower(now)
            return self.level
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        quiet = now - max(self._quiet_since, self._since)
        if settled and self.level < self.highest and quiet >= self._hold and self._fits(self.level + 1):
            self._raised_at = now
            self._change(self.level + 1, now)
        return self.level

    def _expected(self, level: int) -> float:
        """Load at another level, from the present one's."""
        if self.level == 0:
            return 0.0  # nothing is measured while frames are handed on: only trying tells
        return self.load * self._cost[level] / self._cost[self.level]

    def _fits(self, level: int) -> bool:
        return self._expected(level) <= ENOUGH

    def _learn(self) -> None:
        # Only the ratio to the level that was measured before matters; see `_change`.
        if self._previous is not None:
            level, load = self._previous
            if level > 0 and load > 0 and self.load > 0:
                ratio = self.load / load
                expected = self._cost[self.level] / self._cost[level]
                # The same machine a moment later: beyond a factor of two it is not the level that made the difference.
                if 0.5 < ratio / expected < 2:
                    self._cost[self.level] = self._cost[level] * ratio
            self._previous = None

    def _lower(self, now: float) -> None:
        if self._raised_at is not None:
            self._hold, self._raised_at = min(2 * self._hold, MAX_HOLD_SECONDS), None
        below = range(self.level - 1, self.lowest - 1, -1)
        self._change(next((level for level in below if self._fits(level)), self.lowest), now)

    def _change(self, level: int, now: float) -> None:
        self._previous = (self.level, self.load)
        self.level, self._since, self._quiet_since = level, now, None
        self._loads.clear()
