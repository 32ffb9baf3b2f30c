"""All that belongs to pictures of one layout: engines, blocks, streams; made when such pictures first come."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtsr.errors import DeviceError, ModelError
from vtsr.runtime.tensorrt.device import Device, EngineSource
from vtsr.runtime.tensorrt.executor import Executor
from vtsr.runtime.tensorrt.flow import SINGLE, Flow, lane_stream
from vtsr.runtime.tensorrt.layout import Layout
from vtsr.runtime.tensorrt.planning import memory_needed
from vtsr.runtime.tensorrt.schedule import Scheduler
from vtsr.runtime.tensorrt.settings import Settings

ROLES = ("ingest", "step", "finish", "emit")
FRAME_TENSORS = {"ingest": ("rgb",), "step": ("u", "a_u", "v", "halves", "next_a"), "emit": ("rgb",)}
CARRY_TYPE = np.dtype(np.float32)  # what `Executor.fill` writes
MEBIBYTE = 1 << 20


class MemoryShortage(DeviceError):
    """There is not enough free GPU memory."""


class Session:
    """Raises `ModelError` if engines are missing or do not go together, `DeviceError` if memory is short."""

    def __init__(self, device: Device, source: EngineSource, layout: Layout, settings: Settings) -> None:
        self.layout = layout
        self.closed = False
        self.given: deque[tuple[Any, Any]] = deque()  # pictures of callers and the event after which they are read
        self.executor = Executor(device, source, layout, settings)
        try:
            batches = {role: list(source.batches(role, layout)) for role in ROLES}
            for role, found in batches.items():
                if not found:
                    source.engine(role, 1, layout)  # says what is missing
                    raise ModelError(f"The model {source.name} has no {role} engine for {layout.name}.")
            self.frame_type = self._frame_type(device, batches)
            frame_bytes = 3 * int(np.prod(layout.padded)) * self.frame_type.itemsize
            self._check_memory(device, batches, frame_bytes, settings)
            self.scheduler = Scheduler(self.executor)
            self.flow = Flow(self.scheduler, layout, batches, frame_bytes, settings)
            self.executor.fill(self.flow.no_carry, 0.0)
            self.executor.fill(self.flow.carry, 1.0)
        except BaseException:
            self.executor.close()
            raise

    def _frame_type(self, device: Device, batches: Mapping[str, list[int]]) -> np.dtype[Any]:
        """The type of float frames, on which all engines have to agree."""
        types = {}
        for role, names in FRAME_TENSORS.items():
            tensors = device.engine_tensors(self.executor.engine(role, min(batches[role])))
            types.update({f"{name} of {role}": tensors[name] for name in names if name in tensors})
            if tensors.get("carry", CARRY_TYPE) != CARRY_TYPE:
                raise ModelError(f"The step takes carry as {tensors['carry']}, not as float32; export the model again.")
        if len(set(types.values())) != 1:
            found = ", ".join(f"{name} {dtype}" for name, dtype in types.items())
            raise ModelError(f"The engines disagree on the type of frames ({found}); export the model again.")
        return next(iter(types.values()))

    def _check_memory(
        self, device: Device, batches: Mapping[str, list[int]], frame_bytes: int, settings: Settings
    ) -> None:
        if settings.levels is None:
            return
        levels = settings.levels
        last = f"level {levels}"
        uses = [("ingest", max(batches["ingest"]), "level 1"), ("emit", max(batches["emit"]), last)]
        for level in range(1, levels + 1):
            # The largest batch a level runs: its pairs, or what there is an engine for.
            pairs = settings.chunk << (level - 1)
            batch = max((n for n in batches["step"] if n <= pairs), default=min(batches["step"]))
            uses += [("step", batch, f"level {level}"), ("finish", min(batches["finish"]), f"level {level}")]
        if not settings.overlap:
            uses = [(role, batch, SINGLE) for role, batch, _ in uses]
        uses = [(role, batch, lane_stream(s, lane)) for lane in range(settings.lanes) for role, batch, s in uses]
        scratch = self.executor.reserve(uses)
        needed = memory_needed(self.layout, batches, frame_bytes, settings, levels) + scratch
        free, total = device.memory_info()
        if needed > free:
            counts = f"{levels} levels, {settings.slots} slots, {settings.lanes} lanes and chunks of {settings.chunk}"
            raise MemoryShortage(
                f"{self.layout.name} with {counts} needs {needed // MEBIBYTE + 1} MiB of GPU memory, but only "
                f"{free // MEBIBYTE} of {total // MEBIBYTE} MiB are free; use fewer levels, slots, lanes or frames per "
                "push, or end other programs on this GPU."
            )
        self.executor.allocate_scratch()

    def close(self) -> None:
        if not self.closed:
            self.executor.close()
            self.closed = True
