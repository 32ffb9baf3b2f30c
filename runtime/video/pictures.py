"""Pictures between FFmpeg's frames and NumPy planes."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from vtsr.runtime.frame import CHROMA_BLOCK, PixelFormat, Planes
from vtsr.runtime.video.colour import (
    ALIASES,
    CODE_OF_MATRIX,
    FULL,
    LIMITED,
    SWS_MATRIX,
    SWS_RANGE,
    pixel_name,
)

# swscale's default rounding loses up to two codes; this keeps conversions within one.
_QUALITY = (
    int(Interpolation.BICUBIC)
    | 0x2000  # SWS_FULL_CHR_H_INT
    | 0x4000  # SWS_FULL_CHR_H_INP
    | 0x40000  # SWS_ACCURATE_RND
)


def plane_sizes(fmt: PixelFormat, width: int, height: int) -> list[tuple[int, int]]:
    """(height, samples per row) of each plane of a ``width`` x ``height`` picture."""
    if fmt.sampling == "rgb":
        return [(height, 3 * width)]
    if fmt.sampling == "gray":
        return [(height, width)]
    block_w, block_h = CHROMA_BLOCK[fmt.sampling]
    chroma = (-(-height // block_h), -(-width // block_w))
    return [(height, width), chroma, chroma]


class Converter:
    """Converts FFmpeg frames between pixel formats, keeping matrix and range unless told otherwise."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(
        self, frame: av.VideoFrame, pix_fmt: str, source: PixelFormat, target: PixelFormat
    ) -> av.VideoFrame:
        """``frame``, stored as ``source`` describes, in ``pix_fmt`` with ``target``'s matrix and range."""
        if ALIASES.get(frame.format.name, frame.format.name) == pix_fmt and source == target:
            return frame
        return self._reformatter.reformat(
            frame,
            format=pix_fmt,
            src_colorspace=SWS_MATRIX[source.matrix],
            dst_colorspace=SWS_MATRIX[target.matrix],
            src_color_range=SWS_RANGE[source.full_range],
            dst_color_range=SWS_RANGE[target.full_range],
            interpolation=_QUALITY,
        )


def planes_of(frame: av.VideoFrame, fmt: PixelFormat) -> Planes:
    """A copy of the samples of ``frame``, which is stored in ``pixel_name(fmt)``, without line padding."""
    planes = []
    for plane, (rows, samples) in zip(
        frame.planes, plane_sizes(fmt, frame.width, frame.height), strict=False
    ):
        row_bytes = samples * fmt.dtype().itemsize
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        picture = np.ascontiguousarray(lines[:rows, :row_bytes]).view(fmt.dtype)
        planes.append(picture.reshape(rows, frame.width, 3) if fmt.sampling == "rgb" else picture)
    return Planes(tuple(planes), fmt)


def frame_of(planes: Planes) -> av.VideoFrame:
    """An FFmpeg frame with the samples of ``planes``, tagged with their matrix and range."""
    fmt = planes.format
    frame = av.VideoFrame(planes.width, planes.height, pixel_name(fmt))
    for plane, picture, (rows, samples) in zip(
        frame.planes, planes.planes, plane_sizes(fmt, planes.width, planes.height), strict=False
    ):
        row_bytes = samples * fmt.dtype().itemsize
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        lines[:rows, :row_bytes] = np.ascontiguousarray(picture).view(np.uint8).reshape(rows, row_bytes)
    if fmt.sampling != "rgb":
        frame.colorspace = CODE_OF_MATRIX[fmt.matrix]
        frame.color_range = FULL if fmt.full_range else LIMITED
    return frame

