"""Image sequences, in and out: a folder or a pattern such as ``frames/%05d.png``."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from vtsr.errors import InputError, OptionError, OutputError
from vtsr.runtime.frame import Frame, Image, PixelFormat
from vtsr.runtime.video.facts import MAX_PIXELS, Timeline, VideoFacts, check_size
from vtsr.runtime.video.image_header import stated_size
from vtsr.runtime.video.partial import PartialFolder
from vtsr.runtime.video.rgb import rgb_of_planes

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm", ".jp2")
DEEP_EXTENSIONS = (".png", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")  # hold 16 bits per sample
DEFAULT_PATTERN = "%06d.png"
DEFAULT_RATE = Fraction(30)  # images per second, unless told
JPEG_QUALITY = 95
MAX_BYTES = 6 * MAX_PIXELS + (1 << 20)  # 16 bits, uncompressed, and a header
_NUMBER = re.compile(r"%(0\d+)?d")


def is_image_sequence(path: Path) -> bool:
    """Whether ``path`` means images: an existing folder, a pattern or the name of an image."""
    return path.is_dir() or bool(_NUMBER.search(path.name)) or path.suffix.lower() in EXTENSIONS


def means_images(name: str) -> bool:
    """Whether the name of an output means images: as `is_image_sequence`, or a folder to be made (``out/``)."""
    return name.endswith(("/", os.sep)) or is_image_sequence(Path(name))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts frame2 before frame10."""
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part]


def list_images(path: Path) -> list[Path]:
    """The files a folder, pattern or single name stands for, in order.

    In a folder, the images of the most frequent type, by natural order of their names; for a pattern, all
    numbers there are. Raises `InputError` if there are none.
    """
    if path.is_dir():
        files = [f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith(".")]
        if not files:
            raise InputError(f"The folder {path} holds no images; give one with {', '.join(EXTENSIONS)} files.")
        kind = Counter(f.suffix.lower() for f in files).most_common(1)[0][0]
        return sorted((f for f in files if f.suffix.lower() == kind), key=lambda f: natural_key(f.name))
    if not _NUMBER.search(path.name):
        if not path.exists():
            raise InputError(f"{path} does not exist; check the name.")
        return [path]
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist; check the name.")
    before, after = (re.escape(part) for part in _split(path.name))
    numbered = re.compile(f"{before}(\\d+){after}")
    found = [(int(m.group(1)), f) for f in path.parent.iterdir() if (m := numbered.fullmatch(f.name))]
    if not found:
        raise InputError(f"No file matches the pattern {path}; check the folder and the number of digits.")
    return [file for _, file in sorted(found)]


def _split(name: str) -> tuple[str, str]:
    match = _NUMBER.search(name)
    if match is None:
        raise OptionError(f"{name} has no %d for the image number; use a name such as %06d.png.")
    return name[: match.start()], name[match.end() :]


