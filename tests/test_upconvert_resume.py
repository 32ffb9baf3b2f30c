"""A job that is stopped at any moment goes on, and nobody can tell from its output."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import resume_worker
from media import Command, from_av, mux_audio, picture, planes, read_planes, read_times, sine, to_av, write_clip

from vtsr.runtime.cpu import has_avx512
from vtsr.runtime.frame import Frame, PixelFormat
from vtsr.runtime.segments.journal import Journal
from vtsr.runtime.segments.span import SEGMENT_FRAMES, Span, gaps, overlap
from vtsr.runtime.upconverter import Upconverter
from vtsr.runtime.video.codecs import Encoding, choose_encoder, container_for
from vtsr.runtime.video.space import bits_per_pixel, check_room, estimate

SIZE = 5  # input frames per segment in these tests
KILLS = 20


class StopError(Exception):
    """Stands for whatever ends a job from outside."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    command = Command(monkeypatch, capsys)
    monkeypatch.undo()  # not `Repeat`, which has no state to be lost
    monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Upconverter)
    resume_worker.install()
    return command


def scenes(path: Path, frames: int = 33, cut: int = 10, **options: Any) -> Path:
    """A clip with sound and a scene cut at frame ``cut``."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"g": "12", **options})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        mux_audio(container, sound, sine(frames / 25))
        for index in range(frames):
            pictures = planes(index)
            if index >= cut:
                pictures = [np.ascontiguousarray(255 - plane[::-1]) for plane in reversed_chroma(pictures)]
            container.mux(video.encode(to_av(pictures, "yuv420p")))
        container.mux(video.encode(None))
    return path


def reversed_chroma(pictures: list[Any]) -> list[Any]:
    return [pictures[0], pictures[2], pictures[1]]


def everything(path: Path) -> dict[str, Any]:
    """All a file holds: packets of every stream with their times, pictures with theirs, and the track's length."""
    with av.open(str(path)) as container:
        lengths = [(stream.type, stream.start_time, stream.duration, stream.time_base) for stream in container.streams]
        packets = [
            (p.stream.index, p.pts, p.dts, p.duration, p.is_keyframe, bytes(p)) for p in container.demux() if p.size
        ]
    with av.open(str(path)) as container:
        pictures = [(f.pts, [plane.tobytes() for plane in from_av(f)]) for f in container.decode(video=0)]
    return {"lengths": lengths, "packets": packets, "pictures": pictures}


def stop_after(monkeypatch: pytest.MonkeyPatch, segments: int, error: BaseException | None = None) -> None:
    """The next job ends with ``error`` when that many segments are finished."""
    add = Journal.add

    def limited(self: Journal, segment: Any) -> None:
        if len(self.segments) >= segments:
            raise error or KeyboardInterrupt
        add(self, segment)

    monkeypatch.setattr(Journal, "add", limited)


def go_on(monkeypatch: pytest.MonkeyPatch, add: Any = Journal.add) -> None:
    monkeypatch.setattr(Journal, "add", add)


def stopped(command: Command, monkeypatch: pytest.MonkeyPatch, segments: int, *arguments: object) -> str:
    """Runs the command until ``segments`` are finished and Ctrl-C comes; returns what it said."""
    with monkeypatch.context() as patch:
        stop_after(patch, segments)
        outcome = command(*arguments, "--segment-frames", SIZE)
    assert outcome.code == 130, outcome.said
    return outcome.said


