"""Several lanes: independent pipelines that take turns with one stream of frames. Pure: no CUDA.

Levels of one recursion wait for each other's frames, and the calls of one level for the estimate that the call before
carries on, so that few calls run at the same time; where they are small they leave most of a large GPU idle. Lanes
depend on nothing but the pictures:

    pushes      0 ...  15 | 16 ...  31 | 32 ...  47 | 48 ...
    lane        0         | 1          | 2          | 0           a stint each

A lane that takes over at push p needs the state that the one before had reached there. It makes it again, from the
stored pictures of the ``levels + 1`` pushes before p, which are still on the device: push p - levels - 1 + k gives
level k + 1 its first frame, without a call, and each push after it is a call. A level's state after a call on exact
frames is exact whatever it was before, since what it carries on, the last frame and the estimate of its first half,
comes of the last pair alone. So each level gives out exact frames one push after the level before, and all do at p.
That makes 2^(levels + 1) - levels - 2 pairs per stint on top of 2^levels - 1 per push: with stints of 16 pushes 6 % for
one level and 10 % for three.

These are the very calls of the single lane, engine by engine and with the same rows in the same batches, so that
results are equal bit for bit, given that an engine computes every pair of a batch by itself.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from vtsr.errors import OptionError
from vtsr.runtime.backend import Backend, Tensor
from vtsr.runtime.recursion import Recursion
from vtsr.runtime.tensorrt.settings import Settings


class LanedBackend(Backend, Protocol):
    """A backend whose `ingest` gives stored pictures, of which lanes make frames."""

    def frames(self, stored: Tensor, lane: int) -> Tensor:
        """Float frames of stored pictures, for a lane."""


class Spent:
    """Time spent in the steps of a level, seconds, as `vtsr.runtime.recursion.Level` has it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class LanedRecursion:
    """`vtsr.runtime.recursion.Recursion` with several lanes; takes stored pictures. See the module.

    Raises `OptionError` if a stint is too short for so many levels.
    """

    def __init__(self, backend: LanedBackend, levels: int, lanes: int, stint: int) -> None:
        self._backend, self._count, self._lanes, self._stint = backend, levels, lanes, stint
        self._recursion = Recursion(backend, levels)
        if stint <= levels:
            raise OptionError(f"A stint of {stint} pushes is too short for {levels} levels; use {levels + 1} or more.")
        self._lane = 0
        self._taken = 0  # pushes of this stint
        self._past: deque[Tensor] = deque(maxlen=levels + 1)  # pushes of this scene
        self._seconds = [0.0] * levels

    @property
    def levels(self) -> list[Spent]:
        """Per level, over all lanes."""
        now = (level.seconds for level in self._recursion.levels)
        return [Spent(before + seconds) for before, seconds in zip(self._seconds, now, strict=True)]

    def push(self, stored: Tensor) -> list[Tensor]:
        """Takes the next pictures; returns what the last level gives out, in order of time."""
        if self._taken == self._stint:
            self._change_lanes()
            self._make_up()
        outputs = self._recursion.push(self._backend.frames(stored, self._lane))
        self._past.append(stored)
        self._taken += 1
        return outputs

    def flush(self) -> list[Tensor]:
        """Ends the stream and returns the remaining frames; the next push begins a new stream."""
        outputs = self._recursion.flush()
        self._past.clear()
        self._change_lanes()
        return outputs

    def change(self, levels: int) -> list[Tensor]:
        """Another number of levels is refused."""
        raise OptionError("Several lanes keep their number of levels; open the backend with one lane to change it.")

    def _change_lanes(self) -> None:
        self._seconds = [level.seconds for level in self.levels]
        self._recursion = Recursion(self._backend, self._count)  # lets go of the old state
        self._lane = (self._lane + 1) % self._lanes
        self._taken = 0

    def _make_up(self) -> None:
        """Brings a fresh recursion to where the one of the lane before ended."""
        for number, stored in enumerate(self._past):
            tensor = self._backend.frames(stored, self._lane)
            for index, level in enumerate(self._recursion.levels[: number + 1]):
                if index == number:  # begins with a last frame, without a call
                    count = self._backend.frames_in(tensor)
                    tensor = self._backend.part(tensor, count - 1, count)
                tensor = level.push(tensor)


def recursion_of(backend: LanedBackend, levels: int, settings: Settings) -> Recursion | LanedRecursion:
    """A recursion with as many lanes as the settings say."""
    if settings.lanes == 1:
        return Recursion(backend, levels)
    return LanedRecursion(backend, levels, settings.lanes, settings.stint)
