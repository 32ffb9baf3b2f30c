"""ONNX Runtime on the CPU: the backend that works everywhere, and the reference for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vtsr.errors import ModelError, OptionError
from vtsr.runtime.backend import StepResult
from vtsr.runtime.colour import emit_weights, ingest_weights
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.models import INT8_STEP, ModelFolder

Array = NDArray[np.float32]

CARRY = np.ones((1, 1, 1, 1), np.float32)
NO_CARRY = np.zeros((1, 1, 1, 1), np.float32)
PLANE_NAMES = {"rgb": ("image",), "gray": ("y",)}
YUV_NAMES = ("y", "u", "v")


def session_options(threads: int | None) -> Any:
    """How sessions run: None takes all cores; threads without work sleep instead of waiting busily.

    By default they would spin, within a run and for a while after it, and take the cores from decoder, encoder, the
    other sessions' threads and other programs.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxBackend:
    """Tensors are float32 NumPy arrays (N, 3, H', W').

    Parameters
    ----------
    model
        The folder whose graphs are run.
    threads
        Threads of one operator; None takes all cores.
    precision
        ``"fp32"`` or ``"int8"``, which runs the model's integer step.
    """

    name = "onnxruntime"

    def __init__(self, model: ModelFolder, threads: int | None = None, precision: str = "fp32") -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"The number of threads must be at least 1, not {threads}.")
        if precision == "int8" and INT8_STEP not in model.files:
            raise OptionError(
                f"The model {model.name!r} has no INT8 graph for CPUs; "
                "use fp32, or add one with vtsr-calibrate --install."
            )
        self.precision = precision
        self._model = model
        self._options = session_options(threads)
        self._sessions: dict[str, Any] = {}
        self._weights: dict[PixelFormat, tuple[tuple[Array, Array], tuple[Array, Array]]] = {}
        self._step = self._session(INT8_STEP if precision == "int8" else "step.onnx")
        self._finish = self._session("finish.onnx")

    def _session(self, file_name: str) -> Any:
        if file_name not in self._sessions:
            data = self._model.read(file_name)
            try:
                self._sessions[file_name] = onnxruntime.InferenceSession(
                    data, self._options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
                raise ModelError(f"ONNX Runtime cannot load {file_name} of {self._model.path}: {error}") from error
        return self._sessions[file_name]

    def _conversion(self, format: PixelFormat) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        if format not in self._weights:
            self._weights[format] = ingest_weights(format), emit_weights(format)
        return self._weights[format]

    def ingest(self, pictures: Sequence[Planes]) -> Array:
        format = pictures[0].format
        session = self._session(f"ingest_{_graph_suffix(format)}.onnx")
        weight, bias = self._conversion(format)[0]
        names = PLANE_NAMES.get(format.sampling, YUV_NAMES)
        if len(pictures) == 1:  # the usual case needs no copy
            planes = [p[None] for p in pictures[0].planes]
        else:
            planes = [np.stack(p) for p in zip(*(picture.planes for picture in pictures), strict=True)]
        feeds = {n: np.ascontiguousarray(p) for n, p in zip(names, planes, strict=True)}
        rgb: Array = self._run(session, {**feeds, "weight": weight, "bias": bias}, 1)[0]
        return rgb

    def frames_in(self, tensor: Array) -> int:
        return len(tensor)

    def part(self, tensor: Array, start: int, stop: int) -> Array:
        return tensor[start:stop]

    def step(self, u: Array, a_u: Array | None, v: Array) -> StepResult:
        carry = NO_CARRY if a_u is None else CARRY
        feeds = {"u": u, "a_u": u if a_u is None else a_u, "carry": carry, "v": v}
        return StepResult(*self._run(self._step, feeds, 3))

    def finish(self, u: Array, a_u: Array | None) -> Array:
        halves: Array = self._run(self._finish, {"u": u, "a_u": u if a_u is None else a_u}, 1)[0]
        return halves

    def emit(self, frames: Array, format: PixelFormat, height: int, width: int) -> list[Planes]:
        session = self._session(f"emit_{_graph_suffix(format)}.onnx")
        weight, bias = self._conversion(format)[1]
        peak = np.array(2**format.bits - 1, np.float32)
        size = np.array([height, width], np.int64)
        feeds = {"rgb": frames, "size": size, "weight": weight, "bias": bias, "peak": peak}
        stacks = self._run(session, feeds, len(PLANE_NAMES.get(format.sampling, YUV_NAMES)))
        return [Planes(tuple(planes), format) for planes in zip(*stacks, strict=True)]

    def _run(self, session: Any, feeds: dict[str, Any], outputs: int) -> list[Any]:
        try:
            results: list[Any] = session.run(None, feeds)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"ONNX Runtime cannot run the model {self._model.name!r} ({reason}); "
                "free some memory, or export it again."
            ) from error
        if len(results) != outputs:
            raise ModelError(f"A graph of {self._model.path} is not what its name says; export the model again.")
        return results

    def close(self) -> None:
        self._sessions.clear()


def _graph_suffix(format: PixelFormat) -> str:
    return f"{format.sampling}_{'u8' if format.bits == 8 else 'u16'}"
