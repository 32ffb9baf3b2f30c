"""Folders that appear, or are replaced, when they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from vtsr.errors import ModelError, OutputError
from vtsr.runtime.engines.recipe import RECIPE_NAME
from vtsr.runtime.models import MANIFEST_NAME, open_model


def _kept(folder: Path) -> list[str]:
    """Files a user has put into a model folder, such as the checkpoint it was made from: not in its manifest."""
    if not folder.is_dir() or not (folder / MANIFEST_NAME).is_file():
        return []
    ours = {MANIFEST_NAME, RECIPE_NAME, *open_model(folder).files}
    return sorted(path.name for path in folder.iterdir() if path.name not in ours)


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Writes a model folder; one that is there is replaced, but for files that a user has added.

    Raises `ModelError` if ``folder`` exists and is none, `OutputError` on disk errors."""
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name, data in files.items():
            (partial / name).write_bytes(data)
        partial.chmod(0o755)
        if folder.exists():
            if not (folder / MANIFEST_NAME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
                raise ModelError(f"{folder} exists and is not a model folder; choose another place.")
            for name in _kept(folder):
                shutil.move(folder / name, partial / name)
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be written: {error.strerror}.") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
