"""A small exported model for all tests that need one: exporting takes many seconds, so it is done once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a small network with random weights that really change their input."""
    torch = pytest.importorskip("torch")
    from vtsr.training.checkpoint import save_network
    from vtsr.training.network import build_network

    torch.manual_seed(0)
    network = build_network("dense-tiny")
    torch.nn.init.normal_(network.head.weight, 0, 0.05)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(path, network, "dense-tiny", {"note": "random"})
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model folder in fp32, as vtsr-export writes it."""
    pytest.importorskip("onnx")
    from vtsr.export.cli import main

    out = tmp_path_factory.mktemp("models") / "tiny"
    assert main([str(tiny_checkpoint), "-o", str(out)]) == 0
    return out
