"""A small model from observation to installed INT8 step: the command, the gate, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402

import vtsr  # noqa: E402
from vtsr.calibration.cli import main  # noqa: E402
from vtsr.calibration.clips import RUN, choose, rendered_runs, runs_of  # noqa: E402
from vtsr.calibration.gate import Verdict, check, verdict  # noqa: E402
from vtsr.calibration.install import install  # noqa: E402
from vtsr.calibration.observe import observe  # noqa: E402
from vtsr.calibration.quantize import quantize_for_cpu  # noqa: E402
from vtsr.calibration.ranges import Ranges  # noqa: E402
from vtsr.calibration.sensitivity import keep_within, rank  # noqa: E402
from vtsr.errors import InputError, ModelError, OptionError  # noqa: E402
from vtsr.evaluation.clips import Clip  # noqa: E402
from vtsr.evaluation.judge import evaluate  # noqa: E402
from vtsr.evaluation.methods import parse_method  # noqa: E402
from vtsr.evaluation.scores import Result, Score  # noqa: E402
from vtsr.export.model import export_model  # noqa: E402
from vtsr.runtime import backend as backends  # noqa: E402
from vtsr.runtime.cpu import has_integer_dot_products  # noqa: E402
from vtsr.runtime.models import INT8_STEP, MANIFEST_NAME, ModelFolder, open_model  # noqa: E402
from vtsr.training.network import build_network  # noqa: E402
from vtsr.training.recursion import halve  # noqa: E402


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    network = build_network("dense-tiny").eval()
    torch.nn.init.normal_(network.head.weight, 0, 0.02)
    return network


@pytest.fixture(scope="module")
def exported(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    export_model(network, out, "tiny")
    return out


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> ModelFolder:
    shutil.copytree(exported, tmp_path / "tiny")
    return open_model(tmp_path / "tiny")


def moving(frames: int, height: int = 48, width: int = 64, speed: float = 1.5, seed: int = 0) -> np.ndarray:
    """Waves that pass: uint8 (frames, height, width, 3)."""
    y, x = np.mgrid[:height, :width].astype(float)
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    clip = [
        np.stack([128 + 100 * np.sin((x + speed * t) / 5 + p) * np.cos((y - speed * t) / 8) for p in phase], axis=-1)
        for t in range(frames)
    ]
    return np.rint(np.array(clip)).astype(np.uint8)


@pytest.fixture(scope="module")
def ranges(exported: Path) -> Ranges:
    return observe(open_model(exported), [moving(4)], 2, method="minmax")


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [Clip.of("waves", moving(24, 32, 32, 0.5, 1)), Clip.of("slow", moving(16, 32, 32, 0.1, 2))]


def test_what_is_observed_at_each_level_is_what_pytorch_feeds_its_layers(network: Any, ranges: Ranges) -> None:
    largest: dict[str, float] = {}
    results: dict[str, float] = {}

    def hook(name: str) -> Any:
        def note(_: Any, inputs: Any, output: Any) -> None:
            largest[name] = max(largest.get(name, 0.0), float(inputs[0].abs().max()))
            results[name] = max(results.get(name, 0.0), float(output.abs().max()))

        return note

    hooks = [m.register_forward_hook(hook(n)) for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)]
    frames = torch.nn.functional.pad(
        torch.from_numpy(moving(4)).permute(0, 3, 1, 2).float() / 255, (0, 0, 0, 16), mode="replicate"
    )
    with torch.inference_mode():
        for level in (1, 2):
            largest.clear()
            results.clear()
            # The halves of the last frame are not known before the stream ends.
            frames = halve(network, frames)[: 2 * (len(frames) - 1)]
            seen = ranges.levels[level]
            inner = {n for n in largest if not n.endswith(("stem", "head"))}
            assert {f"network.{n}" for n in inner} == {n for n in seen if not n.endswith(":out")}
            for name in inner:
                assert seen[f"network.{name}"].largest == pytest.approx(largest[name], rel=1e-3)
            for name in ("decoder1.0.conv2", "up1.conv"):  # no activation function follows these
                assert seen[f"network.{name}:out"].largest == pytest.approx(results[name], rel=1e-3)
    for registered in hooks:
        registered.remove()


def test_observation_does_not_depend_on_how_runs_are_divided_between_machines(exported: Path) -> None:
    model, runs = open_model(exported), [moving(3, seed=s) for s in range(3)]
    whole = observe(model, runs, 1)
    merged = observe(model, runs[:1], 1).merged(observe(model, runs[1:], 1))
    for name, seen in whole.levels[1].items():
        assert np.array_equal(seen.counts, merged.levels[1][name].counts)


def test_runs_are_spread_over_time_and_motion_and_never_cross_a_cut() -> None:
    changes = np.abs(np.sin(np.arange(99) / 7)) + 0.1
    changes[[30, 31, 61]] = np.nan
    rng = np.random.default_rng(0)
    chosen = choose(changes, 6, rng)
    assert len(chosen) == 6
    for (start, stop), following in zip(chosen, [*chosen[1:], (100, 0)], strict=True):
        assert stop - start == RUN
        assert stop <= following[0]
        assert not np.isnan(changes[start : stop - 1]).any()
    means = [np.mean(changes[a : b - 1]) for a, b in chosen]
    assert max(means) > 2 * min(means)
    assert choose(changes, 6, np.random.default_rng(0)) == chosen


def test_large_frames_are_cropped_and_short_scenes_used() -> None:
    clip = Clip.of("large", moving(5, 540, 600))
    runs = list(runs_of([clip], 4))
    assert [run.shape for run in runs] == [(4, 512, 512, 3)]
    scenes = np.concatenate([moving(2, 32, 32), 255 - moving(2, 32, 32, seed=5) // 3])
    assert [len(run) for run in runs_of([Clip.of("pairs", scenes)], 4)] == [4]


def test_rendered_runs_move_differ_and_repeat_with_their_seed() -> None:
    first, again = (next(rendered_runs(4, seed=3)) for _ in range(2))
    assert first.shape[0] == RUN
    assert first.dtype == np.uint8
    assert np.abs(np.diff(first.astype(int), axis=0)).mean() > 0.3
    assert np.array_equal(first, again)


def scores(method: str, psnr: list[float], flicker: float = 1.0) -> list[Score]:
    return [
        Score(f"clip{i}", "", method, 8, factor, value, 0, 0, flicker, 0)
        for i, value in enumerate(psnr) for factor in (2, 4, 8)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("after", "flicker", "passes"),
    [
        ([30.0, 40.0], 1.0, True),
        ([29.9, 39.75], 1.0, True),  # 0.175 in the mean, 0.25 at worst
        ([29.75, 39.75], 1.0, False),  # 0.25 in the mean
        ([30.3, 39.55], 1.0, False),  # 0.075 in the mean, 0.45 at worst
        ([30.0, 40.0], 1.2, False),
        ([30.5, 40.5], 0.5, True),
        ([float("nan"), 40.0], 1.0, False),
    ],
)
def test_the_gate_closes_beyond_its_limits(after: list[float], flicker: float, passes: bool) -> None:
    result = Result(8, scores("reference", [30.0, 40.0]) + scores("candidate", after, flicker))
    found = verdict(result, "reference", "candidate")
    assert found.passed is passes
    assert bool(found.faults) is not passes
    assert json.loads(json.dumps(found.to_json()))["passed"] is passes


def test_the_gate_passes_the_model_itself_and_stops_a_spoilt_one(folder: ModelFolder, clips: list[Clip]) -> None:
    same = check(folder, folder.read("step.onnx"), clips)
    assert same.passed
    assert max(map(abs, same.drop.values())) == 0
    spoilt = onnx.load_from_string(folder.read("step.onnx"))
    head = next(t for t in spoilt.graph.initializer if t.name == "network.head.weight")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * 4, head.name))
    found = check(folder, spoilt, clips)
    assert not found.passed
    assert "FAILED" in found.sentence()
    assert set(found.drop) == {"f", "f2", "f3"}


def test_layers_are_ranked_by_what_each_costs_alone(folder: ModelFolder, ranges: Ranges, clips: list[Clip]) -> None:
    model = onnx.load_from_string(folder.read("step.onnx"))
    names = [n for n in ranges.levels[1] if not n.endswith(":out")]

    def build(keep: Any) -> Any:
        return quantize_for_cpu(model, ranges, keep_float=keep)

    costs = rank(folder, build, clips, levels=2)
    assert sorted(n for cost in costs for n in cost.layers) == sorted(names)
    assert [c.drop for c in costs] == sorted((c.drop for c in costs), reverse=True)
    alone = check(folder, build([n for n in names if n not in costs[0].layers]), clips, levels=2)
    assert costs[0].drop == pytest.approx(alone.drop["f2"])
    assert keep_within(100, costs, folder, build, clips, levels=2)[0] == ()
    with pytest.raises(OptionError, match="No choice of layers"):
        keep_within(-100, costs, folder, build, clips, levels=2)


def good_verdict() -> Verdict:
    zero = {"f": 0.0}
    return Verdict(zero, zero, zero, "a", ("a",))


def test_an_installed_int8_step_is_used_and_near_the_float_one(folder: ModelFolder, ranges: Ranges) -> None:
    graph = quantize_for_cpu(onnx.load_from_string(folder.read("step.onnx")), ranges)
    assert install(folder, graph, ranges, good_verdict()) > 0
    opened = open_model(folder.path)
    assert opened.read(INT8_STEP) == graph.SerializeToString()
    frames = moving(4)
    outputs = {}
    for precision in ("fp32", "int8"):
        with vtsr.Upconverter(2, model=str(folder.path), precision=precision, threads=1, scene_threshold=1) as up:
            assert up.precision == precision
            outputs[precision] = np.stack([f.image for f in up.run(frames)]).astype(float)
    difference = np.abs(outputs["fp32"] - outputs["int8"])
    assert 0 < difference.mean() < 1
    assert difference.max() <= 8


def test_the_evaluation_can_ask_for_int8(folder: ModelFolder, ranges: Ranges, clips: list[Clip]) -> None:
    graph = quantize_for_cpu(onnx.load_from_string(folder.read("step.onnx")), ranges)
    install(folder, graph, ranges, good_verdict())
    methods = [parse_method(f"{folder.path}{suffix}", threads=1) for suffix in ("", "@int8")]
    assert [method.name for method in methods] == ["tiny", "tiny@int8"]
    result = evaluate(clips, methods, 8, levels=1, metrics=("psnr",))
    expected = check(folder, graph, clips, levels=1)
    assert verdict(result, "tiny", "tiny@int8").drop == expected.drop


def test_auto_precision_takes_int8_only_where_it_was_measured_to_gain(
    folder: ModelFolder, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(folder, quantize_for_cpu(onnx.load_from_string(folder.read("step.onnx")), ranges), ranges, good_verdict())
    manifest = json.loads((folder.path / MANIFEST_NAME).read_text())

    def precision(passed: Any, ratio: Any, dot_products: bool | None) -> str:
        manifest["int8"]["gate"]["passed"] = passed
        manifest["int8"]["speed_ratio"] = ratio
        (folder.path / MANIFEST_NAME).write_text(json.dumps(manifest))
        monkeypatch.setattr(backends, "has_integer_dot_products", lambda: dot_products)
        return backends.load_backend("auto", str(folder.path), 1, "auto").precision

    assert precision(True, 1.5, True) == "int8"
    assert precision(True, 1.5, None) == "fp32"
    assert precision(True, 0.9, True) == "fp32"
    assert precision(False, 1.5, True) == "fp32"
    assert precision("yes", "fast", True) == "fp32"
    monkeypatch.setattr(backends, "has_integer_dot_products", lambda: False)
    with pytest.raises(OptionError, match="integer dot products"):
        backends.load_backend("auto", str(folder.path), 1, "int8")


def test_a_model_without_int8_says_so(folder: ModelFolder) -> None:
    with pytest.raises(OptionError, match="no INT8 graph"):
        vtsr.Upconverter(1, model=str(folder.path), precision="int8")
    with pytest.raises(OptionError, match="no precision 'int4'"):
        vtsr.Upconverter(1, model=str(folder.path), precision="int4")
    with vtsr.Upconverter(1, model=str(folder.path)) as up:
        assert up.precision == "fp32"


def test_a_graph_that_fails_the_gate_is_installed_only_by_force(folder: ModelFolder, ranges: Ranges) -> None:
    graph = quantize_for_cpu(onnx.load_from_string(folder.read("step.onnx")), ranges)
    bad = replace(good_verdict(), drop={"f": 0.5})
    before = sorted(p.name for p in folder.path.iterdir())
    with pytest.raises(ModelError, match=r"mean drop 0\.500 dB at f"):
        install(folder, graph, ranges, bad)
    assert sorted(p.name for p in folder.path.iterdir()) == before
    install(folder, graph, ranges, bad, force=True)
    assert open_model(folder.path).gains_from_int8 is False


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t: fpu avx2 avx512_vnni", True),
        ("flags : fpu avx2", False),
        ("Features : asimd asimddp", True),
        ("", None),
    ],
)
def test_cpus_are_asked_for_integer_dot_products(flags: str, expected: bool | None, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\n{flags}\n")
    assert has_integer_dot_products(path) is expected
    assert has_integer_dot_products(tmp_path / "none") is None


def save(path: Path, frames: np.ndarray) -> Path:
    np.save(path, frames)
    return path


def test_the_command_from_clip_to_installed_step(
    folder: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = save(tmp_path / "clip.npy", moving(16))
    other = save(tmp_path / "other.npy", moving(16, 32, 32, 0.5, 3))
    model = ["--model", str(folder.path), "-q", "-l", "2"]
    outs = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        assert main([str(clip), *model, "--frames", "8", "--seed", str(seed), "-o", str(out)]) == 0
    first, again, different = (out.read_bytes() for out in outs)
    assert first == again != different

    merged = tmp_path / "merged.json"
    assert main(["--merge", str(outs[0]), str(outs[2]), *model, "--method", "minmax", "-o", str(merged)]) == 0
    assert Ranges.load(merged).method == "minmax"
    options = ["--from", str(merged), "-o", str(tmp_path / "d.json"), "--install", "--force", "--gate", str(other)]
    assert main([*options, *model]) == 0
    said = capsys.readouterr().out
    assert "gate, cpu graph: " in said
    assert "times as fast" in said
    manifest = open_model(folder.path).facts
    assert manifest["int8"]["method"] == "minmax"
    assert manifest["int8"]["calibration"]["clips"] == ["clip.npy"]
    assert manifest["int8"]["gate"]["clips"] == ["other"]


def test_the_command_needs_no_clips(folder: ModelFolder, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert main(["--model", str(folder.path), "-q", "-l", "1", "--frames", "4", "-o", str(out)]) == 0
    assert Ranges.load(out).facts["clips"] == "rendered"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.mp4"], "no video or folder"),
        (["empty"], "holds no pictures"),
        (["one.npy"], "only one frame"),
        (["cuts.npy"], "new scene in every frame"),
        (["clip.npy", "--frames", "3"], "At least 4 frames"),
        (["--frames", "0"], "At least 4 frames"),
        (["clip.npy", "-l", "5"], "--levels goes from 1 to 4"),
        (["clip.npy", "--seed", "-1"], "--seed must be"),
        (["clip.npy", "--percentile", "nan"], "--percentile goes"),
        (["clip.npy", "--budget", "-1"], "--budget must be"),
        (["clip.npy", "--threads", "0"], "--threads must be"),
        (["clip.npy", "--gate", "clip.npy"], "must not see a clip"),
        (["clip.npy", "--from", "good.json"], "exclude one another"),
        (["--from", "good.json", "--target", "tensorrt", "--install"], "--install adds the CPU's graph"),
        (["--from", "good.json", "--force"], "--force goes with"),
        (["--from", "none.json"], "cannot be read"),
        (["--from", "foreign.json"], "belong to another model"),
        (["--from", "zero.json"], "always zero"),
        (["--from", "broken.json"], "not an intact file of ranges"),
        (["--merge", "good.json", "foreign.json"], "different models"),
        (["--from", "good.json", "-o", "missing/r.json"], "cannot be written"),
        (["--from", "good.json", "--gate", "one.npy"], "fewer than the 8 frames"),
        (["--model", "nothing"], "no model 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], expected: str, exported: Path, ranges: Ranges, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "clip.npy", moving(8))
    save(tmp_path / "one.npy", moving(1))
    noise = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).repeat(12, 1).repeat(12, 2).astype(np.uint8)
    noise[1] = noise[1] // 4
    save(tmp_path / "cuts.npy", noise)
    ranges.save(tmp_path / "good.json")
    replace(ranges, model="0" * 64).save(tmp_path / "foreign.json")
    zero = {name: replace(seen, counts=seen.counts * 0 + np.eye(1, len(seen.counts), dtype=int)[0], largest=0.0)
            for name, seen in ranges.levels[1].items()}  # fmt: skip
    replace(ranges, levels={1: zero}).save(tmp_path / "zero.json")
    text = (tmp_path / "good.json").read_text()
    (tmp_path / "broken.json").write_text(text.replace('"largest":', '"largest":NaN,"x":', 1))
    model = [] if "--model" in arguments else ["--model", str(exported)]
    assert main([*arguments, *model, "-q"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("vtsr-calibrate: ")
    assert said.endswith(".")
    assert "\n" not in said
    assert expected in said
    assert not (tmp_path / "ranges.json").exists() or "--gate" in arguments


def test_the_guide_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    words = {word.strip(",[]") for word in capsys.readouterr().out.split()}
    options = {word for word in words if word.startswith("--")} - {"--help", "--version", "--completion"}
    guide = (Path(__file__).parent.parent / "docs" / "int8.md").read_text()
    assert {"--sensitivity", "--gate", "--install"} <= options
    assert [option for option in sorted(options) if option not in guide] == []


def test_a_clip_without_frames_is_named() -> None:
    with pytest.raises(InputError, match="'none' has no frames"):
        list(runs_of([Clip("none", lambda: iter(()))], 4))
