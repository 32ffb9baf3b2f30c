"""What the CPU can do: integer dot products, on which INT8 inference depends."""

from __future__ import annotations

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
X86_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}
ARM_DOT_PRODUCTS = {"asimddp", "i8mm"}


def _features(cpuinfo: Path) -> set[str]:
    """The CPU's features as Linux names them; none where that cannot be told."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return set()
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    return {word for line in lines for word in line.split()}


@functools.cache
def has_avx512(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the CPU is known to have AVX-512."""
    return "avx512f" in _features(cpuinfo)


@functools.cache
def has_integer_dot_products(cpuinfo: Path = CPUINFO) -> bool | None:
    """Whether the CPU multiplies and sums 8-bit integers in one instruction; None if it cannot be told.

    x86 CPUs without them add pairs of products in 16 bits, which overflow: ONNX Runtime's results are then
    wrong, not only slow.
    """
    features = _features(cpuinfo)
    if not features:
        return None
    return bool(features & (X86_DOT_PRODUCTS | ARM_DOT_PRODUCTS))
