"""Model folders, recipes, checkpoints and ranges from strangers: strictly ours, or refused with one sentence."""

from __future__ import annotations

import ast
import copy
import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vtsr
from vtsr import InputError, ModelError, Upconverter
from vtsr.runtime.engines.recipe import RECIPE_NAME, open_recipe
from vtsr.runtime.models import INT8_STEP, MANIFEST_NAME, MODELS_FOLDER, open_model
from vtsr.runtime.strict import Malformed, parse_json, read_json

PACKAGE = Path(vtsr.__file__).parent
SHIPPED = ("calibration", "evaluation", "export", "runtime", "training")

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, "", "x" * 5000, "../../etc/passwd", "a\0b", [], [1], {}, {"a": 1}, [[[]]],
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy_of_default = tmp_path / "model"
    shutil.copytree(MODELS_FOLDER / "default", copy_of_default)
    return copy_of_default


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values inside plain data."""
    if at:
        yield at
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data[:3]):
            yield from places(value, (*at, index))


def altered(data: Any, at: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of plain data in which ``change(parent, key)`` was done at a place."""
    data = copy.deepcopy(data)
    parent = data
    for key in at[:-1]:
        parent = parent[key]
    change(parent, at[-1])
    return data


def alterations(data: Any, chance: random.Random, count: int) -> Iterator[Any]:
    """Copies of plain data with a value replaced, removed or added."""
    everywhere = list(places(data))
    for _ in range(count):
        at, value = chance.choice(everywhere), chance.choice(ODD_VALUES)

        def replace(parent: Any, key: Any, value: Any = value) -> None:
            parent[key] = value

        def remove(parent: Any, key: Any) -> None:
            del parent[key]

        def add(parent: Any, key: Any, value: Any = value) -> None:
            if isinstance(parent, dict):
                parent["surprise"] = value
            else:
                parent.append(value)

        yield altered(data, at, chance.choice((replace, replace, remove, add)))


def write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))


def is_sentence(error: pytest.ExceptionInfo[Exception]) -> bool:
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and text[0].isupper() and len(text) < 600


# Manifests


def test_an_altered_manifest_is_refused_or_means_the_same(folder: Path) -> None:
    original = json.loads((folder / MANIFEST_NAME).read_text()) | {"facts": {}}  # which may be anything
    refused = 0
    for manifest in alterations(original, random.Random(0), 400):
        write(folder / MANIFEST_NAME, manifest)
        try:
            opened = open_model(folder)
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert len(str(error)) < 600  # noqa: PT017
            refused += 1
            continue
        assert set(opened.files) <= set(original["files"])
        assert isinstance(opened.name, str)
        assert opened.precision == "fp32"
        assert isinstance(opened.gains_from_int8, bool)
    assert refused > 200


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "..", ".", "", ".hidden", "a/b.onnx", "a\\b.onnx", "C:evil", "a\0b", "x" * 200,
     "a\nb"],
)  # fmt: skip
def test_file_names_that_lead_elsewhere_are_refused(folder: Path, name: str) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    write(folder / MANIFEST_NAME, manifest)
    with pytest.raises(ModelError, match="outside the folder") as error:
        open_model(folder)
    assert is_sentence(error)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("consistency", "no", "neither true nor false"), ("name", 3, "no short text"),
     ("name", "x" * 500, "no short text"), ("precision", "fp7", "precision"),
     ("opset", 1.5, "no count"), ("surprise", 1, "unknown entry 'surprise'"), ("int8", [], "no table"),
     ("files", {"step.onnx": {"sha256": "zz", "bytes": 3}}, "no SHA-256"),
     ("files", {"step.onnx": {"sha256": "0" * 64, "bytes": -3}}, "no length"),
     ("files", {"step.onnx": {"sha256": "0" * 64}}, "lacks 'bytes'"), ("format", 7, "format")],
)  # fmt: skip
def test_a_wrong_manifest_entry_is_named(folder: Path, key: str, value: Any, words: str) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    write(folder / MANIFEST_NAME, {**manifest, key: value})
    with pytest.raises(ModelError, match=words) as error:
        open_model(folder)
    assert is_sentence(error)


