"""Samples: exposures computed from the sub-frames by other means, and which sample is drawn when."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from training_media import Array, panning, texture

from vtsr.errors import OptionError
from vtsr.training.data.sampler import ExposureSampler, SampleOptions, batches


def noise_scenes(count: int = 1, subframes: int = 24, size: int = 32) -> Array:
    return np.random.default_rng(7).integers(0, 256, (count, subframes, size, size, 3), dtype=np.uint8)


def sample(scenes: Array, index: int = 0, seed: int = 0, **options: Any) -> list[Array]:
    """Levels of one sample as (frames, H, W, 3). Whole scenes, unflipped and coded unless told otherwise."""
    defaults: dict[str, Any] = dict(crop=32, windows=(8,), window_weights=(1.0,), linear_share=0.0, flips="none")
    levels = ExposureSampler(scenes, SampleOptions(**(defaults | options)), seed)[index]
    return [level.numpy().transpose(0, 2, 3, 1) for level in levels]


def mean_of(shots: Array, length: int, transfer: float = 1.0) -> Array:
    """Means of every ``length`` sub-frames, one after the other, in float64."""
    light = (shots.astype(np.float64) / 255) ** transfer
    averages = [light[i : i + length].mean(axis=0) for i in range(0, len(shots), length)]
    return np.stack(averages) ** (1 / transfer)


def test_every_level_is_the_mean_of_its_subframes() -> None:
    scenes = noise_scenes()
    levels = sample(scenes, depth=3)
    assert [len(level) for level in levels] == [3, 6, 12, 24]
    for k in (1, 2, 3):
        np.testing.assert_allclose(levels[k], mean_of(scenes[0], 8 >> k), atol=1e-6)
    codes = levels[0] * 255
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    np.testing.assert_allclose(codes, mean_of(scenes[0], 8) * 255, atol=0.5001)


def test_linear_light_is_averaged_as_power_and_coded_again() -> None:
    scenes = noise_scenes()
    levels = sample(scenes, depth=2, linear_share=1.0)
    for k in (1, 2):
        np.testing.assert_allclose(levels[k], mean_of(scenes[0], 8 >> k, 2.2), atol=2e-5)
    np.testing.assert_allclose(levels[0], mean_of(scenes[0], 8, 2.2), atol=0.5 / 255 + 2e-5)


def test_a_half_open_shutter_shortens_the_inputs_only() -> None:
    scenes = noise_scenes()
    levels = sample(scenes, duty_range=(0.5, 0.5))
    expected = [scenes[0, i : i + 4].mean(axis=0) / 255 for i in (0, 8, 16)]
    np.testing.assert_allclose(levels[0], expected, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(levels[1], mean_of(scenes[0], 4), atol=1e-6)


def test_noise_has_at_most_its_deviation_and_leaves_the_truth_alone() -> None:
    scenes = np.full((1, 24, 32, 32, 3), 128, np.uint8)
    deviations = []
    for index in range(20):
        levels = sample(scenes, index, noise=0.05)
        deviations.append(levels[0].std())
        assert (levels[1] == np.float32(128 / 255)).all()
    assert 0.03 < max(deviations) < 0.052
    assert min(deviations) < 0.02


def test_compressed_inputs_are_what_jpeg_makes_of_them() -> None:
    scenes = panning(3, 24, 32, 32, 0.5)[None]
    plain = sample(scenes)
    packed = sample(scenes, compression=1.0, compression_quality=60)
    np.testing.assert_array_equal(packed[1], plain[1])
    picture = np.rint(plain[0][0] * 255).astype(np.uint8)[..., ::-1]
    candidates = []
    for quality in range(60, 96):
        code = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
        candidates.append(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1] / 255)
    assert min(np.abs(packed[0][0] - c).max() for c in candidates) < 1e-6
    assert np.abs(packed[0] - plain[0]).max() > 1 / 255


def test_crops_are_windows_of_consecutive_subframes() -> None:
    scenes = noise_scenes(subframes=12, size=36)
    finest = sample(scenes, depth=1, windows=(2,), frames=2)[1] * 255  # single sub-frames
    places = [
        (t, y, x)
        for t in range(9) for y in range(5) for x in range(5)
        if np.abs(scenes[0, t : t + 4, y : y + 32, x : x + 32] - finest).max() < 1e-3
    ]  # fmt: skip
    assert len(places) == 1


def orientations(scene: Array, level: Array) -> list[tuple[bool, ...]]:
    """Which of time reversal, flip, mirror and transposition turn the sub-frames into the level."""
    found = []
    for bits in np.ndindex(2, 2, 2, 2):
        turned = scene[:: 1 - 2 * bits[0], :: 1 - 2 * bits[1], :: 1 - 2 * bits[2]]
        turned = turned.transpose(0, 2, 1, 3) if bits[3] else turned
        if np.abs(turned / 255 - level).max() < 1e-5:
            found.append(bits)
    return found


def test_flips_reach_all_orientations_and_hold_for_all_levels() -> None:
    scenes = noise_scenes(subframes=6)
    seen = set()
    for index in range(80):
        levels = sample(scenes, index, windows=(2,), flips="all")
        seen.update(orientations(scenes[0], levels[1]))
        np.testing.assert_allclose(levels[0], (levels[1][0::2] + levels[1][1::2]) / 2, atol=0.51 / 255)
    assert len(seen) == 16


def test_horizontal_flips_mirror_half_of_the_samples_and_do_nothing_else() -> None:
    scenes = noise_scenes(subframes=6)
    turns = [orientations(scenes[0], sample(scenes, i, windows=(2,), flips="horizontal")[1])[0] for i in range(40)]
    assert set(turns) == {(0, 0, 0, 0), (0, 0, 1, 0)}
    assert 8 < turns.count((0, 0, 1, 0)) < 32


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    scenes = noise_scenes(count=4, size=40)
    options = SampleOptions(crop=32, noise=0.02, compression=0.5, duty_range=(0.5, 1.0))
    one, other = ExposureSampler(scenes, options, seed=3), ExposureSampler(scenes, options, seed=3)
    for index in range(5):
        one[index]
    for a, b in zip(one[5], other[5], strict=True):
        assert a.equal(b)
    assert not ExposureSampler(scenes, options, seed=4)[5][1].equal(other[5][1])


def test_windows_are_drawn_by_weight_and_only_where_the_scheme_can_use_them() -> None:
    # Sub-frame t has the value t: the spread of a frame's halves tells its window.
    scenes = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None, None], (1, 24, 32, 32, 3))
    options = SampleOptions(crop=32, windows=(8, 4, 2), window_weights=(1.0, 3.0, 4.0), linear_share=0, flips="none")
    sampler = ExposureSampler(scenes, options, 0)
    steps = [round(float((s[1][1] - s[1][0])[0, 0, 0]) * 255 * 2) for s in map(sampler.__getitem__, range(300))]
    assert [round(8 * steps.count(w) / 300) for w in (8, 4, 2)] == [1, 3, 4]
    deep = ExposureSampler(scenes, SampleOptions(**{**vars(options), "depth": 2}), 0)
    assert all(len(deep[i]) == 3 and deep[i][2][1, 0, 0, 0] - deep[i][2][0, 0, 0, 0] > 0.9 / 255 for i in range(20))


def test_an_epoch_shows_every_scene_once_in_another_order() -> None:
    scenes = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None, None], (10, 24, 32, 32, 3))
    sampler = ExposureSampler(scenes, SampleOptions(crop=32, linear_share=0, each_once=True), 0)
    shown = [round(float(sampler[i][1].mean()) * 255) for i in range(20)]
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))
    assert shown[:10] != shown[10:]


def test_processes_share_the_batches_of_a_single_one() -> None:
    sampler = ExposureSampler(noise_scenes(4), SampleOptions(crop=32), 0)
    whole = [step[1] for step in batches(sampler, 2, 5, 4, workers=0)]
    parts = [[step[1] for step in batches(sampler, 2, 5, 4, rank, 2, workers=0)] for rank in (0, 1)]
    assert len(whole) == 3
    for joint, first, second in zip(whole, *parts, strict=True):
        assert joint[0::2].equal(first)
        assert joint[1::2].equal(second)
    assert whole[0][1].equal(sampler[2 * 4 + 1][1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(windows=(2,), window_weights=(1.0,), depth=2), "multiples of 4"),
        (dict(frames=4), "do not fit into scenes of 24"),
        (dict(crop=64), "does not fit into scenes of 32"),
    ],
)
def test_samples_that_no_scene_has_room_for_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        ExposureSampler(noise_scenes(), SampleOptions(**({"crop": 32} | options)), 0)


def test_the_material_has_detail() -> None:
    assert texture(0, 64, 64).std() > 30  # otherwise the tests above would compare flat pictures
