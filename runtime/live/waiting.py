"""The waiting room between a source that cannot wait and a network that may be slow."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from enum import Enum

from vtsr.runtime.frame import Frame
from vtsr.runtime.live.clock import Placed


class Policy(str, Enum):
    """What happens to a frame that comes while the waiting room is full.

    drop-oldest
        The frame that has waited longest goes: lowest latency.
    drop-newest
        The new frame goes: what has begun is finished.
    adapt
        As drop-oldest; besides, the number of levels goes down until no frame has to go, and up again later.
    wait
        `push` waits: nothing is lost. For sources that can wait, such as pipes.
    """

    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"
    ADAPT = "adapt"
    WAIT = "wait"


@dataclass(frozen=True)
class Item:
    """A frame that waits: ``number`` counts pushes, ``arrival`` is the time of the push in seconds."""

    frame: Frame
    placed: Placed
    number: int
    arrival: float


class WaitingRoom:
    """At most ``capacity`` items; any thread may put, one takes."""

    def __init__(self, capacity: int, policy: Policy) -> None:
        self.capacity, self.policy = capacity, policy
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> Item | None:
        """Returns the item that had to go instead, which may be the given one; after `close` that is so for all."""
        with self._changed:
            if self.policy is Policy.WAIT:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self.capacity)
            if self._closed:
                return item
            gone = None
            if len(self._items) >= self.capacity:
                if self.policy is Policy.DROP_NEWEST:
                    return item
                gone = self._items.popleft()
            self._items.append(item)
            self._changed.notify_all()
            return gone

    def take(self, timeout: float | None = None) -> Item | None:
        """The next item; None after ``timeout`` seconds without one, or once the room is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, drop: bool = False) -> int:
        """Nothing more comes in; returns how many waiting items were dropped."""
        with self._changed:
            self._closed = True
            dropped = len(self._items) if drop else 0
            if drop:
                self._items.clear()
            self._changed.notify_all()
            return dropped

    @property
    def closed(self) -> bool:
        """Whether nothing will come any more."""
        with self._changed:
            return self._closed and not self._items

    def __len__(self) -> int:
        with self._changed:
            return len(self._items)
