"""vtsr-train: trains a network of your own on photographs, ordinary clips and high-speed video.

    vtsr-train runs/first --set photographs=photos --set clips=clips --set steps=20000
    vtsr-train runs/first --resume
    vtsr-train runs/thesis --config thesis --set high_speed=GOPRO_Large_all
    torchrun --nproc-per-node 4 -m vtsr.training.train runs/big --config default

The folder then holds last.safetensors (the weights to use), state.safetensors (to resume from), log.csv and
curve.png. Next: vtsr-evaluate judges the weights, vtsr-export makes a model of them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from tqdm import tqdm

from vtsr.errors import InputError, OptionError, OutputError
from vtsr.options import Parser, add_threads, run_cli
from vtsr.training import losses
from vtsr.training.checkpoint import (
    load_network,
    read_facts,
    read_metadata,
    read_tensors,
    save_network,
    write_tensors,
)
from vtsr.training.config import TrainConfig
from vtsr.training.data.sampler import ExposureSampler, SampleOptions, batches
from vtsr.training.data.scenes import SCENES_NAME, SceneOptions, build_scenes, held_out_scenes, open_scenes
from vtsr.training.log import Log
from vtsr.training.mobilenet import MobileNetV2, imagenet_state
from vtsr.training.network import build_network, preset_names
from vtsr.training.schemes import SCHEMES, Scheme
from vtsr.training.validation import levels_of, validate

WEIGHTS_NAME = "last.safetensors"
STATE_NAME = "state.safetensors"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
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
        torch.cuda.set_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Process(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), world, device)
        # Nobody leaves while another process still works: a group that is torn down early aborts.
        dist.barrier()
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
    reconstruction = config.lambda_r if scheme.reconstruction else 0.0
    return dataclasses.replace(scheme, temporal=config.loss_temporal, reconstruction=reconstruction)


def combined_loss(config: TrainConfig, device: torch.device) -> losses.Loss:
    """The weighted sum of the terms whose weight is not zero."""
    terms: list[tuple[float, losses.Loss]] = []
    if config.loss_l1:
        terms.append((config.loss_l1, losses.l1))
    if config.loss_l2:
        terms.append((config.loss_l2, functional.mse_loss))
    if config.loss_sharpness:
        terms.append((config.loss_sharpness, losses.sharpness))
    if config.loss_perceptual:
        path = Path(config.perceptual_weights) if config.perceptual_weights else None
        terms.append((config.loss_perceptual, losses.Perceptual(path).to(device)))
    def total(estimate: Tensor, target: Tensor) -> Tensor:
        return torch.stack([weight * term(estimate, target) for weight, term in terms]).sum()

    return total


def check(config: TrainConfig) -> None:
    """Raises `OptionError` for names that do not exist."""
    if config.preset not in preset_names():
        raise OptionError(f"There is no preset {config.preset!r}; choose one of {', '.join(preset_names())}.")
    for name in filter(None, (config.scheme, config.late_scheme)):
        if name not in SCHEMES:
            raise OptionError(f"There is no scheme {name!r}; choose one of {', '.join(SCHEMES)}.")


def fresh_network(config: TrainConfig) -> nn.Module:
    """The network a run starts from: weights of ``init``, or fresh ones with ImageNet's in the backbone."""
    if config.init:
        preset = read_facts(config.init).get("preset")
        if preset != config.preset:
            raise OptionError(f"{config.init} holds a network {preset!r}; set preset to that.")
        return load_network(config.init)
    network = build_network(config.preset)
    backbone = backbone_of(network)
    if backbone is not None and config.backbone_weights:
        backbone.load_imagenet(imagenet_state(config.backbone_weights))
    if backbone is None and (config.backbone_weights or config.frozen_backbone_steps):
        raise OptionError(f"The network {config.preset!r} has no backbone to freeze or to load ImageNet weights into.")
    return network


def backbone_of(network: nn.Module) -> MobileNetV2 | None:
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, MobileNetV2) else None


@dataclasses.dataclass
class Meter:
    """Sums since the last row of the log: of losses, squared errors, and seconds, waiting for data and in all."""

    steps: int = 0
    loss: float = 0.0
    squared: float = 0.0
    waiting: float = 0.0
    elapsed: float = 0.0

    def add(self, loss: float, squared: float, waiting: float, elapsed: float) -> None:
        self.steps += 1
        self.loss += loss
        self.squared += squared
        self.waiting += waiting
        self.elapsed += elapsed

    def shared(self, process: Process) -> Meter:
        """The mean over all processes; every one of them must call it."""
        if process.world == 1:
            return self
        sums = torch.tensor([self.loss, self.squared, self.waiting, self.elapsed], dtype=torch.float64)
        sums = sums.to(process.device)
        dist.all_reduce(sums)
        return Meter(self.steps, *(sums / process.world).tolist())


