"""vtsr-train: trains a network on cached scenes.

    python -m vtsr.training.data.scenes runs/scenes --photographs DIR --clips DIR
    vtsr-train runs/first --set scenes=runs/scenes --set steps=20000
    vtsr-train runs/first --resume
    torchrun --nproc-per-node 4 -m vtsr.training.train runs/big --config configs/default.toml

The output folder holds `last.safetensors` (the averaged weights, to be used), `state.safetensors` (to
resume from), `log.csv` and `curve.png`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from tqdm import tqdm

from vtsr.errors import InputError, OptionError
from vtsr.options import Parser, run_cli
from vtsr.training import losses
from vtsr.training.checkpoint import load_network, read_tensors, save_network, write_tensors
from vtsr.training.config import TrainConfig
from vtsr.training.data.sampler import ExposureSampler, SampleOptions, batches
from vtsr.training.data.scenes import open_scenes
from vtsr.training.network import build_network, preset_names
from vtsr.training.recursion import upconvert
from vtsr.training.schemes import SCHEMES, Scheme

WEIGHTS_NAME = "last.safetensors"
STATE_NAME = "state.safetensors"
VALIDATION_LEVELS = 3
PATH_OPTIONS = {"scenes", "init", "perceptual_weights"}


@dataclasses.dataclass(frozen=True)
class Process:
    """This process's place among the ones that train together."""

    rank: int = 0
    world: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def process_group() -> Iterator[Process]:
    """Joins the group that torchrun has prepared, or stands alone. One GPU per process where there are any."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Process(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


def channels_last(network: nn.Module) -> nn.Module:
    """Puts weights, and with them all activations, in the layout that convolutions are fastest in."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of ``step``: linear warm-up, then cosine decay to 1 % or a staircase."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        progress = min(1.0, step / max(1, config.steps))
        return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    drops = step // config.milestone_every if config.milestone_every else 0
    return config.learning_rate * warm * config.milestone_factor**drops


def scheme_at(config: TrainConfig, step: int) -> Scheme:
    late = config.late_scheme and step >= config.steps * (1 - config.late_share)
    scheme = SCHEMES[config.late_scheme if late else config.scheme]
    return dataclasses.replace(scheme, temporal=config.loss_temporal)


def combined_loss(config: TrainConfig, device: torch.device) -> losses.Loss:
    """The weighted sum of the terms whose weight is not zero."""
    terms: list[tuple[float, losses.Loss]] = []
    if config.loss_l1:
        terms.append((config.loss_l1, losses.l1))
    if config.loss_sharpness:
        terms.append((config.loss_sharpness, losses.sharpness))
    if config.loss_perceptual:
        path = Path(config.perceptual_weights) if config.perceptual_weights else None
        terms.append((config.loss_perceptual, losses.Perceptual(path).to(device)))
    if not terms:
        raise OptionError("All loss weights are zero; set at least loss_l1.")

    def total(estimate: Tensor, target: Tensor) -> Tensor:
        return torch.stack([weight * term(estimate, target) for weight, term in terms]).sum()

    return total


def check(config: TrainConfig) -> None:
    """Raises `OptionError` for combinations that cannot be trained."""
    if config.preset not in preset_names():
        raise OptionError(f"There is no preset {config.preset!r}; choose one of {', '.join(preset_names())}.")
    for name in filter(None, (config.scheme, config.late_scheme)):
        if name not in SCHEMES:
            raise OptionError(f"There is no scheme {name!r}; choose one of {', '.join(SCHEMES)}.")
    if config.precision not in ("bf16", "fp32"):
        raise OptionError(f"The precision must be bf16 or fp32, not {config.precision!r}.")
    if len(config.windows) != len(config.window_weights):
        raise OptionError("windows and window_weights must be of the same length.")
    if config.crop % 32:
        raise OptionError(f"The crop must be a multiple of 32 pixels, not {config.crop}.")


