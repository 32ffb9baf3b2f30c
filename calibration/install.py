"""The integer step of a model folder: measured, judged, and put beside the floating-point one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from vtsr.calibration.gate import Verdict
from vtsr.calibration.ranges import Ranges
from vtsr.errors import ModelError, OutputError
from vtsr.runtime.models import INT8_STEP, MANIFEST_NAME, ModelFolder

TIMED_SIZE = 256, 384  # height, width in pixels
TIMED_RUNS = 9


def speed_ratio(reference: bytes, candidate: bytes, threads: int = 1) -> float:
    """How many times quicker one step graph is than another: median of runs that take turns, one pair per run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for data in (reference, candidate)
    ]
    rng = np.random.default_rng(0)
    picture = rng.random((1, 3, *TIMED_SIZE), np.float32)
    feeds = {"u": picture, "a_u": picture, "carry": np.ones((1, 1, 1, 1), np.float32), "v": picture[..., ::-1].copy()}
    times = np.empty((TIMED_RUNS + 1, 2))
    for run in times:
        for index, session in enumerate(sessions):
            began = time.perf_counter()
            session.run(None, feeds)
            run[index] = time.perf_counter() - began
    first, second = np.median(times[1:], axis=0)  # the first run allocates
    return float(first / second)


def install(
    folder: ModelFolder, graph: onnx.ModelProto, ranges: Ranges, verdict: Verdict, *, force: bool = False
) -> float:
    """Adds `INT8_STEP` and its record to a model folder; returns the speed ratio against fp32 on this CPU.

    vtsr-upconvert then takes it by default if it is quicker and has passed. Raises `ModelError` if it has not
    passed, unless ``force``, and `OutputError` if the folder cannot be written.
    """
    if not verdict.passed and not force:
        faults = "; ".join(verdict.faults)
        raise ModelError(f"The INT8 graph fails the accuracy gate ({faults}); add --force to use it.")
    data = graph.SerializeToString()
    ratio = speed_ratio(folder.read("step.onnx"), data)
    manifest = dict(folder.facts)
    manifest["files"] = {
        **manifest["files"], INT8_STEP: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
    }  # fmt: skip
    manifest["int8"] = record(ranges, verdict) | {
        "speed_ratio": round(ratio, 3),
        "speed_measured_with": f"ONNX Runtime {onnxruntime.__version__}, 1 thread, {platform.machine()}",
    }
    try:
        _replace(folder.path / INT8_STEP, data)
        _replace(folder.path / MANIFEST_NAME, (json.dumps(manifest, indent=1) + "\n").encode())
    except OSError as error:
        raise OutputError(f"The model folder {folder.path} cannot be written: {error.strerror}.") from error
    return ratio


def record(ranges: Ranges, verdict: Verdict) -> dict[str, Any]:
    """What a manifest says of a quantised graph, as plain data."""
    return {
        "method": ranges.method, "percentile": ranges.percentile if ranges.method == "percentile" else None,
        "calibration": ranges.facts, "keep_float": list(ranges.keep_float), "gate": verdict.to_json(),
    }  # fmt: skip


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
