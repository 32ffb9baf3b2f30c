"""What the CPU can do: integer dot products, on which INT8 inference depends."""

from __future__ import annotations

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
X86_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8"}
ARM_DOT_PRODUCTS = {"asimddp", "i8mm"}


@functools.cache
def has_integer_dot_products(cpuinfo: Path = CPUINFO) -> bool | None:
    """Whether the CPU multiplies and sums 8-bit integers in one instruction; None if it cannot be told.

    x86 CPUs without them add pairs of products in 16 bits, which overflow: ONNX Runtime's results are then
    wrong, not only slow.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return None
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    features = {word for line in lines for word in line.split()}
    if not features:
        return None
    return bool(features & (X86_DOT_PRODUCTS | ARM_DOT_PRODUCTS))
