"""The machine a measurement ran on, the versions it ran with, and the revision it measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import vtsr
from vtsr.runtime.cpu import CPUINFO, has_integer_dot_products

STAT = Path("/proc/stat")
PACKAGES = ("onnxruntime", "numpy", "opencv-python-headless", "av", "torch", "onnx", "pytest-benchmark")
VECTORS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "asimddp", "i8mm")
CPU_FAMILIES = {("AuthenticAMD", "25"): "Zen 3 or 4", ("AuthenticAMD", "26"): "Zen 5"}  # where the name hides it


def machine_facts() -> dict[str, Any]:
    """CPU, cores, memory, system, and how busy the machine was before the measurement."""
    cpu = _cpuinfo()
    family = CPU_FAMILIES.get((cpu.get("vendor_id", ""), cpu.get("cpu family", "")))
    name = cpu.get("model name") or platform.processor() or platform.machine()
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    return {
        "cpu": f"{name} ({family})" if family else name,
        "cores": os.cpu_count(),
        "vectors": [v for v in VECTORS if v in flags],
        "integer_dot_products": has_integer_dot_products(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "busy_before": busy_share(),
    }


def busy_share(seconds: float = 1.0) -> float | None:
    """How much of all cores other programs use, 0 to 1, watched for some time; None where it cannot be told.

    Not the load average, which remembers what ended a minute ago.
    """

    def spent() -> tuple[int, int]:
        ticks = [int(word) for word in STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]  # all, and those of idling and waiting for disks

    try:
        before = spent()
        time.sleep(seconds)
        after = spent()
    except (OSError, ValueError, IndexError):  # not Linux
        return None
    whole = after[0] - before[0]
    return round(1 - (after[1] - before[1]) / whole, 3) if whole else None


def versions() -> dict[str, str]:
    """Versions of vtsr, Python, the libraries that compete and the ffmpeg program; what is missing is left out."""
    found = {"vtsr": vtsr.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg:
        said = subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, check=False).stdout.split()
        found["ffmpeg"] = said[2] if len(said) > 2 else "unknown"
    return found


def revision() -> str:
    """The git revision of the checkout, with "+" where files differ from it; "" in an installed package."""
    root = Path(vtsr.__file__).parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    command = [git, "-C", str(root)]
    head = subprocess.run([*command, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    # What decides speed: not documents, results or tests.
    code = ["--", "*.py", "*.onnx", "pyproject.toml", ":!tests", ":!docs"]
    changed = subprocess.run([*command, "status", "--porcelain", *code], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; none where there is no such file."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
