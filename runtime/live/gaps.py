"""What to do where input frames are missing.

A step takes two frames whose exposures touch. Where frames are missing between them they do not, and the step takes
the longer way for a longer blur: the halves beside the gap come out wrong by up to half the way that things moved in
it. Ending the scene before the gap and starting another after it makes these halves from one side only. Measured on
rendered exposures with one frame missing (mean PSNR of the halves beside the gap in dB, at a speed in pixels per frame
time; doing nothing for comparison):

    speed          0      0.25   0.5    1      2      4      8      12
    going on       59.1   55.4   53.3   49.2   43.5   37.7   33.2   31.9
    starting anew  59.1   54.7   52.7   50.2   46.0   40.8   36.9   34.8
    doing nothing  59.1   55.1   50.6   45.1   39.8   34.6   30.2   27.8

So the scene goes on where things moved by less than about a pixel and a half across the gap.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.frame import Planes

STILL_PIXELS = 1.5  # way across the gap up to which the scene goes on
SHARE = 98  # percentile of the picture that must be as still as that
MAX_SIDE = 320  # pixels of the pictures that are compared

_FLOW = cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST


def luma(picture: Planes) -> NDArray[np.uint8]:
    """Brightness (H, W) in 8 bits."""
    plane = picture.planes[0]
    if picture.format.bits > 8:
        plane = (plane >> (picture.format.bits - 8)).astype(np.uint8)
    if picture.format.sampling == "rgb":
        plane = cv2.cvtColor(np.ascontiguousarray(plane), cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(plane, dtype=np.uint8)


def way(before: Planes, after: Planes) -> float:
    """How far things moved from one picture to another of the same size, in pixels (all but the fastest 2 %)."""
    first, second = luma(before), luma(after)
    scale = max(1.0, max(first.shape) / MAX_SIDE)
    if scale > 1:
        size = (max(16, round(first.shape[1] / scale)), max(16, round(first.shape[0] / scale)))
        first, second = (np.uint8(cv2.resize(p, size, interpolation=cv2.INTER_AREA)) for p in (first, second))
    dis: Any = cv2.DISOpticalFlow.create(_FLOW)
    flow = dis.calc(first, second, None)
    return float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), SHARE)) * scale


def must_restart(before: Planes, after: Planes) -> bool:
    """Whether motion across a gap between two pictures would be wrong."""
    if before.format != after.format or before.planes[0].shape != after.planes[0].shape:
        return True
    return way(before, after) > STILL_PIXELS
