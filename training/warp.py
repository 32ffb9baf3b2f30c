"""Moving the pixels of a picture by a flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Samples ``frames`` where ``flow`` points to, by bilinear interpolation; beyond the border it repeats the border.

    Parameters
    ----------
    frames : (N, C, H, W) float32
    flow : (N, 2, H, W) float32
        Pixels to the right and down: the value at (y, x) is taken from (y + flow[1], x + flow[0]).

    Returns
    -------
    (N, C, H, W) float32
    """
    height, width = frames.shape[-2:]
    x = (torch.arange(width, device=frames.device, dtype=torch.float32) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, device=frames.device, dtype=torch.float32) + 0.5) * (2 / height) - 1
    here = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    # Both directions at once: picking one channel would be a Gather in an exported graph.
    scale = torch.tensor([2.0, 2.0], device=frames.device) / torch.tensor([width, height], device=frames.device)
    grid = here + flow.permute(0, 2, 3, 1) * scale
    return functional.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
