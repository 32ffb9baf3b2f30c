"""The networks behind f: two consecutive frames in, the half-exposure frames at their boundary out.

    f : (z[n], z[n+1])  ->  (b[n], a[n+1])

Two families share this interface. `DenseNetwork` is a plain convolutional U-Net on pixel-unshuffled
input and makes the shipped models. `PyramidNetwork` (in `vtsr.training.pyramid`) is the network of
the thesis "A Deep Learning Framework for Video Temporal Super-Resolution" (Torres Vanegas, 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtsr.training.pyramid import PyramidDims, PyramidNetwork
from vtsr.training.warp import warp

UNSHUFFLE = 4  # input pixels per feature, each way: the whole dense network works at quarter size
RGB = 3
PAD_MULTIPLE = 32  # every preset accepts heights and widths that are multiples of this


@dataclass(frozen=True)
class DenseDims:
    """Dimensions of a `DenseNetwork`: channels at 1/4, 1/8 and 1/16 size, residual blocks of each stage.

    The detail stage at 1/2 size sees the frames again: at 1/4 size two frames are 96 numbers per
    position, more than the features there can carry, and fine texture would be lost. With ``flow`` it sees
    them moved as well, each to the time of its output, and the output is a residual to the moved frames:
    convolutions alone move fine texture badly.
    """

    channels: tuple[int, int, int] = (48, 96, 160)
    encoder_blocks: tuple[int, int] = (2, 2)
    middle_blocks: int = 4
    decoder_blocks: tuple[int, int] = (2, 2)  # at 1/8, then at 1/4
    detail_channels: int = 32
    detail_blocks: int = 2
    flow: bool = True


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a ReLU, added to the input: (N, C, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


def blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class Upsample(nn.Module):
    """1x1 convolution, then nearest neighbour to twice the size: (N, C, H, W) to (N, C', 2H, 2W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.resize = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        return self.resize(self.conv(x))


class MotionGate(nn.Module):
    """0 where two frames are equal in a whole neighbourhood, 1 where anything changes: (N, 1, H/4, W/4).

    Where nothing moves both halves of a frame equal the frame, so a still picture must come out as it
    went in, exactly and at every level. A mean change of one 8-bit code opens the gate fully.
    """

    REACH = 4  # cells of 4 x 4 pixels each way: what moves less far is not cut off
    CODE = 1 / 255

    def __init__(self) -> None:
        super().__init__()
        # The mean over a cell as a convolution, which every runtime fuses and none misreads.
        cell = torch.full((1, RGB, UNSHUFFLE, UNSHUFFLE), 1 / (RGB * UNSHUFFLE**2 * self.CODE))
        self.register_buffer("cell", cell, persistent=False)
        self.dilate = nn.MaxPool2d(2 * self.REACH + 1, stride=1, padding=self.REACH)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        change = functional.conv2d((first - second).abs(), self.get_buffer("cell"), stride=UNSHUFFLE)
        return self.dilate(change.clamp(max=1))


class DenseNetwork(nn.Module):
    """Convolutional U-Net on the pixel-unshuffled pair; both halves come from one decoder.

    No attention or normalisation: only 3x3 convolutions, ReLU, additions, resizes and, with ``flow``, one
    bilinear sampling of both frames. The output is the moved frames plus a residual; both leave a frame as it
    is where the frames are equal, and both start at zero, so an untrained network repeats its input.
    """

    def __init__(self, dims: DenseDims) -> None:
        super().__init__()
        c1, c2, c3 = dims.channels
        pair = 2 * RGB * UNSHUFFLE**2
        self.unshuffle = nn.PixelUnshuffle(UNSHUFFLE)
        self.stem = conv3(pair, c1)
        self.encoder1 = blocks(c1, dims.encoder_blocks[0])
        self.down1 = conv3(c1, c2, stride=2)
        self.encoder2 = blocks(c2, dims.encoder_blocks[1])
        self.down2 = conv3(c2, c3, stride=2)
        self.middle = blocks(c3, dims.middle_blocks)
        self.up2 = Upsample(c3, c2)
        self.decoder2 = blocks(c2, dims.decoder_blocks[0])
        self.up1 = Upsample(c2, c1)
        self.decoder1 = blocks(c1, dims.decoder_blocks[1])
        self.head = conv3(c1, pair)
        self.flow_head = conv3(c1, 4) if dims.flow else None  # two directions for each frame
        seen = 4 * RGB if dims.flow else 2 * RGB
        self.detail_stem = nn.Conv2d(seen, dims.detail_channels, 4, stride=2, padding=1)
        self.up0 = Upsample(c1, dims.detail_channels)
        self.detail = blocks(dims.detail_channels, dims.detail_blocks)
        self.detail_head = conv3(dims.detail_channels, pair // 4)
        self.gate = MotionGate()
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.grow_fully = nn.Upsample(scale_factor=UNSHUFFLE, mode="nearest")
        self.shuffle = nn.PixelShuffle(2)
        # Everything else keeps PyTorch's small default weights: with larger ones the first steps of Adam
        # throw the zero heads far off, and training comes to a halt on a plateau.
        for head in filter(None, (self.head, self.detail_head, self.flow_head)):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates the second half of ``first`` and the first half of ``second``.

        Parameters
        ----------
        first, second : (N, 3, H, W) float tensors in [0, 1]; H and W multiples of 16
            z[n] and z[n+1].

        Returns
        -------
        b, a : (N, 3, H, W)
            b[n] and a[n+1], not clamped.
        """
        pair = torch.cat([first, second], dim=1)
        centred = pair - 0.5
        stem = torch.relu(self.stem(self.unshuffle(centred)))
        skip1 = self.encoder1(stem)
        skip2 = self.encoder2(torch.relu(self.down1(skip1)))
        x = self.middle(torch.relu(self.down2(skip2)))
        x = self.decoder2(torch.relu(skip2 + self.up2(x)))
        x = self.decoder1(torch.relu(skip1 + self.up1(x)))
        moved = None if self.flow_head is None else self._moved(first, second, self.flow_head(x)) - pair
        seen = centred if moved is None else torch.cat([centred, moved], dim=1)
        detail = self.detail(torch.relu(self.detail_stem(seen) + self.up0(x)))
        residual = self.shuffle(self.head(x)) + self.detail_head(detail)  # at 1/2 size, 4 x 6 channels
        gate = self.gate(first, second)
        out = pair + self.shuffle(residual * self.grow(gate))
        if moved is not None:
            out = out + moved * self.grow_fully(gate)
        return out[:, :RGB], out[:, RGB:]

    def _moved(self, first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
        """Both frames, each moved by its two channels of ``flow`` at 1/4 size: (N, 6, H, W)."""
        # In single precision: half cannot tell apart the columns of a wide picture. In one batch: runtimes
        # share the planes out among threads, and six divide better than three.
        fine = functional.interpolate(flow.float(), scale_factor=UNSHUFFLE, mode="bilinear")
        frames = torch.cat([first, second]).float()
        moved = warp(frames, torch.cat([fine[:, :2], fine[:, 2:]])).to(first.dtype)
        count = first.shape[0]  # chunk() would fix the batch size in an exported graph
        return torch.cat([moved[:count], moved[count:]], dim=1)


DENSE_PRESETS: dict[str, DenseDims] = {
    "dense-tiny": DenseDims((16, 24, 32), (1, 1), 1, (1, 1), 8, 1),  # for tests
    "dense-fast": DenseDims((32, 64, 128), (1, 2), 4, (2, 2), 24, 1),
    "dense": DenseDims(),
    "dense-plain": DenseDims(flow=False),  # what the sampling is worth
    "dense-fast-plain": DenseDims((32, 64, 128), (1, 2), 4, (2, 2), 24, 1, flow=False),
    "dense-quality": DenseDims((96, 192, 256), (3, 3), 6, (3, 4), 64, 2),
}


PYRAMID_PRESETS: dict[str, PyramidDims] = {
    "pyramid-compact": PyramidDims(width=0.35, channels=32, aggregate=16),
    "pyramid-compact-attention": PyramidDims(0.35, 32, 16, attention=True),
    "pyramid-compact-alignment": PyramidDims(0.35, 32, 16, alignment=True),
    "pyramid-compact-both": PyramidDims(0.35, 32, 16, attention=True, alignment=True),
    "pyramid": PyramidDims(),  # the size of the thesis: full MobileNetV2
    "pyramid-attention": PyramidDims(attention=True),
    "pyramid-alignment": PyramidDims(alignment=True),
    "pyramid-both": PyramidDims(attention=True, alignment=True),
}


def build_network(preset: str) -> nn.Module:
    """A fresh network by preset name: see `preset_names`. Raises `ValueError` for any other name."""
    if preset in DENSE_PRESETS:
        return DenseNetwork(DENSE_PRESETS[preset])
    if preset in PYRAMID_PRESETS:
        return PyramidNetwork(PYRAMID_PRESETS[preset])
    raise ValueError(f"There is no network preset {preset!r}; choose one of {', '.join(preset_names())}.")


def preset_names() -> list[str]:
    """The names `build_network` takes."""
    return [*DENSE_PRESETS, *PYRAMID_PRESETS]


def multiply_adds_per_pixel(network: nn.Module, size: int = 128) -> float:
    """Multiply-accumulate operations of all convolutions and matrix products for one pair, per pixel."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    frame = torch.zeros(1, RGB, size, size)
    with torch.no_grad():
        network(frame, frame)
    for hook in hooks:
        hook.remove()
    return total / size**2
