"""Clips are read as they are, cut as asked, and refused in a sentence when they cannot be."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vtsr.errors import InputError, OptionError
from vtsr.evaluation.clips import Clip, Crop, open_clip, pan_path


def pictures(count: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Soft pictures; each has its own brightness, so that their order can be seen."""
    y, x = np.mgrid[:height, :width]
    base = 60 + 40 * np.sin(x / 9.0) + 30 * np.cos(y / 7.0)
    return np.stack([np.repeat((base + 4 * t)[..., None], 3, axis=-1) for t in range(count)]).astype(np.uint8)


def save_folder(frames: NDArray[np.uint8], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t:03d}.png"), frame[..., ::-1])
    return folder


def save_video(frames: NDArray[np.uint8], path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_folder_gives_its_pictures_in_order_and_in_colour(tmp_path: Path) -> None:
    frames = pictures(4)
    frames[2, ..., 0] = 200  # red
    assert np.array_equal(np.stack(list(open_clip(save_folder(frames, tmp_path / "clip")))), frames)


def test_a_video_gives_its_frames(tmp_path: Path) -> None:
    frames = pictures(6)
    clip = open_clip(save_video(frames, tmp_path / "clip.mp4"))
    decoded = np.stack(list(clip))
    assert clip.name == "clip"
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 2


def test_a_clip_can_be_read_again(tmp_path: Path) -> None:
    clip = open_clip(save_video(pictures(3), tmp_path / "clip.mp4"))
    assert len(list(clip)) == len(list(clip)) == 3


def test_an_array_on_disk_is_a_clip(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", pictures(3))
    assert np.array_equal(np.stack(list(open_clip(tmp_path / "clip.npy"))), pictures(3))


def test_start_and_number_of_frames(tmp_path: Path) -> None:
    folder = save_folder(pictures(6), tmp_path / "clip")
    clip = open_clip(folder, start=2, max_frames=3)
    assert np.array_equal(np.stack(list(clip)), pictures(6)[2:5])
    assert clip.length == 3


def test_scaling_averages_areas(tmp_path: Path) -> None:
    frames = pictures(1)
    small = next(iter(open_clip(save_folder(frames, tmp_path / "clip"), scale=0.5)))
    blocks = frames[0].reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 0.5


def test_a_crop_is_a_part_of_the_picture(tmp_path: Path) -> None:
    folder = save_folder(pictures(1), tmp_path / "clip")
    corner = next(iter(open_clip(folder, crop=Crop(20, 10, 5, 7))))
    middle = next(iter(open_clip(folder, crop=Crop(20, 10))))
    assert np.array_equal(corner, pictures(1)[0, 7:17, 5:25])
    assert np.array_equal(middle, pictures(1)[0, 19:29, 22:42])


def test_a_panned_crop_moves_over_a_still_picture_along_its_path(tmp_path: Path) -> None:
    # Red grows by 3 codes per pixel to the right and green downwards, so that colour tells the place.
    y, x = np.mgrid[:60, :80]
    still = np.stack([3 * x + 10, 3 * y + 10, np.zeros_like(x)], axis=-1).astype(np.uint8)
    np.save(tmp_path / "still.npy", np.repeat(still[None], 40, axis=0))
    frames = np.stack(list(open_clip(tmp_path / "still.npy", crop=Crop(32, 24), pan=1.5))).astype(np.float64)
    place = np.stack([frames[..., 0].mean(axis=(1, 2)), frames[..., 1].mean(axis=(1, 2))], axis=-1) / 3
    steps = np.linalg.norm(np.diff(place, axis=0), axis=1)
    assert frames.shape == (40, 24, 32, 3)
    assert steps.max() <= 1.55
    assert steps.max() > 1.0
    # Sub-pixel steps: with whole pixels, every step would be 0, 1 or more.
    assert ((steps > 0.1) & (steps < 0.9)).any()


@pytest.mark.parametrize("speed", [0.3, 1.0, 3.0])
def test_a_pan_is_smooth_fast_and_stays_inside(speed: float) -> None:
    path = pan_path(300, speed, 200, 120)
    velocity = np.diff(path, axis=0)
    assert path.min() >= 0
    assert path[:, 0].max() <= 200
    assert path[:, 1].max() <= 120
    lengths = np.linalg.norm(velocity, axis=1)
    assert lengths.max() <= speed
    assert lengths.max() > 0.8 * speed
    assert np.abs(np.diff(velocity, axis=0)).max() < 0.1 * speed


def test_frames_of_changing_size_are_refused() -> None:
    frames = [np.zeros((4, 6, 3), np.uint8), np.zeros((4, 8, 3), np.uint8)]
    with pytest.raises(InputError, match="6x4 to 8x4"):
        list(Clip("odd", lambda: iter(frames)))


def test_arrays_that_are_no_frames_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.zeros((3, 4, 5), np.float32))
    with pytest.raises(InputError, match="uint8 frames"):
        open_clip(tmp_path / "clip.npy")
    with pytest.raises(InputError, match="uint8 of shape"):
        Clip.of("clip", np.zeros((3, 4, 5, 3)))


def test_unreadable_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"not a picture")
    for name, message in (("absent", "no video or folder"), ("empty", "no pictures"), ("text.mp4", "cannot be opened")):
        with pytest.raises(InputError, match=message):
            open_clip(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        list(open_clip(tmp_path / "broken"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale"),
        ({"scale": 2.0}, "scale"),
        ({"start": -1}, "first frame"),
        ({"max_frames": 0}, "number of frames"),
        ({"pan": 1.0}, "size of the crop"),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    folder = save_folder(pictures(1), tmp_path / "clip")
    with pytest.raises(OptionError, match=message):
        open_clip(folder, **options)  # type: ignore[arg-type]


def test_crops_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = save_folder(pictures(1), tmp_path / "clip")
    with pytest.raises(OptionError, match="does not fit"):
        list(open_clip(folder, crop=Crop(100, 10)))
    with pytest.raises(OptionError, match="at least"):
        list(open_clip(folder, crop=Crop(64, 10), pan=1.0))
