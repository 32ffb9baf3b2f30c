"""docs/performance.md says what the committed figures say, and nothing that they do not."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vtsr.benchmarks.plots import FINGERPRINT, fingerprint, plot
from vtsr.benchmarks.report import NO_CPU, NO_GPU, committed, front_sentence, main, performance, text
from vtsr.benchmarks.results import CPU, GPU, Results, load
from vtsr.errors import InputError

ROOT = Path(__file__).parent.parent
MACHINE = {"cpu": "Example 9000", "cores": 2, "vectors": ["avx2"], "memory_gib": 8.0, "system": "Linux x86_64",
           "busy_before": 0.02}  # fmt: skip


def engine(name: str, seconds: float, **more: Any) -> dict[str, Any]:
    precision = name.split()[-1] if name.startswith("ONNX") else "fp32"
    return {"bench": "engines", "engine": name, "precision": precision, "size": "448x256", "batch": 1, "threads": 2,
            "seconds": seconds, "fastest": seconds, "spread": 0.01, **more}  # fmt: skip


def method(name: str, psnr: float, fps: float, level: int = 1, **more: Any) -> dict[str, Any]:
    ours = name.startswith("vtsr")
    return {"bench": "competitors", "method": name, "ours": ours, "precision": "fp32" if ours else "", "levels": level,
            "size": "480x270", "threads": 2, "psnr": psnr, "psnr_by_clip": {"street": psnr}, "fps_out": fps,
            **more}  # fmt: skip


ROWS = [
    engine("PyTorch eager", 0.120, ratio=1.0),
    engine("ONNX Runtime fp32", 0.0375, ratio=3.2),
    engine("ONNX Runtime int8", 0.025, ratio=4.8, ratio_fp32=1.25),
    {"bench": "cold start", "size": "448x256", "precision": "fp32", "threads": 2, "import_s": 0.3, "session_s": 0.1,
     "first_frame_s": 0.1, "seconds": 0.62, "fastest": 0.6, "interpreter_s": 0.05},
    method("vtsr default fp32", 31.0, 25.0), method("flow", 29.5, 12.0), method("blend", 26.0, 400.0),
    *({"bench": "length", "size": "256x144", "levels": 1, "precision": "fp32", "threads": 2, "frames": n,
       "seconds": n / 10, "peak_mib": 200.0} for n in (8, 16, 32)),
]  # fmt: skip


def results(**changes: Any) -> Results:
    return replace(Results(CPU, MACHINE, {"vtsr": "0.1.0"}, "abc", list(ROWS), "2025-01-31"), **changes)


def test_the_document_is_what_the_committed_results_make() -> None:
    """If this fails: python -m vtsr.benchmarks.report"""
    written = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert written == performance(*committed(ROOT / "benchmarks" / "results"))


def chunks(png: bytes) -> dict[str, str]:
    """The text chunks of a PNG file, by the letter of its specification."""
    found, at = {}, 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind == b"tEXt":
            name, _, value = png[at + 8 : at + 8 + length].partition(b"\0")
            found[name.decode()] = value.decode()
        at += 12 + length
    return found


def test_the_plots_show_the_committed_results() -> None:
    """If this fails: python -m vtsr.benchmarks.report"""
    cpu = [found for found in committed(ROOT / "benchmarks" / "results")[0] if found.kind == CPU]
    document = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\((images/performance-.*?)\)", document)
    assert bool(shown) == bool(cpu)
    for image in shown:
        assert chunks((ROOT / "docs" / image).read_bytes())[FINGERPRINT] in {fingerprint(found) for found in cpu}


def test_aims_are_said_to_be_reached_or_not() -> None:
    said = text(results())
    assert "**3.20 times** as fast as PyTorch eager (aim: 3 times; reached)" in said
    assert "**1.25 times** as fast as fp32 (aim: 1.3 times where the CPU has integer dot products; not reached)" in said
    assert "**0.62 s** (aim: 1 s; reached)" in said
    assert "| ONNX Runtime fp32 | 3.20 | 37.5 | 1% |" in said
    assert "overhead" not in said  # it was not measured


def test_a_busy_machine_is_owned_up_to() -> None:
    assert "Other programs" not in text(results())
    said = text(results(machine={**MACHINE, "busy_before": 0.8}))
    assert "Other programs were using 80% of the machine before the run" in said
    assert "as fast as PyTorch eager (aim: 3 times; not judged on a busy machine)" in said


def test_what_is_missing_is_named() -> None:
    assert "- torch.compile: no compiler" in text(results(missing=["torch.compile: no compiler"]))
    document = performance([])
    assert NO_CPU in document
    assert NO_GPU in document


def test_gpu_rows_are_shown() -> None:
    rows = [
        {"bench": "throughput", "size": "1280x720", "levels": 1, "fps_out": 2345.678},
        {"bench": "accuracy", "size": "1280x720", "levels": 1, "psnr_db": 61.5, "repeatable": True},
        {"bench": "goals", "goal": "output fps, at least", "aim": 2000.0, "value": 2345.678, "reached": True},
    ]
    where = {"GPU": "Example H1", **MACHINE}
    gpu = Results(GPU, where, {"TensorRT": "10.9"}, "abc", rows, "2025-01-31", ["4K: too slow"])
    document = performance([results(), gpu])
    assert NO_GPU not in document
    assert "Measured on Example H1" in document
    assert "- output fps, at least 2000: **2346** (reached)" in document
    assert "| 1280x720 | 1 | 2346 |" in document
    assert "| 1280x720 | 1 | 61.5 | yes |" in document
    assert "- 4K: too slow" in document


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([method("vtsr", 31, 25), method("flow", 29, 12)], "nothing is better in both than *vtsr*: the front is ours."),
        ([method("vtsr", 31, 25), method("blend", 26, 400)], "*blend* is on the front because of its speed."),
        ([method("vtsr", 31, 25), method("new", 32, 9)], "*new* is on the front because of quality at their speed."),
        ([method("vtsr", 31, 25), method("new", 32, 30)], "vtsr is behind *new*."),
    ],
)
def test_the_document_says_where_the_front_is_not_ours(rows: list[dict[str, Any]], said: str) -> None:
    assert said.replace("their speed", "its speed") in front_sentence(rows).replace("their speed", "its speed")


def test_results_survive_their_file(tmp_path: Path) -> None:
    file = tmp_path / "cpu.json"
    found = results(missing=["x"], facts={"quick": True, "model": "default"})
    found.save(file)
    assert load(file) == found
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.json"]


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for number, content in enumerate(("", "[]", '{"kind": "cpu"}')):
        file = tmp_path / f"{number}.json"
        file.write_text(content)
        with pytest.raises(InputError, match="holds no results of vtsr-bench; measure again"):
            load(file)


def test_one_command_writes_the_document_and_its_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    results().save(tmp_path / "benchmarks" / "results" / "cpu.json")
    assert main(["--root", str(tmp_path)]) == 0
    document = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    images = re.findall(r"\]\((images/.*?)\)", document)
    assert images == ["images/performance-growth.png", "images/performance-quality.png"]  # what there are rows for
    for image in images:
        assert chunks((tmp_path / "docs" / image).read_bytes())[FINGERPRINT] == fingerprint(results())


def test_plots_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from vtsr.errors import OutputError

    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        plot(results(), tmp_path / "file")
