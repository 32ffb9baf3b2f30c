"""The network of the thesis: a pyramid of MobileNetV2 features, fused level by level, decoded per frame.

    FPE   feature pyramid encoder: MobileNetV2, five levels, shared weights for both frames
    FFB   feature fusion block of each level: a convolution over both frames' features (the baseline),
          with attention (eq. 3.10-3.11) and alignment by a spatial transformer (eq. 3.8-3.9) as options
    FPD   feature pyramid decoder: top-down, one for each of the two output frames
    AB    aggregation block: brings all levels to one size and predicts the residual through tanh

Source: G. F. Torres Vanegas, "A Deep Learning Framework for Video Temporal Super-Resolution", Tampere
University, 2020, chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtsr.training.mobilenet import MobileNetV2

LEVELS = 5
RGB = 3


@dataclass(frozen=True)
class PyramidDims:
    """Width of the encoder, channels of the fused pyramid and of the aggregation, options of the fusion."""

    width: float = 1.0
    channels: int = 128
    aggregate: int = 64
    attention: bool = False
    alignment: bool = False


class Alignment(nn.Module):
    """Spatial transformer (Jaderberg et al., 2015): moves one frame's features onto the other's.

    A localisation network regresses one affine map per picture from both feature maps; it starts at
    the identity.
    """

    def __init__(self, channels: int, hidden: int = 32, cells: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(2 * channels, hidden, 3, padding=1)
        self.cells = cells
        self.regress = nn.Linear(hidden * cells * cells, 6)
        nn.init.zeros_(self.regress.weight)
        with torch.no_grad():
            self.regress.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, reference: Tensor, moving: Tensor) -> Tensor:
        features = torch.relu(self.reduce(torch.cat([reference, moving], dim=1)))
        # A fixed number of cells whatever the size: resized, since adaptive pooling exports badly.
        size = (self.cells, self.cells)
        pooled = functional.interpolate(features, size=size, mode="bilinear", align_corners=False)
        theta = self.regress(pooled.flatten(1)).float().view(-1, 2, 3)
        height, width = moving.shape[-2:]
        y = (torch.arange(height, device=moving.device, dtype=torch.float32) + 0.5) * (2 / height) - 1
        x = (torch.arange(width, device=moving.device, dtype=torch.float32) + 0.5) * (2 / width) - 1
        ones = torch.ones(height, width, device=moving.device)
        base = torch.stack([x[None, :] * ones, y[:, None] * ones, ones], dim=-1).view(-1, 3)
        grid = (base @ theta.transpose(1, 2)).view(-1, height, width, 2).to(moving.dtype)
        return functional.grid_sample(moving, grid, mode="bilinear", padding_mode="border", align_corners=False)


class Fusion(nn.Module):
    """FFB: features of both frames, (N, C, H, W) each, to fused features (N, F, H, W)."""

    def __init__(self, channels: int, fused: int, attention: bool, alignment: bool) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(2 * channels, fused, 3, padding=1)
        self.align = Alignment(channels) if alignment else None
        # One weight map per frame from both frames' features.
        self.attend = nn.Conv2d(2 * channels, 2, 3, padding=1) if attention else None

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if self.align is not None:
            second = self.align(first, second)
        if self.attend is not None:
            weights = torch.sigmoid(self.attend(torch.cat([first, second], dim=1)))
            first, second = first * weights[:, :1], second * weights[:, 1:]
        return torch.relu(self.fuse(torch.cat([first, second], dim=1)))


class Decoder(nn.Module):
    """FPD and AB: the fused pyramid to the residual of one frame, (N, 3, H, W) in (-1, 1)."""

    def __init__(self, fused: int, aggregate: int) -> None:
        super().__init__()
        self.smooth = nn.ModuleList(nn.Conv2d(fused, fused, 3, padding=1) for _ in range(LEVELS - 1))
        self.bring = nn.ModuleList(nn.Conv2d(fused, aggregate, 3, padding=1) for _ in range(LEVELS))
        self.mix = nn.Conv2d(LEVELS * aggregate, aggregate, 3, padding=1)
        self.refine = nn.Conv2d(aggregate, aggregate // 2, 3, padding=1)
        self.head = nn.Conv2d(aggregate // 2, 3, 3, padding=1)
        for parameter in self.head.parameters():  # an untrained network repeats its input
            nn.init.zeros_(parameter)
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, fused: list[Tensor]) -> Tensor:
        maps = [fused[-1]]
        for level, smooth in zip(reversed(fused[:-1]), self.smooth, strict=True):
            maps.insert(0, torch.relu(smooth(level + self.grow(maps[0]))))
        brought = []
        for doublings, (features, bring) in enumerate(zip(maps, self.bring, strict=True)):
            x = torch.relu(bring(features))
            for _ in range(doublings):
                x = self.grow(x)
            brought.append(x)
        x = torch.relu(self.mix(torch.cat(brought, dim=1)))  # at 1/2 size
        x = torch.relu(self.refine(self.grow(x)))
        return torch.tanh(self.head(x))


class PyramidNetwork(nn.Module):
    """f of the thesis: frames z[n], z[n+1] to the half exposures b[n], a[n+1] at their boundary."""

    def __init__(self, dims: PyramidDims) -> None:
        super().__init__()
        self.encoder = MobileNetV2(dims.width)
        self.fusion = nn.ModuleList(
            Fusion(channels, dims.channels, dims.attention, dims.alignment) for channels in self.encoder.channels
        )
        self.decoder_first = Decoder(dims.channels, dims.aggregate)
        self.decoder_second = Decoder(dims.channels, dims.aggregate)
        # He et al. (2015): with PyTorch's smaller weights the features fade on the way through the decoders,
        # which have no residual connections, and the network stays at repeating its input.
        for part in (self.fusion, self.decoder_first, self.decoder_second):
            for module in part.modules():
                if isinstance(module, nn.Conv2d) and module.weight.any() and module.out_channels > RGB:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) frames in [0, 1], H and W multiples of 32, to b[n] and a[n+1] of the same shape."""
        # Both frames as one batch: the encoder's weights are shared.
        pyramid = self.encoder(torch.cat([first, second]))
        count = first.shape[0]
        fused = [fuse(x[:count], x[count:]) for fuse, x in zip(self.fusion, pyramid, strict=True)]
        return first + self.decoder_first(fused), second + self.decoder_second(fused)
