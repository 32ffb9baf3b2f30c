"""How cost grows: exponents p of cost ~ x^p, fitted to measured rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]


@dataclass(frozen=True)
class Growth:
    """One cost against one thing it may grow with.

    points
        (x, cost), in order of x.
    exponent, residual
        Of the power law fitted to the points, and the root mean square of its relative error.
    """

    cost: str
    unit: str
    against: str
    label: str
    points: tuple[tuple[float, float], ...]
    exponent: float
    residual: float

    @property
    def factor(self) -> float:
        """cost = factor * x^exponent."""
        logs = np.log(self.points)
        return float(np.exp((logs[:, 1] - self.exponent * logs[:, 0]).mean()))


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Exponent and relative root mean square residual of a power law, by least squares of logarithms."""
    x, y = np.log(np.asarray(points, np.float64)).T
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(np.sqrt(np.mean((y - slope * x - offset) ** 2)))


def growths(rows: Iterable[Row]) -> list[Growth]:
    """All costs that rows of `vtsr-bench` tell of, with at least three points each."""
    rows = list(rows)
    found: list[Growth] = []

    def add(cost: str, unit: str, against: str, label: str, points: Iterable[tuple[float, float]]) -> None:
        kept = tuple(sorted((float(x), float(y)) for x, y in points if y > 0))
        if len({x for x, _ in kept}) >= 3:
            found.append(Growth(cost, unit, against, label, kept, *fit(kept)))

    sizes = [r for r in rows if r["bench"] == "sizes"]
    for engine in dict.fromkeys(r["engine"] for r in sizes):
        add("time", "s", "pixels", engine, ((r["pixels"], r["seconds"]) for r in sizes if r["engine"] == engine))
    levels = [r for r in rows if r["bench"] == "levels"]
    for precision in dict.fromkeys(r["precision"] for r in levels):
        add("time", "s", "pairs per input frame", precision,
            ((r["pairs"], r["seconds"]) for r in levels if r["precision"] == precision))  # fmt: skip
    length = [r for r in rows if r["bench"] == "length"]
    add("time", "s", "frames", "vtsr-upconvert", ((r["frames"], r["seconds"]) for r in length))
    memory = [r for r in rows if r["bench"] == "memory"]
    for level in dict.fromkeys(r["levels"] for r in memory):
        add("memory", "MiB", "pixels", f"level {level}",
            ((r["pixels"], r["peak_mib"] - r["base_mib"]) for r in memory if r["levels"] == level))  # fmt: skip
    for size in dict.fromkeys(r["size"] for r in memory):
        add("memory", "MiB", "pairs per input frame", size,
            ((2 ** r["levels"] - 1, r["peak_mib"] - r["base_mib"]) for r in memory if r["size"] == size))  # fmt: skip
    add("memory", "MiB", "frames", "vtsr-upconvert", ((r["frames"], r["peak_mib"]) for r in length))
    return found
