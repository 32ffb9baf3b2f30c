"""vtsr-train: it learns, goes on after a kill as if nothing had happened, and shares its work exactly."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from training_media import Array, panning, write_cache, write_frames, write_photographs  # noqa: E402

from vtsr.errors import MissingExtraError, ModelError, OptionError  # noqa: E402
from vtsr.training import losses, train  # noqa: E402
from vtsr.training.checkpoint import load_network, read_facts, read_metadata, read_tensors, save_network  # noqa: E402
from vtsr.training.config import TrainConfig  # noqa: E402
from vtsr.training.log import Log, read_log  # noqa: E402
from vtsr.training.mobilenet import MobileNetV2  # noqa: E402
from vtsr.training.network import build_network  # noqa: E402
from vtsr.training.schemes import SCHEMES  # noqa: E402
from vtsr.training.train import Process, Training, main  # noqa: E402
from vtsr.training.validation import levels_of, validate  # noqa: E402

SMALL: dict[str, Any] = {
    "preset": "dense-tiny", "crop": 32, "batch": 4, "held_out": 2, "precision": "fp32", "warmup": 5,
    "steps": 24, "validate_every": 8, "checkpoint_every": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textures that all move to the left, at 0.5 to 1.2 pixels per sub-frame."""
    speeds = np.random.default_rng(0).uniform(0.5, 1.2, 40)
    scenes = np.stack([panning(i, 24, 64, 64, speed) for i, speed in enumerate(speeds)])
    return write_cache(tmp_path_factory.mktemp("scenes"), scenes)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def arguments(out: Path, cache: Path | None, **options: Any) -> list[str]:
    values = SMALL | ({"scenes": cache} if cache else {}) | options
    settings = itertools.chain.from_iterable(("--set", f"{k}={v}") for k, v in values.items())
    return [str(out), *settings, "--workers", "0", "--threads", "1"]


def state(out: Path) -> dict[str, Any]:
    return read_tensors(out / "state.safetensors")[0]


