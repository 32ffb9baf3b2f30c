"""Dense optical flow by OpenCV's DIS (Kroeger et al., Fast optical flow using dense inverse search, 2016)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.float32]


def dis_flow(first: NDArray[np.uint8], second: NDArray[np.uint8], finest_scale: int = 1) -> Flow:
    """Flow from ``first`` to ``second``, uint8 RGB (H, W, 3): float32 (H, W, 2), x and y in pixels.

    ``finest_scale`` 0 computes it at full size, 1 (the preset's) at half size and enlarges it.
    """
    # Any: OpenCV's type hints do not know that the initial flow may be None.
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(finest_scale)
    a, b = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second))
    return np.asarray(dis.calc(a, b, None), np.float32)
