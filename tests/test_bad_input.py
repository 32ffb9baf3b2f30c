"""Whatever is wrong gets one sentence, exit code 2 and no leftover; what can be decoded is not lost."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import pytest
from media import Command, Repeat, mux_audio, picture, read_planes, sine, write_clip

from vtsr.errors import InputError
from vtsr.runtime.frame import Frame

RESERVED = 3000  # bytes at the beginning of a small file that hold its headers


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "in.mp4", 12, codec="libx264")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def refused(command: Command, folder: Path, expected: str, *arguments: object) -> None:
    """Runs the command and checks the way it fails."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    outcome = command(*arguments)
    assert outcome.code == 2
    lines = outcome.said.strip().splitlines()
    assert len(lines) == 1, outcome.said
    assert lines[0].startswith("vtsr-upconvert: ")
    assert expected in lines[0]
    assert "Traceback" not in outcome.said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_missing_file(command: Command, out: Path) -> None:
    refused(command, out, "nowhere.mp4 does not exist", out / "nowhere.mp4", out / "out.mp4")


def test_folder_without_images(command: Command, out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(command, out, "holds no images", tmp_path / "empty", out / "out.mp4")


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4"])
def test_text_file(command: Command, out: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dear diary, today I filmed a skater.\n" * 100)
    refused(command, out, "not a video", tmp_path / name, out / "out.mp4")


def test_empty_file(command: Command, out: Path, tmp_path: Path) -> None:
    (tmp_path / "in.mp4").touch()
    refused(command, out, "is empty", tmp_path / "in.mp4", out / "out.mp4")


def test_file_cut_before_its_index(command: Command, out: Path, clip: Path) -> None:
    data = clip.read_bytes()  # an ordinary MP4 has its index at the end
    clip.write_bytes(data[: len(data) // 2])
    refused(command, out, "can be read", clip, out / "out.mp4")


def test_file_with_nothing_decodable(command: Command, out: Path, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", 10, codec="libx264")
    data = path.read_bytes()
    path.write_bytes(data[:1200] + bytes(len(data) - 1200))
    refused(command, out, "could be decoded", path, out / "out.mp4")


def test_audio_only(command: Command, out: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        mux_audio(container, container.add_stream("aac", rate=48000), sine(0.3))
    refused(command, out, "no video stream", path, out / "out.mp4")


def test_size_that_changes_midway(command: Command, out: Path, tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.h264", 5, codec="libx264", size=(64, 48)).read_bytes()
    second = write_clip(tmp_path / "b.h264", 5, codec="libx264", size=(96, 48)).read_bytes()
    path = tmp_path / "in.h264"
    path.write_bytes(first + second)
    refused(command, out, "from 64x48 to 96x48", path, out / "out.mp4")


def test_unreadable_file(command: Command, out: Path, clip: Path) -> None:
    clip.chmod(0)
    if os.access(clip, os.R_OK):
        pytest.skip("this user may read everything")
    refused(command, out, "may not be read", clip, out / "out.mp4")


def test_missing_output_folder(command: Command, out: Path, clip: Path) -> None:
    refused(command, out, "create it first", clip, out / "deeper" / "out.mp4")


def test_output_is_the_input(command: Command, clip: Path) -> None:
    content = clip.read_bytes()
    refused(command, clip.parent, "is the input itself", clip, clip, "-y")
    link = clip.with_name("link.mp4")
    link.symlink_to(clip)
    refused(command, clip.parent, "is the input itself", clip, link, "-y")
    assert clip.read_bytes() == content


def test_existing_output_is_kept_unless_told(command: Command, out: Path, clip: Path) -> None:
    (out / "out.mp4").write_text("precious")
    refused(command, out, "add -y", clip, out / "out.mp4")
    assert command(clip, out / "out.mp4", "-y").code == 0
    assert len(read_planes(out / "out.mp4")) == 48


def test_output_is_a_folder(command: Command, out: Path, clip: Path) -> None:
    (out / "dir.mp4").mkdir()
    (out / "dir.mp4" / "000000.png").touch()
    refused(command, out, "add -y", clip, out / "dir.mp4")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write into")
def test_unwritable_folder(command: Command, out: Path, clip: Path) -> None:
    refused(command, out, "Nothing can be written into /proc", clip, "/proc/out.mp4")


@pytest.mark.parametrize(
    ("expected", "name", "options"),
    [
        ("'.xyz' is not a video container", "out.xyz", []),
        ("without extension", "out", []),
        ("Codec 'divx9' is unknown", "out.mp4", ["--codec", "divx9"]),
        ("Codec 'aac' is unknown", "out.mp4", ["--codec", "aac"]),
        (".webm cannot hold h264; choose one of vp9, av1", "out.webm", ["--codec", "h264"]),
        (".mov cannot hold av1", "out.mov", ["--codec", "av1"]),
        ("from 1 to 4, not 5", "out.mp4", ["--levels", "5"]),
        ("from 1 to 4, not 0", "out.mp4", ["--levels", "0"]),
        ("invalid int value: 'many'", "out.mp4", ["--levels", "many"]),
        ("from 0 (best) to 51, not 99", "out.mp4", ["--crf", "99"]),
        ("ffv1 has no --crf", "out.mkv", ["--codec", "ffv1", "--crf", "20"]),
        ("no preset 'warp'", "out.mp4", ["--preset", "warp"]),
        ("cannot encode pixel format rgb565", "out.mp4", ["--pix-fmt", "rgb565"]),
        ("'soon' is not a time", "out.mp4", ["--start", "soon"]),
        ("ends after 0.48 s", "out.mp4", ["--start", "9"]),
        ("longer than zero", "out.mp4", ["--duration", "0"]),
        ("'fast' is not a frame rate", "out.mp4", ["--fps", "fast"]),
        ("has times of its own", "out.mp4", ["--fps", "25"]),
        ("goes with --slow-motion", "out.mp4", ["--audio", "stretch"]),
        ("cannot be copied in slow motion", "out.mp4", ["--slow-motion", "--audio", "copy"]),
        ("must be 1 or more", "out.mp4", ["--threads", "0"]),
        ("does not exist; create it first", "out.mp4", ["--report", "no/such/folder.json"]),
        ("is not an image type", "out.mp4", ["--compare", "picture.docx"]),
        ("unrecognized arguments: --wibble", "out.mp4", ["--wibble"]),
    ],
)
def test_options(command: Command, out: Path, clip: Path, expected: str, name: str, options: list[str]) -> None:
    refused(command, out, expected, clip, out / name, *options)


def test_odd_size_for_an_encoder_that_wants_even_ones(command: Command, out: Path, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", 2, size=(53, 37))
    refused(command, out, "even width and height", path, out / "a.mp4", "--pix-fmt", "yuv420p")
    refused(command, out, "even width and height", path, out / "a.mp4", "--codec", "av1")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_missing_extra(capsys: pytest.CaptureFixture[str], out: Path, clip: Path) -> None:
    from vtsr.runtime.upconvert import main

    assert main([str(clip), str(out / "out.mp4"), "--backend", "tensorrt"]) == 2
    said = capsys.readouterr().err
    assert "tensorrt" in said.lower()
    assert len(said.strip().splitlines()) == 1
    assert list(out.iterdir()) == []


def test_a_picture_too_small_for_the_network(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path) -> None:
    from vtsr.runtime.upconvert import main

    clip = write_clip(tmp_path / "in.mkv", 2, size=(24, 8))
    assert main([str(clip), str(out / "out.mkv")]) == 2
    said = capsys.readouterr().err
    assert "24 x 8" in said
    assert len(said.strip().splitlines()) == 1
    assert list(out.iterdir()) == []


def test_unknown_model(capsys: pytest.CaptureFixture[str], out: Path, clip: Path) -> None:
    from vtsr.runtime.upconvert import main

    assert main([str(clip), str(out / "out.mp4"), "--model", "no-such-model"]) == 2
    said = capsys.readouterr().err
    assert "no-such-model" in said
    assert len(said.strip().splitlines()) == 1
    assert list(out.iterdir()) == []


# Damage: use what decodes, warn, end well


def test_truncated_matroska_keeps_what_is_there(command: Command, out: Path, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", 60, codec="libx264", options={"g": "10", "bf": "0"})
    whole = read_planes(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    outcome = command(path, out / "out.nut", "--levels", 1)
    assert outcome.code == 0
    assert "it may be incomplete" in outcome.said
    pictures = read_planes(out / "out.nut")
    assert 20 <= len(pictures) < 120
    # All but perhaps the last, half a packet, are the pictures of the whole file.
    for index, got in enumerate(pictures[:-2]):
        assert all((a == b).all() for a, b in zip(got, whole[index // 2], strict=True))


def test_truncated_mp4_keeps_what_is_there(command: Command, out: Path, tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mp4", 60, codec="libx264", options={"g": "10"}, container_options={"movflags": "faststart"}
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    outcome = command(path, out / "out.mp4", "--levels", 1)
    assert outcome.code == 0
    assert "of 60 frames could be read" in outcome.said
    assert len(read_planes(out / "out.mp4")) >= 10


def test_corrupted_packets_are_skipped_and_counted(command: Command, out: Path, tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mp4", 60, codec="libx264", options={"g": "10"}, container_options={"movflags": "faststart"}
    )
    data, chance = bytearray(path.read_bytes()), random.Random(1)
    for _ in range(60):
        data[chance.randrange(RESERVED, len(data))] = chance.randrange(256)
    path.write_bytes(data)
    outcome = command(path, out / "out.mp4", "--levels", 1)
    assert outcome.code == 0
    assert "is damaged: " in outcome.said
    assert len(read_planes(out / "out.mp4")) >= 30


def test_a_damaged_image_is_skipped(command: Command, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index))
    (folder / "2.png").write_bytes(b"\x89PNG no more")
    outcome = command(folder, out / "out.mkv", "--levels", 1, "--fps", "25")
    assert outcome.code == 0
    assert "1 of 4 images could not be decoded" in outcome.said
    assert len(read_planes(out / "out.mkv")) == 6


# Failures on the way


def test_full_disk_leaves_nothing_behind(out: Path, clip: Path) -> None:
    # A limit on the size of files stands for the full disk.
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "import vtsr.runtime.upconverter, media\n"
        "vtsr.runtime.upconverter.Upconverter = media.Repeat\n"
        "from vtsr.runtime.upconvert import main\n"
        "sys.exit(max(main([sys.argv[1], f'{sys.argv[2]}/out{e}']) for e in ('.mp4', '.mkv', '.y4m')))\n"
    )
    if sys.platform == "win32":
        pytest.skip("no such limit on Windows")
    done = run_program(program, clip, out)
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert len(said) == 3
    assert all("could not be written" in line for line in said)
    assert list(out.iterdir()) == []


def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


class Failing(Repeat):
    """Fails at the third frame."""

    def push(self, frame: Frame) -> list[Frame]:
        if frame.source_index == 2:
            raise InputError("The third frame is cursed.")
        return super().push(frame)


def test_an_error_inside_the_network_stops_everything(
    command: Command, monkeypatch: pytest.MonkeyPatch, out: Path, clip: Path
) -> None:
    monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Failing)
    refused(command, out, "The third frame is cursed.", clip, out / "out.mp4")


INTERRUPTED = (
    "import sys, time, media, vtsr.runtime.upconverter as u\n"
    "class Slow(media.Repeat):\n"
    "    def push(self, frame):\n"
    "        time.sleep(0.05)\n"
    "        print('working', flush=True)\n"
    "        return super().push(frame)\n"
    "u.Upconverter = Slow\n"
    "from vtsr.runtime.upconvert import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent differently there")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption(out: Path, tmp_path: Path, keep: bool, number: int) -> None:
    clip = write_clip(tmp_path / "long.mkv", 300)
    output = out / "out.mkv"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    options = ["--codec", "ffv1", "--levels", "1", *(["--keep-partial"] if keep else [])]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(clip), str(output), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(8):
        assert "working" in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 10  # 300 frames would take 15 s
    assert "Traceback" not in said
    assert "interrupted" in said
    left = [path.name for path in out.iterdir()]
    if not keep:
        assert left == []
        return
    assert left == ["out.mkv.partial"]
    assert "out.mkv.partial" in said
    assert len(read_planes(out / "out.mkv.partial")) >= 8


def test_a_subprocess_says_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vtsr.runtime.upconvert", str(tmp_path / "no.mp4"), str(tmp_path / "out.mp4")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vtsr-upconvert: {tmp_path / 'no.mp4'} does not exist; check the name.\n"