class Training:
    """All state of a run: the network, its moving average, the optimiser and the step to do next."""

    def __init__(self, config: TrainConfig, process: Process) -> None:
        torch.manual_seed(config.seed)
        network = load_network(config.init) if config.init else build_network(config.preset)
        self.network = channels_last(network.train().to(process.device))
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        self.optimizer = kind(self.network.parameters(), lr=config.learning_rate, weight_decay=decay)
        self.config = config
        self.process = process
        self.step = 0

    def update(self, network: nn.Module, sample: list[Tensor], loss: losses.Loss) -> tuple[Tensor, list[Tensor]]:
        """One optimiser step; returns the loss and the mean squared error per level."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        scheme = scheme_at(config, self.step)
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            value, errors = scheme(network, sample[: scheme.depth + 1], loss)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.step += 1
        # A short average at the beginning: the first weights are far from where the run is going.
        keep = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - keep)
                else:
                    self.average[name].copy_(tensor)
        return value.detach(), errors

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Writes the averaged weights and the state to resume from."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
        values = dataclasses.asdict(self.config)
        write_tensors(folder / STATE_NAME, tensors, {"step": self.step, "config": values})
        averaged = build_network(self.config.preset)
        averaged.load_state_dict(self.average)
        # Where the data lay on this machine is nobody's business.
        shared = {key: value for key, value in values.items() if key not in PATH_OPTIONS}
        facts = {"step": self.step, "config": shared, **facts}
        save_network(folder / WEIGHTS_NAME, averaged, self.config.preset, facts)

    def restore(self, folder: Path) -> None:
        """Continues where `save` was last called. Raises `InputError` if there is nothing to continue."""
        if not (folder / STATE_NAME).is_file():
            raise InputError(f"There is no {STATE_NAME} in {folder} to resume from; start without --resume.")
        tensors, metadata = read_tensors(folder / STATE_NAME)
        self.network.load_state_dict(_under(tensors, "network."))
        self.average = {k: v.to(self.process.device) for k, v in _under(tensors, "average.").items()}
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            states.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.step = int(metadata["step"])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def validate(average: dict[str, Tensor], config: TrainConfig, scenes: np.ndarray) -> dict[str, float]:
    """Mean PSNR in dB over held-out scenes at f .. f3, and of doing nothing, with windows of 8 sub-frames."""
    network = build_network(config.preset).eval()
    network.load_state_dict({k: v.cpu() for k, v in average.items()})
    network = channels_last(network)
    sums = np.zeros((2, VALIDATION_LEVELS))
    window = 2**VALIDATION_LEVELS
    for scene in scenes:
        clip = torch.from_numpy(np.ascontiguousarray(scene.transpose(0, 3, 1, 2))).float() / 255
        inputs = (clip.unflatten(0, (-1, window)).mean(1) * 255).round() / 255
        outputs = upconvert(network, inputs, VALIDATION_LEVELS)
        for k in range(VALIDATION_LEVELS):
            truth = clip.unflatten(0, (-1, window >> (k + 1))).mean(1)
            nothing = inputs.repeat_interleave(2 << k, dim=0)
            for row, estimate in enumerate((outputs[k], nothing)):
                error = (estimate - truth).square().mean().clamp(min=1e-6).item()
                sums[row, k] += -10 * math.log10(error) / len(scenes)
    names = [f"f{k + 1}" for k in range(VALIDATION_LEVELS)]
    return dict(zip(names, sums[0], strict=True)) | {
        f"nothing_{n}": v for n, v in zip(names, sums[1], strict=True)
    }


class Log:
    """log.csv: one row per validation; and curve.png drawn from it."""

    FIELDS = ("step", "samples", "loss", "train_psnr", "data_share", "seconds", "learning_rate")

    def __init__(self, folder: Path, resume: bool) -> None:
        self.path = folder / "log.csv"
        names = [f"f{k + 1}" for k in range(VALIDATION_LEVELS)]
        self.fields = [*self.FIELDS, *names, *(f"nothing_{n}" for n in names)]
        if not (resume and self.path.exists()):
            with open(self.path, "w", newline="") as file:
                csv.DictWriter(file, self.fields).writeheader()

    def add(self, row: dict[str, float]) -> None:
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.fields).writerow({k: f"{v:.6g}" for k, v in row.items()})

    def plot(self) -> None:
        """Draws curve.png, if Matplotlib is installed."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        with open(self.path, newline="") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for k in range(VALIDATION_LEVELS):
            x = [r["samples"] / 1000 for r in rows]
            line = axes.plot(x, [r[f"f{k + 1}"] for r in rows], label=f"f{k + 1}")[0]
            axes.plot(x, [r[f"nothing_f{k + 1}"] for r in rows], ":", color=line.get_color())
        axes.set(xlabel="thousand samples", ylabel="PSNR on held-out scenes, dB (dotted: doing nothing)")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(self.path.with_name("curve.png"), dpi=120)