# Killed


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs fork and waitid")
def test_killed_at_twenty_random_moments_the_output_is_the_same(tmp_path: Path) -> None:
    clip, output, straight = scenes(tmp_path / "in.mp4", 80, 37), tmp_path / "out.mp4", tmp_path / "straight.mp4"

    def run(output: Path, kills: int) -> dict[str, int]:
        arguments = [str(clip), str(output), "--levels", "2", "--segment-frames", str(SIZE)]
        order = {"arguments": arguments, "output": str(output), "kills": kills, "longest": 0.3}
        order["said"] = str(tmp_path / "said")
        done = subprocess.run(
            [sys.executable, resume_worker.__file__], input=json.dumps(order), capture_output=True, text=True,
            timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result: dict[str, int] = json.loads(done.stdout)
        return result

    assert run(straight, 0) == {"killed": 0, "complete": 1}
    assert run(output, KILLS)["killed"] == KILLS
    assert everything(output) == everything(straight)
    assert len(everything(output)["pictures"]) == 4 * 80
    # Nothing but the two outputs, the input and the log is left.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "said", "straight.mp4"]


# Interrupted


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("finished", [1, 2, 3])
def test_interrupted_before_within_and_behind_a_cut(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, levels: int, finished: int
) -> None:
    # Segments begin at 0, 5, 10, ...; the cut is at 10, so that it falls on the second boundary.
    clip, output = scenes(tmp_path / "in.mp4", 20), tmp_path / "out.mp4"
    straight = command(clip, tmp_path / "straight.mp4", "--levels", levels, "--segment-frames", SIZE)
    assert straight.code == 0, straight.said
    assert f"{finished * SIZE / 20:.0%} of the input is done" in stopped(
        command, monkeypatch, finished, clip, output, "--levels", levels
    )
    assert not output.exists()
    report = tmp_path / "report.json"
    outcome = command(
        clip, output, "--levels", levels, "--segment-frames", SIZE, "--resume", "--report", report
    )
    assert outcome.code == 0, outcome.said
    assert everything(output) == everything(tmp_path / "straight.mp4")
    said = json.loads(report.read_text())
    assert said["scene_cuts"] == [10]
    assert said["resumed_after"] == finished * SIZE
    assert (said["input"]["frames"], said["output"]["frames"]) == (20, 20 * 2**levels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "report.json", "straight.mp4"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.mkv", ["--codec", "ffv1"]), ("out.mp4", ["--codec", "hevc"]), ("out.webm", ["--codec", "av1"]),
        ("out.nut", []), ("out.mov", ["--slow-motion", "--audio", "stretch"]),
        ("out.mp4", ["--start", "0.3", "--duration", "0.8"]), ("out.y4m", []), ("out.yuv", []),
    ],
)  # fmt: skip
def test_every_kind_of_file_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, options: list[str]
) -> None:
    clip, whole, output = scenes(tmp_path / "in.mp4", 28), tmp_path / f"whole{Path(name).suffix}", tmp_path / name
    options = ["--levels", "1", *options]
    assert command(clip, whole, *options, "--segment-frames", SIZE).code == 0
    stopped(command, monkeypatch, 2, clip, output, *options)
    assert command(clip, output, *options, "--segment-frames", SIZE, "--resume").code == 0
    if name.endswith((".y4m", ".yuv")):
        assert output.read_bytes() == whole.read_bytes()
    else:
        assert everything(output) == everything(whole)


def test_variable_frame_times_go_on_exactly(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Long frames where the second segment begins: its encoder wants to begin decoding before the first one's ends.
    steps = [3, 1, 4, 1, 5, 90, 2, 60, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6]
    times = [int(time) for time in np.cumsum(steps)]
    clip = write_clip(tmp_path / "in.mkv", pts=times, time_base=Fraction(1, 1000), rate=100)
    output = tmp_path / "out.mp4"
    stopped(command, monkeypatch, 1, clip, output, "--levels", 2)
    assert command(clip, output, "--levels", 2, "--segment-frames", SIZE, "--resume").code == 0
    lengths = zip(times, steps[1:], strict=False)
    parts = [Fraction(time, 1000) + k * Fraction(length, 4000) for time, length in lengths for k in range(4)]
    assert read_times(output)[: len(parts)] == parts
    assert len(read_planes(output)) == 4 * len(times)
    with av.open(str(output)) as container:
        decoding = [p.dts for p in container.demux(video=0) if p.size]
        assert decoding == sorted(set(decoding))


def test_an_image_sequence_goes_on(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, output, whole = tmp_path / "in", tmp_path / "out", tmp_path / "whole"
    folder.mkdir()
    for index in range(17):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index)[..., ::-1])
    (folder / "6.png").write_bytes(b"\x89PNG no more")  # frames are counted without it
    assert command(folder, f"{whole}/", "--levels", 1, "--segment-frames", SIZE).code == 0
    stopped(command, monkeypatch, 2, folder, f"{output}/", "--levels", 1)
    outcome = command(folder, f"{output}/", "--levels", 1, "--segment-frames", SIZE, "--resume")
    assert outcome.code == 0
    assert "1 of 17 images could not be decoded" in outcome.said
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) == 32
    assert sorted(path.name for path in output.iterdir()) == names
    assert all((output / name).read_bytes() == (whole / name).read_bytes() for name in names)


