"""A fp32 graph to a strongly typed fp16 one: features in half precision, the picture itself in single.

Inputs and outputs stay fp32. So does everything between them that works on the picture: the residual
is added, the exposure law imposed and the motion gate computed in fp32, which keeps still pictures exact
for 16 bits and the law free of rounding. The network between its first and last convolution is fp16.

A node is fp16 if it is a convolution (or matrix product) with weights of some size, or lies between two
of them. Sampling grids are an island of fp32 among them: half precision cannot tell apart the columns of a
picture wider than 2,048 pixels. So are pixels sampled from the picture, which become part of the output.
Casts stand exactly where the two meet, one per tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vtsr.errors import ModelError
from vtsr.export.graph import checked, initializers, simplified, tensor_types, with_opset

WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}  # operator: index of its weight
MIN_WEIGHTS = 64  # smaller convolutions are arithmetic on pictures, such as means over cells
SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)  # a scale below it loses precision, then becomes 0
LARGEST = float(np.finfo(np.float16).max)
QUANTISED_OPSET = 19  # the first with fp16 scales
# Sums over a picture overflow, exponents and large ranges lose digits; all of them are cheap.
ALWAYS_SINGLE = {
    *("GridSample", "Range", "CumSum", "Exp", "Pow", "Softmax"),
    *("GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceL2", "LayerNormalization", "InstanceNormalization"),
}


def half_nodes(model: onnx.ModelProto) -> set[str]:
    """First outputs of the nodes that run in fp16."""
    nodes = list(model.graph.node)
    producer = {name: node for node in nodes for name in node.output}
    constants = initializers(model)
    weighted = [n for n in nodes if _weights(n, producer, constants) >= MIN_WEIGHTS]
    roots = {n.output[0] for n in weighted}
    grids = [producer[n.input[1]] for n in nodes if n.op_type == "GridSample" and n.input[1] in producer]
    island = _ancestors(grids, producer, stop=roots) - roots

    after: set[str] = set()  # everything computed from a weighted node, in order
    for node in nodes:
        if node.output[0] in roots or any(producer[i].output[0] in after for i in node.input if i in producer):
            after.add(node.output[0])
    between = _ancestors(weighted, producer) & after
    sampled: set[str] = set()  # what is computed from pixels moved about, up to the next weighted node
    for node in nodes:
        inputs = [producer[name].output[0] for name in node.input if name in producer]
        moves = node.op_type == "GridSample" and not (inputs and inputs[0] in after and node.input[0] in producer)
        if node.output[0] not in roots and (moves or sampled & set(inputs)):
            sampled.add(node.output[0])
    singles = island | sampled | {n.output[0] for n in nodes if n.op_type in ALWAYS_SINGLE}
    half = (roots | between) - singles
    # Weights that are computed, e.g. quantised and dequantised ones, have the type of what they feed.
    for node in reversed(nodes):
        consumers = [n for n in nodes if set(node.output) & set(n.input)]
        feeds_half = bool(consumers) and all(n.output[0] in half for n in consumers)
        if feeds_half and _from_constants(node, producer, constants):
            half.add(node.output[0])
    return half


def _weights(
    node: onnx.NodeProto, producer: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> int:
    """Elements of the constant weight of a node, looking through Casts and Q/DQ; 0 if it has none."""
    index = WEIGHTED.get(node.op_type)
    name = node.input[index] if index is not None else ""
    while name in producer and producer[name].op_type in ("Cast", "QuantizeLinear", "DequantizeLinear"):
        name = producer[name].input[0]
    return int(np.prod(constants[name].dims)) if name in constants else 0


def _ancestors(
    starts: Iterable[onnx.NodeProto], producer: Mapping[str, onnx.NodeProto], stop: set[str] | None = None
) -> set[str]:
    """First outputs of ``starts`` and of all nodes they depend on, not looking beyond ``stop``."""
    found: set[str] = set()
    todo = list(starts)
    while todo:
        node = todo.pop()
        if node.output[0] in found:
            continue
        found.add(node.output[0])
        if stop is None or node.output[0] not in stop:
            todo.extend(producer[name] for name in node.input if name in producer)
    return found


def _from_constants(
    node: onnx.NodeProto, producer: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> bool:
    return all(
        not name or name in constants or (name in producer and _from_constants(producer[name], producer, constants))
        for name in node.input
    )


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The strongly typed fp16 graph of a fp32 one, with the same inputs and outputs.

    A graph with quantised tensors is raised to opset 19. Raises `ModelError` if a weight is beyond fp16.
    """
    model = simplified(model)
    quantised = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
    if quantised and model.opset_import[0].version < QUANTISED_OPSET:
        model = with_opset(model, QUANTISED_OPSET)
    half = half_nodes(model)
    elem = {name: kind.elem_type for name, kind in tensor_types(model).items()}
    elem.update({name: tensor.data_type for name, tensor in initializers(model).items()})
    constants = initializers(model)
    made: dict[str, onnx.TensorProto] = {}
    is_half: set[str] = set()
    cast_of: dict[tuple[str, int], str] = {}
    nodes: list[onnx.NodeProto] = []

    def typed(name: str, to: int, scale: bool) -> str:
        """``name`` in the element type ``to``, by constant or by Cast."""
        if elem.get(name) != TensorProto.FLOAT or (name in is_half) == (to == TensorProto.FLOAT16):
            return name
        if (name, to) not in cast_of:
            other = f"{name}.{'half' if to == TensorProto.FLOAT16 else 'single'}"
            if name in constants:
                made[other] = _half_constant(constants[name], other, scale)
            else:
                nodes.append(helper.make_node("Cast", [name], [other], name=other, to=to))
            cast_of[name, to] = other
        return cast_of[name, to]

    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        runs_half = node.output[0] in half
        to = TensorProto.FLOAT16 if runs_half else TensorProto.FLOAT
        for index, name in enumerate(node.input):
            # Scales of Resize are fp32 by definition.
            if name and not (node.op_type == "Resize" and index > 0):
                node.input[index] = typed(name, to, "uantizeLinear" in node.op_type and index == 1)
        if runs_half:
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
            is_half.update(name for name in node.output if elem.get(name) == TensorProto.FLOAT)
        nodes.append(node)
    _outputs_to_single(model, nodes, is_half)

    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.value_info[:], result.graph.initializer[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    result.graph.initializer.extend(t for t in (*constants.values(), *made.values()) if t.name in used)
    return checked(result)


def _half_constant(tensor: onnx.TensorProto, name: str, scale: bool) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST:
        raise ModelError(f"The weight {tensor.name} has values beyond fp16; export this model with --fp32.")
    if scale:
        values = np.maximum(values, SMALLEST_NORMAL)
    return numpy_helper.from_array(values.astype(np.float16), name)


def _outputs_to_single(model: onnx.ModelProto, nodes: list[onnx.NodeProto], is_half: set[str]) -> None:
    """Outputs of the graph that came out in fp16 are cast, under their name."""
    for output in [value.name for value in model.graph.output if value.name in is_half]:
        for node in nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == output:
                        names[index] = f"{output}.half"
        nodes.append(helper.make_node("Cast", [f"{output}.half"], [output], name=output, to=TensorProto.FLOAT))
