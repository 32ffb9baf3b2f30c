"""A reproducible validation suite from a folder of clips and photographs.

    real      every clip, at the scale at which its motion is about `MOTION` pixels per frame or less
    panned    a wandering crop of every clip whose camera stands still
    rendered  every photograph seen by a camera that pans, zooms and turns

Ordinary clips become high-speed ones when they are shrunk until little moves between two frames: above
about 3 pixels per frame the mean of some frames shows separate ghosts instead of blur.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError, OutputError
from vtsr.evaluation import clips as media
from vtsr.evaluation.clips import Clip, Crop, Image
from vtsr.evaluation.optical_flow import dis_flow
from vtsr.runtime.cuts import SceneCutDetector
from vtsr.runtime.frame import Frame

MOTION = 3.0  # pixels per original frame: the most that 95 % of the pixels may move
STILL = 0.3  # pixels per original frame: half of a still camera's picture moves less
FRAMES = 96  # original frames of a real clip: 12 input frames at window 8
RENDERED_FRAMES = 64  # sub-frames of a photograph: 8 input frames at window 8
WIDTH, HEIGHT = 384, 256  # the largest part of a real clip that is used
RENDERED_WIDTH, RENDERED_HEIGHT = 256, 192
SHARP_SIDE = 540  # longer short sides are shrunk to this: full-size footage is rarely sharp to the pixel
WORKING_SIDE = 256  # short side, pixels, at which a whole clip is searched for its liveliest stretch
STRIDE = 12  # original frames between the pairs looked at in that search
SEARCHED = 3000  # original frames searched at most
PAIRS = 16  # pairs of frames looked at to measure a stretch
SLOWEST, FASTEST = 0.3, 3.0  # pixels per sub-frame of the rendered paths
ZOOM_RANGE = 0.3  # natural logarithm: from 0.74 to 1.35 times the size
TURN_RANGE = 0.6  # radians to each side


@dataclass(frozen=True)
class Motion:
    """How a stretch of a clip moves, in pixels per frame at the size it was measured.

    ``typical`` is the median over the pixels, ``strong`` their 95th percentile; ``where`` (H, W) float32
    is the mean motion at each pixel.
    """

    typical: float
    strong: float
    where: NDArray[np.float32]


def load_suite(folder: Path | str, cache: Path | str | None = None) -> list[Clip]:
    """The validation clips of ``folder``, which holds videos, folders of frames and folders of photographs.

    A folder whose first two pictures have one size and show one scene holds the frames of a clip; any
    other folder of pictures holds photographs. With ``cache``, the built clips are kept there as .npy
    files and found again. Raises `InputError` if the folder holds nothing of the kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder of validation clips at '{folder}'.")
    sources = [path for path in sorted(folder.iterdir()) if path.is_dir() or path.suffix.lower() in media.VIDEOS]
    key = hashlib.sha256(f"{_recipe()}{[_stamp(path) for path in sources]}".encode()).hexdigest()[:12]
    place = Path(cache) / f"suite-{key}" if cache is not None else None
    if place is not None and (place / "complete").is_file():
        return read_suite(place)
    built = [clip for path in sources for clip in _build(path)]
    if not built:
        raise InputError(f"The folder '{folder}' holds no videos, frames or photographs.")
    if place is None:
        return built
    write_suite(built, place)
    return read_suite(place)


