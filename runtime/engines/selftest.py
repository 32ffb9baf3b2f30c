"""Whether an engine computes what its graph says: against ONNX Runtime on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vtsr.errors import ModelError
from vtsr.runtime.engines.request import EngineRequest

Array = NDArray[Any]

# Smallest PSNR of float outputs against the reference, dB with peak 1. Rounding gives about 110, 75 and 45.
MIN_PSNR = {"fp32": 80.0, "fp16": 50.0, "int8": 40.0}
MAX_UNEQUAL = 0.01  # share of samples of an integer output that may be rounded the other way
MAX_DECIBELS = 150.0  # reported for equal pictures
MOTION = 2.0  # pixels per frame of the test picture


def sample_inputs(graph: bytes, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """Inputs for a graph: a moving texture in [0, 1] for float pictures, ones for scalars, noise for bytes."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for entry in _session(graph).get_inputs():
        shape = tuple(shapes[entry.name])
        if entry.type in ("tensor(uint8)", "tensor(uint16)"):
            feeds[entry.name] = rng.integers(0, 256, shape, np.uint8).astype(entry.type[7:-1])
        elif np.prod(shape) == 1:
            feeds[entry.name] = np.ones(shape, np.float32)
        else:
            # v follows u: the pictures of all inputs are one moving scene.
            feeds[entry.name] = moving_texture(shape, start=float(entry.name == "v"))
    return feeds


def moving_texture(shape: tuple[int, ...], start: float = 0.0) -> Array:
    """Float pictures (N, C, H, W) in [0, 1] of a texture that moves by `MOTION` pixels per picture."""
    count, channels, height, width = shape
    n, c, y, x = np.ogrid[:count, :channels, :height, :width]
    x = x - MOTION * (n + start)
    waves = np.sin(x / 5.0 + c) * np.cos(y / 7.0) + np.sin((x + y) / 2.3 + 2 * c) + np.cos((x - 2 * y) / 11.0)
    return ((waves + 3) / 6).astype(np.float32)


def psnr(values: Array, reference: Array) -> float:
    """PSNR in dB for a peak of 1; `MAX_DECIBELS` for equal arrays, -inf where a value is not finite."""
    if not np.isfinite(values).all():
        return float("-inf")
    error = float(np.mean((values.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return min(MAX_DECIBELS, -10 * float(np.log10(error))) if error > 0 else MAX_DECIBELS


def _session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Optimised, ONNX Runtime would merge Q/DQ pairs into integer kernels that round differently.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def reference_outputs(graph: bytes, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a graph in ONNX Runtime, by name."""
    session = _session(graph)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def judge(request: EngineRequest, outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, Any]:
    """Figures per output. Raises `ModelError` naming the worst if an output is missing, misshapen or off."""
    figures: dict[str, Any] = {}
    for name, expected in reference.items():
        found = outputs.get(name)
        if found is None or found.shape != expected.shape:
            shape = None if found is None else found.shape
            raise ModelError(f"The engine {request.name} gives {name} as {shape} instead of {expected.shape}.")
        if np.issubdtype(expected.dtype, np.floating):
            figures[name] = {"psnr": round(psnr(found, expected), 2)}
            if not figures[name]["psnr"] >= MIN_PSNR[request.precision]:
                raise ModelError(
                    f"The engine {request.name} is wrong: {name} is {figures[name]['psnr']} dB from the reference, "
                    f"less than {MIN_PSNR[request.precision]:g} dB."
                )
        else:
            unequal = float(np.mean(found != expected))
            figures[name] = {"unequal": unequal}
            if unequal > MAX_UNEQUAL:
                raise ModelError(f"The engine {request.name} is wrong: {unequal:.1%} of {name} differ.")
    return figures
