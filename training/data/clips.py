"""Scenes cut from video: ordinary clips, shrunk until their frames can pass for sub-frames, and high-speed video."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError
from vtsr.runtime.video.containers import open_container
from vtsr.training.data.interpolation import densify
from vtsr.training.data.motion import random_motion
from vtsr.training.data.photographs import IMAGE_SUFFIXES, read_rgb

Pixels = NDArray[Any]

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mts"}
MAX_MOTION = 3.0  # pixels per sub-frame at the 95th percentile; more, and averages show ghosts instead of blur
STATIC_MOTION = 0.5  # median motion in pixels below which the camera counts as static
MEASURE_SIDE = 360  # short side at which motion is measured
SAMPLED_PAIRS = 12  # motion is measured on this many pairs of frames, or up to twice as many
LARGEST_ENLARGEMENT = 2.0  # of MEASURE_SIDE; scenes gain nothing from more

# Folders that data sets keep beside the frames: masks (DAVIS); blurred and thinned-out frames (GOPRO_Large, DVD).
OTHER_FOLDERS = {"masks", "blur", "blur_gamma", "sharp", "input"}


def find_clips(folder: Path) -> list[Path]:
    """Video files and folders of images directly or indirectly below ``folder``, sorted.

    Folders that hold masks or blurred frames (`OTHER_FOLDERS`) are left out. Raises `InputError` if there
    is no such folder or nothing in it.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} of clips.")
    videos = [p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
    images = {p.parent for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES}
    found = sorted(videos + [p for p in images if p.name.lower() not in OTHER_FOLDERS])
    if not found:
        raise InputError(f"There are no videos and no folders of consecutive frames in {folder}.")
    return found


def find_high_speed(folder: Path) -> list[Path]:
    """The training sequences of a high-speed data set, sorted; any folder of videos will do.

    GOPRO (GOPRO_Large_all)   train/SEQUENCE/*.png, test is left alone
    DVD                       original_high_fps_videos/*, or quantitative_datasets/SEQUENCE/GT/*
    Sony, and any other       SEQUENCE.mp4 or SEQUENCE/*.png at any depth
    """
    for inner in ("train", "original_high_fps_videos", "quantitative_datasets"):
        if (folder / inner).is_dir():
            return find_clips(folder / inner)
    return find_clips(folder)


def read_frames(clip: Path, short_side: int | None = None) -> Iterator[Pixels]:
    """Frames of a video or of a folder of images as uint8 (H, W, 3) RGB, shrunk to ``short_side`` pixels.

    Raises `InputError` if the clip cannot be decoded or its frames change size.
    """
    if clip.is_dir():
        names = sorted(p for p in clip.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        frames: Iterator[Pixels] = map(read_rgb, names)
    else:
        frames = _decode(clip)
    shape = None
    for frame in frames:
        if shape not in (None, frame.shape):
            raise InputError(f"The frames of {clip} change size: they are no video; give photographs as such.")
        shape = frame.shape
        yield frame if short_side is None else _shrink(frame, short_side / min(frame.shape[:2]))


def _shrink(frame: Pixels, factor: float) -> Pixels:
    if factor >= 1:
        return frame
    size = round(frame.shape[1] * factor), round(frame.shape[0] * factor)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _decode(path: Path) -> Iterator[Pixels]:
    try:
        with open_container(path) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream.")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise InputError(f"The clip {path} cannot be decoded: {error.strerror}.") from error


@dataclass(frozen=True)
class ClipFacts:
    """What one pass over a clip finds: its length and size, and how much moves.

    ``median`` and ``p95`` of the optical flow between consecutive frames are in pixels at a short side of
    `MEASURE_SIDE`; both are 0 for fewer than two frames.
    """

    frames: int
    short_side: int
    median: float
    p95: float


def measure_clip(clip: Path) -> ClipFacts:
    """Reads a clip once, a frame at a time; motion is measured on pairs spread evenly over it."""
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    speeds: list[Pixels] = []
    stride, count, side = 1, 0, 0
    last: Pixels | None = None
    for count, frame in enumerate(read_frames(clip), 1):
        side = min(frame.shape[:2])
        index = count - 1  # of this frame; a pair has the number of its first frame
        wanted = index % stride == 0
        if not wanted and last is None:
            continue
        gray = cv2.cvtColor(_shrink(frame, MEASURE_SIDE / side), cv2.COLOR_RGB2GRAY)
        if last is not None:
            flow = dis.calc(last, gray, None) * (MEASURE_SIDE / min(gray.shape))
            speeds.append(np.linalg.norm(flow, axis=2)[::4, ::4].ravel())
            if len(speeds) == 2 * SAMPLED_PAIRS:  # every other one is enough for a clip this long
                speeds, stride = speeds[::2], 2 * stride
                wanted = index % stride == 0
        last = gray if wanted else None
    if not speeds:
        return ClipFacts(count, side, 0.0, 0.0)
    speed = np.concatenate(speeds)
    return ClipFacts(count, side, float(np.median(speed)), float(np.percentile(speed, 95)))


@dataclass(frozen=True)
class ClipScenes:
    """Random scenes of one clip, each of consecutive frames in a fixed or a moving crop window.

    Parameters
    ----------
    size, subframes
        Scenes are uint8 (subframes, size, size, 3).
    interpolate
        Sub-frames per frame of the clip; those between the frames come from `densify`.
    as_is
        High-speed video: frames keep their size and nothing is moved or shrunk. Otherwise the clip is
        shrunk until its motion is at most `MAX_MOTION` pixels per sub-frame, at times further, and a
        clip from a static camera is at times seen through a moving window.
    """

    clip: Path
    facts: ClipFacts
    size: int
    subframes: int
    interpolate: int = 1
    as_is: bool = False

    @property
    def side(self) -> int:
        """Short side, in pixels, that frames are shrunk to."""
        if self.as_is:
            return self.facts.short_side
        slow_enough = MAX_MOTION * self.interpolate / max(self.facts.p95, 1e-6)
        side = int(MEASURE_SIDE * min(LARGEST_ENLARGEMENT, slow_enough))
        return min(side, self.facts.short_side)

    @property
    def span(self) -> int:
        """Frames of the clip that a scene takes."""
        return -(-(self.subframes - 1) // self.interpolate) + 1

    @property
    def usable(self) -> bool:
        """Whether the clip is long enough and, where it is slow enough, large enough."""
        return self.facts.frames >= self.span and self.side >= self.size

    def cut(self, seeds: list[list[int]]) -> Iterator[tuple[int, Pixels]]:
        """The scene of each seed, as (place in ``seeds``, scene), in the order they end in the clip.

        One pass over the clip; memory for the frames of one scene.
        """
        ends: dict[int, list[tuple[int, np.random.Generator]]] = {}
        for place, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            end = int(rng.integers(self.facts.frames - self.span + 1)) + self.span - 1
            ends.setdefault(end, []).append((place, rng))
        recent: deque[Pixels] = deque(maxlen=self.span)
        for index, frame in enumerate(read_frames(self.clip, self.side)):
            recent.append(frame)
            for place, rng in ends.pop(index, []):
                yield place, self._scene(rng, list(recent))
            if not ends:
                return

    def _scene(self, rng: np.random.Generator, frames: list[Pixels]) -> Pixels:
        size = self.size
        if not self.as_is and rng.random() < 0.3:  # slower: a smaller picture moves by fewer pixels
            factor = rng.uniform(min(1.0, size / min(frames[0].shape[:2])), 1.0)
            shape = [max(size, round(n * factor)) for n in frames[0].shape[1::-1]]
            frames = [cv2.resize(f, shape, interpolation=cv2.INTER_AREA) for f in frames]
        if not self.as_is and self.facts.median < STATIC_MOTION and rng.random() < 0.5:
            return self._panned(rng, list(densify(frames, self.interpolate))[: self.subframes])
        height, width = frames[0].shape[:2]
        y, x = rng.integers(height - size + 1), rng.integers(width - size + 1)
        window = [f[y : y + size, x : x + size] for f in frames]
        if self.interpolate > 1:
            # Flow needs to see what comes in from the sides.
            y0, x0 = max(0, y - size // 4), max(0, x - size // 4)
            wide = [f[y0 : y + size + size // 4, x0 : x + size + size // 4] for f in frames]
            window = [f[y - y0 :, x - x0 :][:size, :size] for f in densify(wide, self.interpolate)]
        return np.stack(window[: self.subframes])

    def _panned(self, rng: np.random.Generator, frames: list[Pixels]) -> Pixels:
        """A crop window that moves smoothly, by sub-pixel steps, gives a static clip a moving camera."""
        height, width = frames[0].shape[:2]
        motion = random_motion(rng, len(frames), MAX_MOTION)
        reach = np.abs(motion.shift).max(axis=0)
        half = self.size / 2
        x, y = (
            float(rng.uniform(min(half + r, n / 2), max(n - half - r, n / 2)))
            for n, r in zip((width, height), reach, strict=True)
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        shape = (self.size, self.size)
        return np.stack(
            [
                cv2.warpAffine(
                    frame, motion.inverse_affine(t, half - 0.5, (x, y)), shape,
                    flags=flags, borderMode=cv2.BORDER_REFLECT_101,
                )
                for t, frame in enumerate(frames)
            ]
        )  # fmt: skip
