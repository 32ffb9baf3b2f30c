"""Picture and video metrics: PSNR, SSIM, tOF and flicker amplitude. NumPy and OpenCV only, no PyTorch.

Images are arrays (H, W, 3), RGB, or (H, W): uint8 with values 0..255, or floating point with values in
[0, 1]. The two images of a comparison have the same shape and the same kind of values.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import MissingExtraError, OptionError

Image = NDArray[Any]
Mask = NDArray[np.bool_]

# Identical 8-bit pictures would score infinity and swallow every mean they enter. 60 dB is where libvmaf
# caps the PSNR of 8-bit video (6 * bits + 12); rounding to 8 bits alone costs 58.9 dB.
PSNR_CEILING = 60.0

# Farneback's parameters in tOF as TecoGAN published it and DeMFI kept them: pyramid scale, levels,
# window, iterations, polynomial neighbourhood, its sigma, flags.
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
TOF_CROP = 32  # TecoGAN's tOF looks at a centred crop of a multiple of this many pixels
TOF_BORDER = 16  # and loses at least this many pixels in each direction


def psnr(image: Image, truth: Image, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels, at most `PSNR_CEILING`.

    ``mask``, bool (H, W), restricts it to some pixels; with none of them the result is NaN.
    """
    peak = _peak(image, truth)
    squared = np.square(np.subtract(image, truth, dtype=np.float32))
    if mask is not None:
        squared = squared[mask]
    if squared.size == 0:
        return float("nan")
    mean = float(squared.mean(dtype=np.float64)) / peak**2
    return PSNR_CEILING if mean <= 10 ** (-PSNR_CEILING / 10) else float(-10 * np.log10(mean))


def ssim(image: Image, truth: Image, mask: Mask | None = None) -> float:
    """Structural similarity, at most 1: scikit-image's, with its default 7 x 7 window, mean over channels.

    ``mask``, bool (H, W), averages the similarity map over some pixels only; with none of them the result
    is NaN. Raises `MissingExtraError` without scikit-image, `OptionError` for pictures under 7 pixels.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtraError(
            "SSIM needs scikit-image; install it with: pip install 'vtsr[evaluate]'."
        ) from error
    peak = _peak(image, truth)
    if min(image.shape[:2]) < 7:
        raise OptionError("SSIM needs pictures of at least 7 x 7 pixels.")
    result = structural_similarity(
        np.asarray(image, np.float32), np.asarray(truth, np.float32),
        data_range=peak, channel_axis=2 if image.ndim == 3 else None, full=mask is not None,
    )  # fmt: skip
    if mask is None:
        return float(result)
    chosen = result[1][mask]
    return float(chosen.mean(dtype=np.float64)) if chosen.size else float("nan")


def flow(first: Image, second: Image) -> NDArray[np.float32]:
    """Farneback optical flow from ``first`` to ``second`` as tOF uses it: float32 (H, W, 2), pixels."""
    farneback: Any = cv2.calcOpticalFlowFarneback  # OpenCV's type hints do not know that the flow may be None
    return np.asarray(farneback(_gray(first), _gray(second), None, *FARNEBACK), np.float32)


def flow_difference(ours: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Mean length, in pixels, of the difference of two flows (H, W, 2), on TecoGAN's centred crop.

    Pictures too small for that crop are taken whole.
    """
    rows, columns = _centre(ours.shape[0]), _centre(ours.shape[1])
    difference = ours[rows, columns] - truth[rows, columns]
    return float(np.sqrt(np.square(difference).sum(axis=-1)).mean(dtype=np.float64))


def temporal_flow_error(images: Image, truths: Image) -> float:
    """tOF: how far the motion seen in a video is from the motion in the true one, in pixels per frame.

    The flow between consecutive frames of each video, (T, H, W, 3) or (T, H, W), compared with
    `flow_difference` and averaged over the T - 1 steps; NaN for a single frame. Lower is better.
    Source: Chu et al., Learning temporal coherence via self-supervision (TecoGAN), 2020; DeMFI, 2022.
    """
    steps = [
        flow_difference(flow(images[t], images[t + 1]), flow(truths[t], truths[t + 1]))
        for t in range(len(images) - 1)
    ]
    return float(np.mean(steps)) if steps else float("nan")


def flicker_amplitude(scores: NDArray[np.float64], phases: int) -> float:
    """Peak-to-peak of the mean score over the ``phases`` output positions within an input frame.

    ``scores`` (phases * N,): one per output frame, in order, any unit; NaN is left out. A method whose
    quality repeats with the period of its input, such as good at one half of an exposure and bad at the
    other, is seen to flicker, and this is the size of it in the unit of the score.
    """
    if phases < 1 or len(scores) % phases:
        raise OptionError(f"{len(scores)} scores do not divide into {phases} phases.")
    table = np.asarray(scores, np.float64).reshape(-1, phases)
    table = table[~np.isnan(table).any(axis=1)]
    return float(np.ptp(table.mean(axis=0))) if len(table) else float("nan")


def _peak(image: Image, truth: Image) -> float:
    """The largest value pictures of this kind can take."""
    if image.shape != truth.shape:
        raise OptionError(f"Pictures of different shapes, {image.shape} and {truth.shape}, cannot be compared.")
    if (image.dtype == np.uint8) != (truth.dtype == np.uint8):
        raise OptionError(f"Pictures of types {image.dtype} and {truth.dtype} cannot be compared.")
    return 255.0 if image.dtype == np.uint8 else 1.0


def _gray(image: Image) -> NDArray[np.uint8]:
    """uint8 (H, W); floating-point pictures are rounded, since Farneback's scales are those of 8 bits."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _centre(length: int) -> slice:
    size = (length - TOF_BORDER) // TOF_CROP * TOF_CROP
    if size <= 0:
        return slice(None)
    start = (length - size) // 2
    return slice(start, start + size)
