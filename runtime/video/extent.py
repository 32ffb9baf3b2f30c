"""How long a file says it is: the sure sign that its end is missing, down to one byte.

MP4 and MOV are boxes one after the other, Matroska and WebM one segment, AVI a few RIFF chunks, all of stated length;
the pictures of y4m are equally long.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_BOXES = {
    b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx", b"ssix", b"pnot", b"moof", b"mfra", b"meta",
    b"uuid", b"emsg", b"prft", b"pdin", b"udta",
}  # fmt: skip
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_Y4M_LINE = 4096  # bytes; far longer than any header
_Y4M_CHROMA = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}
_STEPS = 1_000_000  # boxes or chunks of one file; a day of fragments has fewer


def missing_bytes(path: Path) -> int | None:
    """How many bytes the file is shorter than it states; 0 if it is complete, None if that cannot be told."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(16)
            file.seek(0)
            if head[4:8] in _BOXES:
                end = _end_of_boxes(file, size)
            elif head.startswith(_EBML):
                end = _end_of_segment(file)
            elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
                end = _end_of_riff(file, size)
            elif head.startswith(b"YUV4MPEG2 "):
                end = _end_of_y4m(file, size)
            else:
                end = None
    except (OSError, struct.error):
        return None
    return None if end is None else max(0, end - size)


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    at = 0
    for _ in range(_STEPS):
        if at >= size:
            return at
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return at + 8
        length = int.from_bytes(head[:4], "big")
        if head[4:8] not in _BOXES:  # something that was appended
            return at
        if length == 0:  # to the end of the file, wherever that is
            return None
        if length == 1:
            if len(head) < 16:
                return at + 16
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            return None
        at += length
    return None


def _end_of_segment(file: BinaryIO) -> int | None:
    at = 0
    for _ in range(16):  # the EBML header, perhaps padding, then the segment
        file.seek(at)
        head = file.read(16)
        if not head:
            return None
        name = _vint_length(head[0])
        if not 1 <= name <= 4 or len(head) <= name:
            return None
        width = _vint_length(head[name])
        if len(head) < name + width or width > 8:
            return None
        stated = int.from_bytes(head[name : name + width], "big") & ((1 << 7 * width) - 1)
        if stated == (1 << 7 * width) - 1:  # unknown, as in a live stream
            return None
        at += name + width + stated
        if head[:name] == _SEGMENT:
            return at
    return None


def _vint_length(first: int) -> int:
    return 9 - first.bit_length()


def _end_of_riff(file: BinaryIO, size: int) -> int | None:
    at = 0
    for _ in range(_STEPS):
        file.seek(at)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:  # what follows the chunks is not part of the video
            return at
        length = struct.unpack("<I", head[4:])[0]
        if length == 0:  # a writer that was interrupted
            return None
        at += 8 + length + length % 2
        if at >= size:
            # The last byte may be left out where it only fills up.
            return at - length % 2
    return None


def _end_of_y4m(file: BinaryIO, size: int) -> int | None:
    line = file.readline(_Y4M_LINE)
    values = {field[:1]: field[1:].decode("latin-1") for field in line.split()[1:]}
    colour = values.get(b"C", "420").removesuffix("jpeg").removesuffix("mpeg2").removesuffix("paldv")
    sampling, _, bits = colour.partition("p")
    if sampling not in _Y4M_CHROMA or file.read(6) != b"FRAME\n":
        return None
    try:
        width, height, deep = int(values[b"W"]), int(values[b"H"]), int(bits or 8) > 8
    except (KeyError, ValueError):
        return None
    wide, high = _Y4M_CHROMA[sampling]
    samples = width * height + 2 * -(-width // wide) * -(-height // high)
    picture = len(b"FRAME\n") + samples * (2 if deep else 1)
    pictures = -(-(size - len(line)) // picture)
    return len(line) + pictures * picture
