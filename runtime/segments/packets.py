"""Coded pictures in a file of their own: what is kept of a finished segment until all are joined.

The file is a magic line and, per picture, its times, a flag and the encoder's bytes. Containers would round times
or drop what the encoder said, and need more than a look at the size and checksum to be trusted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vtsr.errors import OutputError
from vtsr.runtime.video.writer import CodedPicture

MAGIC = b"vtsr-packets-1\n"
_HEAD = struct.Struct("<qqqBI")  # pts, dts, duration, keyframe, bytes
_BLOCK = 1 << 20  # bytes


class PacketWriter:
    """Coded pictures into a binary stream; ``size`` and ``crc`` (CRC-32) are those of all that was written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = self.crc = 0
        self._put(MAGIC)

    def add(self, pictures: Iterable[CodedPicture]) -> None:
        for picture in pictures:
            head = (picture.pts, picture.dts, picture.duration, int(picture.is_keyframe), len(picture.data))
            self._put(_HEAD.pack(*head))
            self._put(picture.data)

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self.size += len(data)
        self.crc = zlib.crc32(data, self.crc)


def is_intact(path: Path, size: int, crc: int) -> bool:
    """Whether a file is there with that size and CRC-32."""
    try:
        if path.stat().st_size != size:
            return False
        found = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found = zlib.crc32(block, found)
    except OSError:
        return False
    return found == crc


def read_packets(path: Path) -> Iterator[CodedPicture]:
    """The pictures of a file. Raises `OutputError` if it is not exactly what `PacketWriter` writes."""
    damaged = OutputError(f"The finished part {path} is damaged; start again with -y.")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise damaged
        left = path.stat().st_size - len(MAGIC)
        while left:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise damaged
            pts, dts, duration, key, size = _HEAD.unpack(head)
            left -= _HEAD.size + size
            if key > 1 or left < 0:
                raise damaged
            yield CodedPicture(pts, dts, duration, bool(key), file.read(size))
