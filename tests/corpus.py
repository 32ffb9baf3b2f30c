"""Damaged and strange media for the tests, all rendered on the spot: what hostile or broken files look like."""

from __future__ import annotations

import functools
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from media import mux_audio, picture, sine, to_av, write_clip

HUGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FRAMES = 12
SIZE = (48, 32)


def _clip(folder: Path, extension: str, codec: str, frames: int = FRAMES, **options: Any) -> bytes:
    size = options.pop("size", SIZE)
    return write_clip(folder / f"clip{extension}", frames, codec=codec, size=size, **options).read_bytes()


def _with_sound(container: Any, stream: Any) -> None:
    container.sound = container.add_stream("aac", rate=48000)


def _y4m(header: str, frames: int, frame_bytes: int) -> bytes:
    noise = np.random.default_rng(1).integers(16, 235, (frames, frame_bytes), np.uint8)
    return f"YUV4MPEG2 {header}\n".encode() + b"".join(b"FRAME\n" + frame.tobytes() for frame in noise)


def _sound_clip(folder: Path) -> bytes:
    sounds: list[Any] = []

    def prepare(container: Any, stream: Any) -> None:
        sounds.append(container.add_stream("aac", rate=48000))

    def before_mux(container: Any) -> None:
        mux_audio(container, sounds[0], sine(0.4))

    return _clip(folder, ".mp4", "libx264", options={"g": "5"}, prepare=prepare, before_mux=before_mux)


def _image(extension: str, deep: bool = False, channels: int = 3) -> bytes:
    image: Any = picture(0, *SIZE)
    if channels == 1:
        image = image[..., 0]
    elif channels == 4:
        image = np.dstack([image, image[..., :1]])
    if deep:
        image = image.astype(np.uint16) * 257
    done, data = cv2.imencode(extension, image)
    assert done
    return bytes(data.tobytes())


def _alpha_clip(folder: Path) -> bytes:
    path = folder / "clip.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "rgba"
        for index in range(4):
            image = picture(index, *SIZE)
            frame = to_av([np.dstack([image, image[..., :1]])], "rgba")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def _turned(container: Any, stream: Any) -> None:
    stream.metadata["rotate"] = "90"


def _interlaced(container: Any, stream: Any) -> None:
    stream.codec_context.flags |= 1 << 18 | 1 << 29  # AV_CODEC_FLAG_INTERLACED_DCT and _ME


HDR = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
_QUIET_X265 = f"log-level=none:master-display={HDR}:max-cll=1000,400"

