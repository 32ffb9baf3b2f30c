"""Finished pictures in page-locked memory, which may still be on their way from the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.frame import Image, PixelFormat, Planes


class HostView:
    """Lends page-locked memory to NumPy: the lease, or owner, lasts as long as any view of the array."""

    def __init__(self, array: NDArray[Any], lease: Any) -> None:
        self._array = array
        self._lease = lease
        self.__array_interface__ = array.__array_interface__


def lend(array: NDArray[Any], lease: Any) -> NDArray[Any]:
    """``array`` as a new array that keeps ``lease``."""
    return np.asarray(HostView(array, lease))


class PendingPlanes(Planes):
    """`Planes` whose samples are waited for when `planes` is first read; size and format are known before."""

    def __init__(
        self, planes: Sequence[Image], format: PixelFormat, height: int, width: int, wait: Callable[[], None]
    ) -> None:
        object.__setattr__(self, "format", format)
        object.__setattr__(self, "_planes", tuple(planes))
        object.__setattr__(self, "_size", (height, width))
        object.__setattr__(self, "_wait", wait)

    @property
    def planes(self) -> tuple[Image, ...]:
        self._wait()  # type: ignore[attr-defined]
        return self._planes  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets planes that are there."""
        return Planes, (self.planes, self.format)

    @property
    def height(self) -> int:
        return self._size[0]  # type: ignore[attr-defined]

    @property
    def width(self) -> int:
        return self._size[1]  # type: ignore[attr-defined]
