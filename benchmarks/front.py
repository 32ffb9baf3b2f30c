"""The Pareto front: what nothing else beats in both of two qualities."""

from __future__ import annotations

from collections.abc import Mapping

Points = Mapping[str, tuple[float, float]]  # two qualities by name; more is better in both


def dominators(points: Points, name: str) -> list[str]:
    """Those at least as good as ``name`` in both, and better in one; the best in the second quality first."""
    x, y = points[name]
    better = [other for other, (a, b) in points.items() if a >= x and b >= y and (a > x or b > y)]
    return sorted(better, key=lambda other: -points[other][1])


def front(points: Points) -> list[str]:
    """Those without dominators, the best in the second quality first."""
    return sorted((name for name in points if not dominators(points, name)), key=lambda name: -points[name][1])
