"""A device in software that runs the TensorRT runtime asynchronously, in random order, and watches it.

Streams are queues; a random number of their heads is executed at every call, so that the host never knows how
far they are. Memory is real: engines read and write it through addresses. Watched are:

races           two accesses to overlapping memory, one of them a write, that no stream or event puts in order
deadlocks       a host that waits for something that nothing executes
misuse          memory that was freed or never allocated, a context rebound after its capture, a capture without
                a call before it, calls outside of `scope`, things left behind by `close`
"""

from __future__ import annotations

import bisect
import ctypes
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import DeviceError, ModelError
from vtsr.runtime.tensorrt.arrays import DLPACK_CPU
from vtsr.runtime.tensorrt.layout import ALIGNMENT, Layout

Array = NDArray[Any]
Clock = dict[int, int]
POISON = 0xAB  # what fresh memory holds
LARGEST_STEP = 3  # tasks executed at most at one call


class RaceError(AssertionError):
    pass


class DeadlockError(AssertionError):
    pass


class MisuseError(AssertionError):
    pass


class Memory:
    """Aligned device memory."""

    def __init__(self, nbytes: int) -> None:
        self.buffer = np.full(nbytes + ALIGNMENT, POISON, np.uint8)
        start = -self.buffer.ctypes.data % ALIGNMENT
        self.array = self.buffer[start : start + nbytes]
        self.address = int(self.array.ctypes.data)
        self.nbytes = nbytes


@dataclass(eq=False)
class Ticket:
    """One recording of an event."""

    over: bool = False
    clock: Clock = field(default_factory=dict)


class Event:
    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self.destroyed = False


@dataclass(eq=False)
class Task:
    name: str
    action: Callable[[], None]
    reads: list[tuple[int, int]] = field(default_factory=list)  # ranges of addresses
    writes: list[tuple[int, int]] = field(default_factory=list)
    after: Ticket | None = None
    record: Ticket | None = None
    known: Clock = field(default_factory=dict)  # what the host had waited for when it issued this


class Stream:
    def __init__(self, number: int, urgency: int = 0) -> None:
        self.number, self.urgency = number, urgency
        self.tasks: deque[Task] = deque()
        self.clock: Clock = {}
        self.destroyed = False


@dataclass(eq=False)
class Access:
    start: int
    end: int
    is_write: bool
    stream: int
    number: int
    name: str


@dataclass(eq=False)
class Engine:
    """``compute(inputs) -> outputs``, all arrays by name."""

    role: str
    batch: int
    inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
    outputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
    compute: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    scratch: int = 512


@dataclass(eq=False)
class Call:
    engine: Engine
    addresses: dict[str, int]
    scratch: Memory | None
    enqueued: int = 0
    captured: bool = False


