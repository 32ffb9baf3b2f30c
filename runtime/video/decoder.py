"""Packets to pictures, such that damage costs no picture that can be decoded.

A decoder with several threads works on several packets at once. When one is damaged, FFmpeg reports it for
another packet, and pictures that were under way are lost with it (four of 40, say). So the packets since the last
key picture are kept, and at the first damage they are decoded again by a decoder with one thread, which stays.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import av
import av.error

UNDER_WAY = 64  # pictures that a decoder may hold back at most: threads and reordering
KEPT_PACKETS, KEPT_BYTES = 2000, 64 << 20  # since a key picture; beyond, damage may cost a few pictures
FEWEST_THREADS = 1


class Decoder:
    """Decodes one video stream.

    stream
        FFmpeg's, with its number of threads already set.
    reopen
        Opens the container once more, for the second decoder; None if that is impossible, as with a pipe.
    max_pixels
        Of one picture; larger ones count as damage.

    ``damaged_packets`` counts those that could not be decoded.
    """

    def __init__(self, stream: Any, reopen: Callable[[], Any] | None, max_pixels: int) -> None:
        self.damaged_packets = 0
        self._stream = stream
        self._reopen = reopen
        self._limits = {"max_pixels": str(max_pixels)}
        self._context = stream.codec_context
        self._context.options = self._limits
        self._second: Any = None  # the container that the second decoder belongs to
        self._packets: list[Any] | None = []  # from a key picture on; None if there are too many
        self._bytes = 0
        self._key = 0  # index of the latest key picture among them
        self._missing = 0  # packets that have not become pictures; some, such as second fields, never do
        self._delivered: deque[int | None] = deque(maxlen=KEPT_PACKETS + UNDER_WAY)

    def decode(self, packet: Any) -> list[Any]:
        """The pictures that are complete with this packet; None ends the stream.

        Raises `MemoryError` where there is not enough for the pictures.
        """
        if self._second is None:
            self._keep(packet)
        try:
            frames: list[Any] = self._context.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.MemoryError as error:
            raise MemoryError(str(error)) from error
        except (av.error.FFmpegError, ValueError):  # a decoder that does not open is no decoder afterwards
            if self._second is None and self._can_repeat():
                return self._again()
            self.damaged_packets += 1
            return []
        if self._second is not None:
            return frames
        self._delivered.extend(frame.pts for frame in frames)
        self._missing -= len(frames)
        # At the end PyAV stops at the first damaged picture without a word, and what comes after it is lost.
        if _is_end(packet) and self._missing > 0 and self._can_repeat():
            return frames + self._again()
        return frames

    def close(self) -> None:
        if self._second is not None:
            self._second.close()

    def _keep(self, packet: Any) -> None:
        if packet is not None and packet.is_keyframe:
            if self._packets is None:
                self._packets, self._bytes, self._key = [], 0, 0
            elif len(self._packets) - self._key >= UNDER_WAY:
                # Whatever came before the latest key picture has been delivered.
                del self._packets[: self._key]
                self._bytes = sum(kept.size for kept in self._packets)
                self._key = len(self._packets)
            elif self._key == 0:
                self._key = len(self._packets)
        if not _is_end(packet):
            self._missing += 1
        if self._packets is None:
            return
        self._packets.append(packet)
        self._bytes += 0 if packet is None else packet.size
        if len(self._packets) > KEPT_PACKETS or self._bytes > KEPT_BYTES:
            self._packets = None

    def _can_repeat(self) -> bool:
        several = self._context.thread_count != FEWEST_THREADS
        return several and self._reopen is not None and self._packets is not None

    def _again(self) -> list[Any]:
        assert self._reopen is not None
        assert self._packets is not None
        packets, self._packets = self._packets, None
        try:
            self._second = self._reopen()
            context = self._second.streams[self._stream.index].codec_context
        except (av.error.FFmpegError, OSError, IndexError):
            self._reopen = None  # the file has gone; what is left is decoded as before
            self.damaged_packets += 1
            return []
        context.thread_count, context.options = FEWEST_THREADS, self._limits
        self._context = context
        # Pictures are told apart by their times. Those without any may be lost here, but none comes twice.
        delivered = Counter(self._delivered)
        frames = []
        for packet in packets:
            for frame in self.decode(packet):
                if delivered[frame.pts]:
                    delivered[frame.pts] -= 1
                else:
                    frames.append(frame)
        return frames


def _is_end(packet: Any) -> bool:
    return packet is None or packet.size == 0
