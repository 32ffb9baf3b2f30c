"""Runs the engine code against the real bindings of one TensorRT version; prints what happened as JSON.

    LD_LIBRARY_PATH=STANDINS python exercise.py BINDINGS

Objects that only a GPU can make (builder, network, engine, context) are doubles, see `doubles`.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import tempfile
import types
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from doubles import double as double_of
from doubles import import_bindings, sentence, wrong_calls

trt = import_bindings(sys.argv[1])
double = partial(double_of, trt)

from vtsr.runtime.engines import builder, engine, layers, messages, progress  # noqa: E402
from vtsr.runtime.engines.request import BuildSettings, EngineRequest  # noqa: E402

SHAPE = (1, 3, 32, 64)


def fake_builder(*, dynamic: bool, fails: bool = False) -> dict[str, Any]:
    shape = (-1, 3, -1, -1) if dynamic else SHAPE
    tensor = double("ITensor", shape=shape, dtype=trt.DataType.FLOAT)
    tensor.name = "u"
    layer = double("ILayer", num_outputs=1)
    layer.name = "head"
    layer.get_output.return_value = tensor
    network = double("INetworkDefinition", num_inputs=1, num_layers=1)
    network.get_input.return_value = tensor
    network.get_layer.return_value = layer
    config = double("IBuilderConfig")
    config.add_optimization_profile.return_value = 0
    config.set_timing_cache.return_value = True
    timings = double("ITimingCache")
    timings.serialize.return_value = b"timings"
    config.get_timing_cache.return_value = timings
    config.create_timing_cache.return_value = timings
    profile = double("IOptimizationProfile")
    made = double("Builder")
    made.create_network.return_value = network
    made.create_builder_config.return_value = config
    made.create_optimization_profile.return_value = profile
    made.build_serialized_network.return_value = None if fails else b"plan"
    parser = double("OnnxParser", num_errors=0)
    parser.parse.return_value = True
    return {"builder": made, "network": network, "config": config, "profile": profile, "parser": parser,
            "layer": layer, "timings": timings}  # fmt: skip


def with_doubles(parts: dict[str, Any]) -> Any:
    """The real module, but for the classes that need a GPU."""
    module = types.SimpleNamespace(**{name: getattr(trt, name) for name in dir(trt) if not name.startswith("__")})
    module.Builder = lambda logger: parts["builder"]
    module.OnnxParser = lambda network, logger: parts["parser"]
    return module


def request(precision: str, *, dynamic: bool) -> EngineRequest:
    smallest = (1, 3, 32, 32) if dynamic else SHAPE
    strong = builder.has_strong_typing(trt)
    settings = BuildSettings(optimization_level=3)
    return EngineRequest("test", b"onnx", precision, strong, {"u": (smallest, SHAPE, SHAPE)}, ("head",), settings)


def build(precision: str, *, dynamic: bool) -> dict[str, Any]:
    parts = fake_builder(dynamic=dynamic)
    module = with_doubles(parts)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(builder, "import_tensorrt", return_value=module):
        path = Path(folder) / "timing.cache"
        path.write_bytes(b"old")
        built = builder.build_engine(request(precision, dynamic=dynamic), path, progress=False)
        kept = path.read_bytes().decode()
    config, network = parts["config"], parts["builder"].create_network.call_args[0][0]
    sources = config.set_tactic_sources.call_args[0][0]
    return {
        "plan": built.plan.decode(),
        "network_flags": network,
        "strong_bit": bool(network >> int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1)
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        else None,
        "flags": sorted(call[0][0].name for call in config.set_flag.call_args_list),
        "cleared": sorted(call[0][0].name for call in config.clear_flag.call_args_list),
        "sources": sorted(name for name, bit in trt.TacticSource.__members__.items() if sources >> int(bit) & 1),
        "profile": str(parts["profile"].set_shape.call_args),
        "held": parts["layer"].set_output_type.called if hasattr(parts["layer"], "set_output_type") else False,
        "timings": kept,
        "wrong_calls": wrong_calls(*parts.values()),
    }


def refusal() -> str:
    """The error of a build that fails, with what the builder said."""
    parts = fake_builder(dynamic=False, fails=True)

    def fail(network: Any, config: Any) -> None:
        messages.process_logger(module).log(trt.ILogger.ERROR, "Could not find any implementation for node X.")

    parts["builder"].build_serialized_network.side_effect = fail
    module = with_doubles(parts)
    with mock.patch.object(builder, "import_tensorrt", return_value=module):
        return sentence(lambda: builder.build_engine(request("fp32", dynamic=False), progress=False))


def unreadable_graph() -> str:
    """The error of a graph that the parser refuses."""
    parts = fake_builder(dynamic=False)
    error = double("ParserError")
    error.desc.return_value = "no importer for Frobnicate"
    error.node.return_value = 3
    if hasattr(error, "node_name"):
        error.node_name.return_value = "frob_1"
    parts["parser"].parse.return_value = False
    parts["parser"].num_errors = 1
    parts["parser"].get_error.return_value = error
    with mock.patch.object(builder, "import_tensorrt", return_value=with_doubles(parts)):
        return sentence(lambda: builder.build_engine(request("fp32", dynamic=False), progress=False))


def run_engine() -> dict[str, Any]:
    """The runner on an engine with one input and one output."""
    modes = {"u": trt.TensorIOMode.INPUT, "halves": trt.TensorIOMode.OUTPUT}
    made = double("ICudaEngine", num_io_tensors=2)
    made.get_tensor_name.side_effect = list(modes)
    made.get_tensor_mode.side_effect = modes.get
    made.get_tensor_dtype.return_value = trt.DataType.HALF
    context = double("IExecutionContext")
    context.set_input_shape.return_value = True
    context.get_tensor_shape.return_value = SHAPE
    context.execute_async_v3.return_value = True
    made.create_execution_context.return_value = context
    inspector = double("EngineInspector")
    inspector.get_engine_information.return_value = '{"Layers": [{"Name": "conv"}]}'
    made.create_engine_inspector.return_value = inspector
    cuda = mock.MagicMock()
    cuda.mem_alloc.return_value = mock.MagicMock(__int__=lambda self: 4096)
    cuda.Event.return_value.time_since.return_value = 1.5
    runner = engine.Runner(made, cuda, {"u": SHAPE})
    outputs = runner.run({"u": np.zeros(SHAPE)})
    runner.layer_times(calls=1)
    found = {
        "dtype": str(outputs["halves"].dtype),
        "ms": runner.milliseconds(3),
        "layers": layers.layer_names(trt, made),
        "wrong_calls": wrong_calls(made, context, inspector),
    }
    runner.close()
    return found


def callbacks() -> dict[str, Any]:
    """Subclasses of the real interface classes take the calls that TensorRT makes."""
    logger = messages.make_logger(trt)
    for severity in ("ERROR", "WARNING", "INFO"):
        logger.log(getattr(trt.ILogger, severity), severity.lower())
    profiler = engine.make_profiler(trt)
    profiler.report_layer_time("conv", 0.5)
    found: dict[str, Any] = {"logged": logger.messages, "profiled": profiler.total}
    if hasattr(trt, "IProgressMonitor"):
        monitor = progress.make_progress_monitor(trt, "engine")
        monitor.phase_start("building", None, 2)
        found["goes_on"] = monitor.step_complete("building", 0)
        monitor.phase_finish("building")
    return found


def traps() -> dict[str, bool]:
    """Whether the checks of this file notice a mistake."""
    config = double("IBuilderConfig")
    config.set_flag()  # takes a flag
    try:
        _ = config.set_int8_calibration_magic
        unknown_attribute = False
    except AttributeError:
        unknown_attribute = True
    return {"call": bool(wrong_calls(config)), "attribute": unknown_attribute}


def unknown_names() -> list[str]:
    """Chains such as ``trt.MemoryPoolType.WORKSPACE`` in the engine code that this version does not have."""
    missing = []
    for module in (builder, engine, layers, messages, progress):
        tree = ast.parse(inspect.getsource(module))
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "hasattr"]
        guarded = {call.args[1].value for call in calls if isinstance(call.args[1], ast.Constant)}
        for node in ast.walk(tree):
            chain: list[str] = []
            part: ast.AST = node
            while isinstance(part, ast.Attribute):
                chain.insert(0, part.attr)
                part = part.value
            if not chain or not isinstance(part, ast.Name) or part.id != "trt" or chain[0] in guarded:
                continue
            seen.add(".".join(chain))
            target = trt
            for name in chain:
                if not hasattr(target, name):
                    missing.append(f"{module.__name__}: trt.{'.'.join(chain)}")
                    break
                target = getattr(target, name)
    return missing


seen: set[str] = set()
results = {
    "version": trt.__version__,
    "unknown_names": unknown_names(),
    "names_checked": sorted(seen),
    "builds": {p: build(p, dynamic=False) for p in ("fp32", "fp16", "int8")},
    "dynamic": build("fp16", dynamic=True),
    "refusal": refusal(),
    "unreadable_graph": unreadable_graph(),
    "engine": run_engine(),
    "callbacks": callbacks(),
    "traps": traps(),
    # Here the real classes over the stand-ins, which give what the real library gives without a driver.
    "no_gpu_build": sentence(lambda: builder.build_engine(request("fp32", dynamic=False), progress=False)),
    "no_gpu_load": sentence(lambda: engine.load_engine(b"plan")),
}
print(json.dumps(results))
