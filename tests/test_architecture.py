"""Dependencies point one way: see the picture in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = {"errors", "options", "completion", "__init__"}
# What each package may use of the others. Whoever adds an arrow here changes the architecture.
MAY_USE: dict[str, set[str]] = {
    "runtime": set(),
    "training": {"runtime"},
    "export": {"training", "runtime"},
    "evaluation": {"training", "runtime"},
    "calibration": {"export", "evaluation", "runtime"},
    "benchmarks": {"calibration", "evaluation", "export", "training", "runtime"},
}
# `vtsr-export --int8` quantises by what calibration knows, and says so when it is missing.
EXCEPTIONS = {("export/cli.py", "calibration")}
BASE = {"numpy", "onnxruntime", "cv2", "av", "tqdm"}
# Of the extras: imported where they are used, never when a module is loaded.
OPTIONAL = {"tensorrt", "pycuda", "cuda", "platformdirs", "filelock", "ray"}


@dataclass(frozen=True)
class Import:
    """One imported module, by whom, and whether loading the importing module loads it."""

    importer: str  # path below the root
    module: str
    at_load: bool

    @property
    def library(self) -> str:
        return self.module.split(".")[0]

    @property
    def package(self) -> str:
        """The first name below ``vtsr``: runtime, options, ..."""
        return self.module.split(".")[1] if "." in self.module else "__init__"


def sources() -> list[Path]:
    return sorted(p for package in MAY_USE for p in (ROOT / package).rglob("*.py")) + sorted(ROOT.glob("*.py"))


def imports(path: Path) -> Iterator[Import]:
    importer = path.relative_to(ROOT).as_posix()

    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(importer, alias.name, at_load) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{importer}: imports are absolute"
                assert child.module is not None
                yield Import(importer, child.module, at_load)
                # `from vtsr import options` imports a module, too.
                yield from (Import(importer, f"{child.module}.{alias.name}", at_load) for alias in child.names
                            if child.module == "vtsr" and (ROOT / f"{alias.name}.py").exists())  # fmt: skip
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                yield from visit(ast.Module(child.orelse, []), at_load)
            else:
                yield from visit(child, at_load and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return visit(ast.parse(path.read_text(encoding="utf-8")), True)


ALL = [found for path in sources() for found in imports(path)]


@pytest.mark.parametrize("package", MAY_USE)
def test_a_package_uses_only_what_is_below_it(package: str) -> None:
    allowed = MAY_USE[package] | SHARED | {package}
    wrong = {
        (found.importer, found.module)
        for found in ALL
        if found.importer.startswith(f"{package}/")
        and found.library == "vtsr"
        and found.package not in allowed
        and (found.importer, found.package) not in EXCEPTIONS
    }
    assert wrong == set()


def test_what_all_share_uses_none_of_the_packages() -> None:
    shared = {found for found in ALL if found.importer in ("errors.py", "options.py", "completion.py")}
    assert not {found for found in shared if found.package in MAY_USE and found.library == "vtsr"}


def test_the_runtime_needs_only_the_base_dependencies() -> None:
    libraries = {f.library for f in ALL if f.importer.startswith("runtime/") and f.library != "vtsr"}
    foreign = libraries - set(sys.stdlib_module_names)
    assert not foreign & {"torch", "onnx", "onnxscript", "safetensors", "skimage", "matplotlib"}
    assert foreign <= BASE | OPTIONAL


def test_optional_libraries_are_imported_where_they_are_used() -> None:
    early = {(f.importer, f.library) for f in ALL if f.at_load and f.library in OPTIONAL}
    assert early == set()


def test_modules_do_not_import_each_other_in_circles() -> None:
    def name(path: str) -> str:
        return "vtsr." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    uses: dict[str, set[str]] = {}
    for found in ALL:
        if found.at_load and found.library == "vtsr":
            uses.setdefault(name(found.importer), set()).add(found.module)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(uses.get(module, ())):
                walk(other, (*path, module))
            done.add(module)

    for module in sorted(uses):
        walk(module, ())
    assert len(done) > 50
