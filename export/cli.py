"""vtsr-export: a checkpoint to a model folder that every vtsr command and `vtsr.Upconverter` accepts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vtsr.errors import MissingExtraError
from vtsr.options import Parser, run_cli


def _body(args: argparse.Namespace) -> int:
    try:
        from vtsr.export.model import export_model
        from vtsr.training.checkpoint import load_network, read_facts
    except ImportError as error:
        raise MissingExtraError(f'Exporting needs the extra "train": pip install "vtsr[train]" ({error}).') from error
    facts: dict[str, Any] = read_facts(args.checkpoint)
    manifest = export_model(
        load_network(args.checkpoint),
        args.out,
        args.name or args.out.name,
        facts,
        consistency=not args.no_consistency,
        half_stored=args.half_stored,
    )
    size = sum(entry["bytes"] for entry in manifest["files"].values()) / 2**20
    difference = manifest["check"]["max_abs_difference"]
    print(
        f"{args.out}: {len(manifest['files'])} graphs, {size:.1f} MiB, "
        f"{manifest['multiply_adds_per_pixel'] / 1e6:.3f} MMAC per pixel and pair; "
        f"largest difference from {manifest['check']['against']}: {difference:.1e}"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="vtsr-export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file written by vtsr-train")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument("--name", help="name of the model (default: the folder's name)")
    parser.add_argument(
        "--no-consistency", action="store_true", help="leave the exposure law out, as the thesis has it"
    )
    parser.add_argument("--half-stored", action="store_true", help="store weights as float16: half the size")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
