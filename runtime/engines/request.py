"""What an engine is made from: a graph, its shapes and the settings of the builder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
ShapeRange = tuple[Shape, Shape, Shape]  # smallest, most frequent, largest

BUILDER_VERSION = 1  # raise it whenever the builder makes another engine of the same request
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class BuildSettings:
    """Settings of the builder.

    workspace
        Largest scratch memory of a layer, bytes.
    optimization_level
        0 to 5, more is slower to build; None leaves TensorRT's default. TensorRT 8.5 has no levels.
    aux_streams
        Streams TensorRT may add to the caller's; 0 keeps every kernel on the caller's stream and priority.
    tf32
        Allow 10-bit mantissas in fp32 convolutions. Off: an fp32 engine is fp32.
    """

    workspace: int = 4 << 30
    optimization_level: int | None = None
    aux_streams: int = 0
    tf32: bool = False


@dataclass(frozen=True)
class EngineRequest:
    """One engine.

    Parameters
    ----------
    name
        File name of the engine without its key, e.g. ``default-fp16-step-1280x720-b2``.
    graph
        The ONNX file's bytes.
    precision
        ``"fp32"``, ``"fp16"`` or ``"int8"``: of the graph if strongly typed, else what the builder may use.
    strongly_typed
        Whether the graph states all types itself (TensorRT 10 and later) or is fp32-typed (8.x).
    profile
        Smallest, most frequent and largest shape of every input, all equal for a static engine.
    single_layers
        Layers (names of ONNX nodes) that stay fp32 where the builder chooses types.
    """

    name: str
    graph: bytes = field(repr=False)
    precision: str
    strongly_typed: bool
    profile: Mapping[str, ShapeRange]
    single_layers: tuple[str, ...] = ()
    settings: BuildSettings = BuildSettings()

    def invalidates(self) -> dict[str, Any]:
        """Everything about the request that makes another engine if it changes."""
        settings = self.settings
        return {
            "graph": hashlib.sha256(self.graph).hexdigest(),
            "precision": self.precision,
            "strongly_typed": self.strongly_typed,
            "profile": {name: [list(shape) for shape in shapes] for name, shapes in self.profile.items()},
            "single_layers": sorted(self.single_layers) if not self.strongly_typed else [],
            "workspace": settings.workspace,
            "optimization_level": settings.optimization_level,
            "aux_streams": settings.aux_streams,
            "tf32": settings.tf32,
            "builder": BUILDER_VERSION,
        }


def key_of(invalidates: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of ``invalidates``."""
    text = json.dumps(invalidates, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
