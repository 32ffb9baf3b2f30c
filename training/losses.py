"""Loss terms. Each takes estimates and targets (N, 3, H, W) in [0, 1] and returns a scalar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtsr.errors import MissingExtraError, ModelError
from vtsr.training.mobilenet import IMAGENET_MEAN, IMAGENET_STD

Loss = Callable[[Tensor, Tensor], Tensor]

# Convolutions of VGG16 up to conv4_3: output channels, "M" is a 2x2 max pool (Simonyan & Zisserman 2015).
VGG16_TO_CONV4_3: tuple[int | str, ...] = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512)


def l1(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (estimate - target).abs().mean()


def laplacian(image: Tensor) -> Tensor:
    """4-neighbour Laplacian of each channel, (N, C, H, W) to (N, C, H - 2, W - 2)."""
    c = image[..., 1:-1, 1:-1]
    sides = image[..., :-2, 1:-1] + image[..., 2:, 1:-1] + image[..., 1:-1, :-2] + image[..., 1:-1, 2:]
    return 4 * c - sides


def sharpness(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the Laplacians: what blur removes first."""
    return l1(laplacian(estimate), laplacian(target))


def temporal(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the steps between consecutive frames; inputs (N, T, 3, H, W)."""
    return l1(estimate.diff(dim=1), target.diff(dim=1))


class Perceptual(nn.Module):
    """Mean squared difference of VGG16 conv4_3 features (Johnson et al. 2016).

    ``weights`` is a torchvision VGG16 state dict saved as .safetensors, or None to ask torchvision for it.
    Raises `MissingExtraError` when neither is to be had, `ModelError` for a file without these weights.
    """

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG16_TO_CONV4_3:
            if isinstance(width, int):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        state = _vgg16_state(weights)
        for name, parameter in self.named_parameters():
            if name not in state or state[name].shape != parameter.shape:
                source, shape = weights or "torchvision", tuple(parameter.shape)
                raise ModelError(f"{source} holds no VGG16: it has no tensor {name} of shape {shape}.")
        state = {name: state[name] for name, _ in self.named_parameters()}
        self.load_state_dict(state)
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        both = self.features((torch.cat([estimate, target]) - mean) / std)
        return functional.mse_loss(*both.chunk(2))


def _vgg16_state(weights: Path | None) -> dict[str, Tensor]:
    if weights is not None:
        from vtsr.training.checkpoint import read_tensors

        return read_tensors(weights)[0]
    try:
        from torchvision.models import VGG16_Weights, vgg16
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(
            "The perceptual loss needs VGG16 weights: give a .safetensors file as perceptual_weights, "
            f"or install torchvision ({error})."
        ) from error
    state: dict[str, Tensor] = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).state_dict()
    return state
