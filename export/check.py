"""The numeric check at the end of every export: the new graph against the fp32 one, through the recursion.

Rendered frames are upconverted with f, f2 and f3 by both graphs in ONNX Runtime; PSNR is taken between their
outputs, before rounding to codes. An fp16 graph is run twice: as it is, which
shows that the graph is right, and with every tensor rounded (`vtsr.export.emulation`), which shows what a
GPU's half precision costs; the lower figure counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from vtsr.errors import ModelError
from vtsr.export.emulation import rounded
from vtsr.export.graph import freeze
from vtsr.export.pixels import Storage, plane_shapes
from vtsr.runtime.demo import render_demo
from vtsr.runtime.engines.selftest import psnr, reference_outputs
from vtsr.runtime.models import ModelFolder
from vtsr.runtime.onnx_backend import OnnxBackend
from vtsr.runtime.recursion import Recursion

if TYPE_CHECKING:
    from vtsr.export.deploy import Plan

LEVELS = 3
FRAMES = 4
CROP = (slice(96, 224), slice(128, 320))  # rows and columns of the demo: the tram, trees and the kerb
MIN_PSNR = {"fp32": 100.0, "fp16": 55.0, "int8": 25.0}  # dB; INT8 has a gate of its own in vtsr.calibration
MIN_PSNR_OF_FLAVOURS = 45.0  # dB between the fp16 and the fp32 form of one INT8 graph

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """PSNR in dB between outputs of two graphs for f, f2, f3, and how they were run."""

    psnr: Mapping[str, float]
    how: str

    @property
    def worst(self) -> float:
        return min(self.psnr.values())

    def facts(self) -> dict[str, Any]:
        return {"against": f"fp32 in ONNX Runtime {onnxruntime.__version__}", "how": self.how, "psnr": dict(self.psnr)}

    def sentence(self) -> str:
        figures = ", ".join(f"{level} {value:.1f}" for level, value in self.psnr.items())
        return f"PSNR against fp32: {figures} dB ({self.how})"


@dataclass(frozen=True)
class _Graphs(ModelFolder):
    """A model folder in memory."""

    data: Mapping[str, bytes] | None = None

    def read(self, file_name: str) -> bytes:
        return (self.data or {})[file_name]


def _finish_graph() -> bytes:
    """Stands in for finish.onnx, which streams that are never flushed do not run."""
    value = onnx.helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("halves", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["u"], ["halves"])], "finish", [value], [out])
    opsets = [onnx.helper.make_opsetid("", 17)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def run_levels(step: onnx.ModelProto, frames: Sequence[Array], threads: int | None = 1) -> list[Array]:
    """Outputs of f, f2, ... of the recursion over ``frames`` (1, 3, H, W), each (N, 3, H, W)."""
    data = {"step.onnx": step.SerializeToString(), "finish.onnx": _finish_graph()}
    model = _Graphs(path=Path(), name="check", precision="", consistency=True, files={}, data=data)
    results = []
    for levels in range(1, LEVELS + 1):
        backend = OnnxBackend(model, threads)
        recursion = Recursion(backend, levels)
        results.append(np.concatenate([tensor for frame in frames for tensor in recursion.push(frame)]))
        backend.close()
    return results


def demo_frames(count: int = FRAMES) -> list[Array]:
    """Frames of the rendered demo clip, cropped, as the ingest graph gives them."""
    pictures = (frame.image[CROP] for frame in islice(render_demo(count), count))
    return [np.ascontiguousarray(p.transpose(2, 0, 1)[None] / np.float32(255), np.float32) for p in pictures]


def compare(reference: Iterable[Array], candidate: Iterable[Array], how: str) -> Figures:
    """`Figures` of two lists of outputs of f, f2, ..."""
    pairs = zip(reference, candidate, strict=True)
    names = ("f", *(f"f{level}" for level in range(2, LEVELS + 1)))
    return Figures({name: round(psnr(b, a), 2) for name, (a, b) in zip(names, pairs, strict=False)}, how)


def check_fixed(graphs: Mapping[str, onnx.ModelProto], original: onnx.ModelProto, precision: str) -> dict[str, float]:
    """PSNR in dB of one step of each graph with fixed shapes against ``original``, by name.

    Raises `ModelError` if one is further off than its precision explains.
    """
    u, *v = demo_frames(3)
    feeds = {"u": u, "a_u": u, "carry": np.ones((1, 1, 1, 1), np.float32), "v": np.concatenate(v)}
    reference = reference_outputs(original.SerializeToString(), feeds)["halves"]
    shapes = {name: value.shape for name, value in feeds.items()}
    figures = {}
    for name, graph in graphs.items():
        halves = reference_outputs(freeze(graph, shapes).SerializeToString(), feeds)["halves"]
        figures[name] = round(psnr(halves, reference), 2)
        if not figures[name] >= MIN_PSNR[precision]:
            raise ModelError(f"The {name} graph is wrong, {figures[name]} dB from fp32; please report this.")
    return figures


def check_pixels(ingest: bytes, emit: bytes, kind: Storage, height: int, width: int) -> None:
    """Raises `ModelError` unless any stored picture comes out of emit as it went into ingest."""
    planes = random_planes(kind, 1, height, width)
    rgb = reference_outputs(ingest, planes)["rgb"]
    batch = onnx.load_from_string(emit).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    found = reference_outputs(emit, {"rgb": np.repeat(rgb, batch, axis=0)})
    for name, plane in planes.items():
        if not all(np.array_equal(picture, plane[0]) for picture in found[name]):
            raise ModelError(f"The graphs for {kind.label} change the plane {name}; please report this.")


def random_planes(kind: Storage, batch: int, height: int, width: int, seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """Stored planes with every code equally likely, by name."""
    rng = np.random.default_rng(seed)
    planes: dict[str, NDArray[np.uint8]] = {}
    for name, shape in plane_shapes(kind, batch, height, width).items():
        if kind.bits == 8:
            planes[name] = rng.integers(0, 256, shape, np.uint8)
        else:
            codes = rng.integers(0, 2**kind.bits, (*shape[:-1], shape[-1] // 2), np.uint32) * kind.unit
            planes[name] = codes.astype("<u2").view(np.uint8).reshape(shape)
    return planes


def check_step(base: onnx.ModelProto, original: onnx.ModelProto, step: onnx.ModelProto, plan: Plan) -> Figures:
    """Figures of ``step`` against the fp32 graph ``original``.

    ``base`` is what ``step`` was made from: ``original`` itself, or its fp32-typed Q/DQ form. Raises
    `ModelError` if the graph is further off than its precision explains.
    """
    frames = demo_frames()
    reference = run_levels(original, frames)
    results = [compare(reference, run_levels(step, frames), "as exported")]
    if plan.precision == "fp16":
        results.append(compare(reference, run_levels(rounded(base), frames), "every tensor rounded to fp16"))
    if plan.precision == "int8":
        flavours = compare(run_levels(base, frames), run_levels(step, frames), "fp16 against fp32 scales")
        if not flavours.worst >= MIN_PSNR_OF_FLAVOURS:
            raise ModelError(f"The two INT8 graphs differ: {flavours.sentence()}; nothing was exported.")
    figures = min(results, key=lambda result: result.worst)
    if not figures.worst >= MIN_PSNR[plan.precision]:
        raise ModelError(
            f"The {plan.precision} graph is too far from fp32, {figures.worst:.1f} dB instead of "
            f"{MIN_PSNR[plan.precision]:g}; export this model in fp32."
        )
    return figures
