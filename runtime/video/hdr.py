"""HDR10 static metadata: the display a film was graded on, and how bright it gets."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

# AVMasteringDisplayMetadata: primaries R, G, B as (x, y), white point, darkest and brightest, as pairs of
# integers; then two flags that say which of them are set.
_MASTERING = struct.Struct("=20i2i")
_LIGHT = struct.Struct("=2I")  # AVContentLightMetadata: MaxCLL and MaxFALL in cd/m2
CHROMATICITY_UNITS, LUMINANCE_UNITS = 50_000, 10_000  # per 1 and per cd/m2, in the bitstream and so in x265


@dataclass(frozen=True)
class Hdr:
    """What a stream says about its light.

    display
        R, G, B and white point as (x, y) chromaticities, then darkest and brightest in cd/m2: ten numbers;
        None if unknown.
    light
        MaxCLL and MaxFALL in cd/m2, None if unknown.
    """

    display: tuple[Fraction, ...] | None = None
    light: tuple[int, int] | None = None

    def options(self, encoder: str) -> dict[str, str]:
        """Encoder options that write it into the bitstream; none for encoders that cannot."""
        entries: list[str] = []
        if encoder == "libsvtav1":
            if self.display is not None:
                entries.append(f"mastering-display={self._display(1.0, 1.0)}")
            if self.light is not None:
                entries.append("content-light={},{}".format(*self.light))
            return {"svtav1-params": ":".join(entries)} if entries else {}
        if encoder not in ("libx264", "libx265"):
            return {}
        x265 = encoder == "libx265"
        if self.display is not None:
            name = "master-display" if x265 else "mastering-display"
            entries.append(f"{name}={self._display(CHROMATICITY_UNITS, LUMINANCE_UNITS)}")
        if self.light is not None:
            entries.append("{}={},{}".format("max-cll" if x265 else "cll", *self.light))
        return {"x265-params" if x265 else "x264-params": ":".join(entries)} if entries else {}

    def _display(self, per_one: float, per_nit: float) -> str:
        assert self.display is not None
        values = [_number(v * Fraction(per_one)) for v in self.display[:8]]
        red, green, blue, white = (f"({x},{y})" for x, y in zip(values[::2], values[1::2], strict=True))
        dark, bright = (_number(v * Fraction(per_nit)) for v in self.display[8:])
        return f"G{green}B{blue}R{red}WP{white}L({bright},{dark})"


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.5f}"


def hdr_of(side_data: dict[str, bytes]) -> Hdr | None:
    """Reads a frame's side data, by FFmpeg's names for it; None if there is nothing of the kind."""
    display: tuple[Fraction, ...] | None = None
    light: tuple[int, int] | None = None
    data = side_data.get("MASTERING_DISPLAY_METADATA", b"")
    if len(data) >= _MASTERING.size:
        *numbers, has_primaries, has_luminance = _MASTERING.unpack(data[: _MASTERING.size])
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        if has_primaries and has_luminance and all(denominator for _, denominator in pairs):
            display = tuple(Fraction(n, d) for n, d in pairs)
    data = side_data.get("CONTENT_LIGHT_LEVEL", b"")
    if len(data) >= _LIGHT.size:
        light = _LIGHT.unpack(data[: _LIGHT.size])
    return None if display is None and light is None else Hdr(display, light)
