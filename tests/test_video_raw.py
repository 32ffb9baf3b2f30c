"""y4m and raw video through pipes and files."""

from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import Array, Command, picture, planes, read_planes, read_times, write_clip


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


class Pipe:
    """Stands for sys.stdin or sys.stdout: a binary stream that cannot seek."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = Stream(data)

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        pass


class Stream(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self.content = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self.content.read(size)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return self.content.write(data)


def same(first: list[Array], second: list[Array]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv444p12le", "gray10le"])
def test_y4m_describes_itself_and_is_exact(command: Command, tmp_path: Path, pix_fmt: str) -> None:
    clip = write_clip(tmp_path / "in.nut", 3, pix_fmt=pix_fmt, rate=Fraction(24000, 1001), size=(53, 37))
    output = tmp_path / "out.y4m"
    assert command(clip, output, "--levels", 1).code == 0
    # FFmpeg is the judge of the header.
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == pix_fmt
        assert stream.average_rate == Fraction(48000, 1001)
        assert (stream.width, stream.height) == (53, 37)
    pictures = read_planes(output)
    assert len(pictures) == 6
    for index, got in enumerate(pictures):
        assert same(got, planes(index // 2, pix_fmt, 53, 37))


def test_y4m_from_stdin_to_stdout(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "in.nut", 3)
    assert command(clip, tmp_path / "one.y4m", "--levels", 1).code == 0
    sink = Pipe()
    monkeypatch.setattr(sys, "stdin", Pipe((tmp_path / "one.y4m").read_bytes()))
    monkeypatch.setattr(sys, "stdout", sink)
    outcome = command("-", "-", "--levels", 1)
    assert outcome.code == 0, outcome.said
    (tmp_path / "two.y4m").write_bytes(sink.buffer.content.getvalue())
    pictures = read_planes(tmp_path / "two.y4m")
    assert len(pictures) == 12
    for index, got in enumerate(pictures):
        assert same(got, planes(index // 4))
    assert read_times(tmp_path / "two.y4m") == [Fraction(k, 100) for k in range(12)]


def test_raw_video_from_stdin(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(plane.tobytes() for index in range(4) for plane in planes(index, "yuv422p10le"))
    monkeypatch.setattr(sys, "stdin", Pipe(data))
    output = tmp_path / "out.nut"
    options = ["--size", "64x48", "--input-pix-fmt", "yuv422p10le", "--fps", "50", "--levels", 1]
    outcome = command("-", output, *options)
    assert outcome.code == 0, outcome.said
    assert read_times(output) == [Fraction(k, 100) for k in range(8)]
    for index, got in enumerate(read_planes(output)):
        assert same(got, planes(index // 2, "yuv422p10le"))


def test_raw_video_to_stdout(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2)
    sink = Pipe()
    monkeypatch.setattr(sys, "stdout", sink)
    assert command(clip, "-", "--raw", "--levels", 1).code == 0
    expected = b"".join(plane.tobytes() for index in (0, 0, 1, 1) for plane in planes(index))
    assert sink.buffer.content.getvalue() == expected


def test_raw_files(command: Command, tmp_path: Path) -> None:
    rgb = [picture(index) for index in range(3)]
    (tmp_path / "in.rgb").write_bytes(b"".join(image.tobytes() for image in rgb))
    options = ["--size", "64x48", "--input-pix-fmt", "rgb24", "--fps", "25", "--levels", 1]
    assert command(tmp_path / "in.rgb", tmp_path / "out.rgb", *options).code == 0
    assert (tmp_path / "out.rgb").read_bytes() == b"".join(image.tobytes() for image in rgb for _ in range(2))


def test_rgb_becomes_yuv_in_y4m(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in.rgb").write_bytes(picture(0).tobytes())
    options = ["--size", "64x48", "--input-pix-fmt", "rgb24", "--fps", "25", "--levels", 1]
    outcome = command(tmp_path / "in.rgb", tmp_path / "out.y4m", *options)
    assert outcome.code == 0
    assert "y4m holds no RGB" in outcome.said
    red, green, blue = np.moveaxis(picture(0).astype(float) / 255, -1, 0)
    luma = 16 + 219 * (0.2126 * red + 0.7152 * green + 0.0722 * blue)  # BT.709, limited
    assert np.abs(read_planes(tmp_path / "out.y4m")[0][0] - luma).max() <= 0.51


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "64x48"], "does not describe itself"),
        (["--size", "64x48", "--input-pix-fmt", "yuv9p", "--fps", "25"], "yuv9p is unknown"),
        (["--size", "64-48", "--input-pix-fmt", "yuv420p", "--fps", "25"], "is not a frame size"),
        ([], "not a video that can be read"),
    ],
)
def test_pipes_that_make_no_sense(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(b"these are not the frames you are looking for" * 50))
    outcome = command("-", tmp_path / "out.mp4", *options)
    assert outcome.code == 2
    assert expected in outcome.said
    assert len(outcome.said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 60, size=(160, 120))
    program = (
        "import sys, media, vtsr.runtime.upconverter as u\n"
        "u.Upconverter = media.Repeat\n"
        "from vtsr.runtime.upconvert import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(clip), "-"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(9) == b"YUV4MPEG2"
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(timeout=30) == 2
    assert "Traceback" not in said
    assert "closed it" in said
