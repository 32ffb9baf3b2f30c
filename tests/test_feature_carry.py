"""What carrying a frame's features from one pair to the next would save, as docs/tensorrt.md states it."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
SIDE = 64


def carried_share(preset: str) -> float:
    """Share of the multiply-adds whose results for a first frame are the same whatever the second is."""
    from vtsr.training.network import build_network

    torch.manual_seed(0)
    network: Any = build_network(preset).eval()
    for parameter in network.parameters():
        if not parameter.any():  # heads begin at zero, where everything looks the same
            torch.nn.init.normal_(parameter, std=0.02)
    seen: dict[Any, list[Any]] = {}
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    for layer in convolutions:
        layer.register_forward_hook(lambda layer, given, result: seen.setdefault(layer, []).append(result))
    first, second, other = torch.rand(3, 1, 3, SIDE, SIDE)
    with torch.no_grad():
        network(first, second)
        network(first, other)
    total = kept = 0
    for layer, (one, two) in seen.items():
        cost = one[0].numel() * layer.weight[0].numel()
        total += cost * len(one)
        kept += cost * sum(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert len(seen) == len(convolutions)
    return kept / total


def test_the_shipped_network_has_no_features_of_a_single_frame() -> None:
    from vtsr.runtime.models import open_model

    preset = open_model("default").facts["facts"]["preset"]
    assert preset.startswith("dense")
    assert carried_share(preset) == 0.0


def test_the_networks_of_the_thesis_have_and_they_are_a_small_part() -> None:
    assert carried_share("pyramid-compact") == pytest.approx(0.095 / 2, abs=0.003)


def test_a_frame_counts_otherwise_as_the_first_of_a_pair_than_as_the_second() -> None:
    """So that even the linear part of the first layers cannot be carried: the weights of the two places differ."""
    from vtsr.runtime.models import open_model

    safetensors = pytest.importorskip("safetensors.torch")
    folder = open_model("default").path
    weights = safetensors.load_file(folder / "weights.safetensors")
    weights = {name.removeprefix("network."): value.float() for name, value in weights.items()}
    for name in ("stem.weight", "detail_stem.weight"):
        as_first, as_second = weights[name].chunk(2, dim=1)
        assert (as_first - as_second).norm() > 0.5 * as_first.norm()
