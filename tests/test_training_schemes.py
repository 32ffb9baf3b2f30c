"""Schemes and losses against direct formulas and a network of known answer."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from vtsr.errors import MissingExtraError, ModelError  # noqa: E402
from vtsr.training import losses  # noqa: E402
from vtsr.training.config import TrainConfig  # noqa: E402
from vtsr.training.schemes import SCHEMES, Scheme  # noqa: E402
from vtsr.training.train import combined_loss, scheme_at  # noqa: E402


class Ramp(nn.Module):
    """Exact for scenes that change linearly in time: centres of b and a lie a quarter from the frames'."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second


class Skewed(nn.Module):
    """Wrong in a known way, differently for both outputs."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return 0.6 * first + 0.35 * second + 0.02, 0.8 * second + 0.1


def ramp_levels(frames: int, depth: int) -> list[Tensor]:
    """Exposures of a scene that brightens linearly from 0.2 to 0.8, at another pace in every pixel."""
    pace = torch.rand(1, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.6
    count = frames << depth
    shots = 0.2 + pace * ((torch.arange(count) + 0.5) / count).view(1, -1, 1, 1, 1)
    return [shots.unflatten(1, (-1, 1 << (depth - k))).mean(2) for k in range(depth + 1)]


def random_levels(frames: int, depth: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(frames)
    return [torch.rand(batch, frames << k, 3, 4, 4, generator=generator) for k in range(depth + 1)]


@pytest.mark.parametrize("frames", [2, 3, 4])
@pytest.mark.parametrize("name", list(SCHEMES))
def test_targets_are_aligned_at_every_level(name: str, frames: int) -> None:
    scheme = SCHEMES[name]
    levels = ramp_levels(frames, scheme.depth)
    loss, errors = scheme(Ramp(), levels, losses.l1)
    assert loss < 1e-6
    assert len(errors) == scheme.depth
    assert max(errors) < 1e-12
    for k in range(1, scheme.depth + 1):  # and would not be, were any level a sub-frame off
        late = [level.roll(1, dims=1) if j == k else level for j, level in enumerate(levels)]
        assert scheme(Ramp(), late, losses.l1)[0] > 1e-3


def test_basic_is_the_loss_of_one_pair() -> None:
    z, half = random_levels(2, 1)
    b, a = Skewed()(z[:, 0], z[:, 1])
    expected = losses.l1(torch.stack([b, a]), torch.stack([half[:, 1], half[:, 2]]))
    assert torch.isclose(SCHEMES["basic"](Skewed(), [z, half], losses.l1)[0], expected)


def test_reconstruction_adds_the_mean_of_both_estimates_of_the_middle_frame() -> None:
    z, half = random_levels(3, 1)
    b0, a1 = Skewed()(z[:, 0], z[:, 1])
    b1, a2 = Skewed()(z[:, 1], z[:, 2])
    pairs = [(b0, a1, half[:, 1], half[:, 2]), (b1, a2, half[:, 3], half[:, 4])]
    expected = sum(losses.l1(torch.stack([b, a]), torch.stack([tb, ta])) for b, a, tb, ta in pairs)
    expected = expected + 0.15 * losses.l1((a1 + b1) / 2, z[:, 1])
    assert torch.isclose(SCHEMES["reconstruction"](Skewed(), [z, half], losses.l1)[0], expected)
    heavier = scheme_at(TrainConfig(scheme="reconstruction", lambda_r=1.15), 0)
    added = heavier(Skewed(), [z, half], losses.l1)[0] - expected
    assert torch.isclose(added, losses.l1((a1 + b1) / 2, z[:, 1]))


def unrolled(levels: list[Tensor], depth: int, law: bool, one_sided: float) -> Tensor:
    """The scheme's formula, frame by frame: numbers of half exposures as keys."""
    frames = {n: levels[0][:, n] for n in range(levels[0].shape[1])}
    total = torch.zeros(())
    for k in range(1, depth + 1):
        halves: dict[int, Tensor] = {}
        for n in sorted(frames)[:-1]:
            halves[2 * n + 1], halves[2 * n + 2] = Skewed()(frames[n], frames[n + 1])
        inner = [n for n in frames if 2 * n in halves and 2 * n + 1 in halves]
        for n in inner if law else []:
            z = frames[n]
            d = (halves[2 * n + 1] - halves[2 * n]) / 2
            room = torch.minimum(z, 1 - z).clamp(min=0)
            d = torch.maximum(torch.minimum(d, room), -room)
            halves[2 * n], halves[2 * n + 1] = z - d, z + d
        both = [i for n in inner for i in (2 * n, 2 * n + 1)]
        ends = [i for i in halves if i not in both]
        for numbers, weight in ((both, 1.0), (ends, one_sided)):
            total = total + weight * torch.stack([(halves[i] - levels[k][:, i]).abs().mean() for i in numbers]).mean()
        frames = halves
    return total / depth


