"""`vtsr-bench --gpu`: the benchmark of the TensorRT runtime with the options and results of the others."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from vtsr.benchmarks.plan import Size
from vtsr.benchmarks.results import Results, load
from vtsr.errors import OptionError, VtsrError


def run_gpu(
    model: str,
    sizes: Sequence[Size] | None,
    levels: Sequence[int] | None,
    precisions: Sequence[str] | None,
    say: Callable[[str], None],
) -> Results:
    """Exports the graphs, builds the engines and measures them; None stands for the benchmark's own choice.

    Raises `VtsrError` where TensorRT, pycuda or a GPU is missing, or a measurement fails.
    """
    from vtsr.runtime.engines.platform import find_platform

    if precisions and "int8" in precisions:
        raise OptionError(
            "INT8 on a GPU needs the ranges of vtsr-calibrate; measure it with benchmarks/run_gpu.sh --ranges FILE."
        )
    platform = find_platform()  # says what is missing before anything is exported
    say(f"{platform['GPU']}, driver {platform['driver']}, TensorRT {platform['TensorRT']}")
    from vtsr.benchmarks.bench_tensorrt import main

    with tempfile.TemporaryDirectory(prefix="vtsr-bench-") as folder:
        options = ["--deploy", f"{folder}/deploy", "--out", f"{folder}/out", "--model", model]
        for name, values in (("--size", sizes), ("--levels", levels), ("--precision", precisions)):
            if values:
                options += [name, *(str(value) for value in values)]
        with contextlib.redirect_stdout(sys.stderr):  # its progress; stdout is for results
            code = main(options)
        found = sorted(Path(folder, "out").glob("*.json"))
        if code != 0 or len(found) != 1:
            raise VtsrError("The TensorRT runtime could not be measured; the reason stands above.")
        return load(found[0])