def identical(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


def test_a_short_run_beats_doing_nothing_at_every_level(cache: Path, tmp_path: Path) -> None:
    options = {"steps": 100, "batch": 16, "learning_rate": 3e-3, "flips": "none"}
    options |= {"windows": "8,4,2", "window_weights": "1,1,1"}  # every level sees motion as fast as it was trained on
    assert main(arguments(tmp_path / "run", cache, validate_every=50, ema=0.9, **options)) == 0
    first, last = read_log(tmp_path / "run" / "log.csv")
    assert (first["step"], last["step"], last["samples"]) == (50, 100, 1600)
    assert last["loss"] < first["loss"]
    assert last["train_psnr"] > first["train_psnr"]
    for level, gain in (("f1", 2.0), ("f2", 1.2), ("f3", 0.8)):
        assert last[level] > last[f"nothing_{level}"] + gain
    # The weights to use are those that were validated.
    network = load_network(tmp_path / "run" / "last.safetensors")
    scores = validate(network, np.load(cache / "scenes.npy")[-2:], 8, 3)
    assert scores["f1"] == pytest.approx(last["f1"], abs=1e-3)
    facts = read_facts(tmp_path / "run" / "last.safetensors")
    assert facts["facts"]["step"] == 100
    assert facts["facts"]["config"]["scenes"] == cache.name  # and not where it is


KILLED_AT_STEP_17 = """
import os, signal, sys
from vtsr.training import train

update = train.Training.update

def fatal(self, *arguments):
    result = update(self, *arguments)
    if self.step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

train.Training.update = fatal
train.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_to_the_same_weights_and_log(cache: Path, tmp_path: Path) -> None:
    options = {"precision": "bf16", "noise": 0.01, "late_scheme": "law-multilevel", "late_share": 0.4, "steps": 40}
    assert main(arguments(tmp_path / "whole", cache, **options)) == 0

    command = [sys.executable, "-c", KILLED_AT_STEP_17, *arguments(tmp_path / "killed", cache, **options)]
    process = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=200)
    assert process.returncode == -signal.SIGKILL
    assert read_metadata(tmp_path / "killed" / "state.safetensors")["step"] == 15
    assert [row["step"] for row in read_log(tmp_path / "killed" / "log.csv")] == [8, 16]  # the last will come again

    # As it was begun, without repeating a single option.
    assert main([str(tmp_path / "killed"), "--resume", "--workers", "1", "--threads", "1"]) == 0
    assert identical(state(tmp_path / "killed"), state(tmp_path / "whole"))
    assert identical(*(read_tensors(tmp_path / n / "last.safetensors")[0] for n in ("killed", "whole")))
    logs = [read_log(tmp_path / n / "log.csv") for n in ("killed", "whole")]
    assert [row["step"] for row in logs[0]] == [8, 16, 24, 32, 40]
    timed = {"seconds", "data_share"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in logs[0]] == [
        {k: v for k, v in row.items() if k not in timed} for row in logs[1]
    ]


def test_two_processes_do_what_one_does_with_the_joint_batch(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    fresh = build_network("dense-tiny")  # with heads that are not zero: the gradients are not mere rounding
    for head in (fresh.head, fresh.detail_head):
        torch.nn.init.normal_(head.weight, 0, 0.03)
    save_network(tmp_path / "fresh.safetensors", fresh, "dense-tiny", {})
    options = {"steps": 4, "validate_every": 2, "scheme": "reconstruction", "init": tmp_path / "fresh.safetensors"}
    assert main(arguments(tmp_path / "one", cache, **options)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(free_port()), "-m", "vtsr.training.train"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, *arguments(tmp_path / "two", cache, **options)]
    # PyTorch's own threads have been seen to abort a process on its way out; what it computed is what counts here.
    for _ in range(2):
        shutil.rmtree(tmp_path / "two", ignore_errors=True)
        done = subprocess.run(command, env=environment, timeout=100)
        if done.returncode == 0:
            break
    assert done.returncode == 0
    ours, theirs = state(tmp_path / "one"), state(tmp_path / "two")
    assert ours.keys() == theirs.keys()

    def length(tensors: list[Any]) -> float:
        return float(torch.cat([x.flatten() for x in tensors]).norm())

    starts = {f"network.{name}": value for name, value in fresh.state_dict().items()}
    moved = length([ours[n] - start for n, start in starts.items()])
    assert length([ours[n] - theirs[n] for n in starts]) < 1e-4 * moved
    for kind in (".exp_avg", ".exp_avg_sq"):  # the gradients and their squares
        names = [n for n in ours if n.endswith(kind)]
        assert length([ours[n] - theirs[n] for n in names]) < 1e-3 * length([ours[n] for n in names])
    for one, two in zip(*(read_log(tmp_path / n / "log.csv") for n in ("one", "two")), strict=True):
        assert one["step"] == two["step"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["train_psnr"] == pytest.approx(one["train_psnr"], abs=1e-3)
        assert two["f1"] == pytest.approx(one["f1"], abs=1e-3)


def free_port() -> int:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_a_run_prepares_its_own_cache(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photos", 2)
    options = {"photographs": photographs, "scene_count": 4, "scene_size": 32, "steps": 2, "held_out": 1}
    assert main(arguments(tmp_path / "run", None, **options)) == 0
    assert np.load(tmp_path / "run" / "scenes" / "scenes.npy").shape == (4, 24, 32, 32, 3)


def test_the_thesis_configuration_runs_in_miniature(tmp_path: Path) -> None:
    """All of section 4.1.3 but the sizes: GOPRO's layout, ImageNet and VGG weights from files, 2 epochs."""
    for i in range(4):
        write_frames(tmp_path / "GOPRO" / "train" / f"GOPR{i}", panning(i, 12, 40, 40, 1.0))
    write_frames(tmp_path / "GOPRO" / "test" / "GOPR9", panning(9, 12, 40, 40, 1.0))
    backbone = {k: v for k, v in MobileNetV2(0.35).state_dict().items()}
    save_file(backbone, tmp_path / "imagenet.safetensors")
    widths = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512)
    vgg, place, inputs = {}, 0, 3
    for width in widths:
        if width:
            vgg[f"features.{place}.weight"] = torch.randn(width, inputs, 3, 3) * 0.05
            vgg[f"features.{place}.bias"] = torch.zeros(width)
            inputs = width
        place += 2 if width else 1
    save_file(vgg, tmp_path / "vgg16.safetensors")
    small = {
        "preset": "pyramid-compact", "backbone_weights": tmp_path / "imagenet.safetensors",
        "perceptual_weights": tmp_path / "vgg16.safetensors", "high_speed": tmp_path / "GOPRO",
        "video_scenes": 2, "scene_size": 40, "scene_subframes": 12, "windows": "4", "window_weights": "1",
        "held_out_share": 0.25, "crop": 32, "batch": 2, "epochs": 2, "milestone_epochs": 1, "validate_every": 3,
    }  # fmt: skip
    out = tmp_path / "run"
    settings = itertools.chain.from_iterable(("--set", f"{k}={v}") for k, v in small.items())
    assert main([str(out), "--config", "thesis", *settings, "--workers", "0", "--threads", "1"]) == 0
    rows = read_log(out / "log.csv")
    assert [row["step"] for row in rows] == [3, 6]  # epochs of 6 scenes in batches of 2, another 2 held out
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-4, 0.7e-4])
    assert {"f1", "f2"} <= rows[0].keys()
    trained = state(out)
    moved = {k: (trained[f"network.encoder.{k}"] - v).abs().max().item() for k, v in backbone.items() if "weight" in k}
    assert 0 < max(moved.values()) < 2e-3  # loaded, frozen for one epoch of 3 steps, then trained for another


