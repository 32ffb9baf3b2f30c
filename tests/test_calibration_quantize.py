"""Quantised graphs: where Q and DQ stand, counted, and what the graphs compute."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from vtsr.calibration.layers import blocks, find_layers, model_hash, quantised_layers  # noqa: E402
from vtsr.calibration.quantize import SMALLEST_SCALE, quantize, quantize_for_cpu  # noqa: E402
from vtsr.calibration.ranges import CODES, Histogram, Ranges  # noqa: E402
from vtsr.errors import InputError, ModelError, OptionError  # noqa: E402

SIZE = 16  # pixels, each way


class Net:
    """A graph of the shapes that occur: residual blocks, a resized branch, a Concat, a depthwise block."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def conv(
        self, name: str, source: str, outputs: int, inputs: int, size: int = 3, stride: int = 1, group: int = 1
    ) -> str:
        weight = self.rng.normal(0, 1 / np.sqrt(inputs * size**2), (outputs, inputs, size, size)).astype(np.float32)
        bias = self.rng.normal(0, 0.1, outputs).astype(np.float32)
        self.constants += [
            numpy_helper.from_array(weight, f"{name}.weight"), numpy_helper.from_array(bias, f"{name}.bias"),
        ]  # fmt: skip
        options = {"strides": [stride, stride], "pads": [size // 2] * 4, "group": group, "kernel_shape": [size, size]}
        inputs_ = [source, f"{name}.weight", f"{name}.bias"]
        self.nodes.append(helper.make_node("Conv", inputs_, [name], name=name, **options))
        return name

    def op(self, kind: str, inputs: list[str], output: str, **options: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **options))
        return output

    def model(self, opset: int = 18) -> Any:
        x = self.conv("stem", "x", 16, 8)
        r0 = self.op("Relu", [x], "r0")
        r1 = self.op("Relu", [self.conv("conv1", r0, 16, 16)], "r1")
        a1 = self.op("Add", [r0, self.conv("conv2", r1, 16, 16)], "a1")
        r2 = self.op("Relu", [self.conv("down", a1, 32, 16, stride=2)], "r2")
        self.constants.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "sizes"))
        up = self.op("Resize", [self.conv("up", r2, 16, 32, size=1), "", "sizes"], "resized", mode="nearest",
                     coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
        r3 = self.op("Relu", [self.op("Add", [up, a1], "a2")], "r3")
        joined = self.op("Concat", [r3, a1], "joined", axis=1)
        r4 = self.op("Relu", [self.conv("expand", joined, 32, 32, size=1)], "r4")
        self.constants += [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
        r5 = self.op("Clip", [self.conv("depthwise", r4, 32, 1, group=32), "zero", "six"], "r5")
        self.conv("project", r5, 16, 32, size=1)
        self.conv("head", "project", 8, 16)
        self.op("Abs", ["head"], "y")
        graph = helper.make_graph(
            self.nodes, "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, SIZE, SIZE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, SIZE, SIZE])],
            self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


LAYERS = ["conv1", "conv2", "down", "up", "expand", "depthwise", "project"]


@pytest.fixture(scope="module")
def model() -> Any:
    return Net().model()


@pytest.fixture(scope="module")
def feed() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (1, 8, SIZE, SIZE)).astype(np.float32)


def run(graph: Any, feed: np.ndarray, extra: list[str] | None = None, optimise: bool = False) -> list[np.ndarray]:
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    outputs = [value.name for value in graph.graph.output]
    for name in extra or []:
        graph.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(outputs + (extra or []), {"x": feed}))


@pytest.fixture(scope="module")
def ranges(model: Any, feed: np.ndarray) -> Ranges:
    sources = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Conv"}
    results = {name: name for name in LAYERS} | {"conv1": "r1", "down": "r2", "expand": "r4", "depthwise": "r5"}
    tensors = {name: sources[name] for name in LAYERS} | {f"{name}:out": results[name] for name in LAYERS}
    names = sorted(set(tensors.values()))
    values = dict(zip(names, run(model, feed, names)[1:], strict=True))
    histograms = {name: Histogram.of(values[tensor]) for name, tensor in tensors.items()}
    return Ranges(model_hash(model), {1: histograms}, "minmax")


def pairs(graph: Any) -> dict[str, Any]:
    """Quantised tensor -> its QuantizeLinear; checks that one DequantizeLinear follows with the same parameters."""
    found = {}
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear":
            readers = [n for n in graph.graph.node if node.output[0] in n.input]
            assert [n.op_type for n in readers] == ["DequantizeLinear"]
            assert list(readers[0].input[1:]) == list(node.input[1:])
            assert len(node.input) == 3  # TensorRT 8.5 demands the zero point
            assert node.input[0] not in found
            found[node.input[0]] = node
    return found


def constant(graph: Any, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in graph.graph.initializer if t.name == name))


