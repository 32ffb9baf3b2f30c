"""Smooth motions of a camera or an object, one placement per sub-frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHAKE_CHANCE = 0.3
SHAKE_PIXELS = 1.5  # largest amplitude of hand shake, in pixels
ROTATION_CHANCE = 0.35
ROTATION_RATE = 0.010  # radians per sub-frame
ZOOM_CHANCE = 0.35
ZOOM_RATE = 0.004  # relative change of size per sub-frame
STILL_CHANCE = 0.10


@dataclass(frozen=True)
class Motion:
    """Placement at each of T sub-frames: ``shift`` (T, 2) in pixels, ``angle`` (T,) in radians, ``scale`` (T,)."""

    shift: Array
    angle: Array
    scale: Array

    def inverse_affine(self, t: int, centre_out: float, centre_in: tuple[float, float]) -> Array:
        """2 x 3 matrix from output pixels to source pixels at sub-frame ``t`` (for cv2's WARP_INVERSE_MAP)."""
        cos, sin = np.cos(self.angle[t]), np.sin(self.angle[t])
        linear = self.scale[t] * np.array([[cos, -sin], [sin, cos]])
        offset = np.asarray(centre_in) + self.shift[t] - linear @ np.array([centre_out, centre_out])
        return np.concatenate([linear, offset[:, None]], axis=1)


def random_motion(rng: np.random.Generator, subframes: int, max_speed: float) -> Motion:
    """A random smooth motion: pan with acceleration and curvature, at times shake, rotation and zoom.

    ``max_speed`` is in pixels per sub-frame. Placement is zero in the middle sub-frame, so that what a
    scene shows does not depend on how fast it moves.
    """
    t = np.arange(subframes) - (subframes - 1) / 2
    shift = np.zeros((subframes, 2))
    angle = np.zeros(subframes)
    scale = np.ones(subframes)
    if rng.random() < STILL_CHANCE:
        return Motion(shift, angle, scale)
    speed = max_speed * rng.random() ** 1.5
    heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.02) * t
    pace = speed * np.clip(1 + rng.normal(0, 0.3) * t / subframes, 0, None)
    steps = pace[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    shift += np.cumsum(steps, axis=0)
    if rng.random() < SHAKE_CHANCE:
        for axis in range(2):
            cycles, phase = rng.uniform(0.5, 3), rng.uniform(0, 2 * np.pi)
            wave = np.sin(2 * np.pi * cycles * t / subframes + phase)
            shift[:, axis] += rng.uniform(0, SHAKE_PIXELS) * wave
    if rng.random() < ROTATION_CHANCE:
        angle += rng.uniform(-ROTATION_RATE, ROTATION_RATE) * t
    if rng.random() < ZOOM_CHANCE:
        scale *= np.exp(rng.uniform(-ZOOM_RATE, ZOOM_RATE) * t)
    return Motion(shift - shift[subframes // 2], angle, scale)
