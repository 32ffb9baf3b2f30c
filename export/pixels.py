"""The graphs at both ends: stored samples to padded float RGB (ingest), and back (emit).

One pair of graphs per chroma sampling and sample type. What differs between streams of one kind, the
YUV matrix, range and bit depth, enters as the weights of a 1x1 convolution, so one file serves all:

    ingest   planes -> rgb        rgb = weight . codes + bias, padded at the right and bottom edges
    emit     rgb, size -> planes  codes = round(weight . rgb + bias) within 0 .. peak, cropped to size

`fixed_ingest` and `fixed_emit` are the same graphs for one format and size, with matrix and range as
constants, and for two more storages: NV12 and P010 (luma, and chroma in pairs), and 16-bit samples as pairs
of bytes, low byte first, since TensorRT has no 16-bit integers.

Chroma is replicated on the way in and averaged over its block on the way out, which makes the round
trip of an unprocessed picture exact. Nothing is clipped in between: YUV codes outside the RGB cube
survive. `vtsr.runtime.colour` computes weights and biases.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vtsr.errors import OptionError
from vtsr.export.graph import bind, freeze
from vtsr.runtime.colour import emit_weights, ingest_weights
from vtsr.runtime.frame import CHROMA_BLOCK, PixelFormat, Sampling

PAD_MULTIPLE = 32  # every network accepts heights and widths that are multiples of this
PIXEL_OPSET = 17
PIXEL_IR = 8
SAMPLE_TYPES = {"u8": TensorProto.UINT8, "u16": TensorProto.UINT16}
BYTES = "bytes"  # sample type of 16-bit samples stored as two bytes in the last dimension
BYTE_WEIGHTS = (1.0, 256.0)  # of the low and the high byte
SAMPLINGS = ("rgb", "gray", *CHROMA_BLOCK)
PAIRED = "nv12"  # 4:2:0 with both chroma samples of a block side by side
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


def _planes(sampling: str, sample_type: str) -> list[onnx.ValueInfoProto]:
    """The stored planes of N pictures: rgb (N, H, W, 3), gray (N, H, W), or y, u and v, or y and uv.

    Bytes come in pairs along the last dimension: rgb (N, H, W, 6), y (N, H, W, 2), uv (N, CH, CW, 4).
    """
    kind = SAMPLE_TYPES.get(sample_type, TensorProto.UINT8)
    bytes_each = len(BYTE_WEIGHTS) if sample_type == BYTES else 1

    def plane(name: str, height: str, width: str, samples: int = 1) -> onnx.ValueInfoProto:
        last = samples * bytes_each
        return helper.make_tensor_value_info(name, kind, ["N", height, width, *([last] if last > 1 else [])])

    if sampling == "rgb":
        return [plane("image", "H", "W", 3)]
    if sampling == "gray":
        return [plane("y", "H", "W")]
    if sampling == PAIRED:
        return [plane("y", "H", "W"), plane("uv", "CH", "CW", len(CHROMA_NAMES))]
    return [plane("y", "H", "W"), *(plane(c, "CH", "CW") for c in CHROMA_NAMES)]


def _channels(sampling: str) -> int:
    return 1 if sampling == "gray" else 3


def _block(sampling: str) -> tuple[int, int]:
    return CHROMA_BLOCK["yuv420" if sampling == PAIRED else sampling]


def ingest_graph(sampling: str, sample_type: str) -> onnx.ModelProto:
    """Graph from stored planes to ``rgb``: float (N, 3, H', W'), H' and W' the next multiples of 32.

    Inputs: the planes, ``weight`` (3, C, 1, 1) with C = 1 for gray and 3 otherwise, twice that for bytes,
    ``bias`` (3,).
    """
    g = _Graph()
    inputs = _planes(sampling, sample_type)
    codes = {}
    for plane in inputs:
        value = g.op("Cast", plane.name, to=TensorProto.FLOAT)
        if len(plane.type.tensor_type.shape.dim) == 4:
            codes[plane.name] = g.op("Transpose", value, perm=[0, 3, 1, 2])
        else:
            codes[plane.name] = g.op("Unsqueeze", value, g.constant([1]))
    first, *chroma = (codes[plane.name] for plane in inputs)
    size = g.op("Slice", g.op("Shape", first), g.constant([2]), g.constant([4]))
    if chroma:
        wide, high = _block(sampling)
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
    channels = _channels(sampling) * (len(BYTE_WEIGHTS) if sample_type == BYTES else 1)
    weights = [_floats("weight", 3, channels, 1, 1), _floats("bias", 3)]
    return g.model(f"ingest_{sampling}_{sample_type}", [*inputs, *weights], [_floats("rgb", "N", 3, "PH", "PW")])


def emit_graph(sampling: str, sample_type: str) -> onnx.ModelProto:
    """Graph from float RGB to stored planes of the original size.

    Inputs: ``rgb`` (N, 3, H', W'), ``size`` int64 (2,) = (H, W), ``weight`` (C, 3, 1, 1), ``bias`` (C,),
    ``peak`` the largest code, shape (), and for bytes ``unit``, what one code is stored as, shape ().
    Outputs: the planes, as ingest takes them.
    """
    g = _Graph()
    kind = SAMPLE_TYPES.get(sample_type, TensorProto.UINT8)
    outputs = _planes(sampling, sample_type)
    codes = g.op("Conv", "rgb", "weight", "bias", kernel_shape=[1, 1])
    zero = g.constant(0, np.float32)
    axes, origin = g.constant([2, 3]), g.constant([0, 0])

    def store(value: str, size: str, plane: onnx.ValueInfoProto, samples: int) -> None:
        value = g.op("Slice", value, origin, size, axes)
        value = g.op("Clip", g.op("Round", value), zero, "peak")
        if samples > 1 or sample_type == BYTES:
            value = g.op("Transpose", value, perm=[0, 2, 3, 1])
        else:
            value = g.op("Squeeze", value, g.constant([1]))
        if sample_type == BYTES:
            value = g.op("Mul", value, "unit")
            base = g.constant(BYTE_WEIGHTS[1], np.float32)
            high = g.op("Floor", g.op("Div", value, base))
            low = g.op("Sub", value, g.op("Mul", high, base))
            last = g.constant([4])
            pair = g.op("Concat", g.op("Unsqueeze", low, last), g.op("Unsqueeze", high, last), axis=4)
            value = g.op("Reshape", pair, g.constant([0, 0, 0, samples * len(BYTE_WEIGHTS)]))
        g.op("Cast", value, to=kind, name=plane.name)

    if sampling in ("rgb", "gray"):
        store(codes, "size", outputs[0], _channels(sampling))
    else:
        block = _block(sampling)
        chroma_planes = outputs[1:]
        each = len(CHROMA_NAMES) // len(chroma_planes)
        parts = [f"{plane.name}_codes" for plane in outputs]
        sizes = g.constant([1, *[each] * len(chroma_planes)])
        g.nodes.append(helper.make_node("Split", [codes, sizes], parts, name="split", axis=1))
        store(parts[0], "size", outputs[0], 1)
        chroma_size = "size"
        if block != (1, 1):
            high_wide = [block[1], block[0]]
            up = g.op("Add", "size", g.constant([n - 1 for n in high_wide]))
            chroma_size = g.op("Div", up, g.constant(high_wide))
        for part, plane in zip(parts[1:], chroma_planes, strict=True):
            if block != (1, 1):
                part = g.op("AveragePool", part, kernel_shape=high_wide, strides=high_wide)
            store(part, chroma_size, plane, each)
    channels = _channels(sampling)
    inputs = [
        _floats("rgb", "N", 3, "PH", "PW"),
        helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        _floats("weight", channels, 3, 1, 1),
        _floats("bias", channels),
        _floats("peak"),
        *([_floats("unit")] if sample_type == BYTES else []),
    ]
    return g.model(f"emit_{sampling}_{sample_type}", inputs, outputs)


@dataclass(frozen=True)
class Storage:
    """How pictures lie in memory, in the terms of FFmpeg's pixel formats.

    ``high_bits`` tells P010 and its kin, which keep the code in the high bits of 16, from planar formats,
    which keep it in the low ones. More than 8 bits are passed as pairs of bytes.
    """

    name: str
    sampling: str  # of `SAMPLINGS`, or `PAIRED`
    bits: int = 8
    high_bits: bool = False
    matrix: str = "bt709"
    full_range: bool = False

    @property
    def format(self) -> PixelFormat:
        """What the samples mean, for `vtsr.runtime.colour`."""
        sampling: Sampling = "yuv420" if self.sampling == PAIRED else self.sampling  # type: ignore[assignment]
        return PixelFormat(sampling, self.bits, self.matrix, self.full_range)

    @property
    def sample_type(self) -> str:
        return "u8" if self.bits == 8 else BYTES

    @property
    def unit(self) -> int:
        """What one code is stored as."""
        return 1 << (16 - self.bits) if self.high_bits else 1

    @property
    def label(self) -> str:
        """For file names: the format, and for YUV the matrix and the range."""
        if self.sampling in ("rgb", "gray"):
            return self.name
        return f"{self.name}-{self.matrix}-{'full' if self.full_range else 'limited'}"

    def facts(self) -> dict[str, Any]:
        """Everything about it, for manifests."""
        return asdict(self)


PLANAR_NAME = re.compile(r"(yuv420|yuv422|yuv444)p(9|10|12|14|16)?(?:le)?")
OTHER_NAMES: dict[str, tuple[str, int, bool]] = {
    "rgb24": ("rgb", 8, False),
    "rgb48le": ("rgb", 16, False),
    "gray": ("gray", 8, False),
    "gray10le": ("gray", 10, False),
    "gray16le": ("gray", 16, False),
    "nv12": (PAIRED, 8, False),
    "p010le": (PAIRED, 10, True),
    "p016le": (PAIRED, 16, True),
}


def storage(name: str, matrix: str = "bt709", full_range: bool = False) -> Storage:
    """The storage that FFmpeg calls ``name``. Raises `OptionError` if it is not one of ours."""
    match = PLANAR_NAME.fullmatch(name)
    if match:
        return Storage(name, match[1], int(match[2] or 8), False, matrix, full_range)
    key = name if name in OTHER_NAMES else f"{name}le"
    if key not in OTHER_NAMES:
        raise OptionError(
            f"There are no graphs for the pixel format {name!r}; choose one of {', '.join(OTHER_NAMES)}, "
            "yuv420p, yuv422p, yuv444p and their 10- to 16-bit forms such as yuv420p10le."
        )
    sampling, bits, high_bits = OTHER_NAMES[key]
    return Storage(key, sampling, bits, high_bits, matrix, full_range)


def plane_shapes(kind: Storage, batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the stored planes of ``batch`` pictures, by the names of the graphs' inputs."""
    wide, high = _block(kind.sampling) if kind.sampling not in ("rgb", "gray") else (1, 1)
    sizes = {"N": batch, "H": height, "W": width, "CH": -(-height // high), "CW": -(-width // wide)}
    return {
        plane.name: tuple(sizes.get(d.dim_param, d.dim_value) for d in plane.type.tensor_type.shape.dim)
        for plane in _planes(kind.sampling, kind.sample_type)
    }


def padded(height: int, width: int) -> tuple[int, int]:
    """The next multiples of `PAD_MULTIPLE`."""
    return -(-height // PAD_MULTIPLE) * PAD_MULTIPLE, -(-width // PAD_MULTIPLE) * PAD_MULTIPLE


def fixed_ingest(kind: Storage, batch: int, height: int, width: int) -> onnx.ModelProto:
    """The ingest graph of one storage and size: the planes are its only inputs."""
    code_weight, bias = ingest_weights(kind.format)
    weight = code_weight.astype(np.float64) / kind.unit
    if kind.sample_type == BYTES:
        # (3, C, 1, 1) to (3, 2C, 1, 1): every sample comes as its low and its high byte.
        weight = (weight[:, :, None] * np.reshape(BYTE_WEIGHTS, (2, 1, 1))).reshape(len(weight), -1, 1, 1)
    bound = bind(ingest_graph(kind.sampling, kind.sample_type), {"weight": weight, "bias": bias})
    return freeze(bound, plane_shapes(kind, batch, height, width))


def fixed_emit(kind: Storage, batch: int, height: int, width: int) -> onnx.ModelProto:
    """The emit graph of one storage and size: ``rgb`` (batch, 3, H', W') is its only input."""
    weight, bias = emit_weights(kind.format)
    values: dict[str, Any] = {"weight": weight, "bias": bias, "peak": 2**kind.bits - 1, "size": [height, width]}
    if kind.sample_type == BYTES:
        values["unit"] = kind.unit
    bound = bind(emit_graph(kind.sampling, kind.sample_type), values)
    return freeze(bound, {"rgb": (batch, 3, *padded(height, width))})
