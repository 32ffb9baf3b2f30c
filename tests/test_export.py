"""Exported graphs against PyTorch and against independent arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import vtsr  # noqa: E402
from vtsr.export.cli import main  # noqa: E402
from vtsr.export.pixels import emit_graph, ingest_graph  # noqa: E402
from vtsr.runtime.colour import emit_weights, ingest_weights  # noqa: E402
from vtsr.runtime.frame import PixelFormat, Planes  # noqa: E402
from vtsr.runtime.models import open_model  # noqa: E402
from vtsr.runtime.onnx_backend import OnnxBackend  # noqa: E402
from vtsr.training.checkpoint import load_network  # noqa: E402
from vtsr.training.recursion import upconvert  # noqa: E402


def clip(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_every_graph_is_valid_self_contained_onnx(tiny_model: Path) -> None:
    for path in tiny_model.glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)


def test_names_and_dynamic_shapes_of_the_step_graph_are_the_documented_ones(tiny_model: Path) -> None:
    graph = onnx.load(tiny_model / "step.onnx").graph
    assert [x.name for x in graph.input] == ["u", "a_u", "carry", "v"]
    assert [x.name for x in graph.output] == ["halves", "next_u", "next_a"]
    v = next(x for x in graph.input if x.name == "v").type.tensor_type.shape.dim
    assert [bool(d.dim_param) for d in v] == [True, False, True, True]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 70), (33, 129)])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_runtime_gives_what_pytorch_gives(
    tiny_model: Path, tiny_checkpoint: Path, height: int, width: int, levels: int
) -> None:
    frames = clip(3, height, width)
    with vtsr.Upconverter(levels, model=str(tiny_model), scene_threshold=1, threads=1) as up:
        outputs = np.stack([f.image for f in up.run(frames)]).astype(float)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    reference = upconvert(load_network(tiny_checkpoint), tensor, levels)[-1]
    expected = (reference * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(outputs - expected).max() <= 0.5 + 255 * 1e-4 * levels


def test_one_step_agrees_with_pytorch_to_four_digits(tiny_model: Path) -> None:
    manifest = json.loads((tiny_model / "manifest.json").read_text())
    assert manifest["check"]["max_abs_difference"] <= 1e-4
    assert manifest["facts"]["facts"] == {"note": "random"}


def test_without_consistency_the_law_is_broken_and_the_rest_is_the_same(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    assert main([str(tiny_checkpoint), "-o", str(out), "--no-consistency", "--half-stored"]) == 0
    assert open_model(out).consistency is False
    frames = clip(3, 32, 64)
    with vtsr.Upconverter(1, model=str(out), scene_threshold=1, threads=1) as up:
        halves = np.stack([f.image for f in up.run(frames)]).astype(float).reshape(3, 2, 32, 64, 3)
    assert np.abs(halves.mean(axis=1) - frames)[1].max() > 2


def test_half_stored_weights_are_half_the_size(tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    assert main([str(tiny_checkpoint), "-o", str(out), "--half-stored"]) == 0
    small, large = ((f / "step.onnx").stat().st_size for f in (out, tiny_model))
    assert small < 0.65 * large


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_checkpoint_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    assert main([str(path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("vtsr-export: ")
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model_is_not_replaced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    assert main([str(tiny_checkpoint), "-o", str(tmp_path)]) == 2
    assert (tmp_path / "precious.txt").read_text() == "keep"


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_standards(tiny_model: Path, matrix: str, full_range: bool) -> None:
    """White, black and the primaries against the definition of Y', Cb, Cr."""
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}[matrix]
    colours = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    y = colours @ [kr, 1 - kr - kb, kb]
    cb, cr = (colours[:, 2] - y) / (2 * (1 - kb)), (colours[:, 0] - y) / (2 * (1 - kr))
    codes = [255 * y, 128 + 255 * cb, 128 + 255 * cr] if full_range else [16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr]
    planes = [np.tile(np.clip(np.rint(c), 0, 255).astype(np.uint8), (16, 4)) for c in codes]
    picture = Planes(tuple(planes), PixelFormat("yuv444", 8, matrix, full_range))
    rgb = OnnxBackend(open_model(tiny_model), 1).ingest([picture])
    assert rgb.shape == (1, 3, 32, 32)
    assert np.abs(rgb[0, :, 0, :5].T - colours).max() < 0.01


def test_padding_repeats_the_edge(tiny_model: Path) -> None:
    image = clip(1, 20, 40)[0]
    rgb = OnnxBackend(open_model(tiny_model), 1).ingest([Planes((image,), PixelFormat())])[0]
    assert rgb.shape == (3, 32, 64)
    padded = np.pad(image, ((0, 12), (0, 24), (0, 0)), mode="edge").transpose(2, 0, 1) / 255
    assert np.abs(rgb - padded).max() < 1e-6


def test_weights_in_and_out_are_inverse() -> None:
    for format in (PixelFormat("yuv420", 10, "bt2020", False), PixelFormat("yuv444", 8, "bt601", True)):
        (w_in, b_in), (w_out, b_out) = ingest_weights(format), emit_weights(format)
        product = w_out[:, :, 0, 0].astype(float) @ w_in[:, :, 0, 0].astype(float)
        assert np.allclose(product, np.eye(3), atol=1e-5)
        assert np.allclose(w_out[:, :, 0, 0] @ b_in + b_out, 0, atol=1e-2)


def test_pixel_graphs_are_small_and_for_old_runtimes_too() -> None:
    for graph in (ingest_graph("yuv420", "u8"), emit_graph("yuv420", "u16")):
        assert graph.opset_import[0].version == 17
        assert graph.ByteSize() < 4096
