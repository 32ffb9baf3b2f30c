"""Small training material rendered for the tests: photographs, clips, scene caches, a network of known answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def texture(seed: int, height: int, width: int) -> Array:
    """A picture with detail at many scales, uint8 (height, width, 3) RGB."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 12, 36, 96):
        noise = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    total = 128 + 45 * total / total.std()
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)


def panning(seed: int, frames: int, height: int, width: int, speed: float) -> Array:
    """A texture that moves to the left by ``speed`` pixels per frame: uint8 (frames, height, width, 3)."""
    wide = texture(seed, height + 8, width + 8 + int(np.ceil(abs(speed) * frames)))
    shots = []
    for t in range(frames):
        matrix = np.array([[1, 0, 4 + speed * t], [0, 1, 4]], np.float64)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        shots.append(cv2.warpAffine(wide, matrix, (width, height), flags=flags))
    return np.stack(shots)


def write_photographs(folder: Path, count: int, side: int = 180) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:02d}.png"), texture(i, side, side + 20)[..., ::-1])
    return folder


def write_frames(folder: Path, frames: Array) -> Path:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{i:05d}.png"), frame[..., ::-1])
    return folder


def write_cache(folder: Path, scenes: Array) -> Path:
    """A scene cache of given scenes, uint8 (N, T, H, W, 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "scenes.npy", scenes)
    return folder
