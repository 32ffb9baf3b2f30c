"""Every method gives 2^k frames per input frame, in order; the law and the streaming hold exactly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vtsr.errors import InputError, ModelError, OptionError
from vtsr.evaluation.clips import Clip
from vtsr.evaluation.methods import (
    Blend,
    Checkpoint,
    External,
    Flow,
    Method,
    Model,
    Network,
    Nothing,
    Outputs,
    WithLaw,
    parse_method,
)
from vtsr.training.metrics import psnr

MOVED = 3.0  # pixels per frame of the moving texture


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    return np.clip((smooth - smooth.mean()) * 6 + 128, 0, 255).astype(np.float32)


SCENE = texture(64, 200)


def view(time: float) -> NDArray[np.uint8]:
    """A window of the scene, (64, 96, 3), that has moved to the right for ``time`` frames."""
    shift = np.array([[1.0, 0.0, 20 + MOVED * time], [0.0, 1.0, 0.0]])
    moved = cv2.warpAffine(SCENE, shift, (96, 64), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    return np.rint(np.clip(moved, 0, 255)).astype(np.uint8)


def run(method: Method, frames: list[NDArray[np.uint8]], levels: int) -> list[Outputs]:
    stream = method.start(levels)
    done = [outputs for frame in frames for outputs in stream.push(frame)]
    return done + stream.flush()


INPUTS = [view(n + 0.5) for n in range(4)]  # sharp pictures at the centres of the exposures


@pytest.mark.parametrize("method", [Nothing(), Blend(), Flow(), WithLaw(Flow())], ids=lambda method: method.name)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_input_gives_two_to_the_k_outputs(method: Method, count: int) -> None:
    done = run(method, INPUTS[:count], 3)
    assert len(done) == count
    for outputs in done:
        assert {factor: frames.shape for factor, frames in outputs.items()} == {
            factor: (factor, 64, 96, 3) for factor in (2, 4, 8)
        }


def test_an_empty_stream_gives_nothing() -> None:
    for method in (Nothing(), Blend(), Flow(), WithLaw(Flow())):
        assert run(method, [], 2) == []


def test_doing_nothing_repeats_the_input() -> None:
    for frame, outputs in zip(INPUTS, run(Nothing(), INPUTS, 2), strict=True):
        assert all(np.array_equal(output, frame) for output in outputs[4])


def test_blending_is_exact_where_brightness_grows_evenly() -> None:
    # Frame n is seen at n + 1/2, and the picture's value at time t is 20 t + 30.
    frames = [np.full((8, 8, 3), 20 * (n + 0.5) + 30, np.uint8) for n in range(4)]
    done = run(Blend(), frames, 3)
    for factor in (2, 4, 8):
        made = np.concatenate([outputs[factor] for outputs in done])[:, 0, 0, 0]
        times = (np.arange(4 * factor) + 0.5) / factor
        inside = (times >= 0.5) & (times <= 3.5)
        assert np.allclose(made[inside], 20 * times[inside] + 30)
        # Beyond the first and the last centre there is nothing to blend with.
        assert np.allclose(made[times < 0.5], 40)
        assert np.allclose(made[times > 3.5], 100)


def test_flow_puts_a_moving_picture_where_it_is_at_every_time() -> None:
    done = run(Flow(), INPUTS, 2)
    inner = slice(8, -8)
    for n, outputs in enumerate(done):
        for j, made in enumerate(outputs[4]):
            truth = view(n + (j + 0.5) / 4)[inner, inner]
            score = psnr(np.rint(np.clip(made, 0, 255)).astype(np.uint8)[inner, inner], truth)
            # Ends are extrapolated, the rest is interpolated; repetition is at 20 dB here.
            assert score > 33, f"output {j} of input {n}: {score:.1f} dB"
            assert score > psnr(INPUTS[n][inner, inner], truth) + 3


@pytest.mark.parametrize("method", [Nothing(), Blend(), Flow()], ids=lambda method: method.name)
def test_the_law_makes_outputs_average_to_their_input(method: Method) -> None:
    for frame, outputs in zip(INPUTS, run(WithLaw(method), INPUTS, 3), strict=True):
        for frames in outputs.values():
            assert np.allclose(frames.mean(axis=0), frame, atol=1e-3)


def test_the_law_moves_all_outputs_of_an_input_alike() -> None:
    plain, lawful = run(Flow(), INPUTS, 2), run(WithLaw(Flow()), INPUTS, 2)
    for before, after in zip(plain, lawful, strict=True):
        shift = after[4] - before[4]
        assert np.allclose(shift, shift[:1], atol=1e-3)


def random_network() -> object:
    torch = pytest.importorskip("torch")
    from vtsr.training.network import build_network

    torch.manual_seed(3)
    network = build_network("dense-tiny").eval()
    with torch.no_grad():  # fresh networks repeat their input; these weights do something everywhere
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("consistency", [True, False])
@pytest.mark.parametrize("count", [1, 2, 11])
def test_a_network_streamed_in_chunks_gives_what_the_whole_clip_gives(count: int, consistency: bool) -> None:
    torch = pytest.importorskip("torch")
    from vtsr.training.recursion import upconvert

    frames = [view(n)[:32, :32] for n in range(count)]
    network = random_network()
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    whole = upconvert(network, clip, 3, consistency=consistency)
    done = run(Network(network, consistency), frames, 3)
    for level, expected in enumerate(whole, start=1):
        streamed = np.concatenate([outputs[2**level] for outputs in done])
        assert np.abs(streamed - 255 * expected.permute(0, 2, 3, 1).numpy()).max() < 0.01
        # The network really changed the pictures (one alone is repeated), or equality would mean nothing.
        assert count == 1 or np.abs(streamed - np.repeat(np.stack(frames), 2**level, axis=0)).max() > 3


def test_a_checkpoint_is_its_network(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from vtsr.training.checkpoint import save_network

    network = random_network()
    save_network(tmp_path / "ours.safetensors", network, "dense-tiny", {})  # type: ignore[arg-type]
    frames = [frame[:32, :32] for frame in INPUTS]
    method = parse_method(str(tmp_path / "ours.safetensors"))
    assert isinstance(method, Checkpoint)
    ours = run(Checkpoint(method.path, device="cpu"), frames, 1)
    for a, b in zip(ours, run(Network(network), frames, 1), strict=True):
        assert np.allclose(a[2], b[2], atol=1e-3)


def test_a_shipped_model_gives_at_each_level_what_the_upconverter_gives() -> None:
    from vtsr.runtime.upconverter import Upconverter

    done = run(Model("default", backend="onnxruntime", threads=1), INPUTS[:3], 2)
    for level in (1, 2):
        options = {"backend": "onnxruntime", "precision": "fp32", "threads": 1, "scene_threshold": 1}
        with Upconverter(level, **options) as upconverter:
            expected = np.stack([frame.image for frame in upconverter.run(INPUTS[:3])])
        assert np.array_equal(np.concatenate([outputs[2**level] for outputs in done]), expected)


def save(frames: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir(parents=True)
    for n, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{n:04d}.png"), frame[..., ::-1])


def test_external_frames_are_dealt_out_by_their_number(tmp_path: Path) -> None:
    frames = np.stack([view(t) for t in range(12)])
    save(frames, tmp_path / "clip")
    stream = External("theirs", tmp_path).open(Clip.of("clip", frames), 4)
    for n in range(4):
        (outputs,) = stream.push(frames[0])
        assert list(outputs) == [3]
        assert np.array_equal(outputs[3], frames[3 * n : 3 * n + 3])


def test_external_frames_of_several_levels(tmp_path: Path) -> None:
    frames = np.stack([view(t) for t in range(8)])
    save(frames[:4], tmp_path / "clip" / "x2")
    save(frames, tmp_path / "clip" / "x4")
    (outputs,) = External("theirs", tmp_path).open(Clip.of("clip", frames), 2).push(frames[0])
    assert sorted(outputs) == [2, 4]


def test_external_frames_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    frames = np.stack([view(t) for t in range(5)])
    clip = Clip.of("clip", frames)
    with pytest.raises(InputError, match="no frames of theirs"):
        External("theirs", tmp_path).open(clip, 2)
    save(frames, tmp_path / "clip")
    with pytest.raises(InputError, match="holds 5"):
        External("theirs", tmp_path).open(clip, 2)
    with pytest.raises(InputError, match="give them the size of the inputs"):
        External("theirs", tmp_path).open(clip, 5).push(frames[0, :32])


def test_names_on_the_command_line() -> None:
    assert parse_method("flow+law") == WithLaw(Flow())
    assert parse_method("flow+law").name == "flow+law"
    assert parse_method("ours=runs/a/best.safetensors").name == "ours"
    assert parse_method("raw:runs/best.safetensors") == Checkpoint(Path("runs/best.safetensors"), consistency=False)
    assert parse_method("deploy/fast") == Model("deploy/fast")
    with pytest.raises(OptionError, match="--no-consistency"):
        parse_method("raw:default")
    with pytest.raises(OptionError, match="no name"):
        parse_method("+law")


def test_missing_models_are_refused() -> None:
    pytest.importorskip("torch")
    with pytest.raises(ModelError):
        parse_method("no/such/model").start(1)
    with pytest.raises(ModelError, match="no checkpoint"):
        parse_method("no/such.safetensors").start(1)
