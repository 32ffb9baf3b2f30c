"""Paired timing: two functions in turn, so that a drifting machine speed hits both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], Any]


def seconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(baseline: Work, work: Work, rounds: int = 7, warm_up: int = 2) -> dict[str, float]:
    """Median seconds of both, and the median over rounds of baseline / work: how many times faster ``work`` is."""
    for _ in range(warm_up):
        baseline(), work()
    pairs = [(seconds(baseline), seconds(work)) for _ in range(rounds)]
    return {
        "baseline_s": statistics.median(b for b, _ in pairs),
        "work_s": statistics.median(w for _, w in pairs),
        "ratio": statistics.median(b / w for b, w in pairs),
    }
