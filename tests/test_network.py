"""The networks: shapes, start, cost, and names that pretrained weights rely on."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vtsr.errors import ModelError  # noqa: E402
from vtsr.training.exposure import project  # noqa: E402
from vtsr.training.mobilenet import MobileNetV2  # noqa: E402
from vtsr.training.network import build_network, multiply_adds_per_pixel, preset_names  # noqa: E402
from vtsr.training.recursion import halve, upconvert  # noqa: E402
from vtsr.training.warp import warp  # noqa: E402

SMALL = ["dense-tiny", "pyramid-compact", "pyramid-both"]


@pytest.mark.parametrize("preset", SMALL)
def test_an_untrained_network_repeats_its_input(preset: str) -> None:
    network = build_network(preset).eval()
    first, second = torch.rand(2, 2, 3, 64, 32)
    with torch.no_grad():
        b, a = network(first, second)
    assert torch.equal(b, first)
    assert torch.equal(a, second)


@pytest.mark.parametrize("preset", SMALL)
def test_every_parameter_learns(preset: str) -> None:
    torch.manual_seed(0)
    network = build_network(preset)
    for module in network.modules():
        for head in ("head", "detail_head", "flow_head"):
            if isinstance(getattr(module, head, None), torch.nn.Conv2d):
                torch.nn.init.normal_(getattr(module, head).weight, 0, 0.1)
        if isinstance(getattr(module, "regress", None), torch.nn.Linear):
            # An exact identity warp samples on pixel centres, where the gradient is one-sided.
            torch.nn.init.normal_(module.regress.weight, 0, 0.1)
    b, a = network(*torch.rand(2, 2, 3, 64, 64))
    (b.square().sum() + a.square().sum()).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_the_dense_network_leaves_equal_frames_alone() -> None:
    network = build_network("dense-tiny").eval()
    torch.nn.init.normal_(network.head.weight, 0, 1.0)
    frame = torch.rand(1, 3, 32, 64)
    moved = frame.clone()
    moved[..., 8:12, 40:44] += 0.2
    with torch.no_grad():
        b, a = network(frame, frame)
        assert torch.equal(b, frame)
        assert torch.equal(a, frame)
        b, _ = network(frame, moved)
    change = (b - frame).abs().amax(dim=(0, 1, 2))  # by column
    assert change[:16].max() == 0
    assert change[40:44].min() > 0


def test_sampling_takes_values_from_where_the_flow_points() -> None:
    frame = torch.rand(1, 3, 16, 24)
    flow = torch.zeros(1, 2, 16, 24)
    flow[:, 0], flow[:, 1] = 3.0, -2.0
    moved = warp(frame, flow)
    torch.testing.assert_close(moved[..., 2:, :-3], frame[..., :-2, 3:], atol=1e-5, rtol=0)
    # Beyond the border there is the border.
    torch.testing.assert_close(moved[..., :2, :-3], frame[..., :1, 3:].expand(-1, -1, 2, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[..., 2:, -3:], frame[..., :-2, -1:].expand(-1, -1, -1, 3), atol=1e-5, rtol=0)
    flow[:, 0], flow[:, 1] = 0.25, 0.0
    expected = 0.75 * frame[..., :-1] + 0.25 * frame[..., 1:]
    torch.testing.assert_close(warp(frame, flow)[..., :-1], expected, atol=1e-5, rtol=0)


def test_each_output_is_its_own_frame_moved_by_the_flow() -> None:
    network = build_network("dense-tiny").eval()
    with torch.no_grad():
        network.flow_head.bias.copy_(torch.tensor([1.0, 0.0, 0.0, -2.0]))  # nothing else is trained: heads are zero
        first, second = torch.rand(2, 1, 3, 32, 64)
        b, a = network(first, second)
    torch.testing.assert_close(b[..., :-1], first[..., 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(a[..., 2:, :], second[..., :-2, :], atol=1e-5, rtol=0)


def test_the_network_without_sampling_has_no_flow() -> None:
    plain, full = build_network("dense-plain"), build_network("dense")
    assert {name.split(".")[0] for name, _ in full.named_parameters()} - {
        name.split(".")[0] for name, _ in plain.named_parameters()
    } == {"flow_head"}


def test_default_model_is_within_its_budget() -> None:
    assert multiply_adds_per_pixel(build_network("dense")) <= 0.1e6


def test_multiply_adds_of_a_known_network() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Conv2d(3, 8, 3, padding=1, stride=2)
            self.two = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(first + second))

    assert multiply_adds_per_pixel(Two()) == (3 * 8 * 9 + 8 * 9) / 4


def test_mobilenet_has_torchvisions_names_and_loads_its_state() -> None:
    network = MobileNetV2()
    names = set(network.state_dict())
    # Spot checks against torchvision's published state dict of mobilenet_v2.
    for name, shape in {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.14.conv.2.weight": (160, 576, 1, 1),
        "features.17.conv.3.running_var": (320,),
    }.items():
        assert tuple(network.state_dict()[name].shape) == shape
    assert sum(p.numel() for p in network.parameters()) == 1_811_712
    state = {name: torch.randn_like(t.float()).to(t.dtype) for name, t in network.state_dict().items()}
    network.load_imagenet({**state, "classifier.1.weight": torch.zeros(1000, 1280)})
    assert all(torch.equal(network.state_dict()[name], state[name]) for name in names)
    del state["features.5.conv.2.weight"]
    with pytest.raises(ModelError, match=r"features\.5\.conv\.2\.weight"):
        network.load_imagenet(state)


def test_mobilenet_features_halve_five_times() -> None:
    pyramid = MobileNetV2().eval()(torch.rand(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in pyramid] == [
        (16, 32, 48),
        (24, 16, 24),
        (32, 8, 12),
        (96, 4, 6),
        (320, 2, 3),
    ]


def test_projection_is_the_nearest_pair_on_the_law() -> None:
    generator = torch.Generator().manual_seed(1)
    z, a, b = torch.rand(3, 1, 3, 8, 8, generator=generator) * 0.5 + 0.25
    low, high = project(z, a, b)
    assert torch.allclose((low + high) / 2, z, atol=1e-7)
    distance = (low - a).square() + (high - b).square()
    for d in torch.linspace(-0.25, 0.25, 41):  # every other pair on the law is farther away
        assert ((z - d - a).square() + (z + d - b).square() >= distance - 1e-6).all()


def test_projection_stays_in_range_and_never_raises_the_error() -> None:
    generator = torch.Generator().manual_seed(2)
    truth_a, truth_b = torch.rand(2, 4, 3, 16, 16, generator=generator)
    z = (truth_a + truth_b) / 2
    a, b = (x + 0.3 * torch.randn(x.shape, generator=generator) for x in (truth_a, truth_b))
    low, high = project(z, a, b)
    assert min(low.min(), high.min()) >= -1e-6
    assert max(low.max(), high.max()) <= 1 + 1e-6
    before = (a - truth_a).square() + (b - truth_b).square()
    after = (low - truth_a).square() + (high - truth_b).square()
    assert (after <= before + 1e-6).all()


def test_projection_of_independent_errors_gains_three_decibels() -> None:
    generator = torch.Generator().manual_seed(3)
    truth = torch.full((1, 3, 256, 256), 0.5)
    a, b = (truth + 0.01 * torch.randn(truth.shape, generator=generator) for _ in range(2))
    low, _ = project(truth, a, b)
    gain = 10 * torch.log10((a - truth).square().mean() / (low - truth).square().mean())
    assert abs(gain.item() - 3.01) < 0.05


class Shift(torch.nn.Module):
    """A network with a known answer: b = 0.75 first + 0.25 second, a = 0.25 first + 0.75 second."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second


