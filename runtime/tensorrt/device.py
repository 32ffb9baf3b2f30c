"""What the runtime asks of a device. `vtsr.runtime.tensorrt.cuda` is an NVIDIA GPU; tests have one in software.

Streams, events, engines, calls and graphs are opaque to everything but the device that made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.tensorrt.layout import Layout

Bytes = NDArray[np.uint8]


class Memory(Protocol):
    """Device memory; freed by `Device.free`."""

    address: int
    nbytes: int


class Device(Protocol):
    """Memory, copies, streams, events and engines. Whatever fails raises a `DeviceError` that names the call."""

    dlpack_type: tuple[int, int]  # device type and index, as DLPack numbers them

    def scope(self) -> AbstractContextManager[None]:
        """Makes the device current in this thread, and afterwards what was current before."""

    def memory_info(self) -> tuple[int, int]:
        """Free and total device memory, bytes."""

    def allocate(self, nbytes: int) -> Memory: ...

    def free(self, memory: Any) -> None:
        """Frees what `allocate` has given."""

    def page_locked(self, nbytes: int) -> Any:
        """Host memory that copies run from at full speed: an object with ``array``, uint8 (nbytes,)."""

    def is_page_locked(self, array: NDArray[Any]) -> bool: ...

    def create_stream(self, urgency: int) -> Any:
        """A stream; of two that could go on, the GPU prefers the more urgent."""

    def handle(self, stream: Any) -> int:
        """The stream's CUstream."""

    def destroy_stream(self, stream: Any) -> None: ...

    def create_event(self, timing: bool = False) -> Any: ...

    def destroy_event(self, event: Any) -> None: ...

    def record(self, event: Any, stream: Any) -> None:
        """``event`` is over when all that is in ``stream`` now is."""

    def wait(self, stream: Any, event: Any) -> None:
        """What is issued to ``stream`` from now on runs after ``event`` as it was recorded last."""

    def synchronize(self, event: Any) -> None:
        """Waits on the host."""

    def is_over(self, event: Any) -> bool: ...

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events made with ``timing``, both over."""

    def synchronize_all(self) -> None:
        """Waits for all work of this process on the device."""

    def follow(self, stream: Any, foreign: int) -> None:
        """What is issued to ``stream`` from now on runs after what is in the CUstream ``foreign`` now."""

    def lead(self, foreign: int, event: Any) -> None:
        """What is issued to the CUstream ``foreign`` from now on runs after ``event``."""

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None: ...

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None: ...

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None: ...

    def engine_tensors(self, engine: Any) -> Mapping[str, np.dtype[Any]]:
        """Inputs and outputs of an engine."""

    def scratch_bytes(self, engine: Any) -> int:
        """Memory a call of the engine needs while it runs."""

    def create_call(self, engine: Any, addresses: Mapping[str, int], shapes: Mapping[str, Sequence[int]],
                    scratch: Memory | None) -> Any:  # fmt: skip
        """A call of an engine, with an execution context of its own. Calls may share scratch in one stream."""

    def rebind(self, call: Any, addresses: Mapping[str, int]) -> None:
        """Other places for a call's tensors."""

    def enqueue(self, call: Any, stream: Any) -> None: ...

    def capture(self, call: Any, stream: Any) -> Any:
        """A graph of the call; None if the device or the engine cannot be captured."""

    def launch(self, graph: Any, stream: Any) -> None: ...

    def destroy_graph(self, graph: Any) -> None: ...

    def close(self) -> None: ...


class EngineSource(Protocol):
    """Where engines come from: from a model's cache, ready to run on the device."""

    name: str
    precision: str

    def batches(self, role: str, layout: Layout) -> Sequence[int]:
        """Batch sizes for which there is an engine of a role (``ingest``, ``step``, ``finish``, ``emit``)."""

    def engine(self, role: str, batch: int, layout: Layout) -> Any:
        """The engine, loaded. Raises `ModelError` if there is none and it cannot be made."""

    def close(self) -> None:
        """Lets go of loaded engines."""
