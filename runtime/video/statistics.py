"""Cheap observations on the input: frames shown twice, highlights that are burnt out."""

from __future__ import annotations

import numpy as np

from vtsr.runtime.frame import Frame, Image, PixelFormat, Planes

SAMPLE_STEP = 4  # every fourth pixel each way is looked at
VIDEO_WHITE = 235  # luma of white in limited range, 8 bits


class Statistics:
    """Counts over all frames seen.

    duplicates
        Frames that equal the one before: telecine, animation on twos, or simply a still.
    clipped
        Sum of all frames' shares of pixels at white or above, where the exposure law cannot hold; their mean is
        ``clipped_share``.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.clipped = 0.0
        self._frames = 0
        self._previous: Image | None = None

    def see(self, frame: Frame) -> None:
        planes = frame.planes
        sample = np.array(planes.planes[0][::SAMPLE_STEP, ::SAMPLE_STEP])
        if self._previous is not None and np.array_equal(sample, self._previous):
            self.duplicates += 1
        self.clipped += float(np.mean(sample.reshape(sample.shape[0] * sample.shape[1], -1).max(1) >= white(planes)))
        self._frames += 1
        self._previous = sample

    @property
    def clipped_share(self) -> float:
        return self.clipped / max(1, self._frames)


def white(planes: Planes) -> int:
    """The code from which the first plane of a picture is white."""
    fmt: PixelFormat = planes.format
    if fmt.sampling == "rgb" or fmt.full_range:
        return int(2**fmt.bits - 1)
    return VIDEO_WHITE << (fmt.bits - 8)
