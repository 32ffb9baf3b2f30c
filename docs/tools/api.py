"""Writes docs/api.md, the reference of the Python interface, from the docstrings.

    python docs/tools/api.py

The source is read, not imported, so no extra has to be installed. What is listed in `CONTENTS` and has a docstring is
described; names that begin with an underscore never are.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "docs" / "api.md"
# Width at which a signature is broken into one line per argument.
WIDTH = 100

# Chapter, what it is about, and its modules with the names described (None: all public ones).
CONTENTS: list[tuple[str, str, list[tuple[str, list[str] | None]]]] = [
    (
        "Frames in, frames out",
        "What most programs need. `Upconverter`, `Frame` and the errors can be imported from `vtsr` itself. "
        "[The guide](python.md) shows them at work.",
        [
            ("vtsr.runtime.upconverter", ["Upconverter"]),
            ("vtsr.runtime.frame", ["Frame", "Planes", "PixelFormat"]),
            ("vtsr.errors", None),
            ("vtsr.runtime.cuts", ["SceneCutDetector"]),
            ("vtsr.runtime.models", ["open_model", "shipped_models", "ModelFolder"]),
        ],
    ),
    (
        "Live streams",
        "For sources that do not wait; `vtsr.LiveUpconverter`. See [the guide](live.md).",
        [
            ("vtsr.runtime.live.upconverter", ["LiveUpconverter"]),
            ("vtsr.runtime.live.waiting", ["Policy"]),
            ("vtsr.runtime.live.statistics", ["LiveStatistics", "Latency", "Counts"]),
            ("vtsr.runtime.live.exposure", ["Exposure", "ExposureCheck"]),
        ],
    ),
    (
        "Backends and the recursion",
        "For a runtime or a device of your own: a `Backend` is all it takes.",
        [
            ("vtsr.runtime.backend", ["Backend", "StepResult", "load_backend"]),
            ("vtsr.runtime.recursion", None),
        ],
    ),
    (
        "NVIDIA GPUs",
        "Needs the extra `tensorrt`; see [the guide](tensorrt.md).",
        [
            ("vtsr.runtime.tensorrt.backend", ["TensorRTBackend"]),
            ("vtsr.runtime.tensorrt.settings", ["Settings"]),
            ("vtsr.runtime.tensorrt.embedding", None),
            ("vtsr.runtime.tensorrt.arrays", ["DeviceArray"]),
            ("vtsr.runtime.engines.recipe", ["open_recipe", "obtain_engine", "Recipe", "RecipeEngine"]),
            ("vtsr.runtime.engines.cache", ["EngineCache", "cache_folder"]),
        ],
    ),
    (
        "Quality",
        "Needs the extra `evaluate`; see [the guide](evaluation.md).",
        [
            ("vtsr.evaluation.clips", ["open_clip", "Clip", "Crop"]),
            ("vtsr.evaluation.judge", ["evaluate", "View", "Observer"]),
            (
                "vtsr.evaluation.methods",
                ["Method", "Stream", "Nothing", "Blend", "Flow", "WithLaw", "Model", "Network", "parse_method"],
            ),
            ("vtsr.training.metrics", None),
        ],
    ),
    (
        "Networks and training",
        "Needs the extra `train`; see [the guide](training.md).",
        [
            ("vtsr.training.network", ["build_network", "preset_names", "DenseNetwork", "DenseDims"]),
            ("vtsr.training.exposure", None),
            ("vtsr.training.checkpoint", ["load_network", "save_network", "read_facts"]),
            ("vtsr.training.config", ["TrainConfig"]),
            ("vtsr.training.schemes", ["Scheme"]),
            ("vtsr.training.losses", None),
        ],
    ),
    (
        "Export and INT8",
        "Needs the extra `train`; see the guides on [export](export.md) and [INT8](int8.md).",
        [
            ("vtsr.export.model", ["export_model"]),
            ("vtsr.export.deploy", ["Plan", "export_deployment"]),
            ("vtsr.export.step", None),
            ("vtsr.calibration.observe", ["observe"]),
            ("vtsr.calibration.ranges", ["Ranges"]),
            ("vtsr.calibration.quantize", ["quantize", "quantize_for_cpu"]),
        ],
    ),
]

Definition = ast.ClassDef | ast.FunctionDef


def module_path(module: str) -> Path:
    """The file of a module; the repository's root is the package."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def definitions(module: str, names: list[str] | None) -> list[Definition]:
    """The public classes and functions of a module that have a docstring, in the order of the source."""
    tree = ast.parse(module_path(module).read_text(encoding="utf-8"))
    found = {
        node.name: node
        for node in tree.body
        if isinstance(node, Definition) and not node.name.startswith("_") and ast.get_docstring(node)
    }
    missing = set(names or ()) - set(found)
    if missing:
        raise LookupError(f"{module} has no documented {', '.join(sorted(missing))}; mend CONTENTS in this script.")
    return [found[name] for name in names] if names else list(found.values())


