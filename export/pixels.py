"""The graphs at both ends: stored samples to padded float RGB (ingest), and back (emit).

One pair of graphs per chroma sampling and sample type. What differs between streams of one kind, the
YUV matrix, range and bit depth, enters as the weights of a 1x1 convolution, so one file serves all:

    ingest   planes -> rgb        rgb = weight . codes + bias, padded at the right and bottom edges
    emit     rgb, size -> planes  codes = round(weight . rgb + bias) within 0 .. peak, cropped to size

Chroma is replicated on the way in and averaged over its block on the way out, which makes the round
trip of an unprocessed picture exact. Nothing is clipped in between: YUV codes outside the RGB cube
survive. `vtsr.runtime.colour` computes weights and biases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vtsr.runtime.frame import CHROMA_BLOCK
from vtsr.training.network import PAD_MULTIPLE

PIXEL_OPSET = 17
PIXEL_IR = 8
SAMPLE_TYPES = {"u8": TensorProto.UINT8, "u16": TensorProto.UINT16}
SAMPLINGS = ("rgb", "gray", *CHROMA_BLOCK)
CHROMA_NAMES = ("u", "v")


class _Graph:
    """Collects nodes and constants; `op` returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"c_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        opset = [helper.make_opsetid("", PIXEL_OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=PIXEL_IR, producer_name="vtsr")
        onnx.checker.check_model(model, full_check=True)
        return model


def _floats(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _planes(sampling: str, kind: int) -> list[onnx.ValueInfoProto]:
    """The stored planes of N pictures: rgb (N, H, W, 3), gray (N, H, W), or y, u and v."""

    def plane(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["N", *shape])

    if sampling == "rgb":
        return [plane("image", "H", "W", 3)]
    if sampling == "gray":
        return [plane("y", "H", "W")]
    return [plane("y", "H", "W"), *(plane(c, "CH", "CW") for c in CHROMA_NAMES)]


def ingest_graph(sampling: str, sample_type: str) -> onnx.ModelProto:
    """Graph from stored planes to ``rgb``: float (N, 3, H', W'), H' and W' the next multiples of 32.

    Inputs: the planes, ``weight`` (3, C, 1, 1) with C = 1 for gray and 3 otherwise, ``bias`` (3,).
    """
    g = _Graph()
    inputs = _planes(sampling, SAMPLE_TYPES[sample_type])
    codes = {}
    for plane in inputs:
        value = g.op("Cast", plane.name, to=TensorProto.FLOAT)
        if sampling == "rgb":
            codes[plane.name] = g.op("Transpose", value, perm=[0, 3, 1, 2])
        else:
            codes[plane.name] = g.op("Unsqueeze", value, g.constant([1]))
    first, *chroma = (codes[plane.name] for plane in inputs)
    size = g.op("Slice", g.op("Shape", first), g.constant([2]), g.constant([4]))
    if chroma:
        wide, high = CHROMA_BLOCK[sampling]
        if (wide, high) != (1, 1):
            scales = g.constant([1, 1, high, wide], np.float32)
            settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            chroma = [g.op("Resize", c, "", scales, **settings) for c in chroma]
            # An odd picture has a chroma sample more than it needs at its edge.
            chroma = [g.op("Slice", c, g.constant([0, 0]), size, g.constant([2, 3])) for c in chroma]
        first = g.op("Concat", first, *chroma, axis=1)
    rgb = g.op("Conv", first, "weight", "bias", kernel_shape=[1, 1])
    multiple = g.constant([PAD_MULTIPLE])
    padding = g.op("Mod", g.op("Neg", size), multiple)
    pads = g.op("Concat", g.constant([0] * 6), padding, axis=0)
    g.op("Pad", rgb, pads, mode="edge", name="rgb")
    channels = 1 if sampling == "gray" else 3
    weights = [_floats("weight", 3, channels, 1, 1), _floats("bias", 3)]
    return g.model(f"ingest_{sampling}_{sample_type}", [*inputs, *weights], [_floats("rgb", "N", 3, "PH", "PW")])


def emit_graph(sampling: str, sample_type: str) -> onnx.ModelProto:
    """Graph from float RGB to stored planes of the original size.

    Inputs: ``rgb`` (N, 3, H', W'), ``size`` int64 (2,) = (H, W), ``weight`` (C, 3, 1, 1), ``bias`` (C,),
    ``peak`` the largest code, shape (). Outputs: the planes, as ingest takes them.
    """
    g = _Graph()
    kind = SAMPLE_TYPES[sample_type]
    outputs = _planes(sampling, kind)
    codes = g.op("Conv", "rgb", "weight", "bias", kernel_shape=[1, 1])
    zero = g.constant(0, np.float32)
    axes, origin = g.constant([2, 3]), g.constant([0, 0])

    def store(value: str, size: str, name: str) -> None:
        value = g.op("Slice", value, origin, size, axes)
        value = g.op("Clip", g.op("Round", value), zero, "peak")
        if sampling == "rgb":
            value = g.op("Transpose", value, perm=[0, 2, 3, 1])
        else:
            value = g.op("Squeeze", value, g.constant([1]))
        g.op("Cast", value, to=kind, name=name)

    if sampling in ("rgb", "gray"):
        store(codes, "size", outputs[0].name)
    else:
        block = CHROMA_BLOCK[sampling]
        parts = [f"{name}_codes" for name in ("y", *CHROMA_NAMES)]
        g.nodes.append(helper.make_node("Split", [codes, g.constant([1, 1, 1])], parts, name="split", axis=1))
        store(parts[0], "size", "y")
        chroma_size = "size"
        if block != (1, 1):
            high_wide = [block[1], block[0]]
            up = g.op("Add", "size", g.constant([n - 1 for n in high_wide]))
            chroma_size = g.op("Div", up, g.constant(high_wide))
        for part, name in zip(parts[1:], CHROMA_NAMES, strict=True):
            if block != (1, 1):
                part = g.op("AveragePool", part, kernel_shape=high_wide, strides=high_wide)
            store(part, chroma_size, name)
    channels = 1 if sampling == "gray" else 3
    inputs = [
        _floats("rgb", "N", 3, "PH", "PW"),
        helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        _floats("weight", channels, 3, 1, 1),
        _floats("bias", channels),
        _floats("peak"),
    ]
    return g.model(f"emit_{sampling}_{sample_type}", inputs, outputs)
