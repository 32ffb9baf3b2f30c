"""Model folders: where they are, what is in them, and whether they are intact.

A model folder holds ONNX graphs and `manifest.json`, which lists every file with its SHA-256. Shipped
models lie in the package under `models/NAME`; vtsr-export writes folders of the same layout.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.errors import ModelError
from vtsr.runtime.strict import FILE_NAME, SHA256, Malformed, check_keys, expect, is_int, read_json

MODELS_FOLDER = Path(__file__).parent / "models"
MANIFEST_NAME = "manifest.json"
FORMAT = "vtsr-model-1"
MAX_FILES = 1000
MAX_FILE_BYTES = 1 << 40
_PRECISIONS = ("fp32", "fp16", "int8")
_NEEDED = ("format", "name", "precision", "consistency", "vtsr", "files")
_OPTIONAL = ("opset", "parameters", "multiply_adds_per_pixel", "check", "facts", "source", "int8")
INT8_STEP = "step_int8.onnx"  # the step in integers for CPUs, which a model may have besides step.onnx


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder; `read` returns a file's bytes after checking its hash."""

    path: Path
    name: str
    precision: str
    consistency: bool
    files: dict[str, str]  # file name -> SHA-256
    facts: dict[str, Any] = field(default_factory=dict)  # the whole manifest

    @property
    def gains_from_int8(self) -> bool:
        """Whether its integer step was measured to be quicker, and within the accepted loss of quality."""
        found = self.facts.get("int8")
        if INT8_STEP not in self.files or not isinstance(found, dict):
            return False
        gate, speed = found.get("gate"), found.get("speed_ratio")
        return isinstance(gate, dict) and gate.get("passed") is True and isinstance(speed, float) and speed > 1

    def read(self, file_name: str) -> bytes:
        """Contents of a listed file. Raises `ModelError` if it is not listed, missing or altered."""
        if file_name not in self.files:
            raise ModelError(f"The model in {self.path} has no {file_name}; export it again with vtsr-export.")
        path, stated = self.path / file_name, self.facts["files"][file_name]["bytes"]
        try:
            if path.is_file() and path.stat().st_size != stated:
                raise ModelError(f"The model file {path} is damaged; install or export it again.")
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"The model file {self.path / file_name} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != self.files[file_name]:
            raise ModelError(f"The model file {self.path / file_name} is damaged; install or export it again.")
        return data


def shipped_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(p.parent.name for p in MODELS_FOLDER.glob(f"*/{MANIFEST_NAME}"))


def open_model(model: str | Path) -> ModelFolder:
    """The model folder of a shipped model's name, or at a path.

    Raises `ModelError` if there is none, or its manifest is not one of ours.
    """
    folder = MODELS_FOLDER / str(model) if str(model) in shipped_models() else Path(model)
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        names = ", ".join(shipped_models())
        raise ModelError(
            f"There is no model {str(model)!r}: give one of {names}, or a folder that vtsr-export has written."
        )
    try:
        return _read_manifest(folder, read_json(manifest_path))
    except Malformed as error:
        raise ModelError(
            f"The manifest {manifest_path} is damaged or not one of ours ({error}); install or export the model again."
        ) from error
    except OSError as error:
        raise ModelError(f"The manifest {manifest_path} cannot be read: {error.strerror or error}.") from error


def _read_manifest(folder: Path, manifest: Any) -> ModelFolder:
    expect(isinstance(manifest, dict), "it is no table")
    stated = manifest.get("format")
    if isinstance(stated, str) and stated != FORMAT:
        raise ModelError(f"The model in {folder} has the format {stated[:60]!r}; export it again.")
    check_keys(manifest, _NEEDED, _OPTIONAL)
    expect(stated == FORMAT, "its format is no text")
    for key in ("name", "precision", "vtsr"):
        expect(isinstance(manifest[key], str) and len(manifest[key]) <= 200, f"{key!r} is no short text")
    expect(manifest["precision"] in _PRECISIONS, "'precision' is unknown")
    expect(type(manifest["consistency"]) is bool, "'consistency' is neither true nor false")
    for key in ("opset", "parameters", "multiply_adds_per_pixel"):
        expect(key not in manifest or is_int(manifest[key], 0, 1 << 50), f"{key!r} is no count")
    for key in ("check", "facts", "source", "int8"):
        expect(isinstance(manifest.get(key, {}), dict), f"{key!r} is no table")
    files: dict[str, str] = {}
    expect(isinstance(manifest["files"], dict) and len(manifest["files"]) <= MAX_FILES, "'files' is no table of files")
    for name, entry in manifest["files"].items():
        expect(FILE_NAME.fullmatch(name) is not None, f"{name[:60]!r} is no file name, or lies outside the folder")
        check_keys(entry, ("sha256", "bytes"), of=repr(name))
        digest = entry["sha256"]
        expect(isinstance(digest, str) and SHA256.fullmatch(digest) is not None, f"{name!r} has no SHA-256")
        expect(is_int(entry["bytes"], 0, MAX_FILE_BYTES), f"{name!r} has no length")
        files[name] = digest
    return ModelFolder(
        folder, manifest["name"], manifest["precision"], manifest["consistency"], files, manifest
    )