def test_the_shipped_network_gives_the_same_bits_on_both_sides_of_a_boundary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    frames = [Frame(picture(index), Fraction(index, 25), Fraction(1, 25), index) for index in range(9)]
    first = 4
    for levels in (1, 2, 3):
        with Upconverter(levels, backend="onnxruntime", threads=1) as up:
            whole = {(f.source_index, f.phase): f.image for f in up.run(frames)}
            begin = Span(first).begin(levels)
            assert begin == first - overlap(levels)
            rest = {(f.source_index, f.phase): f.image for f in up.run(frames[begin:])}
            wanted = [key for key in whole if key[0] >= first]
            assert all(np.array_equal(whole[key], rest[key]) for key in wanted)
            # One frame fewer is not enough: the overlap is as small as it can be.
            less = {(f.source_index, f.phase): f.image for f in up.run(frames[begin + 1 :])}
            assert not all(np.array_equal(whole[key], less[key]) for key in wanted)


# When there is nothing to go on with, or it must not be gone on with


def test_an_interruption_before_the_first_segment_leaves_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip = scenes(tmp_path / "in.mp4")
    said = stopped(command, monkeypatch, 0, clip, tmp_path / "out.mp4", "--levels", 1)
    assert "--resume" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_resume_begins_where_nothing_was_begun_and_ends_where_all_is_done(command: Command, tmp_path: Path) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 8), tmp_path / "out.mp4"
    assert command(clip, output, "--levels", 1, "--resume").code == 0
    stamp = output.stat().st_mtime_ns
    outcome = command(clip, output, "--levels", 1, "--resume")
    assert (outcome.code, output.stat().st_mtime_ns) == (0, stamp)
    assert "complete already" in outcome.said


def refused(command: Command, expected: str, *arguments: object) -> None:
    outcome = command(*arguments, "--segment-frames", SIZE)
    assert (outcome.code, outcome.said.count("\n")) == (2, 1), outcome.said
    assert expected in outcome.said


def test_what_was_begun_is_not_thrown_away_unasked(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 20), tmp_path / "out.mp4"
    stopped(command, monkeypatch, 1, clip, output, "--levels", 1)
    refused(command, "go on with --resume, or start again with -y", clip, output, "--levels", 1)
    outcome = command(clip, output, "--levels", 2, "--segment-frames", SIZE, "-y")
    assert "20 frames in, 80 out in" in outcome.said
    assert len(read_planes(output)) == 80


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        ("was begun with --levels 1, not with --levels 2", ["--levels", 2]),
        ("without --slow-motion, not with --slow-motion", ["--slow-motion"]),
        ("with --codec libx264, not with --codec libx265", ["--codec", "hevc"]),
        ("without --crf, not with --crf 30", ["--crf", 30]),
        ("with --segment-frames 5, not with --segment-frames 6", ["--segment-frames", 6]),
    ],
)
def test_other_options_are_refused_in_one_sentence(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expected: str, options: list[object]
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 16), tmp_path / "out.mp4"
    stopped(command, monkeypatch, 1, clip, output, "--levels", 1)
    outcome = command(clip, output, "--levels", 1, "--segment-frames", SIZE, *options, "--resume")
    assert (outcome.code, outcome.said.count("\n")) == (2, 1), outcome.said
    assert expected in outcome.said
    assert command(clip, output, "--levels", 1, "--segment-frames", SIZE, "--resume").code == 0


