"""What the benchmarks on a GPU begin and end with: deployment folders, and the file of results."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtsr.benchmarks.machine import machine_facts, revision, versions
from vtsr.benchmarks.results import GPU, Results, Row
from vtsr.errors import OptionError, OutputError, VtsrError

RESULTS = Path(__file__).parent / "results"
GPU_PACKAGES = ("pycuda", "cuda-bindings", "onnxruntime-gpu")


def deployment(
    folder: Path, model: str, precision: str, sizes: Sequence[str], levels: int, *,
    ranges: Path | None = None, pixels: Sequence[str] = (),
) -> Path:  # fmt: skip
    """The folder with the graphs of a model, written with vtsr-export unless it is there.

    Graphs can be written on a machine that has torch and onnx but no GPU, and be carried to one with a GPU that has
    neither. Raises `VtsrError` if they cannot be written.
    """
    from vtsr.runtime.engines.recipe import RECIPE_NAME

    if (folder / RECIPE_NAME).exists():
        return folder
    if precision == "int8" and ranges is None:
        raise OptionError(f"INT8 needs the ranges of vtsr-calibrate for {folder}; give them with --ranges.")
    try:
        from vtsr.export.cli import main as export
    except ImportError as error:
        raise VtsrError(
            f"{folder} is not there and vtsr-export lacks {error.name}; write it elsewhere with --graphs-only."
        ) from error
    options = ["--model", model, f"--{precision}", "--levels", str(levels), "--onnx-only"]
    options += [word for size in sizes for word in ("--size", size)]
    options += [word for kind in pixels for word in ("--pixels", kind)]
    if precision == "int8":
        options += ["--calibration", str(ranges)]
    if export([*options, "-o", str(folder)]) != 0:
        raise VtsrError(f"The graphs of {model} in {precision} could not be written to {folder}.")
    return folder


def gpu_results(platform: dict[str, Any], rows: list[Row], missing: Sequence[str] = ()) -> Results:
    """Results of this machine; ``platform`` as `vtsr.runtime.engines.platform.find_platform` gives it."""
    kept = ("GPU", "compute capability", "multiprocessors", "GPU memory")
    machine = {**{name: platform[name] for name in kept}, **machine_facts()}
    used = {"TensorRT": platform["TensorRT"], "driver": platform["driver"], **versions()}
    for package in GPU_PACKAGES:
        try:
            used[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Results(GPU, machine, used, revision(), rows, time.strftime("%Y-%m-%d"), list(missing))


def save(results: Results, folder: Path, stem: str) -> Path:
    """Writes ``STEM-GPU-TensorRT-VERSION.json``; rows with the same facts as earlier in the file are not merged."""
    name = f"{stem}-{results.machine['GPU']}-TensorRT-{results.versions['TensorRT']}.json".replace(" ", "-")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made ({error.strerror}).") from error
    results = replace(results, rows=[dict(row) for row in results.rows])
    results.save(folder / name)
    return folder / name
