"""Deployment folders: the graphs that become engines, the recipe, and the command that makes both."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402
from media import picture  # noqa: E402

import vtsr  # noqa: E402
from vtsr.errors import ModelError, OptionError, VtsrError  # noqa: E402
from vtsr.export.check import check_pixels, random_planes  # noqa: E402
from vtsr.export.cli import main  # noqa: E402
from vtsr.export.pixels import PAD_MULTIPLE, fixed_emit, fixed_ingest, plane_shapes, storage  # noqa: E402
from vtsr.runtime.engines.platform import what_is_missing  # noqa: E402
from vtsr.runtime.engines.recipe import RECIPE_NAME, open_recipe  # noqa: E402
from vtsr.runtime.engines.selftest import psnr, sample_inputs  # noqa: E402
from vtsr.runtime.models import MANIFEST_NAME, open_model  # noqa: E402

WIDTH, HEIGHT, LEVELS = 70, 50, 2
without_gpu = pytest.mark.skipif(what_is_missing() is None, reason="this machine builds engines")


@pytest.fixture(scope="module")
def deployed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp16 for an odd size, two levels, RGB and 10-bit NV12."""
    out = tmp_path_factory.mktemp("deploy") / "deploy"
    size, pixels = f"{WIDTH}x{HEIGHT}", ["--pixels", "rgb24", "--pixels", "p010le"]
    options = ["--model", str(tiny_model), "--fp16", "--size", size, "--levels", str(LEVELS), "--onnx-only", *pixels]
    assert main([*options, "-o", str(out)]) == 0
    return out


