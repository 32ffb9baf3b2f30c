"""Scenes rendered from photographs: a moving background with occluding cut-outs on paths of their own.

Exact ground truth: every sub-frame is sampled from the photographs at its own placement, so averages
of sub-frames are the exposures a camera would have recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError
from vtsr.training.data.motion import Motion, random_motion

Pixels = NDArray[Any]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MAX_OBJECTS = 3
MAX_SPEED = 3.0  # pixels per sub-frame: 24 pixels in an exposure of 8 sub-frames
MASK_SOFTNESS = 0.7  # pixels, sigma of a cut-out's edge


@dataclass(frozen=True)
class CutOut:
    """An object to move in front: ``pixels`` uint8 (H, W, 3) RGB and ``alpha`` float32 (H, W) in [0, 1]."""

    pixels: Pixels
    alpha: NDArray[Any]


def list_images(folder: Path) -> list[Path]:
    """Image files below ``folder``, sorted by path. Raises `InputError` if there are none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"There are no photographs in {folder}.")
    return found


def read_rgb(path: Path) -> Pixels:
    """The image as uint8 (H, W, 3) RGB. Raises `InputError` if it cannot be decoded."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"The image {path} cannot be decoded; remove it or replace it.")
    return np.ascontiguousarray(image[:, :, ::-1])


def read_cut_outs(folder: Path, per_sequence: int = 4) -> list[CutOut]:
    """Objects from sequences laid out as NAME/*.jpg with masks NAME/masks/*.png."""
    cut_outs = []
    for masks in sorted(folder.glob("*/masks")):
        names = sorted(masks.glob("*.png"))
        for mask_path in names[:: max(1, len(names) // per_sequence)][:per_sequence]:
            image_path = next(iter(sorted(masks.parent.glob(mask_path.stem + ".*"))), None)
            mask = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
            if image_path is None or mask is None or not mask.any():
                continue
            ys, xs = np.nonzero(mask)
            box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
            alpha = (mask[box] > 0).astype(np.float32)
            cut_outs.append(CutOut(np.ascontiguousarray(read_rgb(image_path)[box]), alpha))
    return cut_outs


def random_blob(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A random closed shape, float32 (size, size) in {0, 1}: smooth, spiky or a ring, now and then striped."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.full(64, 0.75)
    for k in range(2, 6):
        radius += rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.4:
        radius = radius[:: rng.choice([8, 12, 16])].repeat(1)
        angles = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    stretch = np.array([1.0, rng.uniform(0.2, 1.0)])
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * np.clip(radius, 0.1, 1)[:, None] * stretch
    turn = rng.uniform(0, 2 * np.pi)
    points = points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round((points + 1) * size / 2).astype(np.int32)], (1,))
    if rng.random() < 0.15:
        cv2.circle(mask, (size // 2, size // 2), int(size * rng.uniform(0.1, 0.25)), (0,), -1)
    return mask.astype(np.float32)


class SceneRenderer:
    """Renders random scenes from decoded photographs.

    Parameters
    ----------
    photographs : uint8 (H, W, 3) arrays, sides of at least 160 pixels
    cut_outs : objects with masks; random shapes are used as well, or alone when there are none
    """

    def __init__(self, photographs: Sequence[Pixels], cut_outs: Sequence[CutOut]) -> None:
        self.photographs = photographs
        self.cut_outs = cut_outs

    def _patch(self, rng: np.random.Generator, side: int) -> Pixels:
        """A random square of about ``side`` pixels, shrunk from a larger one where the photograph has room."""
        photo = self.photographs[int(rng.integers(len(self.photographs)))]
        short = min(photo.shape[:2])
        shrink = np.exp(rng.uniform(0, np.log(max(1.0, min(4.0, short / side)))))
        crop = min(short, int(side * shrink))
        y = rng.integers(photo.shape[0] - crop + 1)
        x = rng.integers(photo.shape[1] - crop + 1)
        patch = photo[y : y + crop, x : x + crop]
        if crop > side:
            patch = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        return np.ascontiguousarray(patch)

    def _object(self, rng: np.random.Generator, size: int) -> CutOut:
        side = int(size * rng.uniform(0.2, 0.9))
        if self.cut_outs and rng.random() < 0.5:
            source = self.cut_outs[int(rng.integers(len(self.cut_outs)))]
            factor = side / max(source.alpha.shape)
            shape = tuple(max(8, round(n * factor)) for n in source.alpha.shape[::-1])
            pixels = cv2.resize(source.pixels, shape, interpolation=cv2.INTER_AREA)
            alpha = cv2.resize(source.alpha, shape, interpolation=cv2.INTER_AREA)
        else:
            side = max(side, 24)
            alpha = random_blob(rng, side)
            pixels = self._patch(rng, side)
            pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        pad = 4  # room for the soft edge
        alpha = np.pad(alpha, pad)
        pixels = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        return CutOut(pixels, cv2.GaussianBlur(alpha, (0, 0), MASK_SOFTNESS))

    def render(self, rng: np.random.Generator, size: int, subframes: int, max_speed: float = MAX_SPEED) -> Pixels:
        """One scene: uint8 (subframes, size, size, 3) RGB."""
        camera = random_motion(rng, subframes, max_speed)
        reach = int(np.ceil(np.abs(camera.shift).max())) + 16
        background = self._patch(rng, size + 2 * reach)
        centre = (background.shape[1] / 2 - 0.5, background.shape[0] / 2 - 0.5)
        frames = np.stack([_place(background, camera, t, size, centre) for t in range(subframes)])
        for _ in range(rng.integers(MAX_OBJECTS + 1)):
            self._composite(rng, frames, camera, max_speed)
        return _tone(rng, frames)

    def _composite(self, rng: np.random.Generator, frames: Pixels, camera: Motion, max_speed: float) -> None:
        subframes, size = frames.shape[:2]
        thing = self._object(rng, size)
        own = random_motion(rng, subframes, max_speed)
        if rng.random() < 0.5:  # carried along by the camera as well, as things in a panned view are
            own = Motion(own.shift + camera.shift, own.angle + camera.angle, own.scale)
            own.shift[:] *= min(1.0, max_speed / max(1e-6, np.abs(np.diff(own.shift, axis=0)).max()))
        place = np.array(thing.alpha.shape[::-1]) / 2 - 0.5 - rng.uniform(-0.45, 0.45, 2) * size
        centre = (float(place[0]), float(place[1]))
        for t in range(subframes):
            pixels = _place(thing.pixels, own, t, size, centre)
            affine = own.inverse_affine(t, size / 2 - 0.5, centre)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            alpha = cv2.warpAffine(thing.alpha, affine, (size, size), flags=flags)[:, :, None]
            frames[t] = np.rint(frames[t] + alpha * (pixels.astype(np.float32) - frames[t]))


def _place(source: Pixels, motion: Motion, t: int, size: int, centre: tuple[float, float]) -> Pixels:
    affine = motion.inverse_affine(t, size / 2 - 0.5, centre)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(source, affine, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _tone(rng: np.random.Generator, frames: Pixels) -> Pixels:
    """Random exposure, contrast and saturation, the same for all sub-frames; clips as a sensor does."""
    if rng.random() < 0.3:
        return frames
    gain, gamma = np.exp(rng.uniform(-0.5, 0.3)), np.exp(rng.uniform(-0.3, 0.3))
    table = 255 * np.clip(gain * np.linspace(0, 1, 256) ** gamma, 0, 1)
    frames = np.rint(table).astype(np.uint8)[frames]
    return frames[..., rng.permutation(3)] if rng.random() < 0.2 else frames
