"""The evaluation compares the right frames, scores them by the metrics, and keeps its counts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vtsr.errors import InputError, OptionError
from vtsr.evaluation.clips import Clip
from vtsr.evaluation.judge import View, evaluate
from vtsr.evaluation.methods import Blend, External, Flow, Nothing, WithLaw
from vtsr.evaluation.region import moving_pixels
from vtsr.evaluation.scores import level_name
from vtsr.training import metrics


def moving_square(count: int, speed: float = 1.0) -> NDArray[np.uint8]:
    """A bright textured square that crosses a still, textured background: uint8 (count, 48, 64, 3)."""
    noise = np.random.default_rng(5).uniform(0, 255, (48, 64, 3)).astype(np.float32)
    ground = cv2.GaussianBlur(noise, (0, 0), 1.5)
    square = np.clip(cv2.GaussianBlur(noise[:16, :16], (0, 0), 1.0) + 90, 0, 255)
    frames = []
    for t in range(count):
        shift = np.array([[1.0, 0.0, 4 + speed * t], [0.0, 1.0, 16.0]])
        layer = cv2.warpAffine(square, shift, (64, 48), flags=cv2.INTER_LINEAR)
        alpha = cv2.warpAffine(np.ones((16, 16, 3), np.float32), shift, (64, 48), flags=cv2.INTER_LINEAR)
        frames.append(ground * (1 - alpha) + layer * alpha)
    return np.rint(np.stack(frames)).astype(np.uint8)


FRAMES = moving_square(24)
CLIP = Clip.of("square", FRAMES, "drawn")


def save(frames: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir(parents=True)
    for n, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{n:04d}.png"), frame[..., ::-1])


def test_scores_of_doing_nothing_are_those_of_the_definition() -> None:
    result = evaluate([CLIP], [Nothing()], 8)
    for level, factor in enumerate((2, 4, 8), start=1):
        expected, ssims = [], []
        for n in range(3):
            window = FRAMES[8 * n : 8 * n + 8].astype(np.float64)
            z = np.rint(window.mean(axis=0)).astype(np.uint8)
            for truth in np.split(window, factor):
                target = np.rint(truth.mean(axis=0)).astype(np.uint8)
                expected.append(metrics.psnr(z, target))
                ssims.append(metrics.ssim(z, target))
        (score,) = result.of("nothing", factor)
        assert np.allclose(score.psnr_curve, expected, atol=0.05)  # halves round differently
        assert score.psnr == pytest.approx(np.mean(expected), abs=0.05)
        assert score.ssim == pytest.approx(np.mean(ssims), abs=1e-3)
        assert len(score.psnr_curve) == 3 * 2**level


def test_the_true_frames_score_perfectly(tmp_path: Path) -> None:
    save(FRAMES, tmp_path / "square")
    (score,) = evaluate([CLIP], [External("perfect", tmp_path)], 8).scores
    assert (score.factor, score.psnr, score.tof, score.flicker_psnr) == (8, 60.0, 0.0, 0.0)
    assert score.ssim == pytest.approx(1.0)


def test_an_external_window_of_its_own_is_judged_beside_the_others(tmp_path: Path) -> None:
    # Three windows of 6 frames from 18 of the 24: two outputs each are the means of 3 frames.
    means = FRAMES[:18].astype(np.float64).reshape(6, 3, *FRAMES.shape[1:]).mean(axis=1)
    save(np.rint(means).astype(np.uint8), tmp_path / "square")
    clip = Clip.of("square", FRAMES[:18])
    result = evaluate([clip], [Nothing(), External("theirs", tmp_path, window=6)], 4)
    (theirs,) = result.of("theirs", 2)
    assert theirs.window == 6
    assert theirs.psnr > 58
    assert len(result.of("nothing", 2)[0].psnr_curve) == 2 * (18 // 4)


def test_tof_follows_the_motion_across_windows() -> None:
    (score,) = evaluate([CLIP], [Blend()], 2, metrics=("tof",)).scores
    inputs = FRAMES.astype(np.float64).reshape(12, 2, *FRAMES.shape[1:]).mean(axis=1)
    rounded = np.rint(inputs).astype(np.uint8).astype(np.float64)
    centres = np.arange(12) + 0.5
    times = np.clip((np.arange(24) + 0.5) / 2, 0.5, 11.5)
    blended = [
        sum(max(0.0, 1 - abs(time - centre)) * frame for centre, frame in zip(centres, rounded, strict=True))
        for time in times
    ]
    expected = metrics.temporal_flow_error(np.rint(np.stack(blended)).astype(np.uint8), FRAMES)
    assert score.tof == pytest.approx(expected, rel=0.02)
    assert np.isnan(score.psnr)


def test_flow_beats_nothing_where_a_square_moves_and_the_law_helps() -> None:
    result = evaluate([CLIP], [Nothing(), Flow(), WithLaw(Flow())], 8, levels=1, metrics=("psnr",))
    nothing, flow, lawful = (score.psnr for score in result.scores)
    assert nothing < flow < lawful


def test_scores_of_moving_pixels_see_only_those() -> None:
    everywhere = evaluate([CLIP], [Nothing()], 8, metrics=("psnr", "ssim")).scores
    moving = evaluate([CLIP], [Nothing()], 8, metrics=("psnr", "ssim"), region="moving").scores
    for whole, part in zip(everywhere, moving, strict=True):
        share = np.mean([moving_pixels(FRAMES[8 * n : 8 * n + 8]).mean() for n in range(3)])
        # The background is right in all frames: the error is the same, over fewer pixels.
        assert part.psnr == pytest.approx(whole.psnr + 10 * np.log10(share), abs=0.3)
        assert part.ssim < whole.ssim


def test_the_moving_region_is_the_path_of_the_square() -> None:
    mask = moving_pixels(FRAMES[:8])
    assert mask[20:28, 6:24].all()
    assert not mask[:8].any()
    assert not mask[:, 40:].any()


def test_a_still_clip_has_no_moving_pixels_and_no_score_there() -> None:
    still = Clip.of("still", np.repeat(FRAMES[:1], 8, axis=0))
    (score,) = evaluate([still], [Nothing()], 8, levels=1, region="moving", metrics=("psnr",)).scores
    assert np.isnan(score.psnr)


def test_means_count_every_clip_once() -> None:
    short = Clip.of("short", FRAMES[:8], "drawn")
    still = Clip.of("still", np.repeat(FRAMES[:1], 8, axis=0), "other")
    result = evaluate([CLIP, short, still], [Nothing()], 8, metrics=("psnr",))
    each = {clip: result.of("nothing", 2, clip=clip)[0].psnr for clip in ("square", "short", "still")}
    total, drawn = result.mean("nothing", 2), result.mean("nothing", 2, group="drawn")
    assert total is not None
    assert drawn is not None
    assert total.psnr == pytest.approx(sum(each.values()) / 3)
    assert drawn.psnr == pytest.approx((each["square"] + each["short"]) / 2)
    assert result.mean("nothing", 16) is None
    assert each["still"] == 60.0


def test_observers_see_every_input_frame_with_its_truth() -> None:
    views: list[View] = []

    class Watcher:
        def see(self, view: View) -> None:
            views.append(view)

        def close(self) -> None:
            views.append(views[-1])

    evaluate([CLIP], [Nothing(), Flow()], 8, metrics=(), observers=[Watcher()])
    assert [view.window.index for view in views] == [0, 1, 2, 2]
    assert np.array_equal(views[1].truths[8], FRAMES[8:16])
    assert set(views[0].outputs) == {"nothing", "flow"}
    assert views[0].outputs["flow"][4].dtype == np.uint8


def test_frames_are_read_a_few_windows_ahead_at_most() -> None:
    read = 0
    seen_at: list[int] = []

    def frames() -> object:
        nonlocal read
        for frame in moving_square(64, speed=0.3):
            read += 1
            yield frame

    class Watcher:
        def see(self, view: View) -> None:
            seen_at.append(read - 4 * view.window.index)

        def close(self) -> None: ...

    clip = Clip("long", frames)  # type: ignore[arg-type]
    evaluate([clip], [Nothing(), Flow()], 4, metrics=(), observers=[Watcher()])
    assert len(seen_at) == 16
    assert max(seen_at) <= 8  # the window in question and the next


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 6}, "power of two"),
        ({"levels": 4}, "levels 1 to 3"),
        ({"levels": 0}, "levels 1 to 3"),
        ({"region": "sky"}, "region"),
        ({"metrics": ("vmaf",)}, "no metric"),
        ({"methods": []}, "no method"),
        ({"methods": [Nothing(), Nothing()]}, "same name"),
        ({"clips": [CLIP, CLIP]}, "same name"),
    ],
)
def test_impossible_evaluations_are_refused(options: dict[str, object], message: str) -> None:
    arguments = {"clips": [CLIP], "methods": [Nothing()], "window": 8} | options
    with pytest.raises(OptionError, match=message):
        evaluate(**arguments)  # type: ignore[arg-type]


def test_a_clip_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(InputError, match="fewer than the 32 frames"):
        evaluate([CLIP], [Nothing()], 32)
    with pytest.raises(InputError, match="fewer than the 30 frames"):
        evaluate([CLIP], [Nothing(), External("theirs", Path("nowhere"), window=30)], 8)


def test_levels_are_called_by_the_field_s_names() -> None:
    assert [level_name(factor) for factor in (2, 4, 16, 10)] == ["f", "f2", "f4", "x10"]
