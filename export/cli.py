"""vtsr-export: turns a model into files for deployment: ONNX graphs in fp32, fp16 or INT8, and TensorRT engines.

    vtsr-export --fp16                                     the shipped model: graphs, and engines where there is a GPU
    vtsr-export --fp16 --size 1920x1080 --levels 3 -o deploy/
    vtsr-export --int8 --calibration ranges.json -o deploy/
    vtsr-export --fp32 --onnx-only --opset 17 -o deploy/   graphs for TensorRT 8 or another runtime
    vtsr-export --build deploy/                            engines of graphs that were written elsewhere
    vtsr-export --list                                     the engine cache; also --verify FILE, --prune
    vtsr-export CHECKPOINT -o DIR                          a checkpoint to a model folder (fp32)
"""

from __future__ import annotations

import argparse
import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtsr.errors import MissingExtraError, ModelError, OptionError, VtsrError
from vtsr.options import Parser, add_levels, add_model, run_cli
from vtsr.runtime.models import ModelFolder, open_model

if TYPE_CHECKING:
    from vtsr.export.deploy import Plan, Quantise

DEFAULT_SIZE = (1280, 720)
DEFAULT_PIXELS = ("rgb24", "yuv420p", "nv12")
MATRICES = ("bt601", "bt709", "bt2020")
MIB = 1 << 20


def _needs(extra: str, what: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(f'{what} needs the extra "{extra}": pip install "vtsr[{extra}]" ({error}).')


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"a size is written WIDTHxHEIGHT, such as 1280x720, not {text!r}")
    return int(match[1]), int(match[2])


def _body(args: argparse.Namespace) -> int:
    if args.list:
        return _list(args)
    if args.verify is not None:
        return _verify(args)
    if args.prune:
        return _prune(args)
    if args.build is not None:
        return _build(args.build, args)
    if args.precision is None:
        if args.checkpoint is None:
            raise OptionError("Say what to export: --fp32, --fp16 or --int8, or a checkpoint and -o DIR.")
        if args.out is None:
            raise OptionError("A checkpoint becomes a model folder; say where with -o DIR.")
        _export_model(args, args.out)
        return 0
    if args.checkpoint is None:
        return _deploy(open_model(args.model), args)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / (args.name or args.checkpoint.stem)
        _export_model(args, model)
        return _deploy(open_model(model), args)


def _export_model(args: argparse.Namespace, out: Path) -> None:
    """A checkpoint to a model folder."""
    try:
        from vtsr.export.model import export_model
        from vtsr.training.checkpoint import load_network, read_facts
    except ImportError as error:
        raise _needs("train", "Exporting a checkpoint", error) from error
    facts: dict[str, Any] = read_facts(args.checkpoint)
    manifest = export_model(
        load_network(args.checkpoint),
        out,
        args.name or out.name,
        facts,
        consistency=not args.no_consistency,
        half_stored=args.half_stored,
    )
    size = sum(entry["bytes"] for entry in manifest["files"].values()) / MIB
    difference = manifest["check"]["max_abs_difference"]
    print(
        f"{manifest['name']}: {len(manifest['files'])} graphs, {size:.1f} MiB, "
        f"{manifest['multiply_adds_per_pixel'] / 1e6:.3f} MMAC per pixel and pair; "
        f"largest difference from {manifest['check']['against']}: {difference:.1e}"
    )


def _deploy(source: ModelFolder, args: argparse.Namespace) -> int:
    """A fp32 model to a deployment folder, and to engines where there is a GPU."""
    try:
        from vtsr.export.deploy import export_deployment
    except ImportError as error:
        raise _needs("train", "Exporting", error) from error
    plan = _plan(args)
    quantise: Quantise | None = None
    extra: dict[str, Any] = {}
    if plan.precision == "int8":
        quantise, extra = _quantiser(source, args)
    out = args.out or Path(f"{source.name}-{plan.precision}")
    manifest, figures = export_deployment(source, out, plan, quantise, extra)
    size = sum(entry["bytes"] for entry in manifest["files"].values()) / MIB
    print(f"{out}: {len(manifest['files'])} graphs, {size:.1f} MiB; {figures.sentence()}.")
    if args.onnx_only or not plan.sizes:
        return 0
    from vtsr.runtime.engines.platform import what_is_missing

    missing = what_is_missing()
    if missing is not None:
        print(f"{missing.removesuffix('.')}, so no engines were built; where there is a GPU: vtsr-export --build {out}")
        return 0
    return _build(out, args)


def _plan(args: argparse.Namespace) -> Plan:
    from vtsr.export.deploy import FLAVOURS, Plan
    from vtsr.export.pixels import storage

    sizes = list(dict.fromkeys(args.size or ([] if args.onnx_only else [DEFAULT_SIZE])))
    names = args.pixels or DEFAULT_PIXELS
    storages = list(dict.fromkeys(storage(name, args.matrix, args.full_range) for name in names))
    flavours = FLAVOURS if args.flavour is None else (args.flavour,)
    return Plan(args.precision, sizes, args.levels, storages, flavours, args.opset, args.dynamic)


