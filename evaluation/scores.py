"""Scores: what an evaluation found, per clip, method and level, and their means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """How well one method did on one clip at one level; the mean over all output frames.

    factor
        Outputs per input frame: 2, 4, 8, ... at levels f, f2, f3, ...
    psnr, ssim, tof
        dB; at most 1; pixels per output frame (lower is better). NaN where not measured.
    flicker_psnr, flicker_ssim
        Peak-to-peak of the mean score over the phases of an input frame, in dB and in SSIM.
    psnr_curve, ssim_curve
        One value per output frame, in order: (factor * N,) float64; empty in means.
    """

    clip: str
    group: str
    method: str
    window: int
    factor: int
    psnr: float
    ssim: float
    tof: float
    flicker_psnr: float
    flicker_ssim: float
    psnr_curve: Curve = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    ssim_curve: Curve = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


NUMBERS = ("psnr", "ssim", "tof", "flicker_psnr", "flicker_ssim")


@dataclass(frozen=True)
class Result:
    """All scores of an evaluation, and how they were made."""

    window: int
    scores: list[Score]
    linear: bool = False
    region: str | None = None

    @property
    def clips(self) -> list[str]:
        return list(dict.fromkeys(score.clip for score in self.scores))

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(score.group for score in self.scores if score.group))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(score.method for score in self.scores))

    @property
    def factors(self) -> list[int]:
        return sorted({score.factor for score in self.scores})

    def of(self, method: str, factor: int, clip: str | None = None, group: str | None = None) -> list[Score]:
        """The scores of a method at a level, for one clip, the clips of one group, or all."""
        return [
            score for score in self.scores
            if (score.method, score.factor) == (method, factor)
            and clip in (None, score.clip) and group in (None, score.group)
        ]  # fmt: skip

    def mean(self, method: str, factor: int, group: str | None = None) -> Score | None:
        """The mean over clips, each clip counting once; None if the method has no such level."""
        chosen = self.of(method, factor, group=group)
        if not chosen:
            return None
        psnr, ssim, tof, *flicker = (nan_mean(getattr(score, name) for score in chosen) for name in NUMBERS)
        return Score("mean", group or "", method, chosen[0].window, factor, psnr, ssim, tof, flicker[0], flicker[1])

    def to_json(self, curves: bool = True) -> dict[str, Any]:
        """Plain data for a JSON file; NaN becomes null."""

        def row(score: Score) -> dict[str, Any]:
            data: dict[str, Any] = {"level": level_name(score.factor), "factor": score.factor}
            data |= {name: _plain(getattr(score, name)) for name in NUMBERS}
            return data

        def means(group: str | None) -> dict[str, Any]:
            found = [self.mean(method, factor, group) for method in self.methods for factor in self.factors]
            table: dict[str, Any] = {}
            for score in filter(None, found):
                table.setdefault(score.method, []).append(row(score))
            return table

        rows = []
        for score in self.scores:
            data = {"clip": score.clip, "group": score.group, "method": score.method, "window": score.window}
            data |= row(score)
            if curves:
                data |= {name: [_plain(v) for v in getattr(score, name)] for name in ("psnr_curve", "ssim_curve")}
            rows.append(data)
        return {
            "window": self.window,
            "averaging": "linear light" if self.linear else "coded values",
            "region": self.region or "all pixels",
            "clips": self.clips,
            "mean": means(None),
            "group_means": {group: means(group) for group in self.groups},
            "scores": rows,
        }


def level_name(factor: int) -> str:
    """``f``, ``f2``, ``f3``, ... for powers of two; ``x10`` and the like for other numbers of outputs."""
    level = factor.bit_length() - 1
    if factor < 2 or factor != 2**level:
        return f"x{factor}"
    return "f" if level == 1 else f"f{level}"


def nan_mean(values: Iterable[float]) -> float:
    """The mean of the numbers that are not NaN; NaN if there are none."""
    numbers = [value for value in values if value == value]
    return float(np.mean(numbers)) if numbers else float("nan")


def _plain(value: float) -> float | None:
    return round(float(value), 5) if value == value else None