def training(cache: Path, **options: Any) -> tuple[Training, list[list[Any]], losses.Loss]:
    config = TrainConfig.load(None, SMALL | options)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    finest = [torch.rand(2, 24, 3, 32, 32, generator=generator) for _ in range(6)]
    samples = [[shots.unflatten(1, (-1, 8 >> k)).mean(2) for k in range(4)] for shots in finest]
    return Training(config, Process()), samples, train.combined_loss(config, torch.device("cpu"))


def test_the_backbone_is_frozen_for_its_steps_only(cache: Path) -> None:
    run, samples, loss = training(cache, preset="pyramid-compact", frozen_backbone_steps=2, weight_decay=0.1)
    run.network.decoder_first.head.weight.data.normal_(0, 0.1)  # otherwise nothing reaches the backbone at first
    before = {k: v.clone() for k, v in run.network.named_parameters()}
    for step, sample in enumerate(samples[:3]):
        run.update(run.network, sample, loss)
        same = {k: v.equal(before[k]) for k, v in run.network.named_parameters() if k.startswith("encoder.")}
        assert all(same.values()) if step < 2 else not any(same.values())
    assert not run.network.fusion[0].fuse.weight.equal(before["fusion.0.fuse.weight"])


def test_a_frozen_backbone_survives_a_resume(cache: Path, tmp_path: Path) -> None:
    options = {"preset": "pyramid-compact", "frozen_backbone_steps": 2, "batch": 2, "validate_every": 4}
    assert main(arguments(tmp_path / "whole", cache, steps=4, **options)) == 0
    assert main(arguments(tmp_path / "parts", cache, steps=1, schedule="multistep", **options)) == 0
    assert main([str(tmp_path / "parts"), "--resume", "--set", "steps=4", "--set", "schedule=cosine",
                 "--workers", "0", "--threads", "1"]) == 0  # fmt: skip
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert int(whole["optimizer.0.step"]) == int(parts["optimizer.0.step"]) == 2