class Training:
    """All state of a run: the network, its moving average, the optimiser, the step to do next and the meter."""

    def __init__(self, config: TrainConfig, process: Process) -> None:
        torch.manual_seed(config.seed)
        self.network = channels_last(fresh_network(config).train().to(process.device))
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        self.optimizer = kind(self.network.parameters(), lr=config.learning_rate, weight_decay=decay)
        self.config = config
        self.process = process
        self.step = 0
        self.seconds = 0.0  # the run has taken so far
        self.meter = Meter()

    def update(self, network: nn.Module, sample: list[Tensor], loss: losses.Loss) -> tuple[float, float]:
        """One optimiser step with ``network``, the wrapped or bare own one.

        Returns the loss and the mean squared error at f. Raises `OptionError` if the loss or its gradient
        is not finite.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        scheme = scheme_at(config, self.step)
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            value, errors = scheme(network, sample[: scheme.depth + 1], loss)
        self._check_finite(value)  # before the gradient: that of a sampling at NaN reads beyond its memory
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        backbone = backbone_of(self.network) if self.step < config.frozen_backbone_steps else None
        if backbone is not None:
            # Without a gradient the optimiser leaves a parameter alone, its weight decay included.
            for parameter in backbone.parameters():
                parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip or math.inf)
        self._check_finite(norm)
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
        return float(value.detach()), float(errors[0])

    def _check_finite(self, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise OptionError(
                f"Training has diverged at step {self.step}; resume from the last saved state with a lower "
                "learning_rate, or with gradient_clip."
            )

    def averaged(self) -> nn.Module:
        """A copy of the network with the averaged weights, in evaluation mode."""
        network = build_network(self.config.preset).to(self.process.device)
        network.load_state_dict(self.average)
        return channels_last(network.eval())

    def save(self, folder: Path, meter: Meter) -> None:
        """Writes the averaged weights and the state to resume from, with the processes' ``meter``."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
        values = dataclasses.asdict(self.config)
        facts = {"step": self.step, "seconds": self.seconds, "meter": dataclasses.asdict(meter)}
        write_tensors(folder / STATE_NAME, tensors, {"config": values, **facts})
        facts = {"step": self.step, "config": self.config.public()}
        save_network(folder / WEIGHTS_NAME, self.averaged(), self.config.preset, facts)

    def restore(self, folder: Path) -> None:
        """Continues where `save` was last called. Raises `InputError` if there is nothing to continue."""
        preset = stored_config(folder).get("preset")
        if preset != self.config.preset:
            raise OptionError(f"The run in {folder} trains {preset!r}; it cannot go on as {self.config.preset!r}.")
        tensors, metadata = read_tensors(folder / STATE_NAME)
        self.network.load_state_dict(_under(tensors, "network."))
        self.average = {k: v.to(self.process.device) for k, v in _under(tensors, "average.").items()}
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            if tensor.dim() == 4:  # as the weights and their gradients
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            states.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.step = int(metadata["step"])
        self.seconds = float(metadata.get("seconds", 0.0))
        self.meter = Meter(**metadata.get("meter", {}))


def stored_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run in ``folder``. Raises `InputError` if there is none to resume."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise InputError(f"There is no {STATE_NAME} in {folder} to resume from; start without --resume.")
    config = read_metadata(path).get("config")
    if not isinstance(config, dict):
        raise InputError(f"{path} is not the state of a run of vtsr-train.")
    return config


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def scene_folder(folder: Path, config: TrainConfig, process: Process, workers: int) -> Path:
    """The scene cache, prepared by the leading process if it is missing and its sources are given."""
    cache = Path(config.scenes) if config.scenes else folder / "scenes"
    photographs, clips, high_speed = (
        tuple(Path(p) for p in paths) for paths in (config.photographs, config.clips, config.high_speed)
    )
    if (photographs or clips or high_speed) and not (cache / SCENES_NAME).is_file():
        if process.leads:
            options = SceneOptions(
                photographs=photographs, clips=clips, high_speed=high_speed, count=config.scene_count,
                clip_count=config.clip_scenes, per_video=config.video_scenes, size=config.scene_size,
                subframes=config.scene_subframes, interpolate=config.interpolate,
                held_out_share=config.held_out_share, seed=config.seed,
            )  # fmt: skip
            build_scenes(cache, options, max(1, workers), progress=True)
        if process.world > 1:
            dist.barrier()
    return cache


