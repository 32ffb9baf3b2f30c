"""Which input frames a part of the output is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vtsr.runtime.frame import Frame

# Input frames. At two levels 240 output frames, about as many as x264 puts between keyframes anyway.
SEGMENT_FRAMES = 60


def overlap(levels: int) -> int:
    """Input frames before and behind a part that its output depends on: 1 for one level, 2 for more.

    The halves of a frame come from its pairs with both neighbours, so level 1 looks one frame time T to each side,
    level 2 half a frame time further (from a half whose own neighbour it needs), level 3 another quarter, ...:
    T (1 + 1/2 + 1/4 + ...) < 2 T in all, whatever the number of levels.
    """
    return min(levels, 2)


@dataclass(frozen=True)
class Span:
    """Input frames ``first`` to ``stop`` (exclusive; None: to the end), by index."""

    first: int = 0
    stop: int | None = None

    def __contains__(self, index: int) -> bool:
        return index >= self.first and (self.stop is None or index < self.stop)

    def begin(self, levels: int) -> int:
        """The first frame that has to be read."""
        return max(0, self.first - overlap(levels))

    def limited(self, frames: Iterable[Frame], levels: int) -> Iterator[Frame]:
        """``frames`` up to the last one that is needed; none behind it is asked for."""
        if self.stop is None:
            yield from frames
            return
        last = self.stop + overlap(levels) - 1
        for frame in frames:
            yield frame
            if frame.source_index >= last:
                return


def gaps(done: Iterable[int], size: int, ended: bool) -> list[Span]:
    """What is left to do when the segments ``done``, of ``size`` frames each, are finished.

    ended
        Whether the video is known to end with the last of them.
    """
    numbers = sorted(set(done))
    spans, expected = [], 0
    for number in numbers:
        if number > expected:
            spans.append(Span(expected * size, number * size))
        expected = number + 1
    if not ended:
        spans.append(Span(expected * size))
    return spans
