"""A model in the form a deployment needs: graphs of one precision at fixed sizes, checked, with a build recipe.

The result is a model folder like any other (it runs in ONNX Runtime), with one graph per engine beside it:

    step.onnx, finish.onnx, ingest_*, emit_*      any size, for ONNX Runtime
    step-1280x720-b2.strong.onnx                  fixed size and batch, all types stated: TensorRT 10 and later
    step-1280x720-b2.weak.onnx                    the same fp32-typed, opset 17: TensorRT 8
    ingest-nv12-bt709-limited-1280x720-b1.onnx    pixels in and out, the same for both
    recipe.json                                   which engine is made of which

Level k of the recursion pushes 2^(k-1) pairs at once: for N levels there are steps of batch 1, 2 .. 2^(N-1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

import vtsr
from vtsr.errors import OptionError
from vtsr.export.check import Figures, check_fixed, check_pixels, check_step
from vtsr.export.folder import write_folder
from vtsr.export.graph import freeze, simplified, with_opset
from vtsr.export.half import half_nodes, to_half
from vtsr.export.pixels import Storage, fixed_emit, fixed_ingest, padded, plane_shapes
from vtsr.options import MAX_LEVELS
from vtsr.runtime.engines.cache import NAME
from vtsr.runtime.engines.recipe import FORMAT as RECIPE_FORMAT
from vtsr.runtime.engines.recipe import RECIPE_NAME, STRONG, WEAK, RecipeEngine
from vtsr.runtime.engines.request import PRECISIONS, ShapeRange
from vtsr.runtime.models import FORMAT, MANIFEST_NAME, ModelFolder

WEAK_OPSET = 17  # the newest that TensorRT 8.5 documents
STRONG_OPSETS = {"fp32": 17, "fp16": 18, "int8": 19}  # fp16 scales of Q/DQ need 19
MIN_SIDE, MAX_SIDE = 16, 16384  # pixels
MIN_DYNAMIC = 32  # pixels, smallest side of a dynamic engine
FLAVOURS = (STRONG, WEAK)
PIXEL_GRAPHS = ("finish.", "ingest_", "emit_")  # beginnings of the files that are the same in all precisions
COST_FACTS = ("parameters", "multiply_adds_per_pixel")  # taken over from the source's manifest
Quantise = Callable[[onnx.ModelProto], onnx.ModelProto]


@dataclass(frozen=True)
class Plan:
    """What to export: precision, picture sizes (width, height), levels, pixel storages, flavours, opset."""

    precision: str
    sizes: Sequence[tuple[int, int]] = ()
    levels: int = 2
    storages: Sequence[Storage] = ()
    flavours: Sequence[str] = FLAVOURS
    opset: int | None = None
    dynamic: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise OptionError(f"There is no precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}.")
        if not 1 <= self.levels <= MAX_LEVELS:
            raise OptionError(f"The number of levels must be 1 to {MAX_LEVELS}, not {self.levels}.")
        for width, height in self.sizes:
            if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
                raise OptionError(f"A size must be {MIN_SIDE} to {MAX_SIDE} pixels each way, not {width}x{height}.")
        quantised = self.precision == "int8" and STRONG in self.flavours
        if quantised and self.opset is not None and self.opset < STRONG_OPSETS["int8"]:
            raise OptionError("Strongly typed INT8 graphs need opset 19; add --flavour weak for opset 17 or 18.")

    @property
    def strong_opset(self) -> int:
        return self.opset or STRONG_OPSETS[self.precision]

    @property
    def weak_opset(self) -> int:
        return min(self.opset or WEAK_OPSET, WEAK_OPSET)


def typed_step(step: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The strongly typed graph of ``step`` in the precision and opset of ``plan``; INT8 is in it already."""
    if plan.precision == "fp32":
        return with_opset(simplified(step), plan.strong_opset)
    return to_half(with_opset(simplified(step), plan.strong_opset))


def _opset(model: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain == "")


def export_deployment(
    source: ModelFolder, folder: Path, plan: Plan, quantise: Quantise | None = None, extra: dict[str, Any] | None = None
) -> tuple[dict[str, Any], Figures]:
    """Writes the deployment folder of a fp32 model; returns its manifest and the figures of its check.

    Parameters
    ----------
    source
        The fp32 model.
    quantise
        Makes the Q/DQ graph of the fp32 step graph; needed for INT8.
    extra
        Facts for the manifest, such as the gate of the calibration.

    Raises `ModelError` if the new graphs do not compute what the old ones do; nothing is written then.
    """
    if not NAME.fullmatch(source.name):
        raise OptionError(f"The name {source.name!r} cannot be part of file names; give another one with --name.")
    if source.precision != "fp32":
        raise OptionError(f"The model {source.name} is {source.precision}; export from the fp32 one it was made of.")
    original = onnx.load_from_string(source.read("step.onnx"))
    base = simplified(original)
    if plan.precision == "int8":
        if quantise is None:
            raise OptionError("INT8 needs the ranges of vtsr-calibrate; give them with --calibration.")
        base = quantise(original)
    step = typed_step(base, plan)
    figures = check_step(base if plan.precision == "int8" else original, original, step, plan)
    files = {name: source.read(name) for name in source.files if name.startswith(PIXEL_GRAPHS)}
    files["step.onnx"] = step.SerializeToString(deterministic=True)
    flavours = _flavours(base, step, plan)
    fixed = check_fixed(flavours, original, plan.precision)
    engines = [*_step_engines(source.name, base, flavours, plan, files), *_pixel_engines(source, plan, files)]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": f"{source.name}-{plan.precision}",
        "precision": plan.precision,
        "consistency": source.consistency,
        "opset": _opset(step),
        "vtsr": vtsr.__version__,
        **{name: value for name, value in source.facts.items() if name in COST_FACTS},
        "source": {"name": source.name, "step": source.files["step.onnx"]},
        "check": {**figures.facts(), "fixed_shapes": fixed},
        "facts": {**source.facts.get("facts", {}), **(extra or {})},
        "files": {n: {"sha256": _digest(d), "bytes": len(d)} for n, d in sorted(files.items())},
    }
    recipe = {
        "format": RECIPE_FORMAT,
        "model": source.name,
        "precision": plan.precision,
        "levels": plan.levels,
        "engines": [engine.facts() for engine in engines],
    }
    files[MANIFEST_NAME] = (json.dumps(manifest, indent=1) + "\n").encode()
    if engines:
        files[RECIPE_NAME] = (json.dumps(recipe, indent=1) + "\n").encode()
    write_folder(folder, files)
    return manifest, figures


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _add(files: dict[str, bytes], name: str, model: onnx.ModelProto) -> tuple[str, str]:
    files[name] = model.SerializeToString(deterministic=True)
    return name, _digest(files[name])


