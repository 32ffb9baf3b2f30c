"""Input frames from a known place on, the same as if all before them had been read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Protocol, TypeVar

from vtsr.errors import InputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.segments.marks import Mark


class Seekable(Protocol):
    """A reader that may be able to go on with a frame in its middle."""

    def __iter__(self) -> Iterator[Frame]: ...
    def skip_to(self, index: int, pts: Fraction) -> bool: ...
    def close(self) -> None: ...


class OtherPicturesError(InputError):
    """The input decodes to other pictures than when the job was begun."""


Reader = TypeVar("Reader", bound=Seekable)


def open_at(
    open_reader: Callable[[], Reader],
    view: Callable[[Iterator[Frame]], Iterator[Frame]],
    mark: Mark | None,
    quick: bool,
) -> tuple[Reader, Iterator[Frame]]:
    """A reader, and its frames (through ``view``) from the one with that mark on; from the first for None.

    With ``quick``, the reader is positioned if it can be and the frame found is the very same; otherwise
    everything before it is decoded. Raises `OtherPicturesError` if the frame is not there or not the same any more.
    """
    reader = open_reader()
    try:
        if mark is None:
            return reader, view(iter(reader))
        if quick and reader.skip_to(mark.index, mark.pts):
            frames = view(iter(reader))
            first = next(frames, None)
            if first is not None and Mark.of(first) == mark:
                return reader, itertools.chain([first], frames)
        reader.close()
        reader = open_reader()
        frames = itertools.dropwhile(lambda frame: frame.source_index < mark.index, view(iter(reader)))
        first = next(frames, None)
        if first is None or Mark.of(first) != mark:
            raise OtherPicturesError(
                f"Frame {mark.index} of the input does not decode as it did before; start again with -y."
            )
        return reader, itertools.chain([first], frames)
    except BaseException:
        reader.close()
        raise
