"""A network to a model folder: graphs, manifest, and a numeric check against PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import vtsr
from vtsr.errors import ModelError
from vtsr.export.folder import write_folder
from vtsr.export.pixels import SAMPLE_TYPES, SAMPLINGS, emit_graph, ingest_graph
from vtsr.export.step import FINISH_INPUTS, FINISH_OUTPUTS, STEP_INPUTS, STEP_OUTPUTS, Finish, Step
from vtsr.runtime.models import FORMAT, MANIFEST_NAME
from vtsr.training.network import PAD_MULTIPLE, multiply_adds_per_pixel

OPSET = 18
MAX_DIFFERENCE = 1e-4  # largest accepted difference between PyTorch and ONNX Runtime, in [0, 1] units
CHECK_SHAPES = ((1, 64, 96), (3, 96, 32), (2, 32, 160))  # batch, height, width
HALF_STORED_ELEMENTS = 1024  # initialisers of at least this size may be stored in half precision


def _dim(name: str, low: int, high: int) -> Any:
    return torch.export.Dim(name, min=low, max=high)


def _to_onnx(module: nn.Module, args: tuple[torch.Tensor, ...], shapes: Any, names: Any) -> onnx.ModelProto:
    inputs, outputs = names
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            args,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name = "vtsr"
    del model.metadata_props[:]
    for node in model.graph.node:  # stack traces of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def step_graph(network: nn.Module, consistency: bool = True) -> onnx.ModelProto:
    """The step graph with dynamic batch, height and width, fp32. See `vtsr.export.step.Step`."""
    state = torch.rand(1, 3, 2 * PAD_MULTIPLE, 3 * PAD_MULTIPLE)
    frames = torch.rand(3, *state.shape[1:])
    height, width = (PAD_MULTIPLE * _dim(name, 1, 512) for name in ("rows", "columns"))
    spatial = {2: height, 3: width}
    shapes: Any = (spatial, spatial, {}, {0: _dim("batch", 1, 1024), **spatial})
    args = (state, torch.rand_like(state), torch.ones(1, 1, 1, 1), frames)
    return _to_onnx(Step(network, consistency), args, shapes, (STEP_INPUTS, STEP_OUTPUTS))


def finish_graph() -> onnx.ModelProto:
    """The graph that ends a stream. See `vtsr.export.step.Finish`."""
    state = torch.rand(1, 3, 2 * PAD_MULTIPLE, 3 * PAD_MULTIPLE)
    spatial = {2: _dim("height", 1, 65536), 3: _dim("width", 1, 65536)}
    return _to_onnx(Finish(), (state, torch.rand_like(state)), (spatial, spatial), (FINISH_INPUTS, FINISH_OUTPUTS))


def store_half(model: onnx.ModelProto) -> None:
    """Stores large weights as float16 with a Cast behind each, in place: half the file, fp32 arithmetic.

    ONNX Runtime folds the casts when it loads the graph. Exact when the weights are float16 values.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < HALF_STORED_ELEMENTS:
            continue
        name, stored = tensor.name, tensor.name + ".half"
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=name + ".cast", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.checker.check_model(model, full_check=True)


def compare_with_torch(network: nn.Module, model: bytes, consistency: bool = True) -> float:
    """Largest absolute difference between the step graph in ONNX Runtime and the module in PyTorch."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    step = Step(network, consistency).eval()
    worst = 0.0
    for batch, height, width in CHECK_SHAPES:
        for carry in (0.0, 1.0):
            state = [torch.rand(1, 3, height, width, generator=generator) for _ in range(2)]
            frames = torch.rand(batch, 3, height, width, generator=generator)
            args = (*state, torch.full((1, 1, 1, 1), carry), frames)
            with torch.inference_mode():
                expected = step(*args)
            feeds = {name: value.numpy() for name, value in zip(STEP_INPUTS, args, strict=True)}
            for value, reference in zip(session.run(None, feeds), expected, strict=True):
                worst = max(worst, float(np.abs(value - reference.numpy()).max()))
    return worst


def export_model(
    network: nn.Module,
    folder: Path,
    name: str,
    facts: dict[str, Any] | None = None,
    *,
    consistency: bool = True,
    half_stored: bool = False,
) -> dict[str, Any]:
    """Writes the model folder of ``network`` (fp32 arithmetic) and returns its manifest.

    Parameters
    ----------
    facts
        Anything JSON can hold that belongs to the model, such as a training summary.
    consistency
        Whether the exposure law is part of the step graph.
    half_stored
        Store weights as float16; the network's own weights are rounded first, so that the check is exact.

    The folder appears, or is replaced, when it is complete and checked. Raises `ModelError` if ONNX
    Runtime and PyTorch differ by more than `MAX_DIFFERENCE`.
    """
    network = network.eval()
    if half_stored:
        network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    step = step_graph(network, consistency)
    if half_stored:
        store_half(step)
    graphs = {"step.onnx": step, "finish.onnx": finish_graph()}
    for sampling in SAMPLINGS:
        for kind in SAMPLE_TYPES:
            graphs[f"ingest_{sampling}_{kind}.onnx"] = ingest_graph(sampling, kind)
            graphs[f"emit_{sampling}_{kind}.onnx"] = emit_graph(sampling, kind)
    files = {file_name: graph.SerializeToString() for file_name, graph in graphs.items()}
    difference = compare_with_torch(network, files["step.onnx"], consistency)
    if difference > MAX_DIFFERENCE:
        raise ModelError(f"ONNX Runtime and PyTorch differ by {difference:.2e}; the model was not exported.")
    manifest = {
        "format": FORMAT,
        "name": name,
        "precision": "fp32",
        "consistency": consistency,
        "opset": OPSET,
        "vtsr": vtsr.__version__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiply_adds_per_pixel": round(multiply_adds_per_pixel(network)),
        "check": {"against": f"PyTorch {torch.__version__}", "max_abs_difference": difference},
        "facts": facts or {},
        "files": {n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)} for n, d in sorted(files.items())},
    }
    files[MANIFEST_NAME] = (json.dumps(manifest, indent=1) + "\n").encode()
    write_folder(folder, files)
    return manifest
