"""What happened so far: counts, latencies, and one snapshot of both."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

RECENT = 2000  # newest latencies that percentiles are taken of
BUCKETS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)  # upper bounds, seconds


@dataclass
class Counts:
    """Numbers of things since the start.

    frames_in, frames_out
        Frames pushed and frames given out.
    dropped_full, dropped_late
        Frames pushed but not used: no room to wait, or waited for longer than the latency budget.
    missing
        Frames that the source itself lost, by its timestamps.
    repeats
        Times a picture was shown again because there was no newer one.
    skipped
        Finished frames that came too late to be shown.
    restarts
        Scenes begun anew because frames were missing and something moved.
    cuts, stalls, reconnects, clock_jumps, size_changes, rate_changes, level_changes
        Scene cuts found; times nothing came for a while; connections made again; jumps of the source's clock;
        changes of the frame size, the frame rate and the number of levels.
    """

    frames_in: int = 0
    frames_out: int = 0
    dropped_full: int = 0
    dropped_late: int = 0
    missing: int = 0
    repeats: int = 0
    skipped: int = 0
    restarts: int = 0
    cuts: int = 0
    stalls: int = 0
    reconnects: int = 0
    clock_jumps: int = 0
    size_changes: int = 0
    rate_changes: int = 0
    level_changes: int = 0


class Counter:
    """`Counts` that several threads add to."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._lock = threading.Lock()

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            setattr(self._counts, name, getattr(self._counts, name) + number)

    def snapshot(self) -> Counts:
        with self._lock:
            return Counts(**asdict(self._counts))


@dataclass(frozen=True)
class Latency:
    """From the push of an input frame to a frame made of it being taken, in seconds, over the newest frames.

    buckets
        Numbers of all frames so far, by latency: up to each bound of `BUCKETS`, and above.
    total
        Sum over all frames.
    """

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    count: int = 0
    total: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)


class Latencies:
    """Collects latencies in constant memory."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._max = self._total = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        with self._lock:
            self._recent.append(seconds)
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._max = max(self._max, seconds)
            self._total += seconds

    def snapshot(self) -> Latency:
        with self._lock:
            recent, buckets, longest, total = list(self._recent), tuple(self._buckets), self._max, self._total
        if not recent:
            return Latency()
        p50, p95, p99 = (float(p) for p in np.percentile(recent, (50, 95, 99)))
        return Latency(p50, p95, p99, longest, sum(buckets), total, buckets)


@dataclass(frozen=True)
class LiveStatistics:
    """A snapshot of a live stream.

    seconds
        Since the start.
    rate_in, rate_out
        Frames per second over the last seconds.
    waiting, capacity
        Frames in the waiting room, and how many may be.
    levels, highest
        Recursion levels in use, and at most.
    load
        Share of the frame time that the worker is busy; above 1 it does not keep up.
    duty
        Measured share of the frame time with the shutter open; None if not known.
    """

    seconds: float
    counts: Counts
    latency: Latency
    rate_in: float = 0.0
    rate_out: float = 0.0
    waiting: int = 0
    capacity: int = 0
    levels: int = 0
    highest: int = 0
    load: float = 0.0
    duty: float | None = None

    @property
    def dropped(self) -> int:
        return self.counts.dropped_full + self.counts.dropped_late

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def line(self) -> str:
        """One line for people: the present state, then whatever has happened at all."""
        parts = [
            f"{self.rate_in:.1f} -> {self.rate_out:.1f} fps",
            f"x{2**self.levels}",
            f"load {self.load:.0%}",
            f"waiting {self.waiting}/{self.capacity}",
            f"latency ms p50 {1000 * self.latency.p50:.0f} p95 {1000 * self.latency.p95:.0f} "
            f"p99 {1000 * self.latency.p99:.0f}",
            f"dropped {self.dropped}",
        ]
        shown = {"frames_in", "frames_out", "dropped_full", "dropped_late"}
        for entry in fields(self.counts):
            number = getattr(self.counts, entry.name)
            if number and entry.name not in shown:
                parts.append(f"{entry.name.replace('_', ' ')} {number}")
        if self.duty is not None:
            parts.append(f"shutter {self.duty:.0%}")
        return " | ".join(parts)


@dataclass
class Rate:
    """Events per second over the newest ``span`` seconds, from a snapshot every now and then, since ``began``."""

    began: float
    span: float = 3.0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._marks.append((self.began, 0))

    def see(self, now: float, count: int) -> float:
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[1][0] >= self.span:
            self._marks.popleft()
        (then, before) = self._marks[0]
        return (count - before) / (now - then) if now > then else 0.0
