"""`vtsr-bench` as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vtsr.benchmarks.cli import main
from vtsr.benchmarks.runner import BENCHES, FOLDER

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """A run over small frames on one thread: its JSON, the folder of its plots, what it printed."""
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("bench")
    names = ["cold-start", "levels", "pipeline", "roofline", "batches", "presets", "memory"]
    options = ["--quick", "--threads", "1", "--sizes", "64x32", "33x32", "64x64", "--levels", "1", "2"]
    outputs = ["--json", str(folder / "found.json"), "--plot", str(folder / "plots")]
    command = [sys.executable, "-m", "vtsr.benchmarks.cli", *options, *outputs, "--only", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "[1/7] cold-start ..." in done.stderr
    assert not list(folder.glob(".*"))  # no caches left behind
    return json.loads((folder / "found.json").read_text()), folder / "plots", done.stdout


def rows(found: dict[str, Any], bench: str) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["bench"] == bench]


def test_every_measurement_has_its_rows(measured: tuple[dict[str, Any], Path, str]) -> None:
    found = measured[0]
    assert found["kind"] == "cpu"
    assert found["machine"]["cores"] >= 1
    assert {row["bench"] for row in found["rows"]} == {
        "cold start", "levels", "pipeline", "overhead", "roofline", "batches", "memory",
    }  # fmt: skip
    assert found["missing"] == ["presets: left out by --quick"]
    assert all(row["threads"] == 1 for row in found["rows"])


def test_figures_hang_together(measured: tuple[dict[str, Any], Path, str]) -> None:
    found = measured[0]
    start = rows(found, "cold start")[0]
    assert start["import_s"] + start["session_s"] + start["first_frame_s"] < 1.2 * start["seconds"]
    for row in rows(found, "levels"):
        assert row["pairs"] == 2 ** row["levels"] - 1
        assert row["fps_out"] == pytest.approx(2 ** row["levels"] / row["seconds"], rel=1e-3)
    for row in rows(found, "memory"):
        assert 0 < row["base_mib"] <= row["peak_mib"]
    assert [row["pixels"] for row in rows(found, "memory")] == [64 * 32] * 4 + [64 * 64] * 2  # padded
    ways = {row["what"]: row for row in rows(found, "pipeline")}
    assert ways["stream"]["frames_out"] == 4 * ways["stream"]["frames"]
    assert ways["naive"]["ratio"] == 1
    for row in rows(found, "roofline"):
        limit = 2 * row["macs_per_pixel"] * 64 * 32 / row["peak_gops"] / 1e9
        assert row["bound"] == "memory" or row["limit_s"] == pytest.approx(limit, rel=1e-3)
        assert row["fraction"] == pytest.approx(row["limit_s"] / row["seconds"], rel=1e-3)
    assert {row["batch"]: row["ratio"] for row in rows(found, "batches")}[1] == 1


def test_results_are_printed_and_plotted(measured: tuple[dict[str, Any], Path, str]) -> None:
    found, plots, printed = measured
    assert found["machine"]["cpu"] in printed
    assert "## Cold start" in printed
    assert "presets: left out by --quick" in printed
    assert "![" not in printed
    assert (plots / "roofline.png").read_bytes().startswith(PNG)


def test_a_measurement_that_fails_does_not_stop_the_others(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exported model has neither its weights for PyTorch nor an INT8 step."""
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "found.json"
    options = ["--model", str(tiny_model), "--quick", "--threads", "1", "--sizes", "64x32", "--levels", "4"]
    assert main([*options, "--only", "engines", "competitors", "levels", "--json", str(file), "-q"]) == 0
    found = json.loads(file.read_text())
    assert {row["engine"] for row in rows(found, "engines")} == {"ONNX Runtime fp32", "ONNX Runtime fp16"}
    assert not any("ratio" in row for row in rows(found, "engines"))  # to PyTorch
    assert {row["levels"] for row in rows(found, "levels")} == {4}
    missing = " ".join(found["missing"])
    assert "competitors: the clips can judge levels 1 to 3 only" in missing
    assert "ONNX Runtime int8: the model tiny has no INT8 step" in missing
    assert "comes without its weights for PyTorch" in missing
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    options = ["--quick", "--only", "memory", "--threads", "1", "--sizes", "64x32", "--json", "found.json"]
    command = [sys.executable, "-m", "vtsr.benchmarks.cli", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert "memory ..." in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip().splitlines()[-1] == "vtsr-bench: interrupted."
        assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []


def test_every_name_is_a_measurement_that_exists() -> None:
    for place in BENCHES.values():
        file, _, name = place.partition("::")
        assert f"\ndef {name}(benchmark: Any, plan: Plan" in (FOLDER / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sizes", "640"], "'640' is not a frame size; write WIDTHxHEIGHT"),
        (["--sizes", "16x16"], "frames of 16x16 are too small to measure"),
        (["--levels", "5"], "invalid choice: 5"),
        (["--precisions", "fp8"], "invalid choice: 'fp8'"),
        (["--only", "engine"], "invalid choice: 'engine'"),
        (["--threads", "0"], "--threads must be 1 or more, not 0"),
        (["--model", "nonesuch"], "There is no model 'nonesuch'"),
        (["--json", "nowhere/found.json"], "give a file in a folder that exists"),
        (["--cpu", "--gpu"], "not allowed with argument"),
        (["--gpu", "--precisions", "int8"], "run_gpu.sh --ranges FILE"),
        (["--gpu", "--quick"], "are for the CPU; leave them out with --gpu"),
    ],
)
def test_bad_options_are_one_sentence(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(options)
    except SystemExit as stop:  # of argparse
        code = int(stop.code or 0)
    words = capsys.readouterr().err
    assert code == 2
    assert said in words
    assert words.startswith("vtsr-bench: ")
    assert words.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        ("pytest_benchmark", [], "pip install 'vtsr[bench]'"),
        ("matplotlib", ["--plot", "plots"], "Plots need matplotlib"),
    ],
)
def test_a_missing_extra_is_named(
    module: str, options: list[str], said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(options) == 2
    assert said in capsys.readouterr().err


def test_the_gpu_is_measured_with_the_same_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark of the TensorRT runtime itself is tested in test_tensorrt_bench.py."""
    from vtsr.benchmarks.results import GPU, Results

    asked: list[str] = []

    def measure(options: list[str]) -> int:
        asked.extend(options)
        out = Path(options[options.index("--out") + 1])
        out.mkdir(parents=True)
        rows = [{"bench": "throughput", "size": "64x32", "fps_out": 1234.5}]
        Results(GPU, {"GPU": "Example"}, {"TensorRT": "10.9"}, "abc", rows).save(out / "runtime-Example.json")
        return 0

    platform = {"GPU": "Example", "driver": "580", "TensorRT": "10.9"}
    monkeypatch.setattr("vtsr.runtime.engines.platform.find_platform", lambda: platform)
    monkeypatch.setattr("vtsr.benchmarks.bench_tensorrt.main", measure)
    file = tmp_path / "gpu.json"
    assert main(["--gpu", "--sizes", "64x32", "--levels", "1", "2", "--precisions", "fp16", "--json", str(file)]) == 0
    words = " ".join(asked)
    assert "--size 64x32 --levels 1 2 --precision fp16" in words
    assert json.loads(file.read_text())["rows"] == [{"bench": "throughput", "size": "64x32", "fps_out": 1234.5}]


def test_a_missing_gpu_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from vtsr.runtime.engines.platform import what_is_missing

    if what_is_missing() is None:
        pytest.skip("this machine has a GPU")
    assert main(["--gpu"]) == 2
    words = capsys.readouterr().err
    assert words.startswith("vtsr-bench: ")
    assert words.count("\n") == 1