def step_shapes(batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs of a step, for padded pictures."""
    picture = (3, *padded(height, width))
    return {"u": (1, *picture), "a_u": (1, *picture), "carry": (1, 1, 1, 1), "v": (batch, *picture)}


def _fixed(shapes: dict[str, tuple[int, ...]]) -> dict[str, ShapeRange]:
    return {name: (shape, shape, shape) for name, shape in shapes.items()}


def _flavours(base: onnx.ModelProto, step: onnx.ModelProto, plan: Plan) -> dict[str, onnx.ModelProto]:
    """The step graph in each typing that engines are to be made of."""
    if not plan.sizes:
        return {}
    graphs = {STRONG: step, WEAK: with_opset(base, plan.weak_opset)}
    return {typing: graphs[typing] for typing in plan.flavours}


def _step_engines(
    model: str, base: onnx.ModelProto, graphs: dict[str, onnx.ModelProto], plan: Plan, files: dict[str, bytes]
) -> list[RecipeEngine]:
    """Step engines of all sizes and batches; their graphs are added to ``files``."""
    single = _single_layers(base) if plan.precision != "fp32" else ()
    engines = []
    batches = [2**level for level in range(plan.levels)]
    prefix = f"{model}-{plan.precision}-step"
    if plan.dynamic and plan.sizes:
        width, height = (max(size[axis] for size in plan.sizes) for axis in (0, 1))
        usual = step_shapes(batches[-1], plan.sizes[0][1], plan.sizes[0][0])
        smallest, largest = step_shapes(1, MIN_DYNAMIC, MIN_DYNAMIC), step_shapes(batches[-1], height, width)
        stored = {
            typing: _add(files, f"step-dynamic.{typing}.onnx", graph) for typing, graph in graphs.items()
        }
        profile = {name: (smallest[name], usual[name], largest[name]) for name in usual}
        name = f"{prefix}-dynamic-{width}x{height}-b{batches[-1]}"
        return [RecipeEngine(name, "step", plan.precision, width, height, batches[-1], stored, profile, single)]
    for width, height in plan.sizes:
        for batch in batches:
            shapes = step_shapes(batch, height, width)
            label = f"{width}x{height}-b{batch}"
            stored = {}
            for typing, graph in graphs.items():
                suffix = "" if plan.precision == "fp32" else f".{typing}"
                stored[typing] = _add(files, f"step-{label}{suffix}.onnx", freeze(graph, shapes))
            engines.append(
                RecipeEngine(
                    f"{prefix}-{label}", "step", plan.precision, width, height, batch, stored, _fixed(shapes), single
                )
            )
    return engines


def _single_layers(base: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that stay fp32 where TensorRT chooses types."""
    half = half_nodes(base)
    return tuple(node.name for node in base.graph.node if node.name and node.output[0] not in half)


def _pixel_engines(source: ModelFolder, plan: Plan, files: dict[str, bytes]) -> list[RecipeEngine]:
    """Engines of finish, ingest and emit, always fp32; their graphs are added to ``files``.

    ingest takes one picture; emit 2 and 2^levels, what a level gives out for one frame and what the last
    level gives out for one input frame.
    """
    finish = with_opset(simplified(onnx.load_from_string(source.read("finish.onnx"))), WEAK_OPSET)
    engines = []

    def add(
        name: str, role: str, size: tuple[int, int], batch: int, graph: onnx.ModelProto, shapes: Any, kind: Any
    ) -> None:
        entry = _add(files, f"{name}.onnx", graph)
        stored = {typing: entry for typing in plan.flavours}
        engines.append(RecipeEngine(name, role, "fp32", *size, batch, stored, _fixed(shapes), (), kind))

    for size in plan.sizes:
        width, height = size
        label = f"{width}x{height}"
        picture = (1, 3, *padded(height, width))
        shapes: dict[str, tuple[int, ...]] = {"u": picture, "a_u": picture}
        add(f"finish-{label}", "finish", size, 1, freeze(finish, shapes), shapes, None)
        for kind in plan.storages:
            ingest = fixed_ingest(kind, 1, height, width)
            name = f"ingest-{kind.label}-{label}-b1"
            add(name, "ingest", size, 1, ingest, plane_shapes(kind, 1, height, width), kind.facts())
            for batch in sorted({2, 2**plan.levels}):
                shapes = {"rgb": (batch, *picture[1:])}
                emit = fixed_emit(kind, batch, height, width)
                check_pixels(ingest.SerializeToString(), emit.SerializeToString(), kind, height, width)
                add(f"emit-{kind.label}-{label}-b{batch}", "emit", size, batch, emit, shapes, kind.facts())
    return engines
