"""MobileNetV2 (Sandler et al., 2018) as a pyramid of features.

Layers and names are those of torchvision's ``mobilenet_v2().features``, so its ImageNet state dict loads
without conversion: see `MobileNetV2.load_imagenet`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vtsr.errors import MissingExtraError, ModelError

# Expansion, output channels, repeats, stride of the first repeat: table 2 of the paper.
BOTTLENECKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
STEM_CHANNELS = 32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _width(channels: int, multiplier: float) -> int:
    """Channels times the width multiplier, rounded to a multiple of 8 and never down by more than 10 %."""
    rounded = max(8, int(channels * multiplier + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * multiplier else rounded


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU6, numbered as in torchvision's Conv2dNormActivation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depthwise 3x3, project by 1x1: (N, C, H, W) to (N, C', H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv(inputs, hidden, 1)]
        layers += [_conv(hidden, hidden, 3, stride, groups=hidden), nn.Conv2d(hidden, outputs, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The convolutional part without the classifier: an image to five feature maps.

    Parameters
    ----------
    width
        Multiplier of all channel counts; 1.0 is the network of the paper.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = _width(STEM_CHANNELS, width)
        layers: list[nn.Module] = [_conv(3, channels, 3, stride=2)]
        self.channels: list[int] = []
        self._ends: list[int] = []  # layers before which the size halves: the last ones at their size
        for expansion, outputs, repeats, first_stride in BOTTLENECKS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                if stride == 2:
                    self._ends.append(len(layers) - 1)
                    self.channels.append(channels)
                layers.append(InvertedResidual(channels, _width(outputs, width), stride, expansion))
                channels = _width(outputs, width)
        self._ends.append(len(layers) - 1)
        self.channels.append(channels)
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1] to features at 1/2, 1/4, 1/8, 1/16 and 1/32 size."""
        x = (image - self.get_buffer("mean")) / self.get_buffer("std")
        pyramid = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._ends:
                pyramid.append(x)
        return pyramid

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Loads torchvision's ImageNet weights, a state dict: see `imagenet_state`.

        The classifier and the last 1x1 convolution, which no level of the pyramid uses, are left out.
        Raises `ModelError` if a tensor is missing or of another shape.
        """
        mine = self.state_dict()
        for name, tensor in mine.items():
            if name not in state or state[name].shape != tensor.shape:
                raise ModelError(f"The ImageNet weights have no tensor {name} of shape {tuple(tensor.shape)}.")
        self.load_state_dict({name: state[name] for name in mine})


def imagenet_state(source: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights: from a .safetensors file of its state dict, or "torchvision" itself.

    Raises `ModelError` for an unreadable file, `MissingExtraError` without torchvision.
    """
    if source != "torchvision":
        from vtsr.training.checkpoint import read_tensors

        return read_tensors(Path(source))[0]
    try:
        from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(
            "The ImageNet weights need torchvision, or a .safetensors file of its MobileNetV2 as "
            f"backbone_weights ({error})."
        ) from error
    state: dict[str, Tensor] = mobilenet_v2(weights=MobileNet_V2_Weights.IMAGENET1K_V1).state_dict()
    return state