def decorators(node: Definition) -> set[str]:
    """Last names of the decorators: ``dataclass``, ``property``, ..."""
    bare = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return {ast.unparse(d).split(".")[-1] for d in bare}


def arguments(function: ast.FunctionDef) -> list[str]:
    """The parameters of a function as they are written, without self and cls."""
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    out = [argument(a, d) for a, d in zip(plain, defaults, strict=True) if a.arg not in ("self", "cls")]
    if given.vararg:
        out.append("*" + argument(given.vararg, None))
    elif given.kwonlyargs:
        out.append("*")
    out += [argument(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return out + (["**" + argument(given.kwarg, None)] if given.kwarg else [])


def argument(given: ast.arg, default: ast.expr | None) -> str:
    text = given.arg + (f": {ast.unparse(given.annotation)}" if given.annotation else "")
    return text if default is None else f"{text} = {ast.unparse(default)}"


def fields(node: ast.ClassDef) -> list[str]:
    """The fields of a data class or named tuple, as arguments."""
    return [
        ast.unparse(line)
        for line in node.body
        if isinstance(line, ast.AnnAssign) and not ast.unparse(line.target).startswith("_")
    ]


def signature(name: str, given: list[str], result: ast.expr | None = None) -> str:
    tail = f" -> {ast.unparse(result)}" if result is not None and ast.unparse(result) != "None" else ""
    line = f"{name}({', '.join(given)}){tail}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {a},\n" for a in given) + f"){tail}"
    return f"```text\n{line}\n```"


def prose(docstring: str) -> str:
    """A NumPy-style docstring as Markdown."""
    text = inspect.cleandoc(docstring)
    text = re.sub(r"^(\w[\w ]*)\n-{3,}$", r"**\1**\n", text, flags=re.M)  # section titles
    text = text.replace("``", "`")
    paragraphs = [_examples(part) for part in re.split(r"\n{2,}", text)]
    return "\n\n".join(paragraphs)


def _examples(paragraph: str) -> str:
    if paragraph.startswith(">>>"):
        return f"```pycon\n{re.sub(' +# doctest:.*', '', paragraph)}\n```"
    # "name" on a line of its own, its description indented below it.
    items = re.findall(r"^(\S[^\n]*)\n((?:[ ]+[^\n]+(?:\n|$))+)", paragraph, flags=re.M)
    if items and "".join(f"{name}\n{body}" for name, body in items).strip() == paragraph.strip():
        return "\n".join(f"- `{name}`: {' '.join(body.split())}" for name, body in items)
    return paragraph


def described(node: Definition) -> str:
    """One class or function: heading, signature, docstring, public methods."""
    docstring = ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef):
        return "\n\n".join([f"#### {node.name}", signature(node.name, arguments(node), node.returns), prose(docstring)])
    parts = [f"#### {node.name}"]
    methods = [line for line in node.body if isinstance(line, ast.FunctionDef)]
    start = next((method for method in methods if method.name == "__init__"), None)
    bases = [ast.unparse(base) for base in node.bases]
    if start is not None:
        parts.append(signature(node.name, arguments(start)))
    elif "dataclass" in decorators(node) or "NamedTuple" in bases:
        parts.append(signature(node.name, fields(node)))
    elif bases:
        parts.append(f"{'A protocol' if 'Protocol' in bases else 'Kind of ' + ', '.join(f'`{b}`' for b in bases)}.")
    parts.append(prose(docstring))
    for method in methods:
        said = ast.get_docstring(method)
        if method.name.startswith("_") or not said:
            continue
        if "property" in decorators(method):
            kind = ast.unparse(method.returns) if method.returns else ""
            parts.append(f"**{node.name}.{method.name}**: `{kind}`\n\n{prose(said)}")
        else:
            call = signature(f"{node.name}.{method.name}", arguments(method), method.returns)
            parts.append(f"{call}\n\n{prose(said)}")
    return "\n\n".join(parts)


def reference() -> str:
    """The whole document."""
    parts = [
        "# Python reference",
        "Written from the docstrings by `docs/tools/api.py`; change those, not this file. Shapes are (N, C, H, W) or "
        "(H, W, C), times are seconds, errors are those of `vtsr.errors`.",
    ]
    for title, introduction, modules in CONTENTS:
        parts += [f"## {title}", introduction]
        for module, names in modules:
            parts.append(f"### {module}")
            parts += [described(node) for node in definitions(module, names)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    OUT.write_text(reference(), encoding="utf-8")
    print(f"docs/{OUT.name}: {len(OUT.read_text(encoding='utf-8').splitlines())} lines")


if __name__ == "__main__":
    main()
