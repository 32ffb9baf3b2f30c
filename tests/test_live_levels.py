"""Another number of levels in the middle of a stream: nothing is lost, times stay right, and it finds what fits."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_media import RepeatBackend, exposures
from software_cuda import BlendEngines, SoftwareDevice

from vtsr import Frame, OptionError, Upconverter
from vtsr.runtime.live.levels import LevelController
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.settings import Settings


def stream(up: Upconverter, levels: list[int]) -> list[tuple[Frame, int]]:
    """Pushes a frame after each change; outputs with the number of levels they were made at."""
    out: list[tuple[Frame, int]] = []
    image = np.zeros((16, 16, 3), np.uint8)
    for n, level in enumerate(levels):
        before = up.levels
        out += [(f, before) for f in up.change_levels(level)]
        out += [(f, level) for f in up.push(Frame(image + n, Fraction(n, 25), Fraction(1, 25), n))]
    last = up.levels
    return out + [(f, last) for f in up.flush()]


def check(out: list[tuple[Frame, int]], count: int) -> None:
    """The outputs cover the whole time of the inputs, without a gap or an overlap, in parts of the right length."""
    end = Fraction(0)
    for frame, level in out:
        assert frame.pts == end
        assert frame.duration == Fraction(1, 25 * 2**level)
        assert frame.pts == Fraction(frame.source_index, 25) + frame.phase * frame.duration
        end = frame.pts + frame.duration
    assert end == Fraction(count, 25)


changes = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None, database=None)
@given(changes)
def test_outputs_cover_all_of_the_time_whatever_the_changes(levels: list[int]) -> None:
    up = Upconverter(4, backend=RepeatBackend(), scene_threshold=1)  # type: ignore[arg-type]
    out = stream(up, levels)
    check(out, len(levels))
    assert all(frame.image[0, 0, 0] == frame.source_index for frame, _ in out)


@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 1 << 20))
def test_a_gpu_runtime_changes_levels_without_races_or_losses(levels: list[int], seed: int) -> None:
    device = SoftwareDevice(seed)
    with Upconverter(
        3, backend=TensorRTBackend(device, BlendEngines(3), Settings(levels=3)), scene_threshold=1
    ) as up:
        check(stream(up, levels), len(levels))


def images(frames: list[Frame]) -> list[Any]:
    return [frame.image for frame in frames]


def test_levels_that_stay_keep_their_state() -> None:
    """Two levels, then one: what comes after the change is what one level alone gives, bit by bit."""
    clip = exposures(6, (3, 1), size=(48, 32))
    with Upconverter(1, threads=1, precision="fp32", scene_threshold=1) as one:
        expected = list(one.run(clip))
    with Upconverter(2, threads=1, precision="fp32", scene_threshold=1) as up:
        before = [f for image in clip[:3] for f in up.push(image)]
        before += up.change_levels(1)
        after = [f for image in clip[3:] for f in up.push(image)] + up.flush()
    assert sum(f.duration for f in before) == 2 * before[0].duration * 4
    assert all(map(np.array_equal, images(after), images(expected)[4:]))
    assert len(after) == 8


def test_no_levels_hand_frames_on_untouched() -> None:
    clip = exposures(3, (3, 1), size=(48, 32))
    with Upconverter(1, threads=1) as up:
        assert up.change_levels(0) == []
        for image in clip:
            (out,) = up.push(image)
            assert out.image is image
            assert out.duration == Fraction(1, 30)


def test_numbers_of_levels_out_of_range_are_refused() -> None:
    with Upconverter(1, threads=1) as up:
        for level in (-1, 5):
            with pytest.raises(OptionError, match="must be 0 to 4"):
                up.change_levels(level)


class Machine:
    """A simulated machine: what a pair costs in frame times, and what is left over from one frame to the next."""

    def __init__(self, controller: LevelController) -> None:
        self.controller, self.now, self.backlog, self.dropped = controller, 0.0, 0.0, 0
        self.levels: list[int] = []

    def run(self, seconds: float, pair: float) -> None:
        frame_time = 1 / 30
        for _ in range(round(seconds * 30)):
            level = self.controller.level
            busy = frame_time * pair * (2**level - 1)
            self.backlog = max(0.0, self.backlog + busy - frame_time)
            late = self.backlog > 4 * frame_time
            if late:
                self.dropped += 1
                self.backlog = 3 * frame_time
            self.controller.observe(busy, frame_time, late, self.now)
            self.levels.append(self.controller.level)
            self.now += frame_time


def test_a_machine_that_keeps_up_is_left_alone() -> None:
    machine = Machine(LevelController(3))
    machine.run(60, 0.1)
    assert set(machine.levels) == {3}


def test_it_goes_down_to_what_fits_and_up_again_when_there_is_room() -> None:
    machine = Machine(LevelController(3))
    machine.run(20, 0.3)  # 7 pairs: 2.1; 3 pairs: 0.9; 1 pair: 0.3
    assert machine.levels[-1] == 1
    assert machine.dropped < 15
    first = machine.dropped
    machine.run(20, 0.05)
    assert machine.levels[-1] == 3
    assert machine.dropped == first


def test_it_hands_frames_on_when_nothing_fits_and_tries_again_ever_more_rarely() -> None:
    machine = Machine(LevelController(2))
    machine.run(300, 5.0)
    tries = [n for n in range(1, len(machine.levels)) if machine.levels[n] > machine.levels[n - 1]]
    assert 0 < len(tries) <= 10
    distances = [b - a for a, b in pairwise(tries)]
    assert distances == sorted(distances)
    assert machine.levels.count(0) > 0.95 * len(machine.levels)
    machine.run(120, 0.05)
    assert machine.levels[-1] == 2


def test_a_lowest_level_is_kept() -> None:
    machine = Machine(LevelController(2, lowest=1))
    machine.run(20, 5.0)
    assert machine.levels[-1] == 1


def test_a_single_hiccup_changes_nothing() -> None:
    controller = LevelController(2)
    for n in range(300):
        late = n == 100
        controller.observe(0.3 if late else 0.01, 1 / 30, late, n / 30)
        assert controller.level == 2
