"""Validation during training: PSNR of the recursion on held-out scenes, with the metric of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vtsr.training.metrics import psnr
from vtsr.training.recursion import upconvert

MOST_LEVELS = 3


def levels_of(windows: Sequence[int]) -> int:
    """How many levels have ground truth: how often the largest window halves, at most `MOST_LEVELS`."""
    window = max(windows)
    return next((k for k in range(MOST_LEVELS) if window >> k & 1), MOST_LEVELS)


def score_names(levels: int) -> list[str]:
    """Names of the scores of `validate`: f1, f2 .. and those of doing nothing."""
    names = [f"f{k + 1}" for k in range(levels)]
    return [*names, *(f"nothing_{name}" for name in names)]


def validate(network: nn.Module, scenes: NDArray[np.uint8], window: int, levels: int) -> dict[str, float]:
    """Mean PSNR in dB over scenes at f, f2 .., and of doing nothing, by `score_names`.

    Parameters
    ----------
    network
        In evaluation mode, on the device to use.
    scenes : (N, T, H, W, 3)
        Sub-frames; those after the last whole window are left out.
    window
        Sub-frames per input frame, a multiple of ``2**levels``. Inputs are rounded to 8 bits.
    """
    device = next(network.parameters()).device
    scores = np.zeros((2, levels))
    for scene in scenes:
        clip = _planar(scene[: len(scene) // window * window]).to(device)
        inputs = (clip.unflatten(0, (-1, window)).mean(1) * 255).round() / 255
        for k, output in enumerate(upconvert(network, inputs, levels)):
            truth = clip.unflatten(0, (-1, window >> (k + 1))).mean(1)
            nothing = inputs.repeat_interleave(2 << k, dim=0)
            scores[:, k] += [psnr(x.cpu().numpy(), truth.cpu().numpy()) for x in (output, nothing)]
    return dict(zip(score_names(levels), (scores / len(scenes)).ravel().tolist(), strict=True))


def _planar(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 (T, H, W, 3) to float (T, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 255
