"""Real engines of a small model on a real GPU: `pytest -m gpu`. Everything else is checked without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtsr.errors import ModelError
from vtsr.runtime.engines.platform import find_platform, import_tensorrt, primary_context, what_is_missing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing())),
    pytest.mark.timeout(900),
]

FOLDER_VARIABLE = "VTSR_GPU_TEST_FOLDER"


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment folder: made here, or (where torch and onnx are not) carried along in $VTSR_GPU_TEST_FOLDER."""
    import os

    carried = os.environ.get(FOLDER_VARIABLE)
    if carried:
        return Path(carried) / request.param
    pytest.importorskip("onnx")
    from vtsr.export.cli import main

    model = request.getfixturevalue("tiny_model")
    out = tmp_path_factory.mktemp("gpu") / request.param
    options = ["--size", "96x64", "--levels", "2", "--pixels", "rgb24", "--pixels", "p010le", "--onnx-only"]
    assert main(["--model", str(model), f"--{request.param}", *options, "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def cuda() -> Iterator[Any]:
    with primary_context() as driver:
        yield driver


def cache_of(folder: Path) -> tuple[Any, list[str]]:
    from vtsr.runtime.engines.cache import EngineCache

    said: list[str] = []
    return EngineCache(folder, said.append), said


def test_every_engine_is_built_passes_its_self_test_and_is_found_again(deployed: Path, tmp_path: Path) -> None:
    from vtsr.runtime.engines.recipe import make_engines, open_recipe

    cache, said = cache_of(tmp_path)
    recipe = open_recipe(deployed)
    lines: list[str] = []
    manifests = make_engines(recipe, cache, lines.append, progress=False)
    assert len(manifests) == len(recipe.engines) == len(said)
    assert all("ms" in m["facts"]["self_test"] for m in manifests)
    make_engines(recipe, cache, lines.append, progress=False)
    assert len(said) == len(recipe.engines)  # nothing was built again


def step_request(deployed: Path) -> Any:
    from vtsr.runtime.engines.builder import has_strong_typing
    from vtsr.runtime.engines.recipe import open_recipe

    recipe = open_recipe(deployed)
    entry = next(e for e in recipe.engines if e.role == "step" and e.batch == 2)
    return recipe.request(entry, has_strong_typing(import_tensorrt()))


def test_a_damaged_engine_is_rebuilt(deployed: Path, tmp_path: Path, cuda: Any) -> None:
    from vtsr.runtime.engines.recipe import obtain_engine

    cache, said = cache_of(tmp_path)
    request, machine = step_request(deployed), find_platform()
    obtain_engine(request, cache, machine, cuda, progress=False)
    (entry,) = cache.entries()
    data = bytearray(entry.path.read_bytes())
    data[len(data) // 2] ^= 1
    entry.path.write_bytes(data)
    engine, _ = obtain_engine(request, cache, machine, cuda, progress=False)
    assert engine is not None
    assert "damaged" in said[-1]


def test_bytes_that_are_no_engine_are_an_error_and_no_crash(cuda: Any) -> None:
    from vtsr.runtime.engines.engine import load_engine

    for plan in (b"", b"not a plan", bytes(4096)):
        with pytest.raises(ModelError):
            load_engine(plan)


def test_an_engine_of_another_graph_fails_the_self_test(deployed: Path, tmp_path: Path, cuda: Any) -> None:
    """The reference is computed from a graph whose output is a little off."""
    from dataclasses import replace

    from vtsr.runtime.engines import recipe as recipes
    from vtsr.runtime.engines.builder import build_engine
    from vtsr.runtime.engines.engine import load_engine

    request = step_request(deployed)
    engine = load_engine(build_engine(request, progress=False).plan)
    reference = recipes.reference_outputs
    try:
        recipes.reference_outputs = lambda g, f: {k: v + np.float32(0.02) for k, v in reference(g, f).items()}  # type: ignore[assignment]
        with pytest.raises(ModelError, match="wrong"):
            recipes.try_engine(replace(request), engine, cuda)
    finally:
        recipes.reference_outputs = reference  # type: ignore[assignment]


def test_a_graph_tensorrt_cannot_read_is_an_error_with_its_words(deployed: Path, cuda: Any) -> None:
    from dataclasses import replace

    from vtsr.runtime.engines.builder import build_engine

    with pytest.raises(ModelError, match="cannot read the graph"):
        build_engine(replace(step_request(deployed), graph=b"nonsense"), progress=False)


def test_layers_are_reported_with_their_precision(deployed: Path, cuda: Any) -> None:
    from vtsr.runtime.engines.builder import build_engine
    from vtsr.runtime.engines.engine import Runner, load_engine
    from vtsr.runtime.engines.layers import layer_names, layer_precision

    request = step_request(deployed)
    engine = load_engine(build_engine(request, progress=False).plan)
    precisions = {layer_precision(layer) for layer in layer_names(import_tensorrt(), engine)}
    assert request.precision in precisions
    runner = Runner(engine, cuda, {name: usual for name, (_, usual, _) in request.profile.items()})
    assert sum(runner.layer_times(5).values()) > 0
    runner.close()
