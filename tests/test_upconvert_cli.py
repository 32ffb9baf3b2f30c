"""`vtsr-upconvert` as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from media import Command, Repeat, picture, planes, read_planes, read_times, write_clip

from vtsr.runtime.frame import Frame
from vtsr.runtime.upconvert import main
from vtsr.runtime.video.comparison import LABEL_HEIGHT, PANEL_HEIGHT, Comparison, moving_area


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "in.mp4", 12, codec="libx264", rate=Fraction(30000, 1001))


def test_the_summary_counts_frames_and_names_the_bottleneck(command: Command, clip: Path, tmp_path: Path) -> None:
    outcome = command(clip, tmp_path / "out.mp4", "--levels", 3)
    assert outcome.code == 0
    assert "12 frames in, 96 out" in outcome.said
    assert "bottleneck: " in outcome.said
    assert outcome.said.count("\n") == 1  # no progress bar where nobody watches


def test_quiet_says_nothing(command: Command, clip: Path, tmp_path: Path) -> None:
    assert command(clip, tmp_path / "out.mp4", "-q").said == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_progress(clip: Path, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    program = (
        "import sys, media, vtsr.runtime.upconverter as u\n"
        "u.Upconverter = media.Repeat\n"
        "from vtsr.runtime.upconvert import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # a new one has no columns
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(clip), str(tmp_path / "out.mp4")],
        stderr=theirs, cwd=Path(__file__).parent,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed: the program has ended
        pass
    assert process.wait(timeout=30) == 0
    assert b"48/48" in shown
    assert b"frames/s" in shown


def test_the_report_states_what_was_done(command: Command, clip: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert command(clip, tmp_path / "out.mp4", "--levels", 1, "--report", report, "--pix-fmt", "yuv422p").code == 0
    said = json.loads(report.read_text())
    assert said["levels"] == 1
    assert said["input"]["frame_rate"] == "30000/1001"
    assert said["output"]["frame_rate"] == "60000/1001"
    assert (said["input"]["frames"], said["output"]["frames"]) == (12, 24)
    assert (said["input"]["pix_fmt"], said["output"]["pix_fmt"]) == ("yuv420p", "yuv422p")
    assert said["input"]["width"] == 64
    assert said["input"]["constant_frame_rate"] is True
    assert said["input"]["damaged_packets"] == 0
    assert said["scene_cuts"] == []
    seconds = said["seconds"]
    assert seconds["total"] >= max(seconds["decode"], seconds["network"], seconds["encode"]) >= 0
    assert said["warnings"] == []


def test_the_report_counts_duplicates_and_clipped_highlights(command: Command, tmp_path: Path) -> None:
    # Every second picture is shown twice, and a quarter of each is white.
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(8):
        image = np.minimum(picture(index // 2), 250)
        image[:24, :32] = 255
        cv2.imwrite(str(folder / f"{index}.png"), image)
    report = tmp_path / "report.json"
    outcome = command(folder, tmp_path / "out.mkv", "--levels", 1, "--report", report)
    assert outcome.code == 0
    said = json.loads(report.read_text())
    assert said["input"]["duplicate_frames"] == 4
    assert said["input"]["clipped_share"] == 0.25
    assert "25% of the pixels are burnt out" in outcome.said
    assert any("burnt out" in warning for warning in said["warnings"])


def test_cuts_come_from_the_upconverter(
    command: Command, monkeypatch: pytest.MonkeyPatch, clip: Path, tmp_path: Path
) -> None:
    class Cutting(Repeat):
        def push(self, frame: Frame) -> list[Frame]:
            if frame.source_index == 7:
                self.cuts.append(7)
            return super().push(frame)

    monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Cutting)
    assert command(clip, tmp_path / "out.mp4", "--report", tmp_path / "r.json").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["scene_cuts"] == [7]


def test_options_reach_the_upconverter(
    command: Command, monkeypatch: pytest.MonkeyPatch, clip: Path, tmp_path: Path
) -> None:
    seen: dict[str, object] = {}

    class Noting(Repeat):
        def __init__(self, levels: int = 2, **options: object) -> None:
            super().__init__(levels)
            seen.update(options, levels=levels)

    monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Noting)
    options = ["-l", 3, "--backend", "onnxruntime", "--model", "m", "--threads", 2, "--precision", "fp32"]
    options += ["--scene-threshold", 0.25]
    assert command(clip, tmp_path / "out.mp4", *options).code == 0
    assert seen == {
        "levels": 3, "backend": "onnxruntime", "model": "m", "threads": 2, "precision": "fp32", "scene_threshold": 0.25,
        "frame_rate": Fraction(30000, 1001),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("codec", "extension", "name"),
    [("h264", ".mp4", "h264"), ("hevc", ".mov", "hevc"), ("vp9", ".mkv", "vp9"), ("av1", ".mp4", "av1"),
     ("ffv1", ".mkv", "ffv1"), (None, ".webm", "vp9"), (None, ".mov", "h264"), ("mpeg4", ".mp4", "mpeg4")],
)  # fmt: skip
def test_codecs_and_containers(
    command: Command, tmp_path: Path, codec: str | None, extension: str, name: str
) -> None:
    source = write_clip(tmp_path / "in.mkv", 3, size=(96, 64))
    output = tmp_path / f"out{extension}"
    options = ["--codec", codec] if codec else []
    outcome = command(source, output, "--levels", 1, *options)
    assert outcome.code == 0, outcome.said
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == name
    assert len(read_planes(output)) == 6


def test_crf_and_preset_reach_the_encoder(command: Command, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", 6, size=(160, 120))
    sizes = {}
    for crf in (5, 40):
        output = tmp_path / f"{crf}.mp4"
        assert command(source, output, "--levels", 1, "--crf", crf, "--preset", "veryfast").code == 0
        sizes[crf] = output.stat().st_size
    assert sizes[5] > 2 * sizes[40]
    assert b"subme=2" in (tmp_path / "5.mp4").read_bytes()  # x264 writes its settings: veryfast, not medium (7)


def test_the_output_has_the_permissions_of_any_new_file(command: Command, clip: Path, tmp_path: Path) -> None:
    assert command(clip, tmp_path / "out.mp4").code == 0
    (tmp_path / "other").touch()
    assert (tmp_path / "out.mp4").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_interlaced_input_gets_a_warning(command: Command, tmp_path: Path) -> None:
    source = write_clip(
        tmp_path / "in.mp4", 4, codec="libx264", options={"x264-params": "interlaced=1"}, size=(64, 64)
    )
    assert "is interlaced" in command(source, tmp_path / "out.mp4").said


def test_varying_frame_times_get_a_warning_where_they_are_lost(command: Command, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", pts=[0, 40, 100, 110], time_base=Fraction(1, 1000))
    assert "frame times vary" in command(source, tmp_path / "out.y4m", "--levels", 1).said
    assert "frame times vary" not in command(source, tmp_path / "out.mp4", "--levels", 1).said


def test_a_name_like_a_protocol_is_a_file(
    command: Command, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip.rename(tmp_path / "12:30 take.mp4")
    assert command("12:30 take.mp4", "http:take.mp4").code == 0
    assert len(read_planes(tmp_path / "http:take.mp4")) == 48


# The comparison picture


def test_the_comparison_shows_the_middle_frame_and_the_moving_area(command: Command, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", 9, size=(64, 48))
    output = tmp_path / "compare.png"
    assert command(source, tmp_path / "out.mkv", "--levels", 2, "--compare", output).code == 0
    image = cv2.imread(str(output))
    assert image.shape[0] == PANEL_HEIGHT + LABEL_HEIGHT
    # The left panel is input frame 4, the middle of nine: its brightness pattern matches no other frame as well.
    panel = image[LABEL_HEIGHT:, : PANEL_HEIGHT * 64 // 48]
    small = cv2.cvtColor(cv2.resize(panel, (64, 48), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    fits = [np.corrcoef(small.ravel(), planes(n)[0].ravel())[0, 1] for n in range(9)]
    assert int(np.argmax(fits)) == 4


def test_the_moving_area_is_where_first_and_last_output_differ() -> None:
    first = np.full((60, 80, 3), 100, np.uint8)
    last = first.copy()
    last[40:50, 60:75] = 200
    top, left, height, width = moving_area([first, first, last, last])
    assert (height, width) == (30, 40)
    assert top <= 40
    assert top + height >= 50
    assert left <= 60
    assert left + width >= 75


def test_a_shorter_clip_than_expected_still_gives_a_comparison(tmp_path: Path) -> None:
    comparison = Comparison(tmp_path / "c.png", middle=500)
    repeat = Repeat(1)
    for index in range(6):
        frame = Frame(picture(index), source_index=index)
        comparison.see_input(frame)
        for output in repeat.push(frame):
            comparison.see_output(output)
    comparison.save()
    assert cv2.imread(str(tmp_path / "c.png")) is not None


# The real network


def test_the_demo_runs_with_the_shipped_network(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--levels", "1", "--duration", "0.1", "--compare", "compare.png", "--report", "r.json"]
    assert main(["demo", "out.mp4", *options]) == 0, capsys.readouterr().err
    assert read_times(tmp_path / "out.mp4") == [Fraction(k, 48) for k in range(6)]
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["input"]["frames"] == 3
    assert set(report["seconds"]["network_stages"]) >= {"level 1"}
    assert cv2.imread("compare.png") is not None
    assert "3 frames in, 6 out" in capsys.readouterr().err


def test_an_input_of_that_name_comes_before_the_demo(
    command: Command, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip.rename(tmp_path / "demo")
    assert "12 frames in" in command("demo", "out.mp4").said


def test_help_names_every_option_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    guide = (Path(__file__).parent.parent / "docs" / "upconvert.md").read_text()
    options = {word.strip(",[]") for word in text.split() if word.startswith(("--", "[--"))}
    assert {"--levels", "--slow-motion", "--report", "--keep-partial"} <= options
    assert [option for option in sorted(options) if option not in guide] == []