class ImageReader:
    """Images as a video of constant rate; has the same face as `VideoReader`.

    Pictures are RGB of 8 or 16 bits, as the first image; transparency is dropped. Images that cannot be
    decoded are skipped and counted: the one before lasts longer.
    """

    is_constant_rate = True
    damaged_frames = 0
    has_audio = False

    def __init__(
        self,
        path: Path,
        rate: Fraction | None = None,
        *,
        start: Fraction | None = None,
        duration: Fraction | None = None,
    ) -> None:
        self.damaged_packets = 0
        self.frames_read = 0
        self._rate = rate or DEFAULT_RATE
        files = list_images(path)
        first = 0 if start is None else -int(-start * self._rate // 1)
        last = len(files) if duration is None else -int(-((start or 0) + duration) * self._rate // 1)
        if first >= len(files):
            raise InputError(
                f"{path} ends after {float(len(files) / self._rate):g} s, before the part asked for begins; "
                "choose an earlier --start."
            )
        self._files = list(enumerate(files))[first:last]
        cut = start is not None or duration is not None
        self.timeline = Timeline(
            origin=start or Fraction(0),
            end=None if duration is None else (start or 0) + duration,
            cut=cut,
        )
        self._path = path
        picture = next((p for p in (self._load(f) for _, f in self._files) if p is not None), None)
        self.damaged_packets = 0
        if picture is None:
            raise InputError(f"None of the images of {path} could be decoded; they are damaged or of another type.")
        self._shape, self._type = picture.shape, picture.dtype
        kind = "rgb24" if picture.dtype == np.uint8 else "rgb48le"
        self.facts = VideoFacts(
            name=str(path),
            container="images",
            codec=files[0].suffix.lower().lstrip("."),
            width=picture.shape[1],
            height=picture.shape[0],
            pix_fmt=kind,
            format=PixelFormat("rgb", 8 * picture.dtype.itemsize),
            frame_rate=self._rate,
            time_base=1 / self._rate,
            start=first / self._rate,
            duration=len(self._files) / self._rate,
            frames=len(self._files),
        )

    def skip_to(self, index: int, pts: Fraction) -> bool:
        """Goes on with frame ``index``, the image at ``pts`` seconds; False if there is none. Before iterating."""
        self._files = [(number, file) for number, file in self._files if number / self._rate >= pts]
        self.frames_read = index
        return bool(self._files) and self._files[0][0] / self._rate == pts

    def frame_times(self) -> list[Fraction]:
        """When each image begins, in seconds, if all can be decoded."""
        return [number / self._rate for number, _ in self._files]

    @property
    def is_clean(self) -> bool:
        """Whether all images could be decoded so far."""
        return not self.damaged_packets

    def _load(self, file: Path) -> Image | None:
        data = _contents(file)
        size = stated_size(data)
        if size is None:
            self.damaged_packets += 1
            return None
        check_size(str(file), *size)
        image = _decoded(data)
        if image is None:
            self.damaged_packets += 1
            return None
        if image.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{file} holds {image.dtype} samples; convert the images to 8 or 16 bits first.")
        return np.ascontiguousarray(image[..., ::-1])

    def __iter__(self) -> Iterator[Frame]:
        waiting: tuple[Image, Fraction] | None = None
        for number, file in self._files:
            image = self._load(file)
            if image is None:
                continue
            if image.shape != self._shape:
                raise InputError(
                    f"{file} is {image.shape[1]}x{image.shape[0]}, the images before it {self._shape[1]}x"
                    f"{self._shape[0]}; bring all to one size."
                )
            if image.dtype != self._type:  # 8 and 16 bits mixed: as the first
                image = (image // 257).astype(np.uint8) if self._type == np.uint8 else image.astype(np.uint16) * 257
            pts = number / self._rate
            if waiting is not None:
                yield Frame(waiting[0], waiting[1], pts - waiting[1], self.frames_read - 1)
            waiting = (image, pts)
            self.frames_read += 1
        if waiting is not None:
            yield Frame(waiting[0], waiting[1], 1 / self._rate, self.frames_read - 1)

    @property
    def warnings(self) -> list[str]:
        if not self.damaged_packets:
            return []
        return [f"{self.damaged_packets} of {self.facts.frames} images could not be decoded and were skipped."]

    def close(self) -> None:
        pass

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _contents(file: Path) -> bytes:
    """What a file holds, nothing if it cannot be read. Raises `InputError` for more than an image can be."""
    try:
        if not file.is_file():  # a device or a pipe would never end
            return b""
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file} has more than {MAX_BYTES >> 20} MiB, too much for an image; take it out.")
        return file.read_bytes()
    except OSError:
        return b""


def _decoded(data: bytes) -> Image | None:
    # OpenCV writes a line to the terminal for every flaw; the reader counts damaged images instead.
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        image: Image | None = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
        return image
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)


class ImageWriter:
    """Frames as numbered images, from 0; the folder appears (or fills) on `finish`.

    8-bit video gives 8-bit images, deeper video 16-bit ones where the file type has them.

    working, first
        An existing folder for the images until then, and how many of them it holds already; a new one by default.
    """

    def __init__(
        self, path: Path, facts: VideoFacts, *, overwrite: bool = False, working: Path | None = None, first: int = 0
    ) -> None:
        self.notes: list[str] = []
        self.frame_rate = facts.frame_rate
        named = bool(_NUMBER.search(path.name))
        if not named and path.suffix.lower() in EXTENSIONS:
            raise OptionError(f"{path} is one image, but many come out; name the output a folder or %05d.png.")
        self.path = path.parent if named else path
        self._name = path.name if named else DEFAULT_PATTERN
        self._suffix = Path(self._name).suffix.lower()
        if self._suffix not in EXTENSIONS:
            raise OptionError(f"'{self._suffix}' is not an image type; use one of {', '.join(EXTENSIONS)}.")
        self.codec, self.pix_fmt = self._suffix.lstrip("."), "rgb24"
        if facts.format.bits > 8:
            if self._suffix in DEEP_EXTENSIONS:
                self.pix_fmt = "rgb48le"
            else:
                self.notes.append(f"{self._suffix} images hold 8 bits; .png or .tiff keep all {facts.format.bits}.")
        taken = list_images(self.path / self._name) if self._exists() else []
        self._folder = PartialFolder(self.path, taken, overwrite, working)
        self._count = first

    def _exists(self) -> bool:
        before, after = _split(self._name)
        return self.path.is_dir() and any(
            f.name.startswith(before) and f.name.endswith(after) for f in self.path.iterdir()
        )

    def write(self, frame: Frame) -> None:
        image = rgb_of_planes(frame.planes)
        if image.dtype == np.uint16 and self.pix_fmt == "rgb24":
            image = np.rint(image / 257.0).astype(np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if self.codec in ("jpg", "jpeg") else []
        done, data = cv2.imencode(self._suffix, np.ascontiguousarray(image[..., ::-1]), options)
        if not done:
            raise OutputError(f"The image could not be written as {self._suffix}; choose .png.")
        try:
            data.tofile(self.file_of(self._count))
        except OSError as error:
            raise OutputError(
                f"{self.path} could not be written ({error.strerror or error}); choose another place or free "
                "some space."
            ) from error
        self._count += 1

    @property
    def count(self) -> int:
        """How many images there are."""
        return self._count

    def file_of(self, number: int) -> Path:
        """Where an image lies until `finish`."""
        return self._folder.working / (self._name % number)

    def finish(self) -> None:
        self._folder.commit({self._name % number for number in range(self._count)})

    def abandon(self, keep: bool = False) -> Path | None:
        """Ends without success: removes the images, or keeps them in ``NAME.partial`` and returns that path."""
        if keep:
            return self._folder.keep()
        self._folder.discard()
        return None