def test_another_input_or_another_version_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 16), tmp_path / "out.mp4"
    stopped(command, monkeypatch, 1, clip, output, "--levels", 1)
    with monkeypatch.context() as patch:
        patch.setattr("vtsr.__version__", "99.0")
        refused(command, "and this is 99.0", clip, output, "--levels", 1, "--resume")
    facts = clip.stat()
    data = bytearray(clip.read_bytes())
    data[len(data) // 2] ^= 1  # same size, same times
    clip.write_bytes(data)
    os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    refused(command, "another input, or the input was changed", clip, output, "--levels", 1, "--resume")


def test_pipes_cannot_be_resumed(command: Command, tmp_path: Path) -> None:
    refused(command, "A pipe cannot be rewound", "-", tmp_path / "out.mp4", "--resume")


def test_two_processes_do_not_work_on_one_output(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    clip, output = scenes(tmp_path / "in.mp4", 16), tmp_path / "out.mp4"
    stopped(command, monkeypatch, 1, clip, output, "--levels", 1)
    other = Journal.reopen(tmp_path / ".out.mp4.vtsr")
    assert other is not None
    refused(command, "Another process is at work", clip, output, "--levels", 1, "--resume")
    refused(command, "Another process is at work", clip, output, "--levels", 1, "-y")
    other.close()
    assert command(clip, output, "--levels", 1, "--segment-frames", SIZE, "--resume").code == 0


# What a power failure does to the journal, and what others may do


def torn(lines: list[bytes]) -> bytes:
    return b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2]


def zeroed(lines: list[bytes]) -> bytes:
    return b"".join(lines[:-1]) + bytes(512)


@pytest.mark.parametrize("harm", [torn, zeroed])
def test_half_a_line_at_the_end_counts_as_not_written(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, harm: Callable[[list[bytes]], bytes]
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 20), tmp_path / "out.mp4"
    assert command(clip, tmp_path / "straight.mp4", "--levels", 1, "--segment-frames", SIZE).code == 0
    stopped(command, monkeypatch, 2, clip, output, "--levels", 1)
    journal = tmp_path / ".out.mp4.vtsr" / "journal.jsonl"
    journal.write_bytes(harm(journal.read_bytes().splitlines(keepends=True)))
    outcome = command(clip, output, "--levels", 1, "--segment-frames", SIZE, "--resume")
    assert "15 frames in, 30 out (after 5 in" in outcome.said
    assert everything(output) == everything(tmp_path / "straight.mp4")


HARM: list[Callable[[dict[str, Any]], Any]] = [
    lambda line: line | {"segment": -1},
    lambda line: line | {"segment": True},
    lambda line: line | {"segment": 0},  # twice
    lambda line: line | {"frames": 1.5},
    lambda line: line | {"clipped": "much"},
    lambda line: line | {"shortest": "1/0"},
    lambda line: line | {"cuts": ["../../etc/passwd"]},
    lambda line: line | {"tail": [[1, "0", 5], [2, "0", 5], [3, "0", 5]]},
    lambda line: line | {"file": "/etc/passwd"},
    lambda line: {key: value for key, value in line.items() if key != "crc"},
    lambda line: [line],
    lambda line: "\x00",
]


@pytest.mark.parametrize("harm", HARM)
def test_a_journal_that_is_not_as_expected_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, harm: Callable[[dict[str, Any]], Any]
) -> None:
    clip, output = write_clip(tmp_path / "in.mkv", 20), tmp_path / "out.nut"
    stopped(command, monkeypatch, 3, clip, output, "--levels", 1)
    journal = tmp_path / ".out.nut.vtsr" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    lines[2] = json.dumps(harm(json.loads(lines[2])))
    journal.write_text("\n".join(lines) + "\n")
    refused(command, "is damaged; start again with -y", clip, output, "--levels", 1, "--resume")
    assert command(clip, output, "--levels", 1, "--segment-frames", SIZE, "--resume", "-y").code == 0


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_segment_that_is_not_there_as_it_was_is_made_again(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, harm: Callable[[Path], Any]
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 20), tmp_path / "out.mp4"
    assert command(clip, tmp_path / "straight.mp4", "--levels", 2, "--segment-frames", SIZE).code == 0
    stopped(command, monkeypatch, 3, clip, output, "--levels", 2)
    harm(tmp_path / ".out.mp4.vtsr" / "000000001.packets")
    outcome = command(clip, output, "--levels", 2, "--segment-frames", SIZE, "--resume")
    assert "40 out (after 10 in" in outcome.said  # the second and the last; frames beside them are only looked at
    assert everything(output) == everything(tmp_path / "straight.mp4")


def test_an_input_that_decodes_differently_is_not_gone_on_with(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 20), tmp_path / "out.mp4"
    stopped(command, monkeypatch, 1, clip, output, "--levels", 1)
    journal = tmp_path / ".out.mp4.vtsr" / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for mark in lines[1]["tail"]:
        mark[2] ^= 1
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused(command, "does not decode as it did before", clip, output, "--levels", 1, "--resume")


# Full disks


