"""Competitors are judged at the right moments, and what is timed is what is judged."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_stand_in import Benchmark
from media import picture

from vtsr.benchmarks import bench_competitors
from vtsr.benchmarks.competitors import FastFlow, Minterpolate, competitors
from vtsr.benchmarks.plan import Plan, Size
from vtsr.evaluation.clips import Clip
from vtsr.evaluation.methods import Flow, Method, WithLaw
from vtsr.evaluation.protocol import to_uint8

# A program that interpolates as ffmpeg's filter does: from the first frame to the last but one, at the rate it is
# told, between the two frames around each moment; linearly, so that what it should give is known exactly.
FFMPEG = """#!{python}
import re, sys
import numpy as np
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1]
width, height = map(int, option("-s").split("x"))
frames = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(-1, height, width, 3).astype(float)
filters = option("-vf")
if words[-2:] == ["null", "-"] and filters == "null":
    raise SystemExit(0)
rate = int(re.match(r"minterpolate=fps=(\\d+)", filters).group(1)) // int(option("-r"))
times = np.arange((len(frames) - 2) * rate + 1) / rate
made = [frames[int(t)] + (t - int(t)) * (frames[int(t) + 1] - frames[int(t)]) for t in times]
if words[-1] == "-" and words[-2] != "null":
    sys.stdout.buffer.write(np.rint(made).astype(np.uint8).tobytes())
"""


@pytest.fixture
def ffmpeg(tmp_path: Path) -> str:
    program = tmp_path / "ffmpeg"
    program.write_text(FFMPEG.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def ramp(frames: int) -> list[Any]:
    """Grey frames whose brightness at the middle of frame n is 40 + 16 n."""
    return [np.full((4, 6, 3), 40 + 16 * n, np.uint8) for n in range(frames)]


def test_minterpolate_is_judged_at_the_centres_of_the_exposures(ffmpeg: str) -> None:
    for factor, made in Minterpolate(ffmpeg).at_centres(ramp(5), (2, 4, 8)).items():
        middles = np.arange(5)[:, None] + (np.arange(factor) + 0.5) / factor - 0.5  # from the first centre
        expected = np.rint(40 + 16 * np.clip(middles, 0, 4))  # nothing lies beyond the first and the last centre
        assert np.array_equal(made[..., 0, 0, 0], expected)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
def test_the_real_minterpolate_keeps_the_same_time() -> None:
    grey = [np.full((64, 96, 3), 40 + 16 * n, np.uint8) for n in range(5)]
    made = Minterpolate("ffmpeg").at_centres(grey, (2, 4))[2]
    middles = np.arange(5)[:, None] + np.array([-0.25, 0.25])
    assert made[..., 32, 48, 0] == pytest.approx(40 + 16 * np.clip(middles, 0, 4), abs=2)


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nraise SystemExit('No such filter: minterpolate')\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(RuntimeError, match="ffmpeg failed: No such filter: minterpolate"):
        Minterpolate(str(program)).convert(ramp(3), 2)


@pytest.mark.parametrize("method", [Flow(), FastFlow(), WithLaw(Flow())], ids=lambda method: method.name)
def test_what_is_timed_is_what_is_judged(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [picture(n) for n in range(5)]
    stream = method.start(2)
    judged = [done[4] for frame in frames for done in stream.push(frame)] + [done[4] for done in stream.flush()]
    contestant = {c.name: c for c in competitors(1, ())}[method.name]
    timed: list[Any] = []
    monkeypatch.setattr("vtsr.benchmarks.competitors.to_uint8", lambda frame: timed.append(to_uint8(frame)))
    contestant.make(frames, 4)
    expected = [to_uint8(frame) for made in judged[1:-1] for frame in made]  # the ends have one neighbour only
    assert contestant.outputs(len(frames), 4) == len(timed) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(timed, expected, strict=True))


def test_rows_hold_the_quality_of_every_method(ffmpeg: str, monkeypatch: pytest.MonkeyPatch) -> None:
    originals = np.stack([picture(n, 64, 32) for n in range(24)])
    monkeypatch.setattr(bench_competitors, "high_speed_clips", lambda windows: [Clip.of("textures", originals)])
    monkeypatch.setattr(bench_competitors, "find_ffmpeg", lambda: ffmpeg)
    found = Benchmark()
    plan = Plan(sizes=(Size(64, 32),), levels=(1, 4), precisions=("fp32",), threads=1, quick=True)
    bench_competitors.test_competitors(found, plan)
    rows = {row["method"]: row for row in found.extra_info["rows"]}  # the clips can judge level 1, and not 4
    assert {"vtsr default fp32", "blend", "flow", "fast flow", "flow+law", "minterpolate"} <= set(rows)
    assert {row["levels"] for row in rows.values()} == {1}
    assert all(row["fps_out"] > 0 and row["size"] == "64x32" for row in rows.values())

    # Blending, by hand: a quarter of the neighbour on either side, nothing beyond the ends.
    blurred = [np.rint(originals[8 * n : 8 * n + 8].mean(axis=0)) for n in range(3)]
    errors = []
    for n in range(3):
        for side in (0, 1):
            truth = np.rint(originals[8 * n + 4 * side : 8 * n + 4 * side + 4].mean(axis=0))
            other = blurred[min(max(n + 2 * side - 1, 0), 2)]
            errors.append(10 * np.log10(255**2 / np.mean((np.rint(0.75 * blurred[n] + 0.25 * other) - truth) ** 2)))
    assert rows["blend"]["psnr"] == pytest.approx(np.mean(errors), abs=0.02)
    # The stand-in for ffmpeg blends too.
    assert rows["minterpolate"]["psnr"] == pytest.approx(rows["blend"]["psnr"], abs=0.02)


def test_without_ffmpeg_the_others_are_measured() -> None:
    names = {c.name for c in competitors(1, ("fp32",), None)}
    assert "vtsr default fp32" in names
    assert not any("minterpolate" in name for name in names)