def test_a_file_of_another_length_is_not_even_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "step.onnx").open("ab") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(ModelError, match="damaged"):
        open_model(folder).read("step.onnx")


def test_a_graph_under_another_name_is_refused_in_one_sentence(folder: Path) -> None:
    # Hashes are right, but what is said to be the step is another graph.
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    for wrong in ("finish.onnx", "emit_rgb_u8.onnx"):
        for step in ("step.onnx", INT8_STEP):
            shutil.copy(MODELS_FOLDER / "default" / wrong, folder / step)
            manifest["files"][step] = manifest["files"][wrong]
        write(folder / MANIFEST_NAME, manifest)
        frames = [np.full((32, 32, 3), 90, np.uint8)] * 3
        with pytest.raises(ModelError) as error, Upconverter(1, model=str(folder)) as up:
            list(up.run(frames))
        assert is_sentence(error)


# JSON


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1, "a": 2}', "[" * 100_000, "{", "", "\xff", "nul",
     '{"a": 1} x'],
)  # fmt: skip
def test_only_strict_json_is_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Malformed):
        read_json(tmp_path / "x.json")


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Malformed, match="more than 64 MiB"):
        read_json(tmp_path / "x.json")


def test_plain_json_is_read_as_it_is() -> None:
    data = {"a": [1, -2.5, None, True, "ä"], "b": {}}
    assert parse_json(json.dumps(data)) == data
    assert parse_json(json.dumps(data, ensure_ascii=False).encode()) == data


# Recipes

SHA = "0" * 64
RECIPE: dict[str, Any] = {
    "format": "vtsr-recipe-1", "model": "default", "precision": "fp16", "levels": 2,
    "engines": [
        {
            "name": "default-step", "role": "step", "precision": "fp16", "size": [640, 360], "batch": 1,
            "storage": None,
            "graphs": {"strong": {"file": "step.strong.onnx", "sha256": SHA}},
            "profile": {"u": [[1, 3, 384, 640], [1, 3, 384, 640], [1, 3, 384, 640]]}, "single_layers": ["a"],
        }
    ],
}  # fmt: skip


def test_an_altered_recipe_is_refused_or_means_the_same(tmp_path: Path) -> None:
    write(tmp_path / RECIPE_NAME, RECIPE)
    whole = open_recipe(tmp_path)
    assert whole.engines[0].facts() == RECIPE["engines"][0]
    refused = 0
    for recipe in alterations(RECIPE, random.Random(1), 400):
        write(tmp_path / RECIPE_NAME, recipe)
        try:
            opened = open_recipe(tmp_path)
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
            continue
        assert [engine.facts() for engine in opened.engines] == recipe["engines"]
    assert refused > 250


@pytest.mark.parametrize(
    ("at", "value"),
    [(("engines", 0, "graphs", "strong", "file"), "../../step.onnx"),
     (("engines", 0, "graphs", "strong", "file"), "/x"),
     (("engines", 0, "name"), "../evil"), (("engines", 0, "size"), [0, 360]), (("engines", 0, "size"), [10**9, 360]),
     (("engines", 0, "batch"), True), (("levels",), 40), (("engines",), []), (("engines", 0, "role"), "shell"),
     (("engines", 0, "profile", "u"), [[1, 3, 10**9, 640]] * 3), (("engines", 0, "profile", "u"), [[65536] * 4] * 3),
     (("engines", 0, "profile", "u"), [[2, 3, 4, 4], [1, 3, 4, 4], [2, 3, 4, 4]]),
     (("engines", 0, "profile", "u"), [[1] * 40] * 3), (("engines", 0, "single_layers"), "node")],
)  # fmt: skip
def test_absurd_recipes_are_refused(tmp_path: Path, at: tuple[Any, ...], value: Any) -> None:
    def change(parent: Any, key: Any) -> None:
        parent[key] = value

    write(tmp_path / RECIPE_NAME, altered(RECIPE, at, change))
    with pytest.raises(ModelError, match="is damaged") as error:
        open_recipe(tmp_path)
    assert is_sentence(error)


# Checkpoints