@pytest.mark.parametrize("name", ["multilevel", "unrolled", "law", "law-multilevel", "law-unrolled"])
def test_deep_schemes_compare_the_networks_own_outputs_level_by_level(name: str) -> None:
    scheme = SCHEMES[name]
    levels = random_levels(3, scheme.depth)
    expected = unrolled(levels, scheme.depth, scheme.law, scheme.one_sided)
    assert torch.isclose(scheme(Skewed(), levels, losses.l1)[0], expected, rtol=1e-5)


def test_the_temporal_term_compares_steps_between_consecutive_halves() -> None:
    z, half = random_levels(2, 1)
    b, a = Skewed()(z[:, 0], z[:, 1])
    steps = ((a - b) - (half[:, 2] - half[:, 1])).abs().mean()
    plain = Scheme(law=False)(Skewed(), [z, half], losses.l1)[0]
    assert torch.isclose(Scheme(law=False, temporal=0.5)(Skewed(), [z, half], losses.l1)[0], plain + 0.5 * steps)
    assert scheme_at(TrainConfig(loss_temporal=0.5), 0).temporal == 0.5


def test_the_late_scheme_takes_over_for_its_share() -> None:
    config = TrainConfig(scheme="law", late_scheme="law-multilevel", late_share=0.25, steps=100)
    assert [scheme_at(config, step).depth for step in (0, 74, 75, 99)] == [1, 1, 2, 2]


def test_the_laplacian_is_opencvs() -> None:
    image = torch.rand(1, 3, 9, 12)
    ours = losses.laplacian(image)[0].permute(1, 2, 0).numpy()
    theirs = -cv2.Laplacian(image[0].permute(1, 2, 0).numpy(), cv2.CV_32F, ksize=1)[1:-1, 1:-1]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_sharpness_sees_blur_and_not_brightness() -> None:
    image = torch.rand(1, 3, 16, 16) * 0.5
    blurred = functional.avg_pool2d(image, 3, stride=1, padding=1)
    assert losses.sharpness(image + 0.3, image) < 1e-6
    assert losses.sharpness(blurred, image) > 10 * losses.sharpness(image, image + 0.01 * torch.rand_like(image))


def vgg_file(path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    widths = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), (512, 512),
              (512, 512)]  # fmt: skip
    places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21]  # torchvision's numbers of these convolutions
    state = {}
    for place, (inputs, outputs) in zip(places, widths, strict=True):
        state[f"features.{place}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
        state[f"features.{place}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    save_file(state | {"classifier.0.bias": torch.zeros(3)}, path)
    return path


def test_the_perceptual_loss_is_the_distance_of_conv4_3_features(tmp_path: Path) -> None:
    path = vgg_file(tmp_path / "vgg.safetensors")
    loss = losses.Perceptual(path)
    estimate, target = torch.rand(2, 1, 3, 32, 32)
    state = losses.Perceptual(path).state_dict()

    def features(x: Tensor) -> Tensor:
        x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        for place in (0, 2, "pool", 5, 7, "pool", 10, 12, 14, "pool", 17, 19, 21):
            if place == "pool":
                x = functional.max_pool2d(x, 2)
            else:
                weight, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
                x = functional.conv2d(x, weight, bias, padding=1)
                x = functional.relu(x)
        return x

    expected = (features(estimate) - features(target)).square().mean()
    assert torch.isclose(loss(estimate, target), expected, rtol=1e-4)
    assert loss(target, target) == 0
    estimate.requires_grad_()
    loss(estimate, target).backward()
    assert estimate.grad is not None
    assert estimate.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.parameters())


def test_the_total_is_the_weighted_sum_of_the_thesis(tmp_path: Path) -> None:
    path = vgg_file(tmp_path / "vgg.safetensors")
    config = TrainConfig(loss_l1=0.6, loss_sharpness=0.15, loss_perceptual=0.05, perceptual_weights=str(path))
    estimate, target = torch.rand(2, 1, 3, 32, 32)
    expected = 0.6 * (estimate - target).abs().mean() + 0.15 * losses.sharpness(estimate, target)
    expected = expected + 0.05 * losses.Perceptual(path)(estimate, target)
    assert torch.isclose(combined_loss(config, torch.device("cpu"))(estimate, target), expected)


def test_missing_vgg_weights_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingExtraError, match="perceptual_weights"):
        losses.Perceptual(None)
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match=r"features\.0\.bias"):
        losses.Perceptual(tmp_path / "part.safetensors")
    whole = load_file(vgg_file(tmp_path / "vgg.safetensors"))
    save_file(whole | {"features.21.bias": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match=r"features\.21\.bias of shape \(512,\)"):
        losses.Perceptual(tmp_path / "odd.safetensors")
