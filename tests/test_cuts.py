"""The scene-cut measure on rendered scenes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vtsr.runtime.cuts import DEFAULT_THRESHOLD, SceneCutDetector
from vtsr.runtime.demo import render_demo
from vtsr.runtime.frame import PixelFormat, Planes


def landscape(seed: int) -> NDArray[np.uint8]:
    """A random scene with structure at all scales and colours of its own, 160 x 400."""
    rng = np.random.default_rng(seed)
    image = np.zeros((160, 400, 3))
    for size in (3, 7, 15, 40):
        grid = rng.random((size, size * 2, 3))
        image += cv2.resize(grid, (400, 160), interpolation=cv2.INTER_CUBIC)
    tint = rng.uniform(0.3, 1.0, 3)
    return np.clip(image / image.max() * 255 * tint, 0, 255).astype(np.uint8)


def planes(image: NDArray[np.uint8]) -> Planes:
    return Planes((np.ascontiguousarray(image),), PixelFormat())


def test_a_change_of_scene_is_a_cut() -> None:
    for seed in range(10):
        detector = SceneCutDetector()
        assert not detector.is_cut(planes(landscape(seed)[:, :280]))
        assert detector.is_cut(planes(landscape(seed + 1)[:, :280]))


def test_a_fast_pan_is_no_cut() -> None:
    scene = landscape(3)
    detector = SceneCutDetector()
    scores = [detector.score(planes(scene[:, x : x + 280])) for x in range(0, 120, 20)]
    assert max(scores) < DEFAULT_THRESHOLD / 2


def test_a_flash_is_no_cut() -> None:
    scene = landscape(4)
    detector = SceneCutDetector()
    detector.score(planes(scene))
    assert not detector.is_cut(planes(np.clip(scene * 1.8 + 20.0, 0, 255).astype(np.uint8)))


def test_the_demo_clip_is_one_scene() -> None:
    detector = SceneCutDetector()
    assert not any([detector.is_cut(frame.planes) for frame in render_demo(6)])


@pytest.mark.parametrize("bits", [8, 10])
def test_yuv_pictures_are_measured_like_rgb_ones(bits: int) -> None:
    def yuv(image: NDArray[np.uint8]) -> Planes:
        codes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
        height, width = image.shape[:2]
        u, v = codes[height:].reshape(2, height // 2, width // 2)
        shift = bits - 8
        stored = tuple(p.astype(np.uint16) << shift if shift else p for p in (codes[:height], u, v))
        return Planes(stored, PixelFormat("yuv420", bits, "bt601", False))

    detector = SceneCutDetector()
    one, other = landscape(5)[:, :280], landscape(6)[:, :280]
    assert [detector.is_cut(yuv(image)) for image in (one, one, other, other)] == [False, False, True, False]


def test_black_frames_are_no_cuts_among_themselves() -> None:
    detector = SceneCutDetector()
    black = planes(np.zeros((90, 160, 3), np.uint8))
    assert [detector.is_cut(black) for _ in range(3)] == [False] * 3


def test_a_threshold_of_one_finds_nothing() -> None:
    detector = SceneCutDetector(1)
    assert not any([detector.is_cut(planes(landscape(seed))) for seed in range(3)])