def train(folder: Path, config: TrainConfig, resume: bool, process: Process, workers: int) -> None:
    """Runs until ``config.steps``; see the module's docstring for what it writes."""
    check(config)
    if config.batch % process.world:
        raise OptionError(f"A batch of {config.batch} cannot be split over {process.world} processes.")
    cache = scene_folder(folder, config, process, workers)
    scenes = open_scenes(cache)
    reserved = held_out_scenes(cache, len(scenes))
    held_out = config.held_out or reserved
    trained_on = len(scenes) - max(held_out, reserved)
    if not held_out or trained_on < 1:
        raise InputError(f"Of the {len(scenes)} scenes in {cache}, {held_out} are to be held out; set held_out.")
    config = config.in_steps(trained_on)
    stages = [config.scheme, config.late_scheme or config.scheme]
    options = SampleOptions(
        crop=config.crop, frames=config.frames, depth=max(SCHEMES[name].depth for name in stages),
        windows=config.windows, window_weights=config.window_weights, linear_share=config.linear_share,
        duty_range=(config.duty_low, 1.0), noise=config.noise, compression=config.compression,
        compression_quality=config.compression_quality, flips=config.flips, each_once=config.epochs > 0,
    )  # fmt: skip
    sampler = ExposureSampler(scenes[:trained_on], options, config.seed)
    loss = combined_loss(config, process.device)
    training = Training(config, process)
    if resume:
        training.restore(folder)
    network: nn.Module = training.network
    if process.world > 1:
        network = nn.parallel.DistributedDataParallel(network)
    levels = levels_of(config.windows)
    make_folder(folder)
    log = Log(folder, levels, training.step) if process.leads else None
    source = batches(sampler, training.step, config.steps, config.batch, process.rank, process.world, workers)
    bar = tqdm(total=config.steps, initial=training.step, disable=None if process.leads else True, unit="step")
    clock = time.perf_counter() - training.seconds
    while training.step < config.steps:
        began = time.perf_counter()
        sample = next(source)
        waited = time.perf_counter()
        value, error = training.update(network, [x.to(process.device) for x in sample], loss)
        finished = time.perf_counter()
        training.meter.add(value, error, waited - began, finished - began)
        training.seconds = finished - clock
        bar.update()
        last = training.step == config.steps
        if last or training.step % config.validate_every == 0:
            meter, training.meter = training.meter.shared(process), Meter()
            if log:
                scores = validate(training.averaged(), scenes[-held_out:], max(config.windows), levels)
                row: dict[str, float] = {
                    "step": training.step, "samples": training.step * config.batch,
                    "loss": meter.loss / meter.steps, "train_psnr": -10 * math.log10(meter.squared / meter.steps),
                    "data_share": meter.waiting / meter.elapsed, "seconds": training.seconds,
                    "learning_rate": learning_rate(config, training.step - 1), **scores,
                }  # fmt: skip
                log.add(row)
                bar.set_postfix_str(" ".join(f"{k}={v:.2f}" for k, v in scores.items() if k.startswith("f")))
        if last or training.step % config.checkpoint_every == 0:
            meter = training.meter.shared(process)
            if process.leads:
                training.save(folder, meter)
    bar.close()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def find_config(name: str) -> Path:
    """A configuration by the name of a shipped one, such as "thesis", or by path."""
    shipped = CONFIGS / f"{name}.toml"
    return shipped if shipped.is_file() else Path(name)


def _body(args: argparse.Namespace) -> int:
    overrides = {}
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"--set takes KEY=VALUE, not {item!r}.")
        overrides[key] = value
    if args.workers < 0 or (args.threads is not None and args.threads < 1):
        raise OptionError("--workers must be at least 0 and --threads at least 1.")
    if args.threads:
        torch.set_num_threads(args.threads)
    # Without instructions to the contrary a run goes on as it began.
    base = stored_config(args.out) if args.resume else None
    config = TrainConfig.load(find_config(args.config) if args.config else None, overrides, base)
    with process_group() as process:
        train(args.out, config, args.resume, process, args.workers)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="vtsr-train", description=__doc__, guide="training.md")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of the run: weights, state, logs")
    parser.add_argument("--config", metavar="NAME|FILE", help="default, thesis, or a TOML file of options")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override one option, may be repeated; docs/training.md has all keys",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR at the step it was saved")
    add_threads(parser)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that read data (default: 1)")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
