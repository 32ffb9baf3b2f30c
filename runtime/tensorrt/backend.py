"""TensorRT behind the protocol of `vtsr.runtime.backend`."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import DeviceError, InputError
from vtsr.runtime.backend import StepResult
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.models import ModelFolder
from vtsr.runtime.recursion import Recursion
from vtsr.runtime.tensorrt.arrays import DeviceArray, device_array
from vtsr.runtime.tensorrt.device import Device, EngineSource
from vtsr.runtime.tensorrt.executor import EventLease, Executor
from vtsr.runtime.tensorrt.flow import Emitted, Frames, Place, Stored, StoredBatch
from vtsr.runtime.tensorrt.lanes import LanedRecursion, recursion_of
from vtsr.runtime.tensorrt.layout import ALIGNMENT, Layout, is_of_layout, layout_of
from vtsr.runtime.tensorrt.pictures import PendingPlanes, lend
from vtsr.runtime.tensorrt.schedule import Block
from vtsr.runtime.tensorrt.session import MemoryShortage, Session
from vtsr.runtime.tensorrt.settings import Settings


class TensorRTBackend:
    """Runs a model's engines on a GPU. May be used from any thread, by one at a time; pictures by any.

    In throughput mode the arrays of pictures that are given as page-locked memory (`page_locked_empty`), and
    device arrays given without a stream, must not be rewritten before `wait_for_input` returns.

    After an error of the device the backend is unusable and says so.
    """

    name = "tensorrt"

    def __init__(self, device: Device, source: EngineSource, settings: Settings | None = None) -> None:
        self._device = device
        self._source = source
        self.precision = source.precision
        self._settings = settings or Settings()
        self._session: Session | None = None
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._failure: str | None = None
        # Also at the exit of the interpreter, while CUDA is still there.
        self._finalizer = weakref.finalize(self, _release, device, source, state := _State(), self._process, self._lock)
        self._state = state

    @classmethod
    def open(cls, model: ModelFolder, settings: Settings | None = None) -> TensorRTBackend:
        """The backend for a folder written by vtsr-export, on a GPU of this machine.

        Raises `MissingExtraError` if the driver, TensorRT or pycuda is missing, and `ModelError` if the model has
        no engines.
        """
        from vtsr.runtime.engines.recipe import open_recipe
        from vtsr.runtime.tensorrt.cuda import CudaDevice
        from vtsr.runtime.tensorrt.recipes import RecipeEngines

        settings = settings or Settings()
        recipe = open_recipe(model.path)
        device = CudaDevice(settings.device, blocking=settings.wait == "block")
        return cls(device, RecipeEngines(recipe, settings.device), settings)

    @contextmanager
    def _use(self) -> Iterator[None]:
        """The device is current and nobody else issues anything."""
        if os.getpid() != self._process:
            raise DeviceError("A GPU cannot be used across fork; open the backend in the process that uses it.")
        with self._lock:
            if not self._finalizer.alive:
                raise DeviceError("The TensorRT backend is closed; open another one.")
            if self._failure is not None:
                raise DeviceError(f"The TensorRT backend failed before ({self._failure}); open another one.")
            with self._device.scope():
                try:
                    yield
                except MemoryShortage:
                    raise  # nothing was begun: a smaller picture may still do
                except DeviceError as error:
                    self._failure = str(error).rstrip(".")
                    raise

    @property
    def device(self) -> Device:
        """The device, for measurements; to be used within its `Device.scope`."""
        return self._device

    @property
    def executor(self) -> Executor:
        """The executor of the present layout, for measurements."""
        return self._open_session.executor

    def free_memory(self) -> int:
        """Free memory of the GPU, bytes."""
        with self._use():
            return self._device.memory_info()[0]

    @property
    def _open_session(self) -> Session:
        if self._session is None:
            raise InputError("The TensorRT backend has not been given any picture yet.")
        return self._session

    def _session_for(self, layout: Layout) -> Session:
        if self._session is None or (self._session.layout is not layout and self._session.layout != layout):
            if self._session is not None:
                self._session.close()
                self._session = self._state.session = None
            self._session = self._state.session = Session(self._device, self._source, layout, self._settings)
        return self._session

    def page_locked_empty(self, shape: Sequence[int], dtype: Any = np.uint8) -> NDArray[Any]:
        """An array that is copied to the GPU straight from where it is."""
        with self._use():
            dtype = np.dtype(dtype)
            memory = self._device.page_locked(int(np.prod(shape)) * dtype.itemsize)
            return lend(memory.array.view(dtype).reshape(tuple(shape)), memory)

    def recursion(self, levels: int) -> Recursion | LanedRecursion:
        """A recursion for one stream of pictures, with as many lanes as the settings say."""
        return recursion_of(self, levels, self._settings)

    def ingest(self, pictures: Sequence[Planes]) -> Frames | Stored:
        """Frames for `step`, or with several lanes what `frames` makes them of.

        Raises `InputError` if the pictures are not of one layout.
        """
        with self._use():
            arrays = [plane for picture in pictures for plane in picture.planes]
            if any(not isinstance(plane, np.ndarray) for plane in arrays):
                return self.ingest_device(pictures)
            session = self._session_for(self._layout_of(pictures))
            direct = len(pictures) == 1 and all(
                plane.flags.c_contiguous and self._device.is_page_locked(plane) for plane in arrays
            )
            taken = session.flow.ingest(pictures, direct)
            if direct:
                mark = session.flow.last_read
                assert mark is not None
                self._hold(session, mark.event, pictures)
            return taken

    def _layout_of(self, pictures: Sequence[Planes]) -> Layout:
        """The present layout itself where the pictures have it, as nearly always."""
        if self._session is not None and all(is_of_layout(picture, self._session.layout) for picture in pictures):
            return self._session.layout
        return _common_layout(pictures)

    def frames(self, stored: Stored, lane: int) -> Frames:
        """Float frames of stored pictures, for a lane."""
        with self._use():
            return self._open_session.flow.frames(stored, lane)

    def _hold(self, session: Session, event: EventLease, given: Any) -> None:
        """Keeps memory of the caller alive until it has been read, and bounds how far ahead the caller can be."""
        session.given.append((event, given))
        while len(session.given) > self._settings.slots:
            self._device.synchronize(session.given.popleft()[0].event)

    def ingest_device(self, pictures: Sequence[Planes], stream: int = 0) -> Frames | Stored:
        """As `ingest` for pictures in device memory, filled by the CUstream ``stream``.

        They are read where they are; for several lanes they are copied on the device. Work issued to ``stream``
        afterwards, such as the next picture written to the same place, waits until they have been read.
        """
        with self._use():
            followed = {stream}
            arrays = []
            for picture in pictures:
                # DLPack's producers order their work against the caller's stream, which comes first anyway.
                found = [device_array(given, self._device.dlpack_type, stream) for given in picture.planes]
                followed |= {filled_by for _, filled_by in found if filled_by is not None}
                arrays.append(Planes(tuple(array for array, _ in found), picture.format))  # type: ignore[misc]
            session = self._session_for(self._layout_of(arrays))
            return self._ingest_device(session, arrays, followed)

    def _ingest_device(
        self, session: Session, pictures: Sequence[Planes], followed: set[int]
    ) -> Frames | Stored:
        flow = session.flow
        reader = session.executor.stream(flow.reading_stream)
        given: list[StoredBatch] = []
        for picture in pictures:
            placed = {}
            for plane, array in zip(session.layout.planes(1), picture.planes, strict=True):
                placed[plane.name] = Place(Block("given", 0, array.nbytes, memory=array), 0)
            given.append(StoredBatch(1, placed))
        for foreign in followed:
            self._device.follow(reader, foreign)
        addresses = [place.block.memory.address for batch in given for place in batch.places.values()]
        # The next lane reads a picture again when the caller may have overwritten it.
        if self._settings.lanes > 1 or any(address % ALIGNMENT for address in addresses):
            taken = flow.ingest_placed([self._copied(session, batch.places) for batch in given])
        else:
            taken = flow.ingest_placed(given)
        assert flow.last_read is not None
        event: EventLease = flow.last_read.event
        for foreign in followed:
            self._device.lead(foreign, event.event)
        self._hold(session, event, given)
        return taken

    def _copied(self, session: Session, placed: Mapping[str, Place]) -> StoredBatch:
        """A picture copied to a block of ours, for addresses that TensorRT does not take and for lanes."""
        lease = session.flow.placed_copy()
        copies = {}
        for plane in session.layout.planes(1):
            block = placed[plane.name].block
            session.flow.copy(block, lease.block, plane.offset, plane.nbytes)
            copies[plane.name] = Place(lease.block, plane.offset)
        return StoredBatch(1, copies, (lease,))

    def wait_for_input(self) -> None:
        """Returns when all pictures given so far have been read, so that their arrays may be rewritten."""
        with self._use():
            mark = self._open_session.flow.last_read
            if mark is not None:
                self._device.synchronize(mark.event.event)

    def frames_in(self, tensor: Frames) -> int:
        return tensor.count

    def part(self, tensor: Frames, start: int, stop: int) -> Frames:
        return tensor.part(start, stop)

    def step(self, u: Frames, a_u: Frames | None, v: Frames) -> StepResult:
        with self._use():
            return self._open_session.flow.step(u, a_u, v)

    def finish(self, u: Frames, a_u: Frames | None) -> Frames:
        with self._use():
            return self._open_session.flow.finish(u, a_u)

    def emit(self, frames: Frames, format: PixelFormat, height: int, width: int) -> list[Planes]:
        """In throughput mode the pictures' planes are waited for when they are read."""
        with self._use():
            session = self._open_session
            layout = session.layout
            if (layout.format, layout.height, layout.width) != (format, height, width):
                raise InputError("Frames can only be emitted in the size and format they were ingested in.")
            outputs: list[Planes] = []
            for emitted in session.flow.emit(frames):
                outputs += self._planes(session, emitted)
            return outputs

    def _planes(self, session: Session, emitted: Emitted) -> list[Planes]:
        layout = session.layout
        arrays = layout.arrays(session.executor.host_array(emitted.lease.block), emitted.batch)
        if emitted.borrowed or self._settings.mode == "latency" or not self._settings.overlap:
            self._device.synchronize(emitted.mark.event.event)
            session.scheduler.over(emitted.mark)
        if emitted.borrowed:
            arrays = [array.copy() for array in arrays]
        else:
            arrays = [lend(array, emitted.lease) for array in arrays]
        wait = _Wait(self._device, session, emitted.mark.event, self._process)
        return [
            PendingPlanes([array[i] for array in arrays], layout.format, layout.height, layout.width, wait)
            for i in range(emitted.batch)
        ]

    def emit_device(self, frames: Frames, stream: int = 0) -> list[tuple[DeviceArray, ...]]:
        """Planes of finished pictures in device memory; work issued to the CUstream ``stream`` from now on sees them.

        The memory is used again once the arrays are gone; what was issued to ``stream`` by then comes first.
        """
        with self._use():
            session = self._open_session
            outputs: list[tuple[DeviceArray, ...]] = []
            for emitted in session.flow.emit(frames, to_host=False):
                block = emitted.lease.block
                address = session.executor.address(block)
                event: EventLease = emitted.mark.event
                self._device.lead(stream, event.event)
                session.executor.followed.setdefault(block, set()).add(stream)
                lead = partial(self._lead, session, block, event)
                ours = self._device.handle(session.executor.stream(emitted.mark.stream))
                for index in range(emitted.batch):
                    planes = []
                    for plane in session.layout.planes(emitted.batch):
                        start = address + plane.offset + index * (plane.nbytes // emitted.batch)
                        planes.append(
                            DeviceArray(
                                start, plane.shape[1:], plane.dtype, owner=emitted.lease, stream=ours, lead=lead,
                                dlpack_type=self._device.dlpack_type,
                            )
                        )  # fmt: skip
                    outputs.append(tuple(planes))
            return outputs

    def _lead(self, session: Session, block: Block, event: EventLease, stream: int) -> None:
        """Another consumer of a device picture, on a CUstream of its own."""
        if not session.closed:
            with self._use():
                self._device.lead(stream, event.event)
                session.executor.followed.setdefault(block, set()).add(stream)

    def operation_milliseconds(self, times: int) -> dict[str, float]:
        """Time on the device of each operation of a steady push, alone; for a stream that has been flushed."""
        with self._use():
            self._device.synchronize_all()
            return self._open_session.executor.milliseconds(times)

    def synchronize(self) -> None:
        """Waits for all work on the device."""
        with self._use():
            self._device.synchronize_all()

    def close(self) -> None:
        """Idempotent. Pictures handed out stay valid; device arrays do not."""
        self._session = None
        self._finalizer()


def _common_layout(pictures: Sequence[Planes]) -> Layout:
    layouts = {layout_of(picture) for picture in pictures}
    if len(layouts) != 1:
        raise InputError("The pictures of one push must have the same size and format.")
    return layouts.pop()


class _State:
    """What the finalizer of a backend has to free; not the backend itself, which it would keep alive."""

    session: Session | None = None


def _release(device: Device, source: EngineSource, state: _State, process: int, lock: threading.RLock) -> None:
    if os.getpid() != process:
        return  # after a fork there is nothing here that could be freed
    with lock:
        try:
            with device.scope():
                if state.session is not None:
                    session, state.session = state.session, None
                    session.close()
                source.close()
        finally:
            device.close()


class _Wait:
    """Waits once for the end of an operation, from any thread."""

    def __init__(self, device: Device, session: Session, event: EventLease, process: int) -> None:
        self._parts: tuple[Device, Session, EventLease] | None = (device, session, event)
        self._process = process

    def __call__(self) -> None:
        parts = self._parts
        if parts is None:
            return
        if os.getpid() != self._process:
            raise DeviceError("A picture that is still on the GPU cannot be read across fork; read it before.")
        device, session, event = parts
        if not session.closed:  # closing has waited for everything
            with device.scope():
                device.synchronize(event.event)
        self._parts = None
