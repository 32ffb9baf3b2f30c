"""Frames that are made on the spot, as a source like any file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from vtsr.errors import InputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.video.colour import pixel_name
from vtsr.runtime.video.facts import Timeline, VideoFacts


class RenderedReader:
    """Has the same face as `VideoReader`, for any frames of constant rate and known number.

    frames, count, rate
        The frames in order, from time zero, how many there are and their number per second.
    """

    is_constant_rate = is_clean = True
    damaged_packets = damaged_frames = 0
    has_audio = False

    def __init__(
        self,
        name: str,
        frames: Iterable[Frame],
        count: int,
        rate: Fraction,
        *,
        start: Fraction | None = None,
        duration: Fraction | None = None,
    ) -> None:
        begin = start or Fraction(0)
        end = None if duration is None else begin + duration
        self.timeline = Timeline(begin, end=end, cut=start is not None or duration is not None)
        started = itertools.dropwhile(lambda frame: frame.pts < begin, frames)
        self._frames = itertools.takewhile(lambda frame: end is None or frame.pts < end, started)
        first = next(self._frames, None)
        if first is None:
            raise InputError(f"{name} lasts {float(count / rate):g} s; choose an earlier --start.")
        self._first = first
        stop = min(count / rate, end) if end is not None else count / rate
        picture = first.planes
        self.facts = VideoFacts(
            name=name,
            container="rendered",
            codec="none",
            width=picture.width,
            height=picture.height,
            pix_fmt=pixel_name(picture.format),
            format=picture.format,
            frame_rate=rate,
            time_base=1 / rate,
            start=first.pts,
            duration=stop - first.pts,
            frames=max(1, -int(-(stop - first.pts) * rate // 1)),
        )
        self.warnings: list[str] = []

    def skip_to(self, index: int, pts: Fraction) -> bool:
        """False: the frames before have to be made anyway."""
        return False

    def frame_times(self) -> None:
        """None: frames are made one after the other, in one place."""

    def __iter__(self) -> Iterator[Frame]:
        yield replace(self._first, source_index=0)
        for index, frame in enumerate(self._frames, 1):
            yield replace(frame, source_index=index)

    def close(self) -> None:
        pass
