"""An NVIDIA GPU: the only module that calls pycuda, cuda-bindings and TensorRT while video runs.

pycuda has the primary context, memory, copies, streams and events; cuda-bindings, where it is installed, stream
priorities, CUDA graphs and the order against streams of others. `tests/test_tensorrt_api.py` checks every name
used here against the real packages.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import DeviceError, ModelError
from vtsr.runtime.engines.builder import has_strong_typing
from vtsr.runtime.engines.engine import DTYPES
from vtsr.runtime.engines.messages import explain, process_logger
from vtsr.runtime.engines.platform import holds_contexts, import_pycuda, import_tensorrt, primary_context_of
from vtsr.runtime.tensorrt.arrays import DLPACK_CUDA
from vtsr.runtime.tensorrt.pictures import HostView

log = logging.getLogger("vtsr")

STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream of others
DEFAULT_STREAM = 0
EVENT_BLOCKING_SYNC, EVENT_DISABLE_TIMING = 1, 2  # CU_EVENT_*
HOST_MEMORY = 1  # CU_MEMORYTYPE_HOST
PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: page-locked for all contexts

Method = TypeVar("Method", bound=Callable[..., Any])


def _named(method: Method) -> Method:
    """Errors of pycuda, whose texts name the CUDA call, as `DeviceError`."""

    @wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except self._cuda.Error as error:
            raise DeviceError(f"The GPU refused an operation: {str(error).rstrip('.')}.") from error

    return cast(Method, guarded)


def find_bindings() -> Any:
    """The module cuda.bindings.driver, or None."""
    try:
        from cuda.bindings import driver
    except (ImportError, OSError):
        return None
    return driver


class Bindings:
    """Calls of the CUDA driver through cuda-bindings; errors become `DeviceError`."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def __call__(self, name: str, *args: Any) -> Any:
        status, *values = getattr(self.driver, name)(*args)
        if status != self.driver.CUresult.CUDA_SUCCESS:
            reason = getattr(status, "name", str(status))
            raise DeviceError(f"The GPU refused an operation: {name} failed: {reason}.")
        return values[0] if len(values) == 1 else tuple(values)

    def holds(self, name: str, *args: Any) -> bool:
        """Whether a query is answered with success; any other answer is no."""
        return bool(getattr(self.driver, name)(*args)[0] == self.driver.CUresult.CUDA_SUCCESS)


class Stream:
    """A CUstream; ``pycuda`` is pycuda's object of it, None if cuda-bindings made it."""

    __slots__ = ("handle", "pycuda", "raw")

    def __init__(self, handle: int, pycuda: Any, raw: Any) -> None:
        self.handle, self.pycuda, self.raw = handle, pycuda, raw


class DeviceMemory:
    __slots__ = ("_allocation", "address", "nbytes")

    def __init__(self, allocation: Any, nbytes: int) -> None:
        self._allocation = allocation
        self.address = int(allocation)
        self.nbytes = nbytes

    def free(self) -> None:
        self._allocation.free()


class PageLocked:
    """Page-locked host memory; freed with its last reference, in whatever thread that is."""

    def __init__(self, cuda: Any, context: Any, nbytes: int) -> None:
        self._context = context
        self._process = os.getpid()
        self._pinned = cuda.pagelocked_empty((max(nbytes, 1),), np.uint8, mem_flags=PORTABLE)
        self.array = self._pinned[:nbytes]

    def __del__(self) -> None:
        pinned = getattr(self, "_pinned", None)
        if pinned is None or os.getpid() != self._process or not holds_contexts():
            return
        self._context.push()
        try:
            pinned.base.free()
        finally:
            self._context.pop()


class Call:
    """An execution context and what it is bound to."""

    __slots__ = ("context", "name", "scratch")

    def __init__(self, context: Any, name: str, scratch: Any) -> None:
        self.context, self.name, self.scratch = context, name, scratch


