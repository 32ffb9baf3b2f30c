"""Hostile and broken media: no crash, no hang, bounded memory, no other file touched, no decodable picture lost."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import corpus
import cv2
import numpy as np
import pytest
from media import read_planes, write_clip

from vtsr import InputError
from vtsr.runtime.video import containers, decoder
from vtsr.runtime.video.extent import missing_bytes
from vtsr.runtime.video.image_header import stated_size
from vtsr.runtime.video.images import ImageReader
from vtsr.runtime.video.reader import VideoReader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by Linux's address-space limit")
if sys.platform == "linux":
    from hostile_worker import Verdict, Worker

FUZZ_SEEDS = range(30)  # times 32 files
CONVERT_SEEDS = range(3)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as running:
        yield running


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def check(verdict: Verdict, what: object) -> None:
    """A file is read, or refused with one sentence; either way quietly."""
    assert not verdict.defect, f"{what}: {verdict.defect}"
    assert bool(verdict.sentence) != bool(verdict.frames), f"{what}: {verdict}"
    for sentence in (verdict.sentence, *verdict.warnings):
        assert "\n" not in sentence, f"{what}: {sentence}"
        assert not sentence or (sentence[0].isupper() or sentence[0] == "/"), sentence
        assert not sentence or sentence.endswith("."), sentence


# What is whole, however strange


@pytest.mark.parametrize("name", corpus.NAMES)
def test_strange_but_whole_files_are_read_completely(worker: Worker, tmp_path: Path, name: str) -> None:
    verdict = worker.read(put(tmp_path, name, corpus.sound_file(name)))
    check(verdict, name)
    expected = {"prores10.mov": 4, "hdr10.mkv": 4, "deep.nut": 4, "alpha.mov": 4, "odd444.mkv": 4, "odd420.mkv": 4,
                "palette.gif": 4, "plain.y4m": 4, "deep.y4m": 3, "one-frame.mkv": 1}  # fmt: skip
    assert verdict.frames == expected.get(name, 1 if name in corpus.IMAGES else corpus.FRAMES)
    assert not [w for w in verdict.warnings if "damaged" in w or "incomplete" in w]


# Damage of all kinds


@pytest.mark.parametrize("name", corpus.NAMES)
def test_truncation_at_every_fiftieth(worker: Worker, tmp_path: Path, name: str) -> None:
    whole = worker.read(put(tmp_path, name, corpus.sound_file(name))).frames
    for part, data in enumerate(corpus.truncations(corpus.sound_file(name))):
        verdict = worker.read(put(tmp_path, name, data))
        check(verdict, f"{name} cut at {part}/50")
        assert verdict.frames <= whole


@pytest.mark.parametrize("name", corpus.NAMES)
def test_fuzz(worker: Worker, tmp_path: Path, name: str) -> None:
    for seed in FUZZ_SEEDS:
        verdict = worker.read(put(tmp_path, name, corpus.damaged(name, seed)))
        check(verdict, f"{name}, seed {seed}")
        assert verdict.noise.count("\n") <= 3, f"{name}, seed {seed}: {verdict.noise}"


def test_a_conversion_of_damaged_files_touches_nothing_but_its_output(worker: Worker, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    converted = 0
    for seed in CONVERT_SEEDS:
        for name in corpus.NAMES:
            path = put(folder, name, corpus.damaged(name, seed))
            output = out / f"o{('.mkv', '.mp4', '.nut', '.y4m')[seed % 4]}"
            verdict = worker.convert(path, output, "--levels", "1", "--quiet")
            assert not verdict.defect, f"{name}, seed {seed}: {verdict.defect}"
            # Finished segments of a failed job are kept beside the output.
            kept = [[], [f".{output.name}.vtsr"]] if verdict.sentence else [[output.name]]
            assert [p.name for p in out.iterdir()] in kept, f"{name}, seed {seed}"
            assert list(folder.iterdir()) == [path]
            converted += not verdict.sentence
            shutil.rmtree(out)
            out.mkdir()
            path.unlink()
    assert converted > len(CONVERT_SEEDS) * len(corpus.NAMES) / 5  # damage is survived, not only refused


@pytest.mark.parametrize("timescale", [0, 1, 1000, 0x7FFFFF, 0xFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv"])
def test_absurd_clocks(worker: Worker, tmp_path: Path, name: str, timescale: int) -> None:
    path = put(tmp_path, name, corpus.retimed(name, timescale))
    check(worker.read(path), timescale)
    for extension in (".mp4", ".mkv", ".y4m"):
        verdict = worker.convert(path, tmp_path / f"out{extension}", "--levels", "1", "--quiet")
        assert not verdict.defect, verdict.defect


@pytest.mark.parametrize(
    "header",
    ["W48 H32 F0:0", "W48 H32 F1:0", "W48 H32 F4294967295:1", "W48 H32 F1:4294967295", "W0 H0 F25:1", "W-5 H32 F25:1",
     "W48", "W999999999999 H32 F25:1", "W48 H32 F25:1 C9999", "W1 H1 F25:1", "W48 H32 F25:1 A0:0 X" + "x" * 3000],
)  # fmt: skip
def test_absurd_y4m_headers(worker: Worker, tmp_path: Path, header: str) -> None:
    frames = (b"FRAME\n" + bytes(48 * 32 * 3 // 2)) * 3
    verdict = worker.read(put(tmp_path, "in.y4m", f"YUV4MPEG2 {header}\n".encode() + frames))
    check(verdict, header)
    assert "busy" not in verdict.sentence


# Memory


@pytest.mark.parametrize(
    ("name", "size"),
    [("image.png", (20000, 20000)), ("image.png", (2**31 - 1, 2**31 - 1)), ("deep.png", (16385, 16)),
     ("image.bmp", (30000, 30000)), ("image.jpg", (65535, 65535)), ("gray.pgm", (99999, 99999)), ("y4m", (16385, 16)),
     ("y4m", (12000, 8000))],
)  # fmt: skip
def test_a_size_beyond_reason_is_refused_before_memory_is_taken(
    worker: Worker, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    file = name if "." in name else f"in.{name}"
    verdict = worker.read(put(tmp_path, file, corpus.declared(name, *size)))
    assert f"states frames of {size[0]}x{size[1]} pixels" in verdict.sentence, verdict


def test_the_memory_limit_of_these_tests_is_real(tmp_path: Path) -> None:
    # What the tests above prove rests on it: a picture that is allowed but does not fit ends in a sentence.
    path = put(tmp_path, "in.y4m", b"YUV4MPEG2 W8000 H8000 F25:1 C420jpeg\nFRAME\n" + bytes(8000 * 8000 * 3 // 2))
    with Worker(memory=1 << 30) as roomy, Worker(memory=32 << 20) as cramped:
        assert roomy.read(path).frames == 1
        verdict = cramped.read(path)
    check(verdict, path)
    assert "memory" in verdict.sentence


def test_a_decoder_gets_the_limit_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A size may also change in the middle, long after the header was looked at.
    clip = write_clip(tmp_path / "in.mkv", 3, codec="libx264")
    with VideoReader(clip) as reader:
        assert len(list(reader)) == 3
    monkeypatch.setattr("vtsr.runtime.video.reader.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(InputError, match="could be decoded"):
        VideoReader(clip)


def test_an_image_folder_with_a_pipe_in_it_does_not_hang(tmp_path: Path) -> None:
    import os

    put(tmp_path, "0.png", corpus.sound_file("image.png"))
    os.mkfifo(tmp_path / "1.png")
    with ImageReader(tmp_path) as reader:
        assert len(list(reader)) == 1
        assert reader.warnings == ["1 of 2 images could not be decoded and were skipped."]


@pytest.mark.parametrize("name", corpus.IMAGES)
def test_the_stated_size_of_an_image_is_the_one_it_decodes_to(name: str) -> None:
    data = corpus.sound_file(name)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert stated_size(data) == (image.shape[1], image.shape[0])


@pytest.mark.parametrize(
    ("extension", "option", "value"),
    [(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
     (".webp", cv2.IMWRITE_WEBP_QUALITY, 50), (".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 1),
     (".ppm", cv2.IMWRITE_PXM_BINARY, 0)],
)  # fmt: skip
def test_the_stated_size_is_found_in_all_variants(extension: str, option: int, value: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
    assert stated_size(cv2.imencode(extension, image, [option, value])[1].tobytes()) == (53, 37)


def test_a_trap_in_a_jpeg_header_ends(tmp_path: Path) -> None:
    assert stated_size(b"\xff\xd8" + b"\xff" * 50_000_000) is None


# Other files and addresses

PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "list.mp4": "ffconcat version 1.0\nfile {name}\n",
    "network.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "manifest.mpd": '<?xml version="1.0"?>\n<MPD type="static"><Period><BaseURL>{secret}</BaseURL></Period></MPD>',
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing(worker: Worker, tmp_path: Path, name: str) -> None:
    secret = write_clip(tmp_path / "secret.ts", 5, codec="mpeg2video")
    text = PLAYLISTS[name].format(secret=secret, name=secret.name)
    path = put(tmp_path, name, text.encode())
    for verdict in (worker.read(path), worker.convert(path, tmp_path / "out.mkv")):
        assert "is a playlist" in verdict.sentence, verdict
    with pytest.raises((InputError, OSError, ValueError)), path.open("rb") as stream:
        VideoReader(stream)  # as it would come through a pipe


def test_ffmpeg_would_have_followed_them(tmp_path: Path) -> None:
    # What the limits are for: without them the same files show another file's pictures.
    secret = write_clip(tmp_path / "secret.ts", 5, codec="mpeg2video")
    for name in ("list.m3u8", "list.mp4"):
        path = put(tmp_path, name, PLAYLISTS[name].format(secret=secret, name=secret.name).encode())
        with av.open(str(path)) as container:
            assert next(container.decode(video=0)).width == 64


def test_every_reader_of_playlists_is_left_out() -> None:
    allowed = set(containers._self_contained_formats().split(","))
    assert {"hls", "concat", "sdp", "rtsp", "lavfi"} <= av.formats_available
    assert not allowed & containers.REFERRING_FORMATS
    assert {"mov", "mp4", "matroska,webm", "avi", "mpegts", "nut", "yuv4mpegpipe", "rawvideo"} & allowed


# What a file says goes to the terminal and into other files


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_names_inside_a_file_cannot_play_with_the_terminal(worker: Worker, tmp_path: Path, extension: str) -> None:
    def prepare(container: Any, stream: Any) -> None:
        container.add_attachment("font.ttf", "font/ttf", b"glyphs")

    clip = write_clip(tmp_path / "in.mkv", 3, prepare=prepare, metadata={"title": "harmless"})
    data = clip.read_bytes()
    assert b"font.ttf" in data
    clip.write_bytes(data.replace(b"font.ttf", b"\x1b[2J\xff.t").replace(b"harmless", b"\x1b]0;\xfe\n\x07x"))
    verdict = worker.convert(clip, tmp_path / f"out{extension}", "--levels", "1", "--quiet")
    assert not verdict.defect, verdict.defect
    assert not verdict.sentence
    assert all(line.isprintable() for line in verdict.warnings)


def test_a_folder_with_strange_names_is_read(tmp_path: Path) -> None:
    for name in ("a²1.png", "²2.png", "٣.png", "-1.png", "9" * 200 + ".png"):
        put(tmp_path, name, corpus.sound_file("image.png"))
    with ImageReader(tmp_path) as reader:
        assert len(list(reader)) == 5


# Nothing decodable is lost


def frames_of(path: Path, threads: int) -> list[bytes]:
    try:
        with VideoReader(path, threads=threads) as reader:
            return [b"".join(plane.tobytes() for plane in frame.planes.planes) for frame in reader]
    except InputError as error:
        return [str(error).encode()]


def opencv_frames(path: Path) -> int:
    """How many pictures OpenCV, with a decoding loop of its own, finds."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


