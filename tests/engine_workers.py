"""What the engine cache's tests ask for, and the processes that ask: in a module that new processes can import."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from vtsr.runtime.engines.cache import Built, EngineCache
from vtsr.runtime.engines.request import EngineRequest

PLATFORM = {"TensorRT": "10.16.1", "GPU": "NVIDIA H200", "compute capability": "9.0", "driver": "580.95.05"}
PLAN = bytes(range(256)) * 8


def request(**changes: Any) -> EngineRequest:
    shape = (1, 3, 32, 64)
    fields: dict[str, Any] = {
        "name": "default-fp16-step-64x32-b1",
        "graph": b"onnx",
        "precision": "fp16",
        "strongly_typed": True,
        "profile": {"u": (shape, shape, shape)},
    }
    return EngineRequest(**{**fields, **changes})


def contend(folder: str, log: str, start: Any) -> None:
    """One of several processes that want the same engine at once."""

    def build() -> Built:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return Built(PLAN, {})

    start.wait()
    cache = EngineCache(folder, lambda line: None)
    plan, _ = cache.get(request(), PLATFORM, bytes, build)
    if plan != PLAN:
        sys.exit(1)


def die_while_building(folder: str) -> None:
    def build() -> Built:
        os._exit(9)

    EngineCache(folder, lambda line: None).get(request(), PLATFORM, bytes, build)
