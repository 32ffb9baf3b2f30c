"""Interleaved timing: works in turn, so that a machine whose speed drifts treats all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Work = Callable[[], Any]

FEWEST = 2  # rounds: one would have no spread


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
        "ratio": ratio([b for b, _ in pairs], [w for _, w in pairs]),
    }


def interleaved(
    benchmark: Any, works: Mapping[str, Work], rounds: int, budget: float = math.inf
) -> dict[str, list[float]]:
    """Seconds of every work in each round; in a round all run once, in order. A first round is not counted.

    ``benchmark`` is pytest-benchmark's fixture. It times the last work; the others run, and are timed, in its setup
    of every round. There are ``rounds`` of them, or as many as fit into ``budget`` seconds, but `FEWEST` at least.
    """
    *others, last = works
    found: dict[str, list[float]] = {name: [] for name in others}

    def before() -> None:
        for name in others:
            found[name].append(seconds(works[name]))

    once = sum(seconds(work) for work in works.values())
    rounds = max(min(rounds, int(budget / once)), FEWEST) if once * rounds > budget else rounds
    benchmark.pedantic(works[last], setup=before, rounds=rounds, iterations=1)
    return {**found, last: [float(s) for s in benchmark.stats.stats.data]}


def ratio(baseline: Sequence[float], work: Sequence[float]) -> float:
    """How many times faster ``work`` is: the median over rounds of the ratio within a round."""
    return statistics.median(b / w for b, w in zip(baseline, work, strict=True))


def summary(spent: Sequence[float]) -> dict[str, float]:
    """Median and fastest round, and how far the middle half of the rounds spreads, relative to the median."""
    middle = statistics.median(spent)
    quartiles = statistics.quantiles(spent, n=4, method="inclusive") if len(spent) > 1 else [middle] * 3
    return {"seconds": middle, "fastest": min(spent), "spread": (quartiles[2] - quartiles[0]) / middle}