def test_halves_stand_in_order_and_ends_follow_from_the_law() -> None:
    frames = torch.tensor([0.2, 0.4, 0.8]).view(3, 1, 1, 1).expand(3, 3, 32, 32)
    raw = halve(Shift(), frames, consistency=False)[:, 0, 0, 0]
    # b0 = 0.25, so a0 = 0.15; a1 = 0.35, b1 = 0.5; a2 = 0.7, so b2 = 0.9
    assert torch.allclose(raw, torch.tensor([0.15, 0.25, 0.35, 0.5, 0.7, 0.9]), atol=1e-6)
    lawful = halve(Shift(), frames)[:, 0, 0, 0]
    # Frame 1: d = (0.5 - 0.35) / 2
    assert torch.allclose(lawful, torch.tensor([0.15, 0.25, 0.325, 0.475, 0.7, 0.9]), atol=1e-6)


def test_levels_of_a_whole_clip_have_their_frames_and_size() -> None:
    outputs = upconvert(Shift(), torch.rand(3, 3, 20, 50), 3)
    assert [tuple(x.shape) for x in outputs] == [(6, 3, 20, 50), (12, 3, 20, 50), (24, 3, 20, 50)]


def test_every_preset_has_a_name_that_builds() -> None:
    assert {"dense", "dense-fast", "pyramid", "pyramid-attention", "pyramid-alignment"} <= set(preset_names())
    with pytest.raises(ValueError, match="no network preset"):
        build_network("resnet")