def test_a_full_disk_costs_nothing_that_was_finished(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", 20), tmp_path / "out.mp4"
    assert command(clip, tmp_path / "straight.mp4", "--levels", 1, "--segment-frames", SIZE).code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        outcome = command(clip, output, "--levels", 1, "--segment-frames", SIZE)
    assert outcome.code == 2
    done, reason = outcome.said.splitlines()
    assert "50% of the input is done and kept" in done
    assert "could not be written (No space left on device)" in reason
    assert command(clip, output, "--levels", 1, "--segment-frames", SIZE, "--resume").code == 0
    assert everything(output) == everything(tmp_path / "straight.mp4")


FULL = """
import resource, signal, sys
import resume_worker
from vtsr.runtime.upconvert import main
resume_worker.install()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit on Windows")
def test_a_disk_that_fills_up_while_segments_are_joined(command: Command, tmp_path: Path) -> None:
    # Every segment fits the largest file allowed, all together do not.
    clip, output = scenes(tmp_path / "in.mp4", 30), tmp_path / "out.mkv"
    arguments = [clip, output, "--levels", 1, "--segment-frames", SIZE, "--codec", "ffv1", "--pix-fmt", "yuv420p"]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FULL, "60000", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "100% of the input is done and kept" in done.stderr
    assert "could not be written (File too large)" in done.stderr
    outcome = command(*arguments, "--resume")
    assert outcome.code == 0
    assert "0 frames in, 0 out (after 30 in" in outcome.said
    assert len(read_planes(output)) == 60


def test_room_is_looked_for_before_a_long_job_begins(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "in.mkv", 10)
    size = 2 * 10 * 64 * 48 * 3 // 2  # y4m of 20 pictures in 4:2:0, but for its headers

    def free(count: int) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=count)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    free(size - 1)
    outcome = command(clip, tmp_path / "out.y4m", "--levels", 1)
    assert outcome.code == 2
    assert "free some space" in outcome.said
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
    outcome = command(clip, tmp_path / "tried.y4m", "--levels", 1, "-y")
    assert (outcome.code, outcome.said.count("warning: ")) == (0, 1)
    free(size)
    outcome = command(clip, tmp_path / "out.y4m", "--levels", 1)
    assert (outcome.code, outcome.said.count("warning: ")) == (0, 0)


def test_estimates_of_what_is_coded_only_warn_unless_they_are_far_off() -> None:
    need = estimate(1000, 1920, 1080, "libx264", "yuv420p")
    assert not need.exact
    assert check_room(Path(), "out.mp4", need, free=need.size) is None
    assert "go on with --resume" in str(check_room(Path(), "out.mp4", need, free=need.size // 2))
    with pytest.raises(Exception, match="free some space"):
        check_room(Path(), "out.mp4", need, free=need.size // 10)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p", "gray", "gray12le", "rgb24", "rgb48le"])
def test_uncompressed_sizes_are_exact(pix_fmt: str) -> None:
    frame = av.VideoFrame(64, 48, pix_fmt)
    assert bits_per_pixel(pix_fmt) * 64 * 48 / 8 == sum(plane.buffer_size for plane in frame.planes)


# Which frames are needed


def test_what_is_left_to_do() -> None:
    assert gaps([], 60, False) == [Span(0)]
    assert gaps([0, 1], 60, False) == [Span(120)]
    assert gaps([1, 4], 60, True) == [Span(0, 60), Span(120, 240)]
    assert gaps([0, 1, 2], 60, True) == []


def test_a_span_reads_its_neighbours_and_no_more() -> None:
    frames = [Frame(picture(0), source_index=index) for index in range(30)]
    asked = iter(frames[8:])
    assert [f.source_index for f in Span(10, 20).limited(asked, levels=3)] == list(range(8, 22))
    assert next(asked).source_index == 22


def test_a_segment_is_about_as_long_as_a_group_of_pictures() -> None:
    assert 200 <= SEGMENT_FRAMES * 4 <= 250  # at two levels; x264 puts a keyframe every 250 at most


# Encoders that repeat themselves


@pytest.mark.parametrize(
    ("width", "avx512", "told"), [(192, True, True), (1920, True, False), (1904, True, True), (192, False, False)]
)
def test_x264_keeps_off_code_that_depends_on_chance(
    monkeypatch: pytest.MonkeyPatch, width: int, avx512: bool, told: bool
) -> None:
    monkeypatch.setattr("vtsr.runtime.video.codecs.has_avx512", lambda: avx512)
    encoder = choose_encoder(container_for(".mp4"), Encoding(), PixelFormat("yuv420"), width, 96)
    assert encoder.options.get("x264-params") == ("asm=AVX2" if told else None)


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx2 avx512f avx512vl", True), ("fpu avx2", False), ("", False)])
def test_avx512_is_what_the_system_says(tmp_path: Path, flags: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
    assert has_avx512(cpuinfo) is expected
    assert has_avx512(tmp_path / "none") is False


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_an_encoder_gives_the_same_in_every_run(command: Command, tmp_path: Path, codec: str) -> None:
    clip = write_clip(tmp_path / "in.mkv", 26, size=(160, 96))
    outputs = []
    for run in range(3):
        junk = [np.full(60_000, 17 * run + n, np.uint8) for n in range(40)]  # what encoders find in their memory
        del junk
        output = tmp_path / f"{run}.mkv"
        assert command(clip, output, "--levels", 1, "--codec", codec, "--threads", 2).code == 0
        outputs.append(everything(output))
    assert outputs[0] == outputs[1] == outputs[2]
