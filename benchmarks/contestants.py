"""What runs one step of the network: ONNX Runtime in its precisions, PyTorch in its ways, on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from vtsr.benchmarks.plan import Plan, Size
from vtsr.runtime.cpu import has_integer_dot_products
from vtsr.runtime.models import INT8_STEP, ModelFolder, open_model
from vtsr.runtime.onnx_backend import session_options

Array = NDArray[np.float32]
Run = Callable[["Feeds"], Array]  # a step; returns the halves (2B, 3, H, W)

EAGER, CHANNELS_LAST, COMPILED = "PyTorch eager", "PyTorch channels_last", "torch.compile"
# Mean absolute differences from fp32 of what is the same step: rounding, in [0, 1] units.
ACCEPTED = {"fp32": 1e-5, "fp16": 1e-3, "int8": 2e-2}


@dataclass(frozen=True)
class Feeds:
    """The inputs of a step: u, a_u (1, 3, H, W), v (B, 3, H, W)."""

    u: Array
    a_u: Array
    v: Array

    @classmethod
    def random(cls, size: Size, batch: int = 1) -> Feeds:
        """Two blurred noises that are alike, as consecutive frames are, of the padded size."""
        rng = np.random.default_rng(0)
        width, height = size.padded
        base = rng.random((1, 3, height, width), np.float32)
        v = np.concatenate([0.9 * base + 0.1 * rng.random(base.shape, np.float32) for _ in range(batch)])
        return cls(base, base.copy(), v)


class OnnxSteps:
    """Sessions of a model's step by precision, opened on first use and kept."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sessions: dict[tuple[str, int], Any] = {}
        self.model: ModelFolder = open_model(plan.model)

    def run(self, precision: str, threads: int | None = None) -> Run:
        """The step in a precision. Raises `LookupError` with the reason where it cannot run here."""
        key = precision, threads or self._plan.threads
        if key not in self._sessions:
            self._sessions[key] = open_session(step_bytes(self.model, precision), key[1])
        session = self._sessions[key]
        carry = np.ones((1, 1, 1, 1), np.float32)

        def run(feeds: Feeds) -> Array:
            inputs = {"u": feeds.u, "a_u": feeds.a_u, "carry": carry, "v": feeds.v}
            return np.asarray(session.run(None, inputs)[0])

        return run


def step_bytes(model: ModelFolder, precision: str) -> bytes:
    """The step graph of a model in a precision, as ONNX. Raises `LookupError` where it cannot run here."""
    if precision == "int8":
        if INT8_STEP not in model.files:
            raise LookupError(f"the model {model.name} has no INT8 step")
        if has_integer_dot_products() is False:
            raise LookupError("this CPU has no integer dot products, without which INT8 is wrong")
        return model.read(INT8_STEP)
    data = model.read("step.onnx")
    if precision == "fp32":
        return data
    try:
        import onnx
    except ImportError as error:
        raise LookupError("onnx is not installed") from error
    from vtsr.export.half import to_half

    half: bytes = to_half(onnx.load_from_string(data)).SerializeToString()
    return half


def open_session(graph: bytes, threads: int) -> Any:
    """An ONNX Runtime session with the runtime's own settings. It leaves the cores to the others between its runs."""
    options = session_options(threads)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class TorchSteps:
    """The same step in PyTorch, with the same weights. Skips the test without PyTorch or the weights."""

    def __init__(self, plan: Plan) -> None:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'vtsr[train]')")
        from vtsr.export.step import Step
        from vtsr.training.checkpoint import load_network

        model = open_model(plan.model)
        checkpoint = model.path / "weights.safetensors"
        if not checkpoint.is_file():
            pytest.skip(f"the model {model.name} comes without its weights for PyTorch")
        torch.set_num_threads(plan.threads)
        self._torch = torch
        self._step = Step(load_network(checkpoint), model.consistency).eval()
        self._compiled: Any = None

    def run(self, way: str) -> Run:
        """One of `EAGER`, `CHANNELS_LAST` and `COMPILED`."""
        torch = self._torch
        step: Any = self._step
        layout = torch.contiguous_format
        if way == CHANNELS_LAST:
            layout = torch.channels_last
            step = self._copy().to(memory_format=layout)
        if way == COMPILED:
            step = torch.compile(self._copy(), dynamic=False)

        def run(feeds: Feeds) -> Array:
            u, a_u, v = (torch.from_numpy(x).to(memory_format=layout) for x in (feeds.u, feeds.a_u, feeds.v))
            with torch.inference_mode():
                return np.asarray(step(u, a_u, torch.ones(1, 1, 1, 1), v)[0].numpy())

        return run

    def _copy(self) -> Any:
        import copy

        return copy.deepcopy(self._step)


def check_same_work(name: str, precision: str, found: Array, expected: Array) -> None:
    """Raises `AssertionError` if a contestant computes something else, so that its time means nothing."""
    difference = float(np.abs(found - expected).mean())
    assert difference <= ACCEPTED[precision], f"{name} computes something else: it is {difference:.2g} off"