def test_the_average_is_exponential_with_a_short_start(cache: Path) -> None:
    run, samples, loss = training(cache, ema=0.5)
    expected = {k: v.clone().double() for k, v in run.network.state_dict().items()}
    for step, sample in enumerate(samples, 1):
        run.update(run.network, sample, loss)
        keep = min(0.5, (1 + step) / (10 + step))
        for name, value in run.network.state_dict().items():
            expected[name] = keep * expected[name] + (1 - keep) * value.double()
    assert all(torch.allclose(run.average[k].double(), v, atol=1e-6) for k, v in expected.items())
    assert any(not run.average[k].equal(v) for k, v in run.network.state_dict().items())
    bare, samples, loss = training(cache, ema=0)
    bare.update(bare.network, samples[0], loss)
    assert all(bare.average[k].equal(v) for k, v in bare.network.state_dict().items())


def test_gradients_are_clipped_to_their_norm(cache: Path) -> None:
    def norm(clip: float) -> float:
        run, samples, loss = training(cache, gradient_clip=clip)
        run.update(run.network, samples[0], loss)
        return float(torch.cat([p.grad.flatten() for p in run.network.parameters()]).norm())

    free = norm(0)
    assert free > 1e-3
    assert norm(free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert norm(free * 10) == pytest.approx(free, rel=1e-6)


def test_half_precision_computes_in_bf16_and_keeps_float_weights(cache: Path) -> None:
    values, kinds = [], []
    for precision in ("fp32", "bf16"):
        run, samples, loss = training(cache, precision=precision)
        torch.nn.init.normal_(run.network.head.weight, 0, 0.05, generator=torch.Generator().manual_seed(1))
        seen: list[Any] = []
        run.network.stem.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.dtype))
        values.append(run.update(run.network, samples[0], loss)[0])
        kinds.append(seen[0])
        assert {p.dtype for p in run.network.parameters()} == {torch.float32}
    assert kinds == [torch.float32, torch.bfloat16]
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=0.01)


def test_weights_and_activations_are_channels_last(cache: Path) -> None:
    run, samples, loss = training(cache)
    layouts: list[bool] = []
    run.network.middle.register_forward_hook(
        lambda module, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    run.update(run.network, samples[0], loss)
    assert layouts == [True]
    weight = run.network.down1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_weight_decay_belongs_to_adamw_alone(cache: Path) -> None:
    def kind(**options: Any) -> tuple[str, float]:
        optimizer = training(cache, weight_decay=0.1, **options)[0].optimizer
        return type(optimizer).__name__, optimizer.param_groups[0]["weight_decay"]

    assert kind(optimizer="adamw") == ("AdamW", 0.1)
    assert kind(optimizer="adam") == ("Adam", 0.0)


def test_a_diverged_run_stops_and_keeps_its_last_state(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "run", cache, steps=3)) == 0
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    again = [str(tmp_path / "run"), "--resume", "--workers", "0", "--threads", "1", "--set", "steps=50"]
    capsys.readouterr()
    assert main([*again, "--set", "learning_rate=1e30", "--set", "checkpoint_every=50"]) == 2
    assert "vtsr-train: Training has diverged at step" in capsys.readouterr().err
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before


