"""Pictures between FFmpeg's frames and NumPy planes."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vtsr.runtime.frame import CHROMA_BLOCK, PixelFormat, Planes
from vtsr.runtime.video.colour import CODE_OF_MATRIX, FULL, LIMITED, pixel_name

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
    """Changes the layout, sampling and depth of FFmpeg frames; never matrix or range (see `vtsr.runtime.video.rgb`)."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, pix_fmt: str, full_range: bool) -> av.VideoFrame:
        codes = ColorRange.JPEG if full_range else ColorRange.MPEG
        return self._reformatter.reformat(
            frame, format=pix_fmt, src_color_range=codes, dst_color_range=codes, interpolation=_QUALITY
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

