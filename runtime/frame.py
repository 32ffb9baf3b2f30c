"""One video frame: its pixels and its place in time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError

Image = NDArray[Any]
Sampling = Literal["rgb", "gray", "yuv420", "yuv422", "yuv444"]

# Width and height of a luma pixel block that shares one chroma sample.
CHROMA_BLOCK: dict[str, tuple[int, int]] = {"yuv420": (2, 2), "yuv422": (2, 1), "yuv444": (1, 1)}


@dataclass(frozen=True)
class PixelFormat:
    """How the samples of a picture are stored.

    sampling
        ``"rgb"`` (one plane, H x W x 3), ``"gray"`` (one plane, H x W) or planar YUV.
    bits
        Bits per sample, 8 to 16. More than 8 are stored as uint16 with the value in the low bits;
        RGB is either 8 or 16 bits.
    matrix
        YUV coefficients: ``"bt601"``, ``"bt709"`` or ``"bt2020"``. Ignored for RGB and gray.
    full_range
        Whether luma uses all codes (JPEG range) rather than 16..235 (video range), scaled to ``bits``.
    """

    sampling: Sampling = "rgb"
    bits: int = 8
    matrix: str = "bt709"
    full_range: bool = True

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if self.bits == 8 else np.uint16


@dataclass(frozen=True)
class Planes:
    """A picture as stored planes: ``(rgb,)``, ``(gray,)`` or ``(y, u, v)``, with their format.

    Chroma planes of a W x H picture are ceil(W / bw) x ceil(H / bh) with (bw, bh) from `CHROMA_BLOCK`.
    """

    planes: tuple[Image, ...]
    format: PixelFormat

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])


@dataclass(frozen=True)
class Frame:
    """A picture with its time.

    picture
        uint8 or uint16 array (H, W, 3), RGB, all codes used; or `Planes` for any other format.
    pts, duration
        Start of the exposure and its length, in seconds, exact.
    source_index, phase
        Which input frame this one was made from, and which of its 2**levels parts it is (0 first).
    """

    picture: Image | Planes
    pts: Fraction = Fraction(0)
    duration: Fraction = Fraction(1)
    source_index: int = 0
    phase: int = 0

    @property
    def image(self) -> Image:
        """The picture as an (H, W, 3) RGB array, uint8 or uint16.

        Raises `InputError` if the frame holds YUV planes.
        """
        if isinstance(self.picture, Planes):
            if self.picture.format.sampling != "rgb":
                raise InputError("This frame holds YUV planes, not an RGB image.")
            return self.picture.planes[0]
        return self.picture

    @property
    def planes(self) -> Planes:
        """The picture as `Planes`, whatever it was given as; nothing is copied.

        Raises `InputError` unless an array is uint8 or uint16 of shape (H, W, 3).
        """
        if isinstance(self.picture, Planes):
            return self.picture
        image = self.picture
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
            shape = getattr(image, "shape", type(image).__name__)
            raise InputError(f"A frame must be an RGB array of shape (height, width, 3), not {shape}.")
        if image.dtype not in (np.uint8, np.uint16):
            raise InputError(f"A frame must be of type uint8 or uint16, not {image.dtype}.")
        return Planes((image,), PixelFormat("rgb", 8 * image.dtype.itemsize))


class PendingFrame(Frame):
    """A frame whose picture is an RGB array that may still be computed; reading ``picture`` or ``image`` waits."""

    def __init__(
        self,
        picture: Image | Planes,
        pts: Fraction = Fraction(0),
        duration: Fraction = Fraction(1),
        source_index: int = 0,
        phase: int = 0,
    ) -> None:
        # Past the frozen fields, one of which is a property here.
        self.__dict__.update(picture=picture, pts=pts, duration=duration, source_index=source_index, phase=phase)

    @property
    def picture(self) -> Image:
        """uint8 or uint16 array (H, W, 3)."""
        return self.planes.planes[0]

    @property
    def planes(self) -> Planes:
        """The picture as `Planes`, not waited for."""
        kept = self.__dict__["picture"]
        return kept if isinstance(kept, Planes) else Frame(kept).planes

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets a frame that is there."""
        return Frame, (self.picture, self.pts, self.duration, self.source_index, self.phase)
