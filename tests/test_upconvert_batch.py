"""A folder of videos: a mirrored tree, one failure stops nothing else, and what is complete is not done again."""

from __future__ import annotations

import argparse
import json
import os
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest
from media import Command, Repeat, picture, read_planes, write_clip

from vtsr.errors import InputError
from vtsr.runtime.batch import SHOWN, Done, Item, find_items, is_batch, run_batch, table
from vtsr.runtime.conversion import Outcome
from vtsr.runtime.frame import Frame
from vtsr.runtime.upconvert import parser


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three videos in two folders, one of them broken, and things that are no videos."""
    root = tmp_path / "in"
    (root / "deep" / "er").mkdir(parents=True)
    write_clip(root / "a.mp4", 3, codec="libx264")
    write_clip(root / "deep" / "er" / "b.avi", 4)
    (root / "deep" / "broken.mkv").write_bytes(b"not a video at all" * 100)
    (root / "deep" / "notes.txt").write_text("Dear diary")
    (root / ".hidden.mp4").write_bytes((root / "a.mp4").read_bytes())
    cv2.imwrite(str(root / "poster.jpg"), picture(0))
    return root


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_failure_stops_nothing_else(command: Command, tree: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    outcome = command(tree, tmp_path / "out", "--levels", 1, "--report", report)
    assert outcome.code == 1
    assert files(tmp_path / "out") == ["a.mp4", "deep/er/b.avi.mkv"]
    assert [len(read_planes(tmp_path / "out" / name)) for name in files(tmp_path / "out")] == [6, 8]
    assert "Traceback" not in outcome.said
    lines = [line.removeprefix("vtsr-upconvert: ").split() for line in outcome.said.splitlines()]
    assert lines[-1] == ["3", "files:", "2", "done,", "1", "failed"]
    rows = {line[1]: line for line in lines if line[0] in ("done", "failed")}
    assert rows["a.mp4"][2:6] == ["3", "in", "6", "out"]
    assert rows["deep/er/b.avi"][2:6] == ["4", "in", "8", "out"]
    assert rows["deep/broken.mkv"][0] == "failed"
    assert "not a video that can be read" in " ".join(rows["deep/broken.mkv"])
    said = {Path(entry["input"]).name: entry for entry in json.loads(report.read_text())["files"]}
    assert {name: entry["result"] for name, entry in said.items()} == {
        "a.mp4": "done", "b.avi": "done", "broken.mkv": "failed",
    }  # fmt: skip
    assert said["a.mp4"]["report"]["output"]["frames"] == 6


def test_all_well_is_exit_code_zero_and_the_same_again_fails_unless_told(
    command: Command, tree: Path, tmp_path: Path
) -> None:
    (tree / "deep" / "broken.mkv").unlink()
    assert command(tree, tmp_path / "out", "--levels", 1).code == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.m*")}
    outcome = command(tree, tmp_path / "out", "--levels", 1)
    assert outcome.code == 1
    assert outcome.said.count("exists already; add -y") == 2
    outcome = command(tree, tmp_path / "out", "--levels", 1, "--resume")
    assert outcome.code == 0
    assert "2 files: 0 done, 2 complete already, 0 failed" in outcome.said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.m*")} == stamps


def test_an_interrupted_batch_goes_on_where_it_was(
    command: Command, monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path
) -> None:
    class Interrupted(Repeat):
        def push(self, frame: Frame) -> list[Frame]:
            if frame.source_index == 3:  # only b.avi has a fourth frame
                raise KeyboardInterrupt
            return super().push(frame)

    (tree / "deep" / "broken.mkv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("vtsr.runtime.upconverter.Upconverter", Interrupted)
        outcome = command(tree, tmp_path / "out", "--levels", 1)
    assert outcome.code == 130
    assert "2 files: 1 done, 0 failed, 1 not reached" in outcome.said
    assert files(tmp_path / "out") == ["a.mp4"]
    outcome = command(tree, tmp_path / "out", "--levels", 1, "--resume")
    assert outcome.code == 0
    assert "1 done, 1 complete already" in outcome.said
    assert files(tmp_path / "out") == ["a.mp4", "deep/er/b.avi.mkv"]


def test_an_error_nobody_thought_of_is_a_failure_of_one_file(
    command: Command, monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path
) -> None:
    class Surprising(Repeat):
        def push(self, frame: Frame) -> list[Frame]:
            if frame.source_index == 3:
                raise ZeroDivisionError("surprise")
            return super().push(frame)

    monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Surprising)
    outcome = command(tree, tmp_path / "out", "--levels", 1, "-q")
    assert outcome.code == 1
    assert [line.split()[1:3] for line in outcome.said.splitlines()] == [
        ["failed", "deep/broken.mkv"], ["failed", "deep/er/b.avi"],
    ]  # fmt: skip
    assert "Unexpected ZeroDivisionError: surprise" in outcome.said
    assert not (tmp_path / "out" / "deep").exists()  # no folder for what did not come about


def test_folders_of_images_are_sequences_where_there_are_no_videos(command: Command, tmp_path: Path) -> None:
    for name in ("one", "two/deeper"):
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        for index in range(3):
            cv2.imwrite(str(folder / f"{index}.png"), picture(index))
    assert command(tmp_path / "in", tmp_path / "out", "--levels", 1, "--fps", 24).code == 0
    images = [f"{index:06d}.png" for index in range(6)]
    assert files(tmp_path / "out") == [f"{name}/{image}" for name in ("one", "two/deeper") for image in images]


# What a folder means


def test_what_a_folder_stands_for(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    assert not is_batch(folder)  # nothing in it
    (folder / "sub" / "clip.MKV").touch()
    assert is_batch(folder)  # a video below
    (folder / "1.png").touch()
    assert not is_batch(folder)  # images of its own: one sequence, as ever
    (folder / "clip.mp4").touch()
    assert is_batch(folder)  # a video of its own, with a poster beside it
    assert not is_batch(folder / "clip.mp4")
    assert not is_batch(tmp_path / "nowhere")


def test_the_output_is_not_taken_for_input(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "out" / "old.mp4").touch()
    assert [item.name for item in find_items(tmp_path, tmp_path / "out")] == ["a.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert [item.name for item in find_items(tmp_path / "in", tmp_path / "out")] == ["a.mp4"]


@pytest.mark.parametrize(
    ("expected", "output", "options"),
    [
        ("give a folder for the output too", "out.mp4", []),
        ("give a folder for the output too", "-", []),
        ("is a file; give a folder", "in/poster.jpg", []),
        ("is the input itself", "in", []),
        ("create it first", "no/such/out", []),
        ("draws one video", "out", ["--compare", "c.png"]),
        ("one by one", "out", ["--size", "64x48"]),
    ],
)
def test_what_makes_no_sense_for_a_folder(
    command: Command, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str, output: str,
    options: list[Any],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    outcome = command("in", output, *options)
    assert (outcome.code, outcome.said.count("\n")) == (2, 1), outcome.said
    assert expected in outcome.said
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_of_very_many_files_only_failures_are_listed() -> None:
    items = [Item(f"{n}.mp4", Path(f"{n}.mp4"), Path("out")) for n in range(SHOWN + 1)]
    done = [Done(item, "failed" if n == 7 else "done", "Torn." if n == 7 else "") for n, item in enumerate(items)]
    lines = list(table(done, len(done), quiet=False))
    assert lines == ["  failed    7.mp4  Torn.", f"{SHOWN + 1} files: {SHOWN} done, 1 failed"]


def test_files_at_the_same_time_do_not_take_folders_from_each_other(
    tree: Path, tmp_path: Path
) -> None:
    failed = threading.Event()

    def convert(args: argparse.Namespace) -> Outcome:
        if "broken" in args.input:
            failed.set()
            raise InputError("Torn.")
        assert failed.wait(10)  # its folder is also that of the others
        Path(args.output).write_text("a video")
        return Outcome()

    args = parser().parse_args([str(tree), str(tmp_path / "out"), "-q"])
    code, report = run_batch(args, convert, at_once=3)
    assert code == 1
    assert [entry["result"] for entry in report["files"]] == ["done", "failed", "done"]
    assert files(tmp_path / "out") == ["a.mp4", "deep/er/b.avi.mkv"]
