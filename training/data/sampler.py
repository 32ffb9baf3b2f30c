"""Training samples: random crops of cached scenes, averaged into exposures at every recursion level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SRGB_GAMMA = 2.2  # pure power approximation of the transfer curve, for averaging in linear light


@dataclass(frozen=True)
class SampleOptions:
    """How exposures are cut from scenes.

    crop
        Side of the square crop, in pixels.
    frames
        Consecutive full exposures per sample.
    depth
        Recursion levels with ground truth, 1 or more; windows are multiples of 2**depth.
    windows, window_weights
        Sub-frames per exposure and how often each is drawn.
    linear_share
        Share of the samples averaged in linear light instead of coded values.
    duty_range
        Lowest and highest share of the frame time during which the shutter is open. Ground truth stays
        the fully exposed half frame, so 1.0 is the camera the exposure law describes.
    noise
        Largest standard deviation of Gaussian noise added to the inputs, in [0, 1] units.
    """

    crop: int = 96
    frames: int = 3
    depth: int = 1
    windows: tuple[int, ...] = (8, 4, 2)
    window_weights: tuple[float, ...] = (0.55, 0.3, 0.15)
    linear_share: float = 0.15
    duty_range: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0


class ExposureSampler(Dataset[list[Tensor]]):
    """Sample ``i`` is a function of (seed, i) alone, so runs can be resumed and split over processes.

    A sample is a list over levels k = 0 .. depth of float tensors (frames * 2**k, 3, crop, crop) in
    [0, 1]: the consecutive exposures of length T / 2**k. Level 0 is rounded to 8 bits when a whole
    window was averaged, as a camera would.
    """

    def __init__(self, scenes: NDArray[np.uint8], options: SampleOptions, seed: int) -> None:
        self.scenes = scenes
        self.options = options
        self.seed = seed
        self.windows = [w for w in options.windows if w % 2**options.depth == 0]
        weights = np.array([options.window_weights[options.windows.index(w)] for w in self.windows])
        self.weights = weights / weights.sum()

    def __getitem__(self, index: int) -> list[Tensor]:
        options = self.options
        rng = np.random.default_rng([self.seed, index])
        scene = self.scenes[rng.integers(len(self.scenes))]
        window = int(rng.choice(self.windows, p=self.weights))
        span = options.frames * window
        # Slow scenes stand in for small motions; skipping sub-frames is avoided, it would leave gaps.
        start = rng.integers(len(scene) - span + 1)
        y, x = rng.integers(scene.shape[1] - options.crop + 1, size=2)
        clip = scene[start : start + span, y : y + options.crop, x : x + options.crop]
        if rng.random() < 0.5:
            clip = clip[::-1]
        if rng.random() < 0.5:
            clip = clip[:, ::-1]
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        if rng.random() < 0.5:
            clip = clip.transpose(0, 2, 1, 3)
        levels = _exposures(rng, np.ascontiguousarray(clip), window, options)
        return [torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x in levels]


def _exposures(
    rng: np.random.Generator, clip: NDArray[np.uint8], window: int, options: SampleOptions
) -> list[NDArray[np.float32]]:
    values = clip.astype(np.float32) / 255
    linear = rng.random() < options.linear_share
    if linear:
        values **= SRGB_GAMMA
    duty = rng.uniform(*options.duty_range)
    levels = []
    for k in range(options.depth + 1):
        length = window >> k
        shots = values.reshape(-1, length, *values.shape[1:])
        if k == 0 and duty < 1:
            shots = shots[:, : max(1, round(duty * length))]
        levels.append(shots.mean(axis=1))
    if linear:
        levels = [x ** (1 / SRGB_GAMMA) for x in levels]
    if options.noise:
        levels[0] = levels[0] + rng.normal(0, rng.uniform(0, options.noise), levels[0].shape).astype(np.float32)
    if window == max(options.windows):
        levels[0] = np.rint(levels[0] * 255) / 255
    return [np.clip(x, 0, 1).astype(np.float32) for x in levels]


class _StepBatches:
    """Batch sampler: the sample numbers of each step, from ``start`` on, of this process's share."""

    def __init__(self, start: int, stop: int, batch: int, rank: int, world: int) -> None:
        self.start, self.stop, self.batch, self.rank, self.world = start, stop, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            yield list(range(step * self.batch + self.rank, (step + 1) * self.batch, self.world))

    def __len__(self) -> int:
        return self.stop - self.start


def batches(
    sampler: ExposureSampler, start: int, stop: int, batch: int, rank: int = 0, world: int = 1, workers: int = 1
) -> Iterator[list[Tensor]]:
    """Batches of steps [start, stop): per level (batch / world, frames * 2**k, 3, crop, crop)."""
    steps = _StepBatches(start, stop, batch, rank, world)
    loader = DataLoader(sampler, batch_sampler=steps, num_workers=workers, prefetch_factor=4 if workers else None)
    return iter(loader)
