"""What a run of the benchmark covers: sizes, levels, precisions, threads, and how often everything is repeated."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import NamedTuple

from vtsr.errors import OptionError
from vtsr.options import MAX_LEVELS

PRECISIONS = ("fp32", "fp16", "int8")
MULTIPLE = 32  # pixels: what the runtime pads both sides to


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def padded(self) -> Size:
        """What the network works on."""
        return Size(*(-(-side // MULTIPLE) * MULTIPLE for side in self))


TYPICAL = Size(448, 256)  # where one size has to do
SIZES = (Size(256, 144), TYPICAL, Size(640, 360), Size(1280, 720), Size(1920, 1080))
QUICK_SIZES = (Size(256, 144), TYPICAL)


@dataclass(frozen=True)
class Plan:
    """See the module. ``threads`` is that of every contestant; ``rounds`` that of short measurements."""

    sizes: tuple[Size, ...] = SIZES
    levels: tuple[int, ...] = tuple(range(1, MAX_LEVELS + 1))
    precisions: tuple[str, ...] = PRECISIONS
    threads: int = os.cpu_count() or 1
    model: str = "default"
    quick: bool = False

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 9

    @property
    def budget(self) -> float:
        """Seconds that the rounds of one measurement may take before there are fewer of them."""
        return 10 if self.quick else 50

    @property
    def typical(self) -> Size:
        """The size for what is measured at one size: `TYPICAL` if it is among the sizes, else the smallest."""
        return TYPICAL if TYPICAL in self.sizes else min(self.sizes, key=lambda size: size.pixels)

    @property
    def runtime_precisions(self) -> tuple[str, ...]:
        """Those the CPU runtime offers to users: ONNX Runtime has no fp16 arithmetic on CPUs."""
        return tuple(p for p in self.precisions if p != "fp16")


def parse_size(text: str) -> Size:
    """A size from ``640x360``. Raises `OptionError` for anything else, and for frames too small to measure."""
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise OptionError(f"'{text}' is not a frame size; write WIDTHxHEIGHT, such as 640x360")
    size = Size(*(int(side) for side in text.split("x")))
    if min(size) < MULTIPLE:
        raise OptionError(f"frames of {size} are too small to measure; sides must be {MULTIPLE} pixels or more")
    return size