def test_the_first_convolution_and_the_head_are_no_layers(model: Any) -> None:
    assert [layer.name for layer in find_layers(model)] == LAYERS


def test_what_sees_the_picture_again_or_says_where_to_sample_it_is_no_layer() -> None:
    net = Net()
    features = net.op("Relu", [net.conv("stem", "x", 16, 8)], "r0")
    inner = net.op("Relu", [net.conv("inner", features, 16, 16)], "r1")
    # A flow for every position, in the layout of a sampling grid; how far it goes does not matter here.
    bounded = net.op("Tanh", [net.conv("flow", inner, 2, 16, size=5)], "bounded")
    flow = net.op("Transpose", [bounded], "grid", perm=[0, 2, 3, 1])
    moved = net.op("GridSample", ["x", flow], "moved", align_corners=0)
    seen = net.op("Concat", ["x", moved], "seen", axis=1)
    again = net.op("Relu", [net.op("Add", [net.conv("again", seen, 16, 16), inner], "sum")], "r2")
    last = net.op("Relu", [net.conv("late", again, 16, 16)], "r3")
    net.op("Abs", [net.conv("head", last, 8, 16)], "y")
    shape = [1, 8, SIZE, SIZE]
    graph = helper.make_graph(
        net.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], net.constants,
    )  # fmt: skip
    found = find_layers(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    assert [layer.name for layer in found] == ["inner", "late"]


def test_pairs_stand_on_inputs_and_weights_of_convolutions_and_nowhere_else(model: Any, ranges: Ranges) -> None:
    graph = quantize(model, ranges)
    activations = {"r0", "r1", "a1", "r2", "joined", "r4", "r5"}
    weights = {f"{name}.weight" for name in LAYERS}
    assert set(pairs(graph)) == activations | weights
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == len(activations) + len(weights)
    for node in graph.graph.node:
        inputs = set(node.input)
        if node.name in LAYERS:
            assert all(name.endswith(".dq") for name in node.input[:2])
            assert node.input[2] == f"{node.name}.bias"  # biases stay as they are
        elif node.name in ("stem", "head", "resized", "joined", "r3"):
            assert not any(name.endswith(".dq") for name in inputs)


def test_additions_read_their_skip_branch_quantised_and_the_other_one_not(model: Any, ranges: Ranges) -> None:
    graph = quantize(model, ranges)
    reads = {node.name: set(node.input) for node in graph.graph.node}
    assert reads["a1"] == {"r0.dq", "conv2"}
    assert reads["a2"] == {"resized", "a1.dq"}


def test_onnxruntimes_own_tool_places_otherwise(model: Any, feed: np.ndarray, tmp_path: Path) -> None:
    """Why there is an inserter here: theirs quantises biases, outputs, and both inputs of additions."""
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": feed}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    onnx.save(model, tmp_path / "in.onnx")
    quantization.quantize_static(
        str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), Reader(), per_channel=True,
        extra_options={"ActivationSymmetric": True},
    )  # fmt: skip
    theirs = onnx.load(tmp_path / "out.onnx")
    additions = [node for node in theirs.graph.node if node.op_type == "Add"]
    assert any(all("Dequantize" in name for name in node.input) for node in additions)
    assert any(t.data_type == TensorProto.INT32 and t.dims for t in theirs.graph.initializer)


def test_activations_are_per_tensor_and_weights_per_output_channel_without_zero_points(
    model: Any, ranges: Ranges
) -> None:
    graph = quantize(model, ranges)
    for tensor, node in pairs(graph).items():
        scale, zero = constant(graph, node.input[1]), constant(graph, node.input[2])
        assert zero.dtype == np.int8
        assert not zero.any()
        assert scale.shape == zero.shape
        axis = [a.i for a in node.attribute if a.name == "axis"]
        if tensor.endswith(".weight"):
            weight = constant(graph, tensor)
            assert axis == [0]
            assert np.allclose(scale, np.abs(weight).max(axis=(1, 2, 3)) / CODES)
        else:
            assert scale.shape == ()
            assert not axis
    assert constant(graph, "r1.scale") == np.float32(ranges.range("conv2") / CODES)


