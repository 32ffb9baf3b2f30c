"""f^N on a whole clip in PyTorch: the reference that the streaming runtime is checked against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtsr.training.exposure import project
from vtsr.training.network import PAD_MULTIPLE


def halve(network: nn.Module, frames: Tensor, consistency: bool = True, batch: int = 16) -> Tensor:
    """One recursion level: frames (N, 3, H, W) to half exposures (2N, 3, H, W), a0 b0 a1 b1 ...

    The first half of the first frame and the second half of the last one, which no pair predicts,
    follow from the exposure law. ``consistency`` projects all other halves onto it too. H and W are
    multiples of `PAD_MULTIPLE`.
    """
    first, second = frames[:-1], frames[1:]
    pairs = [network(first[i : i + batch], second[i : i + batch]) for i in range(0, len(first), batch)]
    b = torch.cat([p[0] for p in pairs]) if pairs else frames[:0]
    a = torch.cat([p[1] for p in pairs]) if pairs else frames[:0]
    # A single frame has no pair at all and is repeated.
    a = torch.cat([2 * frames[:1] - b[:1] if pairs else frames[:1], a])
    b = torch.cat([b, 2 * frames[-1:] - a[-1:]])
    if consistency:
        a, b = project(frames, a, b)
    return torch.stack([a, b], dim=1).flatten(0, 1)


@torch.no_grad()
def upconvert(network: nn.Module, clip: Tensor, levels: int, consistency: bool = True) -> list[Tensor]:
    """All recursion levels of a clip.

    Parameters
    ----------
    clip : (N, 3, H, W) float tensor in [0, 1], any size
    levels : how many times f is applied

    Returns
    -------
    list over k = 1 .. levels of (2**k * N, 3, H, W) tensors, clamped to [0, 1]
    """
    height, width = clip.shape[-2:]
    pad = (0, -width % PAD_MULTIPLE, 0, -height % PAD_MULTIPLE)
    frames = functional.pad(clip, pad, mode="replicate")
    outputs = []
    for _ in range(levels):
        frames = halve(network, frames, consistency)
        outputs.append(frames[..., :height, :width].clamp(0, 1))
    return outputs
