"""Sub-frames between consecutive frames, by optical flow: smoother averages from fast or slow-rate video.

Averages of frames that are several pixels apart show separate ghosts instead of blur. The thesis
(section 4.1.2) therefore interpolates between consecutive frames of its high-speed videos before it
averages them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]


def between(first: Pixels, second: Pixels, count: int) -> list[Pixels]:
    """``count`` pictures at equal distances in time between two frames, all uint8 (H, W, 3).

    DIS optical flow in both directions; the flow at time t is the mixture of both that Super SloMo
    (Jiang et al., 2018, eq. 4) takes for motion at constant speed, and the two warped frames are
    blended by their closeness in time.
    """
    if count < 1:
        return []
    # Any: OpenCV's type hints do not know that the initial flow may be None.
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    forward, backward = dis.calc(a, b, None), dis.calc(b, a, None)
    height, width = a.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=2).astype(np.float32)
    pictures = []
    for t in (np.arange(count) + 1) / (count + 1):
        to_first = grid + np.float32(-t * (1 - t)) * forward + np.float32(t * t) * backward
        to_second = grid + np.float32((1 - t) ** 2) * forward - np.float32(t * (1 - t)) * backward
        pictures.append(cv2.addWeighted(_warp(first, to_first), 1 - t, _warp(second, to_second), t, 0))
    return pictures


def densify(frames: Iterable[Pixels], factor: int) -> Iterator[Pixels]:
    """All ``frames`` with ``factor - 1`` pictures between each two: N frames to (N - 1) * factor + 1."""
    last = None
    for frame in frames:
        if last is not None:
            yield from between(last, frame, factor - 1)
        yield frame
        last = frame


def _warp(frame: Pixels, places: NDArray[np.float32]) -> Pixels:
    return cv2.remap(frame, places, np.zeros(0), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
