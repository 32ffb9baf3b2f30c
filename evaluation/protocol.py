"""The protocol: blurred inputs and true exposures, both averages of the frames of a high-speed clip.

A window of M consecutive original frames, averaged and rounded to 8 bits, is one input frame; the mean of
M / 2^k of them, rounded likewise, is what level k should give back. Truth is rounded because targets are
pictures, as in the thesis' data sets, and so that frames saved by another system are scored by the same
rule; at 40 dB the rounding moves a score by less than 0.06 dB, the same for every method. Frames after
the last whole window are left out.
Source: G. F. Torres Vanegas, A deep learning framework for video temporal super-resolution, 2020,
sections 3.4 and 4.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import OptionError

Image = NDArray[np.uint8]

MAX_LEVEL = 4  # f^4, the deepest recursion of the thesis


@dataclass(frozen=True)
class Window:
    """The original frames behind one input frame: uint8 (M, H, W, 3), and how they are averaged."""

    index: int
    originals: Image
    linear: bool = False

    @property
    def blurred(self) -> Image:
        """The input frame: the mean of all originals, uint8 (H, W, 3)."""
        return np.asarray(exposures(self.originals, 1, self.linear)[0], np.uint8)

    def truth(self, parts: int) -> Image:
        """The true exposures that divide the window into ``parts``: uint8 (parts, H, W, 3)."""
        return exposures(self.originals, parts, self.linear)


def windows(frames: Iterable[Image], size: int, linear: bool = False) -> Iterator[Window]:
    """Consecutive windows of ``size`` frames each; holds one window in memory at a time."""
    if size < 1:
        raise OptionError(f"The window must be at least 1 frame, not {size}.")
    pending: list[Image] = []
    index = 0
    for frame in frames:
        pending.append(frame)
        if len(pending) == size:
            yield Window(index, np.stack(pending), linear)
            pending, index = [], index + 1


def levels_of(window: int) -> int:
    """The deepest level a window can judge: log2 of it, at most `MAX_LEVEL`.

    Raises `OptionError` unless the window is a power of two, 2 at least.
    """
    if window < 2 or window & (window - 1):
        raise OptionError(f"The window must be a power of two (2, 4, 8, 16, ...), not {window}.")
    return min(window.bit_length() - 1, MAX_LEVEL)


def exposures(originals: Image, parts: int, linear: bool = False) -> Image:
    """Means over ``parts`` equal stretches of time: uint8 (M, H, W, 3) -> uint8 (parts, H, W, 3).

    A frame that two stretches share counts in each with the part of its time that falls there, so
    ``parts`` need not divide M. ``linear`` averages in linear light (sRGB) instead of coded values.
    """
    if parts < 1:
        raise OptionError(f"A window divides into at least 1 part, not {parts}.")
    weights = _overlaps(len(originals), parts)
    result = np.empty((parts, *originals.shape[1:]), np.uint8)
    for part in range(parts):
        used = np.flatnonzero(weights[part])
        total = np.zeros(originals.shape[1:], np.float32)
        for m in used:
            frame = _DECODE[originals[m]] if linear else originals[m].astype(np.float32)
            total += np.float32(weights[part, m]) * frame
        if linear:
            total = encode(total) * np.float32(255)
        result[part] = to_uint8(total)
    return result


def to_uint8(values: NDArray[np.floating]) -> Image:
    """Values on the scale 0..255, clamped and rounded to the nearest 8-bit code."""
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def encode(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light in [0, 1] to sRGB coded values in [0, 1] (IEC 61966-2-1)."""
    low = light * 12.92
    high = 1.055 * np.power(np.maximum(light, 0.0031308), 1 / 2.4) - 0.055
    return np.asarray(np.where(light <= 0.0031308, low, high), np.float32)


def _decode_table() -> NDArray[np.float32]:
    coded = np.arange(256) / 255
    light = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    return np.asarray(light, np.float32)


_DECODE = _decode_table()  # 8-bit sRGB code -> linear light


def _overlaps(frames: int, parts: int) -> NDArray[np.float64]:
    """(parts, frames): the share of each part's time that each frame fills; rows sum to 1."""
    frame_edges = np.arange(frames + 1) * parts  # in units of 1 / (frames * parts): integers, exact
    part_edges = np.arange(parts + 1) * frames
    start = np.maximum(frame_edges[None, :-1], part_edges[:-1, None])
    end = np.minimum(frame_edges[None, 1:], part_edges[1:, None])
    return np.maximum(end - start, 0) / frames
