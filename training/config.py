"""The training configuration: one flat dataclass, read from TOML and overridden on the command line."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from vtsr.errors import InputError, OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes; stored inside its checkpoints.

    Lengths are in optimiser steps; ``batch`` counts samples over all processes.
    """

    preset: str = "dense"
    init: str = ""  # checkpoint to start from, empty for a fresh network
    scenes: str = ""  # folder of the scene cache
    seed: int = 0

    scheme: str = "law"
    late_scheme: str = ""  # scheme of the last part of the run, empty for the same
    late_share: float = 0.3  # how much of the run that is
    loss_l1: float = 1.0
    loss_sharpness: float = 0.0
    loss_perceptual: float = 0.0
    loss_temporal: float = 0.0
    perceptual_weights: str = ""

    crop: int = 96
    frames: int = 3
    windows: tuple[int, ...] = (8, 4, 2)
    window_weights: tuple[float, ...] = (0.4, 0.35, 0.25)
    linear_share: float = 0.1
    duty_low: float = 1.0
    noise: float = 0.0
    held_out: int = 32  # scenes at the end of the cache that are never trained on

    steps: int = 30000
    batch: int = 16
    learning_rate: float = 6e-4
    warmup: int = 300
    schedule: str = "cosine"  # or "multistep"
    milestone_every: int = 0  # steps between decays of the multistep schedule
    milestone_factor: float = 0.7
    weight_decay: float = 1e-4
    optimizer: str = "adamw"  # or "adam"
    gradient_clip: float = 1.0
    ema: float = 0.999
    precision: str = "bf16"  # or "fp32"
    frozen_backbone_steps: int = 0

    validate_every: int = 500
    checkpoint_every: int = 250

    @classmethod
    def load(cls, path: Path | None, overrides: dict[str, Any]) -> TrainConfig:
        """Reads ``path`` (TOML, keys as above) and applies ``overrides``, as text or as values.

        Raises `InputError` for a missing or malformed file, `OptionError` for unknown keys and bad values.
        """
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise InputError(f"The configuration {path} cannot be read: {error.strerror}.") from error
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"The configuration {path} is not valid TOML: {error}.") from error
        values.update(overrides)
        hints = get_type_hints(cls)
        known = {f.name: f for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise OptionError(f"There is no training option {key!r}; the options are {', '.join(known)}.")
            values[key] = _convert(key, value, hints[key])
        return cls(**values)


def _convert(key: str, value: Any, kind: Any) -> Any:
    try:
        if kind in (int, float, str):
            if isinstance(value, bool) or (kind is int and isinstance(value, float)):
                raise ValueError
            return kind(value)
        element = kind.__args__[0]
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(element(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise OptionError(f"The training option {key} cannot be {value!r}.") from error
