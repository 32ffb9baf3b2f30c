"""Calibration data: short runs of consecutive frames, from clips or rendered on the spot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError, OptionError
from vtsr.evaluation.clips import Clip
from vtsr.runtime.cuts import DEFAULT_THRESHOLD, SceneCutDetector
from vtsr.runtime.demo import Street
from vtsr.runtime.frame import Frame

Image = NDArray[np.uint8]

RUN = 4  # frames of a run: three pairs at level 1, five at level 2, nine at level 3
LARGEST_SIDE = 512  # pixels; a part of this size is cut out of larger frames, which bounds memory
SEARCHED = 3000  # frames of a clip that are looked at
THUMBNAIL = (64, 36)  # width, height in pixels at which motion is compared
SCENES = 4  # rendered scenes that runs are spread over
SUBFRAMES = 12  # pictures averaged per rendered frame
SLOWEST, FASTEST = 0.3, 1.5  # speeds of rendered runs, as multiples of the demo clip's
RENDERED_SIZE = (384, 256)  # width, height in pixels


def runs_of(clips: Sequence[Clip], frames: int, seed: int = 0) -> Iterator[Image]:
    """Runs of up to `RUN` consecutive frames, uint8 (T, H, W, 3), spread over clips, time and motion.

    ``frames`` is how many frames they have in all, at most. Runs never cross a scene cut. Raises `InputError`
    for a clip without two consecutive frames of one scene, `OptionError` if ``frames`` is too small.
    """
    per_clip = max(frames // max(len(clips), 1), 0) // RUN
    if per_clip < 1:
        raise OptionError(f"At least {RUN * len(clips)} frames are needed for {len(clips)} clips, not {frames}.")
    for index, clip in enumerate(clips):
        rng = np.random.default_rng([seed, index])
        yield from _cut_out(clip, choose(_changes(clip), per_clip, rng), rng)


def choose(changes: NDArray[np.float64], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Where to take runs: at most ``count`` disjoint (start, stop), in order, stop exclusive.

    ``changes`` (T - 1,) says how much every frame differs from the one before; NaN is a scene cut. Time is
    divided into equal parts, and the run of each part is at another quantile of what moves there, so that
    slow and fast ones are taken everywhere.
    """
    length = min(RUN, len(changes) + 1)
    motion = np.array([np.mean(changes[t : t + length - 1]) for t in range(len(changes) - length + 2)])
    if np.isnan(motion).all():  # scenes shorter than a run
        length = 2
        motion = changes
    count = min(count, max((len(changes) + 1) // length, 1))
    order = rng.permutation(count)
    bounds = np.linspace(0, len(motion), count + 1).astype(int)
    chosen: list[tuple[int, int]] = []
    for part in range(count):
        free = max(bounds[part], chosen[-1][1] if chosen else 0)
        starts = np.arange(free, bounds[part + 1])
        starts = starts[~np.isnan(motion[starts])]
        if len(starts):
            ranked = starts[np.argsort(motion[starts], kind="stable")]
            start = int(ranked[int((order[part] + 0.5) / count * len(ranked))])
            chosen.append((start, start + length))
    return chosen


def _changes(clip: Clip) -> NDArray[np.float64]:
    """Mean absolute difference of consecutive frames at thumbnail size, in codes; NaN across scene cuts."""
    detector = SceneCutDetector(DEFAULT_THRESHOLD)
    changes: list[float] = []
    before = None
    for frame in islice(clip, SEARCHED):
        small = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        cut = detector.is_cut(Frame(frame).planes)
        if before is not None:
            changes.append(float("nan") if cut else float(np.abs(small - before).mean()))
        before = small
    if before is None:
        raise InputError(f"The clip '{clip.name}' has no frames; give clips of at least two.")
    if not changes:
        raise InputError(f"The clip '{clip.name}' has only one frame; calibration needs at least two.")
    if np.isnan(changes).all():
        raise InputError(f"The clip '{clip.name}' is a new scene in every frame; calibration needs motion.")
    return np.array(changes)


def _cut_out(clip: Clip, places: list[tuple[int, int]], rng: np.random.Generator) -> Iterator[Image]:
    """The frames at ``places``, each run cropped to `LARGEST_SIDE` at a random position."""
    waiting = list(places)
    run: list[Image] = []
    corner = (0, 0)
    for index, frame in enumerate(islice(clip, SEARCHED)):
        if not waiting:
            return
        start, stop = waiting[0]
        if index < start:
            continue
        if index == start:
            room = [max(side - LARGEST_SIDE, 0) for side in frame.shape[:2]]
            corner = (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1)))
        y, x = corner
        run.append(frame[y : y + LARGEST_SIDE, x : x + LARGEST_SIDE])
        if index == stop - 1:
            yield np.stack(run)
            run = []
            waiting.pop(0)


def rendered_runs(frames: int, seed: int = 0) -> Iterator[Image]:
    """Runs of rendered exposures, uint8 (`RUN`, H, W, 3), ``frames`` in all, when there are no clips.

    The demo's street with other buildings, at speeds from `SLOWEST` to `FASTEST`, in other light (contrast,
    brightness, colour, noise), mirrored and turned.
    """
    count = frames // RUN
    if count < 1:
        raise OptionError(f"At least {RUN} frames are needed, not {frames}.")
    rng = np.random.default_rng(seed)
    speeds = SLOWEST * (FASTEST / SLOWEST) ** ((rng.permutation(count) + 0.5) / count)
    streets: dict[int, Street] = {}
    for index, speed in enumerate(speeds):
        scene = 1000 * (seed + 1) + index * min(SCENES, count) // count
        if scene not in streets:
            streets = {scene: Street(scene)}
        yield _in_other_light(_exposures(streets[scene], float(rng.uniform(2, 30)), float(speed)), rng)


def _exposures(street: Street, start: float, speed: float) -> NDArray[np.float32]:
    """Frames whose frame time is ``speed`` frame times of the demo: float32 (RUN, H, W, 3) in [0, 1]."""
    width, height = RENDERED_SIZE
    run = np.empty((RUN, height, width, 3), np.float32)
    for frame in range(RUN):
        times = start + speed * (frame + (np.arange(SUBFRAMES) + 0.5) / SUBFRAMES)
        run[frame] = np.mean([street.picture(float(t))[-height:, :width] for t in times], axis=0)
    return run


def _in_other_light(run: NDArray[np.float32], rng: np.random.Generator) -> Image:
    colour = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    contrast, brightness = np.float32(rng.uniform(0.5, 1.3)), np.float32(rng.uniform(-0.15, 0.15))
    lit = (run * colour - 0.5) * contrast + 0.5 + brightness
    noise = float(rng.choice([0.0, 0.5, 2.0])) / 255
    lit += rng.normal(0, noise, lit.shape).astype(np.float32) if noise else 0
    if rng.random() < 0.5:
        lit = lit[:, :, ::-1]
    lit = np.rot90(lit, int(rng.integers(4)), axes=(1, 2))
    return np.ascontiguousarray(np.rint(np.clip(lit, 0, 1) * 255).astype(np.uint8))
