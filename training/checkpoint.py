"""Checkpoints: safetensors files with the network's preset and the training configuration inside.

Nothing is unpickled. A weights file holds the tensors of one network; the training state (optimiser,
moving average, step) is a second safetensors file beside it, needed only to resume.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vtsr.errors import ModelError, OutputError
from vtsr.training.network import build_network

FORMAT = "vtsr-checkpoint-1"


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Writes a safetensors file; it takes its name only when it is complete and on disk.

    Raises `OutputError` if it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    header = {"vtsr": json.dumps({"format": FORMAT, **metadata}, sort_keys=True)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, partial, metadata=header)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OutputError(f"The checkpoint {path} cannot be written: {error}.") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata (empty for files of other programs). Raises `ModelError` if unreadable."""
    with _opened(path) as file:
        return {k: file.get_tensor(k) for k in file.keys()}, _metadata(file)  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, without reading the tensors. Raises `ModelError` if unreadable."""
    with _opened(path) as file:
        return _metadata(file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        reason = str(error) if path.exists() else "there is no such file"
        raise ModelError(f"The checkpoint {path} cannot be read: {reason}.") from error


def _metadata(file: Any) -> dict[str, Any]:
    metadata = json.loads((file.metadata() or {}).get("vtsr", "{}"))
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is not a table")
    return metadata


def save_network(path: Path, network: nn.Module, preset: str, facts: dict[str, Any]) -> None:
    """Saves weights for `load_network`; ``facts`` is anything JSON can hold, such as a training summary."""
    write_tensors(path, dict(network.state_dict()), {"preset": preset, "facts": facts})


def read_facts(path: str | Path) -> dict[str, Any]:
    """The preset and the facts that `save_network` stored. Raises `ModelError` as `load_network` does."""
    metadata = read_metadata(Path(path))
    return {key: metadata[key] for key in ("preset", "facts") if key in metadata}


def load_network(path: str | Path) -> nn.Module:
    """The network of a checkpoint in evaluation mode, on the CPU, in float32.

    Raises `ModelError` if the file is missing, damaged, or not a vtsr checkpoint.
    """
    tensors, metadata = read_tensors(Path(path))
    if metadata.get("format") != FORMAT or not isinstance(metadata.get("preset"), str):
        raise ModelError(f"{path} is not a vtsr checkpoint; vtsr-train writes them.")
    try:
        network = build_network(metadata["preset"])
        network.load_state_dict({k: v.to(torch.float32) for k, v in tensors.items()})
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".:")
        raise ModelError(f"The checkpoint {path} does not fit its network ({first}); train it again.") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise ModelError(f"The checkpoint {path} holds weights that are not finite; take an earlier one.")
    return network.eval()
