"""The machine: CPU, memory, GPU, and what could run the network on it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from vtsr.runtime.cpu import CPUINFO, has_avx512, has_integer_dot_products
from vtsr.runtime.doctor.report import Finding, Section
from vtsr.runtime.engines.platform import driver_version, what_is_missing

MEMINFO = Path("/proc/meminfo")
GPUS = Path("/proc/driver/nvidia/gpus")
LEAST_MEMORY = 2  # GiB, enough for 1080p at two levels on the CPU


def machine() -> Section:
    """CPU, memory and GPU."""
    return Section("Machine", (_cpu(), _memory(), *_gpus()))


def usable_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> Finding:
    cores, dots, wide = usable_cores(), has_integer_dot_products(), has_avx512()
    name = _first_match(CPUINFO, r"^(?:model name|Hardware)\s*:\s*(.+)$") or platform.processor() or platform.machine()
    words = {
        True: "integer dot products (INT8 runs)", False: "no integer dot products (fp32 only)",
        None: "instructions unknown",
    }  # fmt: skip
    text = f"{name}, {cores} core{'s' if cores > 1 else ''}, {words[dots]}"
    facts = {"name": name, "cores": cores, "integer_dot_products": dots, "avx512": wide}
    return Finding("CPU", "ok", text, facts=facts)


def _memory() -> Finding:
    total = _first_match(MEMINFO, r"^MemTotal:\s*(\d+) kB$")
    free = _first_match(MEMINFO, r"^MemAvailable:\s*(\d+) kB$")
    if total is None or free is None:
        return Finding("memory", "ok", "cannot be told on this system")
    total_gib, free_gib = int(total) / 2**20, int(free) / 2**20
    text, facts = f"{free_gib:.1f} of {total_gib:.1f} GiB free", {"total_gib": total_gib, "free_gib": free_gib}
    if free_gib < LEAST_MEMORY:
        return Finding("memory", "missing", text, "Close something: large videos need more than is free.", facts)
    return Finding("memory", "ok", text, facts=facts)


def _gpus() -> list[Finding]:
    driver, lacking = driver_version(), what_is_missing()
    names = [_first_match(path / "information", r"^Model:\s*(.+)$") or "unknown" for path in _folders(GPUS)]
    facts = {"driver": driver, "names": names}
    if not names:
        return [
            Finding(
                "GPU", "missing", "no NVIDIA GPU is visible",
                "The CPU is used, which always works; for a GPU, install its driver (in a container: start it with "
                "--gpus all).",
                facts,
            )
        ]  # fmt: skip
    found = [Finding("GPU", "ok", f"{', '.join(names)}; driver {driver or 'of unknown version'}", facts=facts)]
    if lacking is not None:
        found.append(
            Finding("TensorRT", "missing", lacking, 'The CPU is used; for the GPU: pip install "vtsr[tensorrt]"')
        )
    else:
        found.append(Finding("TensorRT", "ok", "works"))
    return found


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _first_match(path: Path, pattern: str) -> str | None:
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return match[1].strip() if match else None
