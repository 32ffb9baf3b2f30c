"""Memory that nothing uses any more but the process still holds."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable


def give_back() -> None:
    """Frees what lives only in reference cycles, and returns free memory to the system where the C library can.

    The encoders that come and go with the segments of a long job are parts of cycles and large, but few
    objects, so Python looks for them seldom; and they leave holes in the heap. Takes some 20 ms.
    """
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
