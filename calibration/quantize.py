"""Quantised step graphs: explicit QuantizeLinear/DequantizeLinear pairs, int8, at stated places.

For TensorRT (`quantize`), Q/DQ stand

- on the inputs of convolutions: activations per tensor, weights per output channel (axis 0), symmetric with
  zero point 0 as an explicit third input; float weights with Q and DQ behind them, which all versions read;
- on the skip branch of a residual addition, by the pair that feeds the block's first convolution, so that
  the other branch's convolution fuses with the addition;
- nowhere else: not on biases, outputs, resizes, nor on the inputs of a Concat, only on its result.

One scale serves a Concat and all its quantised inputs. The first convolution and the heads stay float; so
does every layer asked for, with the whole block it is in if that has a depthwise convolution.

For ONNX Runtime on a CPU (`quantize_for_cpu`), integer kernels need integer outputs too, and the fast ones
unsigned activations; see there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from vtsr.calibration.layers import (
    Layer,
    activations,
    consumers,
    find_layers,
    fold_half,
    quantised_layers,
)
from vtsr.calibration.ranges import CODES, Ranges
from vtsr.errors import ModelError, OptionError

SCALE_TYPES = ("fp32", "fp16")
# A scale below fp16's smallest normal number loses digits, then becomes 0, which TensorRT refuses.
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_normal)
OUT = ":out"  # after a layer's name, for the range of its output

Array = NDArray[Any]


def quantize(
    model: onnx.ModelProto, ranges: Ranges, *, keep_float: Sequence[str] = (), scale_type: str = "fp32"
) -> onnx.ModelProto:
    """The step graph with Q/DQ for TensorRT; see the module's text for the places.

    Parameters
    ----------
    model
        The fp32 step graph, dynamic or frozen; weights may be stored in half precision.
    keep_float
        Names of layers to leave in floating point, besides those of ``ranges.keep_float``.
    scale_type
        ``"fp32"``: an fp32-typed graph in the model's opset, for TensorRT 8.x. ``"fp16"``: strongly typed
        with fp16 scales, opset 19, for TensorRT 10 and later.

    Raises `ModelError` if the ranges are of another model or the result is not valid, `InputError` for
    unusable ranges, `OptionError` for an unknown layer or scale type.
    """
    if scale_type not in SCALE_TYPES:
        raise OptionError(f"The type of scales must be {' or '.join(SCALE_TYPES)}, not {scale_type!r}.")
    ranges.check_model(model)
    graph = _Graph(fold_half(model))
    chosen = quantised_layers(find_layers(graph.model), (*ranges.keep_float, *keep_float))
    scales = _concat_scales(graph.model, {layer.source: ranges.range(layer.name) / CODES for layer in chosen})
    pairs = {source: graph.pair(source, scale, np.int8(0)) for source, scale in scales.items()}
    for layer in chosen:
        graph.redirect(layer.node, {layer.source: pairs[layer.source]})
        weight = graph.weight_pair(layer)
        graph.redirect(layer.node, {layer.node.input[1]: weight})
    convolved = _convolution_branches(graph.model, {layer.output for layer in chosen})
    for node in graph.model.graph.node:
        skips = [name for name in node.input if name in pairs]
        if node.op_type == "Add" and len(skips) == 1 and set(node.input) - set(skips) <= convolved:
            graph.redirect(node, {skips[0]: pairs[skips[0]]})
    quantised = graph.finished()
    if scale_type == "fp32":
        return quantised
    from vtsr.export.half import to_half

    return to_half(quantised)


def quantize_for_cpu(
    model: onnx.ModelProto, ranges: Ranges, *, keep_float: Sequence[str] = ()
) -> onnx.ModelProto:
    """The step graph for ONNX Runtime's integer kernels on CPUs.

    They replace a convolution only if its output is quantised as well, and the quick ones read unsigned
    activations: what follows a Relu has the codes 0 to 255, anything else zero point 128. Everyone who reads
    a quantised tensor reads it quantised, so additions are in integers too. Weights are stored as int8 (per
    output channel), biases as int32: a quarter of the fp32 file.

    Raises the same errors as `quantize`.
    """
    ranges.check_model(model)
    graph = _Graph(fold_half(model))
    chosen = quantised_layers(find_layers(graph.model), (*ranges.keep_float, *keep_float))
    positive = activations(graph.model)
    readers = consumers(graph.model)
    scales: dict[str, tuple[float, np.uint8]] = {}
    for layer in chosen:
        scales[layer.source] = _unsigned(ranges.range(layer.name), positive.get(layer.source, False))
    for layer in chosen:
        tensor = layer.result
        if tensor not in scales:
            scales[tensor] = _unsigned(ranges.range(layer.name + OUT), positive.get(tensor, False))
        # Nearest neighbours of codes are codes.
        for node in readers.get(tensor, []):
            if node.op_type == "Resize":
                scales.setdefault(node.output[0], scales[tensor])
    pairs = {tensor: graph.pair(tensor, scale, zero) for tensor, (scale, zero) in scales.items()}
    for tensor, pair in pairs.items():
        for node in readers.get(tensor, []):
            graph.redirect(node, {tensor: pair})
    for layer in chosen:
        graph.store_integers(layer, scales[layer.source][0])
    return graph.finished()


def _unsigned(largest: float, positive: bool) -> tuple[float, np.uint8]:
    """Scale and zero point of uint8 codes for values up to ``largest``."""
    if positive:
        return max(largest / (2 * CODES + 1), SMALLEST_SCALE), np.uint8(0)
    return max(largest / CODES, SMALLEST_SCALE), np.uint8(CODES + 1)


def weight_scales(weight: Array) -> NDArray[np.float32]:
    """Per output channel, the scale at which its largest weight is code 127: (C,) float32."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return np.maximum(largest / CODES, SMALLEST_SCALE).astype(np.float32)


