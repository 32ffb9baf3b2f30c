"""How much arithmetic and memory traffic a step graph asks for, counted node by node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from vtsr.errors import ModelError
from vtsr.export.graph import attributes, freeze, initializers, static_shape, tensor_types

HEIGHT, WIDTH = 256, 256  # pixels a graph is counted at: large enough that borders and weights hardly count
BITS = {TensorProto.INT4: 4, TensorProto.UINT4: 4}


@dataclass(frozen=True)
class Work:
    """Per pixel of one pair of frames, and in all.

    macs
        Multiply-accumulate operations of convolutions and matrix products, per pixel.
    bytes_per_pixel
        What their inputs and outputs weigh, per pixel: the least traffic of a runtime that works layer by layer
        and fuses everything else into them.
    weight_bytes
        What their weights weigh.
    """

    macs: float
    bytes_per_pixel: float
    weight_bytes: int

    @property
    def intensity(self) -> float:
        """Operations (two per multiply-accumulate) per byte."""
        return 2 * self.macs / self.bytes_per_pixel


def count(model: onnx.ModelProto) -> Work:
    """The work of a step graph, whatever its nodes are called."""
    frame = [1, 3, HEIGHT, WIDTH]
    frozen = freeze(model, {"u": frame, "a_u": frame, "v": frame})
    types, constants = tensor_types(frozen), initializers(frozen)
    shapes = {name: static_shape(kind) for name, kind in types.items()}
    shapes |= {name: tuple(tensor.dims) for name, tensor in constants.items()}
    integer = _integer_convolutions(frozen)
    macs = 0
    traffic = weights = 0.0
    for node in frozen.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            continue
        x, w, y = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
        if x is None or w is None or y is None:
            raise ModelError(f"The shapes of the node {node.name!r} depend on values, so that it cannot be counted.")
        macs += _macs(node, x, w, y)
        size = 1.0 if node.output[0] in integer else _bytes(types[node.output[0]].elem_type)
        traffic += size * (np.prod(x, dtype=np.int64) + np.prod(y, dtype=np.int64))
        weights += size * np.prod(w, dtype=np.int64)
    pixels = HEIGHT * WIDTH
    return Work(macs / pixels, float(traffic) / pixels, int(weights))


def _macs(node: onnx.NodeProto, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]) -> int:
    if node.op_type == "Conv":  # weights (M, C / groups, kernel...)
        return int(np.prod(y, dtype=np.int64) * np.prod(w[1:], dtype=np.int64))
    if node.op_type == "ConvTranspose":  # weights (C, M / groups, kernel...)
        return int(np.prod(x, dtype=np.int64) * np.prod(w[1:], dtype=np.int64))
    inner = x[-2] if node.op_type == "Gemm" and attributes(node).get("transA") else x[-1]
    return int(np.prod(y, dtype=np.int64) * inner)


def _integer_convolutions(model: onnx.ModelProto) -> set[str]:
    """Outputs of convolutions whose inputs come out of DequantizeLinear: a runtime does them in integers."""
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.output[0] for node in model.graph.node if set(node.input[:2]) <= dequantized and len(node.input) > 1}


def _bytes(element: int) -> float:
    if element in BITS:
        return BITS[element] / 8
    dtype: Any = onnx.helper.tensor_dtype_to_np_dtype(element)
    return float(np.dtype(dtype).itemsize)