def test_the_share_of_time_spent_waiting_for_data_is_right(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock by which a batch takes 3 seconds, a step 1 second, and nothing else counts."""
    now = [0.0]
    batches, update, validation = train.batches, Training.update, train.validate

    def slow_batches(*args: Any) -> Iterator[Any]:
        for sample in batches(*args):
            now[0] += 3
            yield sample

    def slow_update(*args: Any) -> Any:
        now[0] += 1
        return update(*args)

    def slow_validation(*args: Any) -> Any:
        now[0] += 1000
        return validation(*args)

    monkeypatch.setattr(train, "batches", slow_batches)
    monkeypatch.setattr(Training, "update", slow_update)
    monkeypatch.setattr(train, "validate", slow_validation)
    monkeypatch.setattr(train, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    assert main(arguments(tmp_path / "run", cache, steps=4, validate_every=2)) == 0
    rows = read_log(tmp_path / "run" / "log.csv")
    assert [row["data_share"] for row in rows] == [0.75, 0.75]
    assert [row["seconds"] for row in rows] == [8, 1016]


def test_validation_averages_the_psnr_of_scenes() -> None:
    class Blend(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, first: Any, second: Any) -> Any:
            return 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second

    scenes = np.stack([panning(i, 27, 32, 32, 0.5) for i in range(2)])
    scores = validate(Blend(), scenes, 8, 2)

    def score(output: Array, truth: Array) -> float:
        return float(-10 * np.log10(np.mean((output - truth) ** 2)))

    ours, nothing = [], []
    for scene in scenes / 255:
        z = np.rint(scene[:24].reshape(3, 8, 32, 32, 3).mean(axis=1) * 255) / 255
        truth = scene[:24].reshape(6, 4, 32, 32, 3).mean(axis=1)
        nothing.append(score(np.repeat(z, 2, axis=0), truth))
        b, a = [0.75 * z[i] + 0.25 * z[i + 1] for i in (0, 1)], [0.25 * z[i] + 0.75 * z[i + 1] for i in (0, 1)]
        d = (b[1] - a[0]) / 2
        room = np.minimum(z, 1 - z)
        first = np.clip((b[0] - (2 * z[0] - b[0])) / 2, -room[0], room[0])
        last = np.clip(((2 * z[2] - a[1]) - a[1]) / 2, -room[2], room[2])
        d = np.clip(d, -room[1], room[1])
        halves = [z[0] - first, z[0] + first, z[1] - d, z[1] + d, z[2] - last, z[2] + last]
        ours.append(score(np.clip(np.stack(halves), 0, 1), truth))
    assert scores["nothing_f1"] == pytest.approx(np.mean(nothing), abs=1e-3)
    assert scores["f1"] == pytest.approx(np.mean(ours), abs=1e-3)
    assert list(scores) == ["f1", "f2", "nothing_f1", "nothing_f2"]


@pytest.mark.parametrize(("windows", "levels"), [((8, 4, 2), 3), ((2,), 1), ((4, 2), 2), ((12,), 2), ((32,), 3)])
def test_as_many_levels_are_validated_as_have_truth(windows: tuple[int, ...], levels: int) -> None:
    assert levels_of(windows) == levels


def row(step: int) -> dict[str, float]:
    values = {"loss": 0.1 / step, "train_psnr": 30.0, "data_share": 0.1, "seconds": step, "learning_rate": 1e-3}
    return {"step": step, "samples": 16 * step, **values, "f1": 30.0 + step, "nothing_f1": 30.0}


def test_a_resumed_log_drops_what_came_after_the_state_and_what_was_cut_short(tmp_path: Path) -> None:
    log = Log(tmp_path, 1, 0)
    for step in (1, 2, 3):
        log.add(row(step))
    with open(log.path, "a") as file:
        file.write("4,64,0.0")  # the kill came here
    assert [r["step"] for r in read_log(log.path)] == [1, 2, 3]
    resumed = Log(tmp_path, 1, 2)
    resumed.add(row(3))
    with open(log.path, newline="") as file:
        assert [r["step"] for r in csv.DictReader(file)] == ["1", "2", "3"]


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = Log(tmp_path, 1, 0)
    log.add(row(1))
    log.add(row(2))
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape[0] > 300
    blue = np.array([0xB2, 0x72, 0x00])  # of f, in OpenCV's order
    assert (np.abs(picture.astype(int) - blue).sum(axis=2) < 10).sum() > 100


def test_tensorboard_gets_every_score_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Log(tmp_path, 1, 0).add(row(2))
    assert ("f1", 32.0, 2) in written
    assert {name for name, _, _ in written} == {"loss", "train_psnr", "data_share", "learning_rate", "f1", "nothing_f1"}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Log(tmp_path / "", 1, 0).add(row(2))  # without it there is only the table
    assert len(written) == 6


def test_runs_start_from_given_weights(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("dense-tiny")
    torch.nn.init.normal_(network.head.weight, 0, 0.1)
    save_network(tmp_path / "a.safetensors", network, "dense-tiny", {})
    run = training(cache, init=str(tmp_path / "a.safetensors"))[0]
    assert identical(dict(run.network.state_dict()), dict(network.state_dict()))
    with pytest.raises(OptionError, match="'dense-tiny'"):
        training(cache, preset="dense", init=str(tmp_path / "a.safetensors"))

    full = MobileNetV2().state_dict()
    save_file(dict(full), tmp_path / "imagenet.safetensors")
    run = training(cache, preset="pyramid", backbone_weights=str(tmp_path / "imagenet.safetensors"))[0]
    assert identical(dict(run.network.encoder.state_dict()), dict(full))
    with pytest.raises(ModelError, match="no tensor"):
        training(cache, preset="pyramid", backbone_weights=str(tmp_path / "a.safetensors"))
    with pytest.raises(OptionError, match="no backbone"):
        training(cache, backbone_weights=str(tmp_path / "imagenet.safetensors"))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingExtraError, match="backbone_weights"):
        training(cache, preset="pyramid", backbone_weights="torchvision")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "steps"], "KEY=VALUE"),
        (["--set", "stepps=3"], "no training option 'stepps'"),
        (["--set", "preset=resnet"], "no preset 'resnet'"),
        (["--set", "scheme=magic"], "no scheme 'magic'"),
        (["--set", "scenes=nowhere"], "make one with vtsr-scenes"),
        (["--set", "photographs=nowhere"], "no photographs in nowhere"),
        (["--set", "held_out=40"], "are to be held out"),
        (["--set", "held_out=0"], "set held_out"),
        (["--set", "crop=96"], "does not fit into scenes of 64"),
        (["--set", "frames=4"], "do not fit into scenes of 24"),
        (["--set", "init=none.safetensors"], "no such file"),
        (["--config", "none.toml"], "none.toml cannot be read"),
        (["--resume"], "to resume from"),
        (["--workers", "-1"], "--workers"),
        (["--threads", "0"], "--threads"),
        (["--set", "loss_perceptual=1", "--set", "perceptual_weights=none.safetensors"], "no such file"),
        (["--set", "frozen_backbone_steps=5"], "no backbone to freeze"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    options: list[str], words: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path / "run", None if "photographs=nowhere" in options else cache)
    assert main([*given, *options]) == 2
    message = capsys.readouterr().err
    assert message.startswith("vtsr-train: ")
    assert words in message
    assert message.count("\n") == 1


def test_a_state_of_something_else_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(arguments(out, cache, steps=1)) == 0
    capsys.readouterr()
    assert main([str(out), "--resume", "--set", "preset=dense-fast", "--workers", "0"]) == 2
    assert "cannot go on as 'dense-fast'" in capsys.readouterr().err
    (out / "state.safetensors").write_bytes((out / "last.safetensors").read_bytes())
    assert main([str(out), "--resume", "--workers", "0"]) == 2
    assert "not the state of a run" in capsys.readouterr().err
    (out / "state.safetensors").write_bytes(b"damaged")
    assert main([str(out), "--resume", "--workers", "0"]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(SCHEMES))
def test_every_scheme_lowers_its_loss(name: str, cache: Path) -> None:
    run, samples, loss = training(cache, scheme=name, loss_temporal=0.1, loss_sharpness=0.1, warmup=0)
    history = [run.update(run.network, samples[0], loss)[0] for _ in range(8)]
    assert history[-1] < 0.995 * history[0]