class CudaDevice:
    """One GPU of this machine, as `vtsr.runtime.tensorrt.device.Device`.

    Parameters
    ----------
    index
        Of the GPU.
    blocking
        Whether a thread that waits sleeps instead of spinning.

    Raises `MissingExtraError` or `ModelError` if driver, TensorRT or pycuda are missing or do not work.
    """

    def __init__(self, index: int = 0, blocking: bool = False) -> None:
        self._cuda = import_pycuda()
        self._trt = import_tensorrt()
        driver = find_bindings()
        self._bindings = Bindings(driver) if driver is not None else None
        self._event_flags = EVENT_BLOCKING_SYNC if blocking else 0
        self._tensors: dict[int, tuple[Any, dict[str, np.dtype[Any]]]] = {}
        self.dlpack_type = (DLPACK_CUDA, index)
        count = self._cuda.Device.count()
        if index >= count:
            raise DeviceError(f"There is no GPU {index}; this machine has {count}.")
        try:
            self._context = primary_context_of(self._cuda, index)
        except self._cuda.Error as error:
            raise DeviceError(f"The context of GPU {index} cannot be used: {str(error).rstrip('.')}.") from error
        if self._bindings is None:
            log.warning("cuda-bindings is not installed: no CUDA graphs, no stream priorities.")

    @contextmanager
    def scope(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    @_named
    def memory_info(self) -> tuple[int, int]:
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    @_named
    def allocate(self, nbytes: int) -> DeviceMemory:
        return DeviceMemory(self._cuda.mem_alloc(nbytes), nbytes)

    @_named
    def free(self, memory: DeviceMemory) -> None:
        memory.free()

    @_named
    def page_locked(self, nbytes: int) -> PageLocked:
        return PageLocked(self._cuda, self._context, nbytes)

    def is_page_locked(self, array: NDArray[Any]) -> bool:
        kinds = (self._cuda.PagelockedHostAllocation, self._cuda.RegisteredHostMemory, HostView)
        base: Any = array
        while base is not None:
            if isinstance(base, kinds):
                return True
            base = getattr(base, "base", None)
        if self._bindings is None:
            return False
        attribute = self._bindings.driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        status, kind = self._bindings.driver.cuPointerGetAttribute(attribute, array.ctypes.data)
        return bool(status == self._bindings.driver.CUresult.CUDA_SUCCESS and int(kind) == HOST_MEMORY)

    @_named
    def create_stream(self, urgency: int) -> Stream:
        if self._bindings is None or urgency <= 0:
            stream = self._cuda.Stream(STREAM_NON_BLOCKING)
            handle = int(stream.handle)
            return Stream(handle, stream, self._bindings.driver.CUstream(handle) if self._bindings else None)
        # The numbers go down as urgency goes up.
        least, greatest = self._bindings("cuCtxGetStreamPriorityRange")
        raw = self._bindings("cuStreamCreateWithPriority", STREAM_NON_BLOCKING, max(least - urgency, greatest))
        return Stream(int(raw), None, raw)

    def handle(self, stream: Stream) -> int:
        return stream.handle

    @_named
    def destroy_stream(self, stream: Stream) -> None:
        if stream.pycuda is None:
            assert self._bindings is not None
            self._bindings("cuStreamDestroy", stream.raw)
        stream.pycuda = None

    @_named
    def create_event(self, timing: bool = False) -> Any:
        flags = self._event_flags | (0 if timing else EVENT_DISABLE_TIMING)
        return self._cuda.Event(flags) if self._bindings is None else self._bindings("cuEventCreate", flags)

    @_named
    def destroy_event(self, event: Any) -> None:
        if self._bindings is not None:
            self._bindings("cuEventDestroy", event)

    @_named
    def record(self, event: Any, stream: Stream) -> None:
        if self._bindings is None:
            event.record(stream.pycuda)
        else:
            self._bindings("cuEventRecord", event, stream.raw)

    @_named
    def wait(self, stream: Stream, event: Any) -> None:
        if self._bindings is None:
            stream.pycuda.wait_for_event(event)
        else:
            self._bindings("cuStreamWaitEvent", stream.raw, event, 0)

    @_named
    def synchronize(self, event: Any) -> None:
        if self._bindings is None:
            event.synchronize()
        else:
            self._bindings("cuEventSynchronize", event)

    @_named
    def is_over(self, event: Any) -> bool:
        return bool(event.query()) if self._bindings is None else self._bindings.holds("cuEventQuery", event)

    @_named
    def milliseconds(self, start: Any, end: Any) -> float:
        if self._bindings is None:
            return float(end.time_since(start))
        return float(self._bindings("cuEventElapsedTime", start, end))

    @_named
    def synchronize_all(self) -> None:
        self._cuda.Context.synchronize()

    @_named
    def follow(self, stream: Stream, foreign: int) -> None:
        if self._bindings is None:
            self._cuda.Context.synchronize()  # pycuda cannot order against a stream it has not made
            return
        event = self._bindings("cuEventCreate", EVENT_DISABLE_TIMING)
        self._bindings("cuEventRecord", event, self._bindings.driver.CUstream(foreign))
        self._bindings("cuStreamWaitEvent", stream.raw, event, 0)
        self._bindings("cuEventDestroy", event)  # takes effect when the event is over

    @_named
    def lead(self, foreign: int, event: Any) -> None:
        if self._bindings is None:
            event.synchronize()
        else:
            self._bindings("cuStreamWaitEvent", self._bindings.driver.CUstream(foreign), event, 0)

    @_named
    def upload(self, address: int, array: NDArray[Any], stream: Stream) -> None:
        self._cuda.memcpy_htod_async(address, array, stream.pycuda)

    @_named
    def download(self, array: NDArray[Any], address: int, stream: Stream) -> None:
        self._cuda.memcpy_dtoh_async(array, address, stream.pycuda)

    @_named
    def copy(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        if stream.pycuda is not None:
            self._cuda.memcpy_dtod_async(target, source, nbytes, stream.pycuda)
        else:
            assert self._bindings is not None
            self._bindings("cuMemcpyDtoDAsync", target, source, nbytes, stream.raw)

    def engine_tensors(self, engine: Any) -> Mapping[str, np.dtype[Any]]:
        known = self._tensors.get(id(engine))
        if known is None or known[0] is not engine:
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            types = {n: np.dtype(DTYPES[str(engine.get_tensor_dtype(n)).rsplit(".", 1)[-1]]) for n in names}
            known = self._tensors[id(engine)] = (engine, types)
        return known[1]

    def scratch_bytes(self, engine: Any) -> int:
        size = getattr(engine, "device_memory_size_v2", None)
        return int(engine.device_memory_size if size is None else size)

    def create_call(
        self, engine: Any, addresses: Mapping[str, int], shapes: Mapping[str, Sequence[int]], scratch: Any
    ) -> Call:
        trt = self._trt
        logger = process_logger(trt)
        since = len(logger.messages)
        name = str(getattr(engine, "name", "") or "engine")
        many_sizes = any(-1 in tuple(engine.get_tensor_shape(t)) for t in shapes)
        if many_sizes and not has_strong_typing(trt):
            # There, every context in use at the same time needs an optimisation profile of its own.
            raise ModelError("TensorRT 8 cannot overlap calls of an engine of many sizes; export with fixed sizes.")
        if scratch is None:
            context = engine.create_execution_context()
        elif hasattr(engine, "create_execution_context_without_device_memory"):
            context = engine.create_execution_context_without_device_memory()
        else:
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise explain("TensorRT cannot make an execution context", logger, since)
        if many_sizes:
            self._choose_profile(context, logger, since)
        for tensor, shape in shapes.items():
            if not context.set_input_shape(tensor, tuple(shape)):
                raise explain(f"The engine does not take the input {tensor} of shape {tuple(shape)}", logger, since)
        if scratch is not None:
            if hasattr(context, "set_device_memory"):
                context.set_device_memory(scratch.address, scratch.nbytes)
            else:
                context.device_memory = scratch.address
        call = Call(context, name, scratch)
        self.rebind(call, addresses)
        return call

    def _choose_profile(self, context: Any, logger: Any, since: int) -> None:
        """Gives a context the engine's only optimisation profile, with which not every version lets it begin."""
        if context.active_optimization_profile == 0:
            return
        if not context.set_optimization_profile_async(0, DEFAULT_STREAM):
            raise explain("Several calls cannot share an engine of many sizes; export with fixed sizes", logger, since)
        self._cuda.Context.synchronize()  # the call will be made in another stream

    def rebind(self, call: Call, addresses: Mapping[str, int]) -> None:
        for tensor, address in addresses.items():
            if not call.context.set_tensor_address(tensor, address):
                raise DeviceError(f"set_tensor_address of {tensor} failed.")

    def enqueue(self, call: Call, stream: Stream) -> None:
        logger = process_logger(self._trt)
        since = len(logger.messages)
        if not call.context.execute_async_v3(stream.handle):
            raise DeviceError(str(explain(f"execute_async_v3 of {call.name} failed", logger, since)))

    def capture(self, call: Call, stream: Stream) -> Any:
        if self._bindings is None:
            return None
        driver = self._bindings.driver
        # The call's first, plain run sets up what a capture does not allow; as NVIDIA's samples do, it is waited for.
        self._bindings("cuStreamSynchronize", stream.raw)
        # Calls of other threads that a capture does not allow do not spoil this one.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._bindings("cuStreamBeginCapture", stream.raw, mode)
        accepted = call.context.execute_async_v3(stream.handle)
        status, graph = driver.cuStreamEndCapture(stream.raw)
        if status != driver.CUresult.CUDA_SUCCESS:
            return None
        try:
            if not accepted:
                return None
            executable = self._bindings("cuGraphInstantiate", graph, 0)
        finally:
            self._bindings("cuGraphDestroy", graph)
        self._bindings("cuGraphUpload", executable, stream.raw)
        return executable

    def launch(self, graph: Any, stream: Stream) -> None:
        assert self._bindings is not None
        self._bindings("cuGraphLaunch", graph, stream.raw)

    def destroy_graph(self, graph: Any) -> None:
        assert self._bindings is not None
        self._bindings("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Lets go of engines; the primary context stays until the process ends."""
        self._tensors.clear()
