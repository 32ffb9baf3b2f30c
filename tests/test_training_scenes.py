"""Scenes: what is rendered and cut is what the sources show, and the cache is the same for any number of workers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from training_media import Array, panning, texture, write_cache, write_frames, write_photographs

from vtsr.errors import InputError, OptionError, OutputError
from vtsr.training.data.clips import ClipFacts, ClipScenes, find_clips, find_high_speed, measure_clip
from vtsr.training.data.interpolation import between, densify
from vtsr.training.data.motion import random_motion
from vtsr.training.data.photographs import CutOut, SceneRenderer, read_cut_outs
from vtsr.training.data.scenes import SceneOptions, build_scenes, held_out_scenes, main, open_scenes


def psnr(a: Array, b: Array) -> float:
    return float(-10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2))


def shift(first: Array, second: Array) -> float:
    """Length of the translation between two pictures, in pixels, by phase correlation."""
    a, b = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.float64) for x in (first, second))
    return float(np.hypot(*cv2.phaseCorrelate(a, b, cv2.createHanningWindow(a.shape[::-1], cv2.CV_64F))[0]))


# Interpolation


def test_interpolated_frames_lie_where_the_motion_was() -> None:
    frames = panning(1, 9, 96, 128, 1.0)
    middle = between(frames[0], frames[8], 3)
    inner = np.s_[:, 8:-8, 16:-16]  # what both frames show
    truth = frames[[2, 4, 6]][inner]
    blend = np.stack([cv2.addWeighted(frames[0], 1 - t, frames[8], t, 0) for t in (0.25, 0.5, 0.75)])[inner]
    assert psnr(np.stack(middle)[inner], truth) > psnr(blend, truth) + 8


def test_exposures_of_interpolated_frames_are_free_of_ghosts() -> None:
    frames = panning(2, 17, 96, 128, 1.1)
    inner = np.s_[8:-8, 24:-24]
    truth = frames.mean(axis=0)[inner]
    sparse = frames[::4]  # four pixels apart
    dense = np.stack(list(densify(sparse, 4)))
    assert len(dense) == 17
    assert all((dense[4 * i] == frame).all() for i, frame in enumerate(sparse))
    assert psnr(dense.mean(axis=0)[inner], truth) > psnr(sparse.mean(axis=0)[inner], truth) + 5


def test_a_factor_of_one_changes_nothing() -> None:
    frames = panning(3, 3, 32, 32, 1.0)
    assert np.array_equal(np.stack(list(densify(frames, 1))), frames)


# Motion and rendering


def test_motions_keep_their_speed_and_are_at_rest_at_times() -> None:
    rng = np.random.default_rng(0)
    motions = [random_motion(rng, 24, 3.0) for _ in range(300)]
    speeds = [np.hypot(*np.diff(m.shift, axis=0).T).max() for m in motions]
    assert max(speeds) < 3.0 * 1.9 + 1.5  # acceleration and hand shake come on top
    assert np.percentile(speeds, 95) > 2.0
    assert 0.05 < np.mean([s == 0 for s in speeds]) < 0.17
    assert all((m.shift[12] == 0).all() for m in motions)
    assert 0.2 < np.mean([m.angle.any() for m in motions]) < 0.45
    assert 0.2 < np.mean([(m.scale != 1).any() for m in motions]) < 0.45
    uneven = [np.hypot(*np.diff(m.shift, axis=0).T) for m in motions if np.abs(m.shift).max() > 5]
    assert np.mean([u.max() > 1.2 * u.min() for u in uneven]) > 0.3  # acceleration


def test_a_rendered_scene_moves_as_its_camera() -> None:
    class Steady(SceneRenderer):
        def _composite(self, *args: Any) -> None:  # no objects in front
            pass

    found = 0
    for seed in range(12):
        scene = Steady([texture(0, 300, 300)], []).render(np.random.default_rng(seed), 96, 12)
        motion = random_motion(np.random.default_rng(seed), 12, 3.0)
        if motion.angle.any() or (motion.scale != 1).any():
            continue
        expected = np.hypot(*(motion.shift[8] - motion.shift[4]))
        assert shift(scene[4], scene[8]) == pytest.approx(expected, abs=0.4)
        found += expected > 1
    assert found >= 3


def test_cut_outs_come_from_masks_and_move_in_front(tmp_path: Path) -> None:
    write_frames(tmp_path / "goat", np.full((1, 40, 50, 3), (10, 250, 10), np.uint8))
    mask = np.zeros((40, 50), np.uint8)
    mask[5:25, 10:40] = 38
    (tmp_path / "goat" / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "goat" / "masks" / "00000.png"), mask)
    (cut_out,) = read_cut_outs(tmp_path)
    assert cut_out.alpha.shape == (20, 30)
    assert (cut_out.alpha == 1).all()
    gray = np.full((200, 200, 3), 128, np.uint8)
    green = 0
    for seed in range(10):
        scene = SceneRenderer([gray], [cut_out]).render(np.random.default_rng(seed), 64, 4)
        green += bool((np.ptp(scene.astype(int), axis=-1) > 100).any())
    assert green >= 3
    assert isinstance(cut_out, CutOut)


# Clips


def test_motion_is_measured_at_a_common_size(tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "pan", panning(4, 30, 180, 240, 1.5))
    facts = measure_clip(clip)
    assert (facts.frames, facts.short_side) == (30, 180)
    assert facts.median == pytest.approx(3.0, rel=0.15)  # twice the speed at twice the size
    assert facts.p95 == pytest.approx(3.0, rel=0.3)


def test_long_clips_are_measured_from_end_to_end(tmp_path: Path) -> None:
    still = np.repeat(panning(5, 1, 64, 80, 0), 60, axis=0)
    moving = panning(5, 60, 64, 80, 1.0)
    facts = measure_clip(write_frames(tmp_path / "a", np.concatenate([still, moving])))
    assert facts.frames == 120
    assert facts.p95 > 4  # pixels at 360: the second half was seen
    assert facts.median < facts.p95 / 2  # and the first


def test_a_fast_clip_is_shrunk_until_it_is_slow(tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "fast", panning(6, 28, 200, 280, 4.0))
    scenes = ClipScenes(clip, measure_clip(clip), 64, 12)
    assert 64 <= scenes.side < 200 * 3 / 4 * 1.15
    for _, scene in scenes.cut([[0, i] for i in range(6)]):
        assert scene.shape == (12, 64, 64, 3)
        assert shift(scene[4], scene[6]) / 2 < 3.4
    assert not ClipScenes(clip, measure_clip(clip), 192, 12).usable  # it would have to stay too large
    assert not ClipScenes(clip, measure_clip(clip), 64, 29).usable  # or be longer


def test_interpolation_makes_a_fast_clip_usable_at_full_size(tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "fast", panning(6, 10, 200, 280, 4.0))
    scenes = ClipScenes(clip, measure_clip(clip), 128, 17, interpolate=2)
    assert scenes.span == 9
    assert scenes.side > 190
    for _, scene in scenes.cut([[1, i] for i in range(3)]):
        assert scene.shape == (17, 128, 128, 3)
        assert shift(scene[4], scene[8]) / 4 < 2.4


def test_high_speed_scenes_are_the_frames_themselves(tmp_path: Path) -> None:
    frames = panning(7, 20, 48, 60, 6.0)  # too fast for an ordinary clip
    clip = write_frames(tmp_path / "v", frames)
    scenes = list(ClipScenes(clip, measure_clip(clip), 40, 8, as_is=True).cut([[2, i] for i in range(5)]))
    assert sorted(place for place, _ in scenes) == [0, 1, 2, 3, 4]
    for _, scene in scenes:
        assert any(
            (frames[t : t + 8, y : y + 40, x : x + 40] == scene).all()
            for t in range(13) for y in range(9) for x in range(21)
        )  # fmt: skip
    assert len({s.tobytes() for _, s in scenes}) == 5


def test_a_static_clip_is_at_times_seen_by_a_moving_camera(tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "still", np.repeat(panning(8, 1, 200, 200, 0), 12, axis=0))
    scenes = [s for _, s in ClipScenes(clip, measure_clip(clip), 64, 12).cut([[3, i] for i in range(20)])]
    moving = [bool((s[0] != s[-1]).any()) for s in scenes]
    assert 4 <= sum(moving) <= 16


def test_high_speed_data_sets_are_found_by_their_layout(tmp_path: Path) -> None:
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    gopro, large, dvd, sony = (tmp_path / n for n in ("gopro", "large", "dvd", "sony"))
    for name in ("train/GOPR0372", "train/GOPR0374", "test/GOPR0384"):
        write_frames(gopro / name, frames)
    for name in ("blur", "sharp", "blur_gamma"):
        write_frames(large / "train" / "GOPR0372" / name, frames)
    write_frames(dvd / "quantitative_datasets" / "IMG_0030" / "GT", frames)
    write_frames(dvd / "quantitative_datasets" / "IMG_0030" / "input", frames)
    write_frames(sony / "0001", frames)
    (sony / "0002.mp4").write_bytes(b"")
    assert [p.name for p in find_high_speed(gopro)] == ["GOPR0372", "GOPR0374"]
    assert [str(p.relative_to(dvd)) for p in find_high_speed(dvd)] == ["quantitative_datasets/IMG_0030/GT"]
    assert [p.name for p in find_high_speed(sony)] == ["0001", "0002.mp4"]
    with pytest.raises(InputError, match="no videos"):
        find_high_speed(large)  # holds every seventh frame only
    with pytest.raises(InputError, match="no folder"):
        find_clips(tmp_path / "none")


def test_unreadable_clips_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"this is no video")
    with pytest.raises(InputError, match=r"a\.mp4 cannot be decoded"):
        measure_clip(tmp_path / "a.mp4")
    mixed = write_frames(tmp_path / "mixed", texture(0, 20, 30)[None])
    cv2.imwrite(str(mixed / "z.png"), texture(0, 30, 30))
    with pytest.raises(InputError, match="change size"):
        measure_clip(mixed)


# The cache


def sources(folder: Path) -> SceneOptions:
    write_photographs(folder / "photos", 3)
    write_frames(folder / "clips" / "pan", panning(0, 10, 80, 100, 0.7))
    write_frames(folder / "clips" / "short", panning(0, 3, 80, 100, 0.7))
    write_frames(folder / "fast" / "train" / "one", panning(1, 12, 64, 64, 2.0))
    return SceneOptions(
        photographs=(folder / "photos",), clips=(folder / "clips",), high_speed=(folder / "fast",),
        count=5, clip_count=4, per_video=3, size=48, subframes=8, interpolate=2, held_out_share=0,
    )  # fmt: skip


def test_the_cache_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    options = sources(tmp_path)
    digests = []
    for workers in (1, 2):
        facts = build_scenes(tmp_path / str(workers), options, workers)
        assert (facts.scenes, facts.rendered, facts.left_out) == (12, 5, ("short",))
        assert sorted(p.name for p in (tmp_path / str(workers)).iterdir()) == ["scenes.json", "scenes.npy"]
        digests.append(hashlib.sha256((tmp_path / str(workers) / "scenes.npy").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    scenes = open_scenes(tmp_path / "1")
    assert scenes.shape == (12, 8, 48, 48, 3)
    assert all(scene.std() > 5 for scene in scenes)  # none was left empty
    assert len({scene.tobytes() for scene in scenes}) == 12


def test_a_failed_build_leaves_the_cache_before_it(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 1)
    options = SceneOptions(photographs=(tmp_path / "photos",), count=2, size=32, subframes=4)
    build_scenes(tmp_path / "cache", options, 1)
    before = (tmp_path / "cache" / "scenes.npy").read_bytes()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"broken\.png cannot be decoded"):
            build_scenes(tmp_path / "cache", options, workers)
    assert (tmp_path / "cache" / "scenes.npy").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["scenes.json", "scenes.npy"]


def test_held_out_scenes_show_sources_that_no_other_scene_shows(tmp_path: Path) -> None:
    for i in range(10):
        write_frames(tmp_path / "v" / f"{i:02d}", np.full((4, 32, 32, 3), 20 * i, np.uint8))
    options = SceneOptions(high_speed=(tmp_path / "v",), per_video=3, size=32, subframes=4, held_out_share=0.2)
    facts = build_scenes(tmp_path / "cache", options, 1)
    shown = [int(scene[0, 0, 0, 0]) // 20 for scene in open_scenes(tmp_path / "cache")]
    assert facts.held_out == 6 == held_out_scenes(tmp_path / "cache", 30)
    assert len(set(shown[-6:])) == 2
    assert len(set(shown[:-6])) == 8
    assert not set(shown[-6:]) & set(shown[:-6])
    assert shown[-6:] != sorted(shown[-6:])  # mixed: a few of them are a fair sample
    assert held_out_scenes(tmp_path / "cache", 31) == 0  # facts of another cache


def test_caches_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make one with vtsr-scenes"):
        open_scenes(tmp_path)
    write_cache(tmp_path / "a", np.zeros((2, 4, 32, 32, 3), np.uint8))
    content = (tmp_path / "a" / "scenes.npy").read_bytes()
    (tmp_path / "a" / "scenes.npy").write_bytes(content[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        open_scenes(tmp_path / "a")
    write_cache(tmp_path / "b", np.zeros((2, 4, 32, 32), np.float32))
    with pytest.raises(InputError, match="not a scene cache"):
        open_scenes(tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({}, InputError, "nothing to make scenes from"),
        ({"size": 16}, OptionError, "size of 32"),
        ({"held_out_share": 1.0}, OptionError, "held-out share"),
        ({"seed": -1}, OptionError, "must not be negative"),
        ({"photographs": (Path("nowhere"),)}, InputError, "no photographs in nowhere"),
        ({"clips": (Path("nowhere"),)}, InputError, "no folder nowhere"),
    ],
)
def test_options_without_scenes_are_refused(changes: dict[str, Any], error: type, words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        build_scenes(tmp_path, SceneOptions(**changes), 1)


def test_clips_that_all_are_too_short_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "c" / "a", panning(0, 3, 40, 40, 1.0))
    with pytest.raises(InputError, match="No clip is long"):
        build_scenes(tmp_path / "cache", SceneOptions(clips=(tmp_path / "c",), size=32), 1)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    write_photographs(tmp_path / "p", 1)
    (tmp_path / "file").write_text("in the way")
    options = SceneOptions(photographs=(tmp_path / "p",), count=1, size=32, subframes=2)
    with pytest.raises(OutputError, match="cannot be written"):
        build_scenes(tmp_path / "file" / "cache", options, 1)


def test_the_command_prepares_a_cache_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources(tmp_path)
    arguments = ["--photographs", str(tmp_path / "photos"), "--clips", str(tmp_path / "clips"), "--count", "3"]
    arguments += ["--clip-count", "2", "--scene-size", "32", "--subframes", "8", "--workers", "1"]
    assert main([str(tmp_path / "cache"), *arguments]) == 0
    assert len(open_scenes(tmp_path / "cache")) == 5
    output = capsys.readouterr().out
    assert "5 scenes" in output
    assert "short" in output
    assert main([str(tmp_path / "cache"), "--photographs", str(tmp_path / "none")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("vtsr-scenes: There are no photographs")
    assert message.count("\n") == 1
    assert main([str(tmp_path / "cache"), *arguments, "--workers", "0"]) == 2


def test_facts_of_a_clip_decide_its_size() -> None:
    slow, fast = ClipFacts(100, 1080, 0.1, 0.5), ClipFacts(100, 1080, 2.0, 12.0)
    assert ClipScenes(Path("a"), slow, 128, 24).side == 720
    assert ClipScenes(Path("a"), fast, 128, 24).side == 90
    assert ClipScenes(Path("a"), fast, 128, 24, interpolate=2).side == 180
    assert ClipScenes(Path("a"), fast, 128, 24, as_is=True).side == 1080
