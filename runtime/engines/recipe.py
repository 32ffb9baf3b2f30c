"""Build recipes: which engines a deployment needs, written by vtsr-export, read wherever there is a GPU.

A recipe is `recipe.json` in a model folder, beside the graphs it names. `make_engines` builds them all
into the cache, tests each against ONNX Runtime and reports.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.errors import ModelError
from vtsr.options import MAX_LEVELS
from vtsr.runtime.engines.builder import build_engine, has_strong_typing, timing_cache_path
from vtsr.runtime.engines.cache import NAME, Built, EngineCache
from vtsr.runtime.engines.engine import Runner, load_engine
from vtsr.runtime.engines.layers import layer_names, layer_table
from vtsr.runtime.engines.platform import find_platform, import_tensorrt, primary_context
from vtsr.runtime.engines.request import PRECISIONS, BuildSettings, EngineRequest, ShapeRange
from vtsr.runtime.engines.selftest import judge, reference_outputs, sample_inputs
from vtsr.runtime.strict import SHA256, Malformed, check_keys, expect, is_int, read_json

RECIPE_NAME = "recipe.json"
FORMAT = "vtsr-recipe-1"
MAX_ENGINES = 1000
MAX_SIDE = MAX_DIMENSION = 1 << 16  # pixels, and elements of one dimension
MAX_RANK = 8
MAX_ELEMENTS = 1 << 32  # of one tensor
ROLES = ("ingest", "step", "finish", "emit")
STRONG, WEAK = "strong", "weak"  # typing of a graph: all types stated (10 and later), or fp32-typed (8.x)


@dataclass(frozen=True)
class RecipeEngine:
    """One engine of a recipe. ``graphs`` maps `STRONG` and `WEAK` to (file name, SHA-256)."""

    name: str
    role: str
    precision: str
    width: int
    height: int
    batch: int
    graphs: Mapping[str, tuple[str, str]]
    profile: Mapping[str, ShapeRange]
    single_layers: tuple[str, ...] = ()
    storage: Mapping[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON; `_read_engine` reads it back."""
        return {
            "name": self.name,
            "role": self.role,
            "precision": self.precision,
            "size": [self.width, self.height],
            "batch": self.batch,
            "storage": dict(self.storage) if self.storage is not None else None,
            "graphs": {t: {"file": file, "sha256": digest} for t, (file, digest) in self.graphs.items()},
            "profile": {name: [list(shape) for shape in shapes] for name, shapes in self.profile.items()},
            "single_layers": list(self.single_layers),
        }


@dataclass(frozen=True)
class Recipe:
    """All engines of one model at the sizes and levels it was exported for."""

    folder: Path
    model: str
    precision: str
    levels: int
    engines: tuple[RecipeEngine, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def request(self, engine: RecipeEngine, strong: bool, settings: BuildSettings | None = None) -> EngineRequest:
        """The request for one of the engines. Raises `ModelError` if its graph is missing or altered."""
        typing = STRONG if strong else WEAK
        if typing not in engine.graphs:
            raise ModelError(
                f"{self.folder} has no graph of {engine.name} for this TensorRT version; export the model again "
                f"without --flavour, or with --flavour {typing}."
            )
        file, digest = engine.graphs[typing]
        try:
            graph = (self.folder / file).read_bytes()
        except OSError as error:
            raise ModelError(f"The graph {self.folder / file} cannot be read: {error.strerror}.") from error
        if hashlib.sha256(graph).hexdigest() != digest:
            raise ModelError(f"The graph {self.folder / file} is damaged; export the model again.")
        layers = () if strong else engine.single_layers
        return EngineRequest(
            engine.name, graph, engine.precision, strong, engine.profile, layers, settings or BuildSettings()
        )


def open_recipe(folder: str | Path) -> Recipe:
    """The recipe in a folder. Raises `ModelError` if there is none or it is damaged."""
    folder = Path(folder)
    path = folder / RECIPE_NAME
    try:
        facts = read_json(path)
        if isinstance(facts, dict) and isinstance(facts.get("format"), str) and facts["format"] != FORMAT:
            raise ModelError(f"{path} has the format {facts['format'][:60]!r}; export the model again.")
        check_keys(facts, ("format", "model", "precision", "levels", "engines"))
        expect(facts["format"] == FORMAT and isinstance(facts["model"], str), "its format or model is no text")
        expect(facts["precision"] in PRECISIONS, "its precision is unknown")
        expect(is_int(facts["levels"], 1, MAX_LEVELS), "its levels are out of range")
        expect(isinstance(facts["engines"], list) and 0 < len(facts["engines"]) <= MAX_ENGINES, "it has no engines")
        engines = tuple(_read_engine(entry) for entry in facts["engines"])
        return Recipe(folder, facts["model"], facts["precision"], facts["levels"], engines, facts)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(
            f"{folder} has no {RECIPE_NAME}; vtsr-export --fp16 -o {folder.name} writes one."
        ) from error
    except Malformed as error:
        raise ModelError(f"The recipe {path} is damaged ({error}); export the model again.") from error
    except OSError as error:
        raise ModelError(f"The recipe {path} cannot be read: {error.strerror or error}.") from error


def _read_engine(entry: Any) -> RecipeEngine:
    check_keys(
        entry, ("name", "role", "precision", "size", "batch", "storage", "graphs", "profile", "single_layers"),
        of="an engine",
    )  # fmt: skip
    name, size, batch = entry["name"], entry["size"], entry["batch"]
    expect(isinstance(name, str) and NAME.fullmatch(name) is not None, "an engine's name cannot be part of a file name")
    expect(entry["role"] in ROLES, f"the role of {name}")
    expect(entry["precision"] in PRECISIONS, f"the precision of {name}")
    sized = isinstance(size, list) and len(size) == 2 and all(is_int(n, 1, MAX_SIDE) for n in size)
    expect(sized, f"the size of {name}")
    expect(is_int(batch, 1, MAX_DIMENSION), f"the batch of {name}")
    expect(entry["storage"] is None or isinstance(entry["storage"], dict), f"the storage of {name}")
    layers = entry["single_layers"]
    expect(isinstance(layers, list) and all(isinstance(layer, str) for layer in layers), f"the layers of {name}")
    graphs: dict[str, tuple[str, str]] = {}
    expect(isinstance(entry["graphs"], dict) and set(entry["graphs"]) <= {STRONG, WEAK}, f"the graphs of {name}")
    for typing, graph in entry["graphs"].items():
        check_keys(graph, ("file", "sha256"), of=f"a graph of {name}")
        file, digest = graph["file"], graph["sha256"]
        # A plain name, in this folder.
        expect(isinstance(file, str) and NAME.fullmatch(file) is not None, f"the file of a graph of {name}")
        expect(isinstance(digest, str) and SHA256.fullmatch(digest) is not None, f"the SHA-256 of a graph of {name}")
        graphs[typing] = (file, digest)
    expect(isinstance(entry["profile"], dict), f"the profile of {name}")
    profile = {tensor: _shape_range(shapes, f"the shapes of {name}") for tensor, shapes in entry["profile"].items()}
    return RecipeEngine(
        name, entry["role"], entry["precision"], size[0], size[1], batch, graphs, profile, tuple(layers),
        entry["storage"],
    )  # fmt: skip


def _shape_range(shapes: Any, words: str) -> ShapeRange:
    """Smallest, usual and largest shape of a tensor."""
    expect(isinstance(shapes, list) and len(shapes) == 3, words)
    expect(all(isinstance(shape, list) and len(shape) <= MAX_RANK for shape in shapes), words)
    expect(all(is_int(n, 0, MAX_DIMENSION) for shape in shapes for n in shape), words)
    smallest, usual, largest = (tuple(shape) for shape in shapes)
    expect(len(smallest) == len(usual) == len(largest), words)
    expect(all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True)), words)
    expect(math.prod(largest) <= MAX_ELEMENTS, words)
    return smallest, usual, largest


