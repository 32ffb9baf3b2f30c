"""Scenes cut from ordinary clips, shrunk until consecutive frames are close enough to be sub-frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.training.data.motion import random_motion
from vtsr.training.data.photographs import IMAGE_SUFFIXES, read_rgb

Pixels = NDArray[Any]

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mts"}
MAX_MOTION = 3.0  # pixels per frame at the 95th percentile; more, and averages show ghosts instead of blur
STATIC_MOTION = 0.5  # median motion in pixels below which the camera counts as static
MEASURE_SIDE = 360  # short side at which motion is measured
SAMPLED_PAIRS = 12


def find_clips(folder: Path) -> list[Path]:
    """Video files and folders of images directly or indirectly below ``folder``; mask folders are left out."""
    videos = [p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES]
    images = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(videos + list({p.parent for p in images if p.parent.name != "masks"}))


def read_frames(clip: Path, short_side: int | None = None) -> Iterator[Pixels]:
    """Frames of a video or of a folder of images as uint8 (H, W, 3) RGB, shrunk to ``short_side`` pixels."""
    if clip.is_dir():
        names = sorted(p for p in clip.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        frames: Iterator[Pixels] = map(read_rgb, names)
    else:
        frames = _decode(clip)
    for frame in frames:
        factor = 1.0 if short_side is None else short_side / min(frame.shape[:2])
        if factor >= 1:
            yield frame
        else:
            size = round(frame.shape[1] * factor), round(frame.shape[0] * factor)
            yield cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _decode(path: Path) -> Iterator[Pixels]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def measure_motion(clip: Path) -> tuple[float, float]:
    """Median and 95th percentile of the optical flow between consecutive frames.

    In pixels at a short side of `MEASURE_SIDE`; (0, 0) for clips of fewer than two frames.
    """
    gray = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in read_frames(clip, MEASURE_SIDE)]
    if len(gray) < 2:
        return 0.0, 0.0
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    pairs = np.linspace(0, len(gray) - 2, min(SAMPLED_PAIRS, len(gray) - 1)).astype(int)
    speed = np.concatenate(
        [np.linalg.norm(flow.calc(gray[i], gray[i + 1], np.zeros(0)), axis=2)[::4, ::4].ravel() for i in pairs]
    )
    return float(np.median(speed)), float(np.percentile(speed, 95))


class ClipScenes:
    """Random scenes from one clip: 24 consecutive frames or so, a fixed or a moving crop window."""

    def __init__(self, clip: Path, min_side: int) -> None:
        median, p95 = measure_motion(clip)
        side = int(MEASURE_SIDE * min(2.0, MAX_MOTION / max(p95, 1e-6)))
        self.static = median < STATIC_MOTION
        self.frames = list(read_frames(clip, max(side, min_side))) if side >= min_side else []

    def __len__(self) -> int:
        return len(self.frames)

    def cut(self, rng: np.random.Generator, size: int, subframes: int) -> Pixels:
        """One scene, uint8 (subframes, size, size, 3)."""
        start = rng.integers(len(self.frames) - subframes + 1)
        frames = self.frames[start : start + subframes]
        if rng.random() < 0.3:  # slower: a smaller picture moves by fewer pixels
            smallest = size / min(frames[0].shape[:2])
            factor = rng.uniform(min(1.0, smallest), 1.0)
            shape = [max(size, round(n * factor)) for n in frames[0].shape[1::-1]]
            frames = [cv2.resize(f, shape, interpolation=cv2.INTER_AREA) for f in frames]
        height, width = frames[0].shape[:2]
        if self.static and rng.random() < 0.5:
            return self._panned(rng, frames, size)
        y, x = rng.integers(height - size + 1), rng.integers(width - size + 1)
        return np.stack([f[y : y + size, x : x + size] for f in frames])

    def _panned(self, rng: np.random.Generator, frames: list[Pixels], size: int) -> Pixels:
        """A crop window that moves smoothly, by sub-pixel steps, gives a static clip a moving camera."""
        height, width = frames[0].shape[:2]
        motion = random_motion(rng, len(frames), MAX_MOTION)
        reach = np.abs(motion.shift).max(axis=0)
        half = size / 2
        centre = tuple(
            rng.uniform(min(half + r, n / 2), max(n - half - r, n / 2))
            for n, r in zip((width, height), reach, strict=True)
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return np.stack(
            [
                cv2.warpAffine(
                    frame,
                    motion.inverse_affine(t, half - 0.5, (centre[0], centre[1])),
                    (size, size),
                    flags=flags,
                    borderMode=cv2.BORDER_REFLECT_101,
                )
                for t, frame in enumerate(frames)
            ]
        ).astype(np.uint8)
