"""The runtime's benchmark measures what it says, on a device in software with a clock of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from software_cuda import BlendEngines, SoftwareDevice

from vtsr.errors import VtsrError
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.settings import Settings


@pytest.fixture(scope="module")
def bench() -> Any:
    return pytest.importorskip("vtsr.benchmarks.bench_tensorrt")


PLATFORM = {
    "TensorRT": "10.16.1", "GPU": "NVIDIA H200", "compute capability": "9.0", "multiprocessors": 132,
    "GPU memory": 143771, "driver": "580.95.05", "system": "Linux x86_64",
}  # fmt: skip
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
@pytest.mark.parametrize("graphs", [True, False])
def test_operations_are_timed_alone_and_make_up_the_bound(bench: Any, levels: int, graphs: bool) -> None:
    images = bench.moving_clip(8, 34, 20)
    found = bench.operations(opener(levels), Settings(levels=levels, graphs=graphs), images)
    steps = {f"step {level}": 4.0 for level in range(1, levels + 1)}
    assert found == pytest.approx({"upload": 2.0, "ingest": 1.0, **steps, "emit": 1.0, "download": 3.0})
    assert bench.bound(found) == pytest.approx({"copy in": 2.0, "compute": 2.0 + 4.0 * levels, "copy out": 3.0})


def measured(bench: Any, images: Any, **options: Any) -> list[dict[str, Any]]:
    rows = bench.measure(opener(1), 1, images, count=20, rates=(200,), seconds=0.5, **options)
    return [{"size": "34x20", "precision": "fp16", "levels": 1, **row} for row in rows]


def test_a_whole_measurement_has_every_figure(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WARM_UP", 8)
    rows = measured(bench, bench.moving_clip(6, 34, 20), switches=True, lanes=(2,))
    by_bench: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_bench.setdefault(row["bench"], []).append(row)
    assert set(by_bench) == {"operations", "throughput", "lanes", "latency", "mechanisms"}
    copies = {row["operation"]: row.get("gb_per_s") for row in by_bench["operations"]}
    assert copies["upload"] == pytest.approx(34 * 20 * 3 / 2e-3 / 1e9)
    assert copies["step 1"] is None
    (steady,) = by_bench["throughput"]
    assert steady["fps_out"] == pytest.approx(2 * steady["fps_in"])
    assert 0 < steady["efficiency_predicted"] <= 1
    assert steady["bound_by"] == "compute"
    assert steady["overhead"] == pytest.approx(1 / steady["efficiency"] - 1)
    # Nothing but buffers is on this device: 3 slots of 64 x 32 float frames and more.
    assert steady["gpu_mib"] == pytest.approx(steady["buffers_mib"])
    assert steady["buffers_mib"] > 3 * 3 * 64 * 32 * 3 * 4 / 2**20
    assert 0 < steady["launch_ms"] < steady["push_ms"]
    (laned,) = by_bench["lanes"]
    assert laned["same_bits"]
    assert laned["gpu_mib"] > steady["gpu_mib"]
    (late,) = by_bench["latency"]
    assert 0 < late["p50_ms"] <= late["p95_ms"] <= late["p99_ms"] <= late["max_ms"]
    assert late["frames"] == 100
    assert {row["off"] for row in by_bench["mechanisms"]} == set(bench.SWITCHES)


def test_accuracy_is_that_of_the_worst_phase_and_repeatability_is_bitwise(bench: Any) -> None:
    flat = [np.full((4, 4, 3), 100, np.uint8)]
    assert bench.psnr(flat, [f + np.uint8(1) for f in flat]) == pytest.approx(20 * np.log10(255))
    assert bench.psnr(flat, flat) == float("inf")
    assert bench.same(flat, [flat[0].copy()])
    assert not bench.same(flat, [flat[0] + np.uint8(1)])
    assert not bench.same(flat, [])


def test_goals_compare_what_was_measured_with_what_was_aimed_at(bench: Any) -> None:
    where = {"size": "1280x720", "precision": "fp16"}
    steady = {"bench": "throughput", "efficiency": 0.95, "overhead": 0.2, "bound_by": "compute"}
    rows = [
        {**where, **steady, "levels": 1, "fps_out": 1900.0},
        {**where, **steady, "levels": 2, "fps_out": 900.0, "overhead": 9.0, "bound_by": "copy out"},
        {**where, "bench": "lanes", "levels": 1, "fps_out": 2100.0},
        {**where, "bench": "latency", "levels": 2, "rate": 60.0, "p99_ms": 8.5},
        {**where, "bench": "latency", "levels": 2, "rate": 30.0, "p99_ms": 99.0},
        {**where, "bench": "accuracy", "levels": 1, "psnr_db": 55.0, "repeatable": True},
    ]
    found = {row["goal"]: (row["value"], row["reached"]) for row in bench.goals(rows)}
    assert found == {
        "1280x720 x2, output fps, at least": (2100.0, True),
        "pipeline efficiency everywhere, at least": (0.95, True),
        "overhead over the bare engines, at most": (0.2, False),
        "p99 latency at 1280x720 x4 and 60 fps, ms, at most": (8.5, False),
        "PSNR of fp16 with the CPU, dB, at least": (55.0, True),
        "runs repeatable bit for bit, share": (1.0, True),
    }
    assert not list(bench.goals([]))


def test_results_name_the_machine_the_gpu_and_the_revision(tmp_path: Path) -> None:
    from vtsr.benchmarks.gpu_setup import gpu_results, save
    from vtsr.benchmarks.results import load

    rows = [{"bench": "latency", "size": "1280x720", "p99_ms": 7.123456789}]
    path = save(gpu_results(PLATFORM, rows, ["Something."]), tmp_path / "new", "runtime")
    assert path.name == "runtime-NVIDIA-H200-TensorRT-10.16.1.json"
    found = load(path)
    assert (found.kind, found.machine["GPU"], found.versions["driver"]) == ("tensorrt", "NVIDIA H200", "580.95.05")
    assert found.of("latency", size="1280x720")[0]["p99_ms"] == pytest.approx(7.1235)
    assert found.missing == ["Something."]
    assert {"cpu", "multiprocessors"} <= set(found.machine)


def test_a_missing_gpu_is_one_sentence(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vtsr.runtime.engines.platform import what_is_missing

    if what_is_missing() is None:
        pytest.skip("this machine has a GPU")
    assert bench.main(["--deploy", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bench_tensorrt: ")
    assert said.count("\n") == 1
    assert bench.main(["--deploy", str(tmp_path), "--lanes", "1"]) == 2
    assert "a single lane is always measured" in capsys.readouterr().err


def test_a_deployment_folder_that_is_there_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a machine with a GPU needs neither torch nor onnx."""
    from vtsr.benchmarks.gpu_setup import deployment

    (tmp_path / "recipe.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "vtsr.export.cli", None)  # cannot be imported
    assert deployment(tmp_path, "default", "fp16", ["96x64"], 1) == tmp_path
    with pytest.raises(VtsrError, match=r"missing is not there .* write it elsewhere with --graphs-only\.$"):
        deployment(tmp_path / "missing", "default", "fp16", ["96x64"], 1)
    with pytest.raises(VtsrError, match=r"needs the ranges of vtsr-calibrate .* --ranges\.$"):
        deployment(tmp_path / "missing", "default", "int8", ["96x64"], 1)


def test_the_whole_command_writes_one_file_that_the_report_reads(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vtsr.benchmarks.report import text
    from vtsr.benchmarks.results import load

    monkeypatch.setattr(bench, "WARM_UP", 8)
    for levels in (1, 2):
        folder = tmp_path / f"default-fp16-l{levels}"
        folder.mkdir()
        (folder / "recipe.json").write_text("{}")
    monkeypatch.setattr("vtsr.runtime.engines.platform.find_platform", lambda device: PLATFORM)
    monkeypatch.setattr(bench, "open_model", lambda name: int(name[-1]))
    monkeypatch.setattr(TensorRTBackend, "open", lambda levels, settings: opener(levels)(settings))
    monkeypatch.setattr(bench, "accuracy", lambda *rest: {"psnr_db": 60.0, "repeatable": True})
    others = [("PyTorch eager", 40.0), ("torch.compile", "torch.compile was not measured: no compiler.")]
    monkeypatch.setattr(bench, "baselines", lambda *rest, **more: iter(others))
    options = ["--deploy", str(tmp_path), "--out", str(tmp_path / "out"), "--size", "34x20", "--levels", "1", "2"]
    assert bench.main([*options, "--frames", "20", "--seconds", "0.1", "--lanes"]) == 0
    (path,) = (tmp_path / "out").iterdir()
    found = load(path)
    assert [row["levels"] for row in found.of("throughput")] == [1, 2]
    (baseline,) = found.of("baselines")
    assert baseline["engine_is_times_as_fast"] == 10.0  # of 4 ms
    assert "34x20: torch.compile was not measured: no compiler." in found.missing
    assert {row["goal"] for row in found.of("goals")} == {
        "pipeline efficiency everywhere, at least", "overhead over the bare engines, at most",
        "PSNR of fp16 with the CPU, dB, at least", "runs repeatable bit for bit, share",
    }  # fmt: skip
    assert "NVIDIA H200" in text(found)
    assert f"Written to {path}" in capsys.readouterr().out


SCRIPT = Path(__file__).parent.parent / "benchmarks" / "run_gpu.sh"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--help"], 0, "Everything that needs a GPU"),
        ([], 2, "no NVIDIA driver"),
        (["--only", "lunch"], 2, "there is no step lunch"),
        (["--size"], 2, "--size needs a value"),
        (["--fast"], 2, "there is no option --fast"),
    ],
)
def test_the_script_for_gpus_says_in_one_sentence_why_it_does_not_run(options: list[str], code: int, said: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    # No nvidia-smi is found there, whatever this machine has.
    tools = {tool: shutil.which(tool) for tool in ("dirname", "sed", "realpath")}
    folders = os.pathsep.join({str(Path(path).parent) for path in tools.values() if path})
    if shutil.which("nvidia-smi", path=folders):
        pytest.skip("nvidia-smi lies beside the tools of the system")
    done = subprocess.run([bash, str(SCRIPT), *options], capture_output=True, text=True, env={"PATH": folders})
    assert done.returncode == code, done.stderr
    assert said in (done.stdout if code == 0 else done.stderr)
    assert code == 0 or done.stderr.count("\n") == 1
