"""Uncompressed video through a pipe or in a file: y4m, which describes itself, and bare samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vtsr.errors import OptionError, OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.video.colour import SUPPORTED, nearest_supported, pixel_name
from vtsr.runtime.video.facts import Timeline, VideoFacts
from vtsr.runtime.video.partial import PartialFile
from vtsr.runtime.video.pictures import plane_sizes
from vtsr.runtime.video.storage import Storage

RAW_EXTENSIONS = (".yuv", ".rgb", ".raw")
_Y4M_SAMPLING = {"yuv420": "420", "yuv422": "422", "yuv444": "444", "gray": "mono"}


def raw_options(size: str | None, pix_fmt: str | None, rate: Fraction | None) -> dict[str, str]:
    """Options of FFmpeg's rawvideo demuxer; raises `OptionError` if size, format or rate is missing."""
    if size is None or pix_fmt is None or rate is None:
        raise OptionError("Raw video does not describe itself; give --size WxH, --input-pix-fmt and --fps.")
    if pix_fmt not in SUPPORTED:
        raise OptionError(f"Raw pixel format {pix_fmt} is unknown; choose from {', '.join(sorted(SUPPORTED))}.")
    return {"video_size": size, "pixel_format": pix_fmt, "framerate": str(rate)}


def y4m_header(facts: VideoFacts, pix_fmt: str, rate: Fraction, full_range: bool) -> bytes:
    """The line that begins a y4m stream."""
    sampling, bits = SUPPORTED[pix_fmt]
    colour = _Y4M_SAMPLING[sampling]
    if bits == 8:
        colour += "jpeg" if sampling == "yuv420" else ""
    else:
        colour += f"{bits}" if sampling == "gray" else f"p{bits} XYSCSS={colour}P{bits}"
    ratio = facts.sample_aspect_ratio or Fraction(0)
    aspect = f"{ratio.numerator}:{ratio.denominator if ratio else 0}"
    return (
        f"YUV4MPEG2 W{facts.width} H{facts.height} F{rate.numerator}:{rate.denominator} Ip A{aspect} "
        f"C{colour} XCOLORRANGE={'FULL' if full_range else 'LIMITED'}\n"
    ).encode()


class RawWriter:
    """Frames as uncompressed video into a file or an open binary stream.

    target
        A path, written under a hidden name until `finish`, or a binary file object.
    y4m
        Whether to write y4m (YUV and gray only; RGB becomes yuv444p) or bare samples.
    """

    def __init__(
        self,
        target: Path | BinaryIO,
        facts: VideoFacts,
        *,
        y4m: bool,
        parts: int = 1,
        timeline: Timeline | None = None,
        pix_fmt: str | None = None,
        overwrite: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self.frame_rate = facts.frame_rate * parts / (timeline or Timeline()).stretch
        own = pixel_name(facts.format)
        name = pix_fmt or own
        if name not in SUPPORTED:
            raise OptionError(f"Pixel format {name} is unknown; choose from {', '.join(sorted(SUPPORTED))}.")
        if y4m and nearest_supported(name)[0] == "rgb":
            if pix_fmt is not None:
                raise OptionError(f"y4m holds no {name}; choose a YUV format such as yuv444p.")
            name = "yuv444p" if facts.format.bits == 8 else "yuv444p16le"
            self.notes.append(f"y4m holds no RGB; the pictures are written as {name}.")
        self.pix_fmt, self.codec = name, "y4m" if y4m else "rawvideo"
        self._store = Storage(facts, name)
        self._y4m = y4m
        self._file: PartialFile | None = None
        if isinstance(target, Path):
            self.path = target
            self._file = PartialFile(target, overwrite)
            self._stream: BinaryIO = self._file.working.open("wb")
        else:
            self.path = Path("-")
            self._stream = target
        if y4m:
            self._put(y4m_header(facts, name, self.frame_rate, self._store.format.full_range))

    def write(self, frame: Frame) -> None:
        picture = self._store(frame.planes)
        if self._y4m:
            self._put(b"FRAME\n")
        fmt = self._store.format
        for plane, (rows, samples) in zip(
            picture.planes, plane_sizes(fmt, picture.width, picture.height), strict=False
        ):
            lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            self._put(np.ascontiguousarray(lines[:rows, : samples * fmt.dtype().itemsize]).data)

    def _put(self, data: bytes | memoryview) -> None:
        self._guarded(lambda: self._stream.write(data))

    def _guarded(self, operation: Callable[[], object]) -> None:
        try:
            operation()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(
                f"{self.path} could not be written ({error.strerror or error}); choose another place or free "
                "some space."
            ) from error

    def finish(self) -> None:
        self._guarded(self._stream.flush)
        if self._file is not None:
            self._guarded(self._stream.close)
            self._file.commit()

    def abandon(self, keep: bool = False) -> Path | None:
        """Ends without success: removes the file, or keeps it as ``NAME.partial`` and returns that path."""
        if self._file is None:
            return None
        with contextlib.suppress(OSError):  # what is still buffered may not fit on the disk either
            self._stream.close()
        if keep:
            return self._file.keep()
        self._file.discard()
        return None
