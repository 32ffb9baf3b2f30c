"""Image sequences in and out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from media import Array, Command, picture, planes, read_planes, read_times, write_clip

from vtsr.errors import InputError
from vtsr.runtime.video.images import ImageReader, list_images


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def deep(index: int) -> Array:
    """A 16-bit picture whose low byte matters."""
    return picture(index).astype(np.uint16) * 256 + np.arange(64, dtype=np.uint16)[None, :, None]


def write_images(folder: Path, count: int, name: str = "frame_%d.png", bits: int = 8) -> Path:
    folder.mkdir()
    for index in range(count):
        image = picture(index) if bits == 8 else deep(index)
        assert cv2.imwrite(str(folder / (name % index)), image[..., ::-1])
    return folder


def read_image(path: Path) -> Array:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 12)  # frame_10 sorts before frame_2 as text
    (folder / "notes.txt").write_text("not an image")
    with ImageReader(folder, Fraction(24000, 1001)) as reader:
        frames = list(reader)
    assert len(frames) == 12
    for index, frame in enumerate(frames):
        assert np.array_equal(frame.image, picture(index))
        assert (frame.pts, frame.duration) == (Fraction(index * 1001, 24000), Fraction(1001, 24000))
        assert frame.source_index == index


def test_a_pattern_takes_the_numbers_there_are(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 5, "shot%04d.png")
    (folder / "shot0003.png").unlink()
    (folder / "other0001.png").touch()
    names = [path.name for path in list_images(folder / "shot%04d.png")]
    assert names == ["shot0000.png", "shot0001.png", "shot0002.png", "shot0004.png"]


def test_a_pattern_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No file matches"):
        list_images(tmp_path / "%05d.png")


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 16])
def test_lossless_images_come_out_as_they_went_in(
    command: Command, tmp_path: Path, extension: str, bits: int
) -> None:
    folder = write_images(tmp_path / "in", 3, f"%03d{extension}", bits)
    assert command(folder / f"%03d{extension}", tmp_path / "out" / f"n%02d{extension}", "--levels", 1).code == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"n{k:02d}{extension}" for k in range(6)]
    for number, file in enumerate(files):
        expected = picture(number // 2) if bits == 8 else deep(number // 2)
        got = read_image(file)
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)


def test_images_become_a_video_with_the_rate_given(command: Command, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 4)
    assert command(folder, tmp_path / "out.mp4", "--levels", 1, "--fps", "23.976").code == 0
    assert read_times(tmp_path / "out.mp4") == [Fraction(k * 1001, 48000) for k in range(8)]


def test_the_colours_of_images_survive_as_tagged_yuv(command: Command, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 2)
    output = tmp_path / "out.mkv"
    assert command(folder, output, "--levels", 1, "--codec", "ffv1", "--pix-fmt", "yuv444p").code == 0
    assert command(output, tmp_path / "back", "--levels", 1).code == 2  # a folder to be made is written with a slash
    assert command(output, f"{tmp_path}/back/", "--levels", 1).code == 0
    got = read_image(tmp_path / "back" / "000000.png")
    # 8-bit YUV has fewer codes than RGB: two codes is what rounding can cost.
    assert np.abs(got.astype(int) - picture(0)).max() <= 2


def test_ten_bit_video_gives_sixteen_bit_images(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2, pix_fmt="gray10le")
    assert command(clip, f"{tmp_path}/out/", "--levels", 1).code == 0
    image = read_image(tmp_path / "out" / "000000.png")
    assert image.dtype == np.uint16
    luma = (planes(0, "gray10le")[0].astype(float) - 64) / 876
    assert np.abs(image[..., 1] - luma.clip(0, 1) * 65535).max() <= 1


def test_existing_images_are_kept_unless_told_and_then_replaced(command: Command, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 2)
    out = write_images(tmp_path / "out", 9, "%06d.png")
    (out / "notes.txt").write_text("mine")
    assert command(folder, out, "--levels", 1).code == 2
    assert len(list(out.iterdir())) == 10
    assert command(folder, out, "--levels", 1, "-y").code == 0
    # No image of the longer, older sequence is left among the new ones.
    assert sorted(p.name for p in out.iterdir()) == [*(f"{k:06d}.png" for k in range(4)), "notes.txt"]
    assert np.array_equal(read_image(out / "000003.png"), picture(1))


def test_nothing_is_left_of_images_that_fail(command: Command, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 3)
    cv2.imwrite(str(folder / "frame_2.png"), picture(0, 32, 32))
    outcome = command(folder, f"{tmp_path}/out/", "--levels", 1)
    assert outcome.code == 2
    assert "is 32x32, the images before it 64x48" in outcome.said
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_part_of_a_sequence(command: Command, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 10)
    output = tmp_path / "out.nut"
    options = ["--levels", 1, "--fps", 10, "--start", "0.25", "--duration", "0.3"]
    assert command(folder, output, *options).code == 0
    # Images 3, 4 and 5 begin in [0.25, 0.55).
    assert read_times(output) == [Fraction(1, 20) + Fraction(k, 20) for k in range(6)]
    assert len(read_planes(output)) == 6


def test_one_image_is_a_clip_of_one_frame(command: Command, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 1)
    assert command(folder / "frame_0.png", tmp_path / "out" / "%d.png", "--levels", 2).code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png", "3.png"]


def test_one_image_as_output_is_refused(command: Command, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "in", 2)
    assert "many come out" in command(folder, tmp_path / "out.png", "--levels", 1).said
