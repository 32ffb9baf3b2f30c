"""What a stream would do, without a device: its operations and its memory. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from vtsr.runtime.backend import StepResult
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.tensorrt.flow import Emitted, Flow, Frames, Stored
from vtsr.runtime.tensorrt.lanes import recursion_of
from vtsr.runtime.tensorrt.layout import Layout
from vtsr.runtime.tensorrt.schedule import HOST, Operation, Scheduler
from vtsr.runtime.tensorrt.settings import Settings


class PlannedBackend:
    """A `Flow` as the backend of a recursion; pictures are only counted."""

    name, precision = "planned", ""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def ingest(self, pictures: Sequence[Planes]) -> Frames | Stored:
        return self.flow.ingest(pictures)

    def frames(self, stored: Stored, lane: int) -> Frames:
        return self.flow.frames(stored, lane)

    def frames_in(self, tensor: Frames) -> int:
        return tensor.count

    def part(self, tensor: Frames, start: int, stop: int) -> Frames:
        return tensor.part(start, stop)

    def step(self, u: Frames, a_u: Frames | None, v: Frames) -> StepResult:
        return self.flow.step(u, a_u, v)

    def finish(self, u: Frames, a_u: Frames | None) -> Frames:
        return self.flow.finish(u, a_u)

    def emit(self, frames: Frames, format: PixelFormat, height: int, width: int) -> list[Planes]:
        raise NotImplementedError("planned frames have no pixels")

    def close(self) -> None:
        pass


def plan_stream(
    layout: Layout,
    batches: Mapping[str, Sequence[int]],
    frame_bytes: int,
    settings: Settings,
    *,
    levels: int,
    scenes: Sequence[int],
    chunk: int = 1,
    behind: int = 2,
    skip_every: int = 0,
) -> tuple[list[Operation], Flow]:
    """Operations of a stream of scenes of so many frames, in order of issue.

    Parameters
    ----------
    chunk
        Frames per push.
    behind
        Pushes after which a result is read by the host.
    skip_every
        Every so many results are dropped without being read; 0 reads all.
    """
    operations: list[Operation] = []
    scheduler = Scheduler(operations.append)
    flow = Flow(scheduler, layout, batches, frame_bytes, settings)
    recursion = recursion_of(PlannedBackend(flow), levels, settings)
    unread: deque[list[Emitted]] = deque()
    count = 0

    def read(emitted: Emitted) -> None:
        scheduler.add("read", HOST, (emitted.lease.block,))

    def hand_out(tensors: Sequence[Any]) -> None:
        nonlocal count
        results = []
        for tensor in tensors:
            for emitted in flow.emit(tensor):
                count += 1
                if emitted.borrowed:
                    read(emitted)
                elif not skip_every or count % skip_every:
                    results.append(emitted)
        unread.append(results)
        while len(unread) > behind:
            for emitted in unread.popleft():
                read(emitted)

    picture: Any = None
    for frames in scenes:
        for start in range(0, frames, chunk):
            hand_out(recursion.push(flow.ingest([picture] * min(chunk, frames - start))))
        hand_out(recursion.flush())
    while unread:
        for emitted in unread.popleft():
            read(emitted)
    return operations, flow


def memory_needed(
    layout: Layout, batches: Mapping[str, Sequence[int]], frame_bytes: int, settings: Settings, levels: int
) -> int:
    """Device memory of the blocks of a stream, bytes; engines' scratch memory comes on top."""
    pushes = 2 * settings.slots + 2 + settings.ahead  # every ring has gone round, and ended in another place
    chunk = settings.chunk
    scenes = (pushes * chunk, *((pushes - 1) * chunk - rest for rest in range(chunk)))  # all sizes of a last chunk
    _, flow = plan_stream(layout, batches, frame_bytes, settings, levels=levels, scenes=scenes, chunk=chunk)
    return sum(block.nbytes for block in flow.blocks if not block.on_host)