def obtain_engine(
    request: EngineRequest,
    cache: EngineCache,
    platform: Mapping[str, Any],
    cuda: Any,
    *,
    progress: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """The engine of a request and its manifest: from the cache, or built, tested and kept.

    Needs a current CUDA context. Raises `ModelError` if it cannot be built or computes something else than
    its graph; nothing is kept then.
    """

    def build() -> Built:
        timings = timing_cache_path(cache.folder, platform)
        built = build_engine(request, timings, progress=progress)
        engine = load_engine(built.plan)
        return Built(built.plan, {**built.facts, "self_test": try_engine(request, engine, cuda)})

    return cache.get(request, platform, load_engine, build)


def try_engine(request: EngineRequest, engine: Any, cuda: Any) -> dict[str, Any]:
    """Figures of the self-test at the usual shapes, and the time of a call. Raises `ModelError` if it fails."""
    shapes = {name: usual for name, (_, usual, _) in request.profile.items()}
    feeds = sample_inputs(request.graph, shapes)
    reference = reference_outputs(request.graph, feeds)
    runner = Runner(engine, cuda, shapes)
    try:
        figures = judge(request, runner.run(feeds), reference)
        return {"outputs": figures, "ms": round(runner.milliseconds(), 4)}
    finally:
        runner.close()


def make_engines(
    recipe: Recipe,
    cache: EngineCache,
    say: Callable[[str], None] = print,
    *,
    settings: BuildSettings | None = None,
    layers: bool = False,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Builds all engines of a recipe, or finds them in the cache; returns their manifests."""
    trt = import_tensorrt()
    platform = find_platform()
    strong = has_strong_typing(trt)
    manifests = []
    with primary_context() as cuda:
        for entry in recipe.engines:
            request = recipe.request(entry, strong, settings)
            engine, manifest = obtain_engine(request, cache, platform, cuda, progress=progress)
            manifests.append(manifest)
            say(summary(manifest))
            if layers:
                runner = Runner(engine, cuda, {name: usual for name, (_, usual, _) in request.profile.items()})
                try:
                    say(layer_table(layer_names(trt, engine), runner.layer_times()))
                finally:
                    runner.close()
            del engine
    return manifests


def summary(manifest: Mapping[str, Any]) -> str:
    """One line about an engine: name, size, speed, agreement with the reference."""
    facts = manifest["facts"]
    parts = [f"{manifest['name']}: {manifest['plan']['bytes'] / 2**20:.1f} MiB"]
    if "build_seconds" in facts:
        parts.append(f"built in {facts['build_seconds']:.0f} s")
    tested = facts.get("self_test", {})
    if tested:
        parts.append(f"{tested['ms']:.3f} ms per call")
        worst = [f["psnr"] for f in tested["outputs"].values() if "psnr" in f]
        unequal = [f["unequal"] for f in tested["outputs"].values() if "unequal" in f]
        if worst:
            parts.append(f"{min(worst):.1f} dB from the reference")
        if unequal:
            parts.append(f"{100 * max(unequal):.3f} % of the samples rounded otherwise")
    return ", ".join(parts)