def tensors_file(path: Path, header: dict[str, Any], data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_damaged_checkpoints_are_refused_in_one_sentence(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from vtsr.training.checkpoint import load_network

    data, chance = tiny_checkpoint.read_bytes(), random.Random(2)
    header = 8 + struct.unpack("<Q", data[:8])[0]
    path = tmp_path / "x.safetensors"
    for case in range(80):
        broken = bytearray(data)
        if case % 4 == 0:
            del broken[chance.randrange(len(broken)) :]
        for _ in range(chance.choice((1, 5))):
            if broken:
                broken[chance.randrange(min(header, len(broken)))] = chance.randrange(256)
        path.write_bytes(broken)
        try:
            load_network(path)
        except ModelError as error:
            assert str(error).startswith("The checkpoint") or "is not a vtsr checkpoint" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "header",
    [{}, {"__metadata__": {"vtsr": "{}"}}, {"__metadata__": {"vtsr": "[1]"}}, {"__metadata__": {"vtsr": "[" * 50_000}},
     {"__metadata__": {"vtsr": '{"format": "vtsr-checkpoint-1", "preset": ["dense"]}'}},
     {"__metadata__": {"vtsr": '{"format": "vtsr-checkpoint-1", "preset": "no-such"}'}},
     {"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
     {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**62]}}],
)  # fmt: skip
def test_absurd_checkpoints_are_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    from vtsr.training.checkpoint import load_network

    with pytest.raises(ModelError) as error:
        load_network(tensors_file(tmp_path / "x.safetensors", header, bytes(4)))
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from vtsr.training.checkpoint import load_network, save_network

    network = load_network(tiny_checkpoint)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = float("nan")
    save_network(tmp_path / "x.safetensors", network, "dense-tiny", {})
    with pytest.raises(ModelError, match="not finite"):
        load_network(tmp_path / "x.safetensors")


def test_a_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from vtsr.training.checkpoint import load_network

    torch.save({"weight": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        load_network(tmp_path / "x.pt")


# Ranges


def test_an_altered_file_of_ranges_is_refused_or_means_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from vtsr.calibration.ranges import Histogram, Ranges

    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    ranges = Ranges("a" * 64, {1: {"conv": Histogram.of(values)}})
    path = tmp_path / "ranges.json"
    ranges.save(path)
    original = json.loads(path.read_text())
    refused = 0
    for data in alterations(original, random.Random(3), 200):
        write(path, data)
        try:
            loaded = Ranges.load(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
            continue
        assert loaded.levels[1]["conv"].counts.sum() >= 0
    assert refused > 120


# What the package never does

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "pickle.load", "pickle.loads",
    "marshal.loads", "yaml.load", "shelve.open", "np.loads", "joblib.load",
}  # fmt: skip
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "joblib", "telnetlib"}


def sources() -> list[Path]:
    files = [path for part in SHIPPED for path in (PACKAGE / part).rglob("*.py")] + list(PACKAGE.glob("*.py"))
    assert len(files) > 100
    return files


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What of a module's code could run somebody else's code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in FORBIDDEN_CALLS:
            yield f"calls {name}"
        if name in ("np.load", "numpy.load"):
            allowed = options.get("allow_pickle")
            if not (isinstance(allowed, ast.Constant) and allowed.value is False):
                yield f"calls {name} without allow_pickle=False"
        if "shell" in options and not (isinstance(options["shell"], ast.Constant) and options["shell"].value is False):
            yield f"calls {name} with a shell"


def test_nothing_unpickles_evaluates_or_spawns_a_shell() -> None:
    found = [
        f"{path.relative_to(PACKAGE)} {what}"
        for path in sources()
        for what in forbidden(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "eval('1')", "torch.load(p)", "np.load(p)", "os.system(c)",
     "np.load(p, allow_pickle=True)", "subprocess.run(c, shell=True)", "subprocess.Popen(c, shell=flag)",
     "def f():\n    import yaml", "exec(code)"],
)  # fmt: skip
def test_that_search_finds_what_it_looks_for(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


@pytest.mark.parametrize("code", ["network.eval()", "np.load(p, allow_pickle=False)", "re.compile('x')", "run([c])"])
def test_that_search_finds_nothing_else(code: str) -> None:
    assert not list(forbidden(ast.parse(code)))
