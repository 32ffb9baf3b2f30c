"""The example for Triton: its configurations fit the graphs, and its client gives what the CPU gives.

A server is not at hand here. `Server` stands in its place: it reads the configurations, refuses requests that do
not fit them, as Triton does, and runs the graphs in ONNX Runtime.
"""

from __future__ import annotations

import re
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from media import picture
from numpy.typing import NDArray

import vtsr
from vtsr.runtime.models import open_model

EXAMPLE = Path(__file__).parent.parent / "docs" / "triton"
GRAPHS = {"vtsr_step": "step.onnx", "vtsr_finish": "finish.onnx"}
TENSOR = re.compile(r'{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \] }')
TYPES = {"TYPE_FP32": ("tensor(float)", "FP32", np.float32)}
Array = NDArray[Any]
Shape = tuple[int, ...]


def declared(model: str) -> dict[str, dict[str, tuple[str, Shape]]]:
    """Inputs and outputs of a configuration: name -> (type, dims)."""
    text = (EXAMPLE / "models" / model / "config.pbtxt").read_text(encoding="utf-8")
    sides = {}
    for side in ("input", "output"):
        body = text.split(f"\n{side} [")[1].split("\n]")[0]
        sides[side] = {name: (kind, tuple(map(int, dims.split(",")))) for name, kind, dims in TENSOR.findall(body)}
    return sides


def session(model: str) -> Any:
    return onnxruntime.InferenceSession(open_model("default").read(GRAPHS[model]), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("model", GRAPHS)
def test_a_configuration_states_what_the_graph_has(model: str) -> None:
    graph = session(model)
    for side, tensors in (("input", graph.get_inputs()), ("output", graph.get_outputs())):
        of_graph = {t.name: (t.type, tuple(d if isinstance(d, int) else -1 for d in t.shape)) for t in tensors}
        stated = {name: (TYPES[kind][0], dims) for name, (kind, dims) in declared(model)[side].items()}
        assert stated == of_graph


class Server:
    """What `tritonclient.http` would reach."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sessions = {model: session(model) for model in GRAPHS}

    def infer(self, model: str, inputs: dict[str, Array], wanted: list[str]) -> dict[str, Array]:
        self.calls.append(model)
        sides = declared(model)
        assert set(inputs) == set(sides["input"])
        for name, value in inputs.items():
            kind, dims = sides["input"][name]
            assert value.dtype == TYPES[kind][2]
            assert len(value.shape) == len(dims)
            assert all(d in (-1, s) for d, s in zip(dims, value.shape, strict=True))
        assert set(wanted) <= set(sides["output"])
        return dict(zip(wanted, self.sessions[model].run(wanted, inputs), strict=True))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    served = Server()

    class InferInput:
        def __init__(self, name: str, shape: list[int], datatype: str) -> None:
            assert datatype == "FP32"
            self.name, self.shape = name, shape

        def set_data_from_numpy(self, value: Array) -> None:
            assert list(value.shape) == self.shape
            self.value = value

    class InferRequestedOutput:
        def __init__(self, name: str) -> None:
            self.name = name

    class Answer:
        def __init__(self, tensors: dict[str, Array]) -> None:
            self.as_numpy = tensors.get

    class InferenceServerClient:
        def __init__(self, url: str) -> None:
            assert url == "localhost:8000"

        def infer(self, model: str, inputs: list[InferInput], outputs: list[InferRequestedOutput]) -> Answer:
            given = {tensor.name: tensor.value for tensor in inputs}
            return Answer(served.infer(model, given, [output.name for output in outputs]))

        def close(self) -> None:
            served.calls.append("close")

    module: Any = types.ModuleType("tritonclient.http")
    module.InferInput, module.InferRequestedOutput = InferInput, InferRequestedOutput
    module.InferenceServerClient = InferenceServerClient
    monkeypatch.setitem(sys.modules, "tritonclient", types.ModuleType("tritonclient"))
    monkeypatch.setitem(sys.modules, "tritonclient.http", module)
    return served


def test_the_client_gives_what_the_cpu_gives(server: Server) -> None:
    backend = runpy.run_path(str(EXAMPLE / "client.py"))["TritonBackend"]("localhost:8000")
    clip = [picture(n, 50, 40) for n in range(4)]
    with vtsr.Upconverter(2, precision="fp32", threads=1) as local:
        expected = list(local.run(clip))
    with vtsr.Upconverter(2, backend=backend) as up:
        got = list(up.run(clip))
    assert [frame.pts for frame in got] == [frame.pts for frame in expected]
    for ours, theirs in zip(got, expected, strict=True):
        # Another number of threads may round the last bit differently.
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1
    assert set(server.calls) == {"vtsr_step", "vtsr_finish", "close"}