def _concat_scales(model: onnx.ModelProto, scales: Mapping[str, float]) -> dict[str, float]:
    """One scale, the largest, for all tensors that a Concat joins: then it only moves codes."""
    shared = {name: max(scale, SMALLEST_SCALE) for name, scale in scales.items()}
    concats = [node for node in model.graph.node if node.op_type == "Concat"]
    for _ in concats:  # a chain of n of them needs at most n passes
        for node in concats:
            joined = [name for name in (*node.input, *node.output) if name in shared]
            largest = max((shared[name] for name in joined), default=0.0)
            shared.update(dict.fromkeys(joined, largest))
    return shared


def _convolution_branches(model: onnx.ModelProto, outputs: set[str]) -> set[str]:
    """Tensors that are a quantised convolution's output, as it is or resized."""
    found = set(outputs)
    for node in model.graph.node:
        if node.op_type in ("Resize", "Identity") and node.input[0] in found:
            found.update(node.output)
    return found


class _Graph:
    """A graph on its way to being quantised."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._after: dict[str, list[onnx.NodeProto]] = {}  # new nodes, by the tensor they follow
        self._weights: dict[str, str] = {}

    def constant(self, name: str, value: Array) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(self, tensor: str, scale: Any, zero: Any, axis: int | None = None) -> str:
        """Adds Q -> DQ behind a tensor; returns the name of what comes out."""
        parameters = [
            self.constant(f"{tensor}.scale", np.asarray(scale, np.float32)),
            self.constant(f"{tensor}.zero", zero),
        ]
        options = {} if axis is None else {"axis": axis}
        coded, decoded = f"{tensor}.q", f"{tensor}.dq"
        self._after[tensor] = [
            helper.make_node("QuantizeLinear", [tensor, *parameters], [coded], name=coded, **options),
            helper.make_node("DequantizeLinear", [coded, *parameters], [decoded], name=decoded, **options),
        ]
        return decoded

    def weight_pair(self, layer: Layer) -> str:
        name = layer.node.input[1]
        if name not in self._weights:
            scale = weight_scales(layer.weight)
            self._weights[name] = self.pair(name, scale, np.zeros(len(scale), np.int8), axis=0)
        return self._weights[name]

    def store_integers(self, layer: Layer, source_scale: float) -> None:
        """Replaces weight and bias of a convolution by integers with a DQ behind them."""
        name = layer.node.input[1]
        scale = weight_scales(layer.weight)
        shape = (-1,) + (1,) * (layer.weight.ndim - 1)
        codes = np.clip(np.rint(layer.weight / scale.reshape(shape)), -CODES, CODES).astype(np.int8)
        layer.node.input[1] = self._decoded(name, codes, scale)
        if layer.bias is None:
            return
        # The accumulator's scale, which makes the addition exact.
        product = (scale.astype(np.float64) * np.float32(source_scale)).astype(np.float32)
        limit = 2.0**31 - 256  # the accumulator must have room for the sum
        bias = np.clip(np.rint(layer.bias / product.astype(np.float64)), -limit, limit).astype(np.int32)
        layer.node.input[2] = self._decoded(f"{name}.bias", bias, product)

    def _decoded(self, name: str, codes: Array, scale: Array) -> str:
        inputs = [
            self.constant(f"{name}.q", codes),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero", np.zeros(len(scale), codes.dtype)),
        ]
        decoded = f"{name}.dq"
        self._after[inputs[0]] = [helper.make_node("DequantizeLinear", inputs, [decoded], name=decoded, axis=0)]
        return decoded

    @staticmethod
    def redirect(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)

    def finished(self) -> onnx.ModelProto:
        """The graph with the new nodes in their places and without constants nobody uses, checked."""
        graph = self.model.graph
        nodes: list[onnx.NodeProto] = []
        for constant in graph.initializer:
            nodes += self._after.get(constant.name, [])
        for value in graph.input:
            nodes += self._after.get(value.name, [])
        for node in graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self._after.get(name, [])
        used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        constants = [constant for constant in graph.initializer if constant.name in used]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)
        try:
            onnx.checker.check_model(self.model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"The quantised graph is not valid ONNX ({reason}); quantise another export.") from error
        return self.model
