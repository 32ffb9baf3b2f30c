"""What PyAV says about streams, the same for all its versions."""

from __future__ import annotations

from typing import Any

ATTACHED_PIC = 0x400  # AV_DISPOSITION_ATTACHED_PIC


def disposition(stream: Any) -> int:
    """The stream's disposition as FFmpeg's bits; older versions of PyAV have a flag that is no integer."""
    flag = getattr(stream, "disposition", 0)
    return int(getattr(flag, "value", flag))


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a still picture attached to the file."""
    return bool(disposition(stream) & ATTACHED_PIC)
