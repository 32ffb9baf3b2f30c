"""What an fp16 graph computes on hardware that rounds every tensor, shown on hardware that does not.

ONNX Runtime on most CPUs runs fp16 graphs in fp32 and drops the roundings between. Here each of them is
spelt out in fp32 arithmetic. GPUs accumulate in fp32 too and round less often, since they fuse layers: the
errors seen here are an upper limit.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vtsr.export.graph import checked, initializers, simplified, tensor_types
from vtsr.export.half import half_nodes

# Veltkamp (1968): with t = x (2^s + 1), t - (t - x) is x with s bits fewer; fp32 has 24, fp16 has 11.
SPLITTER = float(2**13 + 1)
LARGEST = float(np.finfo(np.float16).max)
# Operators that give out values they were given; Resize is by nearest neighbour in every network here.
MOVES_ONLY = {
    *("Reshape", "Transpose", "Slice", "Concat", "Split", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth"),
    *("Relu", "MaxPool", "Resize", "Identity", "Pad", "Gather", "Expand", "Flatten"),
}


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The fp32 graph with the roundings that `vtsr.export.half.to_half` would bring, infinity for overflow."""
    model = simplified(model)
    half = half_nodes(model)
    kinds = tensor_types(model)
    constants = initializers(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.value_info[:]
    for name, value in (("round.splitter", SPLITTER), ("round.largest", LARGEST), ("round.infinity", np.inf)):
        result.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    exact: dict[str, str] = {}  # tensor -> its rounded form
    made_in_half: set[str] = set()
    outputs = {value.name for value in model.graph.output}

    def is_float(name: str) -> bool:
        kind = constants[name].data_type if name in constants else kinds[name].elem_type if name in kinds else 0
        return kind == TensorProto.FLOAT

    def round_to_half(name: str) -> str:
        if name in exact:
            return exact[name]
        exact[name] = f"{name}.rounded"
        if name in constants:
            values = numpy_helper.to_array(constants[name]).astype(np.float16).astype(np.float32)
            result.graph.initializer.append(numpy_helper.from_array(values, exact[name]))
        else:
            result.graph.node.extend(_rounding(name, exact[name]))
        return exact[name]

    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        runs_half = node.output[0] in half
        for index, name in enumerate(node.input):
            if not name or not is_float(name) or (node.op_type == "Resize" and index > 0):
                continue
            # A single-precision node sees the rounded values of a half-precision one as well, but not those
            # of a single-precision one, which only a half-precision reader rounds.
            if runs_half:
                node.input[index] = round_to_half(name)
            elif name in made_in_half:
                node.input[index] = exact.get(name, name)
        result.graph.node.append(node)
        made_in_half.update(node.output if runs_half else ())
        for name in node.output if runs_half else ():
            if is_float(name) and name not in outputs:
                if node.op_type in MOVES_ONLY:
                    exact[name] = name
                else:
                    round_to_half(name)
    return checked(result)


def _rounding(name: str, target: str) -> list[onnx.NodeProto]:
    def op(kind: str, inputs: list[str], suffix: str) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f"{target}{suffix}"], name=f"{target}{suffix}")

    return [
        op("Mul", [name, "round.splitter"], ".t"),
        op("Sub", [f"{target}.t", name], ".d"),
        op("Sub", [f"{target}.t", f"{target}.d"], ".h"),
        op("Abs", [f"{target}.h"], ".a"),
        op("Greater", [f"{target}.a", "round.largest"], ".o"),
        op("Mul", [f"{target}.h", "round.infinity"], ".i"),
        op("Where", [f"{target}.o", f"{target}.i", f"{target}.h"], ""),
    ]