@pytest.mark.parametrize(("codec", "options"), [("libx264", {"g": "10"}), ("mpeg4", {}), ("libvpx-vp9", {"g": "10"})])
def test_threads_cost_no_picture_next_to_a_damaged_one(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    data = write_clip(tmp_path / "in.mkv", 30, codec=codec, options=options).read_bytes()
    for seed in range(12):
        chance = random.Random(seed)
        broken = bytearray(data)
        for _ in range(chance.choice((1, 4, 20))):
            broken[chance.randrange(len(data) // 3, len(data))] ^= 1 << chance.randrange(8)
        if seed % 3 == 0:
            del broken[chance.randrange(len(data) // 2, len(data)) :]
        path = put(tmp_path, "bad.mkv", bytes(broken))
        alone = frames_of(path, 1)
        # Damaged pictures may be patched up otherwise, but none is missing.
        assert len(frames_of(path, 6)) == len(alone), seed
        if b"frame size" not in alone[0]:
            assert len(alone) >= opencv_frames(path), seed


def test_a_late_error_is_repaired_from_the_key_picture_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Many groups of pictures before the damage: only the last ones are decoded again.
    clip = write_clip(tmp_path / "in.mkv", 400, size=(32, 32), codec="libx264", options={"g": "20"})
    whole = frames_of(clip, 1)
    with av.open(str(clip)) as container:
        packet = [bytes(p) for p in container.demux(video=0)][370]
    path = put(tmp_path, "bad.mkv", clip.read_bytes().replace(packet, b"\xff" * len(packet)))
    repeated: list[int] = []
    original = decoder.Decoder._again

    def counted(self: decoder.Decoder) -> list[object]:
        assert self._packets is not None
        repeated.append(len(self._packets))
        return original(self)

    monkeypatch.setattr(decoder.Decoder, "_again", counted)
    threaded = frames_of(path, 6)
    assert len(repeated) == 1
    assert decoder.UNDER_WAY <= repeated[0] <= 2 * decoder.UNDER_WAY + 40
    assert threaded == frames_of(path, 1)
    assert threaded[:350] == whole[:350]


TRUNCATED = {
    ".mkv": ("ffv1", {}, {}),
    ".mp4": ("libx264", {"g": "5"}, {"movflags": "faststart"}),
    ".mov": ("libx264", {"g": "4"}, {"movflags": "frag_keyframe+empty_moov"}),
    ".webm": ("libvpx-vp9", {"g": "5"}, {}),
    ".avi": ("mjpeg", {}, {}),
}


@pytest.mark.parametrize("extension", TRUNCATED)
def test_a_truncated_file_gives_its_good_frames_and_says_what_is_missing(tmp_path: Path, extension: str) -> None:
    codec, options, container_options = TRUNCATED[extension]
    clip = write_clip(
        tmp_path / f"in{extension}", 20, codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p",
        options=options, container_options=container_options,
    )  # fmt: skip
    whole, data = read_planes(clip), clip.read_bytes()
    clip.write_bytes(data[: len(data) * 7 // 10])
    with VideoReader(clip) as reader:
        got = list(reader)
        assert sum("incomplete" in warning for warning in reader.warnings) == 1, reader.warnings
    assert 5 <= len(got) < 20
    for frame, planes in zip(got[:-1], whole, strict=False):  # the last may be half there
        assert all(np.array_equal(a, b) for a, b in zip(frame.planes.planes, planes, strict=True))


def test_a_truncated_y4m_file_says_so(tmp_path: Path) -> None:
    for name in ("plain.y4m", "deep.y4m"):
        with VideoReader(put(tmp_path, name, corpus.sound_file(name)[:-1])) as reader:
            list(reader)
            assert reader.warnings == [f"{tmp_path / name} is incomplete: at least 1 bytes are missing at its end."]


@pytest.mark.parametrize("name", ["h264.mp4", "ffv1.mkv", "vp9.webm", "mjpeg.avi", "fragmented.mp4", "plain.y4m"])
def test_missing_bytes_are_counted(tmp_path: Path, name: str) -> None:
    data = corpus.sound_file(name)
    assert missing_bytes(put(tmp_path, name, data)) == 0
    assert missing_bytes(put(tmp_path, name, data + b"appended")) in (0, None) or name == "plain.y4m"
    assert missing_bytes(put(tmp_path, name, data[:-1])) == 1
    assert missing_bytes(put(tmp_path, name, data[:-20])) == 20


def test_a_file_without_its_index_is_called_incomplete(tmp_path: Path) -> None:
    data = corpus.sound_file("h264.mp4")  # the index comes last
    with pytest.raises(InputError, match=r"at least \d+ bytes are missing at its end"):
        VideoReader(put(tmp_path, "in.mp4", data[: len(data) // 2]))
