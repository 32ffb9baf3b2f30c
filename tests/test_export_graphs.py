"""Graphs in another form compute the same: fixed shapes, other opsets, constants for inputs, half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from vtsr.errors import ModelError, OptionError  # noqa: E402
from vtsr.export.check import MIN_PSNR, check_step, demo_frames, run_levels  # noqa: E402
from vtsr.export.deploy import Plan, step_shapes  # noqa: E402
from vtsr.export.emulation import rounded  # noqa: E402
from vtsr.export.graph import OPSETS, attributes, bind, freeze, initializers, simplified, with_opset  # noqa: E402
from vtsr.export.half import SMALLEST_NORMAL, to_half  # noqa: E402
from vtsr.runtime.engines.selftest import psnr, sample_inputs  # noqa: E402

Array = Any


@pytest.fixture(scope="module")
def step(tiny_model: Path) -> onnx.ModelProto:
    return onnx.load(tiny_model / "step.onnx")


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def small(nodes: Any, inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Array], opset: int) -> Any:
    """A model of a few nodes; shapes by name, inputs and outputs float."""
    info = helper.make_tensor_value_info
    values = [[info(n, TensorProto.FLOAT, shape) for n, shape in group.items()] for group in (inputs, outputs)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", *values, tensors)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 40, 70), (3, 96, 33)])
def test_a_frozen_step_has_no_shape_arithmetic_and_the_same_outputs(
    step: onnx.ModelProto, batch: int, height: int, width: int
) -> None:
    shapes = step_shapes(batch, height, width)
    frozen = freeze(step, shapes)
    assert not {"Shape", "Gather", "Identity", "ConstantOfShape", "Cast", "Constant"} & set(kinds(frozen))
    assert all(d.HasField("dim_value") for o in frozen.graph.output for d in o.type.tensor_type.shape.dim)
    feeds = sample_inputs(frozen.SerializeToString(), shapes)
    for value, reference in zip(run(frozen, feeds), run(step, feeds), strict=True):
        assert np.abs(value - reference).max() < 1e-6


def test_a_shape_that_does_not_fit_is_refused(step: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match="carry"):
        freeze(step, {**step_shapes(1, 32, 32), "carry": (2, 1, 1, 1)})


@pytest.mark.parametrize("opset", OPSETS)
def test_the_step_exists_in_every_opset_and_computes_the_same(step: onnx.ModelProto, opset: int) -> None:
    changed = with_opset(simplified(step), opset)
    assert changed.opset_import[0].version == opset
    # onnx's table of which IR version came with which opset.
    assert changed.ir_version == {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}[opset]
    feeds = sample_inputs(step.SerializeToString(), step_shapes(2, 32, 64))
    for value, reference in zip(run(changed, feeds), run(step, feeds), strict=True):
        assert np.array_equal(value, reference)


def test_an_opset_out_of_range_is_refused(step: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match="17, 18, 19, 20, 21"):
        with_opset(step, 12)


def test_axes_of_a_mean_become_an_attribute_in_opset_17() -> None:
    """TensorRT 8.5 reads only the attribute, and averages over everything without it."""
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean", keepdims=1)
    model = small([node], {"x": [2, 3, 4, 5]}, {"y": [2, 3, 1, 1]}, {"axes": np.array([2, 3])}, 18)
    old = with_opset(model, 17)
    assert attributes(old.graph.node[0])["axes"] == [2, 3]
    assert not old.graph.initializer
    x = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    for form in (old, with_opset(old, 18)):
        assert np.allclose(run(form, {"x": x})[0], x.mean((2, 3), keepdims=True), atol=1e-6)


def test_an_equal_split_exists_in_opset_17_and_an_unequal_one_does_not() -> None:
    def model(channels: int) -> onnx.ModelProto:
        node = helper.make_node("Split", ["x"], ["a", "b"], name="split", axis=1, num_outputs=2)
        half = -(-channels // 2)
        return small([node], {"x": [1, channels, 2]}, {"a": [1, half, 2], "b": [1, channels - half, 2]}, {}, 18)

    x = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
    a, b = run(with_opset(model(6), 17), {"x": x})
    assert np.array_equal(np.concatenate([a, b], 1), x)
    with pytest.raises(ModelError, match="Split"):
        with_opset(model(5), 17)


def test_an_operator_without_a_counterpart_is_named() -> None:
    model = small([helper.make_node("Gelu", ["x"], ["y"])], {"x": [3]}, {"y": [3]}, {}, 20)
    with pytest.raises(ModelError, match="Gelu does not exist in opset 17"):
        with_opset(model, 17)


def test_a_setting_the_old_opset_lacks_is_refused() -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], name="grow", mode="linear", antialias=1)
    scales = np.array([1, 1, 0.5, 0.5], np.float32)
    model = small([node], {"x": [1, 1, 8, 8]}, {"y": [1, 1, 4, 4]}, {"scales": scales}, 18)
    with pytest.raises(ModelError, match=r"grow.*antialias"):
        with_opset(model, 17)


def test_bilinear_sampling_is_called_linear_since_opset_20() -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"], mode="bilinear", align_corners=0)
    model = small([node], {"x": [1, 1, 4, 4], "g": [1, 2, 2, 2]}, {"y": [1, 1, 2, 2]}, {}, 18)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.random((1, 1, 4, 4), np.float32), "g": rng.uniform(-1, 1, (1, 2, 2, 2)).astype(np.float32)}
    new = with_opset(model, 20)
    assert attributes(new.graph.node[0])["mode"] == b"linear"
    assert np.allclose(run(new, feeds)[0], run(model, feeds)[0])
    assert attributes(with_opset(new, 17).graph.node[0])["mode"] == b"bilinear"


def test_a_bound_input_is_a_constant_and_an_unknown_one_an_error() -> None:
    model = small([helper.make_node("Mul", ["x", "k"], ["y"])], {"x": [3], "k": [3]}, {"y": [3]}, {}, 17)
    bound = bind(model, {"k": [1, 2, 3]})
    assert [value.name for value in bound.graph.input] == ["x"]
    assert run(bound, {"x": np.ones(3, np.float32)})[0].tolist() == [1, 2, 3]
    with pytest.raises(OptionError, match="'q'"):
        bind(model, {"q": [1]})


def test_half_precision_has_casts_only_where_the_network_begins_and_ends(step: onnx.ModelProto) -> None:
    half = to_half(step)
    producers = {name: node.op_type for node in half.graph.node for name in node.output}
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)  # sizes become numbers of the sampling grid, by a Cast too
    casts = [n for n in half.graph.node if n.op_type == "Cast" and types[n.input[0]] in floats]
    assert 2 <= len(casts) == len({node.input[0] for node in casts}) <= 5
    for cast in casts:
        readers = {node.op_type for node in half.graph.node if cast.output[0] in node.input}
        begins = attributes(cast)["to"] == TensorProto.FLOAT16
        assert readers == {"Conv"} if begins else producers[cast.input[0]] == "Conv"
    types.update({t.name: t.data_type for t in half.graph.initializer})
    assert {types[v.name] for v in (*half.graph.input, *half.graph.output)} == {TensorProto.FLOAT}
    convolutions = [node for node in half.graph.node if node.op_type == "Conv"]
    in_half = [node for node in convolutions if types[node.output[0]] == TensorProto.FLOAT16]
    assert len(in_half) == len(convolutions) - 1  # all but the motion gate's mean over a cell
    for node in in_half:
        assert {types[name] for name in node.input} == {TensorProto.FLOAT16}


def test_half_precision_keeps_a_still_picture_exact(step: onnx.ModelProto) -> None:
    """Even in codes of 16 bits, which fp16 cannot hold."""
    picture = (np.random.default_rng(0).integers(0, 65536, (1, 3, 32, 64)) / 65535).astype(np.float32)
    feeds = {"u": picture, "a_u": picture, "carry": np.ones((1, 1, 1, 1), np.float32), "v": picture}
    for model in (to_half(step), rounded(step)):
        halves = run(model, feeds)[0]
        assert np.array_equal(np.rint(halves * 65535), np.rint(np.concatenate([picture, picture]) * 65535))


def test_the_emulation_rounds_as_numpy_does() -> None:
    """Checked on a convolution of every channel with 1: what comes out is the rounded input."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1], group=512)
    shape = [1, 512, 4, 4]
    model = rounded(small([node], {"x": shape}, {"y": shape}, {"w": np.ones((512, 1, 1, 1), np.float32)}, 17))
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-4, 4, shape)).astype(np.float32)
    x[0, 0, 0] = [65504, 65519, 70000, -70000]
    normal = np.abs(x) >= SMALLEST_NORMAL
    found = run(model, {"x": x})[0]
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    assert np.array_equal(found[normal], expected[normal])


