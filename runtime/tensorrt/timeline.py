"""When the operations of a schedule would run, given how long each takes. Pure.

A discrete model of a GPU: an operation starts when the one before it in its stream, all it waits for, and the
host's call that issued it are over. With `engines` it also needs an engine of the GPU for itself: one copies in, one
copies out, and computations share the rest, modelled as one after another. Real kernels of two streams can
overlap where one does not fill the GPU, so efficiencies predicted here err to the low side.
"""

from __future__ import annotations

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
    operations: Iterable[Operation], duration: Duration, *, issue: float = 0.0, engines: bool = True
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
    """
    ends: dict[Mark, float] = {}
    stream_free: dict[str, float] = {}
    engine_free: dict[str, float] = {}
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
            if engines:
                start = max(start, engine_free.get(engine_of(operation), 0.0))
            end = start + duration(operation)
            engine_free[engine_of(operation)] = end
        stream_free[mark.stream] = ends[mark] = end
        spans.append(Span(operation, start, end))
    return spans


def efficiency(spans: list[Span]) -> float:
    """How close the spans come to the busiest engine of the GPU never pausing, 0 to 1.

    That is achieved throughput over 1 / max(copy in, compute, copy out), all per frame.
    """
    busy: dict[str, float] = {}
    for span in spans:
        engine = engine_of(span.operation)
        if engine != HOST:
            busy[engine] = busy.get(engine, 0.0) + span.end - span.start
    total = max(span.end for span in spans) - min(span.start for span in spans)
    return max(busy.values()) / total
