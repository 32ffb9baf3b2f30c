"""Checkpoints and configurations: what is stored comes back, and what cannot be used is refused in one sentence."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from vtsr.errors import InputError, ModelError, OptionError, OutputError, VtsrError  # noqa: E402
from vtsr.training.checkpoint import load_network, read_facts, read_tensors, save_network, write_tensors  # noqa: E402
from vtsr.training.config import TrainConfig  # noqa: E402
from vtsr.training.network import build_network  # noqa: E402
from vtsr.training.train import find_config, learning_rate  # noqa: E402


@pytest.mark.parametrize("preset", ["dense-tiny", "pyramid-compact"])
def test_a_network_comes_back_as_it_was(preset: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network(preset)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save_network(tmp_path / "deep" / "a.safetensors", network, preset, {"step": 7})
    loaded = load_network(tmp_path / "deep" / "a.safetensors")
    pairs = zip(network.state_dict().items(), loaded.state_dict().items(), strict=True)
    assert all(a == b and x.equal(y) for (a, x), (b, y) in pairs)
    assert not loaded.training
    assert read_facts(tmp_path / "deep" / "a.safetensors") == {"preset": preset, "facts": {"step": 7}}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.safetensors"]


def test_layout_and_precision_of_tensors_are_kept(tmp_path: Path) -> None:
    tensors = {
        "last": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "half": torch.randn(3).to(torch.bfloat16),
        "count": torch.tensor(5),
    }
    write_tensors(tmp_path / "a.safetensors", tensors, {})
    back = read_tensors(tmp_path / "a.safetensors")[0]
    assert all(back[k].equal(v) and back[k].dtype == v.dtype for k, v in tensors.items())


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def test_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps({"weights": Bomb()}))
    torch.save({"weights": Bomb()}, tmp_path / "b.pt")
    for name in ("a.safetensors", "b.pt"):
        with pytest.raises(ModelError, match="cannot be read"):
            load_network(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    network = build_network("dense-tiny")
    save_network(tmp_path / "good.safetensors", network, "dense-tiny", {})
    content = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "odd.safetensors", {"vtsr": "[1]"})
    save_network(tmp_path / "unfit.safetensors", network, "dense", {})
    save_network(tmp_path / "future.safetensors", network, "dense-9000", {})
    for name, words in {
        "none": "no such file", "short": "cannot be read", "empty": "cannot be read", "odd": "cannot be read",
        "foreign": "not a vtsr checkpoint", "unfit": "does not fit", "future": "dense-9000",
    }.items():  # fmt: skip
        with pytest.raises(ModelError, match=words):
            load_network(tmp_path / f"{name}.safetensors")


def test_a_failed_write_leaves_the_file_before_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_tensors(tmp_path / "file" / "a.safetensors", {"x": torch.zeros(1)}, {})
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1)}, {})
    (tmp_path / "a.safetensors.partial").mkdir()  # nothing can be written here
    with pytest.raises(OutputError):
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, {})
    assert read_tensors(tmp_path / "a.safetensors")[0]["x"] == 1


def test_overrides_win_over_the_file_and_the_file_over_the_base(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('preset = "dense-fast"\nwindows = [8, 4]\nwindow_weights = [1, 1]\nnoise = 1\n')
    config = TrainConfig.load(path, {"noise": "0.5", "high_speed": "one,two"}, {"noise": 2.0, "steps": 7, "clips": []})
    assert (config.preset, config.windows, config.window_weights) == ("dense-fast", (8, 4), (1.0, 1.0))
    assert (config.noise, config.steps, config.high_speed, config.clips) == (0.5, 7, ("one", "two"), ())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stepps", "1", "no training option 'stepps'"),
        ("steps", "many", "steps cannot be 'many'"),
        ("steps", 1.5, "steps cannot be 1.5"),
        ("steps", True, "steps cannot be True"),
        ("steps", [3], "steps cannot be"),
        ("steps", "0", "steps must be at least 1"),
        ("windows", "8,x", "windows cannot be"),
        ("windows", 8, "windows cannot be"),
        ("windows", "8", "same length"),
        ("windows", "8,4,3", "even numbers"),
        ("window_weights", "0,0,0", "one must be above zero"),
        ("learning_rate", "-1", "learning_rate must be at least 0"),
        ("learning_rate", "nan", "learning_rate must be at least 0"),
        ("noise", "inf", "noise must be"),
        ("linear_share", "1.5", "share between 0 and 1"),
        ("ema", "1", "share between 0 and 1"),
        ("precision", "fp8", "precision must be bf16 or fp32"),
        ("optimizer", "sgd", "optimizer must be adamw or adam"),
        ("schedule", "linear", "schedule must be"),
        ("flips", "vertical", "flips must be"),
        ("crop", "100", "multiple of 32"),
        ("frames", "1", "at least 2 frames"),
        ("compression_quality", "0", "from 1 to 95"),
        ("loss_l1", "0", "All loss weights are zero"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(key: str, value: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        TrainConfig.load(None, {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"steps = ", b"\xff\xfe", b"[steps]\nx = 1\n"])
def test_bad_configuration_files_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((InputError, OptionError)) as caught:
        TrainConfig.load(path, {})
    assert isinstance(caught.value, VtsrError)


def test_the_thesis_configuration_is_section_4_1_3() -> None:
    config = TrainConfig.load(find_config("thesis"), {})
    assert (config.optimizer, config.learning_rate, config.batch, config.weight_decay) == ("adam", 1e-4, 8, 0)
    assert (config.epochs, config.milestone_epochs, config.milestone_factor) == (100, 10, 0.7)
    assert (config.crop, config.scene_size, config.video_scenes) == (224, 512, 20)
    assert (config.windows, len(set(config.window_weights)), config.flips) == ((8, 4, 2), 1, "horizontal")
    assert (config.frozen_backbone_epochs, config.held_out_share, config.backbone_weights) == (1, 0.1, "torchvision")
    assert (config.loss_l1, config.loss_sharpness, config.loss_perceptual, config.lambda_r) == (0.6, 0.15, 0.05, 0.15)
    run = config.in_steps(396)  # 90 % of 20 pairs of 22 videos
    assert (run.steps, run.frozen_backbone_steps) == (5000, 50)
    for epoch, decays in ((0, 0), (9, 0), (10, 1), (55, 5), (99, 9)):
        assert learning_rate(run, 50 * epoch) == pytest.approx(1e-4 * 0.7**decays)


def test_the_default_configuration_loads() -> None:
    config = TrainConfig.load(find_config("default"), {})
    assert (config.preset, config.scheme, config.epochs) == ("dense", "law", 0)


def test_every_option_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    assert [f.name for f in dataclasses.fields(TrainConfig) if f"`{f.name}`" not in text] == []


def test_the_cosine_schedule_warms_up_and_ends_at_one_percent() -> None:
    config = TrainConfig(steps=1000, warmup=100, learning_rate=1e-3)
    assert learning_rate(config, 0) == pytest.approx(1e-5)
    assert learning_rate(config, 49) == pytest.approx(0.5e-3, rel=0.01)
    assert learning_rate(config, 500) == pytest.approx(0.505e-3)
    assert learning_rate(config, 1000) == pytest.approx(1e-5)
    rates = [learning_rate(config, step) for step in range(100, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_published_weights_do_not_tell_where_they_were_trained() -> None:
    config = TrainConfig(scenes="/home/someone/scenes", clips=("/data/a", "b"), init="/x/y.safetensors")
    values = config.public()
    assert (values["scenes"], values["clips"], values["init"]) == ("scenes", ["a", "b"], "y.safetensors")
    assert values["steps"] == config.steps
