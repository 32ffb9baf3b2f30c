"""When the operations of a schedule would run, given how long each takes. Pure.

A discrete model of a GPU: an operation starts when the one before it in its stream, all it waits for, and the
host's call that issued it are over. With `engines` it also needs an engine of the GPU: one copies in, one copies
out, and computations share the rest, ``abreast`` at a time. With one abreast they are modelled as one after another;
real kernels of two streams can overlap where one does not fill the GPU, so that efficiencies predicted so err to the
low side. Where a call fills a quarter of the GPU, four go abreast: this is what lanes are for.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vtsr.runtime.tensorrt.schedule import HOST, Mark, Operation

COPY_IN, COMPUTE, COPY_OUT = "copy in", "compute", "copy out"
ENGINE_OF = {"upload": COPY_IN, "download": COPY_OUT}
Duration = Callable[[Operation], float]


@dataclass(frozen=True)
class Span:
    """An operation's place in time."""

    operation: Operation
    start: float
    end: float


def engine_of(operation: Operation) -> str:
    """The engine of the GPU that an operation keeps busy; ``host`` for those of the host."""
    return HOST if operation.mark.stream == HOST else ENGINE_OF.get(operation.kind, COMPUTE)


def timeline(
    operations: Iterable[Operation],
    duration: Duration,
    *,
    issue: float = 0.0,
    engines: bool = True,
    abreast: int = 1,
) -> list[Span]:
    """Spans of the operations, in order of issue.

    Parameters
    ----------
    duration
        Of each operation, in any unit.
    issue
        What a call that issues an operation costs the host.
    engines
        Whether operations compete for the engines of the GPU; if not, streams alone limit what overlaps.
    abreast
        Computations that the GPU runs at the same time, each as fast as alone.
    """
    if engines:
        return _Contest(list(operations), duration, issue, abreast).run()
    ends: dict[Mark, float] = {}
    stream_free: dict[str, float] = {}
    host = 0.0
    spans = []
    for operation in operations:
        mark = operation.mark
        ready = max([stream_free.get(mark.stream, 0.0), *(ends[w] for w in operation.waits)])
        if mark.stream == HOST:
            start = max(host, ready)
            end = host = start + duration(operation)
        else:
            host += issue
            start = max(host, ready)
            end = start + duration(operation)
        stream_free[mark.stream] = ends[mark] = end
        spans.append(Span(operation, start, end))
    return spans


class _Contest:
    """Operations that compete for engines, event by event: of those ready, the one issued first goes first."""

    def __init__(self, operations: list[Operation], duration: Duration, issue: float, abreast: int) -> None:
        self._operations, self._duration, self._issue = operations, duration, issue
        self._units = {COPY_IN: 1, COMPUTE: abreast, COPY_OUT: 1}
        self._queues: dict[str, list[int]] = {engine: [] for engine in self._units}  # ready, by number
        self._streams: dict[str, deque[int]] = {}  # issued and not over; the first may have started
        self._blocked_by = [0] * len(operations)  # waits that are not over
        self._waiting: dict[Mark, list[int]] = {}
        self._ready_at = [0.0] * len(operations)
        self._spans: list[Span | None] = [None] * len(operations)
        self._events: list[tuple[float, int, bool]] = []  # time, number, whether it ends rather than is issued
        self._host = 0.0
        self._next = 0  # what the host does next

    def run(self) -> list[Span]:
        numbers = {operation.mark: number for number, operation in enumerate(self._operations)}
        for number, operation in enumerate(self._operations):
            self._blocked_by[number] = len(operation.waits)
            for mark in operation.waits:
                self._waiting.setdefault(mark, []).append(number)
        assert all(mark in numbers for mark in self._waiting)
        self._go_on(0.0)
        while self._events:
            now = self._events[0][0]
            while self._events and self._events[0][0] == now:
                _, number, ends = heapq.heappop(self._events)
                if ends:
                    self._end(number, now)
                else:
                    self._issued(number)
            self._start(now)
        return [span for span in self._spans if span is not None]

    def _go_on(self, now: float) -> None:
        """The host issues and waits, as far as it gets."""
        while self._next < len(self._operations):
            number, operation = self._next, self._operations[self._next]
            if operation.mark.stream != HOST:
                self._host += self._issue
                heapq.heappush(self._events, (max(self._host, now), number, False))
            elif self._blocked_by[number]:
                return
            else:
                start = max(self._host, self._ready_at[number])
                self._host = start + self._duration(operation)
                self._spans[number] = Span(operation, start, self._host)
            self._next += 1

    def _issued(self, number: int) -> None:
        stream = self._streams.setdefault(self._operations[number].mark.stream, deque())
        stream.append(number)
        if len(stream) == 1 and not self._blocked_by[number]:
            self._enqueue(number)

    def _enqueue(self, number: int) -> None:
        heapq.heappush(self._queues[engine_of(self._operations[number])], number)

    def _end(self, number: int, now: float) -> None:
        operation = self._operations[number]
        self._units[engine_of(operation)] += 1
        stream = self._streams[operation.mark.stream]
        stream.popleft()
        if stream and not self._blocked_by[stream[0]]:
            self._enqueue(stream[0])
        for other in self._waiting.get(operation.mark, ()):
            self._blocked_by[other] -= 1
            self._ready_at[other] = now
            if self._blocked_by[other]:
                continue
            theirs = self._streams.get(self._operations[other].mark.stream)
            if other == self._next:
                self._go_on(now)
            elif theirs and theirs[0] == other:
                self._enqueue(other)

    def _start(self, now: float) -> None:
        for engine, queue in self._queues.items():
            while queue and self._units[engine]:
                number = heapq.heappop(queue)
                self._units[engine] -= 1
                operation = self._operations[number]
                end = now + self._duration(operation)
                self._spans[number] = Span(operation, now, end)
                heapq.heappush(self._events, (end, number, True))


def efficiency(spans: list[Span], abreast: int = 1) -> float:
    """How close the spans come to the busiest engine of the GPU never pausing, 0 to 1.

    That is achieved throughput over 1 / max(copy in, compute, copy out), all per frame, where ``abreast``
    computations go at the same time.
    """
    busy: dict[str, float] = {}
    for span in spans:
        engine = engine_of(span.operation)
        if engine != HOST:
            share = abreast if engine == COMPUTE else 1
            busy[engine] = busy.get(engine, 0.0) + (span.end - span.start) / share
    total = max(span.end for span in spans) - min(span.start for span in spans)
    return max(busy.values()) / total
