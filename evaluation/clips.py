"""Clips: where the original frames of an evaluation come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError, OptionError

Image = NDArray[np.uint8]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".webp")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mts", ".mpg", ".mpeg", ".ts")


@dataclass(frozen=True)
class Clip:
    """A named sequence of original frames that can be read as often as needed.

    Iterating gives uint8 RGB frames (H, W, 3), all of one size. ``group`` names clips that belong
    together in a report; ``length`` is the number of frames their container states, for progress only.
    """

    name: str
    read: Callable[[], Iterator[Image]]
    group: str = ""
    length: int | None = None

    @classmethod
    def of(cls, name: str, frames: NDArray[Any], group: str = "") -> Clip:
        """A clip of frames that are in memory, uint8 (T, H, W, 3). Raises `InputError` for anything else."""
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise InputError(
                f"The frames of '{name}' must be uint8 of shape (frames, height, width, 3), "
                f"not {frames.dtype} of shape {frames.shape}."
            )
        return cls(name, lambda: iter(frames), group, len(frames))

    def __iter__(self) -> Iterator[Image]:
        size = None
        for frame in self.read():
            if size is not None and frame.shape != size:
                raise InputError(
                    f"The frames of '{self.name}' change size, from {size[1]}x{size[0]} to "
                    f"{frame.shape[1]}x{frame.shape[0]}; give frames of one size."
                )
            size = frame.shape
            yield frame


@dataclass(frozen=True)
class Crop:
    """A window of a picture, in pixels after scaling; without x and y it is centred."""

    width: int
    height: int
    x: int | None = None
    y: int | None = None

    def corner(self, width: int, height: int) -> tuple[int, int]:
        """Left and top of the window in a picture of this size; raises `OptionError` if it does not fit."""
        x = (width - self.width) // 2 if self.x is None else self.x
        y = (height - self.height) // 2 if self.y is None else self.y
        if min(self.width, self.height) < 1 or min(x, y) < 0 or x + self.width > width or y + self.height > height:
            place = "" if self.x is None else f" at {self.x},{self.y}"
            raise OptionError(
                f"A crop of {self.width}x{self.height}{place} does not fit into frames of {width}x{height}."
            )
        return x, y


def open_clip(
    path: Path | str, *, name: str | None = None, group: str = "", scale: float = 1.0,
    crop: Crop | None = None, pan: float = 0.0, start: int = 0, max_frames: int | None = None,
) -> Clip:  # fmt: skip
    """A clip from a video file, a folder of pictures in the order of their names, or an .npy array.

    scale
        The frames are shrunk by this factor, at most 1, by area averaging.
    crop
        The part of the scaled frames to use.
    pan
        With a crop, the window wanders over the scaled frames along `pan_path` at up to this many pixels
        per frame: camera motion for a clip from a static camera.
    start, max_frames
        The frames to use.

    Raises `InputError` if there is nothing readable, `OptionError` for numbers out of range.
    """
    path = Path(path)
    if not 0 < scale <= 1:
        raise OptionError(f"The scale must be above 0 and at most 1, not {scale}.")
    if start < 0 or (max_frames is not None and max_frames < 1):
        raise OptionError("The first frame must be 0 or later and the number of frames at least 1.")
    if pan and crop is None:
        raise OptionError("A panned crop needs the size of the crop.")
    source, stated = _source(path)
    stop = None if max_frames is None else start + max_frames
    length = None if stated is None else max(stated - start, 0)
    if max_frames is not None:
        length = min(length or max_frames, max_frames)

    def read() -> Iterator[Image]:
        frames = (shrink(frame, scale) for frame in islice(source(), start, stop))
        if crop is None:
            yield from frames
        elif pan:
            yield from panned(frames, crop, pan)
        else:
            for frame in frames:
                x, y = crop.corner(frame.shape[1], frame.shape[0])
                yield np.ascontiguousarray(frame[y : y + crop.height, x : x + crop.width])

    return Clip(name or path.stem, read, group, length)


def shrink(frame: Image, scale: float) -> Image:
    """The frame at ``scale`` times its size, by area averaging."""
    if scale == 1:
        return frame
    size = max(round(frame.shape[1] * scale), 1), max(round(frame.shape[0] * scale), 1)
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def pan_path(count: int, speed: float, width: float, height: float) -> NDArray[np.float64]:
    """A smooth wandering path: (count, 2) float64, x and y in pixels within [0, width] x [0, height].

    A Lissajous curve, so that direction and speed change all the time; it is never faster than ``speed``
    pixels per frame, and reaches it. Across a range too small to turn in, it swings more slowly.
    """
    # Horizontal motion takes 0.87 of the speed and vertical motion 0.5 (their squares add up to 1).
    t = np.arange(count, dtype=np.float64)
    columns = []
    for share, extent, phase in ((np.sqrt(0.75), width, 0.4), (0.5, height, 1.1)):
        amplitude = extent / 2
        # Fewer than 16 frames per swing would be a tremble, not a pan.
        rate = min(share * speed / amplitude, 2 * np.pi / 16) if amplitude > 0 else 0.0
        columns.append(amplitude * (1 + np.sin(rate * t + phase)))
    return np.stack(columns, axis=1)


def panned(frames: Iterator[Image], crop: Crop, speed: float) -> Iterator[Image]:
    """Crops of ``frames`` whose window moves along `pan_path` with sub-pixel steps, by bicubic sampling."""
    path: NDArray[np.float64] | None = None
    for t, frame in enumerate(frames):
        height, width = frame.shape[:2]
        # A 2-pixel margin, so that the cubic kernel never reaches beyond the picture.
        room = width - crop.width - 4, height - crop.height - 4
        if min(room) < 0:
            raise OptionError(
                f"A panned crop of {crop.width}x{crop.height} needs frames of at least "
                f"{crop.width + 4}x{crop.height + 4}, not {width}x{height}."
            )
        if path is None or t >= len(path):
            path = pan_path(2 * t + 256, speed, *room)
        x, y = path[t] + 2
        yield sample(frame, np.array([[1, 0, x], [0, 1, y]]), crop.width, crop.height)


def sample(picture: Image, motion: NDArray[np.float64], width: int, height: int) -> Image:
    """The picture seen through an affine map, by bicubic interpolation: uint8 (height, width, 3).

    ``motion`` (2, 3) maps a pixel of the result to its place in ``picture``.
    """
    return np.asarray(
        cv2.warpAffine(
            picture, motion, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
        np.uint8,
    )  # fmt: skip


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder in the order of their names."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGES and file.is_file())


def read_picture(path: Path) -> Image:
    """A picture file as uint8 RGB (H, W, 3); raises `InputError` if it cannot be read."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"The picture '{path}' cannot be read; it may be damaged or of an unknown format.")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _source(path: Path) -> tuple[Callable[[], Iterator[Image]], int | None]:
    """A function that reads the frames of ``path`` from the first one on, and their stated number."""
    if path.is_dir():
        files = pictures(path)
        if not files:
            raise InputError(f"The folder '{path}' holds no pictures; give a folder of frames or a video.")
        return lambda: map(read_picture, files), len(files)
    if not path.is_file():
        raise InputError(f"There is no video or folder of frames at '{path}'.")
    if path.suffix.lower() == ".npy":
        return lambda: iter(load_array(path)), len(load_array(path))
    return lambda: _decode(path), _stated_frames(path)


def load_array(path: Path) -> NDArray[np.uint8]:
    """The frames of an .npy file, uint8 (T, H, W, 3), read from the disk as they are used."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"The array '{path}' cannot be read; it is damaged or not an .npy file.") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise InputError(f"The array '{path}' does not hold uint8 frames of shape (frames, height, width, 3).")
    return frames


def _stated_frames(path: Path) -> int | None:
    """The number of frames a video's header states, if it does; also finds out that it is a video."""
    import av

    from vtsr.runtime.video.containers import open_container

    try:
        with open_container(path) as container:
            if not container.streams.video:
                raise InputError(f"'{path}' holds no video stream.")
            return container.streams.video[0].frames or None
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"The video '{path}' cannot be opened: {error.strerror or error}.") from error


def _decode(path: Path) -> Iterator[Image]:
    import av

    from vtsr.runtime.video.containers import open_container

    try:
        with open_container(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"The video '{path}' cannot be decoded: {error.strerror or error}.") from error
