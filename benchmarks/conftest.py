"""The plan of a run: vtsr-bench hands it over; without it, `pytest benchmarks/bench_steps.py` takes the whole one."""

from __future__ import annotations

from typing import Any

import pytest

from vtsr.benchmarks.plan import Plan


@pytest.fixture(scope="session")
def plan(pytestconfig: Any) -> Plan:
    return getattr(pytestconfig, "vtsr_plan", None) or Plan()
