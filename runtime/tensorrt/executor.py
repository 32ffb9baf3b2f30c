"""Operations onto a device: streams, events, memory, calls of engines and their graphs."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from vtsr.errors import ModelError
from vtsr.runtime.tensorrt.device import Device, EngineSource, Memory
from vtsr.runtime.tensorrt.flow import Copy, Download, Run, Stage, Upload
from vtsr.runtime.tensorrt.layout import Layout
from vtsr.runtime.tensorrt.schedule import HOST, Block, Operation
from vtsr.runtime.tensorrt.settings import Settings

log = logging.getLogger("vtsr")

FRAME_CHANNELS = 3
# Calls with contexts and graphs of their own, per engine and stream: the slots' steady calls and some to spare.
SPARE_CALLS = 2


class EventLease:
    """An event that returns to its pool when nothing refers to the operation any more."""

    __slots__ = ("_home", "event")

    def __init__(self, event: Any, home: deque[Any]) -> None:
        self.event = event
        self._home = home

    def __del__(self) -> None:
        self._home.append(self.event)


class Call:
    """An execution context bound to places, and its graph once there is one."""

    __slots__ = ("call", "graph", "uses")

    def __init__(self, call: Any) -> None:
        self.call, self.graph, self.uses = call, None, 0


class Executor:
    """Runs operations as they are issued. Must be used within `Device.scope`.

    One stream runs one operation at a time, so all calls in a stream share its scratch memory.
    """

    def __init__(self, device: Device, source: EngineSource, layout: Layout, settings: Settings) -> None:
        self.device = device
        self._source, self._layout, self._settings = source, layout, settings
        self._streams: dict[str, Any] = {}
        self._engines: dict[tuple[str, int], Any] = {}
        self._calls: dict[tuple[str, int, str], OrderedDict[tuple[int, ...], Call]] = {}
        self._plain: dict[tuple[str, int, str], Any] = {}
        self._scratch: dict[str, Memory] = {}
        self._memory: list[Memory] = []
        self._events: deque[Any] = deque()
        self._wanted: dict[str, int] = {}
        self._graphs = settings.graphs
        self.followed: dict[Block, set[int]] = {}  # CUstreams whose work on a block comes first
        self.graph_launches = self.enqueues = 0

    def stream(self, name: str) -> Any:
        """The device's stream of that name."""
        if name not in self._streams:
            # Later levels work for older frames: let these finish first.
            level = int(name.rsplit(" ", 1)[1]) if "level " in name else 0
            self._streams[name] = self.device.create_stream(level if self._settings.priorities else 0)
        return self._streams[name]

    def __call__(self, operation: Operation) -> None:
        name = operation.mark.stream
        if name == HOST:
            for mark in operation.waits:
                self.device.synchronize(mark.event.event)
            self._stage(operation.work)
            return
        stream = self.stream(name)
        for mark in operation.waits:
            self.device.wait(stream, mark.event.event)
        self._follow(stream, (*operation.reads, *operation.writes))
        work = operation.work
        if isinstance(work, Run):
            self._run(work, name, stream)
        elif isinstance(work, Upload):
            self._upload(work, stream)
        elif isinstance(work, Download):
            nbytes = self._layout.nbytes(work.batch)
            self.device.download(self.host_array(work.target)[:nbytes], self.address(work.source), stream)
        elif isinstance(work, Copy):
            target = self.address(work.target) + work.offset
            self.device.copy(target, self.address(work.source), work.nbytes, stream)
        else:
            raise TypeError(f"no such work: {work!r}")
        event = self._events.popleft() if self._events else self.device.create_event()
        operation.mark.event = EventLease(event, self._events)
        self.device.record(event, stream)

    def _follow(self, stream: Any, blocks: Iterable[Block]) -> None:
        for block in blocks:
            for foreign in self.followed.pop(block, ()):
                self.device.follow(stream, foreign)

    def address(self, block: Block) -> int:
        """Where a device block is; allocates it at the first use."""
        if block.memory is None:
            block.memory = self._allocate(block.nbytes)
        return int(block.memory.address)

    def host_array(self, block: Block) -> Any:
        """A host block as uint8 array; allocates it at the first use."""
        if block.memory is None:
            block.memory = (
                self.device.page_locked(block.nbytes) if self._settings.pinned else _Pageable(block.nbytes)
            )
        return block.memory.array

    def _allocate(self, nbytes: int) -> Memory:
        memory = self.device.allocate(max(nbytes, 1))
        self._memory.append(memory)
        return memory

    @property
    def taken(self) -> int:
        """Device memory of blocks and scratch, bytes; engines' weights and contexts are not in it."""
        return sum(memory.nbytes for memory in self._memory)

    def fill(self, block: Block, value: float) -> None:
        """Writes one float32; waits for it."""
        stream = self.stream("upload")
        array = np.array([value], np.float32).view(np.uint8)
        self.device.upload(self.address(block), array, stream)
        event = self.device.create_event()
        self.device.record(event, stream)
        self.device.synchronize(event)
        self._events.append(event)

    def _stage(self, work: Stage) -> None:
        arrays = self._layout.arrays(self.host_array(work.target), len(work.pictures))
        for index, picture in enumerate(work.pictures):
            for array, plane in zip(arrays, picture.planes, strict=True):
                np.copyto(array[index], plane)

    def _upload(self, work: Upload, stream: Any) -> None:
        address = self.address(work.target)
        if work.source is not None:
            self.device.upload(address, self.host_array(work.source)[: self._layout.nbytes(work.batch)], stream)
            return
        assert work.picture is not None
        for plane, array in zip(self._layout.planes(1), work.picture.planes, strict=True):
            self.device.upload(address + plane.offset, array, stream)

    def engine(self, role: str, batch: int) -> Any:
        """The engine of a role and batch; loaded at the first use."""
        if (role, batch) not in self._engines:
            self._engines[role, batch] = self._source.engine(role, batch, self._layout)
        return self._engines[role, batch]

    def _run(self, work: Run, name: str, stream: Any) -> None:
        engine = self.engine(work.role, work.batch)
        tensors = self.device.engine_tensors(engine)
        missing = set(tensors) - set(work.tensors)
        if missing:
            names = ", ".join(sorted(missing))
            raise ModelError(f"The {work.role} engine has inputs or outputs unknown here ({names}); export it again.")
        addresses = {t: self.address(work.tensors[t].block) + work.tensors[t].offset for t in tensors}
        where = (work.role, work.batch, name)
        call = self._steady_call(where, engine, addresses) if work.steady and self._graphs else None
        if call is None:
            self._enqueue(self._plain_call(where, engine, addresses), stream)
            return
        call.uses += 1
        if call.graph is None and call.uses > 1:  # the first call sets things up that a capture does not allow
            call.graph = self.device.capture(call.call, stream)
            if call.graph is None:
                self._graphs = False
                log.warning("The %s engine cannot be captured as a CUDA graph; it is enqueued call by call.", work.role)
        if call.graph is None:
            self._enqueue(call.call, stream)
        else:
            self.device.launch(call.graph, stream)
            self.graph_launches += 1

    def _enqueue(self, call: Any, stream: Any) -> None:
        self.device.enqueue(call, stream)
        self.enqueues += 1

    def _steady_call(self, where: tuple[str, int, str], engine: Any, addresses: dict[str, int]) -> Call | None:
        """The call with these places; None where there are too many combinations for graphs to pay."""
        calls = self._calls.setdefault(where, OrderedDict())
        key = tuple(addresses.values())
        if key not in calls:
            if len(calls) >= self._settings.slots + SPARE_CALLS:
                return None
            calls[key] = Call(self._create_call(where, engine, addresses))
        return calls[key]

    def _plain_call(self, where: tuple[str, int, str], engine: Any, addresses: dict[str, int]) -> Any:
        if where not in self._plain:
            self._plain[where] = self._create_call(where, engine, addresses)
        else:
            self.device.rebind(self._plain[where], addresses)
        return self._plain[where]

    def _create_call(self, where: tuple[str, int, str], engine: Any, addresses: dict[str, int]) -> Any:
        role, batch, stream = where
        needed = self.device.scratch_bytes(engine)
        scratch = self._scratch.get(stream)
        if needed and (scratch is None or scratch.nbytes < needed):
            scratch = self._scratch[stream] = self._allocate(needed)  # calls made before keep theirs
        return self.device.create_call(engine, addresses, self._shapes(role, batch), scratch)

    def _shapes(self, role: str, batch: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs of an engine."""
        frame = (FRAME_CHANNELS, *self._layout.padded)
        if role == "ingest":
            return {plane.name: plane.graph_shape for plane in self._layout.planes(batch)}
        if role == "emit":
            return {"rgb": (batch, *frame)}
        shapes: dict[str, tuple[int, ...]] = {"u": (1, *frame), "a_u": (1, *frame)}
        if role == "step":
            shapes |= {"carry": (1, 1, 1, 1), "v": (batch, *frame)}
        return shapes

    def milliseconds(self, times: int) -> dict[str, float]:
        """Time on the device of the steady calls and of the copies of a push, each ``times`` over, back to back.

        Named like operations. Overwrites what blocks hold: only for a stream that has ended.
        """
        device, found = self.device, {}
        calls: dict[tuple[str, int, str], Call] = {where: Call(call) for where, call in self._plain.items()}
        calls |= {where: next(iter(ways.values())) for where, ways in self._calls.items() if ways}
        # Without graphs calls at starts are among them: of smaller batches, overwritten here, and `finish`.
        steady = {where: call for where, call in calls.items() if where in self._calls or not self._calls}
        pictures = 0
        for (role, batch, name), call in sorted(steady.items(), key=lambda item: item[0]):
            if role == "finish":
                continue
            stream = self.stream(name)
            label = f"{role} {name.rsplit(' ', 1)[1]}" if role == "step" and "level " in name else role
            if call.graph is None:
                found[label] = self._timed(partial(device.enqueue, call.call, stream), stream, times)
            else:
                found[label] = self._timed(partial(device.launch, call.graph, stream), stream, times)
            pictures = max(pictures, batch if role == "emit" else 0)
        for label, nbytes in (("upload", self._layout.nbytes(1)), ("download", self._layout.nbytes(pictures))):
            memory, host, stream = self._allocate(nbytes), device.page_locked(nbytes), self.stream(label)
            upload = partial(device.upload, memory.address, host.array, stream)
            download = partial(device.download, host.array, memory.address, stream)
            found[label] = self._timed(upload if label == "upload" else download, stream, times)
        return found

    def _timed(self, work: Callable[[], None], stream: Any, times: int) -> float:
        start, end = (self.device.create_event(timing=True) for _ in range(2))
        work()
        self.device.record(start, stream)
        for _ in range(times):
            work()
        self.device.record(end, stream)
        self.device.synchronize(end)
        taken = self.device.milliseconds(start, end) / times
        for event in (start, end):
            self.device.destroy_event(event)
        return taken

    def reserve(self, uses: Iterable[tuple[str, int, str]]) -> int:
        """Loads engines (role, batch, stream) ahead; returns the scratch memory they will need, bytes."""
        needed: dict[str, int] = {}
        for role, batch, stream in uses:
            size = self.device.scratch_bytes(self.engine(role, batch))
            needed[stream] = max(needed.get(stream, 0), size)
        self._wanted = needed
        return sum(needed.values())

    def allocate_scratch(self) -> None:
        """Allocates what `reserve` found, once for each stream, so that it is never replaced."""
        for stream, nbytes in self._wanted.items():
            if nbytes:
                self._scratch[stream] = self._allocate(nbytes)

    def close(self) -> None:
        """Waits for what is under way and frees everything. Host arrays that callers hold stay theirs."""
        self.device.synchronize_all()
        for calls in self._calls.values():
            for call in calls.values():
                if call.graph is not None:
                    self.device.destroy_graph(call.graph)
        # Contexts go before the memory and the engines they refer to.
        self._calls.clear()
        self._plain.clear()
        self._engines.clear()
        for memory in self._memory:
            self.device.free(memory)
        self._memory.clear()
        self._scratch.clear()
        while self._events:  # those that a reader of a picture may still look at are left to it
            self.device.destroy_event(self._events.popleft())
        for stream in self._streams.values():
            self.device.destroy_stream(stream)
        self._streams.clear()


class _Pageable:
    """Ordinary host memory in place of page-locked, to measure what page-locking is worth."""

    def __init__(self, nbytes: int) -> None:
        self.array = np.empty(nbytes, np.uint8)
