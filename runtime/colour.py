"""Colour conversion as weights: stored codes to RGB in [0, 1] and back, per pixel format.

With codes c = (Y, Cb, Cr), R'G'B' and luma weights (Kr, Kb) of the standard (ITU-R BT.601, BT.709, BT.2020):

    Y' = Kr R' + (1 - Kr - Kb) G' + Kb B'       Cb' = (B' - Y') / (2 - 2 Kb)       Cr' = (R' - Y') / (2 - 2 Kr)

in video range, for 8 bits: Y = 16 + 219 Y', Cb = 128 + 224 Cb'; in full range 255 Y' and 128 + 255 Cb'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError
from vtsr.runtime.frame import PixelFormat

Weights = NDArray[np.float32]

LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def _from_rgb(format: PixelFormat) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset from RGB in [0, 1] to codes."""
    peak = float(2**format.bits - 1)
    if format.sampling == "rgb":
        return peak * np.eye(3), np.zeros(3)
    if format.matrix not in LUMA_WEIGHTS:
        raise InputError(f"There is no YUV matrix {format.matrix!r}; choose one of {', '.join(LUMA_WEIGHTS)}.")
    kr, kb = LUMA_WEIGHTS[format.matrix]
    luma = np.array([kr, 1 - kr - kb, kb])
    chroma_b = (np.array([0, 0, 1]) - luma) / (2 - 2 * kb)
    chroma_r = (np.array([1, 0, 0]) - luma) / (2 - 2 * kr)
    unit = 2.0 ** (format.bits - 8)
    luma_scale, chroma_scale, black = (peak, peak, 0.0) if format.full_range else (219 * unit, 224 * unit, 16 * unit)
    matrix = np.stack([luma_scale * luma, chroma_scale * chroma_b, chroma_scale * chroma_r])
    return matrix, np.array([black, 128 * unit, 128 * unit])


def emit_weights(format: PixelFormat) -> tuple[Weights, Weights]:
    """Weight (C, 3, 1, 1) and bias (C,) from RGB to codes; C is 1 for gray, else 3."""
    matrix, offset = _from_rgb(format)
    if format.sampling == "gray":
        # Three equal channels come in; their mean keeps rounding errors of the network smallest.
        matrix, offset = np.full((1, 3), (2**format.bits - 1) / 3), np.zeros(1)
    return matrix[:, :, None, None].astype(np.float32), offset.astype(np.float32)


def ingest_weights(format: PixelFormat) -> tuple[Weights, Weights]:
    """Weight (3, C, 1, 1) and bias (3,) from codes to RGB, the inverse of `emit_weights`."""
    if format.sampling == "gray":
        inverse, offset = np.full((3, 1), 1 / (2**format.bits - 1)), np.zeros(1)
    else:
        matrix, offset = _from_rgb(format)
        inverse = np.linalg.inv(matrix)
    return inverse[:, :, None, None].astype(np.float32), (-inverse @ offset).astype(np.float32)
