"""Device memory shared with other libraries: ``__cuda_array_interface__`` (version 3), DLPack, raw pointers."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vtsr.errors import InputError

DLPACK_CPU, DLPACK_CUDA = 1, 2
DLPACK_KINDS = {"i": 0, "u": 1, "f": 2}  # signed, unsigned, floating point
LEGACY_STREAM = 1  # how both protocols write the default stream, which is 0 to CUDA


class _DLDevice(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = (("dl_tensor", _DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", _Deleter))

_api = ctypes.pythonapi
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
# For the destructor, which gets a capsule without a reference of its own.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_exported: dict[int, tuple[Any, ...]] = {}  # what exported tensors need, until their consumers are done


@_Deleter
def _delete(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _drop_capsule(capsule: int) -> None:
    if _is_valid(capsule, b"dltensor"):  # nobody has taken it
        _exported.pop(_get_pointer(capsule, b"dltensor"), None)


class DeviceArray:
    """An array in device memory, C-contiguous; read by torch, CuPy and others without a copy.

    Parameters
    ----------
    address
        Device pointer.
    owner
        Kept alive as long as the array, or any array another library has made of it.
    dlpack_type
        DLPack's device type and index.
    stream
        CUstream whose work so far fills the array; 0 if it is filled.
    lead
        ``lead(cuda_stream)`` lets a consumer's CUstream wait for the array to be filled.
    """

    def __init__(
        self,
        address: int,
        shape: Sequence[int],
        dtype: Any,
        *,
        owner: Any = None,
        dlpack_type: tuple[int, int] = (DLPACK_CUDA, 0),
        stream: int = 0,
        lead: Callable[[int], None] | None = None,
    ) -> None:
        self.address = address
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.owner = owner
        self._dlpack_type = dlpack_type
        self._stream = stream
        self._lead = lead

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }
        if self._stream:
            facts["stream"] = self._stream
        return facts

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._dlpack_type

    def __dlpack__(
        self, *, stream: int | None = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        """A capsule for ``from_dlpack``; ``stream`` is the consumer's, which waits for the array to be filled."""
        if copy:
            raise BufferError("A device array is exported without a copy; copy it afterwards.")
        if dl_device is not None and tuple(dl_device) != self._dlpack_type:
            raise BufferError(f"The array is on the device {self._dlpack_type}, not {tuple(dl_device)}.")
        if stream != -1 and self._lead is not None:  # -1: the consumer wants no ordering
            self._lead(_cuda_stream(stream))
        shape = (ctypes.c_int64 * self.ndim)(*self.shape)
        managed = _DLManagedTensor()
        tensor = managed.dl_tensor
        tensor.data = self.address
        tensor.device = _DLDevice(*self._dlpack_type)
        tensor.ndim = self.ndim
        tensor.dtype = _DLDataType(DLPACK_KINDS[self.dtype.kind], 8 * self.dtype.itemsize, 1)
        tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
        managed.deleter = _delete
        pointer = ctypes.addressof(managed)
        _exported[pointer] = (managed, shape, self.owner, self)
        return _api.PyCapsule_New(pointer, b"dltensor", _drop_capsule)


def _cuda_stream(stream: int | None) -> int:
    """A stream as DLPack and the CUDA array interface write it, as CUstream."""
    return 0 if stream in (None, LEGACY_STREAM) else int(stream or 0)


class _Imported:
    """Memory taken over from a DLPack capsule; given back when this object goes."""

    def __init__(self, capsule: Any) -> None:
        pointer = _api.PyCapsule_GetPointer(capsule, b"dltensor")
        _api.PyCapsule_SetName(capsule, b"used_dltensor")
        self._managed = ctypes.cast(pointer, ctypes.POINTER(_DLManagedTensor))

    @property
    def tensor(self) -> _DLTensor:
        tensor: _DLTensor = self._managed.contents.dl_tensor
        return tensor

    def __del__(self) -> None:
        if hasattr(self, "_managed") and self._managed.contents.deleter:
            self._managed.contents.deleter(self._managed)


def device_array(given: Any, dlpack_type: tuple[int, int], stream: int = 0) -> tuple[DeviceArray, int | None]:
    """``given`` as `DeviceArray`, and the CUstream that fills it, None if the array says it needs no waiting.

    Parameters
    ----------
    given
        Anything with ``__cuda_array_interface__`` or ``__dlpack__`` on the device, C-contiguous.
    dlpack_type
        The device it must be on.
    stream
        The CUstream of ours that will read it, for DLPack.

    Raises `InputError` for another device, strides, or an object that is no array.
    """
    if isinstance(given, DeviceArray):
        return given, given._stream or None
    facts = getattr(given, "__cuda_array_interface__", None)
    if facts is not None and dlpack_type[0] == DLPACK_CUDA:
        dtype, shape = np.dtype(facts["typestr"]), tuple(facts["shape"])
        strides = facts.get("strides")
        if strides is not None:
            _check_contiguous(shape, [n // dtype.itemsize for n in strides])
        theirs = facts.get("stream")
        array = DeviceArray(facts["data"][0], shape, dtype, owner=given, dlpack_type=dlpack_type)
        return array, _cuda_stream(theirs) if theirs is not None else None
    if not hasattr(given, "__dlpack__"):
        raise InputError(
            f"A device picture needs __cuda_array_interface__ or __dlpack__, which {type(given).__name__} has not."
        )
    if tuple(given.__dlpack_device__()) != dlpack_type:
        raise InputError(f"The picture is on the device {tuple(given.__dlpack_device__())}, not {dlpack_type}.")
    owner = _Imported(given.__dlpack__(stream=stream or LEGACY_STREAM if dlpack_type[0] == DLPACK_CUDA else None))
    tensor = owner.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        _check_contiguous(shape, [tensor.strides[i] for i in range(tensor.ndim)])
    kinds = {code: kind for kind, code in DLPACK_KINDS.items()}
    if tensor.dtype.code not in kinds or tensor.dtype.lanes != 1:
        raise InputError("A device picture must hold integers.")
    dtype = np.dtype(f"{kinds[tensor.dtype.code]}{tensor.dtype.bits // 8}")
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(address, shape, dtype, owner=owner, dlpack_type=dlpack_type), None


def _check_contiguous(shape: Sequence[int], strides: Sequence[int]) -> None:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            raise InputError("A device picture must be C-contiguous; make it so first.")
        expected *= size