def run(path: Path | bytes, feeds: dict[str, Any]) -> list[Any]:
    return list(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which vtsr-export refuses ``arguments``."""
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert re.fullmatch(r"vtsr-export: [^\n]+[.)]\n", message)
    return message


def test_a_deployment_folder_is_a_model_for_the_cpu_too(deployed: Path, tiny_model: Path) -> None:
    frames = [picture(n, WIDTH, HEIGHT) for n in range(3)]
    outputs = []
    for model in (deployed, tiny_model):
        with vtsr.Upconverter(1, model=str(model), scene_threshold=1, threads=1) as up:
            outputs.append(np.stack([f.image for f in up.run(frames)]).astype(int))
    assert np.abs(outputs[0] - outputs[1]).max() <= 1
    assert open_model(deployed).precision == "fp16"


@pytest.mark.parametrize("typing", ["strong", "weak"])
def test_the_graphs_of_the_engines_upconvert_as_the_runtime_does(deployed: Path, typing: str) -> None:
    """ingest, step and emit of fixed size, chained by hand for one level, at a size that needs padding."""
    recipe = open_recipe(deployed)
    path = {(e.role, e.batch): deployed / e.graphs[typing][0] for e in recipe.engines if "p010" not in e.name}
    frames = [picture(n, WIDTH, HEIGHT) for n in range(3)]
    u, *others = (run(path["ingest", 1], {"image": frame[None]})[0] for frame in frames)
    assert u.shape[2] % PAD_MULTIPLE == u.shape[3] % PAD_MULTIPLE == 0
    a_u, carry, pictures = u, np.zeros((1, 1, 1, 1), np.float32), []
    for v in others:
        halves, u, a_u = run(path["step", 1], {"u": u, "a_u": a_u, "carry": carry, "v": v})
        carry = np.ones_like(carry)
        pictures.append(run(path["emit", 2], {"rgb": halves})[0])
    (last,) = run(path["finish", 1], {"u": u, "a_u": a_u})
    pictures.append(run(path["emit", 2], {"rgb": last})[0])
    with vtsr.Upconverter(1, model=str(deployed), scene_threshold=1, threads=1) as up:
        expected = np.stack([f.image for f in up.run(frames)])
    assert np.abs(np.concatenate(pictures).astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("typing", ["strong", "weak"])
def test_a_batch_of_pairs_is_the_pairs_one_by_one(deployed: Path, typing: str) -> None:
    path = {e.batch: deployed / e.graphs[typing][0] for e in open_recipe(deployed).engines if e.role == "step"}
    assert set(path) == {1, 2}  # levels 1 and 2
    rng = np.random.default_rng(0)
    u, a_u, *v = (rng.random((1, 3, 64, 96), np.float32) for _ in range(4))
    one = np.ones((1, 1, 1, 1), np.float32)
    both = run(path[2], {"u": u, "a_u": a_u, "carry": one, "v": np.concatenate(v)})
    first, next_u, next_a = run(path[1], {"u": u, "a_u": a_u, "carry": one, "v": v[0]})
    second = run(path[1], {"u": next_u, "a_u": next_a, "carry": one, "v": v[1]})
    for joint, single in zip(both, (np.concatenate([first, second[0]]), *second[1:]), strict=True):
        assert np.abs(joint - single).max() < 1e-4


def test_graphs_for_old_tensorrt_are_fp32_typed_in_opset_17(deployed: Path) -> None:
    for engine in open_recipe(deployed).engines:
        model = onnx.load(deployed / engine.graphs["weak"][0])
        assert (model.opset_import[0].version, model.ir_version) == (17, 8)
        types = {t.data_type for t in model.graph.initializer}
        assert onnx.TensorProto.FLOAT16 not in types


def test_every_graph_has_fixed_shapes_and_the_recipe_states_them(deployed: Path) -> None:
    recipe = open_recipe(deployed)
    assert {engine.role for engine in recipe.engines} == {"ingest", "step", "finish", "emit"}
    for engine in recipe.engines:
        for file, _ in engine.graphs.values():
            inputs = onnx.load(deployed / file).graph.input
            shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in inputs}
            assert {name: usual for name, (_, usual, _) in engine.profile.items()} == shapes
            assert all(smallest == usual == largest for smallest, usual, largest in engine.profile.values())


def test_layers_that_stay_fp32_under_weak_typing_are_the_ones_that_are_fp32_under_strong(deployed: Path) -> None:
    engine = next(e for e in open_recipe(deployed).engines if e.role == "step")
    strong = onnx.load(deployed / engine.graphs["strong"][0])
    inferred = onnx.shape_inference.infer_shapes(strong).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    single = {n.name for n in strong.graph.node if kinds[n.output[0]] == onnx.TensorProto.FLOAT and n.op_type != "Cast"}
    weak = {node.name for node in onnx.load(deployed / engine.graphs["weak"][0]).graph.node}
    assert single <= set(engine.single_layers)
    assert set(engine.single_layers) & weak == single


def test_uint8_is_only_cast_which_is_all_tensorrt_can_do_with_it(deployed: Path) -> None:
    for path in deployed.glob("[ie]*-*.onnx"):
        graph = onnx.load(path).graph
        ends = (*graph.input, *graph.output)
        stored = {v.name for v in ends if v.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
        assert stored
        for node in graph.node:
            if stored & {*node.input, *node.output}:
                assert node.op_type == "Cast"


def test_the_manifest_has_the_figures_of_the_check(deployed: Path) -> None:
    check = json.loads((deployed / MANIFEST_NAME).read_text())["check"]
    assert set(check["psnr"]) == {"f", "f2", "f3"}
    assert min(check["psnr"].values()) >= 55
    assert min(check["fixed_shapes"][typing] for typing in ("strong", "weak")) >= 55


def test_a_dynamic_step_is_one_engine_for_all_sizes(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "dynamic"
    options = ["--model", str(tiny_model), "--fp16", "--dynamic", "--size", "64x32", "--size", "40x90", "--onnx-only"]
    assert main([*options, "--levels", "3", "--pixels", "gray", "-o", str(out)]) == 0
    (engine,) = (e for e in open_recipe(out).engines if e.role == "step")
    assert engine.profile["v"] == ((1, 3, 32, 32), (4, 3, 32, 64), (4, 3, 96, 64))
    state = np.zeros((1, 3, 96, 64), np.float32)
    for typing in ("strong", "weak"):
        feeds = {"u": state, "a_u": state, "carry": np.ones((1, 1, 1, 1), np.float32), "v": state.repeat(3, 0)}
        assert run(out / engine.graphs[typing][0], feeds)[0].shape == (6, 3, 96, 64)


@pytest.mark.parametrize("opset", [17, 19])
def test_graphs_come_in_the_opset_asked_for(tiny_model: Path, tmp_path: Path, opset: int) -> None:
    out = tmp_path / "fp32"
    assert main(["--model", str(tiny_model), "--fp32", "--onnx-only", "--opset", str(opset), "-o", str(out)]) == 0
    assert onnx.load(out / "step.onnx").opset_import[0].version == opset
    assert not (out / RECIPE_NAME).exists()  # no size was asked for, so there is no engine


def test_a_checkpoint_can_be_exported_in_half_precision_at_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    assert main([str(tiny_checkpoint), "--fp16", "--onnx-only", "--name", "mine", "-o", str(out)]) == 0
    assert open_model(out).name == "mine-fp16"


def test_only_what_belongs_to_the_new_folder_comes_from_the_old_one(tiny_model: Path, tmp_path: Path) -> None:
    """Not its graphs of fixed size, nor other forms of its step."""
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--onnx-only", "--pixels", "gray"]
    assert main(["--model", str(tiny_model), "--fp32", "--size", "32x32", *options, "-o", str(first)]) == 0
    assert main(["--model", str(first), "--fp16", *options, "-o", str(second)]) == 0
    assert set(open_model(second).files) == set(open_model(tiny_model).files)


def test_exporting_again_replaces_the_graphs_and_keeps_what_a_user_has_added(
    deployed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(deployed, out)
    (out / "weights.safetensors").write_bytes(b"mine")
    assert main(["--model", str(tiny_model), "--fp32", "--onnx-only", "-o", str(out)]) == 0
    assert open_model(out).precision == "fp32"
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*open_model(out).files, MANIFEST_NAME, "weights.safetensors"]
    )


def test_a_half_precision_model_is_no_source(deployed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "fp32 one" in refused(["--model", str(deployed), "--fp16", "-o", "nowhere"], capsys)


@without_gpu
def test_without_a_gpu_the_graphs_are_written_and_what_is_missing_is_said(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here"
    assert main(["--model", str(tiny_model), "--fp16", "--size", "32x32", "--pixels", "gray", "-o", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert re.search(r"This machine lacks .*, so no engines were built; .* vtsr-export --build", said[-1])
    assert len(open_recipe(out).engines) > 0


@without_gpu
def test_building_without_a_gpu_is_refused(deployed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "lacks" in refused(["--build", str(deployed)], capsys)


BAD_OPTIONS = {
    "nothing": [],
    "size": ["--fp16", "--size", "3x3"],
    "huge": ["--fp16", "--size", "99999x1080"],
    "levels": ["--fp16", "--levels", "9"],
    "opset": ["--fp32", "--opset", "12"],
    "pixels": ["--fp16", "--pixels", "yuv411p"],
    "model": ["--fp16", "--model", "nowhere"],
    "calibration": ["--int8"],
    "ranges": ["--int8", "--calibration", "nowhere.json"],
    "recipe": ["--build", "nowhere"],
    "verify": ["--verify", "nowhere.plan"],
    "verify nothing": ["--verify", "nowhere"],
    "checkpoint": ["nowhere.safetensors", "-o", "out"],
    "no place": ["nowhere.safetensors"],
}


@pytest.mark.parametrize("options", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_are_refused_in_one_sentence(
    tiny_model: Path,
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = [] if "--model" in options else ["--model", str(tiny_model)]
    refused([*defaults, *options], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--fp16", "--size", "big"])
    assert raised.value.code == 2
    assert "WIDTHxHEIGHT" in capsys.readouterr().err


def test_an_empty_cache_lists_and_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--cache", str(tmp_path)]) == 0
    assert main(["--prune", "--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("0 engines") == 2


def test_the_cache_is_listed_verified_and_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vtsr.runtime.engines.cache import Built, EngineCache
    from vtsr.runtime.engines.request import EngineRequest

    shape = (1, 3, 32, 32)
    request = EngineRequest("mine-step", b"onnx", "fp16", True, {"u": (shape, shape, shape)})
    cache = EngineCache(tmp_path, lambda line: None)
    cache.get(request, {"GPU": "Testcard", "TensorRT": "10.0"}, bytes, lambda: Built(b"plan", {}))
    (entry,) = cache.entries()
    options = ["--cache", str(tmp_path)]
    assert main(["--list", *options]) == 0
    assert "Testcard, TensorRT 10.0" in capsys.readouterr().out
    elsewhere = tmp_path / entry.path.name
    for suffix in (".plan", ".json"):
        shutil.copy(entry.path.with_suffix(suffix), elsewhere.with_suffix(suffix))
    assert "only engines from there are loaded" in refused(["--verify", str(elsewhere), *options], capsys)
    entry.path.write_bytes(b"plam")
    assert "damaged" in refused(["--verify", str(entry.path), *options], capsys)
    assert main(["--list", *options]) == 0
    assert "unusable, its file is damaged" in capsys.readouterr().out
    assert main(["--prune", *options]) == 0
    assert "1 engines removed" in capsys.readouterr().out
    assert cache.entries() == []


def test_an_intact_folder_is_verified_and_a_damaged_graph_is_found(
    deployed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--verify", str(deployed)]) == 0
    assert main(["--verify", str(deployed / "step.onnx")]) == 0
    copy = tmp_path / "copy"
    shutil.copytree(deployed, copy)
    graph = next(copy.glob("step-*.strong.onnx"))
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    for arguments in (["--verify", str(copy)], ["--verify", str(graph)], ["--build", str(copy)]):
        assert graph.name in refused(arguments, capsys)


@pytest.fixture(scope="module")
def ranges(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vtsr.calibration.cli import main as calibrate

    path = tmp_path_factory.mktemp("ranges") / "ranges.json"
    assert calibrate(["-o", str(path), "--model", str(tiny_model), "--frames", "6", "--levels", "1", "-q"]) == 0
    return path


def verdict(drop: float) -> Any:
    from vtsr.calibration.gate import Verdict

    levels = {"f": drop, "f2": drop, "f3": drop}
    return Verdict(levels, levels, dict.fromkeys(levels, 0.0), "street", ("street",))


def test_int8_comes_strongly_typed_and_for_old_tensorrt(
    tiny_model: Path, ranges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtsr.calibration.gate.check", lambda *_: verdict(0.01))
    out = tmp_path / "int8"
    options = ["--calibration", str(ranges), "--size", "64x32", "--levels", "1", "--pixels", "gray", "--onnx-only"]
    assert main(["--model", str(tiny_model), "--int8", *options, "-o", str(out)]) == 0
    (engine,) = (e for e in open_recipe(out).engines if e.role == "step")
    models = {typing: onnx.load(out / file) for typing, (file, _) in engine.graphs.items()}
    scales, counts = {}, {}
    for typing, model in models.items():
        names = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        scales[typing] = {t.data_type for t in model.graph.initializer if t.name in names}
        counts[typing] = [node.op_type for node in model.graph.node].count("QuantizeLinear")
    assert scales == {"strong": {onnx.TensorProto.FLOAT16}, "weak": {onnx.TensorProto.FLOAT}}
    assert {typing: model.opset_import[0].version for typing, model in models.items()} == {"strong": 19, "weak": 17}
    assert counts["strong"] == counts["weak"] > 0
    manifest = json.loads((out / MANIFEST_NAME).read_text())
    assert manifest["facts"]["gate"]["passed"] is True
    feeds = sample_inputs((out / "step.onnx").read_bytes(), {n: s for n, (_, s, _) in engine.profile.items()})
    halves = {typing: run(out / file, feeds)[0] for typing, (file, _) in engine.graphs.items()}
    assert psnr(halves["strong"], halves["weak"]) > 45


def test_int8_that_fails_the_accuracy_gate_is_refused_unless_accepted(
    tiny_model: Path, ranges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vtsr.calibration.gate.check", lambda *_: verdict(0.5))
    out = tmp_path / "int8"
    arguments = ["--model", str(tiny_model), "--int8", "--calibration", str(ranges), "--onnx-only", "-o", str(out)]
    assert "fails the accuracy gate" in refused(arguments, capsys)
    assert not out.exists()
    assert main([*arguments, "--accept-loss"]) == 0
    assert json.loads((out / MANIFEST_NAME).read_text())["facts"]["gate"]["passed"] is False


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("../../etc/passwd"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recipe_with_anything_in_it_is_read_or_refused(deployed: Path, tmp_path: Path, data: st.DataObject) -> None:
    facts = json.loads((deployed / RECIPE_NAME).read_text())
    facts["engines"] = facts["engines"][:1]
    parent: Any = facts
    while True:
        keys = sorted(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(parent[key], dict | list) or not parent[key] or data.draw(st.booleans()):
            break
        parent = parent[key]
    parent[key] = data.draw(json_values)
    (tmp_path / RECIPE_NAME).write_text(json.dumps(facts))
    message = ""
    try:
        recipe = open_recipe(tmp_path)
        for engine in recipe.engines:
            for typing in ("strong", "weak"):
                recipe.request(engine, typing == "strong")
    except VtsrError as error:
        message = str(error)
    assert re.fullmatch(r"[^\n]+\.", message)  # the graphs are not there, so something is always wrong


def test_a_recipe_cannot_reach_outside_its_folder(deployed: Path, tmp_path: Path) -> None:
    facts = json.loads((deployed / RECIPE_NAME).read_text())
    facts["engines"][0]["graphs"]["strong"]["file"] = "../secret.onnx"
    (tmp_path / RECIPE_NAME).write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="damaged"):
        open_recipe(tmp_path)


FORMATS = ["rgb24", "rgb48le", "gray", "gray10le", "nv12", "p010le", "p016le", "yuv420p", "yuv422p10le", "yuv444p12le"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(33, 45), (32, 64)])
def test_an_unprocessed_picture_survives_ingest_and_emit_exactly(name: str, height: int, width: int) -> None:
    kind = storage(name)
    planes = random_planes(kind, 2, height, width)
    ingest, emit = fixed_ingest(kind, 2, height, width), fixed_emit(kind, 2, height, width)
    (rgb,) = run(ingest.SerializeToString(), planes)
    assert rgb.shape == (2, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    for found, plane in zip(run(emit.SerializeToString(), {"rgb": rgb}), planes.values(), strict=True):
        assert np.array_equal(found, plane)


def test_the_check_of_pixel_graphs_notices_another_matrix() -> None:
    ingest, emit = fixed_ingest(storage("nv12"), 1, 32, 32), fixed_emit(storage("nv12", "bt601"), 1, 32, 32)
    with pytest.raises(ModelError, match="nv12"):
        check_pixels(ingest.SerializeToString(), emit.SerializeToString(), storage("nv12"), 32, 32)


def test_a_name_that_cannot_be_a_files_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["name"] = "my model/1"
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert "--name" in refused(["--model", str(copy), "--fp16", "--onnx-only", "-o", str(tmp_path / "x")], capsys)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("name", "bits", "shift"), [("nv12", 8, 0), ("p010le", 10, 6)])
def test_semi_planar_codes_mean_what_the_standard_says(name: str, bits: int, shift: int, full_range: bool) -> None:
    """Against Y' = Kr R' + Kg G' + Kb B' of ITU-R BT.2020, solved for R'G'B', sample by sample."""
    kr, kb = 0.2627, 0.0593
    y, cb, cr = 600 >> (10 - bits), 400 >> (10 - bits), 700 >> (10 - bits)
    unit = 2.0 ** (bits - 8)
    peak = 256 * unit - 1
    black, luma_range, chroma_range = (0, peak, peak) if full_range else (16 * unit, 219 * unit, 224 * unit)
    luma, blue, red = (y - black) / luma_range, (cb - 128 * unit) / chroma_range, (cr - 128 * unit) / chroma_range
    r, b = luma + (2 - 2 * kr) * red, luma + (2 - 2 * kb) * blue
    expected = [r, (luma - kr * r - kb * b) / (1 - kr - kb), b]
    dtype = np.uint8 if bits == 8 else np.dtype("<u2")
    planes = {"y": np.full((1, 32, 32), y << shift, dtype), "uv": np.zeros((1, 16, 16, 2), dtype)}
    planes["uv"][..., 0], planes["uv"][..., 1] = cb << shift, cr << shift
    kind = storage(name, "bt2020", full_range)
    shapes = plane_shapes(kind, 1, 32, 32)
    feeds = {plane: values.view(np.uint8).reshape(shapes[plane]) for plane, values in planes.items()}
    model = fixed_ingest(kind, 1, 32, 32).SerializeToString()
    (rgb,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
    assert np.abs(rgb[0, :, 5, 5] - expected).max() < 1e-5


def test_an_unknown_pixel_format_is_refused() -> None:
    with pytest.raises(OptionError, match="nv12"):
        storage("bayer_rggb8")


def test_networks_and_graphs_agree_on_the_padding() -> None:
    pytest.importorskip("torch")
    from vtsr.training import network

    assert network.PAD_MULTIPLE == PAD_MULTIPLE


def test_engines_need_neither_torch_nor_onnx() -> None:
    code = "import sys, vtsr.runtime.engines.recipe; sys.exit(bool({'torch', 'onnx', 'tensorrt'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
