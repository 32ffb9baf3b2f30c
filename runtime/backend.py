"""What a backend does: the few operations that streaming recursion is made of.

Tensors are opaque to everything but the backend that made them; only their frame count is known. One
backend object belongs to one stream at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from vtsr.errors import MissingExtraError, OptionError
from vtsr.runtime.cpu import has_integer_dot_products
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.models import ModelFolder, open_model

Tensor = Any  # float frames (N, 3, H', W') on the backend's device, H' and W' multiples of 32

BACKENDS = ("auto", "onnxruntime", "tensorrt")
PRECISIONS = ("auto", "fp32", "int8")  # of the CPU backend


class StepResult(NamedTuple):
    """Half exposures (2B, 3, H', W') in order of time, and the state (1, 3, H', W') for the next step."""

    halves: Tensor
    next_u: Tensor
    next_a: Tensor


class Backend(Protocol):
    """Runs the three graphs of a model. See `vtsr.export.step` for what a step computes."""

    name: str
    precision: str

    def ingest(self, pictures: Sequence[Planes]) -> Tensor:
        """Stored pictures of one size and format to padded float RGB."""

    def frames_in(self, tensor: Tensor) -> int:
        """How many frames a tensor holds."""

    def part(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        """Frames ``start`` to ``stop`` of a tensor."""

    def step(self, u: Tensor, a_u: Tensor | None, v: Tensor) -> StepResult:
        """Halves of u, v[0] .. v[B-2]; ``a_u`` is None at the start of a stream."""

    def finish(self, u: Tensor, a_u: Tensor | None) -> Tensor:
        """Both halves of the last frame, (2, 3, H', W')."""

    def emit(self, frames: Tensor, format: PixelFormat, height: int, width: int) -> list[Planes]:
        """Padded float RGB to stored pictures of the original size."""

    def close(self) -> None:
        """Frees everything; the backend cannot be used afterwards."""


def load_backend(
    name: str | Backend = "auto",
    model: str = "default",
    threads: int | None = None,
    precision: str = "fp32",
    levels: int | None = None,
) -> Backend:
    """The backend called ``name`` with ``model`` loaded; a backend is returned as it is.

    "auto" is TensorRT if the driver, tensorrt and pycuda work and the model was exported for it, else ONNX
    Runtime. On the CPU, ``precision`` "auto" is "int8" where the model has such a graph that was measured to be
    quicker at next to no loss, and this CPU has the instructions it needs; else "fp32". On TensorRT the
    precision is the one the model was exported in; ``levels`` lets it check its memory beforehand.

    Raises `OptionError` for an unknown name, `ModelError` if the model cannot be used, and `MissingExtraError` if
    TensorRT is asked for and something it needs is missing.
    """
    if not isinstance(name, str):
        return name
    if name not in BACKENDS:
        raise OptionError(f"There is no backend {name!r}; choose one of {', '.join(BACKENDS)}.")
    if precision not in PRECISIONS:
        raise OptionError(f"There is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    folder = open_model(model)
    if name == "tensorrt" or (name == "auto" and _has_tensorrt(folder)):
        return _tensorrt_backend(folder, levels)
    from vtsr.runtime.onnx_backend import OnnxBackend

    able = has_integer_dot_products()
    if precision == "auto":
        precision = "int8" if folder.gains_from_int8 and able else "fp32"
    if precision == "int8" and able is False:
        raise OptionError("This CPU has no integer dot products (VNNI), without which INT8 is wrong; use fp32.")
    return OnnxBackend(folder, threads, precision)


def _has_tensorrt(model: ModelFolder) -> bool:
    """Whether a model was exported for TensorRT and TensorRT works here."""
    from vtsr.runtime.engines.platform import what_is_missing
    from vtsr.runtime.engines.recipe import RECIPE_NAME

    return (model.path / RECIPE_NAME).is_file() and what_is_missing() is None


def _tensorrt_backend(model: ModelFolder, levels: int | None) -> Backend:
    from vtsr.runtime.engines.platform import what_is_missing
    from vtsr.runtime.tensorrt.backend import TensorRTBackend
    from vtsr.runtime.tensorrt.settings import Settings

    missing = what_is_missing()
    if missing is not None:
        raise MissingExtraError(f"{missing.rstrip('.')}, which TensorRT needs; choose the backend onnxruntime.")
    return TensorRTBackend.open(model, Settings(levels=levels))
