"""Rotation and flips that a container only notes down, carried out on the pixels.

Needed where the output has no place for the note: images, y4m, raw video, WebM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vtsr.runtime.frame import Frame, PixelFormat, Planes
from vtsr.runtime.video.facts import VideoFacts


def is_right_angled(matrix: tuple[int, ...]) -> bool:
    """Whether a display matrix is made of quarter turns and flips alone."""
    a, b, _, c, d = matrix[:5]
    return (a != 0 and d != 0 and b == c == 0) or (a == d == 0 and b != 0 and c != 0)


def _swaps_axes(matrix: tuple[int, ...]) -> bool:
    return matrix[0] == 0


def upright_facts(facts: VideoFacts) -> VideoFacts:
    """The facts of the video once its pixels stand upright; its display matrix must be right-angled."""
    matrix = facts.display_matrix
    if matrix is None:
        return facts
    facts = replace(facts, display_matrix=None)
    if not _swaps_axes(matrix):
        return facts
    ratio = facts.sample_aspect_ratio
    return replace(
        facts,
        width=facts.height,
        height=facts.width,
        format=_turned_format(facts.format),
        sample_aspect_ratio=None if ratio is None else 1 / ratio,
    )


def _turned_format(fmt: PixelFormat) -> PixelFormat:
    # 4:2:2 turned by 90 degrees would be 4:4:0, which hardly anything reads; 4:4:4 keeps all of it.
    return replace(fmt, sampling="yuv444") if fmt.sampling == "yuv422" else fmt


def upright(frames: Iterator[Frame], matrix: tuple[int, ...]) -> Iterator[Frame]:
    """The frames with the display matrix (p' = a p + c q, q' = b p + d q) applied to their pixels."""
    a, b, _, c, d = matrix[:5]
    swap = _swaps_axes(matrix)
    flip_x, flip_y = (c < 0, b < 0) if swap else (a < 0, d < 0)
    for frame in frames:
        planes = frame.planes
        arrays, fmt = list(planes.planes), planes.format
        if swap and fmt.sampling == "yuv422":
            arrays[1:] = [chroma.repeat(2, axis=1)[:, : planes.width] for chroma in arrays[1:]]
        if swap:
            fmt = _turned_format(fmt)
            arrays = [array.swapaxes(0, 1) for array in arrays]
        if flip_x:
            arrays = [array[:, ::-1] for array in arrays]
        if flip_y:
            arrays = [array[::-1] for array in arrays]
        yield replace(frame, picture=Planes(tuple(np.ascontiguousarray(x) for x in arrays), fmt))
