"""How stored pictures lie in a block of memory: one plane after another, as the ingest and emit graphs take them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError
from vtsr.runtime.frame import CHROMA_BLOCK, PixelFormat, Planes

ALIGNMENT = 256  # bytes, what TensorRT asks of addresses
PAD_MULTIPLE = 32  # networks take heights and widths that are multiples of this
PAIRED = "nv12"  # 4:2:0 with both chroma samples of a block side by side: NV12 and P010
RGB_LIKE = ("rgb", "gray")


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Plane:
    """One plane of a batch of pictures: its name in the graphs, shape in samples, and place in the block."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @cached_property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def graph_shape(self) -> tuple[int, ...]:
        """As the graphs see it: samples of more than 8 bits are pairs of bytes along the last dimension."""
        if self.dtype.itemsize == 1:
            return self.shape
        if len(self.shape) == 4:
            return (*self.shape[:3], self.shape[3] * 2)
        return (*self.shape, 2)


@dataclass(frozen=True)
class Layout:
    """Size and storage of the pictures of one stream. ``paired`` tells NV12 and P010 from planar 4:2:0.

    P010 has its 10 bits in the high bits of 16, as the hardware that makes it does.
    """

    format: PixelFormat
    height: int
    width: int
    paired: bool = False

    @cached_property
    def padded(self) -> tuple[int, int]:
        """Height and width of the float pictures."""
        return tuple(-(-n // PAD_MULTIPLE) * PAD_MULTIPLE for n in (self.height, self.width))  # type: ignore[return-value]

    @property
    def sampling(self) -> str:
        return PAIRED if self.paired else self.format.sampling

    @cached_property
    def _planes(self) -> dict[int, tuple[Plane, ...]]:
        return {}  # every push asks for them several times

    def planes(self, batch: int) -> tuple[Plane, ...]:
        """The planes of ``batch`` pictures."""
        if batch not in self._planes:
            self._planes[batch] = self._planes_of(batch)
        return self._planes[batch]

    def _planes_of(self, batch: int) -> tuple[Plane, ...]:
        sampling = self.format.sampling
        dtype = np.dtype(self.format.dtype)
        picture = (batch, self.height, self.width)
        if sampling == "rgb":
            shapes: dict[str, tuple[int, ...]] = {"image": (*picture, 3)}
        elif sampling == "gray":
            shapes = {"y": picture}
        else:
            wide, high = CHROMA_BLOCK[sampling]
            chroma = (batch, -(-self.height // high), -(-self.width // wide))
            shapes = {"y": picture, **({"uv": (*chroma, 2)} if self.paired else {"u": chroma, "v": chroma})}
        planes, offset = [], 0
        for name, shape in shapes.items():
            planes.append(Plane(name, shape, dtype, offset))
            offset += aligned(planes[-1].nbytes)
        return tuple(planes)

    def nbytes(self, batch: int) -> int:
        """Size of a block for ``batch`` pictures."""
        last = self.planes(batch)[-1]
        return last.offset + aligned(last.nbytes)

    def arrays(self, memory: NDArray[np.uint8], batch: int) -> list[NDArray[Any]]:
        """The planes in a block of host memory, as arrays."""
        return [
            memory[plane.offset : plane.offset + plane.nbytes].view(plane.dtype).reshape(plane.shape)
            for plane in self.planes(batch)
        ]

    def same_storage(self, facts: Mapping[str, Any] | None) -> bool:
        """Whether the storage of a recipe's engine, as `vtsr.export.pixels.Storage` states it, is this one."""
        if facts is None or facts.get("sampling") != self.sampling or facts.get("bits") != self.format.bits:
            return False
        if bool(facts.get("high_bits")) != (self.paired and self.format.bits > 8):
            return False
        if self.format.sampling in RGB_LIKE:
            return True
        return (facts.get("matrix"), facts.get("full_range")) == (self.format.matrix, self.format.full_range)

    @property
    def name(self) -> str:
        """For people: FFmpeg's name of the storage, and the size."""
        bits = self.format.bits
        if self.paired:
            kind = "nv12" if bits == 8 else f"p0{bits}le"
        elif self.format.sampling == "rgb":
            kind = "rgb24" if bits == 8 else "rgb48le"
        else:
            stem = self.format.sampling if self.format.sampling == "gray" else f"{self.format.sampling}p"
            kind = stem if bits == 8 else f"{stem}{bits}le"
        return f"{kind} {self.width}x{self.height}"


def layout_of(picture: Planes) -> Layout:
    """The layout of a picture, from its planes' shapes. Raises `InputError` if they do not go together."""
    layout = Layout(picture.format, picture.height, picture.width)
    if picture.format.sampling == "yuv420" and len(picture.planes) == 2:
        layout = replace(layout, paired=True)
    check_planes(layout, picture.planes)
    return layout


def is_of_layout(picture: Planes, layout: Layout) -> bool:
    """Whether a picture has a layout, looked at in no time."""
    planes, wanted = picture.planes, layout.planes(1)
    return (
        (picture.format is layout.format or picture.format == layout.format)
        and len(planes) == len(wanted)
        and all(p.shape == w.shape[1:] and p.dtype == w.dtype for p, w in zip(planes, wanted, strict=True))
    )


def check_planes(layout: Layout, planes: Sequence[Any]) -> None:
    """Raises `InputError` unless the planes have the shapes and types of ``layout``."""
    wanted = layout.planes(1)
    found = [(tuple(p.shape), np.dtype(p.dtype)) for p in planes]
    if found != [(plane.shape[1:], plane.dtype) for plane in wanted]:
        shapes = ", ".join(f"{'x'.join(map(str, shape))} {dtype}" for shape, dtype in found)
        needed = ", ".join(f"{'x'.join(map(str, plane.shape[1:]))} {plane.dtype}" for plane in wanted)
        raise InputError(f"A picture in {layout.name} consists of {needed}, not of {shapes}.")