def _quantiser(source: ModelFolder, args: argparse.Namespace) -> tuple[Quantise, dict[str, Any]]:
    """How the step graph is quantised, and the verdict of the accuracy gate for the manifest."""
    try:
        import onnx

        from vtsr.calibration import gate
        from vtsr.calibration.quantize import quantize
        from vtsr.calibration.ranges import Ranges
    except ImportError as error:
        raise MissingExtraError(f"INT8 needs vtsr.calibration, which cannot be imported here ({error}).") from error
    if args.calibration is None:
        raise OptionError("INT8 needs the ranges of vtsr-calibrate; give them with --calibration.")
    ranges = Ranges.load(args.calibration)
    graph = quantize(onnx.load_from_string(source.read("step.onnx")), ranges)
    verdict = gate.check(source, graph)
    print(f"Accuracy gate {verdict.sentence()}.")
    if not verdict.passed and not args.accept_loss:
        raise ModelError(
            f"The INT8 graph fails the accuracy gate ({verdict.faults[0]}); calibrate with more clips or keep "
            "layers in floating point, or give --accept-loss."
        )
    digest = hashlib.sha256(args.calibration.read_bytes()).hexdigest()
    return lambda _: graph, {"gate": verdict.to_json(), "calibration": digest}


def _settings(args: argparse.Namespace) -> Any:
    from vtsr.runtime.engines.request import BuildSettings

    if args.workspace < 1:
        raise OptionError(f"The workspace must be at least 1 MiB, not {args.workspace}.")
    return BuildSettings(args.workspace * MIB, args.optimization_level, tf32=args.tf32)