def test_a_concat_and_what_it_joins_share_the_larger_scale(model: Any, ranges: Ranges) -> None:
    graph = quantize(model, ranges)
    own = {name: ranges.range(layer) / CODES for name, layer in (("a1", "down"), ("joined", "expand"))}
    assert constant(graph, "a1.scale") == constant(graph, "joined.scale") == np.float32(max(own.values()))


def test_a_depthwise_convolution_is_quantised_with_its_neighbours_or_not_at_all(model: Any, ranges: Ranges) -> None:
    block = ("expand", "depthwise", "project")
    assert blocks(find_layers(model)) == [("conv1",), ("conv2",), ("down",), ("up",), block]
    for kept in block:
        graph = quantize(model, ranges, keep_float=[kept])
        assert {n for n in pairs(graph) if n.endswith(".weight")} == {f"{n}.weight" for n in LAYERS[:4]}
        assert "joined" not in pairs(graph)


def test_layers_kept_float_by_the_ranges_and_by_the_caller_add_up(model: Any, ranges: Ranges) -> None:
    graph = quantize(model, replace(ranges, keep_float=("conv2",)), keep_float=["down"])
    assert {"conv2.weight", "down.weight", "a1", "r1"}.isdisjoint(pairs(graph))
    # Nothing fuses with an addition whose convolution is float, so its skip stays float too.
    assert next(set(n.input) for n in graph.graph.node if n.name == "a1") == {"r0", "conv2"}


def test_unknown_layers_and_all_layers_are_refused(model: Any, ranges: Ranges) -> None:
    with pytest.raises(OptionError, match="no layer 'nose'"):
        quantize(model, ranges, keep_float=["nose"])
    with pytest.raises(OptionError, match="Every layer"):
        quantised_layers(find_layers(model), LAYERS)
    with pytest.raises(OptionError, match="type of scales"):
        quantize(model, ranges, scale_type="int4")


def test_scales_stay_normal_numbers_of_half_precision(model: Any, ranges: Ranges) -> None:
    dead = onnx.ModelProto.FromString(model.SerializeToString())
    weight = next(t for t in dead.graph.initializer if t.name == "conv2.weight")
    values = numpy_helper.to_array(weight).copy()
    values[3] = 1e-9
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    tensors = {**ranges.levels[1], "conv2": Histogram.of(np.array([1e-6], np.float32))}
    graph = quantize(dead, replace(ranges, model=model_hash(dead), levels={1: tensors}))
    assert constant(graph, "r1.scale") == np.float32(SMALLEST_SCALE)
    assert constant(graph, "conv2.weight.scale").min() == np.float32(SMALLEST_SCALE)
    assert np.float16(SMALLEST_SCALE) == np.finfo(np.float16).smallest_normal


