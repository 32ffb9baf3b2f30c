"""The runtime's benchmark measures what it says, on a device in software with a clock of its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from software_cuda import BlendEngines, SoftwareDevice

from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.settings import Settings

PATH = Path(__file__).parent.parent / "benchmarks" / "bench_tensorrt.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_tensorrt", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_tensorrt"] = module
    spec.loader.exec_module(module)
    return module


COSTS = {"upload": 2.0, "download": 3.0, "ingest": 1.0, "step": 4.0, "emit": 1.0, "finish": 0.5}


class Timed(SoftwareDevice):
    """Every operation takes as many milliseconds as `COSTS` says; events know when they were recorded."""

    def __init__(self) -> None:
        super().__init__(pace="eager")
        self.now = 0.0

    def _put(self, stream: Any, task: Any) -> None:
        self.now += COSTS.get(task.name.split()[0], 0.0)
        super()._put(stream, task)

    def record(self, event: Any, stream: Any) -> None:
        super().record(event, stream)
        event.time = self.now

    def milliseconds(self, start: Any, end: Any) -> float:
        return float(end.time - start.time)


def opener(levels: int) -> Any:
    return lambda settings: TensorRTBackend(Timed(), BlendEngines(levels), settings)


@pytest.mark.parametrize("levels", [1, 2])
def test_operations_are_timed_one_by_one_and_make_up_the_bound(bench: Any, levels: int) -> None:
    images = bench.moving_clip(8, 34, 20)
    found = bench.calls(opener(levels), Settings(levels=levels), images, 10)
    steps = {f"step {level}": 4.0 for level in range(1, levels + 1)}
    assert found == {"upload": 2.0, "ingest": 1.0, **steps, "emit": 1.0, "download": 3.0}
    assert bench.bound(found) == {"copy in": 2.0, "compute": 2.0 + 4.0 * levels, "copy out": 3.0}


def test_a_whole_measurement_has_every_figure(bench: Any) -> None:
    images = bench.moving_clip(6, 34, 20)
    report = bench.measure(opener(1), 1, images, count=20, switches=True, rates=(200,), seconds=0.5)
    assert set(report["switches"]) == set(bench.SWITCHES)
    assert report["throughput"]["fps_out"] == pytest.approx(2 * report["throughput"]["fps_in"])
    assert 0 < report["efficiency_predicted"] <= 1
    late = report["latency"]["200 fps"]
    assert 0 < late["p50_ms"] <= late["p95_ms"] <= late["p99_ms"] <= late["max_ms"]
    assert late["frames"] == 100


def test_psnr_and_repeatability(bench: Any) -> None:
    flat = [np.full((4, 4, 3), 100, np.uint8)]
    assert bench.psnr(flat, [f + np.uint8(1) for f in flat]) == pytest.approx(20 * np.log10(255))
    assert bench.psnr(flat, flat) == float("inf")
    images = bench.moving_clip(4, 34, 20)
    first, second = (bench.outputs(opener(1), Settings(levels=1), images) for _ in range(2))
    assert all(map(np.array_equal, first, second))


def test_a_missing_gpu_is_one_sentence(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vtsr.runtime.engines.platform import what_is_missing

    if what_is_missing() is None:
        pytest.skip("this machine has a GPU")
    assert bench.main(["--deploy", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("bench_tensorrt: ")