def write_suite(suite: list[Clip], folder: Path) -> None:
    """Saves every clip as ``folder``/GROUP-NAME.npy, uint8 (T, H, W, 3)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for clip in suite:
            np.save(folder / f"{clip.group}-{clip.name}.npy", np.stack(list(clip)))
        (folder / "complete").write_text("")
    except OSError as error:
        raise OutputError(f"The suite cannot be saved in '{folder}': {error.strerror}.") from error


def read_suite(folder: Path) -> list[Clip]:
    """The clips that `write_suite` saved."""
    suite = []
    for path in sorted(folder.glob("*-*.npy")):
        group, name = path.stem.split("-", 1)
        suite.append(media.open_clip(path, name=name, group=group))
    return suite


def measure_motion(frames: list[Image]) -> Motion:
    """The motion between consecutive frames of a short stretch, by DIS optical flow."""
    last = len(frames) - 1
    lengths = np.stack([_lengths(frames[t], frames[t + 1]) for t in range(0, last, -(-last // PAIRS))])
    return Motion(float(np.median(lengths)), float(np.percentile(lengths, 95)), lengths.mean(axis=0))


def render(photograph: Image, index: int, of: int, count: int = RENDERED_FRAMES) -> NDArray[np.uint8]:
    """Sub-frames of a photograph under a moving camera: uint8 (count, RENDERED_HEIGHT, RENDERED_WIDTH, 3).

    Photograph ``index`` of ``of`` gets its own speed, from `SLOWEST` to `FASTEST` pixels per sub-frame, and
    one of four motions: pan, zoom, rotation, or all three. It is the speed at the corners of the picture
    when the motion is fastest; nothing moves faster.
    """
    speed = SLOWEST + (FASTEST - SLOWEST) * index / max(of - 1, 1)
    pan, zoom, turn = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.35, 0.35))[index % 4]
    height, width = photograph.shape[:2]
    radius = np.hypot(RENDERED_WIDTH, RENDERED_HEIGHT) / 2  # pixels from the centre to a corner
    # What the camera may see around its centre: a still frame's half-sides, or a turned one's half-diagonal.
    turned = radius * np.exp(zoom * ZOOM_RANGE)
    reach = (turned, turned) if zoom or turn else (RENDERED_WIDTH / 2, RENDERED_HEIGHT / 2)
    room = width - 2 * reach[0] - 4, height - 2 * reach[1] - 4  # 4: the cubic kernel's margin
    if min(room) < 0:
        raise InputError(
            f"Photographs for the suite must be at least {np.ceil(2 * turned + 4):.0f} pixels wide and high, "
            f"not {width}x{height}."
        )
    path = media.pan_path(count, pan * speed, *room) + reach + 2
    rate = speed / radius  # of zoom and rotation, per sub-frame
    t = np.arange(count)
    frames = []
    for (x, y), log_scale, angle in zip(
        path, _swing(t, zoom * rate, ZOOM_RANGE), _swing(t, turn * rate, TURN_RANGE), strict=True
    ):
        c, s = np.exp(log_scale) * np.cos(angle), np.exp(log_scale) * np.sin(angle)
        linear = np.array([[c, -s], [s, c]])
        centre = np.array([(RENDERED_WIDTH - 1) / 2, (RENDERED_HEIGHT - 1) / 2])
        motion = np.column_stack((linear, np.array([x - 0.5, y - 0.5]) - linear @ centre))
        frames.append(media.sample(photograph, motion, RENDERED_WIDTH, RENDERED_HEIGHT))
    return np.stack(frames)


def _swing(t: NDArray[np.int_], rate: float, amplitude: float) -> NDArray[np.float64]:
    """An oscillation whose steepest slope is ``rate`` per sub-frame; none for a rate of 0."""
    if rate == 0:
        return np.zeros(len(t))
    # Half a radian before the steepest moment, so that a short clip sees it.
    return np.asarray(amplitude * np.sin(rate / amplitude * t - 0.5), np.float64)


def _build(path: Path) -> Iterator[Clip]:
    if path.is_dir() and not _is_sequence(path):
        photographs = media.pictures(path)
        for index, file in enumerate(photographs):
            yield Clip.of(file.stem, render(media.read_picture(file), index, len(photographs)), "rendered")
        return
    yield from _real(path)


def _real(path: Path) -> Iterator[Clip]:
    """The liveliest stretch of a clip, cut around what moves; and, from a still camera, a panned crop."""
    start = _liveliest(media.open_clip(path))
    frames = list(media.open_clip(path, start=start, max_frames=FRAMES))
    if len(frames) < 2:
        return  # nothing moves in a single frame
    frames = [media.shrink(frame, min(1.0, SHARP_SIDE / min(frame.shape[:2]))) for frame in frames]
    still = measure_motion(frames).typical < STILL
    cut = _cut_to_motion(frames)
    yield Clip.of(path.stem, np.stack(cut), "real")
    if still:
        height, width = frames[0].shape[:2]
        crop = Crop(min(WIDTH, width * 3 // 4), min(HEIGHT, height * 3 // 4))
        wandering = np.stack(list(media.panned(iter(frames), crop, MOTION)))
        yield Clip.of(f"{path.stem}_panned", wandering, "panned")


def _cut_to_motion(frames: list[Image]) -> list[Image]:
    """The part of the frames where most moves, shrunk until its strong motion is `MOTION` at most."""
    while True:
        motion = measure_motion(frames)
        height, width = frames[0].shape[:2]
        x, y, w, h = _busiest(motion.where, min(WIDTH, width), min(HEIGHT, height))
        cut = [np.ascontiguousarray(frame[y : y + h, x : x + w]) for frame in frames]
        # Cutting raises the share of moving pixels, so it is the part that is judged.
        strong = measure_motion(cut).strong
        if strong <= MOTION:
            return cut
        # A little more than needed, as flow on smaller pictures is not exactly proportional.
        frames = [media.shrink(frame, 0.98 * MOTION / strong) for frame in frames]


def _liveliest(clip: Clip) -> int:
    """The first frame of the stretch of `FRAMES` frames in which the fastest hundredth moves most."""
    speeds = []
    before: Image | None = None
    count = 0
    for t, frame in enumerate(islice(clip, SEARCHED)):
        count = t + 1
        if t % STRIDE > 1:
            continue
        small = media.shrink(frame, min(1.0, WORKING_SIDE / min(frame.shape[:2])))
        if t % STRIDE == 1 and before is not None:
            speeds.append(float(np.percentile(_lengths(before, small), 99)))
        before = small
    pairs = FRAMES // STRIDE
    if count <= FRAMES or len(speeds) <= pairs:
        return 0
    means = np.convolve(speeds, np.ones(pairs) / pairs, mode="valid")
    return min(int(np.argmax(means)) * STRIDE, count - FRAMES)


def _busiest(where: NDArray[np.float32], width: int, height: int) -> tuple[int, int, int, int]:
    """The window (x, y, width, height) with the largest sum of motion."""
    total = np.pad(np.cumsum(np.cumsum(where, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    y, x = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(x), int(y), width, height


def _lengths(first: Image, second: Image) -> NDArray[np.float32]:
    """The length of the optical flow at every pixel, in pixels: float32 (H, W)."""
    return np.asarray(np.linalg.norm(dis_flow(first, second), axis=2), np.float32)


def _is_sequence(folder: Path) -> bool:
    """Whether the pictures of a folder are frames of a clip: of one size, and the first two one scene."""
    files = media.pictures(folder)[:2]
    if len(files) < 2:
        return False
    first, second = (media.read_picture(file) for file in files)
    if first.shape != second.shape:
        return False
    detector = SceneCutDetector()
    detector.is_cut(Frame(first).planes)
    return not detector.is_cut(Frame(second).planes)


def _recipe() -> str:
    """Everything the built clips depend on besides their sources, so that a change misses the cache."""
    names = sorted(name for name in globals() if name.isupper())
    return repr([(name, globals()[name]) for name in names]) + Path(__file__).read_text(encoding="utf-8")


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files behind a source."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
