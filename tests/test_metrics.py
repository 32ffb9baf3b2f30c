"""The metrics agree with their definitions and with independent implementations."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vtsr.errors import MissingExtraError, OptionError
from vtsr.training import metrics


def texture(seed: int = 0, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip((smooth - smooth.mean()) * 4 + 128, 0, 255).astype(np.uint8)


def noisy(image: NDArray[np.uint8], sigma: float, seed: int = 1) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def test_psnr_agrees_with_scikit_image() -> None:
    image = texture()
    other = noisy(image, 8)
    assert metrics.psnr(other, image) == pytest.approx(peak_signal_noise_ratio(image, other, data_range=255), abs=1e-4)


def test_psnr_is_the_same_for_bytes_and_for_floats() -> None:
    image, other = texture(), noisy(texture(), 8)
    as_floats = metrics.psnr(other.astype(np.float32) / 255, image.astype(np.float32) / 255)
    assert as_floats == pytest.approx(metrics.psnr(other, image), abs=1e-3)


def test_psnr_of_equal_pictures_is_the_ceiling_and_not_infinite() -> None:
    assert metrics.psnr(texture(), texture()) == 60.0


def test_one_code_of_error_everywhere_is_48_13_decibels() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    assert metrics.psnr(image + 1, image) == pytest.approx(20 * np.log10(255), abs=1e-4)


def test_a_mask_leaves_out_the_errors_outside_it() -> None:
    image = texture()
    other = image.copy()
    other[:, 64:] //= 2
    left = np.zeros(image.shape[:2], bool)
    left[:, :64] = True
    assert metrics.psnr(other, image, left) == 60.0
    assert metrics.psnr(other, image, ~left) < metrics.psnr(other, image)
    # All the error lies in one half: its mean square there is twice the mean square of all.
    assert metrics.psnr(other, image, ~left) == pytest.approx(metrics.psnr(other, image) - 10 * np.log10(2), abs=1e-3)


def test_an_empty_mask_gives_no_score() -> None:
    nowhere = np.zeros(texture().shape[:2], bool)
    assert np.isnan(metrics.psnr(texture(), texture(), nowhere))
    assert np.isnan(metrics.ssim(texture(), texture(), nowhere))


def test_ssim_is_scikit_images() -> None:
    image, other = texture(), noisy(texture(), 20)
    expected = structural_similarity(image, other, data_range=255, channel_axis=2)
    assert metrics.ssim(other, image) == pytest.approx(expected, abs=1e-4)
    assert metrics.ssim(image, image) == pytest.approx(1.0)


def test_ssim_of_a_mask_is_the_mean_of_the_map_there() -> None:
    image, other = texture(), noisy(texture(), 20)
    # scikit-image's mean leaves out the 3-pixel border its 7-pixel window cannot centre on.
    inner = np.zeros(image.shape[:2], bool)
    inner[3:-3, 3:-3] = True
    assert metrics.ssim(other, image, inner) == pytest.approx(metrics.ssim(other, image), abs=1e-5)


def test_without_scikit_image_ssim_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(MissingExtraError, match=r"vtsr\[evaluate\]"):
        metrics.ssim(texture(), texture())


def test_pictures_of_different_shapes_or_kinds_are_refused() -> None:
    with pytest.raises(OptionError, match="shapes"):
        metrics.psnr(texture(), texture()[:-1])
    with pytest.raises(OptionError, match="types"):
        metrics.ssim(texture(), texture().astype(np.float32))


def test_tof_of_the_true_video_is_zero() -> None:
    video = np.stack([np.roll(texture(), 2 * t, axis=1) for t in range(4)])
    assert metrics.temporal_flow_error(video, video) == 0.0


def test_tof_of_a_standing_picture_is_the_speed_of_the_truth() -> None:
    moving = np.stack([np.roll(texture(), 2 * t, axis=1) for t in range(4)])
    standing = np.repeat(moving[:1], 4, axis=0)
    assert metrics.temporal_flow_error(standing, moving) == pytest.approx(2.0, rel=0.1)


def test_tof_grows_with_jitter_about_the_right_path() -> None:
    truth = np.stack([np.roll(texture(), 2 * t, axis=1) for t in range(5)])
    jitter = np.stack([np.roll(texture(), 2 * t + t % 2, axis=1) for t in range(5)])
    assert metrics.temporal_flow_error(jitter, truth) == pytest.approx(1.0, rel=0.15)


def test_tof_looks_at_tecogans_crop() -> None:
    # TecoGAN's loop: the largest multiple of 32 that leaves out at least 16 pixels, centred.
    for height, width in ((96, 128), (97, 150), (49, 48), (200, 333)):
        rows, columns = height // 32 * 32, width // 32 * 32
        while rows > height - 16:
            rows -= 32
        while columns > width - 16:
            columns -= 32
        flow = np.zeros((height, width, 2), np.float32)
        y, x = (height - rows) // 2, (width - columns) // 2
        flow[y : y + rows, x : x + columns] = (3, 4)
        assert metrics.flow_difference(flow, np.zeros_like(flow)) == pytest.approx(5.0)
        assert flow.any(axis=-1).sum() == rows * columns


def test_flicker_is_the_spread_between_phases() -> None:
    scores = np.array([30.0, 33.0, 31.0, 34.0, 29.0, 32.0])
    assert metrics.flicker_amplitude(scores, 2) == pytest.approx(3.0)
    # Quality that changes from one input frame to the next does not flicker.
    assert metrics.flicker_amplitude(np.repeat([30.0, 35.0, 25.0], 2), 2) == 0.0


def test_flicker_leaves_out_input_frames_without_a_score() -> None:
    scores = np.array([30.0, 33.0, np.nan, np.nan, 30.0, 33.0])
    assert metrics.flicker_amplitude(scores, 2) == pytest.approx(3.0)


def test_flicker_needs_whole_input_frames() -> None:
    with pytest.raises(OptionError, match="phases"):
        metrics.flicker_amplitude(np.zeros(5), 2)
