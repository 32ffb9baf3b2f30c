"""Device frames in, device frames out, for programs that keep their pictures on the GPU (torch, CuPy, decoders)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from vtsr.errors import InputError
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.tensorrt.arrays import DeviceArray
from vtsr.runtime.tensorrt.backend import TensorRTBackend

Picture = tuple[DeviceArray, ...]


class DeviceUpconverter:
    """`vtsr.Upconverter` without the host: pictures are read and left in device memory.

    >>> up = DeviceUpconverter(TensorRTBackend.open(model), levels=2)       # doctest: +SKIP
    >>> for (image,) in up.push(frame, stream=stream.cuda_stream):          # doctest: +SKIP
    ...     show(torch.from_dlpack(image))

    Parameters
    ----------
    backend
        Closed together with this object.
    levels
        Recursion levels, 1 to 4.
    format
        Of the pictures. `push` takes one array per plane: RGB (H, W, 3), or y, u and v, or y and uv (NV12, P010).

    Neither cuts nor changes of size are found here, since both need the host: call `flush` there.
    """

    def __init__(self, backend: TensorRTBackend, levels: int = 2, format: PixelFormat | None = None) -> None:
        self._backend = backend
        self._format = format or PixelFormat()
        self._recursion = backend.recursion(levels)

    def push(self, *planes: Any, stream: int = 0) -> list[Picture]:
        """Takes one picture and returns those that are now complete, lagging one input picture.

        Parameters
        ----------
        planes
            Anything with ``__cuda_array_interface__`` or ``__dlpack__``, C-contiguous; `DeviceArray` makes one of a
            raw pointer.
        stream
            The caller's CUstream: what is in it now comes before the picture is read, what is issued to it later
            sees the results, and may write to the picture's memory again.
        """
        if not planes:
            raise InputError("A push needs the planes of one picture.")
        frames = self._backend.ingest_device([Planes(tuple(planes), self._format)], stream)
        return self._emit(self._recursion.push(frames), stream)

    def flush(self, stream: int = 0) -> list[Picture]:
        """Ends the stream of pictures, at its end or at a cut, and returns the remaining ones."""
        return self._emit(self._recursion.flush(), stream)

    def _emit(self, tensors: Sequence[Any], stream: int) -> list[Picture]:
        return [picture for tensor in tensors for picture in self._backend.emit_device(tensor, stream)]

    def close(self) -> None:
        """Frees everything; device pictures cannot be used afterwards."""
        self._backend.close()

    def __enter__(self) -> DeviceUpconverter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
