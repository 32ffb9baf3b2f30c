"""From the frames that are processed to the pixel format that is stored."""

from __future__ import annotations

from dataclasses import replace

import av

from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.video.colour import (
    CODE_OF_MATRIX,
    FULL,
    LIMITED,
    ColourTags,
    nearest_supported,
    pixel_name,
)
from vtsr.runtime.video.facts import VideoFacts
from vtsr.runtime.video.pictures import Converter, frame_of
from vtsr.runtime.video.rgb import planes_of_rgb, rgb_of_planes


class Storage:
    """Converts frames of a video into FFmpeg frames of pixel format ``pix_fmt``.

    ``tags`` describe what is stored. They are the input's own, unless RGB becomes YUV or the other way
    round: then matrix and range are our choice and must be told.
    """

    def __init__(self, facts: VideoFacts, pix_fmt: str) -> None:
        self.pix_fmt = pix_fmt
        self._convert = Converter()
        sampling, bits = nearest_supported(pix_fmt)
        source, self.tags = facts.format, facts.tags
        if sampling == "rgb":
            self.format = PixelFormat("rgb", 8 if bits == 8 else 16)
            self.tags = replace(facts.tags, matrix=0, range=FULL)
        elif source.sampling == "rgb":
            self.format = PixelFormat(sampling, bits, "bt709", False)
            self.tags = ColourTags(
                CODE_OF_MATRIX["bt709"], LIMITED, facts.tags.primaries, facts.tags.transfer
            )
        else:
            self.format = PixelFormat(sampling, bits, source.matrix, source.full_range)

    def __call__(self, planes: Planes) -> av.VideoFrame:
        if planes.format.sampling != "rgb" and self.format.sampling == "rgb":
            image = rgb_of_planes(planes)
            planes = Planes((image,), PixelFormat("rgb", 8 * image.dtype.itemsize))
        elif planes.format.sampling == "rgb" and self.format.sampling != "rgb":
            planes = planes_of_rgb(planes.planes[0], self.format)
        frame = frame_of(planes)
        if pixel_name(planes.format) == self.pix_fmt:
            return frame
        return self._convert(frame, self.pix_fmt, planes.format.full_range)
