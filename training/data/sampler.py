"""Training samples: random crops of cached scenes, averaged into exposures at every recursion level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vtsr.errors import OptionError

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
    compression, compression_quality
        Share of the samples whose inputs are compressed as JPEG, and the lowest quality of those.
    flips
        "all": upside down, mirrored, transposed and reversed in time; "horizontal": mirrored; or "none".
    each_once
        Every scene once in each pass over the scenes, in random order, instead of independent draws.
    """

    crop: int = 96
    frames: int = 3
    depth: int = 1
    windows: tuple[int, ...] = (8, 4, 2)
    window_weights: tuple[float, ...] = (0.4, 0.35, 0.25)
    linear_share: float = 0.1
    duty_range: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    compression: float = 0.0
    compression_quality: int = 40
    flips: str = "all"
    each_once: bool = False


HIGHEST_QUALITY = 95  # of JPEG compression
# Which of: reversed in time, upside down, mirrored, transposed.
FLIPS = {"all": (True, True, True, True), "horizontal": (False, False, True, False), "none": (False,) * 4}


class ExposureSampler(Dataset[list[Tensor]]):
    """Sample ``i`` is a function of (seed, i) alone, so runs can be resumed and split over processes.

    A sample is a list over levels k = 0 .. depth of float tensors (frames * 2**k, 3, crop, crop) in
    [0, 1]: the consecutive exposures of length T / 2**k. Level 0 is rounded to 8 bits when a whole
    window was averaged, as a camera would.

    Raises `OptionError` if such samples cannot be cut from the scenes.
    """

    def __init__(self, scenes: NDArray[np.uint8], options: SampleOptions, seed: int) -> None:
        self.scenes = scenes
        self.options = options
        self.seed = seed
        self.windows = [w for w in options.windows if w % 2**options.depth == 0]
        weights = np.array([options.window_weights[options.windows.index(w)] for w in self.windows])
        if not weights.sum() > 0:
            raise OptionError(
                f"A scheme of {options.depth} levels needs windows that are multiples of {2**options.depth}; "
                f"the windows are {', '.join(map(str, options.windows))}."
            )
        self.weights = weights / weights.sum()
        if options.frames * max(self.windows) > scenes.shape[1]:
            raise OptionError(
                f"{options.frames} frames of {max(self.windows)} sub-frames do not fit into scenes of "
                f"{scenes.shape[1]}; lower frames or windows."
            )
        if options.crop > min(scenes.shape[2:4]):
            raise OptionError(f"A crop of {options.crop} pixels does not fit into scenes of {min(scenes.shape[2:4])}.")
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, index: int) -> list[Tensor]:
        options = self.options
        rng = np.random.default_rng([self.seed, index])
        scene = self.scenes[self._scene(index) if options.each_once else rng.integers(len(self.scenes))]
        window = int(rng.choice(self.windows, p=self.weights))
        span = options.frames * window
        # Slow scenes stand in for small motions; skipping sub-frames is avoided, it would leave gaps.
        start = rng.integers(len(scene) - span + 1)
        y, x = rng.integers(scene.shape[1] - options.crop + 1, size=2)
        clip = scene[start : start + span, y : y + options.crop, x : x + options.crop]
        turns = (rng.random(4) < 0.5) & FLIPS[options.flips]
        levels = _exposures(rng, clip, window, options)
        return [torch.from_numpy(_turned(level, turns)) for level in levels]

    def _scene(self, index: int) -> int:
        epoch, place = divmod(index, len(self.scenes))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.scenes))
            self._order = (epoch, order)
        return int(self._order[1][place])


def _turned(frames: NDArray[np.float32], turns: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(T, H, W, 3) to (T, 3, H, W), reversed in time, upside down, mirrored and transposed as told."""
    reverse, upside_down, mirror, transpose = turns
    frames = frames[:: -1 if reverse else 1, :: -1 if upside_down else 1, :: -1 if mirror else 1]
    return np.ascontiguousarray(frames.transpose((0, 3, 2, 1) if transpose else (0, 3, 1, 2)))


def _exposures(
    rng: np.random.Generator, clip: NDArray[np.uint8], window: int, options: SampleOptions
) -> list[NDArray[np.float32]]:
    """Exposures of every level, (frames * 2**k, H, W, 3) for k = 0 .. depth, from all sub-frames of the sample."""
    linear = rng.random() < options.linear_share
    duty = rng.uniform(*options.duty_range)
    table = np.linspace(0, 1, 256, dtype=np.float32)
    if linear:
        table **= SRGB_GAMMA

    def average(shots: NDArray[np.uint8]) -> NDArray[np.float32]:
        if linear:
            return table[shots].mean(axis=1)
        # Sums of small integers are exact and several times as fast as a mean of floats.
        return shots.sum(axis=1, dtype=np.uint16) * np.float32(1 / (255 * shots.shape[1]))

    shape = clip.shape[1:]
    levels = [average(clip.reshape(-1, window >> options.depth, *shape))]
    for _ in range(options.depth):
        levels.insert(0, (levels[0][0::2] + levels[0][1::2]) * np.float32(0.5))
    if duty < 1:
        levels[0] = average(clip.reshape(-1, window, *shape)[:, : max(1, round(duty * window))])
    if linear:
        levels = [x ** np.float32(1 / SRGB_GAMMA) for x in levels]
    if options.noise:
        sigma = rng.uniform(0, options.noise)
        levels[0] = levels[0] + sigma * rng.standard_normal(levels[0].shape, np.float32)
    if options.compression and rng.random() < options.compression:
        quality = int(rng.integers(options.compression_quality, HIGHEST_QUALITY + 1))
        levels[0] = np.stack([_compressed(frame, quality) for frame in levels[0]])
    if window == max(options.windows):
        levels[0] = np.rint(levels[0] * 255) * np.float32(1 / 255)
    return [np.clip(x, 0, 1) for x in levels]


def _compressed(frame: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    """What JPEG at this quality leaves of a frame (H, W, 3) in [0, 1]."""
    pixels = np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8)[..., ::-1]
    _, code = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1]
    return decoded * np.float32(1 / 255)


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