_SEEDS: dict[str, Callable[[Path], bytes]] = {
    "h264.mp4": lambda f: _clip(f, ".mp4", "libx264", options={"g": "5"}),
    "index-first.mp4": lambda f: _clip(
        f, ".mp4", "libx264", options={"g": "5"}, container_options={"movflags": "faststart"}
    ),
    "fragmented.mp4": lambda f: _clip(
        f, ".mp4", "libx264", options={"g": "4"}, container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "sound.mp4": _sound_clip,
    "rotated.mov": lambda f: _clip(f, ".mov", "libx264", prepare=_turned),
    "prores10.mov": lambda f: _clip(f, ".mov", "prores_ks", frames=4, pix_fmt="yuv422p10le"),
    "h264.mkv": lambda f: _clip(f, ".mkv", "libx264", options={"g": "5", "bf": "2"}),
    "hdr10.mkv": lambda f: _clip(
        f, ".mkv", "libx265", frames=4, size=(64, 64), pix_fmt="yuv420p10le", options={"x265-params": _QUIET_X265}
    ),
    "ffv1.mkv": lambda f: _clip(f, ".mkv", "ffv1"),
    "deep.nut": lambda f: _clip(f, ".nut", "ffv1", pix_fmt="gray16le", frames=4),
    "alpha.mov": lambda f: _alpha_clip(f),
    "odd444.mkv": lambda f: _clip(f, ".mkv", "ffv1", size=(53, 37), pix_fmt="yuv444p", frames=4),
    "odd420.mkv": lambda f: _clip(f, ".mkv", "ffv1", size=(53, 37), frames=4),
    "one-frame.mkv": lambda f: _clip(f, ".mkv", "ffv1", frames=1),
    "vp9.webm": lambda f: _clip(f, ".webm", "libvpx-vp9", options={"g": "5", "deadline": "realtime"}),
    "interlaced.avi": lambda f: _clip(f, ".avi", "mpeg4", prepare=_interlaced),
    "mjpeg.avi": lambda f: _clip(f, ".avi", "mjpeg", pix_fmt="yuvj422p"),
    "mpeg2.ts": lambda f: _clip(f, ".ts", "mpeg2video", options={"g": "5"}),
    "h264.flv": lambda f: _clip(f, ".flv", "flv"),
    "palette.gif": lambda f: _clip(f, ".gif", "gif", pix_fmt="gray", frames=4),
    "bare.h264": lambda f: _clip(f, ".h264", "libx264", options={"g": "5"}),
    "plain.y4m": lambda f: _y4m("W48 H32 F25:1 Ip A1:1 C420jpeg", 4, 48 * 32 * 3 // 2),
    "deep.y4m": lambda f: _y4m("W48 H32 F30000:1001 Ip A1:1 C422p10 XYSCSS=422P10", 3, 48 * 32 * 4),
    "image.png": lambda f: _image(".png"),
    "deep.png": lambda f: _image(".png", deep=True),
    "alpha.png": lambda f: _image(".png", channels=4),
    "image.jpg": lambda f: _image(".jpg"),
    "image.tiff": lambda f: _image(".tiff"),
    "image.bmp": lambda f: _image(".bmp"),
    "image.webp": lambda f: _image(".webp"),
    "gray.pgm": lambda f: _image(".pgm", channels=1),
    "image.jp2": lambda f: _image(".jp2"),
}  # fmt: skip

NAMES = tuple(_SEEDS)
IMAGES = tuple(name for name in NAMES if name.endswith((".png", ".jpg", ".tiff", ".bmp", ".webp", ".pgm", ".jp2")))
VIDEOS = tuple(name for name in NAMES if name not in IMAGES)


@functools.cache
def sound_file(name: str) -> bytes:
    """The intact file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        return _SEEDS[name](Path(folder))


# Damage: each takes the intact file and a source of chance


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def truncations(data: bytes, parts: int = 50) -> Iterator[bytes]:
    """The file cut at every 1/50 of its length."""
    for part in range(parts):
        yield data[: len(data) * part // parts]


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Single bits changed; mostly anywhere, sometimes only in the first part, where headers are."""
    out = bytearray(data)
    reach = chance.choice((len(out), len(out), min(len(out), 400)))
    for _ in range(chance.choice((1, 2, 8, 60))):
        out[chance.randrange(reach)] ^= 1 << chance.randrange(8)
    return bytes(out)


def overwritten(data: bytes, chance: random.Random) -> bytes:
    """Integers of 1 to 8 bytes replaced by the smallest and largest there are, in either byte order."""
    out = bytearray(data)
    reach = chance.choice((len(out), min(len(out), 600)))
    for _ in range(chance.choice((1, 1, 3))):
        value = chance.choice(HUGE)
        kind = chance.choice([k for k, top in (("B", 8), ("H", 16), ("I", 32), ("Q", 64)) if value < 1 << top])
        number = struct.pack(chance.choice("<>") + kind, value)
        at = chance.randrange(max(1, reach - len(number)))
        out[at : at + len(number)] = number
    return bytes(out)


def headless(data: bytes, chance: random.Random) -> bytes:
    """The header of another file before this one's body."""
    other = sound_file(chance.choice(NAMES))
    at = chance.randrange(16, 600)
    return other[:at] + data[at:]


def shuffled(data: bytes, chance: random.Random) -> bytes:
    """Blocks removed, repeated or zeroed."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 3))):
        at, length = chance.randrange(len(out)), chance.randrange(1, 300)
        block = bytes(out[at : at + length])
        out[at : at + length] = chance.choice((b"", block * 2, bytes(len(block))))
        if not out:
            break
    return bytes(out)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncated,
    "flipped": flipped,
    "overwritten": overwritten,
    "headless": headless,
    "shuffled": shuffled,
}


def damaged(name: str, seed: int) -> bytes:
    """The file ``name`` with damage that only depends on ``seed``."""
    chance = random.Random(f"{name} {seed}")
    data = sound_file(name)
    for _ in range(chance.choice((1, 1, 2))):
        data = chance.choice(sorted(DAMAGES.items()))[1](data, chance) or b"\0"
    return data


def declared(name: str, width: int, height: int) -> bytes:
    """A file whose header declares frames of ``width`` x ``height``; its pictures are small or missing."""
    if name == "y4m":
        return f"YUV4MPEG2 W{width} H{height} F25:1 C420jpeg\nFRAME\n".encode() + bytes(4096)
    data = sound_file(name)
    if name.endswith(".png"):
        import zlib

        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if name.endswith(".bmp"):
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    if name.endswith(".jpg"):
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + data[at + 4 :]
    if name.endswith(".pgm"):
        return f"P5\n{width} {height}\n255\n".encode() + data[-SIZE[0] * SIZE[1] :]
    if name.endswith(".mp4"):  # sample entry: 4 characters, 6 + 2 + 16 bytes, then the size
        at = data.index(b"avc1", data.index(b"stsd")) + 28
        return data[:at] + struct.pack(">HH", width & 0xFFFF, height & 0xFFFF) + data[at + 4 :]
    raise ValueError(name)


def retimed(name: str, timescale: int) -> bytes:
    """A file whose clock ticks ``timescale`` times a second (MP4) or takes that many ns a tick (Matroska)."""
    data = bytearray(sound_file(name))
    if name.endswith(".mp4"):
        for box in (b"mvhd", b"mdhd"):  # version and flags, creation, modification, then the time scale
            at = data.index(box) + 16
            data[at : at + 4] = struct.pack(">I", timescale)
        return bytes(data)
    at = data.index(b"\x2a\xd7\xb1")  # TimestampScale, 1,000,000 in three bytes
    assert data[at + 3] == 0x83
    data[at + 3 : at + 7] = b"\x83" + struct.pack(">I", timescale)[1:]
    return bytes(data)
