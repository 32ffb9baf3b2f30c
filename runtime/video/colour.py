"""Pixel formats and colour tags: FFmpeg's names and numbers, and ours."""

from __future__ import annotations

from dataclasses import dataclass

import av

from vtsr.errors import InputError
from vtsr.runtime.frame import PixelFormat, Sampling

# ITU-T H.273 code points, which FFmpeg uses as they are.
UNSPECIFIED = 2
MATRIX_OF_CODE = {
    1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 7: "bt709", 9: "bt2020", 10: "bt2020",
}  # fmt: skip
CODE_OF_MATRIX = {"bt709": 1, "bt601": 6, "bt2020": 9}
LIMITED, FULL = 1, 2  # AVColorRange; 0 is unspecified

# The luma height from which untagged video is taken to be BT.709: every player's rule.
HD_HEIGHT = 720

DEPTHS = (8, 9, 10, 12, 14, 16)
_STEMS: dict[str, Sampling] = {"gray": "gray", "yuv420p": "yuv420", "yuv422p": "yuv422", "yuv444p": "yuv444"}


@dataclass(frozen=True)
class ColourTags:
    """Colour description of a stream, as H.273 code points; 2 (range: 0) means unspecified."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


def pixel_name(fmt: PixelFormat) -> str:
    """FFmpeg's name of a pixel format, e.g. ``"yuv420p10le"``."""
    if fmt.sampling == "rgb":
        return "rgb24" if fmt.bits == 8 else "rgb48le"
    stem = fmt.sampling if fmt.sampling == "gray" else fmt.sampling + "p"
    return stem if fmt.bits == 8 else f"{stem}{fmt.bits}le"


def _known_names() -> dict[str, tuple[Sampling, int]]:
    known: dict[str, tuple[Sampling, int]] = {"rgb24": ("rgb", 8), "rgb48le": ("rgb", 16)}
    for stem, sampling in _STEMS.items():
        for bits in DEPTHS:
            known[stem if bits == 8 else f"{stem}{bits}le"] = (sampling, bits)
    return known


SUPPORTED = _known_names()
# The same samples under another name: the J formats only add "full range".
ALIASES = {"yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p"}


def nearest_supported(pix_fmt: str) -> tuple[Sampling, int]:
    """The supported sampling and depth that keep the most of FFmpeg's pixel format ``pix_fmt``.

    Raises `InputError` for formats without pictures in memory, such as those of hardware decoders.
    """
    name = ALIASES.get(pix_fmt, pix_fmt)
    if name in SUPPORTED:
        return SUPPORTED[name]
    try:
        fmt = av.VideoFormat(name, 64, 64)
    except ValueError as error:
        raise InputError(f"Pixel format {pix_fmt} is unknown; convert the video first.") from error
    components = [c for c in fmt.components if not c.is_alpha]
    if not components:
        raise InputError(f"Pixel format {pix_fmt} cannot be read; convert the video first.")
    bits = max(c.bits for c in components)
    if fmt.is_rgb or fmt.has_palette or bits > 16 or name.startswith(("bayer", "xyz", "pal")):
        return "rgb", 8 if bits <= 8 else 16
    bits = min(depth for depth in DEPTHS if depth >= bits)
    if len(components) < 3:
        return "gray", bits
    # Chroma stays at least as fine as it was, except for the rare 4x4 and 4x2 blocks.
    wide, high = 64 // fmt.chroma_width(64), 64 // fmt.chroma_height(64)
    if high >= 2:
        return ("yuv420" if wide >= 2 else "yuv444"), bits
    return ("yuv422" if wide >= 2 else "yuv444"), bits


def has_alpha(pix_fmt: str) -> bool:
    """Whether pixels of FFmpeg's format ``pix_fmt`` carry transparency."""
    return any(c.is_alpha for c in av.VideoFormat(pix_fmt).components)


def pixel_format(pix_fmt: str, tags: ColourTags, height: int) -> PixelFormat:
    """The format in which frames stored as ``pix_fmt`` are handed on.

    Where the stream does not say, video below 720 lines is BT.601 and BT.709 from there on, with
    limited range, as players assume.
    """
    sampling, bits = nearest_supported(pix_fmt)
    if sampling == "rgb":
        return PixelFormat("rgb", bits)
    matrix = MATRIX_OF_CODE.get(tags.matrix, "bt709" if height >= HD_HEIGHT else "bt601")
    return PixelFormat(sampling, bits, matrix, pix_fmt in ALIASES or tags.range == FULL)


def closest_encodable(fmt: PixelFormat, choices: list[str]) -> str | None:
    """The pixel format among an encoder's ``choices`` that loses least of ``fmt``; None if there is none.

    Rank: keep colour, then chroma detail, then bits; then waste as few bits and samples as possible.
    """
    detail = {"gray": 0, "yuv420": 1, "yuv422": 2, "yuv444": 3, "rgb": 3}
    best: tuple[tuple[int, ...], str] | None = None
    for name in choices:
        if name in ("bgr0", "gbrp", "gbrp16le") and fmt.sampling == "rgb":
            sampling, bits = "rgb", 16 if name == "gbrp16le" else 8
        elif name in SUPPORTED:
            sampling, bits = SUPPORTED[name]
        else:
            continue
        lost_colour = int(fmt.sampling != "gray" and sampling == "gray")
        converted = int((fmt.sampling == "rgb") != (sampling == "rgb"))
        chroma = detail[sampling] - detail[fmt.sampling]
        depth = bits - fmt.bits
        cost = (lost_colour, converted, max(-chroma, 0), max(-depth, 0), max(depth, 0), max(chroma, 0))
        if best is None or cost < best[0]:
            best = (cost, name)
    return None if best is None else best[1]
