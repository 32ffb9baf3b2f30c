"""Virtual cameras: a v4l2loopback device that other programs read as a camera.

The two requests to the driver are those of `linux/videodev2.h`; the driver then takes one picture per write.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from typing import Any

from vtsr.errors import OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.video.facts import VideoFacts
from vtsr.runtime.video.storage import Storage

CAN_OUTPUT = 0x2  # V4L2_CAP_VIDEO_OUTPUT
HAS_DEVICE_CAPS = 0x80000000  # V4L2_CAP_DEVICE_CAPS
OUTPUT_BUFFER = 2  # V4L2_BUF_TYPE_VIDEO_OUTPUT
PROGRESSIVE = 1  # V4L2_FIELD_NONE
YU12 = int.from_bytes(b"YU12", "little")  # planar 4:2:0
SMPTE170M, REC709 = 1, 3  # v4l2_colorspace

_CAPABILITY = struct.Struct("=16s32s32s6I")  # struct v4l2_capability
# struct v4l2_format: the type, a union that holds pointers (and is aligned to them) of 200 bytes.
_PADDING = struct.calcsize("P") - 4
_FORMAT = struct.Struct(f"=I{_PADDING}x12I{200 - 48}x")


def _request(direction: int, number: int, size: int) -> int:
    """An ioctl number of the class 'V': 2 reads, 3 reads and writes."""
    return direction << 30 | size << 16 | ord("V") << 8 | number


QUERY_CAPABILITY = _request(2, 0, _CAPABILITY.size)
SET_FORMAT = _request(3, 5, _FORMAT.size)


class CameraSink:
    """Writes frames to a v4l2loopback device as planar 4:2:0.

    Raises `OutputError` if the device is not there, takes no output or refuses the format.
    """

    def __init__(
        self, device: str, facts: VideoFacts, ioctl: Callable[[int, int, Any], object] = fcntl.ioctl
    ) -> None:
        self.path = device
        self._store = Storage(facts, "yuv420p")
        width, height = facts.width // 2 * 2, facts.height // 2 * 2
        if (width, height) != (facts.width, facts.height):
            raise OutputError(f"{device} takes even sizes only; choose one with --size, e.g. {width}x{height}.")
        try:
            self._file = os.open(device, os.O_RDWR)
        except OSError as error:
            raise OutputError(
                f"The virtual camera {device} cannot be opened ({error.strerror}); load v4l2loopback "
                "(modprobe v4l2loopback) and check its number."
            ) from error
        try:
            self._prepare(width, height, facts, ioctl)
        except OSError as error:
            os.close(self._file)
            raise OutputError(
                f"{device} is no virtual camera ({error.strerror or error}); give a v4l2loopback device."
            ) from error

    def _prepare(self, width: int, height: int, facts: VideoFacts, ioctl: Callable[[int, int, Any], object]) -> None:
        answer = bytearray(_CAPABILITY.size)
        ioctl(self._file, QUERY_CAPABILITY, answer)
        _, _, _, _, whole, own, *_ = _CAPABILITY.unpack(answer)
        if not (own if whole & HAS_DEVICE_CAPS else whole) & CAN_OUTPUT:
            raise OSError("it takes no output")
        space = REC709 if self._store.format.matrix == "bt709" else SMPTE170M
        size = width * height * 3 // 2
        wanted = (width, height, YU12, PROGRESSIVE, width, size, space, 0, 0, 0, 0, 0)
        request = bytearray(_FORMAT.pack(OUTPUT_BUFFER, *wanted))
        ioctl(self._file, SET_FORMAT, request)
        got = _FORMAT.unpack(request)[1:]
        if got[:3] != wanted[:3]:
            raise OSError(f"it does not take pictures of {width}x{height}")

    def write(self, frame: Frame) -> None:
        data = self._store(frame.planes).to_ndarray().tobytes()
        try:
            os.write(self._file, data)
        except OSError as error:
            raise OutputError(f"{self.path} could not be written ({error.strerror}); check the device.") from error

    def finish(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def abandon(self) -> None:
        self.finish()