class SoftwareDevice:
    """See the module. ``eager`` executes everything at once, ``lazy`` nothing before somebody waits."""

    def __init__(
        self,
        seed: int = 0,
        *,
        pace: str = "random",
        captures: bool = True,
        total: int = 1 << 34,
        fails: Callable[[str], bool] = lambda call: False,
    ) -> None:
        self.dlpack_type = (DLPACK_CPU, 0)
        self._random = random.Random(seed)
        self._pace = pace
        self._captures = captures
        self._total = total
        self._fails = fails
        self._streams: list[Stream] = []
        self.foreign: dict[int, Stream] = {}
        self._memory: dict[int, Memory] = {}
        self._starts: list[int] = []
        self._accesses: dict[int, list[Access]] = {}
        self._depth = threading.local()
        self._lock = threading.RLock()
        self._events: set[Event] = set()
        self.calls: list[str] = []
        self.page_locked_arrays: list[Array] = []
        self.allocated = self.peak = 0
        self.closed = 0
        self.default_stream = self._foreign(0)

    # What tests look at

    @property
    def left_behind(self) -> dict[str, int]:
        """What is still allocated."""
        streams = sum(not s.destroyed for s in self._streams if s.number not in self.foreign)
        return {"memory": len(self._memory), "streams": streams}

    @property
    def depth(self) -> int:
        return getattr(self._depth, "value", 0)

    def foreign_stream(self) -> int:
        """A stream of another library, as its handle."""
        handle = 1000 + len(self.foreign)
        self._foreign(handle)
        return handle

    def _foreign(self, handle: int) -> Stream:
        self.foreign[handle] = Stream(handle)
        self._streams.append(self.foreign[handle])
        return self.foreign[handle]

    def on_foreign(self, handle: int, name: str, action: Callable[[], None], reads: Any = (), writes: Any = ()) -> None:
        """Issues work of another library; ``reads`` and ``writes`` are (address, bytes)."""
        stream = self.foreign[handle]
        spans = [[(a, a + n) for a, n in ranges] for ranges in (reads, writes)]
        stream.tasks.append(Task(name, action, *spans))

    def external_memory(self, nbytes: int, offset: int = 0) -> tuple[int, Array]:
        """Device memory of another library: its address and contents."""
        memory = self._new_memory(nbytes + offset)
        return memory.address + offset, memory.array[offset:]

    # The device

    @contextmanager
    def scope(self) -> Iterator[None]:
        self._depth.value = self.depth + 1
        try:
            yield
        finally:
            self._depth.value -= 1

    def _enter(self, call: str) -> None:
        if self.depth < 1:
            raise MisuseError(f"{call} outside of the device's scope")
        self.calls.append(call)
        if self._fails(call):
            raise DeviceError(f"The GPU refused an operation: {call} failed: out of luck.")
        self._advance()

    def _advance(self) -> None:
        if self._pace == "lazy":
            return
        steps = 1 << 30 if self._pace == "eager" else self._random.randrange(LARGEST_STEP)
        with self._lock:
            for _ in range(steps):
                if not self._execute_one():
                    return

    def _execute_one(self) -> bool:
        ready = [s for s in self._streams if s.tasks and (s.tasks[0].after is None or s.tasks[0].after.over)]
        if not ready:
            return False
        stream = self._random.choice(ready)
        task = stream.tasks.popleft()
        if task.after is not None:
            _merge(stream.clock, task.after.clock)
            return True
        _merge(stream.clock, task.known)
        stream.clock[stream.number] = stream.clock.get(stream.number, 0) + 1
        for start, end in task.reads:
            self._access(Access(start, end, False, stream.number, stream.clock[stream.number], task.name), stream.clock)
        for start, end in task.writes:
            self._access(Access(start, end, True, stream.number, stream.clock[stream.number], task.name), stream.clock)
        task.action()
        if task.record is not None:
            task.record.over, task.record.clock = True, dict(stream.clock)
        return True

    def _access(self, access: Access, clock: Clock) -> None:
        # Host memory is known by its own address: every page-locked block is accessed from its start.
        log = self._accesses.setdefault(self._base(access.start), [])
        kept = []
        for other in log:
            overlaps = other.start < access.end and access.start < other.end
            ordered = clock.get(other.stream, 0) >= other.number
            if overlaps and (access.is_write or other.is_write) and not ordered:
                raise RaceError(f"{access.name} and {other.name} use the same memory at the same time")
            covered = access.is_write and access.start <= other.start and other.end <= access.end
            same = not access.is_write and not other.is_write and ordered and access.stream == other.stream
            if not (covered or (same and (access.start, access.end) == (other.start, other.end))):
                kept.append(other)
        kept.append(access)
        self._accesses[self._base(access.start)] = kept

    def _base(self, address: int) -> int:
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0:
            start = self._starts[index]
            if address < start + max(self._memory[start].nbytes, 1):
                return start
        return -address

    def view(self, address: int, shape: Sequence[int], dtype: Any) -> Array:
        """Device memory as an array."""
        base = self._base(address)
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if base < 0 or address + nbytes > base + self._memory[base].nbytes:
            raise MisuseError(f"{nbytes} bytes at {address:#x} are not in any memory")
        data = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.frombuffer(data, dtype).reshape(tuple(shape))

    def memory_info(self) -> tuple[int, int]:
        self._enter("memory_info")
        return self._total - self.allocated, self._total

    def _new_memory(self, nbytes: int) -> Memory:
        memory = Memory(nbytes)
        self._memory[memory.address] = memory
        bisect.insort(self._starts, memory.address)
        return memory

    def allocate(self, nbytes: int) -> Memory:
        self._enter("allocate")
        self.allocated += nbytes
        self.peak = max(self.peak, self.allocated)
        return self._new_memory(nbytes)

    def free(self, memory: Memory) -> None:
        if any(s.tasks for s in self._streams if s.number not in self.foreign):
            raise MisuseError("memory is freed while work is under way")
        self.allocated -= memory.nbytes
        del self._memory[memory.address]
        self._starts.remove(memory.address)
        self._accesses.pop(memory.address, None)

    def page_locked(self, nbytes: int) -> Any:
        self._enter("page_locked")
        memory = Memory(nbytes)
        self.page_locked_arrays.append(memory.array)
        return memory

    def is_page_locked(self, array: Array) -> bool:
        return any(np.shares_memory(array, locked) for locked in self.page_locked_arrays)

    def create_stream(self, urgency: int) -> Stream:
        self._enter("create_stream")
        self._streams.append(Stream(len(self._streams), urgency))
        return self._streams[-1]

    def handle(self, stream: Stream) -> int:
        return stream.number

    def destroy_stream(self, stream: Stream) -> None:
        stream.destroyed = True

    def create_event(self, timing: bool = False) -> Event:
        self._enter("create_event")
        self._events.add(event := Event())
        return event

    def destroy_event(self, event: Event) -> None:
        event.destroyed = True

    def _put(self, stream: Stream, task: Task) -> None:
        if stream.destroyed:
            raise MisuseError(f"{task.name} in a destroyed stream")
        task.known = dict(self._host_clock)
        with self._lock:
            stream.tasks.append(task)

    def record(self, event: Event, stream: Stream) -> None:
        self._enter("record")
        if event.destroyed:
            raise MisuseError("a destroyed event is recorded")
        event.ticket = Ticket()
        self._put(stream, Task("record", lambda: None, record=event.ticket))

    def wait(self, stream: Stream, event: Event) -> None:
        self._enter("wait")
        if event.ticket is not None:
            self._put(stream, Task("wait", lambda: None, after=event.ticket))

    def synchronize(self, event: Event) -> None:
        self._enter("synchronize")
        if event.destroyed:
            raise MisuseError("a destroyed event is waited for")
        ticket = event.ticket
        while ticket is not None and not ticket.over:
            with self._lock:
                if not ticket.over and not self._execute_one():
                    raise DeadlockError("the host waits for something that nothing will execute")
        if ticket is not None:
            _merge(self._host_clock, ticket.clock)

    @property
    def _host_clock(self) -> Clock:
        """What this thread of the host knows to be over."""
        if not hasattr(self._depth, "clock"):
            self._depth.clock = {}
        clock: Clock = self._depth.clock
        return clock

    def is_over(self, event: Event) -> bool:
        return event.ticket is None or event.ticket.over

    def milliseconds(self, start: Event, end: Event) -> float:
        return 0.0

    def synchronize_all(self) -> None:
        with self._lock:
            while self._execute_one():
                pass
            if any(s.tasks for s in self._streams):
                raise DeadlockError("streams wait for each other")

    def follow(self, stream: Stream, foreign: int) -> None:
        event = Event()
        self.record(event, self.foreign[foreign])
        self.wait(stream, event)

    def lead(self, foreign: int, event: Event) -> None:
        self.wait(self.foreign[foreign], event)

    def upload(self, address: int, array: Array, stream: Stream) -> None:
        self._enter("upload")
        flat = array.reshape(-1).view(np.uint8)
        host = (flat.ctypes.data, flat.ctypes.data + flat.nbytes)

        def action() -> None:
            self.view(address, flat.shape, np.uint8)[:] = flat

        self._put(stream, Task("upload", action, [host], [(address, address + flat.nbytes)]))

    def download(self, array: Array, address: int, stream: Stream) -> None:
        self._enter("download")
        host = (array.ctypes.data, array.ctypes.data + array.nbytes)
        array[:] = POISON  # nobody may look at it now

        def action() -> None:
            array[:] = self.view(address, array.shape, np.uint8)

        self._put(stream, Task("download", action, [(address, address + array.nbytes)], [host]))

    def copy(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        self._enter("copy")

        def action() -> None:
            self.view(target, (nbytes,), np.uint8)[:] = self.view(source, (nbytes,), np.uint8)

        self._put(stream, Task("copy", action, [(source, source + nbytes)], [(target, target + nbytes)]))

    def engine_tensors(self, engine: Engine) -> Mapping[str, np.dtype[Any]]:
        return {name: dtype for name, (_, dtype) in {**engine.inputs, **engine.outputs}.items()}

    def scratch_bytes(self, engine: Engine) -> int:
        return engine.scratch

    def create_call(
        self, engine: Engine, addresses: Mapping[str, int], shapes: Mapping[str, Sequence[int]], scratch: Memory | None
    ) -> Call:
        self._enter("create_call")
        expected = {name: shape for name, (shape, _) in engine.inputs.items()}
        if {n: tuple(s) for n, s in shapes.items()} != expected:
            raise MisuseError(f"{engine.role} takes {expected}, not {dict(shapes)}")
        if engine.scratch and (scratch is None or scratch.nbytes < engine.scratch):
            raise MisuseError(f"{engine.role} has too little scratch memory")
        call = Call(engine, {}, scratch)
        self.rebind(call, addresses)
        return call

    def rebind(self, call: Call, addresses: Mapping[str, int]) -> None:
        if call.captured:
            raise MisuseError("a context is rebound after its capture")
        if set(addresses) != set(self.engine_tensors(call.engine)):
            raise MisuseError(f"{call.engine.role} has {set(self.engine_tensors(call.engine))}, not {set(addresses)}")
        if any(address % ALIGNMENT for address in addresses.values()):
            raise MisuseError(f"a tensor of {call.engine.role} is not aligned")
        call.addresses = dict(addresses)

    def enqueue(self, call: Call, stream: Stream) -> None:
        self._enter("enqueue")
        if call.captured:
            raise MisuseError("a captured context is enqueued")
        call.enqueued += 1
        self._put(stream, self._task(call))

    def _task(self, call: Call) -> Task:
        engine, addresses = call.engine, dict(call.addresses)

        def span(name: str, tensors: Mapping[str, Any]) -> tuple[int, int]:
            shape, dtype = tensors[name]
            return addresses[name], addresses[name] + int(np.prod(shape)) * dtype.itemsize

        def action() -> None:
            feeds = {name: self.view(addresses[name], *kind).copy() for name, kind in engine.inputs.items()}
            results = engine.compute(feeds)
            for name, kind in engine.outputs.items():
                self.view(addresses[name], *kind)[...] = results[name]

        writes = [span(name, engine.outputs) for name in engine.outputs]
        if call.scratch is not None:
            writes.append((call.scratch.address, call.scratch.address + call.scratch.nbytes))
        reads = [span(name, engine.inputs) for name in engine.inputs]
        return Task(f"{engine.role} x{engine.batch}", action, reads, writes)

    def capture(self, call: Call, stream: Stream) -> Any:
        self._enter("capture")
        if not self._captures:
            return None
        if call.enqueued < 1:
            raise MisuseError("a context is captured before its first call")
        call.captured = True
        return self._task(call)

    def launch(self, graph: Task, stream: Stream) -> None:
        self._enter("launch")
        self._put(stream, Task(graph.name, graph.action, graph.reads, graph.writes))

    def destroy_graph(self, graph: Any) -> None:
        self.calls.append("destroy_graph")

    def close(self) -> None:
        self.closed += 1


def _merge(clock: Clock, other: Clock) -> None:
    for stream, number in other.items():
        clock[stream] = max(clock.get(stream, 0), number)


# A stand-in network with a known answer: blends the two frames, 3:1 and 1:3, and keeps the exposure law.

FLOAT = np.dtype(np.float32)


def blend_step(u: Array, a_u: Array | None, v: Array) -> tuple[Array, Array, Array]:
    """As `vtsr.export.step.Step`, in NumPy, frame by frame."""
    halves = []
    for nxt in v:
        b, a_next = np.float32(0.75) * u[0] + np.float32(0.25) * nxt, np.float32(0.25) * u[0] + np.float32(0.75) * nxt
        a = 2 * u[0] - b if a_u is None else a_u[0]
        d = (b - a) / 2
        halves += [u[0] - d, u[0] + d]
        u, a_u = nxt[None], a_next[None]
    assert a_u is not None
    return np.stack(halves).astype(np.float32), u, a_u.astype(np.float32)


def blend_finish(u: Array, a_u: Array | None) -> Array:
    a = u if a_u is None else a_u
    return np.concatenate([a, 2 * u - a]).astype(np.float32)


def blend_ingest(images: Array, padded: tuple[int, int]) -> Array:
    high, wide = padded[0] - images.shape[1], padded[1] - images.shape[2]
    full = np.pad(images, ((0, 0), (0, high), (0, wide), (0, 0)), mode="edge")
    return np.ascontiguousarray(full.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def blend_emit(frames: Array, height: int, width: int) -> Array:
    codes = np.clip(np.rint(frames * np.float32(255)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(codes.transpose(0, 2, 3, 1)[:, :height, :width])


class BlendEngines:
    """Engines of the stand-in network for 8-bit RGB; batches as vtsr-export makes them."""

    name = "blend"
    precision = "fp32"

    def __init__(self, levels: int, ingest: Sequence[int] = (1,), next_u: bool = True, scratch: int = 512) -> None:
        steps = [1 << k for k in range(levels)]
        self._batches = {"ingest": list(ingest), "step": steps, "finish": [1], "emit": sorted({2, 1 << levels})}
        self._next_u = next_u
        self._scratch = scratch

    def batches(self, role: str, layout: Layout) -> Sequence[int]:
        return self._batches[role] if layout.format.sampling == "rgb" and layout.format.bits == 8 else []

    def close(self) -> None:
        pass

    def engine(self, role: str, batch: int, layout: Layout) -> Engine:
        if batch not in self.batches(role, layout):
            raise ModelError(f"There is no {role} engine for {layout.name}.")
        frame = (3, *layout.padded)
        image = (batch, layout.height, layout.width, 3)
        one, many = ((1, *frame), FLOAT), ((batch, *frame), FLOAT)
        byte = np.dtype(np.uint8)
        if role == "ingest":
            return Engine(
                role, batch, {"image": (image, byte)}, {"rgb": many},
                lambda f: {"rgb": blend_ingest(f["image"], layout.padded)}, self._scratch,
            )  # fmt: skip
        if role == "emit":
            return Engine(
                role, batch, {"rgb": many}, {"image": (image, byte)},
                lambda f: {"image": blend_emit(f["rgb"], layout.height, layout.width)}, self._scratch,
            )  # fmt: skip
        if role == "finish":
            halves = {"halves": ((2, *frame), FLOAT)}
            return Engine(
                role, batch, {"u": one, "a_u": one}, halves,
                lambda f: {"halves": blend_finish(f["u"], f["a_u"])}, self._scratch,
            )  # fmt: skip

        def step(feeds: Mapping[str, Array]) -> dict[str, Array]:
            results = blend_step(feeds["u"], feeds["a_u"] if feeds["carry"].item() else None, feeds["v"])
            return dict(zip(("halves", "next_u", "next_a"), results, strict=True))

        inputs = {"u": one, "a_u": one, "carry": ((1, 1, 1, 1), FLOAT), "v": many}
        outputs = {"halves": ((2 * batch, *frame), FLOAT), "next_u": one, "next_a": one}
        if not self._next_u:
            del outputs["next_u"]
        return Engine(role, batch, inputs, outputs, step, self._scratch)


def blend_stream(images: Sequence[Array], levels: int) -> list[Array]:
    """What the stand-in network makes of a scene, computed level by level on the whole scene, without streaming."""
    height, width = images[0].shape[:2]
    padded = (-(-height // 32) * 32, -(-width // 32) * 32)
    frames = blend_ingest(np.stack(images), padded)
    for _ in range(levels):
        if len(frames) == 1:
            frames = blend_finish(frames, None)
            continue
        halves, u, a = blend_step(frames[:1], None, frames[1:])
        frames = np.concatenate([halves, blend_finish(u, a)])
    return list(blend_emit(frames, height, width))


class GraphEngines:
    """Engines that run the ONNX graphs of a deployment recipe's kinds in ONNX Runtime, at any batch asked for."""

    def __init__(self, graphs: Callable[[str, int, Layout], bytes], levels: int) -> None:
        self.name, self.precision = "graphs", "fp32"
        self._graphs = graphs
        self._batches = {
            "ingest": [1], "step": [1 << k for k in range(levels)], "finish": [1], "emit": sorted({2, 1 << levels})
        }  # fmt: skip

    def batches(self, role: str, layout: Layout) -> Sequence[int]:
        return self._batches[role]

    def close(self) -> None:
        pass

    def engine(self, role: str, batch: int, layout: Layout) -> Engine:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        graph = self._graphs(role, batch, layout)
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        types = {"tensor(float)": FLOAT, "tensor(uint8)": np.dtype(np.uint8)}
        inputs, outputs = (
            {v.name: (tuple(v.shape), types[v.type]) for v in values}
            for values in (session.get_inputs(), session.get_outputs())
        )
        names = list(outputs)
        return Engine(
            role, batch, inputs, outputs, lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))
        )
