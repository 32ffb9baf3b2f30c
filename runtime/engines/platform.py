"""What an engine is bound to: TensorRT, GPU, driver and operating system of this machine."""

from __future__ import annotations

import ctypes
import os
import platform as operating_system
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vtsr.errors import DeviceError, MissingExtraError, ModelError

DRIVER_FILE = Path("/proc/driver/nvidia/version")
INSTALL = 'pip install "vtsr[tensorrt]"'


def import_tensorrt() -> Any:
    """The module tensorrt. Raises `MissingExtraError` in one sentence if it cannot be imported."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        raise MissingExtraError(f"TensorRT cannot be imported ({error}); {INSTALL}.") from error
    return tensorrt


_initialised_in: int | None = None  # process


def import_pycuda() -> Any:
    """The module pycuda.driver, initialised.

    Raises `MissingExtraError` or `ModelError` in one sentence, and `DeviceError` in a process that was forked from one
    that had used CUDA already, where it cannot work.
    """
    global _initialised_in
    if _initialised_in not in (None, os.getpid()):
        raise DeviceError("The GPU was in use before this process was forked; start processes with the method spawn.")
    try:
        import pycuda.driver as cuda
    except (ImportError, OSError) as error:
        if "libcuda" in str(error):
            raise MissingExtraError(f"There is no NVIDIA driver on this machine ({error}); install one.") from error
        raise MissingExtraError(f"pycuda cannot be imported ({error}); {INSTALL}.") from error
    try:
        cuda.init()
        _initialised_in = os.getpid()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise ModelError(f"The NVIDIA driver does not work ({error}); check it with nvidia-smi.") from error
    if count == 0:
        raise ModelError("The NVIDIA driver finds no GPU; check it with nvidia-smi.")
    return cuda


def find_platform(device: int = 0) -> dict[str, Any]:
    """Facts about this machine that an engine depends on. Raises as `import_tensorrt` and `import_pycuda` do."""
    trt, cuda = import_tensorrt(), import_pycuda()
    gpu = cuda.Device(device)
    return {
        "TensorRT": str(trt.__version__),
        "GPU": gpu.name(),
        "compute capability": ".".join(map(str, gpu.compute_capability())),
        "multiprocessors": int(gpu.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT)),
        "GPU memory": gpu.total_memory() >> 20,  # MiB
        "driver": driver_version() or f"for CUDA {cuda.get_driver_version()}",
        "system": f"{operating_system.system()} {operating_system.machine()}",
    }


def what_is_missing() -> str | None:
    """Why no engine can be built here, as one sentence that names all that is missing; None if one can."""
    missing = [] if _has_driver() else ["an NVIDIA driver"]
    for name, attempt in (("TensorRT", import_tensorrt), ("pycuda", import_pycuda)):
        try:
            attempt()
        except MissingExtraError as error:
            # pycuda without a driver fails on the driver, which is named already.
            if not (missing and "libcuda" in str(error)):
                missing.append(name)
        except ModelError as error:
            return str(error)
    if not missing:
        return None
    *others, last = missing
    return f"This machine lacks {', '.join(others) + ' and ' if others else ''}{last}."


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if operating_system.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return False
    return True


def driver_version() -> str | None:
    """Version of the NVIDIA kernel driver, e.g. ``"580.95.05"``; None where Linux does not say."""
    try:
        match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", DRIVER_FILE.read_text())
    except OSError:
        return None
    return match[0] if match else None


class _Contexts(dict[int, Any]):
    """Primary contexts by device; a class of its own because a plain dict cannot have a finalizer."""


_contexts = _Contexts()
_contexts_lock = threading.Lock()


def primary_context_of(cuda: Any, device: int) -> Any:
    """The device's primary context, retained once per process as other libraries do; not made current.

    pycuda would leave the context current in the thread that lets go of it, so that is left to the exit.
    """
    with _contexts_lock:
        if device not in _contexts:
            if not _contexts:
                # At exit finalizers run latest first: backends, which are made later, are closed before this.
                weakref.finalize(_contexts, _release_contexts, os.getpid())
            _contexts[device] = cuda.Device(device).retain_primary_context()
        return _contexts[device]


def holds_contexts() -> bool:
    """Whether there is a context left that memory can be freed in."""
    return bool(_contexts)


def _release_contexts(process: int) -> None:
    while _contexts and os.getpid() == process:
        _, context = _contexts.popitem()
        context.push()  # pycuda only releases a context that is current
        context.detach()


@contextmanager
def primary_context(device: int = 0) -> Iterator[Any]:
    """The device's primary CUDA context, current in this thread until the end; shared with torch and others.

    Raises `DeviceError` if it cannot be used.
    """
    cuda = import_pycuda()
    try:
        context = primary_context_of(cuda, device)
    except cuda.Error as error:
        raise DeviceError(f"The context of GPU {device} cannot be used: {str(error).rstrip('.')}.") from error
    context.push()
    try:
        yield cuda
    finally:
        context.pop()
