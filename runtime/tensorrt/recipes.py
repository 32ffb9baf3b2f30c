"""Engines of a model folder that vtsr-export has written: from the cache, or built and tested at the first use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtsr.errors import ModelError
from vtsr.runtime.engines.builder import has_strong_typing
from vtsr.runtime.engines.cache import EngineCache
from vtsr.runtime.engines.platform import find_platform, import_pycuda, import_tensorrt
from vtsr.runtime.engines.recipe import Recipe, RecipeEngine, obtain_engine
from vtsr.runtime.tensorrt.layout import RGB_LIKE, Layout

STEP_INPUT = "v"


class RecipeEngines:
    """The engines of a recipe, for one GPU. Needs the GPU's context to be current wherever it is used."""

    def __init__(self, recipe: Recipe, device: int = 0, cache: EngineCache | None = None) -> None:
        self.name = f"{recipe.model}-{recipe.precision}"
        self.precision = recipe.precision
        self._recipe = recipe
        self._cache = cache or EngineCache()
        self._device = device
        self._loaded: dict[str, Any] = {}

    def batches(self, role: str, layout: Layout) -> Sequence[int]:
        return sorted(set(matching_batches(self._recipe, role, layout)))

    def engine(self, role: str, batch: int, layout: Layout) -> Any:
        """Raises `ModelError` saying how to export the model if the recipe has no such engine."""
        entry = matching_engine(self._recipe, role, batch, layout)
        if entry is None:
            raise ModelError(
                f"The model {self.name} has no {role} engine for {layout.name} and batches of {batch}; run vtsr-export "
                f"again with {export_options(layout)}."
            )
        if entry.name not in self._loaded:
            strong = has_strong_typing(import_tensorrt())
            request = self._recipe.request(entry, strong)
            platform = find_platform(self._device)
            self._loaded[entry.name] = obtain_engine(request, self._cache, platform, import_pycuda())[0]
        return self._loaded[entry.name]

    def close(self) -> None:
        self._loaded.clear()


def export_options(layout: Layout) -> str:
    """Options of vtsr-export that make engines for pictures of ``layout``."""
    options = f"--size {layout.width}x{layout.height} --pixels {layout.name.split()[0]}"
    if layout.format.sampling not in RGB_LIKE:
        options += f" --matrix {layout.format.matrix}{' --full-range' if layout.format.full_range else ''}"
    return options


def matching_batches(recipe: Recipe, role: str, layout: Layout) -> list[int]:
    """Batch sizes the engines of a recipe offer for pictures of ``layout``."""
    return [batch for engine in recipe.engines for batch in _batches(engine, role, layout)]


def matching_engine(recipe: Recipe, role: str, batch: int, layout: Layout) -> RecipeEngine | None:
    """The engine of a recipe for a batch of pictures of ``layout``; None if there is none."""
    return next((engine for engine in recipe.engines if batch in _batches(engine, role, layout)), None)


def _batches(engine: RecipeEngine, role: str, layout: Layout) -> list[int]:
    if engine.role != role:
        return []
    if role in ("ingest", "emit"):
        fits = (engine.width, engine.height) == (layout.width, layout.height) and layout.same_storage(engine.storage)
        return [engine.batch] if fits else []
    # Steps see padded pictures: any picture size with the same padding will do.
    smallest, _, largest = engine.profile["u" if role == "finish" else STEP_INPUT]
    if not all(low <= n <= high for low, n, high in zip(smallest[2:], layout.padded, largest[2:], strict=True)):
        return []
    if role == "finish":
        return [engine.batch]
    return [n for n in (1 << k for k in range(largest[0].bit_length())) if smallest[0] <= n <= largest[0]]
