"""Samples reach the network and the file as they were stored."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import Array, Command, from_av, picture, planes, read_planes, to_av, write_clip

from vtsr.runtime.frame import CHROMA_BLOCK, PixelFormat, Planes
from vtsr.runtime.video.colour import closest_encodable, nearest_supported, pixel_name
from vtsr.runtime.video.pictures import frame_of, plane_sizes, planes_of
from vtsr.runtime.video.reader import VideoReader
from vtsr.runtime.video.rgb import planes_of_rgb, rgb_of_planes

STORED = [
    "gray", "gray10le", "yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv420p16le",
]  # fmt: skip


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def same(first: list[Array], second: list[Array]) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("pix_fmt", STORED)
@pytest.mark.parametrize("size", [(64, 48), (52, 38)])  # the second is padded at the end of each line
def test_stored_planes_are_handed_on_untouched(tmp_path: Path, pix_fmt: str, size: tuple[int, int]) -> None:
    clip = write_clip(tmp_path / "in.mkv", 3, size=size, pix_fmt=pix_fmt)
    with VideoReader(clip) as reader:
        frames = list(reader)
        assert pixel_name(reader.facts.format) == pix_fmt
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        assert same(list(frame.planes.planes), planes(index, pix_fmt, *size))


@pytest.mark.parametrize("pix_fmt", STORED)
def test_a_lossless_copy_is_bit_exact_and_keeps_the_format(command: Command, tmp_path: Path, pix_fmt: str) -> None:
    clip = write_clip(tmp_path / "in.mkv", 3, pix_fmt=pix_fmt)
    output = tmp_path / "out.nut"
    assert command(clip, output, "--levels", 1).code == 0
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pix_fmt
    pictures = read_planes(output)
    assert len(pictures) == 6
    for index, got in enumerate(pictures):
        assert same(got, planes(index // 2, pix_fmt))


@pytest.mark.parametrize(
    ("codec", "extension"), [("h264", ".mp4"), ("hevc", ".mp4"), ("av1", ".webm"), ("ffv1", ".mkv")]
)
def test_ten_bits_in_are_ten_bits_out(command: Command, tmp_path: Path, codec: str, extension: str) -> None:
    clip = write_clip(tmp_path / "in.mkv", 3, pix_fmt="yuv420p10le", size=(96, 64))
    output = tmp_path / f"out{extension}"
    assert command(clip, output, "--levels", 1, "--codec", codec).code == 0
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    # A detour through 8 bits would leave multiples of four only.
    luma = read_planes(output)[0][0]
    assert len(np.unique(luma % 4)) == 4
    assert np.abs(luma.astype(int) - planes(0, "yuv420p10le", 96, 64)[0]).mean() < 8


def test_webm_chooses_av1_where_vp9_would_lose_bits(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2, pix_fmt="yuv420p10le", size=(96, 64))
    assert command(clip, tmp_path / "out.webm", "--levels", 1).code == 0
    with av.open(str(tmp_path / "out.webm")) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.name in ("av1", "libdav1d")) == ("yuv420p10le", True)


def test_the_nearest_format_is_used_with_a_warning(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2, pix_fmt="yuv422p10le", size=(96, 64))
    outcome = command(clip, tmp_path / "out.mp4", "--levels", 1, "--codec", "av1")
    assert outcome.code == 0
    assert "yuv422p10le pictures as yuv420p10le" in outcome.said


def test_pix_fmt_overrides(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2, pix_fmt="yuv420p")
    assert command(clip, tmp_path / "out.mkv", "--levels", 1, "--codec", "ffv1", "--pix-fmt", "yuv444p10le").code == 0
    luma, *_ = read_planes(tmp_path / "out.mkv")[0]
    assert luma.dtype == np.uint16
    assert np.array_equal(luma, planes(0)[0].astype(np.uint16) * 4)


@pytest.mark.parametrize(
    ("stored", "name", "exact"),
    [("nv12", "yuv420p", True), ("p010le", "yuv420p10le", True), ("uyvy422", "yuv422p", True),
     ("yuv411p", "yuv422p", False), ("gbrp", "rgb24", True), ("bgra", "rgb24", True)],
)  # fmt: skip
def test_other_layouts_become_the_nearest_supported_one(tmp_path: Path, stored: str, name: str, exact: bool) -> None:
    source = to_av([picture(0)], "rgb24").reformat(format=stored)
    context = av.CodecContext.create("rawvideo", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 48, stored, Fraction(1, 25)
    path = tmp_path / "in.raw"
    path.write_bytes(b"".join(bytes(packet) for packet in context.encode(source)))
    options = {"video_size": "64x48", "pixel_format": stored, "framerate": "25"}
    with VideoReader(path, format="rawvideo", options=options) as reader:
        frame = next(iter(reader))
        assert reader.facts.pix_fmt == stored
        assert pixel_name(reader.facts.format) == name
    if name == "rgb24":
        assert np.abs(frame.image.astype(int) - picture(0)).max() <= 1
        return
    expected = from_av(source.reformat(format=name))
    if exact:
        assert same(list(frame.planes.planes), expected)
    assert np.array_equal(frame.planes.planes[0], expected[0])


def test_odd_sizes_reach_an_encoder_that_takes_them(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2, size=(53, 37))
    for extension, pix_fmt in ((".mp4", "yuv444p"), (".webm", "yuv420p")):
        output = tmp_path / f"out{extension}"
        assert command(clip, output, "--levels", 1).code == 0
        with av.open(str(output)) as container:
            context = container.streams.video[0].codec_context
            assert (context.width, context.height, context.pix_fmt) == (53, 37, pix_fmt)


TAGS = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": 16}  # BT.2020, limited, PQ


@pytest.mark.parametrize(
    ("codec", "extension"), [("h264", ".mp4"), ("vp9", ".webm"), ("hevc", ".mkv"), ("av1", ".mp4")]
)
@pytest.mark.parametrize("tags", [TAGS, {}], ids=["tagged", "untagged"])
def test_colour_tags_pass_through_and_unspecified_stays_unspecified(
    command: Command, tmp_path: Path, codec: str, extension: str, tags: dict[str, int]
) -> None:
    def prepare(container: Any, stream: Any) -> None:
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)

    clip = write_clip(tmp_path / "in.mp4", 2, codec="libx264", prepare=prepare, size=(96, 64))
    output = tmp_path / f"out{extension}"
    assert command(clip, output, "--levels", 1, "--codec", codec).code == 0
    read = []
    for path in (clip, output):
        with VideoReader(path) as reader:
            found = reader.facts.tags
            # VP9, AV1 and HEVC have one bit for the range: what was unspecified comes back as limited, its meaning.
            read.append((found.matrix, found.primaries, found.transfer, found.range or 1))
    assert read[0] == read[1]
    assert read[0][0] == tags.get("colorspace", 2)


def test_full_range_is_recognised_and_kept(command: Command, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", 2, codec="mjpeg", pix_fmt="yuvj420p")
    with VideoReader(clip) as reader:
        assert reader.facts.format == PixelFormat("yuv420", 8, "bt601", True)
    assert command(clip, tmp_path / "out.mp4", "--levels", 1).code == 0
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert reader.facts.format.full_range
        assert reader.facts.tags.range == 2


@pytest.mark.parametrize(("height", "matrix"), [(718, "bt601"), (720, "bt709")])
def test_untagged_video_is_bt601_below_720_lines(tmp_path: Path, height: int, matrix: str) -> None:
    clip = write_clip(tmp_path / "in.mkv", 1, size=(32, height))
    with VideoReader(clip) as reader:
        assert reader.facts.format.matrix == matrix


KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def reference_rgb(picture: Planes) -> Array:
    """H.273 written out: R, G, B in [0, 1] of every pixel, chroma replicated over its block."""
    fmt, (kr, kb) = picture.format, KR_KB[picture.format.matrix]
    width, height = CHROMA_BLOCK[fmt.sampling]
    y, u, v = (plane.astype(np.float64) for plane in picture.planes)
    u, v = (c.repeat(height, 0).repeat(width, 1)[: y.shape[0], : y.shape[1]] for c in (u, v))
    unit = 2.0 ** (fmt.bits - 8)
    if fmt.full_range:
        top = 2.0**fmt.bits - 1
        y, u, v = y / top, (u - 128 * unit) / top, (v - 128 * unit) / top
    else:
        y, u, v = (y - 16 * unit) / (219 * unit), (u - 128 * unit) / (224 * unit), (v - 128 * unit) / (224 * unit)
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.stack([r, g, b], -1), 0, 1)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("sampling", "bits"), [("yuv420", 8), ("yuv422", 10), ("yuv444", 16)])
def test_yuv_becomes_rgb_by_the_standard(matrix: str, full_range: bool, sampling: Any, bits: int) -> None:
    fmt = PixelFormat(sampling, bits, matrix, full_range)
    random = np.random.default_rng(1)
    planes = tuple(
        random.integers(0, 2**bits, (rows, columns)).astype(fmt.dtype)
        for rows, columns in plane_sizes(fmt, 21, 17)
    )
    picture = Planes(planes, fmt)
    rgb = rgb_of_planes(picture)
    assert rgb.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(rgb - reference_rgb(picture) * np.iinfo(rgb.dtype).max).max() <= 0.51


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_yuv_survives_rgb_and_back_within_one_code(matrix: str, full_range: bool, bits: int) -> None:
    fmt = PixelFormat("yuv444", bits, matrix, full_range)
    random = np.random.default_rng(2)
    start = planes_of_rgb(random.integers(0, 256, (16, 24, 3)).astype(np.uint8), fmt)
    # 16-bit RGB is finer than any of these, so only rounding to codes remains.
    scaled = np.rint(reference_rgb(start) * 65535).astype(np.uint16)
    back = planes_of_rgb(scaled, fmt)
    for one, other in zip(start.planes, back.planes, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "gray16le"])
def test_frames_and_planes_are_the_same_samples(pix_fmt: str) -> None:
    sampling, bits = nearest_supported(pix_fmt)
    fmt = PixelFormat(sampling, bits, "bt709", False)
    given = Planes(tuple(planes(3, pix_fmt, 37, 29)), fmt)
    frame = frame_of(given)
    assert same(from_av(frame), list(given.planes))
    assert same(list(planes_of(frame, fmt).planes), list(given.planes))


def test_the_closest_encodable_format_loses_chroma_before_colour_and_nothing_without_need() -> None:
    fmt = PixelFormat("yuv422", 10, "bt709", False)
    assert closest_encodable(fmt, ["yuv420p", "yuv420p10le", "gray16le"]) == "yuv420p10le"
    assert closest_encodable(fmt, ["yuv422p", "yuv444p12le", "yuv444p"]) == "yuv444p12le"
    assert closest_encodable(PixelFormat("rgb", 16), ["yuv444p", "gbrp16le", "bgr0"]) == "gbrp16le"
    assert closest_encodable(fmt, ["pal8"]) is None


def test_duration_of_facts_is_exact(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 7, codec="libx264", rate=Fraction(30000, 1001))
    with VideoReader(clip) as reader:
        assert reader.facts.frame_rate == Fraction(30000, 1001)
        assert reader.facts.duration == Fraction(7 * 1001, 30000)
        assert reader.facts.frames == 7
