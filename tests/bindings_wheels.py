"""NVIDIA's Python bindings of several TensorRT versions, without TensorRT: fetched once per run of the tests.

They need about ten C symbols of the libraries, for which `tensorrt_standins/standin.c` stands in. TensorRT 8.5.3 comes
only as a wheel of half a gigabyte for Python 3.10: set VTSR_LARGE_DOWNLOADS=1 there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

STANDINS = Path(__file__).parent / "tensorrt_standins"
BINDINGS = {
    "8.5.3.1": "tensorrt==8.5.3.1",
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.0.1": "tensorrt-cu12-bindings==10.0.1",
    "10.16.1.11": "tensorrt-cu13-bindings==10.16.1.11",
    "11.0.0.114": "tensorrt-cu13-bindings==11.0.0.114",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
LARGE = {"8.5.3.1"}
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")


def fetch(packages: tuple[str, ...], folder: Path, *options: str) -> None:
    """Downloads packages, or skips the test."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    limits = ["--timeout", "20", "--retries", "1", "--dest", str(folder)]
    done = subprocess.run([*command, *limits, *options, *packages], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        pytest.skip(f"{', '.join(packages)} cannot be had for this Python: {reason[:150]}")


@cache
def _standins(base: Path) -> Path:
    """A folder with libraries that have the symbols the bindings ask for."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler for the stand-in libraries")
    folder = base / "tensorrt-standins"
    folder.mkdir(exist_ok=True)
    for library in LIBRARIES:
        for major in ("8", "10", "11"):
            name = f"lib{library}.so.{major}"
            options = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
            subprocess.run([compiler, *options, str(STANDINS / "standin.c")], check=True)
    return folder


@cache
def _bindings(version: str, base: Path) -> Path:
    """A folder with the bindings of a version."""
    folder = base / f"tensorrt-{version}"
    folder.mkdir(exist_ok=True)
    fetch((BINDINGS[version],), folder, "--only-binary", ":all:")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        # Of the large wheel only the bindings: its libraries would be loaded before the stand-ins.
        members = [n for n in wheel.namelist() if ".so" not in n or Path(n).name.startswith("tensorrt.")]
        wheel.extractall(folder, members)
    return folder


def exercise(script: str, version: str, factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``tensorrt_standins/script`` reports about the bindings of a version, in a process of its own."""
    if version in LARGE and not os.environ.get("VTSR_LARGE_DOWNLOADS"):
        pytest.skip("a wheel of half a gigabyte; set VTSR_LARGE_DOWNLOADS=1 to check it")
    base = factory.getbasetemp()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(_standins(base))}
    command = [sys.executable, str(STANDINS / script), str(_bindings(version, base))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["version"] == version
    return found
