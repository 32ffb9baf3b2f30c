"""How much room an output will need, as far as that can be known beforehand."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vtsr.errors import OutputError
from vtsr.runtime.frame import CHROMA_BLOCK
from vtsr.runtime.video.colour import nearest_supported

# Bits per pixel at our default settings, of pictures with ordinary detail: half of real footage needs more. Only
# good enough to tell a disk that will do from one that will not.
CODED_BITS = {
    "libx264": 0.08, "libx265": 0.05, "libvpx-vp9": 0.06, "libsvtav1": 0.04, "libaom-av1": 0.04, "prores_ks": 2.4,
    "jpg": 2.5, "jpeg": 2.5, "webp": 2.0,
}  # fmt: skip
UNKNOWN_CODED_BITS = 0.08
LOSSLESS_SHARE = 0.4  # of the uncompressed size: FFV1, PNG and the like
LOSSLESS = ("ffv1", "png", "tif", "tiff", "jp2")
UNCOMPRESSED = ("rawvideo", "y4m", "bmp", "ppm", "pgm")
# An estimate that is off by less than this must not stop a job; where too little is left then, it can be resumed.
HOPELESS = 1 / 4


@dataclass(frozen=True)
class Need:
    """Bytes an output will take; ``exact`` where every frame has one known size."""

    size: int
    exact: bool = False


def bits_per_pixel(pix_fmt: str) -> float:
    """Uncompressed bits per pixel of FFmpeg's format ``pix_fmt``."""
    sampling, bits = nearest_supported(pix_fmt)
    stored = 8 if bits == 8 else 16
    if sampling in ("rgb", "gray"):
        return stored * (3.0 if sampling == "rgb" else 1.0)
    wide, high = CHROMA_BLOCK[sampling]
    return stored * (1 + 2 / (wide * high))


def estimate(frames: int, width: int, height: int, codec: str, pix_fmt: str) -> Need:
    """What ``frames`` pictures take when stored by ``codec``: an encoder, an image type, y4m or rawvideo."""
    pixels = frames * width * height
    plain = bits_per_pixel(pix_fmt)
    if codec in UNCOMPRESSED:
        return Need(int(pixels * plain / 8), exact=True)
    if codec in LOSSLESS:
        return Need(int(pixels * plain * LOSSLESS_SHARE / 8))
    return Need(int(pixels * CODED_BITS.get(codec, UNKNOWN_CODED_BITS) / 8))


def check_room(
    folder: Path, output: str, need: Need, free: int | None = None, anyway: bool = False
) -> str | None:
    """A warning if ``need`` may not fit into ``folder``, or None.

    free
        Bytes that are free there; asked of the system by default.
    anyway
        Whether to try nonetheless where it cannot fit: a damaged file may say it is longer than it is.

    Raises `OutputError` if it cannot fit.
    """
    if free is None:
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            return None
    if free >= need.size:
        return None
    facts = f"{output} needs {'' if need.exact else 'about '}{_size(need.size)}, and {_size(free)} are free"
    if not anyway and (need.exact or free < need.size * HOPELESS):
        raise OutputError(f"{facts}; free some space, choose another place, or try nonetheless with -y.")
    return f"{facts}; if the disk gets full, free some space and go on with --resume."


def _size(count: int) -> str:
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
