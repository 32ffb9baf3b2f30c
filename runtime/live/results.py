"""Finished frames on their way to whoever uses them: a thread that waits, or an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from vtsr.runtime.frame import Frame

Timed = tuple[Frame, float]  # a frame and when its input frame arrived, in seconds


class Results:
    """A queue of at most ``capacity`` frames with one producer, which waits for room, and any consumers."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: deque[Timed] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._wakers: list[Callable[[], object]] = []

    def put(self, item: Timed) -> bool:
        """Waits for room; False if the results were closed and the frame is lost."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self.capacity)
            if self._closed:
                return False
            self._items.append(item)
            self._notify()
            return True

    def close(self, drop: bool = False) -> None:
        """No more frames come; those that wait can still be taken, unless they are to be dropped."""
        with self._changed:
            self._closed = True
            if drop:
                self._items.clear()
            self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        wakers, self._wakers = self._wakers, []
        for wake in wakers:
            with contextlib.suppress(RuntimeError):  # its event loop has been closed
                wake()

    def take(self, timeout: float | None = None) -> Timed | None:
        """The next frame; None after ``timeout`` seconds without one, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            return self._pop()

    def _pop(self) -> Timed | None:
        if not self._items:
            return None
        item = self._items.popleft()
        self._changed.notify_all()
        return item

    async def take_async(self) -> Timed | None:
        """The next frame, for event loops; None at the end."""
        loop = asyncio.get_running_loop()
        while True:
            ready = asyncio.Event()
            with self._changed:
                item = self._pop()
                if item is not None or self._closed:
                    return item
                self._wakers.append(partial(loop.call_soon_threadsafe, ready.set))
            await ready.wait()

    @property
    def finished(self) -> bool:
        with self._changed:
            return self._closed and not self._items
