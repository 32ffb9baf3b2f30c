"""Runs the measurements under pytest-benchmark and collects their rows."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vtsr.benchmarks.machine import machine_facts, revision, versions
from vtsr.benchmarks.plan import Plan
from vtsr.benchmarks.results import CPU, Results, Row
from vtsr.errors import MissingExtraError, VtsrError

FOLDER = Path(__file__).parent
# Name on the command line: file and test. Short ones that most people come for are first.
BENCHES = {
    "engines": "bench_steps.py::test_engines",
    "cold-start": "bench_processes.py::test_cold_start",
    "levels": "bench_steps.py::test_levels",
    "pipeline": "bench_processes.py::test_pipeline",
    "competitors": "bench_competitors.py::test_competitors",
    "roofline": "bench_limits.py::test_roofline",
    "batches": "bench_steps.py::test_batches",
    "threads": "bench_steps.py::test_threads",
    "length": "bench_processes.py::test_length",
    "presets": "bench_steps.py::test_presets",
    "sizes": "bench_steps.py::test_sizes",
    "memory": "bench_processes.py::test_memory",
}
Say = Callable[[str], None]


def require_pytest_benchmark() -> None:
    """Raises `MissingExtraError` without pytest or pytest-benchmark."""
    try:
        import pytest  # noqa: F401
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "vtsr-bench needs pytest-benchmark; install it with: pip install 'vtsr[bench]'."
        ) from error


class Watcher:
    """A pytest plugin: hands the plan over, reports progress, collects rows and what failed or was left out."""

    def __init__(self, plan: Plan, names: Sequence[str], say: Say) -> None:
        self._plan, self._say = plan, say
        self._names = {BENCHES[name].partition("::")[2]: name for name in names}
        self._began = 0.0
        self._count = 0
        self.rows: list[Row] = []
        self.missing: list[str] = []
        self.interrupted = False

    def pytest_configure(self, config: Any) -> None:
        config.vtsr_plan = self._plan

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._began = time.perf_counter()
        self._count += 1
        self._say(f"[{self._count}/{len(self._names)}] {self._name(nodeid)} ...")

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.when == "call" and call.excinfo is None:
            found = item.funcargs["benchmark"].extra_info
            self.rows += found.get("rows", [])
            self.missing += [note for note in found.get("notes", []) if note not in self.missing]

    def pytest_keyboard_interrupt(self) -> None:
        self.interrupted = True

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = self._name(report.nodeid)
        if report.skipped:
            self._miss(name, str(report.longrepr[2]).removeprefix("Skipped: "))
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = str(getattr(crash, "message", report.longrepr)).strip()
            self._miss(name, (said.splitlines() or ["it failed without a word"])[0])
        elif report.when == "call":
            self._say(f"    {time.perf_counter() - self._began:.1f} s")

    def _name(self, nodeid: str) -> str:
        return self._names.get(nodeid.rpartition("::")[2], nodeid)

    def _miss(self, name: str, why: str) -> None:
        self.missing.append(f"{name}: {why}")
        self._say(f"    not measured: {why}")


def run(plan: Plan, names: Sequence[str], say: Say) -> Results:
    """Measures what ``names`` (of `BENCHES`) ask for.

    A measurement that fails is named in the results, and the others go on. Raises `KeyboardInterrupt`, and `VtsrError`
    if nothing could be measured.
    """
    import pytest

    machine = machine_facts()  # before the load is our own
    watcher = Watcher(plan, names, say)
    with tempfile.TemporaryDirectory(prefix="vtsr-bench-") as folder:
        options = [
            "-c", os.devnull, f"--rootdir={FOLDER}", f"--basetemp={folder}/tmp", "-p", "no:cacheprovider",
            "--import-mode=importlib", "--capture=no", "--quiet", "--benchmark-only",
            f"--benchmark-storage=file://{folder}/storage",
        ]  # fmt: skip
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = pytest.main([*options, *(str(FOLDER / BENCHES[name]) for name in names)], plugins=[watcher])
            except Exception:
                if watcher.interrupted:  # pytest-benchmark cannot sum up a measurement that was cut short
                    raise KeyboardInterrupt from None
                raise
    if watcher.interrupted:
        raise KeyboardInterrupt
    if not watcher.rows:
        last = watcher.missing or [line for line in said.getvalue().splitlines() if line.strip()][-1:]
        raise VtsrError(f"Nothing could be measured: {last[0] if last else f'pytest ended with code {code}'}")
    return Results(
        CPU, machine, versions(), revision(), watcher.rows, time.strftime("%Y-%m-%d"), watcher.missing,
        {"model": plan.model, "quick": plan.quick},
    )  # fmt: skip
