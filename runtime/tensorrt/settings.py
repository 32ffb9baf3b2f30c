"""What a caller of the TensorRT runtime may choose."""

from __future__ import annotations

from dataclasses import dataclass

from vtsr.errors import OptionError
from vtsr.options import MAX_LEVELS

MODES = ("throughput", "latency")
WAITS = ("spin", "block")
MAX_SLOTS = 8
MAX_LANES = 8
STINTS = (2, 256)  # pushes, shortest and longest
MAX_CHUNK = 64


@dataclass(frozen=True)
class Settings:
    """Settings of the TensorRT runtime. Raises `OptionError` for a value out of range.

    mode
        ``"throughput"``: pictures are handed out before they are there, and reading one waits for it, so that
        copies and computation of several frames overlap. ``"latency"``: a push returns when its results are there.
    wait
        ``"spin"`` wakes soonest, ``"block"`` leaves the CPU core to others.
    slots
        Frames under way at the same time. A level reads the frame before as well, so three are needed for all
        levels to overlap.
    lanes
        Independent pipelines, each with streams, buffers and contexts of its own, that take turns with the stream:
        for GPUs that a single call does not fill. Several need the throughput mode. See `vtsr.runtime.tensorrt.lanes`.
    stint
        Pushes that a lane takes in a row. Every change of lanes costs a few calls that are made twice.
    levels, chunk
        Recursion levels and frames per push, for the check of the memory beforehand; levels None if not known.
    device
        Index of the GPU.
    host_outputs
        Blocks of page-locked memory that may wait for the caller to let go of them. Beyond it pictures are copied.
    graphs, overlap, pinned, batching, priorities
        Mechanisms that can be switched off to measure what each is worth.
    """

    mode: str = "throughput"
    wait: str = "spin"
    slots: int = 3
    lanes: int = 1
    stint: int = 16
    levels: int | None = None
    chunk: int = 1
    device: int = 0
    host_outputs: int = 8
    graphs: bool = True
    overlap: bool = True
    pinned: bool = True
    batching: bool = True
    priorities: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise OptionError(f"There is no mode {self.mode!r}; choose one of {', '.join(MODES)}.")
        if self.wait not in WAITS:
            raise OptionError(f"There is no way of waiting {self.wait!r}; choose one of {', '.join(WAITS)}.")
        if not 1 <= self.slots <= MAX_SLOTS:
            raise OptionError(f"The number of slots must be 1 to {MAX_SLOTS}, not {self.slots}.")
        if not 1 <= self.lanes <= MAX_LANES:
            raise OptionError(f"The number of lanes must be 1 to {MAX_LANES}, not {self.lanes}.")
        if not STINTS[0] <= self.stint <= STINTS[1]:
            raise OptionError(f"A stint must be {STINTS[0]} to {STINTS[1]} pushes, not {self.stint}.")
        if self.lanes > 1 and (self.mode != "throughput" or not self.overlap):
            raise OptionError("Several lanes need the throughput mode with overlap; use one lane for latency.")
        if self.levels is not None and not 1 <= self.levels <= MAX_LEVELS:
            raise OptionError(f"The number of levels must be 1 to {MAX_LEVELS}, not {self.levels}.")
        if not 1 <= self.chunk <= MAX_CHUNK:
            raise OptionError(f"The number of frames per push must be 1 to {MAX_CHUNK}, not {self.chunk}.")
        if self.device < 0:
            raise OptionError(f"The index of the GPU must not be negative, but it is {self.device}.")
        if self.host_outputs < 0:
            raise OptionError(f"The number of output blocks must not be negative, but it is {self.host_outputs}.")

    @property
    def ahead(self) -> int:
        """Pushes that the last lane's results come after the first lane's; 0 for a single lane."""
        return self.lanes * self.stint if self.lanes > 1 else 0
