"""ONNX to a TensorRT engine, on TensorRT 8.5, 8.6, 10 and 11.

Versions are told apart by what they have, never by their number: flags that are gone, features that came
later. `tests/test_engine_api.py` checks every name used here against the real bindings of each version.
Precision is the graph's business; only where TensorRT has no strong typing (8.x) flags let it choose.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtsr.errors import ModelError, VtsrError
from vtsr.runtime.engines.cache import Built, write_atomically
from vtsr.runtime.engines.messages import explain, process_logger
from vtsr.runtime.engines.platform import import_tensorrt
from vtsr.runtime.engines.progress import shown_progress
from vtsr.runtime.engines.request import EngineRequest

EXTERNAL_LIBRARIES = ("CUBLAS", "CUBLAS_LT", "CUDNN")  # tactics that need libraries we do not ask for
NO_EXTERNAL_CORE = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"


def members(enumeration: Any) -> dict[str, Any]:
    """Names and values of a TensorRT enumeration."""
    return dict(enumeration.__members__)


def has_strong_typing(trt: Any) -> bool:
    """Whether graphs state their types themselves (10 and later) or the builder chooses (8.x)."""
    return "STRONGLY_TYPED" in members(trt.NetworkDefinitionCreationFlag)


def network_flags(trt: Any) -> int:
    """Creation flags of a network: explicit batch where that is still a choice, strong typing where there is."""
    flags = members(trt.NetworkDefinitionCreationFlag)
    wanted = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    return sum(1 << int(flags[name]) for name in wanted if name in flags)


def precision_flags(trt: Any, precision: str) -> list[str]:
    """Names of the builder flags that let TensorRT 8.x use a precision; none where graphs are strongly typed."""
    if has_strong_typing(trt):
        return []
    names = {"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}[precision]
    return [*names, "PREFER_PRECISION_CONSTRAINTS"] if names else []


def build_engine(request: EngineRequest, timing_cache: Path | None = None, *, progress: bool = True) -> Built:
    """Builds the engine of ``request`` on the current CUDA device.

    Parameters
    ----------
    timing_cache
        File of kernel timings to start from and to add to, shared under a lock; None keeps none.
    progress
        Show on stderr how far the build is.

    Raises `ModelError` with the builder's messages if there is no engine in the end.
    """
    trt = import_tensorrt()
    logger = process_logger(trt)
    since = len(logger.messages)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a null pointer
        raise explain("TensorRT finds no usable GPU", logger, since) from error
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(request.graph):
        problems = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise explain(f"TensorRT cannot read the graph of {request.name}", logger, since, problems)
    config = builder.create_builder_config()
    flags = configure(trt, config, request)
    if "PREFER_PRECISION_CONSTRAINTS" in flags:
        hold_single(trt, network, set(request.single_layers))
    add_profile(builder, config, network, request)
    cache = _load_timing_cache(config, timing_cache)
    began = time.perf_counter()
    with shown_progress(trt, config, request.name, shown=progress):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise explain(f"TensorRT cannot build {request.name}", logger, since)
    seconds = time.perf_counter() - began
    if timing_cache is not None and cache is not None:
        _save_timing_cache(trt, config, timing_cache)
    warnings = list(dict.fromkeys(text for kind, text in logger.messages[since:] if kind == "WARNING"))
    return Built(bytes(plan), {"build_seconds": round(seconds, 2), "flags": flags, "warnings": warnings[:20]})


def _parser_error(error: Any) -> str:
    where = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
    return f"{where}: {error.desc()}"


def configure(trt: Any, config: Any, request: EngineRequest) -> list[str]:
    """Sets a builder configuration up for ``request``; returns the names of the flags set."""
    settings = request.settings
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    available = members(trt.BuilderFlag)
    flags = precision_flags(trt, request.precision)
    for name in flags:
        config.set_flag(available[name])
    if settings.tf32:
        config.set_flag(available["TF32"])
    else:
        config.clear_flag(available["TF32"])  # on by default
    sources = members(trt.TacticSource)
    config.set_tactic_sources(sum(1 << int(v) for name, v in sources.items() if name not in EXTERNAL_LIBRARIES))
    previews = members(trt.PreviewFeature)
    if NO_EXTERNAL_CORE in previews:
        config.set_preview_feature(previews[NO_EXTERNAL_CORE], True)
    if settings.optimization_level is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = settings.optimization_level
    if hasattr(config, "max_aux_streams"):
        config.max_aux_streams = settings.aux_streams
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # costs bytes, no time; for `layer_table`
    return flags


def hold_single(trt: Any, network: Any, names: set[str]) -> int:
    """Asks TensorRT 8.x to keep the layers of these ONNX nodes in fp32; returns how many there are."""
    held = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kinds = [layer.get_output(i).dtype for i in range(layer.num_outputs)]
        if layer.name in names and kinds and all(kind == trt.DataType.FLOAT for kind in kinds):
            if hasattr(layer, "precision"):
                layer.precision = trt.DataType.FLOAT
            if hasattr(layer, "set_output_type"):
                for i in range(layer.num_outputs):
                    layer.set_output_type(i, trt.DataType.FLOAT)
            held += 1
    return held


def add_profile(builder: Any, config: Any, network: Any, request: EngineRequest) -> None:
    """Adds the optimisation profile of a graph with dynamic inputs. Raises `ModelError` if shapes do not fit."""
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    if set(request.profile) != set(inputs):
        raise ModelError(f"The graph of {request.name} has the inputs {sorted(inputs)}, not {sorted(request.profile)}.")
    dynamic = {name for name, tensor in inputs.items() if -1 in tuple(tensor.shape)}
    for name, shapes in request.profile.items():
        shape = tuple(inputs[name].shape)
        fits = all(len(s) == len(shape) and all(d in (-1, n) for d, n in zip(shape, s, strict=True)) for s in shapes)
        if not fits:
            raise ModelError(f"The input {name} of {request.name} is {shape}, which {shapes[-1]} does not fit.")
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for name in sorted(dynamic):
        smallest, usual, largest = request.profile[name]
        profile.set_shape(name, smallest, usual, largest)
    if config.add_optimization_profile(profile) < 0:
        raise ModelError(f"TensorRT refuses the shapes of {request.name}: {dict(request.profile)}.")


def timing_cache_path(folder: Path, platform: Mapping[str, Any]) -> Path:
    """Where kernel timings of this GPU and TensorRT version are kept."""
    parts = [str(platform[name]) for name in ("TensorRT", "GPU", "compute capability", "driver")]
    words = "-".join("".join(c if c.isalnum() or c in ".+" else "_" for c in part) for part in parts)
    return folder / f"timing-{words}.cache"


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    """Gives the builder the timings kept so far; None if they are of no use, which costs only time."""
    if path is None:
        return None
    kept = path.read_bytes() if path.is_file() else b""
    for content in dict.fromkeys((kept, b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _save_timing_cache(trt: Any, config: Any, path: Path) -> None:
    """Adds the new timings to the file; another process may have added its own meanwhile."""
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            timings = config.get_timing_cache()
            if path.is_file():
                theirs = config.create_timing_cache(path.read_bytes())
                if theirs is not None:
                    timings.combine(theirs, False)
            write_atomically(path, bytes(timings.serialize()))
    except (OSError, VtsrError) as error:
        print(f"Kernel timings are not kept: {error}", file=sys.stderr)