def test_one_layer_computes_what_rounding_to_codes_gives() -> None:
    """A 1x1 convolution between two others, against NumPy."""
    net = Net()
    net.conv("stem", "x", 16, 8, size=1)
    net.conv("middle", "stem", 40, 16, size=1)
    net.conv("head", "middle", 8, 40, size=1)
    shape = [1, 8, SIZE, SIZE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "head")]
    graph = helper.make_graph(net.nodes, "net", ends[:1], ends[1:], net.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = np.random.default_rng(2).normal(0, 1, shape).astype(np.float32)
    before, after = run(model, feed, ["stem", "middle"])[1:]
    limit = np.float32(0.6 * np.abs(before).max())  # some values saturate
    tensors = {"middle": Histogram.of(np.array([limit])), "middle:out": Histogram.of(after)}
    ranges = Ranges(model_hash(model), {1: tensors}, "minmax")

    def coded(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
        return np.clip(np.rint(values / scale), -128, 127) * scale

    weight, bias = (constant(model, f"middle.{part}").astype(np.float64) for part in ("weight", "bias"))
    scales = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    product = np.einsum("oi,nihw->nohw", coded(weight, scales)[:, :, 0, 0], coded(before, limit / 127))
    expected = product + bias[:, None, None]
    found = run(quantize(model, ranges), feed, ["middle"])[1]
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - after).max() > 0.05  # saturation is seen


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Noise against signal in dB."""
    return float(10 * np.log10(np.mean((a - b) ** 2) / np.mean(b**2)))


def test_the_quantised_graph_is_near_the_float_one(model: Any, ranges: Ranges, feed: np.ndarray) -> None:
    expected = run(model, feed)[0]
    assert -60 < distance(run(quantize(model, ranges), feed)[0], expected) < -30


def test_the_strongly_typed_flavour_has_half_scales_and_the_same_places(
    model: Any, ranges: Ranges, feed: np.ndarray
) -> None:
    graph = quantize(model, ranges, scale_type="fp16")
    assert graph.opset_import[0].version == 19
    assert len(pairs(graph)) == len(pairs(quantize(model, ranges)))
    for node in pairs(graph).values():
        scale = constant(graph, node.input[1])
        assert scale.dtype == np.float16
        assert (scale >= np.finfo(np.float16).smallest_normal).all()
    assert distance(run(graph, feed)[0], run(quantize(model, ranges), feed)[0]) < -30


def test_the_graph_for_old_tensorrt_stays_in_its_opset_and_in_single_precision(ranges: Ranges) -> None:
    graph = quantize(Net().model(opset=17), ranges)
    assert graph.opset_import[0].version == 17
    assert not any(t.data_type == TensorProto.FLOAT16 for t in graph.graph.initializer)


def test_the_graph_for_cpus_runs_on_integer_kernels(
    model: Any, ranges: Ranges, feed: np.ndarray, tmp_path: Path
) -> None:
    graph = quantize_for_cpu(model, ranges)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == len(LAYERS)
    assert kinds["QLinearAdd"] == 1  # the other addition goes into a Concat, which is quantised as a whole
    assert kinds["Conv"] + kinds["FusedConv"] == 2  # stem and head
    expected = run(model, feed)[0]
    assert -60 < distance(run(graph, feed, optimise=True)[0], expected) < -28


def test_the_graph_for_tensorrt_does_not(model: Any, ranges: Ranges, tmp_path: Path) -> None:
    """Why CPUs need a graph of their own: without quantised outputs nothing runs in integers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        quantize(model, ranges).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 0


def test_weights_for_cpus_are_stored_as_bytes(model: Any, ranges: Ranges) -> None:
    graph = quantize_for_cpu(model, ranges)
    stored = {t.name: t for t in graph.graph.initializer}
    for name in LAYERS:
        codes = numpy_helper.to_array(stored[f"{name}.weight.q"])
        scale = numpy_helper.to_array(stored[f"{name}.weight.scale"]).reshape(-1, 1, 1, 1)
        assert codes.dtype == np.int8
        assert np.abs(codes.astype(int)).max() == CODES
        assert np.abs(codes * scale - constant(model, f"{name}.weight")).max() <= scale.max() / 2 * 1.001
        assert f"{name}.weight" not in stored


def test_half_stored_weights_give_the_same_graph(model: Any, ranges: Ranges, feed: np.ndarray) -> None:
    model_module = pytest.importorskip("vtsr.export.model")
    rounded = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in rounded.graph.initializer:
        if tensor.name.endswith(".weight"):
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    half = onnx.ModelProto.FromString(rounded.SerializeToString())
    model_module.store_half(half)
    assert model_hash(half) == model_hash(rounded) == model_hash(model)
    assert np.array_equal(run(quantize(half, ranges), feed)[0], run(quantize(rounded, ranges), feed)[0])


def test_ranges_of_another_model_are_refused(model: Any, ranges: Ranges) -> None:
    other = onnx.ModelProto.FromString(model.SerializeToString())
    weight = next(t for t in other.graph.initializer if t.name == "up.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
    for make in (quantize, quantize_for_cpu):
        with pytest.raises(ModelError, match="another model"):
            make(other, ranges)


def test_ranges_without_a_layer_or_with_a_dead_one_are_refused(model: Any, ranges: Ranges) -> None:
    tensors = dict(ranges.levels[1])
    del tensors["up"]
    with pytest.raises(InputError, match="'up'"):
        quantize(model, replace(ranges, levels={1: tensors}))
    tensors["up"] = Histogram.of(np.zeros(3, np.float32))
    with pytest.raises(InputError, match="always zero"):
        quantize(model, replace(ranges, levels={1: tensors}))


def test_the_given_model_is_not_changed(model: Any, ranges: Ranges) -> None:
    before = model.SerializeToString()
    quantize(model, ranges, scale_type="fp16")
    quantize_for_cpu(model, ranges)
    assert model.SerializeToString() == before
