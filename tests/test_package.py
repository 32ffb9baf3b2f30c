"""The package as a newcomer meets it."""

from __future__ import annotations

import doctest
import subprocess
import sys

import vtsr
from vtsr.runtime import upconverter


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_public_names_are_there() -> None:
    for name in vtsr.__all__:
        assert getattr(vtsr, name) is not None


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = run("import sys, vtsr; print(*{m.split('.')[0] for m in sys.modules})").split()
    assert not {"torch", "onnx", "onnxruntime", "cv2", "av", "numpy"} & set(loaded)


def test_upconverting_needs_neither_torch_nor_onnx() -> None:
    code = """
import sys
for name in ("torch", "onnx", "onnxscript", "safetensors", "skimage", "matplotlib", "tensorrt", "pycuda"):
    sys.modules[name] = None
import numpy as np, vtsr
import vtsr.runtime.upconvert
with vtsr.Upconverter(levels=1, threads=1) as up:
    print(len(list(up.run(np.zeros((3, 32, 32, 3), np.uint8)))))
"""
    assert run(code) == "6\n"


def test_examples_in_docstrings_are_right() -> None:
    assert doctest.testmod(upconverter).failed == 0
    assert doctest.testmod(upconverter).attempted > 0