def test_half_precision_costs_what_pytorchs_half_precision_costs(step: onnx.ModelProto, tiny_checkpoint: Path) -> None:
    torch = pytest.importorskip("torch")
    from vtsr.training.checkpoint import load_network

    first, second = (torch.from_numpy(frame[..., :64, :64]) for frame in demo_frames(2))
    with torch.no_grad():
        exact = load_network(tiny_checkpoint)(first, second)[1].numpy()
        # All in half precision, the picture too: what it adds to the picture is the network's share.
        half = load_network(tiny_checkpoint).half()(first.half(), second.half())[1].float()
        theirs = psnr((second + half - second.half().float()).numpy(), exact)
    feeds = {"u": first.numpy(), "a_u": first.numpy(), "carry": np.zeros((1, 1, 1, 1), np.float32), "v": second.numpy()}
    ours = run(rounded(step), feeds)
    reference = run(step, feeds)
    # PyTorch rounds the sum of picture and residual as well, so it is worse, but not in another league.
    assert theirs <= psnr(ours[2], reference[2]) <= theirs + 35


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_recursion_agrees_with_fp32_to_the_published_limit(step: onnx.ModelProto, precision: str) -> None:
    graph = to_half(step) if precision == "fp16" else with_opset(simplified(step), 17)
    figures = check_step(step, step, graph, Plan(precision))
    assert set(figures.psnr) == {"f", "f2", "f3"}
    assert figures.worst >= MIN_PSNR[precision]


