"""Runs the runtime's TensorRT calls against the real bindings of one version; prints what happened as JSON.

    LD_LIBRARY_PATH=STANDINS python exercise_runtime.py BINDINGS

Engines and contexts, which only a GPU can make, are doubles, see `doubles`.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any
from unittest import mock

from doubles import double as double_of
from doubles import import_bindings, sentence, wrong_calls

trt = import_bindings(sys.argv[1])
double = partial(double_of, trt)

from vtsr.errors import VtsrError  # noqa: E402
from vtsr.runtime.tensorrt.cuda import CudaDevice, Stream  # noqa: E402

SHAPES = {"u": (1, 3, 32, 64), "v": (2, 3, 32, 64)}
ADDRESSES = {"u": 256, "v": 512, "halves": 1024}


def device() -> CudaDevice:
    made = CudaDevice.__new__(CudaDevice)
    made._trt = trt
    made._tensors = {}
    made._bindings = None
    made._cuda = mock.MagicMock()
    return made


def run(dynamic: bool = False, profile: int = 0, shares: bool = True) -> dict[str, Any]:
    """Calls of an engine whose contexts begin with ``profile``; ``shares`` is whether they may take another."""
    engine = double("ICudaEngine", num_io_tensors=3)
    engine.get_tensor_name.side_effect = list(ADDRESSES)
    engine.get_tensor_dtype.return_value = trt.DataType.FLOAT
    engine.get_tensor_shape.return_value = (-1, 3, 32, 64) if dynamic else (1, 3, 32, 64)
    sized = [name for name in ("device_memory_size", "device_memory_size_v2") if hasattr(trt.ICudaEngine, name)]
    for name in sized:
        setattr(engine, name, 4096)
    context = double("IExecutionContext")
    context.set_input_shape.return_value = True
    context.set_tensor_address.return_value = True
    context.execute_async_v3.return_value = True
    context.active_optimization_profile = profile
    context.set_optimization_profile_async.return_value = shares
    engine.create_execution_context.return_value = context
    if hasattr(engine, "create_execution_context_without_device_memory"):
        engine.create_execution_context_without_device_memory.return_value = context
    gpu = device()
    scratch = mock.Mock(address=8192, nbytes=4096)
    stream = Stream(77, None, None)
    found: dict[str, Any] = {"types": {n: str(t) for n, t in gpu.engine_tensors(engine).items()}}
    found["scratch"] = gpu.scratch_bytes(engine)
    try:
        for memory in (scratch, None):
            call = gpu.create_call(engine, ADDRESSES, SHAPES, memory)
            gpu.rebind(call, ADDRESSES)
            gpu.enqueue(call, stream)
    except VtsrError as error:
        return {"refused": str(error)}
    given = [call for call in context.method_calls if call[0] == "set_device_memory"]
    found["memory_given"] = bool(given) or getattr(context, "device_memory", None) == 8192
    found["profiles"] = [list(call.args) for call in context.set_optimization_profile_async.call_args_list]
    found["profile_waited_for"] = gpu._cuda.Context.synchronize.call_count
    found["enqueued"] = context.execute_async_v3.call_args_list == [mock.call(77)] * 2
    context.execute_async_v3.return_value = False
    found["refusal"] = sentence(lambda: gpu.enqueue(call, stream))
    found["wrong_calls"] = wrong_calls(engine, context)
    return found


def no_gpu() -> bool:
    """Whether this version can make an engine here; the doubles above stand for what it cannot."""
    try:
        trt.Runtime(trt.Logger())
    except TypeError:
        return True
    return False


print(json.dumps({
    "version": trt.__version__,
    "static": run(),
    "dynamic": run(dynamic=True),
    "dynamic without profile": run(dynamic=True, profile=-1),
    "dynamic and refused": run(dynamic=True, profile=-1, shares=False),
    "no_gpu": no_gpu(),
}))  # fmt: skip
