"""Every output frame begins exactly where arithmetic on the input's timestamps puts it."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import pytest
from media import Command, Repeat, read_times, write_clip

from vtsr.errors import InputError
from vtsr.runtime.video.facts import Timeline
from vtsr.runtime.video.reader import VideoReader
from vtsr.runtime.video.writer import output_tick

NTSC = Fraction(24000, 1001)
IRREGULAR = [9000, 12003, 20000, 30000, 30001, 41000]  # ticks of 1/90000 s: variable rate, starts at 0.1 s


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def ends(path: Path) -> Fraction:
    """When the video track of an MP4 file is over, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return (stream.start_time + stream.duration) * stream.time_base


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("extension", [".mp4", ".mov"])
def test_every_level_splits_the_23976_frame_time_exactly(
    command: Command, tmp_path: Path, levels: int, extension: str
) -> None:
    clip = write_clip(tmp_path / "in.mp4", 6, codec="libx264", rate=NTSC)
    output = tmp_path / f"out{extension}"
    assert command(clip, output, "--levels", levels, "--preset", "ultrafast").code == 0
    parts = 2**levels
    assert read_times(output) == [Fraction(k, parts) / NTSC for k in range(6 * parts)]
    assert ends(output) == 6 / NTSC


@pytest.mark.parametrize("levels", [1, 3])
def test_variable_rate_and_a_start_other_than_zero_are_kept(command: Command, tmp_path: Path, levels: int) -> None:
    clip = write_clip(
        tmp_path / "in.mp4", codec="libx264", time_base=Fraction(1, 90000), pts=IRREGULAR, options={"bf": "0"}
    )
    output = tmp_path / "out.mp4"
    assert command(clip, output, "--levels", levels).code == 0
    parts = 2**levels
    starts = [Fraction(t, 90000) for t in IRREGULAR] + [ends(clip)]
    expected = [
        begin + phase * (end - begin) / parts
        for begin, end in itertools.pairwise(starts)
        for phase in range(parts)
    ]
    assert read_times(output) == expected
    assert ends(output) == starts[-1]


def test_the_last_frame_of_a_reordered_variable_rate_mp4_ends_with_the_track(tmp_path: Path) -> None:
    # With B frames the packets of an MP4 file carry distances in decoding order, not display times.
    clip = write_clip(tmp_path / "in.mp4", codec="libx264", time_base=Fraction(1, 90000), pts=IRREGULAR)
    with VideoReader(clip) as reader:
        frames = list(reader)
    assert [f.pts for f in frames] == [Fraction(t, 90000) for t in IRREGULAR]
    assert frames[-1].pts + frames[-1].duration == ends(clip)


@pytest.mark.parametrize("extension", [".mkv", ".webm"])
def test_matroska_is_off_by_half_a_millisecond_at_most_and_says_so(
    command: Command, tmp_path: Path, extension: str
) -> None:
    clip = write_clip(tmp_path / "in.mp4", 8, codec="libx264", rate=NTSC)
    output = tmp_path / f"out{extension}"
    outcome = command(clip, output, "--levels", 2)
    assert "millisecond" in outcome.said
    exact = [Fraction(k, 4) / NTSC for k in range(32)]
    assert max(abs(a - b) for a, b in zip(read_times(output), exact, strict=True)) <= Fraction(1, 2000)


def test_nut_has_exact_times_too(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 5, codec="libx264", rate=NTSC)
    assert command(clip, tmp_path / "out.nut", "--levels", 3).code == 0
    assert read_times(tmp_path / "out.nut") == [Fraction(k, 8) / NTSC for k in range(40)]


def test_matroska_refuses_frames_closer_than_its_ticks(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 4, codec="libx264", rate=120)
    outcome = command(clip, tmp_path / "out.mkv", "--levels", 4)
    assert outcome.code == 2
    assert "1920" in outcome.said
    assert command(clip, tmp_path / "out.mp4", "--levels", 4).code == 0
    assert len(set(read_times(tmp_path / "out.mp4"))) == 64


def test_slow_motion_keeps_the_rate_and_lasts_longer(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 6, codec="libx264", rate=NTSC)
    output = tmp_path / "out.mp4"
    assert command(clip, output, "--levels", 2, "--slow-motion").code == 0
    assert read_times(output) == [k / NTSC for k in range(24)]
    with av.open(str(output)) as container:
        assert container.streams.video[0].average_rate == NTSC


def test_a_cut_takes_the_frames_that_begin_inside_it_and_starts_anew(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 25, codec="libx264", rate=25, options={"g": "10"})
    output = tmp_path / "out.mp4"
    assert command(clip, output, "--levels", 1, "--start", "0.5", "--duration", "0.2").code == 0
    # Frames 13..17 begin in [0.5, 0.7); frame 13 is due 0.02 s after the cut begins.
    expected = [Fraction(1, 50) + Fraction(k, 50) for k in range(10)]
    assert read_times(output) == expected


def test_times_may_be_written_as_clock_times(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 50, codec="libx264", rate=25)
    assert command(clip, tmp_path / "a.mp4", "--start", "1.04", "--levels", 1).code == 0
    assert command(clip, tmp_path / "b.mp4", "--start", "0:01.04", "--levels", 1).code == 0
    times = read_times(tmp_path / "a.mp4")
    assert times == read_times(tmp_path / "b.mp4")
    assert len(times) == 2 * (50 - 26)


def test_a_single_frame_becomes_its_parts(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 1, codec="libx264", rate=25)
    assert command(clip, tmp_path / "out.mp4", "--levels", 2).code == 0
    assert read_times(tmp_path / "out.mp4") == [Fraction(k, 100) for k in range(4)]
    assert ends(tmp_path / "out.mp4") == Fraction(1, 25)


def test_a_stream_without_timestamps_uses_its_frame_rate(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.h264", 6, codec="libx264", rate=25, options={"bf": "0"})
    with VideoReader(clip) as reader:
        frames = list(reader)
    assert [f.duration for f in frames] == [Fraction(1, 25)] * 6
    assert [f.pts - frames[0].pts for f in frames] == [Fraction(n, 25) for n in range(6)]


@pytest.mark.parametrize(
    ("time_base", "stretch", "parts"),
    [(Fraction(1, 1000), 1, 16), (Fraction(1001, 30000), 1, 4), (Fraction(1, 90000), 4, 4), (Fraction(1, 600), 1, 2)],
)
def test_the_output_tick_divides_every_output_time(time_base: Fraction, stretch: int, parts: int) -> None:
    line = Timeline(origin=Fraction(3, 10), begin=Fraction(0), stretch=stretch)
    tick = output_tick(time_base, line, parts)
    assert tick.numerator == 1
    for ticks in (0, 1, 7, 1001):
        for phase in range(parts):
            time = line(ticks * time_base + phase * time_base / parts)
            assert (time / tick).denominator == 1


def test_the_stand_in_for_the_network_follows_the_same_rule(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2)
    with VideoReader(clip) as reader:
        outputs = [out for frame in reader for out in Repeat(1).push(frame)]
    assert [(o.pts, o.duration, o.source_index, o.phase) for o in outputs] == [
        (Fraction(k, 50), Fraction(1, 50), k // 2, k % 2) for k in range(4)
    ]


def test_start_after_the_end_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 5, codec="libx264")
    with pytest.raises(InputError, match=r"ends after 0\.2 s"):
        VideoReader(clip, start=Fraction(7))
