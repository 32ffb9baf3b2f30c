"""Who waits for whom, and which block of memory is free when. Pure: no CUDA, no arrays.

Every stream runs its operations in the order they were issued; the host is a stream too, whose operations
are over when they return. The scheduler knows what every operation reads and writes, and lets it wait for

    the last writer of what it reads, and
    the last writer and all readers since of what it writes,

unless they are known to be over: because they come first in the same stream, or because the stream has
already waited for something that came after them (vector clocks, Lamport 1978, Fidge 1988). Operations only
ever wait for ones that were issued before, so there is no deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

HOST = "host"


@dataclass(eq=False)
class Mark:
    """The point in a stream where an operation is over; ``event`` belongs to the executor.

    ``clock`` is, per stream, the number of the last operation that is over by then.
    """

    stream: str
    number: int
    clock: dict[str, int]
    event: Any = None


@dataclass(eq=False)
class Block:
    """A piece of memory with a name, and who uses it; ``memory`` belongs to the executor."""

    role: str
    index: int
    nbytes: int
    on_host: bool = False
    memory: Any = None
    last_write: Mark | None = field(default=None, repr=False)
    reads: dict[str, Mark] = field(default_factory=dict, repr=False)  # since the last write, last per stream


@dataclass(eq=False)
class Operation:
    """Something to run in ``mark.stream`` once all ``waits`` are over; ``work`` says what."""

    mark: Mark
    kind: str
    waits: tuple[Mark, ...]
    reads: tuple[Block, ...]
    writes: tuple[Block, ...]
    work: Any = None


class Scheduler:
    """Orders operations by what they read and write; `issue` receives each with what it has to wait for."""

    def __init__(self, issue: Callable[[Operation], Any]) -> None:
        self._issue = issue
        self._clocks: dict[str, dict[str, int]] = {HOST: {}}
        self._counts: dict[str, int] = {}

    def add(
        self, kind: str, stream: str, reads: Iterable[Block] = (), writes: Iterable[Block] = (), work: Any = None
    ) -> Mark:
        """Issues an operation and returns the mark of its end."""
        reads, writes = tuple(reads), tuple(writes)
        clock = self._clocks.setdefault(stream, {})
        if stream != HOST:
            _merge(clock, self._clocks[HOST])  # what the host has waited for is over before it issues this
        before = [block.last_write for block in (*reads, *writes)]
        before += [mark for block in writes for mark in block.reads.values()]
        # What is known to be over is in the clock: also all of this stream before.
        pending: Collection[Mark] = {
            m for m in before if m is not None and m.stream != HOST and clock.get(m.stream, -1) < m.number
        }
        waits = []
        # The newest first: waiting for it may make waiting for others needless.
        if len(pending) > 1:
            pending = sorted(pending, key=lambda m: (-sum(m.clock.values()), m.stream))
        for mark in pending:
            if clock.get(mark.stream, -1) < mark.number:
                waits.append(mark)
                _merge(clock, mark.clock)
        number = self._counts.get(stream, 0)
        self._counts[stream] = number + 1
        clock[stream] = number
        mark = Mark(stream, number, dict(clock))
        for block in reads:
            block.reads[stream] = mark
        for block in writes:
            block.last_write, block.reads = mark, {}
        self._issue(Operation(mark, kind, tuple(waits), reads, writes, work))
        return mark

    def over(self, mark: Mark) -> None:
        """Tells that the host has seen the end of an operation."""
        _merge(self._clocks[HOST], mark.clock)


def _merge(clock: dict[str, int], other: dict[str, int]) -> None:
    for stream, number in other.items():
        if clock.get(stream, -1) < number:
            clock[stream] = number


class Lease:
    """The right to use a block; the block returns to its ring when the last reference to the lease goes."""

    __slots__ = ("__weakref__", "_home", "block")

    def __init__(self, block: Block, home: deque[Block] | None) -> None:
        self.block = block
        self._home = home

    def __del__(self) -> None:
        # May run in any thread, in the middle of anything: an append to a deque is all that is safe here.
        if self._home is not None:
            self._home.append(self.block)


class Ring:
    """Blocks of one role and size, used in turn.

    ``turn`` n takes block n modulo ``slots`` where it is free, so that one frame after another meets the same
    combinations of blocks, which CUDA graphs are made for. A block that is still held is left alone, and the ring
    grows when all are held.
    """

    def __init__(self, role: str, nbytes: int, slots: int, on_host: bool = False) -> None:
        self.role, self.nbytes, self.slots, self.on_host = role, nbytes, slots, on_host
        self.blocks: dict[int, Block] = {}
        self._returned: deque[Block] = deque()  # appended to by leases, in any thread
        self._free: dict[int, Block] = {}  # by index, the longest free first

    def take(self, turn: int) -> Lease:
        """A block nobody holds; operations on it may still be under way."""
        self._collect()
        index = turn % self.slots
        if index not in self.blocks:
            block = self._add(index)
        elif index in self._free:
            block = self._free.pop(index)
        else:
            unmade = (i for i in range(self.slots) if i not in self.blocks)
            free = next(iter(self._free), None)
            block = self._free.pop(free) if free is not None else self._add(next(unmade, len(self.blocks)))
        return Lease(block, self._returned)

    def take_free(self, limit: int | None = None) -> Lease | None:
        """A block nobody holds, the longest free first; None if there are ``limit`` blocks and all are held."""
        self._collect()
        if self._free:
            return Lease(self._free.pop(next(iter(self._free))), self._returned)
        if limit is not None and len(self.blocks) >= limit:
            return None
        return Lease(self._add(len(self.blocks)), self._returned)

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._free[block.index] = block

    def _add(self, index: int) -> Block:
        self.blocks[index] = Block(self.role, index, self.nbytes, self.on_host)
        return self.blocks[index]
