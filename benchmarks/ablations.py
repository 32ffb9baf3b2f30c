"""What each choice in network, scheme and exposure law is worth: every variant trained alike, judged alike.

    python benchmarks/ablations.py OUT --scenes SCENES --validation CLIPS [--steps 600]

SCENES is a cache of `vtsr-scenes`, CLIPS a folder of clips and photographs that served for nothing else.
Trains what is missing in OUT, judges it, and writes OUT/ablations.json. The table in docs/ablations.md comes
from the file beside this one:

    python benchmarks/ablations.py --table benchmarks/ablations.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vtsr.evaluation.judge import evaluate
from vtsr.evaluation.methods import Checkpoint, parse_method
from vtsr.evaluation.suite import load_suite
from vtsr.training.config import TrainConfig
from vtsr.training.network import build_network, multiply_adds_per_pixel
from vtsr.training.train import WEIGHTS_NAME, process_group, train

FACTORS = (2, 4, 8)
WINDOW = 8


@dataclass(frozen=True)
class Variant:
    """A network and scheme, with the exposure law imposed at inference or not.

    The pyramids, which have no residual path for the picture's detail, do not get away from repeating their
    input under L1 within so few steps; they are trained on the squared error alone, at twice the rate.
    """

    group: str
    name: str
    preset: str
    scheme: str = "law"
    law: bool = True

    @property
    def run(self) -> str:
        return f"{self.preset}-{self.scheme}"

    @property
    def options(self) -> dict[str, Any]:
        pyramid = self.preset.startswith("pyramid")
        return {"loss_l1": 0 if pyramid else 1, "loss_l2": 20, "learning_rate": 2e-3 if pyramid else 1e-3}


VARIANTS = (
    Variant("fusion of the two frames (thesis network, compact)", "convolution (baseline)", "pyramid-compact"),
    Variant("fusion of the two frames (thesis network, compact)", "+ attention", "pyramid-compact-attention"),
    Variant("fusion of the two frames (thesis network, compact)", "+ alignment", "pyramid-compact-alignment"),
    Variant("fusion of the two frames (thesis network, compact)", "+ both", "pyramid-compact-both"),
    Variant("training scheme (dense network, no law)", "basic", "dense-fast", "basic", law=False),
    Variant("training scheme (dense network, no law)", "reconstruction", "dense-fast", "reconstruction", law=False),
    Variant("training scheme (dense network, no law)", "multilevel", "dense-fast", "multilevel", law=False),
    Variant("exposure law (dense network)", "off", "dense-fast", "basic", law=False),
    Variant("exposure law (dense network)", "at inference", "dense-fast", "basic"),
    Variant("exposure law (dense network)", "in training and at inference", "dense-fast"),
    Variant("network, at equal multiply-adds", "MobileNetV2 pyramid", "pyramid-compact"),
    Variant("network, at equal multiply-adds", "dense, without sampling", "dense-fast-plain"),
    Variant("network, at equal multiply-adds", "dense", "dense-fast"),
)


def run_variant(out: Path, variant: Variant, scenes: Path, steps: int) -> dict[str, float]:
    """Trains the variant unless OUT has it; seconds and multiply-adds per pixel."""
    folder = out / variant.run
    facts = folder / "facts.json"
    if not facts.is_file():
        config = TrainConfig.load(None, {
            "preset": variant.preset, "scheme": variant.scheme, "scenes": str(scenes), "steps": steps, "crop": 64,
            "batch": 8, "warmup": 60, "ema": 0.99, "validate_every": steps, "checkpoint_every": steps,
            **variant.options,
        })  # fmt: skip
        began = time.perf_counter()
        with process_group() as process:
            train(folder, config, False, process, 1)
        cost = multiply_adds_per_pixel(build_network(variant.preset)) / 1e6
        facts.write_text(json.dumps({"mmac": cost, "seconds": time.perf_counter() - began}))
    return dict(json.loads(facts.read_text()))


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| | MMAC/px | PSNR, dB: f | f2 | f3 |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {name} | | {' | '.join(f'{x:.2f}' for x in psnr)} |" for name, psnr in result["baselines"].items()]
    group = ""
    for row in result["rows"]:
        if row["group"] != group:
            group = row["group"]
            lines.append(f"| **{group}** | | | | |")
        lines.append(f"| {row['name']} | {row['mmac']:.4f} | {' | '.join(f'{x:.2f}' for x in row['psnr'])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--scenes", type=Path)
    parser.add_argument("--validation", type=Path, help="folder of clips and photographs to judge on")
    parser.add_argument("--cache", type=Path, help="where the prepared validation clips are kept")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=1, help="judge on every n-th clip")
    parser.add_argument("--table", type=Path, help="print this result as a table and stop")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return
    if not (args.out and args.scenes and args.validation):
        parser.error("OUT, --scenes and --validation are needed")
    torch.set_num_threads(1)
    facts = {variant.run: run_variant(args.out, variant, args.scenes, args.steps) for variant in VARIANTS}
    checkpoints = {
        (v.run, v.law): Checkpoint(args.out / v.run / WEIGHTS_NAME, v.law, name=f"{v.run}{'' if v.law else ' raw'}")
        for v in VARIANTS
    }
    baselines = [parse_method(name) for name in ("nothing", "flow", "flow+law")]
    clips = load_suite(args.validation, args.cache)[:: args.every]
    judged = evaluate(clips, [*baselines, *checkpoints.values()], WINDOW, levels=3, metrics=("psnr",))

    def psnr(name: str) -> list[float]:
        means = [judged.mean(name, factor) for factor in FACTORS]
        return [round(float(mean.psnr), 3) for mean in means if mean is not None]

    rows = [
        {**asdict(v), **facts[v.run], "psnr": psnr(checkpoints[v.run, v.law].name)} for v in VARIANTS
    ]
    result = {
        "kind": "ablations", "steps": args.steps, "clips": [clip.name for clip in clips],
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "baselines": {method.name: psnr(method.name) for method in baselines}, "rows": rows,
    }  # fmt: skip
    (args.out / "ablations.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
