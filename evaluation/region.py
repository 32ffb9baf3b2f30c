"""Which pixels count: all of them, or only those where something moves."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

CHANGE = 8  # 8-bit codes: a pixel that changes by more within a window moves; camera noise stays below
SMOOTHING = 1.0  # pixels, sigma: noise is smoothed away before looking for changes
MARGIN = 5  # pixels: what is near a moving edge belongs to it


def moving_pixels(originals: NDArray[np.uint8]) -> Mask:
    """The pixels of a window of original frames, uint8 (M, H, W, 3), that change in it: bool (H, W).

    A pixel counts if any channel, smoothed a little, varies by more than `CHANGE` codes over the window,
    or if one within `MARGIN` pixels does. Made from the originals alone, so that it favours no method.
    """
    low = high = _smooth(originals[0])
    for frame in originals[1:]:
        smooth = _smooth(frame)
        low, high = np.minimum(low, smooth), np.maximum(high, smooth)
    moving = ((high - low).max(axis=-1) > CHANGE).astype(np.uint8)
    kernel = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
    return np.asarray(cv2.dilate(moving, kernel), np.bool_)


def _smooth(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(frame.astype(np.float32), (0, 0), SMOOTHING), np.float32)
