"""Recognising an input frame: where it stands in the video, and a checksum of its samples."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vtsr.runtime.frame import Frame


@dataclass(frozen=True)
class Mark:
    """Index and time (seconds) of an input frame, and the CRC-32 of its planes."""

    index: int
    pts: Fraction
    crc: int

    @classmethod
    def of(cls, frame: Frame) -> Mark:
        crc = 0
        for plane in frame.planes.planes:
            crc = zlib.crc32(np.ascontiguousarray(plane).data, crc)
        return cls(frame.source_index, frame.pts, crc)
