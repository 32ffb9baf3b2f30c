"""The training configuration: one flat dataclass, read from TOML and overridden on the command line."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from vtsr.errors import InputError, OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH_KEYS = ("init", "backbone_weights", "perceptual_weights", "scenes", "photographs", "clips", "high_speed")
LARGEST_WINDOW = 256  # sub-frames; sums of that many 8-bit values still fit into 16 bits


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes; stored inside its checkpoints.

    Lengths are in optimiser steps, unless their name says epochs; ``batch`` counts samples over all
    processes.
    """

    preset: str = "dense"
    init: str = ""  # checkpoint to start from, empty for a fresh network
    backbone_weights: str = ""  # ImageNet weights of a MobileNetV2: a .safetensors file, or "torchvision"
    scenes: str = ""  # folder of the scene cache, empty for OUT/scenes
    seed: int = 0

    # Sources of the scene cache, which is prepared when it is missing: see `vtsr.training.data.scenes`.
    photographs: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    high_speed: tuple[str, ...] = ()
    scene_count: int = 6000  # scenes rendered from photographs
    clip_scenes: int = 1500  # scenes from all ordinary clips together
    video_scenes: int = 20  # scenes from each high-speed video
    scene_size: int = 128
    scene_subframes: int = 24
    interpolate: int = 1  # sub-frames per frame of clips and videos
    held_out_share: float = 0.02  # share of the photographs and clips to reserve for validation

    scheme: str = "law"
    late_scheme: str = ""  # scheme of the last part of the run, empty for the same
    late_share: float = 0.3  # how much of the run that is
    lambda_r: float = 0.15  # weight of the reconstruction term in schemes that have it
    loss_l1: float = 1.0
    loss_l2: float = 0.0
    loss_sharpness: float = 0.0
    loss_perceptual: float = 0.0
    loss_temporal: float = 0.0
    perceptual_weights: str = ""  # VGG16: a .safetensors file, empty to ask torchvision

    crop: int = 96
    frames: int = 3
    windows: tuple[int, ...] = (8, 4, 2)
    window_weights: tuple[float, ...] = (0.4, 0.35, 0.25)
    linear_share: float = 0.1
    duty_low: float = 1.0
    noise: float = 0.0
    compression: float = 0.0  # share of the samples whose inputs are compressed as JPEG
    compression_quality: int = 40  # lowest JPEG quality
    flips: str = "all"  # "all" turns, mirrors and time reversal; "horizontal"; or "none"
    held_out: int = 32  # scenes at the end of the cache to validate on; 0: all that were reserved for it

    steps: int = 30000
    epochs: int = 0  # replaces steps: passes over the cache, every scene once in each
    batch: int = 16
    learning_rate: float = 6e-4
    warmup: int = 300
    schedule: str = "cosine"  # or "multistep"
    milestone_every: int = 0  # steps between decays of the multistep schedule
    milestone_epochs: int = 0  # replaces milestone_every
    milestone_factor: float = 0.7
    weight_decay: float = 1e-4
    optimizer: str = "adamw"  # or "adam"
    gradient_clip: float = 1.0  # largest norm of the gradient, 0 for any
    ema: float = 0.999  # decay of the moving average of the weights, 0 for none
    precision: str = "bf16"  # or "fp32"
    frozen_backbone_steps: int = 0
    frozen_backbone_epochs: int = 0  # replaces frozen_backbone_steps

    validate_every: int = 500
    checkpoint_every: int = 250

    @classmethod
    def load(cls, path: Path | None, overrides: dict[str, Any], base: dict[str, Any] | None = None) -> TrainConfig:
        """Values of ``base``, over them those of ``path`` (TOML), over them ``overrides``, as text or as values.

        Raises `InputError` for a missing or malformed file, `OptionError` for unknown keys and bad values.
        """
        values: dict[str, Any] = dict(base or {})
        if path is not None:
            try:
                values |= tomllib.loads(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise InputError(f"The configuration {path} cannot be read: {error.strerror}.") from error
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"The configuration {path} is not valid TOML: {error}.") from error
        values |= overrides
        hints = get_type_hints(cls)
        known = {f.name: f for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise OptionError(f"There is no training option {key!r}; the options are {', '.join(known)}.")
            values[key] = _convert(key, value, hints[key])
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        """Raises `OptionError` for a value outside its range and for values that do not go together."""
        for names, low in (
            ("batch epochs_or_steps frames scene_size scene_subframes interpolate", 1),
            ("validate_every checkpoint_every", 1),
            ("warmup milestone_every milestone_epochs frozen_backbone_steps frozen_backbone_epochs", 0),
            ("loss_l1 loss_l2 loss_sharpness loss_perceptual loss_temporal", 0),
            ("lambda_r noise weight_decay gradient_clip", 0),
            ("seed epochs scene_count clip_scenes video_scenes held_out learning_rate milestone_factor", 0),
        ):
            for name in names.split():
                value = (self.epochs or self.steps) if name == "epochs_or_steps" else getattr(self, name)
                if not low <= value < math.inf:
                    name = "steps" if name == "epochs_or_steps" else name
                    raise OptionError(f"The training option {name} must be at least {low}, not {value}.")
        for name in ("linear_share", "late_share", "held_out_share", "compression", "ema", "duty_low"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 1 and name in ("ema", "held_out_share")):
                raise OptionError(f"The training option {name} must be a share between 0 and 1, not {value}.")
        for name, choices in (
            ("precision", ("bf16", "fp32")),
            ("optimizer", ("adamw", "adam")),
            ("schedule", ("cosine", "multistep")),
            ("flips", ("all", "horizontal", "none")),
        ):
            if getattr(self, name) not in choices:
                raise OptionError(f"The {name} must be {' or '.join(choices)}, not {getattr(self, name)!r}.")
        if not self.windows or len(self.windows) != len(self.window_weights):
            raise OptionError("windows and window_weights must be of the same length, one weight per window.")
        if any(not 2 <= w <= LARGEST_WINDOW or w % 2 for w in self.windows):
            raise OptionError(f"The windows must be even numbers from 2 to {LARGEST_WINDOW}, not {self.windows}.")
        if not all(0 <= w < math.inf for w in self.window_weights) or not sum(self.window_weights) > 0:
            raise OptionError("The window_weights must not be negative, and one must be above zero.")
        if self.frames < 2:
            raise OptionError("A sample needs at least 2 frames; the reconstruction term and the law need 3.")
        if self.crop < 32 or self.crop % 32:
            raise OptionError(f"The crop must be a multiple of 32 pixels, not {self.crop}.")
        if not 1 <= self.compression_quality <= 95:
            raise OptionError(f"The compression_quality must be from 1 to 95, not {self.compression_quality}.")
        if not (self.loss_l1 or self.loss_l2 or self.loss_sharpness or self.loss_perceptual):
            raise OptionError("All loss weights are zero; set at least loss_l1.")

    def in_steps(self, scenes: int) -> TrainConfig:
        """The same run with every number of epochs turned into steps, for that many training scenes."""
        per_epoch = max(1, round(scenes / self.batch))
        changes: dict[str, Any] = {}
        for name, epochs in (
            ("steps", self.epochs),
            ("milestone_every", self.milestone_epochs),
            ("frozen_backbone_steps", self.frozen_backbone_epochs),
        ):
            if epochs:
                changes[name] = epochs * per_epoch
        return dataclasses.replace(self, **changes)

    def public(self) -> dict[str, Any]:
        """All values, for a file that is given to others: of paths only the last part."""
        values = dataclasses.asdict(self)
        for key in PATH_KEYS:
            value = values[key]
            values[key] = Path(value).name if isinstance(value, str) else [Path(v).name for v in value]
        return values


def _convert(key: str, value: Any, kind: Any) -> Any:
    try:
        if kind in (int, float, str):
            if isinstance(value, bool) or (kind is int and isinstance(value, float)):
                raise ValueError
            if isinstance(value, list | dict):
                raise TypeError
            return kind(value)
        element = kind.__args__[0]
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_convert(key, part, element) for part in value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"The training option {key} cannot be {value!r}.") from error
