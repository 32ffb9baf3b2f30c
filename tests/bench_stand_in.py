"""Stands where pytest-benchmark's fixture does, with the part of it that measurements use."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Benchmark:
    """Runs what it is given, as often as it is told; prints no table into the test run."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(
        self, work: Callable[[], Any], setup: Callable[[], Any] = lambda: None, rounds: int = 1, **options: Any
    ) -> None:
        for _ in range(rounds):
            setup()
            began = time.perf_counter()
            work()
            self.stats.stats.data.append(time.perf_counter() - began)