def test_the_check_notices_another_network(step: onnx.ModelProto) -> None:
    other = simplified(step)
    for tensor in other.graph.initializer:
        if tensor.name.endswith("head.weight"):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    with pytest.raises(ModelError, match="too far from fp32"):
        check_step(step, step, other, Plan("fp32"))


def test_activations_beyond_fp16_are_noticed() -> None:
    """Features that overflow between two convolutions: run on a CPU the graph looks right."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.uniform(0, 1e4, (32, 32, 1, 1)), "w2": rng.uniform(0, 1e-4, (32, 32, 1, 1)) / 512}
    conv = {"kernel_shape": [1, 1]}
    nodes = [helper.make_node("Conv", ["x", "w1"], ["a"], **conv), helper.make_node("Conv", ["a", "w2"], ["y"], **conv)]
    shape = [1, 32, 4, 4]
    constants = {name: value.astype(np.float32) for name, value in weights.items()}
    model = small(nodes, {"x": shape}, {"y": shape}, constants, 17)
    x = rng.random(shape, np.float32)
    reference = run(model, {"x": x})[0]
    assert psnr(run(to_half(model), {"x": x})[0], reference) > 40
    assert psnr(run(rounded(model), {"x": x})[0], reference) == float("-inf")


def test_a_weight_beyond_fp16_is_refused() -> None:
    weight = np.full((32, 32, 1, 1), 1e5, np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])
    model = small([node], {"x": [1, 32, 4, 4]}, {"y": [1, 32, 4, 4]}, {"w": weight}, 17)
    with pytest.raises(ModelError, match="weight w has values beyond fp16"):
        to_half(model)


def test_sampling_grids_stay_in_single_precision() -> None:
    """Between two convolutions, yet half precision would lose the columns of a wide picture."""
    rng = np.random.default_rng(0)
    width = 3000
    weights = {name: rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12 for name in ("w1", "w2")}
    weights["shift"] = np.array(1e-4, np.float32)
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], **conv),
        helper.make_node("Add", ["grid", "shift"], ["moved"]),
        helper.make_node("GridSample", ["a", "moved"], ["b"], align_corners=0),
        helper.make_node("Conv", ["b", "w2"], ["y"], **conv),
    ]
    shape = [1, 16, 4, width]
    model = small(nodes, {"x": shape, "grid": [1, 4, width, 2]}, {"y": shape}, weights, 18)
    half = to_half(model)
    sampled = next(node for node in half.graph.node if node.op_type == "GridSample")
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(half).graph.value_info}
    assert types[sampled.output[0]] == types["moved"] == TensorProto.FLOAT
    x = (np.arange(width) + 0.5) * 2 / width - 1
    y = (np.arange(4) + 0.5) / 2 - 1
    grid = np.stack(np.meshgrid(x, y), -1)[None].astype(np.float32)
    picture = rng.random(shape, np.float32)
    found, reference = (run(m, {"x": picture, "grid": grid})[0] for m in (rounded(model), model))
    assert psnr(found, reference) > 55


def quantised_model(scale: float = 0.02) -> onnx.ModelProto:
    """Two convolutions with Q/DQ on the inputs and weights of the second, as INT8 graphs have them."""
    rng = np.random.default_rng(0)
    constants = {name: (rng.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32) for name in ("w1", "w2")}
    constants["s"] = np.array(scale, np.float32)
    constants["z"] = np.array(0, np.int8)
    constants["ws"] = np.abs(constants["w2"]).max((1, 2, 3)) / np.float32(127)
    constants["ws"][3] = 1e-9  # a dead channel
    constants["wz"] = np.zeros(16, np.int8)
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], **conv),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("QuantizeLinear", ["w2", "ws", "wz"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"], **conv),
    ]
    return small(nodes, {"x": [1, 16, 8, 8]}, {"y": [1, 16, 8, 8]}, constants, 17)


def test_a_quantised_graph_becomes_strongly_typed_with_fp16_scales() -> None:
    model = quantised_model()
    half = to_half(model)
    assert half.opset_import[0].version == 19  # the first that allows fp16 scales
    assert kinds(half).count("QuantizeLinear") == kinds(half).count("DequantizeLinear") == 2
    assert kinds(half).count("Cast") == 2
    constants = initializers(half)
    scales = [n.input[1] for n in half.graph.node if "uantizeLinear" in n.op_type]
    for name in scales:
        values = numpy_helper.to_array(constants[name])
        assert values.dtype == np.float16
        assert (values >= SMALLEST_NORMAL).all()  # TensorRT refuses a scale of 0
    x = np.random.default_rng(1).random((1, 16, 8, 8), np.float32)
    found, reference = run(half, {"x": x})[0], run(model, {"x": x})[0]
    live = [c for c in range(16) if c != 3]
    assert psnr(found[:, live], reference[:, live]) > 45


def test_quantised_weights_are_not_folded_away() -> None:
    assert kinds(simplified(quantised_model())).count("QuantizeLinear") == 2


def test_levels_of_the_check_are_the_recursion(step: onnx.ModelProto) -> None:
    """N frames give 2 (N - 1) outputs at f and twice as many less what is held back at each further level."""
    counts = [len(outputs) for outputs in run_levels(step, [f[..., :32, :32] for f in demo_frames(3)])]
    assert counts == [4, 6, 10]
