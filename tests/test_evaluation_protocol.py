"""Inputs and truths are the averages the protocol says, whatever the window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vtsr.errors import OptionError
from vtsr.evaluation.protocol import exposures, levels_of, windows


def originals(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_truth_is_the_rounded_mean_of_consecutive_frames(parts: int) -> None:
    frames = originals(8)
    made = exposures(frames, parts)
    for part, group in zip(made, np.split(frames.astype(np.float64), parts), strict=True):
        assert np.abs(part - group.mean(axis=0)).max() <= 0.5


def test_as_many_parts_as_frames_are_the_frames() -> None:
    assert np.array_equal(exposures(originals(16), 16), originals(16))


def test_a_shared_frame_counts_by_its_share() -> None:
    frames = originals(3).astype(np.float64)
    first, second = exposures(frames.astype(np.uint8), 2)
    # Each part is one and a half frames long.
    assert np.abs(first - (frames[0] + 0.5 * frames[1]) / 1.5).max() <= 0.501
    assert np.abs(second - (0.5 * frames[1] + frames[2]) / 1.5).max() <= 0.501


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 12), parts=st.integers(1, 12), value=st.integers(0, 255))
def test_a_still_scene_stays_as_it_is(count: int, parts: int, value: int) -> None:
    still = np.full((count, 2, 2, 3), value, np.uint8)
    for linear in (False, True):
        assert np.array_equal(exposures(still, parts, linear), np.full((parts, 2, 2, 3), value))


def test_parts_average_to_the_whole() -> None:
    frames = originals(15)
    whole = exposures(frames, 1)[0].astype(np.float64)
    for parts in (3, 5, 10):
        assert np.abs(exposures(frames, parts).mean(axis=0) - whole).max() <= 1.0  # two roundings


def test_linear_light_is_brighter_than_coded_values() -> None:
    black_and_white = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    # Half the light of white is sRGB code 188 (1.055 * 0.5 ** (1 / 2.4) - 0.055 = 0.7354).
    assert (exposures(black_and_white, 1, linear=True) == 188).all()
    assert (exposures(black_and_white, 1) == 128).all()


def test_windows_follow_one_another_and_leave_out_the_rest() -> None:
    frames = originals(11)
    found = list(windows(frames, 4))
    assert [window.index for window in found] == [0, 1]
    assert np.array_equal(np.concatenate([window.originals for window in found]), frames[:8])


def test_a_window_judges_as_many_levels_as_it_can_be_halved() -> None:
    assert [levels_of(window) for window in (2, 4, 8, 16, 32)] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("window", [0, 1, 3, 15, -8])
def test_other_windows_are_refused(window: int) -> None:
    with pytest.raises(OptionError, match="power of two"):
        levels_of(window)
