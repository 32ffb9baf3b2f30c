"""What is known about a video before its frames are processed, and how its time maps to the output's."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from vtsr.errors import InputError
from vtsr.runtime.frame import PixelFormat
from vtsr.runtime.video.colour import ColourTags
from vtsr.runtime.video.hdr import Hdr

# A frame is never larger: more is a damaged header, or a small file that is to fill our memory.
MAX_SIDE = 16384  # pixels
MAX_PIXELS = 1 << 26  # twice 8K


def check_size(name: str, width: int, height: int) -> None:
    """Raises `InputError` for frames that nobody can mean."""
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"{name} states frames of {width}x{height} pixels, more than can be processed ({MAX_SIDE} a side, "
            f"{MAX_PIXELS // 10**6} million in all); it is damaged, or must be scaled down first."
        )


@dataclass(frozen=True)
class VideoFacts:
    """A video stream, as opened.

    width, height
        Pixels, as stored (before rotation and sample aspect ratio).
    pix_fmt
        FFmpeg's name of the stored pixel format, e.g. ``"yuv420p10le"``.
    format
        The format of the frames handed on; differs from ``pix_fmt`` where that is not supported.
    frame_rate, time_base, start, duration
        Frames per second (average), seconds per tick, seconds, seconds (None if unknown).
    frames
        Number of frames, None if unknown; an estimate, good for a progress bar.
    display_matrix
        The nine integers of FFmpeg's display matrix (rotation and flips), None if the picture is upright.
    hdr
        HDR10 static metadata of the first frame, None if it has none.
    """

    name: str
    container: str
    codec: str
    width: int
    height: int
    pix_fmt: str
    format: PixelFormat
    frame_rate: Fraction
    time_base: Fraction
    start: Fraction = Fraction(0)
    duration: Fraction | None = None
    frames: int | None = None
    tags: ColourTags = field(default_factory=ColourTags)
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    hdr: Hdr | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    stream_metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    """The map from input time to output time, in seconds: ``begin + (t - origin) * stretch``.

    end
        Input time at which a cut ends (exclusive), None if there is none.
    cut
        Whether only the part [origin, end) of the input is used.
    """

    origin: Fraction = Fraction(0)
    begin: Fraction = Fraction(0)
    stretch: int = 1
    end: Fraction | None = None
    cut: bool = False

    def __call__(self, time: Fraction) -> Fraction:
        return self.begin + (time - self.origin) * self.stretch

    @property
    def is_identity(self) -> bool:
        return self.stretch == 1 and self.origin == self.begin and not self.cut