def train(folder: Path, config: TrainConfig, resume: bool, process: Process, workers: int) -> None:
    """Runs until ``config.steps``; see the module's docstring for what it writes."""
    check(config)
    if config.batch % process.world:
        raise OptionError(f"A batch of {config.batch} cannot be split over {process.world} processes.")
    scenes = open_scenes(Path(config.scenes))
    if len(scenes) <= config.held_out:
        raise InputError(f"The cache {config.scenes} holds {len(scenes)} scenes; held_out={config.held_out}.")
    folder.mkdir(parents=True, exist_ok=True)
    training = Training(config, process)
    if resume:
        training.restore(folder)
    network: nn.Module = training.network
    if process.world > 1:
        network = nn.parallel.DistributedDataParallel(network)
    loss = combined_loss(config, process.device)
    stages = [config.scheme, config.late_scheme or config.scheme]
    depth = max(SCHEMES[name].depth for name in stages)
    options = SampleOptions(
        crop=config.crop, frames=config.frames, depth=depth, windows=config.windows,
        window_weights=config.window_weights, linear_share=config.linear_share,
        duty_range=(config.duty_low, 1.0), noise=config.noise,
    )  # fmt: skip
    held_out = scenes[len(scenes) - config.held_out :]
    sampler = ExposureSampler(scenes[: len(scenes) - config.held_out], options, config.seed)
    source = batches(sampler, training.step, config.steps, config.batch, process.rank, process.world, workers)
    log = Log(folder, resume) if process.leads else None
    bar = tqdm(total=config.steps, initial=training.step, disable=None if process.leads else True, unit="step")
    began = last = time.perf_counter()
    data_seconds, squared, values = 0.0, [], []
    while training.step < config.steps:
        waiting = time.perf_counter()
        sample = [x.to(process.device) for x in next(source)]
        data_seconds += time.perf_counter() - waiting
        value, errors = training.update(network, sample, loss)
        values.append(float(value))
        squared.append(float(errors[0]))
        bar.update()
        finished = training.step == config.steps
        if log and (training.step % config.validate_every == 0 or finished):
            now = time.perf_counter()
            scores = validate(training.average, config, held_out)
            row: dict[str, float] = {
                "step": training.step, "samples": training.step * config.batch, "loss": float(np.mean(values)),
                "train_psnr": -10 * math.log10(np.mean(squared)), "data_share": data_seconds / (now - last),
                "seconds": now - began, "learning_rate": learning_rate(config, training.step), **scores,
            }  # fmt: skip
            log.add(row)
            bar.set_postfix_str(" ".join(f"{k}={v:.2f}" for k, v in scores.items() if k.startswith("f")))
            data_seconds, squared, values, last = 0.0, [], [], time.perf_counter()
            log.plot()
        if process.leads and (training.step % config.checkpoint_every == 0 or finished):
            training.save(folder, {"threads": torch.get_num_threads()})
    bar.close()


def _body(args: argparse.Namespace) -> int:
    overrides = {}
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"--set takes KEY=VALUE, not {item!r}.")
        overrides[key] = value
    config_path = args.config
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.resume and not overrides and config_path is None:
        # Without instructions to the contrary a run goes on as it began.
        if not (args.out / STATE_NAME).is_file():
            raise InputError(f"There is no {STATE_NAME} in {args.out} to resume from; start without --resume.")
        stored = read_tensors(args.out / STATE_NAME)[1]["config"]
        config = TrainConfig.load(None, stored)
    else:
        config = TrainConfig.load(config_path, overrides)
    with process_group() as process:
        train(args.out, config, args.resume, process, args.workers)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="vtsr-train", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for weights, state and logs")
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="training configuration")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one option")
    parser.add_argument("--resume", action="store_true", help="continue the run in OUT at the step it was saved")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the network")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that read data (default: 1)")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
