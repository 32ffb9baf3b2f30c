"""Model folders: what ships, and what happens to damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vtsr import ModelError
from vtsr.runtime.models import MANIFEST_NAME, MODELS_FOLDER, open_model, shipped_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(MODELS_FOLDER / "default", copy)
    return copy


def test_a_default_model_ships_and_is_intact() -> None:
    assert "default" in shipped_models()
    model = open_model("default")
    for name in model.files:
        assert model.read(name)


def test_a_damaged_graph_is_refused(folder: Path) -> None:
    data = bytearray((folder / "step.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "step.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        open_model(folder).read("step.onnx")


def test_a_missing_graph_is_named(folder: Path) -> None:
    (folder / "finish.onnx").unlink()
    with pytest.raises(ModelError, match=r"finish\.onnx"):
        open_model(folder).read("finish.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "vtsr-model-1", "files": 3}'])
def test_a_foreign_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST_NAME).write_text(text)
    with pytest.raises(ModelError, match=r"^[A-Z].*\.$"):
        open_model(folder)


def test_a_manifest_cannot_reach_outside_its_folder(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"]["../secret"] = {"sha256": "0" * 64}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="outside"):
        open_model(folder)
