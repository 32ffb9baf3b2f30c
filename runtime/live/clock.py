"""One timeline for a source whose own clock may stop, jump, run backwards or not exist.

As long as the source's clock behaves, its timestamps are carried as they are, exactly. Where it jumps, an offset is
taken so that the output goes on after the time that really passed.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

DEFAULT_FRAME_TIME = Fraction(1, 30)  # until anything is known
TICK = 90_000  # per second, for times that were measured here and not given
JUMP_SECONDS = Fraction(1)  # from this difference to the time that really passed on, a clock has jumped
GAP_FRAMES = Fraction(3, 2)  # frames further apart than this many frame times have something missing between
WINDOW = 15  # frame distances that the frame time is taken from
AGREEING = Fraction(2, 3)  # share of them that must agree before the frame time is another one
RATE_TOLERANCE = Fraction(15, 100)  # by which it must differ from before to count as a change
PULL = 8  # arrivals correct the clock of a source without timestamps by 1/PULL of what they are off


@dataclass(frozen=True)
class Placed:
    """Where a frame stands.

    pts, frame_time
        On the output's timeline, in seconds.
    ordinal
        Number of the frame on the source's grid of frame times: consecutive frames differ by 1.
    scene
        Changes where nothing can be said about the time between two frames.
    jumped, rate_changed
        Whether this frame showed a jump of the clock, or another frame rate.
    """

    pts: Fraction
    frame_time: Fraction
    ordinal: int
    scene: int
    jumped: bool = False
    rate_changed: bool = False


class SourceClock:
    """Places frames on a timeline that never goes back.

    frame_time
        Seconds from frame to frame, if it is known beforehand; it is measured anyway.
    """

    def __init__(self, frame_time: Fraction | None = None) -> None:
        self.frame_time = frame_time or DEFAULT_FRAME_TIME
        self._known = frame_time is not None
        self._distances: deque[Fraction] = deque(maxlen=WINDOW)
        self._offset = Fraction(0)
        self._last: Placed | None = None
        self._source_pts: Fraction | None = None  # of the last frame, on the source's clock
        self._arrival = 0.0
        self._lag = Fraction(0)  # arrivals since the place of the last frame, for sources without timestamps

    def place(self, pts: Fraction | None, arrival: float) -> Placed:
        """Takes the next frame's timestamp on the source's clock (or None) and when it arrived, in seconds."""
        last = self._last
        if last is None:
            placed = Placed(Fraction(0) if pts is None else pts, self.frame_time, 0, 0)
        else:
            passed = _ticks(max(0.0, arrival - self._arrival))
            known = pts is not None and self._source_pts is not None
            distance = pts - self._source_pts if known else passed  # type: ignore[operator]
            # The next timestamp at the usual distance is right, however long it was under way.
            far = distance > GAP_FRAMES * self.frame_time and abs(distance - passed) > JUMP_SECONDS
            jumped = not known or distance <= 0 or far
            rate_changed = self._learn(distance, measured=pts is None) if pts is None or not jumped else False
            if pts is None:
                placed = self._after_arrival(last, passed, rate_changed)
            elif jumped:
                placed = self._after_jump(last, pts, passed, distance)
            else:
                placed = self._after(last, pts + self._offset, rate_changed)
        self._last, self._source_pts, self._arrival = placed, pts, arrival
        return placed

    def _after(self, last: Placed, pts: Fraction, rate_changed: bool, scene: int | None = None) -> Placed:
        distance = pts - last.pts
        missing = 0 if distance <= GAP_FRAMES * self.frame_time else max(1, round(distance / self.frame_time) - 1)
        scene = last.scene if scene is None else scene
        return Placed(pts, self.frame_time, last.ordinal + 1 + missing, scene, rate_changed=rate_changed)

    def _after_jump(self, last: Placed, pts: Fraction, passed: Fraction, distance: Fraction) -> Placed:
        # A timestamp that is repeated or a little late is disorder; beyond that, nobody knows what was between.
        disorder = -self.frame_time <= distance <= 0 and passed <= JUMP_SECONDS
        at = last.pts + max(self.frame_time, Fraction(0) if disorder else passed)
        self._offset = at - pts
        scene = last.scene if disorder else last.scene + 1
        placed = self._after(last, at, False, scene)
        return Placed(placed.pts, placed.frame_time, placed.ordinal, scene, jumped=True)

    def _after_arrival(self, last: Placed, passed: Fraction, rate_changed: bool) -> Placed:
        """Arrivals jitter and exposures do not: frames keep their distance, drawn towards the arrivals."""
        self._lag += passed
        off = self._lag - self.frame_time
        lost = off > self.frame_time / 2  # frames, or the source stood still
        step = self._lag if lost else max(self.frame_time / 4, self.frame_time + off / PULL)
        step = Fraction(max(1, round(step * TICK)), TICK)
        self._lag -= step
        return self._after(last, last.pts + step, rate_changed)

    def _learn(self, distance: Fraction, measured: bool) -> bool:
        """Whether the frame rate is another one from now on."""
        self._distances.append(distance)
        if measured:  # arrivals jitter: only a mean is any good, without what is far from it
            edge = len(self._distances) // 5
            middle = sorted(self._distances)[edge : len(self._distances) - edge]
            typical = max(Fraction(sum(middle), len(middle)), Fraction(1, TICK))
        else:
            typical = statistics.median_low(self._distances)
        if not self._known:
            self.frame_time = typical
        if len(self._distances) < WINDOW:
            return False
        alike = sum(abs(d - typical) <= RATE_TOLERANCE * typical for d in self._distances)
        if alike < AGREEING * WINDOW:
            return False
        changed = self._known and abs(typical - self.frame_time) > RATE_TOLERANCE * self.frame_time
        if changed:
            self.frame_time = typical
        self._known = True
        return changed


def _ticks(seconds: float) -> Fraction:
    return Fraction(round(seconds * TICK), TICK)
