"""The size that an image file states, read before anything is decoded.

A few kilobytes of PNG can state gigapixels, for which a decoder allocates memory at once.
"""

from __future__ import annotations

import re
import struct

_PNM = re.compile(rb"P([1-7])(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that begin with the size
_JPEG_MARKERS = 10_000  # more of them, or filling, before the size is a trap
_PNG_CHUNKS = 200_000
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_TYPES = {1: 1, 3: 2, 4: 4, 16: 8}  # bytes of the integer types that sizes come in


def stated_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels of a PNG, JPEG, TIFF, BMP, WebP, PNM or JPEG 2000 file; None for anything else.

    None, too, for a PNG file that ends within a chunk, which no decoder takes.
    """
    for begin, read in _READERS:
        if data.startswith(begin):
            try:
                return read(data)
            except (struct.error, IndexError):
                return None
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    for _ in range(_PNG_CHUNKS):
        (length,) = struct.unpack_from(">I", data, at)
        kind, at = data[at + 4 : at + 8], at + 12 + length
        if kind == b"IEND" or at > len(data):
            break
    # OpenCV sets aside what a chunk states, up to 2 GiB, whether it is there or not.
    return (width, height) if data[12:16] == b"IHDR" and at <= len(data) else None


def _bmp(data: bytes) -> tuple[int, int] | None:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # negative: rows from top to bottom


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(_JPEG_MARKERS):
        if data[at] != 0xFF:  # a decoder skips to the next marker
            at = data.find(b"\xff", at)
            if at < 0:
                return None
            continue
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker in (0xFF, 0x00):
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _pnm(data: bytes) -> tuple[int, int] | None:
    match = _PNM.match(data)
    return (int(match[2]), int(match[3])) if match else None


def _jp2(data: bytes) -> tuple[int, int] | None:
    # A decoder allocates by the codestream, whatever the boxes around it say.
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    return right - left, bottom - top


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, at)
    found: dict[int, int] = {}
    for index in range(min(entries, 1000)):
        place = at + struct.calcsize(count) + index * entry
        tag, kind = struct.unpack_from(order + "HH", data, place)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_TYPES:
            value = place + (12 if big else 8)
            size = _TIFF_TYPES[kind]
            found[tag] = int.from_bytes(data[value : value + size], "little" if order == "<" else "big")
    if _TIFF_WIDTH in found and _TIFF_HEIGHT in found:
        return found[_TIFF_WIDTH], found[_TIFF_HEIGHT]
    return None


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff), (b"MM\0*", _tiff), (b"II+\0", _tiff), (b"MM\0+", _tiff),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _jp2), (b"\xff\x4f\xff\x51", _jp2),
    *((b"P%d" % kind, _pnm) for kind in range(1, 8)),
)  # fmt: skip