def _build(folder: Path, args: argparse.Namespace) -> int:
    """All engines of a recipe, into the cache."""
    from vtsr.runtime.engines.platform import what_is_missing
    from vtsr.runtime.engines.recipe import make_engines, open_recipe

    recipe = open_recipe(folder)
    for engine in recipe.engines:  # damage is found before minutes of building
        for typing in engine.graphs:
            recipe.request(engine, typing == "strong")
    missing = what_is_missing()
    if missing is not None:
        raise MissingExtraError(f"{missing.removesuffix('.')}; engines are built where there is a GPU.")
    from vtsr.runtime.engines.cache import EngineCache

    cache = EngineCache(args.cache)
    make_engines(recipe, cache, settings=_settings(args), layers=args.layers)
    print(f"{len(recipe.engines)} engines in {cache.folder}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from vtsr.runtime.engines.cache import EngineCache

    cache = EngineCache(args.cache)
    entries = cache.entries()
    for entry in entries:
        if entry.problem is not None:
            print(f"{entry.path.name}: unusable, {entry.problem}")
            continue
        platform = entry.manifest["invalidates"]["platform"]
        where = f"{platform.get('GPU', 'unknown GPU')}, TensorRT {platform.get('TensorRT', 'unknown')}"
        size = entry.manifest["plan"]["bytes"] / MIB
        print(f"{entry.path.name}: {size:.1f} MiB, {where}, {entry.manifest['facts'].get('date', 'no date')}")
    total = sum(entry.path.stat().st_size for entry in entries if entry.path.exists()) / MIB
    print(f"{len(entries)} engines, {total:.1f} MiB in {cache.folder}")
    return 0


def _prune(args: argparse.Namespace) -> int:
    from vtsr.runtime.engines.cache import EngineCache
    from vtsr.runtime.engines.platform import find_platform

    try:
        platform = find_platform()
    except VtsrError:
        platform = None  # without a GPU nobody can say which engines are of another machine
    cache = EngineCache(args.cache)
    count, freed = cache.prune(platform)
    what = "damaged ones and engines of other platforms" if platform else "damaged ones"
    print(f"{count} engines removed ({what}), {freed / MIB:.1f} MiB freed in {cache.folder}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    path: Path = args.verify
    if path.is_dir():
        _verify_folder(path)
    elif path.suffix == ".plan":
        _verify_engine(path, args)
    elif path.suffix == ".onnx" and path.is_file():
        if path.name not in open_model(path.parent).files:
            raise ModelError(f"{path} is not in the manifest of its folder; do not use it.")
        open_model(path.parent).read(path.name)
        print(f"{path} is what vtsr-export wrote.")
    else:
        raise OptionError(f"There is no engine (.plan), graph (.onnx) or model folder at {path}.")
    return 0


def _verify_folder(path: Path) -> None:
    from vtsr.runtime.engines.recipe import RECIPE_NAME, open_recipe

    model = open_model(path)
    for name in model.files:
        model.read(name)
    engines: Sequence[Any] = ()
    if (path / RECIPE_NAME).exists():
        recipe = open_recipe(path)
        engines = recipe.engines
        for engine in engines:
            for typing in engine.graphs:
                recipe.request(engine, typing == "strong")
    print(f"{path} is intact: {len(model.files)} graphs of {model.name}, {len(engines)} engines in its recipe.")


def _verify_engine(path: Path, args: argparse.Namespace) -> None:
    from vtsr.runtime.engines.cache import EngineCache
    from vtsr.runtime.engines.engine import load_engine
    from vtsr.runtime.engines.platform import find_platform, what_is_missing

    cache = EngineCache(args.cache)
    entry = cache.inspect(path)
    if entry.problem is not None:
        raise ModelError(f"The engine {path} cannot be used: {entry.problem}; it is rebuilt when it is needed.")
    if path.resolve().parent != cache.folder.resolve():
        raise ModelError(f"The engine {path} is not in the cache {cache.folder}; only engines from there are loaded.")
    platform = entry.manifest["invalidates"]["platform"]
    missing = what_is_missing()
    if missing is not None:
        print(f"{path} is intact, built for {platform.get('GPU')}; {missing[0].lower()}{missing[1:]}")
        return
    if find_platform() != platform:
        raise ModelError(f"The engine {path} is intact but of another machine or version; it is built anew here.")
    from vtsr.runtime.engines.platform import primary_context

    with primary_context():
        load_engine(path.read_bytes())
    print(f"{path} is intact and loads on {platform.get('GPU')}.")


def _parser() -> Parser:
    parser = Parser(prog="vtsr-export", description=__doc__, guide="export.md")
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="CHECKPOINT",
        help="a .safetensors file of vtsr-train (default: export --model)",
    )  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="folder to write (default: MODEL-PRECISION)")
    add_model(parser)
    precision = parser.add_mutually_exclusive_group()
    for name in ("fp32", "fp16", "int8"):
        precision.add_argument(
            f"--{name}", dest="precision", action="store_const", const=name, help=f"export graphs in {name}"
        )
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="ranges written by vtsr-calibrate, for --int8")
    parser.add_argument("--accept-loss", action="store_true", help="export INT8 graphs that fail the accuracy gate")

    graphs = parser.add_argument_group("graphs")
    graphs.add_argument(
        "--size", type=_size, action="append", metavar="WxH", help="picture size, may be repeated (default: 1280x720)"
    )
    add_levels(graphs, 2, "how many the engines are for")
    graphs.add_argument("--dynamic", action="store_true", help="one step engine for all sizes up to the largest --size")
    graphs.add_argument(
        "--pixels", action="append", metavar="FORMAT",
        help="pixel format for engines, as FFmpeg names it, may be repeated (default: rgb24, yuv420p, nv12)",
    )  # fmt: skip
    graphs.add_argument("--matrix", choices=MATRICES, default="bt709", help="YUV matrix (default: bt709)")
    graphs.add_argument("--full-range", action="store_true", help="YUV uses all codes (default: 16 to 235)")
    graphs.add_argument("--opset", type=int, metavar="N", help="ONNX opset, 17 to 21 (default: the oldest that works)")
    graphs.add_argument(
        "--flavour", choices=("strong", "weak"),
        help="strong: graphs state all types, TensorRT 10 and later; weak: fp32-typed, TensorRT 8 (default: both)",
    )  # fmt: skip
    graphs.add_argument("--onnx-only", action="store_true", help="build no engines")

    engines = parser.add_argument_group("engines")
    engines.add_argument("--workspace", type=int, default=4096, metavar="MIB", help="scratch memory (default: 4096)")
    engines.add_argument("--optimization-level", type=int, choices=range(6), help="of the builder, 0 to 5")
    engines.add_argument("--tf32", action="store_true", help="allow 10-bit mantissas in fp32 engines")
    engines.add_argument("--layers", action="store_true", help="report precision and time of every layer")
    engines.add_argument("--cache", type=Path, metavar="DIR", help="cache folder (default: $VTSR_CACHE, else yours)")
    action = engines.add_mutually_exclusive_group()
    action.add_argument("--build", type=Path, metavar="DIR", help="build the engines of a folder with a recipe")
    action.add_argument("--list", action="store_true", help="list the engines in the cache")
    action.add_argument("--verify", type=Path, metavar="FILE", help="check an engine, a graph or a model folder")
    action.add_argument("--prune", action="store_true", help="remove engines that are of no use here")

    checkpoint = parser.add_argument_group("checkpoints")
    checkpoint.add_argument("--name", help="name of the model (default: the folder's name)")
    checkpoint.add_argument(
        "--no-consistency", action="store_true", help="leave the exposure law out, as the thesis has it"
    )
    checkpoint.add_argument("--half-stored", action="store_true", help="store fp32 weights as float16: half the size")
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_cli(_parser(), _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
