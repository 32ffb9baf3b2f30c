"""vtsr-doctor: finds what is there, names what is missing, and notices a network that computes nonsense."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import Repeat

import vtsr
from vtsr.runtime.doctor import machine, selftest, software
from vtsr.runtime.doctor.cli import main
from vtsr.runtime.doctor.report import LINE_WIDTH, Finding, Section, as_data, as_text, is_usable
from vtsr.runtime.models import MODELS_FOLDER

PYPROJECT = Path(vtsr.__file__).parent / "pyproject.toml"


def run(*arguments: str, before: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with code run before and after it."""
    program = (
        f"import sys\n{before}\nfrom vtsr.runtime.doctor.cli import main\ncode = main(sys.argv[1:])\n{after}\n"
        "sys.exit(code)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def findings(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for section in report["sections"].values() for entry in section}


@pytest.fixture(scope="module")
def full_report() -> dict[str, Any]:
    heavy = "{'torch', 'onnx', 'matplotlib'}"
    done = run("--json", "-", after=f"assert not {heavy} & set(sys.modules), 'imported too much'")
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_sound_installation_is_usable(full_report: dict[str, Any]) -> None:
    assert full_report["usable"] is True
    assert {"Software", "Extras", "Machine", "Codecs", "Models", "Network"} == set(full_report["sections"])
    found = findings(full_report)
    assert found["vtsr"]["facts"]["version"] == vtsr.__version__
    assert found["av"]["facts"]["version"] == av.__version__
    assert found["numpy"]["facts"]["version"] == np.__version__
    assert found["backend"]["facts"]["reasons"]


def test_everything_that_is_not_fine_says_what_to_do(full_report: dict[str, Any]) -> None:
    for entry in findings(full_report).values():
        assert bool(entry["advice"]) == (entry["state"] != "ok"), entry


def test_the_self_test_is_much_better_than_doing_nothing(full_report: dict[str, Any]) -> None:
    test = findings(full_report)["self-test"]
    assert test["state"] == "ok"
    facts = test["facts"]
    assert facts["gain_db"] == pytest.approx(facts["psnr_db"] - facts["nothing_db"], abs=0.02)
    assert facts["gain_db"] > 2
    assert facts["psnr_db"] > 26


def test_shipped_models_are_hash_checked(full_report: dict[str, Any]) -> None:
    default = findings(full_report)["default"]
    listed = json.loads((MODELS_FOLDER / "default" / "manifest.json").read_text())["files"]
    assert default["facts"]["files"] == len(listed)
    assert default["facts"]["bytes"] == sum((MODELS_FOLDER / "default" / name).stat().st_size for name in listed)


def test_codecs_agree_with_what_ffmpeg_lists(full_report: dict[str, Any]) -> None:
    found = findings(full_report)
    assert ("h264" in found["read"]["facts"]["codecs"]) == ("h264" in av.codecs_available)
    assert ("h264" in found["write"]["facts"]["codecs"]) == ("libx264" in av.codecs_available)
    assert ("av1" in found["read"]["facts"]["codecs"]) == bool({"libdav1d", "av1"} & av.codecs_available)


# What the self-test rests on


def test_the_rendered_clip_obeys_the_exposure_law_and_moves() -> None:
    frames, halves = selftest.rendered_exposures()
    assert len(halves) == 2 * len(frames)
    for index, frame in enumerate(frames):
        mean = (halves[2 * index].astype(float) + halves[2 * index + 1]) / 2
        assert np.abs(mean - frame).max() <= 1  # rounding
        assert np.abs(halves[2 * index].astype(float) - halves[2 * index + 1]).mean() > 1


def test_a_network_that_does_nothing_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Idle(Repeat):
        backend_name = "idle"

        def run(self, frames: Any) -> Any:
            for index, image in enumerate(frames):
                yield from self.push(vtsr.Frame(image, pts=index))

    monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Idle)
    assert main([]) == 1
    said = capsys.readouterr().out
    assert "0.0 dB better than doing nothing" in said
    assert "!!  self-test" in said
    assert said.strip().endswith("Not usable yet: self-test (marked !!).")


# Trouble


def test_a_damaged_model_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODELS_FOLDER / "default", folder)
    data = bytearray((folder / "step.onnx").read_bytes())
    data[1000] ^= 1
    (folder / "step.onnx").write_bytes(data)
    assert main(["--quick", "--json", "--model", str(folder)]) == 1
    found = findings(json.loads(capsys.readouterr().out))[str(folder)]
    assert found["state"] == "broken"
    assert "step.onnx is damaged" in found["advice"]


def test_a_report_goes_into_a_file_beside_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--json", str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["usable"] is True
    assert "Nothing is broken" in capsys.readouterr().out
    assert main(["--quick", "--json", str(tmp_path / "nowhere" / "report.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["onnxruntime", "numpy", "cv2", "av"])
def test_a_package_that_cannot_be_imported_is_named(package: str) -> None:
    done = run("--json", "-", before=f"sys.modules[{package!r}] = None")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["usable"] is False
    name = {"cv2": "opencv"}.get(package, package)
    assert findings(report)[name]["state"] == "broken"
    assert "pip install" in findings(report)[name]["advice"]


def test_an_unknown_model_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--model", "no-such"]) == 1
    said = capsys.readouterr().out
    assert "There is no model 'no-such'" in said
    assert "Traceback" not in said


# Details


def test_requirements_are_those_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    expected = {
        extra: {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in lines if "python_version" not in line} - {"vtsr"}  # type: ignore[index]
        for extra, lines in groups.items()
    }
    found = {extra: set(names) for extra, names in software._requirements().items()}
    for extra, names in found.items():  # metadata of an editable install may be older than the file
        assert names <= expected[extra] | {"vtsr"}, extra
    assert found[""] == expected[""]


def test_a_visible_gpu_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA Example 9000\nIRQ: 12\n")
    monkeypatch.setattr(machine, "GPUS", tmp_path)
    monkeypatch.setattr(machine, "driver_version", lambda: "580.95.05")
    monkeypatch.setattr(machine, "what_is_missing", lambda: "This machine lacks TensorRT.")
    gpu, tensorrt = machine._gpus()
    assert (gpu.state, gpu.text) == ("ok", "NVIDIA Example 9000; driver 580.95.05")
    assert (tensorrt.state, tensorrt.text) == ("missing", "This machine lacks TensorRT.")
    assert "vtsr[tensorrt]" in tensorrt.advice


def test_scarce_memory_is_mentioned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       4194304 kB\nMemFree: 1 kB\nMemAvailable:    1048576 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    found = machine._memory()
    assert (found.state, found.text) == ("missing", "1.0 of 4.0 GiB free")


def test_the_report_is_narrow_and_complete() -> None:
    long = "word " * 60
    sections = [
        Section("One", (Finding("a", "ok", "fine"), Finding("b", "missing", long, long))),
        Section("Two", (Finding("c", "broken", "", "Do this."),)),
    ]
    text = as_text(sections)
    assert max(map(len, text.splitlines())) <= LINE_WIDTH
    assert text.count("word") == 120
    assert "!!  c" in text
    assert "-> Do this." in text
    assert not is_usable(sections)
    assert is_usable(sections[:1])
    assert as_data(sections)["sections"]["Two"][0]["advice"] == "Do this."
