"""RGB to YUV and back on NumPy arrays, in floating point, by ITU-T H.273.

The same arithmetic as inside the network's graphs: chroma is replicated on the way up and averaged over
its block on the way down. Used where a file holds RGB and the encoder wants YUV, or the other way round.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.frame import CHROMA_BLOCK, Image, PixelFormat, Planes

# Weights of red and blue in luma, by matrix (green has the rest).
LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def _yuv_of_rgb(matrix: str) -> NDArray[np.float64]:
    """The 3 x 3 matrix from R, G, B in [0, 1] to Y in [0, 1] and Cb, Cr in [-0.5, 0.5]."""
    red, blue = LUMA_WEIGHTS[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, cb, cr])


def _code_scale(fmt: PixelFormat) -> tuple[float, float, float, float]:
    """Gain and offset of luma codes, gain and offset of chroma codes."""
    unit = 2.0 ** (fmt.bits - 8)
    if fmt.full_range:
        return 2.0**fmt.bits - 1, 0.0, 2.0**fmt.bits - 1, 128 * unit
    return 219 * unit, 16 * unit, 224 * unit, 128 * unit


def rgb_of_planes(planes: Planes) -> Image:
    """The picture as an (H, W, 3) RGB array: uint8 from 8-bit planes, uint16 (all codes) from deeper ones."""
    fmt = planes.format
    if fmt.sampling == "rgb":
        return planes.planes[0]
    top = 255.0 if fmt.bits == 8 else 65535.0
    luma_gain, luma_offset, chroma_gain, chroma_offset = _code_scale(fmt)
    luma = (planes.planes[0].astype(np.float32) - luma_offset) * (top / luma_gain)
    if fmt.sampling == "gray":
        rgb = np.repeat(luma[..., None], 3, axis=2)
    else:
        width, height = CHROMA_BLOCK[fmt.sampling]
        chroma = [
            ((plane.astype(np.float32) - chroma_offset) * (top / chroma_gain))
            .repeat(height, 0)
            .repeat(width, 1)[: luma.shape[0], : luma.shape[1]]
            for plane in planes.planes[1:]
        ]
        rgb = cv2.transform(
            np.dstack([luma, *chroma]), np.linalg.inv(_yuv_of_rgb(fmt.matrix)).astype(np.float32)
        )
    return _rounded(rgb, top, np.uint8 if fmt.bits == 8 else np.uint16)


def planes_of_rgb(image: Image, fmt: PixelFormat) -> Planes:
    """An (H, W, 3) RGB array, uint8 or uint16, as planes in the YUV or gray format ``fmt``."""
    scaled = image.astype(np.float32) / np.iinfo(image.dtype).max
    yuv = cv2.transform(scaled, _yuv_of_rgb(fmt.matrix).astype(np.float32))
    luma_gain, luma_offset, chroma_gain, chroma_offset = _code_scale(fmt)
    top = 2.0**fmt.bits - 1
    luma = _rounded(yuv[..., 0] * luma_gain + luma_offset, top, fmt.dtype)
    if fmt.sampling == "gray":
        return Planes((luma,), fmt)
    block = CHROMA_BLOCK[fmt.sampling]
    chroma = [
        _rounded(_block_means(yuv[..., c], *block) * chroma_gain + chroma_offset, top, fmt.dtype)
        for c in (1, 2)
    ]
    return Planes((luma, *chroma), fmt)


def _rounded(values: NDArray[np.floating], top: float, dtype: type) -> Image:
    return np.clip(np.rint(values), 0, top).astype(dtype)


def _block_means(plane: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """Means over blocks of ``width`` x ``height`` pixels; a block cut by the border repeats its last pixels."""
    rows, columns = plane.shape
    plane = np.pad(plane, ((0, -rows % height), (0, -columns % width)), mode="edge")
    blocks = plane.reshape(plane.shape[0] // height, height, plane.shape[1] // width, width)
    means: NDArray[Any] = blocks.mean(axis=(1, 3))
    return means
