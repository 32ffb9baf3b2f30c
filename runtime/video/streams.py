"""What PyAV says about streams and frames, the same for all its versions."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

ATTACHED_PIC = 0x400  # AV_DISPOSITION_ATTACHED_PIC


def disposition(stream: Any) -> int:
    """The stream's disposition as FFmpeg's bits; older versions of PyAV have a flag that is no integer."""
    flag = getattr(stream, "disposition", 0)
    return int(getattr(flag, "value", flag))


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a still picture attached to the file."""
    return bool(disposition(stream) & ATTACHED_PIC)


def side_data(frame: Any) -> dict[str, bytes]:
    """What is attached to a frame, by FFmpeg's names; kinds that PyAV has no name for are left out."""
    found: dict[str, bytes] = {}
    try:
        attached = frame.side_data
    except ValueError:  # PyAV 19 names all kinds at once
        return found
    # Iterating gives entries before PyAV 19 and keys from there on, and the length leaves out what is of the same
    # kind; an index gives every entry in all versions.
    for index in itertools.count():
        try:
            entry = attached[index]
        except IndexError:
            return found
        with contextlib.suppress(ValueError):
            found[entry.type.name] = bytes(entry)
    return found
