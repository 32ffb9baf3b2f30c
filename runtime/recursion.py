"""Streaming recursion: f^N on a stream of frames, level by level.

A level doubles the frame rate of the stream that runs through it. It needs to remember one frame and the
estimate of that frame's first half; frames come out one input frame late. Levels are chained: level k
receives 2**(k-1) frames per input frame and runs them as one batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from vtsr.errors import OptionError
from vtsr.options import MAX_LEVELS
from vtsr.runtime.backend import Backend, Tensor


class Level:
    """One recursion level as an operator on a stream; ``seconds`` is the time spent in its steps."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._u: Tensor | None = None
        self._a_u: Tensor | None = None
        self.seconds = 0.0

    def push(self, v: Tensor) -> Tensor | None:
        """Takes the next B frames; returns the halves of all frames but the newest, or None."""
        began = time.perf_counter()
        if self._u is None:
            self._u, self._a_u = self._backend.part(v, 0, 1), None
            v = self._backend.part(v, 1, self._backend.frames_in(v))
            if self._backend.frames_in(v) == 0:
                return None
        halves, self._u, self._a_u = self._backend.step(self._u, self._a_u, v)
        self.seconds += time.perf_counter() - began
        return halves

    def flush(self) -> Tensor | None:
        """Ends the stream: returns both halves of the last frame, or None if there was no frame."""
        if self._u is None:
            return None
        halves = self._backend.finish(self._u, self._a_u)
        self._u = self._a_u = None
        return halves


class Recursion:
    """f^levels as an operator on a stream: N frames in, 2**levels * N frames out."""

    def __init__(self, backend: Backend, levels: int) -> None:
        if not 1 <= levels <= MAX_LEVELS:
            raise OptionError(f"The number of levels must be 1 to {MAX_LEVELS}, not {levels}.")
        self._backend = backend
        self._active = levels
        self.levels = [Level(backend) for _ in range(levels)]  # the active ones first

    def push(self, frames: Tensor) -> list[Tensor]:
        """Takes the next frames; returns what the last level gives out, in order of time."""
        return _through(self.levels[: self._active], [frames])

    def flush(self) -> list[Tensor]:
        """Ends the stream and returns the remaining frames; the next push begins a new stream."""
        return _flushed(self.levels[: self._active])

    def change(self, levels: int) -> list[Tensor]:
        """Goes on with another number of levels, 0 included, and returns what has to come out before that.

        Levels that go are flushed, the others keep their state: the stream goes on where they are.
        """
        if not 0 <= levels <= MAX_LEVELS:
            raise OptionError(f"The number of levels must be 0 to {MAX_LEVELS}, not {levels}.")
        outputs = _flushed(self.levels[levels : self._active])
        while len(self.levels) < levels:
            self.levels.append(Level(self._backend))
        self._active = levels
        return outputs


def recursion_of(backend: Backend, levels: int) -> Any:
    """f^levels on a backend: a `Recursion`, or what the backend has of its own in its place."""
    own = getattr(backend, "recursion", None)
    return Recursion(backend, levels) if own is None else own(levels)


def _flushed(levels: Iterable[Level]) -> list[Tensor]:
    outputs: list[Tensor] = []
    for level in levels:
        outputs = _through([level], outputs)
        last = level.flush()
        if last is not None:
            outputs.append(last)
    return outputs


def _through(levels: Iterable[Level], tensors: list[Tensor]) -> list[Tensor]:
    for level in levels:
        pushed = [level.push(tensor) for tensor in tensors]
        tensors = [tensor for tensor in pushed if tensor is not None]
    return tensors
