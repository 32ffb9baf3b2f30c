"""A loaded engine, and a plain way to run it: one call at a time, through the host.

The streaming runtime has buffers and streams of its own; this is what self-tests and `--layers` use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import ModelError
from vtsr.runtime.engines.messages import explain, process_logger
from vtsr.runtime.engines.platform import import_tensorrt

Array = NDArray[Any]

# By name, since tensorrt.nptype of 8.5 fails with some NumPy versions.
DTYPES: dict[str, Any] = {
    "FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32,
    "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip
WARM_UP_CALLS = 10


def load_engine(plan: bytes) -> Any:
    """The engine of a plan from the cache. Raises `ModelError` if TensorRT refuses it."""
    trt = import_tensorrt()
    logger = process_logger(trt)
    since = len(logger.messages)
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:
        raise explain("TensorRT finds no usable GPU", logger, since) from error
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise explain("TensorRT refuses the engine", logger, since)
    return engine


def make_profiler(trt: Any) -> Any:
    """A profiler that sums the milliseconds of every layer in ``total``."""

    class Times(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.total: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total[layer_name] = self.total.get(layer_name, 0.0) + ms

    return Times()


class Runner:
    """Runs one engine synchronously on NumPy arrays, in the CUDA context that is current.

    Parameters
    ----------
    cuda
        The module pycuda.driver, see `vtsr.runtime.engines.platform.primary_context`.
    shapes
        Shape of every input.
    """

    def __init__(self, engine: Any, cuda: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        trt = import_tensorrt()
        self._cuda = cuda
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ModelError("There is not enough GPU memory to run the engine.")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        for name in self.inputs:
            if not self._context.set_input_shape(name, tuple(shapes[name])):
                raise ModelError(f"The engine does not take the input {name} of shape {tuple(shapes[name])}.")
        self._stream = cuda.Stream()
        self._arrays: dict[str, Array] = {}
        self._memory: dict[str, Any] = {}
        for name in names:
            dtype = DTYPES[str(engine.get_tensor_dtype(name)).rsplit(".", 1)[-1]]
            self._arrays[name] = np.zeros(tuple(self._context.get_tensor_shape(name)), dtype)
            self._memory[name] = cuda.mem_alloc(max(self._arrays[name].nbytes, 1))
            self._context.set_tensor_address(name, int(self._memory[name]))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        for name in self.inputs:
            array = np.ascontiguousarray(feeds[name], self._arrays[name].dtype).reshape(self._arrays[name].shape)
            self._cuda.memcpy_htod(self._memory[name], array)
        self._enqueue()
        self._stream.synchronize()
        for name in self.outputs:
            self._cuda.memcpy_dtoh(self._arrays[name], self._memory[name])
        return {name: self._arrays[name].copy() for name in self.outputs}

    def milliseconds(self, calls: int = 50) -> float:
        """Median time of one call on the GPU, without transfers."""
        for _ in range(WARM_UP_CALLS):
            self._enqueue()
        times = []
        for _ in range(calls):
            start, end = self._cuda.Event(), self._cuda.Event()
            start.record(self._stream)
            self._enqueue()
            end.record(self._stream)
            end.synchronize()
            times.append(end.time_since(start))
        return float(np.median(times))

    def layer_times(self, calls: int = 20) -> dict[str, float]:
        """Mean milliseconds of every layer, measured with TensorRT's profiler, which slows the whole down."""
        profiler = make_profiler(import_tensorrt())
        self._context.profiler = profiler
        for _ in range(calls):
            self._enqueue()
            self._stream.synchronize()
        return {name: total / calls for name, total in profiler.total.items()}

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise ModelError("TensorRT could not run the engine; see its messages above.")

    def close(self) -> None:
        for memory in self._memory.values():
            memory.free()
        self._memory.clear()
        del self._context
