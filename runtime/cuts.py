"""Scene cuts: a cheap measure of whether two consecutive frames belong to one scene.

Both frames are shrunk to `THUMBNAIL` pixels. Two distances are taken, each 0 for equal frames and 1 for
unrelated ones:

structure    1 - the best correlation of the luma thumbnails over small shifts; immune to changes of
             brightness, so flashes and fades are no cuts
colour       1 - the intersection of coarse colour histograms; immune to motion, so pans are no cuts

A cut changes both, so the score is their geometric mean.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import OptionError
from vtsr.runtime.frame import Planes

# Within real clips the score stays below 0.25 even at a third of their rate; cuts between them start at 0.41.
DEFAULT_THRESHOLD = 0.35
THUMBNAIL = (48, 32)  # width, height
REACH = 6  # thumbnail pixels a frame may shift between two frames and still count as the same view
BINS = 8  # histogram bins per channel

Array = NDArray[np.float32]


class SceneCutDetector:
    """Tells for each frame of a stream whether it starts a new scene.

    ``threshold`` is a score from 0 to 1; higher finds fewer cuts, and 1 finds none.
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD) -> None:
        if not 0 <= threshold <= 1:
            raise OptionError(f"The scene threshold must be between 0 and 1, not {threshold}.")
        self.threshold = threshold
        self._previous: tuple[Array, Array] | None = None

    def score(self, picture: Planes) -> float:
        """Distance of this frame from the one before, 0 to 1; 0 for the first."""
        current = _signature(picture)
        previous, self._previous = self._previous, current
        if previous is None:
            return 0.0
        structure = _structure_distance(previous[0], current[0])
        colour = 1 - float(np.minimum(previous[1], current[1]).sum())
        return math.sqrt(structure * max(colour, 0.0))

    def is_cut(self, picture: Planes) -> bool:
        return self.threshold < 1 and self.score(picture) > self.threshold


def _signature(picture: Planes) -> tuple[Array, Array]:
    """Luma thumbnail of zero mean, and a normalised colour histogram."""
    peak = float(2**picture.format.bits - 1)
    small = [
        cv2.resize(plane, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32) / peak
        for plane in picture.planes
    ]
    if picture.format.sampling == "rgb":
        luma = small[0] @ np.array([0.299, 0.587, 0.114], np.float32)
        # Chroma around 0.5, so that one set of bins serves RGB and YUV.
        channels = [luma, 0.5 + (small[0][..., 2] - luma) * 0.5, 0.5 + (small[0][..., 0] - luma) * 0.5]
    else:
        luma, channels = small[0], small
    bins = [np.clip((c * BINS).astype(np.int64), 0, BINS - 1) for c in channels]
    if len(bins) == 3:
        # Real chroma stays within the middle half of its range; spread it over all bins.
        bins[1:] = [np.clip(((c - 0.25) * 2 * BINS).astype(np.int64), 0, BINS - 1) for c in channels[1:]]
    index = np.zeros_like(bins[0])
    for channel in bins:
        index = index * BINS + channel
    histogram = np.bincount(index.ravel(), minlength=BINS ** len(bins)).astype(np.float32)
    return luma - luma.mean(), histogram / histogram.sum()


def _structure_distance(first: Array, second: Array) -> float:
    """1 - the best normalised correlation over shifts of up to `REACH` thumbnail pixels."""
    centre = second[REACH:-REACH, REACH:-REACH]
    if float(np.abs(first).max()) < 1 / 255 and float(np.abs(second).max()) < 1 / 255:
        return 0.0  # two even surfaces
    best = float(cv2.matchTemplate(first, centre, cv2.TM_CCOEFF_NORMED).max())
    return 1 - max(0.0, min(1.0, best)) if math.isfinite(best) else 1.0
