"""ONNX graphs in another form with the same numbers: fixed shapes, other opsets, constants for inputs.

Every function returns a new model, checked by `onnx.checker` with full shape inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vtsr.errors import ModelError, OptionError

Array = NDArray[Any]

OPSETS = (17, 18, 19, 20, 21)  # the ones `with_opset` can produce
FOLDED_ELEMENTS = 1 << 24  # no constant larger than this is made; the largest are sampling grids


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` after the full check. Raises `ModelError` if it is not valid ONNX."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"The graph {model.graph.name!r} is not valid ONNX: {_first_line(error)}") from error
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def tensor_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Element type and shape of every tensor that shape inference knows, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: value.type.tensor_type for value in values}


def static_shape(kind: onnx.TypeProto.Tensor | None) -> tuple[int, ...] | None:
    """The shape if every dimension is a number, else None."""
    if kind is None or not kind.HasField("shape"):
        return None
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    return None if -1 in dims else tuple(dims)


def bind(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """Inputs become constants. Raises `OptionError` for a name that is no input."""
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    inputs = {value.name: value for value in bound.graph.input}
    for name, value in values.items():
        if name not in inputs:
            raise OptionError(f"The graph {model.graph.name!r} has no input {name!r}.")
        dtype = helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
        bound.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        bound.graph.input.remove(inputs[name])
    return checked(bound)


def freeze(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Inputs get fixed shapes; all that follows from them and from constants is computed here.

    What remains is only what depends on the values of inputs: no Shape nodes, no Casts of weights. Raises
    `OptionError` if a shape does not fit the graph.
    """
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    for value in frozen.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = shapes.get(value.name, [d.dim_value for d in dims])
        if len(shape) != len(dims) or any(d.dim_value not in (0, n) for d, n in zip(dims, shape, strict=True)):
            raise OptionError(f"The input {value.name} of {model.graph.name!r} cannot have the shape {tuple(shape)}.")
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
    for value in frozen.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    frozen = simplified(frozen)
    types = tensor_types(frozen)
    for value in frozen.graph.output:
        value.type.tensor_type.CopyFrom(types[value.name])
    return checked(frozen)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without what can be computed here: constants of constants, Casts of weights, idle nodes."""
    simpler = onnx.ModelProto()
    simpler.CopyFrom(model)
    del simpler.graph.value_info[:]
    while _fold(simpler):
        pass
    _bypass(simpler)
    _prune(simpler)
    return checked(simpler)


def _fold(model: onnx.ModelProto) -> bool:
    """Replaces nodes of known result by constants; returns whether there were any."""
    types = tensor_types(model)
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in initializers(model).items()}
    outputs = {value.name for value in model.graph.output}
    kept, folded = [], False
    for node in model.graph.node:
        results = None if outputs & set(node.output) else _constant_results(node, types, constants, model)
        if results is None:
            kept.append(node)
            continue
        folded = True
        constants.update(results)
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in results.items())
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return folded


def _constant_results(
    node: onnx.NodeProto, types: Mapping[str, Any], constants: Mapping[str, Array], model: onnx.ModelProto
) -> dict[str, Array] | None:
    if node.op_type == "Shape":
        shape = static_shape(types.get(node.input[0]))
        if shape is None:
            return None
        options = attributes(node)
        return {node.output[0]: np.array(shape[options.get("start", 0) : options.get("end", len(shape))], np.int64)}
    if node.op_type == "QuantizeLinear" or any(name and name not in constants for name in node.input):
        return None  # a quantised weight must stay Q -> DQ for TensorRT to see it
    if node.op_type == "DequantizeLinear":
        return None
    sizes = [static_shape(types.get(name)) for name in node.output]
    if any(size is not None and np.prod(size, dtype=np.int64) > FOLDED_ELEMENTS for size in sizes):
        return None
    feeds = {name: constants[name] for name in node.input if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in feeds.items()
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constant", inputs, results)
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    values = ReferenceEvaluator(single).run(None, feeds)
    return {name: np.asarray(value) for name, value in zip(node.output, values, strict=True)}


def _bypass(model: onnx.ModelProto) -> None:
    """Removes nodes that change nothing: Reshapes to the same shape, Pads by zero, Slices of everything."""
    types = tensor_types(model)
    constants = initializers(model)
    outputs = {value.name for value in model.graph.output}
    replaced: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = replaced.get(name, name)
        before, after = (static_shape(types.get(name)) for name in (node.input[0], node.output[0]))
        same = before is not None and before == after
        idle = node.op_type == "Identity" or (same and _changes_only_shape(node, constants))
        if idle and node.output[0] not in outputs:
            replaced[node.output[0]] = node.input[0]
        else:
            if node.op_type == "Reshape" and _all_positive(constants.get(node.input[1])):
                for attribute in [a for a in node.attribute if a.name == "allowzero"]:
                    node.attribute.remove(attribute)  # says nothing without a zero
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _all_positive(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and bool((numpy_helper.to_array(tensor) > 0).all())


def _changes_only_shape(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type == "Slice":  # of the whole, unless it walks backwards
        steps = constants.get(node.input[4]) if len(node.input) > 4 else None
        return len(node.input) <= 4 or (steps is not None and bool((numpy_helper.to_array(steps) == 1).all()))
    if node.op_type == "Pad":  # negative pads may cancel
        pads = constants.get(node.input[1])
        return pads is not None and not numpy_helper.to_array(pads).any()
    return node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand")


def _prune(model: onnx.ModelProto) -> None:
    """Removes nodes and constants nothing uses."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    del model.graph.value_info[:]


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph in another opset, with the oldest IR version that goes with it.

    Raises `OptionError` for an opset out of `OPSETS` and `ModelError` for a node that has no counterpart.
    """
    if opset not in OPSETS:
        raise OptionError(f"The opset must be one of {', '.join(map(str, OPSETS))}, not {opset}.")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    before = next(entry.version for entry in model.opset_import if entry.domain == "")
    affected = [n for n in changed.graph.node if n.domain == "" and _version(n, before) != _version(n, opset)]
    types = tensor_types(model) if any(node.op_type == "Split" for node in affected) else {}
    for node in affected:
        _rewrite(node, before, opset, changed, types)
    del changed.opset_import[:]
    changed.opset_import.append(helper.make_opsetid("", opset))
    changed.ir_version = helper.find_min_ir_version_for(changed.opset_import)
    del changed.graph.value_info[:]
    _prune(changed)
    return checked(changed)


def _version(node: onnx.NodeProto, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(node.op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0  # the operator does not exist there


def _drop(node: onnx.NodeProto, **neutral: Any) -> None:
    """Removes attributes the other version does not know. Raises `ModelError` unless they are at ``neutral``."""
    for attribute in [a for a in node.attribute if a.name in neutral]:
        if helper.get_attribute_value(attribute) != neutral[attribute.name]:
            raise ModelError(f"The node {node.name} ({node.op_type}) uses {attribute.name}, which the opset lacks.")
        node.attribute.remove(attribute)


def _rewrite(
    node: onnx.NodeProto, before: int, after: int, model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto.Tensor]
) -> None:
    """Rewrites a node whose definition differs between two opsets, in place."""
    old, new = before < 18 <= after, after < 18 <= before
    kind = node.op_type
    if kind.startswith("Reduce") and kind != "ReduceSum" and (old or new):
        _move_axes(node, model, to_input=old)
    elif kind == "Split" and new:
        count = attributes(node).get("num_outputs")
        if len(node.input) < 2 and count is not None:  # without sizes 17 divides equally, which 18 may not
            _drop(node, num_outputs=count)
            shape, axis = static_shape(types.get(node.input[0])), attributes(node).get("axis", 0)
            if shape is None or shape[axis] % count:
                raise ModelError(f"The node {node.name} (Split) cannot be expressed in opset {after}.")
    elif kind == "Split" and old:
        if len(node.input) < 2:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    elif kind == "Resize":
        if new:
            _drop(node, antialias=0, keep_aspect_ratio_policy=b"stretch")
    elif kind == "Pad":
        if new and len(node.input) > 3 and node.input[3]:
            raise ModelError(f"The node {node.name} (Pad) names axes, which opset {after} lacks.")
        _forbid(node, after, 19, "mode", b"wrap")
    elif kind == "GridSample":
        names = {b"bilinear": b"linear", b"bicubic": b"cubic"}
        if after < 20:
            names = {new_name: old_name for old_name, new_name in names.items()}
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = names.get(attribute.s, attribute.s)
    elif kind == "Cast" and after < 19:
        _drop(node, saturate=1)
    elif kind in ("QuantizeLinear", "DequantizeLinear"):
        _drop(node, **{k: v for k, v in {"saturate": 1, "block_size": 0, "output_dtype": 0}.items() if after < 21})
    elif kind == "AveragePool" and after < 19:
        _drop(node, dilations=[1, 1])
    elif kind == "Reshape" or _version(node, after):
        pass  # later definitions of the remaining operators only admit more element types
    else:
        raise ModelError(f"The operator {kind} does not exist in opset {after}.")


def _forbid(node: onnx.NodeProto, opset: int, since: int, name: str, value: Any) -> None:
    if opset < since and attributes(node).get(name) == value:
        raise ModelError(f"The node {node.name} ({node.op_type}) uses {name}={value!r}, which opset {opset} lacks.")


def _move_axes(node: onnx.NodeProto, model: onnx.ModelProto, *, to_input: bool) -> None:
    """Axes of a reduction are an attribute before opset 18 and an input since.

    TensorRT 8.5 reads only the attribute and reduces over everything when it is missing.
    """
    if to_input:
        axes = attributes(node).get("axes")
        if axes is not None:
            node.attribute.remove(next(a for a in node.attribute if a.name == "axes"))
            name = f"{node.output[0]}.axes"
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
            node.input.append(name)
        return
    if len(node.input) > 1:
        constant = initializers(model).get(node.input[1])
        if constant is None:
            raise ModelError(f"The node {node.name} ({node.op_type}) computes its axes, which opset 17 cannot do.")
        del node.input[1:]
        node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(constant).tolist()))
    _drop(node, noop_with_empty_axes=0)
