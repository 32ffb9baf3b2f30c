"""Model folders: where they are, what is in them, and whether they are intact.

A model folder holds ONNX graphs and `manifest.json`, which lists every file with its SHA-256. Shipped
models lie in the package under `models/NAME`; vtsr-export writes folders of the same layout.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.errors import ModelError

MODELS_FOLDER = Path(__file__).parent / "models"
MANIFEST_NAME = "manifest.json"
FORMAT = "vtsr-model-1"
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
        try:
            data = (self.path / file_name).read_bytes()
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
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ModelError(f"The model in {folder} has the format {manifest['format']!r}; export it again.")
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        opened = ModelFolder(
            folder, str(manifest["name"]), str(manifest["precision"]), bool(manifest["consistency"]), files, manifest
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"The manifest {manifest_path} is damaged; install or export the model again.") from error
    if any(Path(name).name != name for name in files):
        raise ModelError(f"The manifest {manifest_path} names files outside its folder; do not use this model.")
    return opened
