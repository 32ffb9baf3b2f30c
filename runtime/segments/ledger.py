"""What is noted about the input frames of each segment while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from vtsr.runtime.frame import Frame
from vtsr.runtime.segments.marks import Mark
from vtsr.runtime.segments.span import Span
from vtsr.runtime.video.statistics import Statistics

MARKED = 2  # frames at the end of a segment from which the next one can start


@dataclass
class Observed:
    """Facts about some input frames.

    duplicates, clipped
        How many equal the one before, and the sum of their shares of burnt-out pixels.
    shortest, longest
        Seconds a frame lasts; None before the first.
    clean
        Whether the input was without damage so far.
    tail
        The last frames, if the segment is full.
    """

    frames: int = 0
    duplicates: int = 0
    clipped: float = 0.0
    shortest: Fraction | None = None
    longest: Fraction | None = None
    clean: bool = True
    tail: list[Mark] = field(default_factory=list)

    @property
    def clipped_share(self) -> float:
        return self.clipped / max(1, self.frames)

    def is_constant_rate(self, tolerance: Fraction) -> bool:
        """Whether all frames last equally long, within ``tolerance`` seconds."""
        return self.shortest is None or self.longest is None or self.longest - self.shortest <= tolerance

    @classmethod
    def total(cls, parts: Iterable[Observed]) -> Observed:
        whole = cls()
        for part in parts:
            whole.frames += part.frames
            whole.duplicates += part.duplicates
            whole.clipped += part.clipped
            whole.clean = whole.clean and part.clean
            if part.shortest is not None and part.longest is not None:
                whole.shortest = part.shortest if whole.shortest is None else min(whole.shortest, part.shortest)
                whole.longest = part.longest if whole.longest is None else max(whole.longest, part.longest)
        return whole


class Ledger:
    """Sees every input frame in order and keeps `Observed` per segment of ``size`` frames; None: all in one.

    Frames outside ``span`` are only looked at as neighbours.
    """

    def __init__(self, size: int | None, span: Span, is_clean: Callable[[], bool]) -> None:
        self._size, self._span, self._is_clean = size, span, is_clean
        self._statistics = Statistics()
        self._segments: dict[int, Observed] = {}

    def see(self, frame: Frame) -> None:
        duplicates, clipped = self._statistics.duplicates, self._statistics.clipped
        self._statistics.see(frame)
        index = frame.source_index
        if index not in self._span:
            return
        seen = self._segments.setdefault(index // self._size if self._size else 0, Observed())
        seen.frames += 1
        seen.duplicates += self._statistics.duplicates - duplicates
        seen.clipped += self._statistics.clipped - clipped
        length = frame.duration
        seen.shortest = length if seen.shortest is None else min(seen.shortest, length)
        seen.longest = length if seen.longest is None else max(seen.longest, length)
        if self._size and index % self._size >= self._size - MARKED:
            seen.tail.append(Mark.of(frame))
            seen.clean = self._is_clean()

    def take(self, segment: int) -> Observed:
        """What was seen of a segment, which is then forgotten."""
        return self._segments.pop(segment, Observed())
