"""The convolutions of a step graph: their names, their blocks, and which of them are quantised.

A layer is a convolution with constant weights; its name is that of its weight tensor without
".weight", which stays the same when a checkpoint is exported again in another form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vtsr.errors import ModelError, OptionError

MIN_WEIGHTS = 512  # smaller convolutions are arithmetic on pictures, such as the motion gate's mean over cells
ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True)
class Layer:
    """A convolution that can be quantised.

    ``result`` is the tensor after its activation function, if one directly follows, else its output.
    """

    name: str
    node: onnx.NodeProto
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    source: str
    output: str
    result: str
    depthwise: bool


def fold_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights that are stored in half precision behind a Cast are fp32 again."""
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in folded.graph.initializer}
    kept = []
    for node in folded.graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "Cast" else None
        if stored is None or stored.data_type != TensorProto.FLOAT16:
            kept.append(node)
            continue
        values = numpy_helper.to_array(stored).astype(np.float32)
        stored.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    del folded.graph.node[:]
    folded.graph.node.extend(kept)
    return folded


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers between the first and the last one, in order; the model is one of `fold_half`.

    The convolutions that see the picture itself (few channels), the last ones (heads: no other convolution
    depends on them) and those that say where a picture is sampled stay in floating point: they are cheap, and
    their errors are seen. Raises `ModelError` if
    nothing remains.
    """
    constants = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    readers = consumers(model)
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        if weight.size < MIN_WEIGHTS and weight.shape[0] == 1:
            continue
        bias = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else None
        output = node.output[0]
        after = readers.get(output, [])
        active = len(after) == 1 and after[0].op_type in ACTIVATIONS
        result = after[0].output[0] if active else output
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        depthwise = group > 1 and weight.shape[1] == 1
        name = node.input[1].removesuffix(".weight")
        found.append(Layer(name, node, weight, bias, node.input[0], output, result, depthwise))
    ends = _ends(model, found)
    inner = [layer for layer in found if layer.name not in ends]
    if not inner:
        raise ModelError("This model has no convolutions between its first and its last; nothing can be quantised.")
    return inner


def _ends(model: onnx.ModelProto, layers: Iterable[Layer]) -> set[str]:
    """Names of the layers with no layer between them and an input, an output, or the positions of a sampling."""
    by_output = {layer.output: layer.name for layer in layers}
    inputs = {value.name for value in model.graph.input}
    nearest = {name: {""} for name in inputs}  # tensor -> last layers on the ways to it; "": an input itself
    ends: set[str] = set()
    for node in model.graph.node:
        before = set().union(*(nearest.get(name, set()) for name in node.input))
        own = by_output.get(node.output[0])
        if own is not None and "" in before:
            ends.add(own)
        if node.op_type == "GridSample":
            ends |= nearest.get(node.input[1], set())
        for name in node.output:
            nearest[name] = {own} if own is not None else before
    outputs = {value.name for value in model.graph.output}
    ends |= set().union(*(nearest.get(name, set()) for name in outputs))
    return ends - {""}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return readers


def blocks(layers: Iterable[Layer]) -> list[tuple[str, ...]]:
    """Layers that are quantised together or not at all: a depthwise one with those around it, else one each."""
    layers = list(layers)
    group = {layer.name: {layer.name} for layer in layers}
    for depthwise in (layer for layer in layers if layer.depthwise):
        around = [
            layer for layer in layers if layer.result == depthwise.source or layer.source == depthwise.result
        ]
        joined = set().union(group[depthwise.name], *(group[layer.name] for layer in around))
        for name in joined:
            group[name] = joined
    ordered = (tuple(layer.name for layer in layers if layer.name in group[first.name]) for first in layers)
    return list(dict.fromkeys(ordered))


def quantised_layers(layers: list[Layer], keep_float: Iterable[str]) -> list[Layer]:
    """Those that are neither kept in floating point nor in a block with one that is.

    Raises `OptionError` for a name that is no layer, and if none is left.
    """
    keep = set(keep_float)
    if unknown := keep - {layer.name for layer in layers}:
        raise OptionError(f"There is no layer {min(unknown)!r} to keep float; vtsr-calibrate --sensitivity lists them.")
    for block in blocks(layers):
        if keep & set(block):
            keep |= set(block)
    chosen = [layer for layer in layers if layer.name not in keep]
    if not chosen:
        raise OptionError("Every layer would be kept in floating point; use the fp32 or the fp16 model.")
    return chosen


def model_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of the names and weights of all layers, the same for every form a checkpoint is exported in.

    Weights are rounded to half precision first, so that a model with half-stored weights is the same one.
    """
    digest = hashlib.sha256()
    folded = fold_half(model)
    constants = {t.name: t for t in folded.graph.initializer}
    for node in folded.graph.node:
        if node.op_type == "Conv" and node.input[1] in constants:
            weight = numpy_helper.to_array(constants[node.input[1]])
            digest.update(f"{node.input[1]} {weight.shape}\n".encode())
            digest.update(weight.astype("<f2").tobytes())
    return digest.hexdigest()


def value_info(names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    """Graph outputs of unknown shape for fp32 tensors."""
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]


def activations(model: onnx.ModelProto) -> Mapping[str, bool]:
    """For the results of activation functions: whether they cannot be negative."""
    constants = {t.name: t for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Relu":
            found[node.output[0]] = True
        elif node.op_type == "Clip":
            low = constants.get(node.input[1]) if len(node.input) > 1 else None
            found[node.output[0]] = low is not None and float(numpy_helper.to_array(low)) >= 0
    return found
