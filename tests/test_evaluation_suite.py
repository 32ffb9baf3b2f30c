"""The validation suite turns any clips and photographs into high-speed footage, the same way every time."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vtsr.errors import InputError
from vtsr.evaluation import suite
from vtsr.evaluation.suite import load_suite, measure_motion, render


def texture(height: int, width: int, seed: int = 0, grain: float = 2.0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain)
    return np.clip((smooth - smooth.mean()) * 5 + 128, 0, 255).astype(np.uint8)


def view(scene: NDArray[np.uint8], x: float, width: int, height: int) -> NDArray[np.uint8]:
    shift = np.array([[1.0, 0.0, x], [0.0, 1.0, 4.0]])
    return np.asarray(cv2.warpAffine(scene, shift, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP))


def save_frames(frames: list[NDArray[np.uint8]], folder: Path) -> None:
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t:03d}.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fast pan as a folder of frames, a still camera as a video, two photographs."""
    folder = tmp_path_factory.mktemp("validation")
    wide = texture(112, 600)
    save_frames([view(wide, 9.0 * t, 160, 96) for t in range(24)], folder / "pan")
    ground, ball = texture(96, 128, seed=1), texture(16, 16, seed=2, grain=1.0)
    with av.open(str(folder / "still.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=60, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for t in range(24):
            frame = ground.copy()
            frame[70:86, 4 * t : 4 * t + 16] = ball
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    (folder / "photographs").mkdir()
    for name, shape in (("a", (450, 460)), ("b", (440, 480))):
        cv2.imwrite(str(folder / "photographs" / f"{name}.png"), texture(*shape, seed=ord(name)))
    (folder / "notes.txt").write_text("not a clip")
    return folder


def test_every_source_becomes_the_clips_it_is_good_for(material: Path) -> None:
    built = load_suite(material)
    assert [(clip.group, clip.name) for clip in built] == [
        ("real", "pan"), ("rendered", "a"), ("rendered", "b"), ("real", "still"), ("panned", "still_panned"),
    ]  # fmt: skip
    for clip in built:
        frames = list(clip)
        assert len(frames) >= 24
        assert len({frame.shape for frame in frames}) == 1


def test_fast_clips_are_shrunk_until_they_are_slow_enough(material: Path) -> None:
    pan = next(clip for clip in load_suite(material) if clip.name == "pan")
    frames = list(pan)
    # 9 pixels per frame at 160 pixels: a third of the size and a little less.
    assert 44 <= frames[0].shape[1] <= 54
    assert 2.5 < measure_motion(frames).strong <= 3.0


def test_a_still_camera_gets_a_moving_one_beside_it(material: Path) -> None:
    built = {clip.name: list(clip) for clip in load_suite(material)}
    assert measure_motion(built["still"]).typical < 0.1
    assert measure_motion(built["still_panned"]).typical > 0.5
    assert measure_motion(built["still_panned"]).strong < 4.5  # the pan's 3 pixels, and the ball's own motion


def test_a_cached_suite_is_the_same_suite(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {clip.name: np.stack(list(clip)) for clip in load_suite(material, tmp_path)}

    def fail(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(suite, "_build", fail)
    cached = load_suite(material, tmp_path)
    assert {clip.name for clip in cached} == set(fresh)
    for clip in cached:
        assert np.array_equal(np.stack(list(clip)), fresh[clip.name])
        assert clip.group in ("real", "panned", "rendered")


def test_a_changed_source_is_built_again(material: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    scene = texture(112, 300)
    save_frames([view(scene, 2.0 * t, 96, 96) for t in range(4)], tmp_path / "in" / "clip")
    before = np.stack(list(load_suite(tmp_path / "in", tmp_path / "cache")[0]))
    cv2.imwrite(str(tmp_path / "in" / "clip" / "004.jpg"), view(scene, 8.0, 96, 96))
    after = np.stack(list(load_suite(tmp_path / "in", tmp_path / "cache")[0]))
    assert (len(before), len(after)) == (4, 5)


@pytest.mark.parametrize(("index", "kind"), [(0, "pan"), (1, "zoom"), (2, "turn"), (3, "mixed")])
def test_a_rendered_camera_moves_at_its_speed(index: int, kind: str) -> None:
    photograph = texture(450, 600, grain=3.0)
    frames = render(photograph, index, of=4, count=24)
    expected = 0.3 + 2.7 * index / 3  # pixels per sub-frame at the fastest moment
    motion = measure_motion(list(frames))
    assert frames.shape == (24, suite.RENDERED_HEIGHT, suite.RENDERED_WIDTH, 3)
    # All of a panned picture moves alike; of a zoomed or turned one the corners do, and half of it is slower
    # than two thirds of that. The clip is too short for the fastest moment of every motion.
    assert (0.6 if kind == "pan" else 0.25) * expected < motion.typical < 1.05 * expected
    assert motion.strong < 1.1 * expected


def test_the_busiest_stretch_and_place_are_taken(tmp_path: Path) -> None:
    ground, ball = texture(300, 420, seed=3), texture(60, 60, seed=4, grain=1.0)
    frames = []
    for t in range(160):
        frame = ground.copy()
        # Still for 110 frames, then a ball comes down the right-hand side.
        y = max(t - 110, 0) * 3
        frame[y : y + 60, 350:410] = ball
        frames.append(frame)
    save_frames(frames, tmp_path / "clip")
    clip = load_suite(tmp_path)[0]
    cut = np.stack(list(clip)).astype(float)
    assert cut.shape == (96, 256, 384, 3)
    changes = np.abs(np.diff(cut, axis=0)).max(axis=(1, 2, 3)) > 100
    assert changes[-48:].sum() >= 40
    assert (np.abs(cut[-1] - cut[0]).max(axis=(0, 2)) > 100)[300:].any()


def test_folders_without_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load_suite(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no videos"):
        load_suite(tmp_path)


def test_photographs_that_are_too_small_are_refused() -> None:
    with pytest.raises(InputError, match="at least"):
        render(texture(100, 100), 0, 1)
