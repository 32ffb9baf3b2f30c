"""Build recipes: which engines a deployment needs, written by vtsr-export, read wherever there is a GPU.

A recipe is `recipe.json` in a model folder, beside the graphs it names. `make_engines` builds them all
into the cache, tests each against ONNX Runtime and reports.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.errors import ModelError
from vtsr.runtime.engines.builder import build_engine, has_strong_typing, timing_cache_path
from vtsr.runtime.engines.cache import NAME, Built, EngineCache
from vtsr.runtime.engines.engine import Runner, load_engine
from vtsr.runtime.engines.layers import layer_names, layer_table
from vtsr.runtime.engines.platform import find_platform, import_tensorrt, primary_context
from vtsr.runtime.engines.request import PRECISIONS, BuildSettings, EngineRequest, ShapeRange
from vtsr.runtime.engines.selftest import judge, reference_outputs, sample_inputs

RECIPE_NAME = "recipe.json"
FORMAT = "vtsr-recipe-1"
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
        facts = json.loads(path.read_bytes())
        if facts["format"] != FORMAT:
            raise ModelError(f"{path} has the format {facts['format']!r}; export the model again.")
        engines = tuple(_read_engine(entry) for entry in facts["engines"])
        if not engines:
            raise ValueError("no engines")
        return Recipe(folder, str(facts["model"]), str(facts["precision"]), int(facts["levels"]), engines, facts)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(
            f"{folder} has no {RECIPE_NAME}; vtsr-export --fp16 -o {folder.name} writes one."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"The recipe {path} is damaged; export the model again.") from error


def _read_engine(entry: dict[str, Any]) -> RecipeEngine:
    graphs = {typing: (str(graph["file"]), str(graph["sha256"])) for typing, graph in entry["graphs"].items()}
    width, height = (int(n) for n in entry["size"])
    sound = (
        all(NAME.fullmatch(file) for file, _ in graphs.values())  # a plain name, in this folder
        and set(graphs) <= {STRONG, WEAK}
        and entry["role"] in ROLES
        and entry["precision"] in PRECISIONS
        and NAME.fullmatch(entry["name"])
    )
    if not sound:
        raise ValueError("an engine of the recipe")
    profile: dict[str, ShapeRange] = {}
    for name, shapes in entry["profile"].items():
        smallest, usual, largest = (tuple(int(n) for n in shape) for shape in shapes)
        profile[str(name)] = (smallest, usual, largest)
    layers = tuple(str(name) for name in entry["single_layers"])
    return RecipeEngine(
        entry["name"], entry["role"], entry["precision"], width, height, int(entry["batch"]), graphs, profile,
        layers, entry["storage"],
    )  # fmt: skip


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
