"""The thin module that calls pycuda and cuda-bindings, on doubles of both that record calls and fail on demand."""

from __future__ import annotations

import enum
import logging
import os
import sys
import types
from typing import Any
from unittest import mock

import numpy as np
import pytest

from vtsr import DeviceError
from vtsr.runtime.engines import platform
from vtsr.runtime.tensorrt import cuda


class Result(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class Driver:
    """cuda.bindings.driver: every call succeeds with a number unless ``answers`` says otherwise."""

    CUresult = Result
    CUstreamCaptureMode = mock.Mock(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local")
    CUpointer_attribute = mock.Mock()

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, tuple[Any, ...]] = {"cuCtxGetStreamPriorityRange": (Result.CUDA_SUCCESS, 0, -2)}

    def CUstream(self, handle: int) -> int:  # as NVIDIA spells it
        return handle

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            return self.answers.get(name, (Result.CUDA_SUCCESS, 77))

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class PycudaError(Exception):
    pass


def pycuda() -> Any:
    made = mock.MagicMock()
    made.Error = PycudaError
    made.Device.count.return_value = 2
    for name in ("PagelockedHostAllocation", "RegisteredHostMemory"):
        setattr(made, name, type(name, (), {}))
    return made


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    found = types.SimpleNamespace(pycuda=pycuda(), driver=Driver())
    monkeypatch.setattr(cuda, "import_pycuda", lambda: found.pycuda)
    monkeypatch.setattr(cuda, "import_tensorrt", mock.MagicMock())
    monkeypatch.setattr(cuda, "find_bindings", lambda: found.driver)
    monkeypatch.setattr(platform, "_contexts", platform._Contexts())
    monkeypatch.setattr(platform, "_release_contexts", lambda process: None)
    found.device = cuda.CudaDevice()
    found.context = found.pycuda.Device.return_value.retain_primary_context.return_value
    return found


def test_errors_of_pycuda_and_of_the_bindings_name_the_call(parts: Any) -> None:
    parts.pycuda.mem_alloc.side_effect = PycudaError("cuMemAlloc failed: out of memory")
    parts.driver.answers["cuEventRecord"] = (Result.CUDA_ERROR_INVALID_VALUE,)
    with pytest.raises(DeviceError, match=r"^The GPU refused an operation: cuMemAlloc failed: out of memory\.$"):
        parts.device.allocate(1 << 40)
    stream = parts.device.create_stream(1)
    with pytest.raises(DeviceError, match=r"^The GPU refused .*: cuEventRecord failed: CUDA_ERROR_INVALID_VALUE\.$"):
        parts.device.record("event", stream)


def test_a_failing_call_leaves_no_context_behind(parts: Any) -> None:
    parts.pycuda.mem_alloc.side_effect = PycudaError("cuMemAlloc failed: out of memory")
    with pytest.raises(DeviceError), parts.device.scope():
        parts.device.allocate(1)
    assert (parts.context.push.call_count, parts.context.pop.call_count) == (1, 1)


def test_the_primary_context_is_retained_once_for_all(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the runtime, by the builder of engines, and by both again."""
    monkeypatch.setattr(platform, "import_pycuda", lambda: parts.pycuda)
    cuda.CudaDevice()
    for _ in range(2):
        with platform.primary_context() as found:
            assert found is parts.pycuda
    assert parts.pycuda.Device.return_value.retain_primary_context.call_count == 1
    assert parts.context.push.call_count == parts.context.pop.call_count == 2
    assert not parts.pycuda.Device.return_value.make_context.called


@pytest.mark.parametrize("of", ["the runtime", "the builder"])
def test_a_context_that_cannot_be_had_is_one_sentence(parts: Any, monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    monkeypatch.setattr(platform, "import_pycuda", lambda: parts.pycuda)
    monkeypatch.setattr(platform, "_contexts", platform._Contexts())
    failure = PycudaError("cuDevicePrimaryCtxRetain failed: device busy")
    parts.pycuda.Device.return_value.retain_primary_context.side_effect = failure
    user = cuda.CudaDevice if of == "the runtime" else platform.primary_context(0).__enter__
    with pytest.raises(DeviceError, match=r"^The context of GPU 0 cannot be used: cuDevicePrimaryCtxRetain .*\.$"):
        user()


def test_opening_a_gpu_in_a_forked_process_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = pycuda()
    monkeypatch.setitem(sys.modules, "pycuda", mock.MagicMock(driver=driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(platform, "_initialised_in", None)
    assert platform.import_pycuda() is driver
    assert platform.import_pycuda() is driver
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(DeviceError, match=r"in use before this process was forked; start processes .* spawn\.$"):
        platform.import_pycuda()


def test_a_gpu_that_is_not_there_is_named(parts: Any) -> None:
    with pytest.raises(DeviceError, match=r"^There is no GPU 2; this machine has 2\.$"):
        cuda.CudaDevice(2)


def test_streams_become_more_urgent_as_far_as_the_gpu_has_priorities(parts: Any) -> None:
    streams = [parts.device.create_stream(urgency) for urgency in (1, 2, 3, 4)]
    given = parts.driver.named("cuStreamCreateWithPriority")
    assert given == [(1, -1), (1, -2), (1, -2), (1, -2)]  # non-blocking; lower is more urgent
    assert all(stream.pycuda is None for stream in streams)
    copying = parts.device.create_stream(0)
    assert copying.pycuda is parts.pycuda.Stream.return_value  # pycuda copies only in streams of its own


def test_without_cuda_bindings_there_are_no_graphs_and_no_priorities_but_it_runs(
    parts: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "find_bindings", lambda: None)
    with caplog.at_level(logging.WARNING, "vtsr"):
        device = cuda.CudaDevice()
    assert "cuda-bindings is not installed" in caplog.text
    stream = device.create_stream(3)
    assert device.capture(mock.Mock(), stream) is None
    event = device.create_event()
    device.record(event, stream)
    event.record.assert_called_once_with(stream.pycuda)
    device.follow(stream, 5)
    assert parts.pycuda.Context.synchronize.called  # the host waits instead


def call(accepted: bool = True) -> Any:
    return cuda.Call(mock.Mock(**{"execute_async_v3.return_value": accepted}), "step", None)


def test_a_call_becomes_a_graph_captured_for_this_thread_alone(parts: Any) -> None:
    stream = parts.device.create_stream(1)
    parts.driver.answers["cuGraphInstantiate"] = (Result.CUDA_SUCCESS, "executable")
    assert parts.device.capture(call(), stream) == "executable"
    names = [c[0] for c in parts.driver.calls if c[0].startswith(("cuStream", "cuGraph")) and "Create" not in c[0]]
    assert names == [
        "cuStreamSynchronize", "cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy",
        "cuGraphUpload",
    ]  # fmt: skip
    assert parts.driver.named("cuStreamBeginCapture") == [(stream.raw, "thread local")]


@pytest.mark.parametrize("refusal", ["the engine", "the driver"])
def test_a_refused_capture_is_ended_and_its_graph_dropped(parts: Any, refusal: str) -> None:
    if refusal == "the driver":
        parts.driver.answers["cuStreamEndCapture"] = (Result.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None)
    stream = parts.device.create_stream(1)
    assert parts.device.capture(call(accepted=refusal == "the driver"), stream) is None
    assert len(parts.driver.named("cuStreamEndCapture")) == 1
    assert len(parts.driver.named("cuGraphDestroy")) == (refusal == "the engine")
    assert not parts.driver.named("cuGraphInstantiate")


def test_page_locked_memory_is_told_from_other_memory(parts: Any) -> None:
    array = np.zeros(8, np.uint8)
    parts.driver.answers["cuPointerGetAttribute"] = (Result.CUDA_ERROR_INVALID_VALUE, None)
    assert not parts.device.is_page_locked(array)
    parts.driver.answers["cuPointerGetAttribute"] = (Result.CUDA_SUCCESS, cuda.HOST_MEMORY)
    assert parts.device.is_page_locked(array[2:])
    assert parts.driver.named("cuPointerGetAttribute")[-1][1] == array.ctypes.data + 2


def test_page_locked_memory_is_freed_in_its_context_and_not_after_the_end(parts: Any) -> None:
    memory = parts.device.page_locked(16)
    base = parts.pycuda.pagelocked_empty.return_value.base
    before = parts.context.push.call_count
    del memory
    assert base.free.call_count == 1
    assert parts.context.push.call_count - before == 1
    late = parts.device.page_locked(16)
    platform._contexts.clear()  # as at the end of the process
    del late
    assert base.free.call_count == 1


def test_other_modules_call_neither_pycuda_nor_the_bindings() -> None:
    import ast
    import inspect
    import pkgutil

    import vtsr.runtime.tensorrt as package

    for entry in pkgutil.iter_modules(package.__path__):
        if entry.name == "cuda":
            continue
        __import__(f"{package.__name__}.{entry.name}")
        tree = ast.parse(inspect.getsource(sys.modules[f"{package.__name__}.{entry.name}"]))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name for name in imported if name.split(".")[0] in ("pycuda", "cuda", "tensorrt")}, entry.name
