"""What the tests of live streams share: a backend without a network, numbered pictures, rendered exposures."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.backend import StepResult
from vtsr.runtime.frame import PixelFormat, Planes

Image = NDArray[np.uint8]

BITS = 12  # of a number in a picture
BLOCK = 8  # pixels of a bit's side


class RepeatBackend:
    """Does nothing to pictures, as slowly as told: both halves of a frame are the frame. For timing and bookkeeping.

    ``seconds`` is what one pair takes and may be changed at any time; ``fail`` makes the next step raise it.
    """

    name = "repeat"
    precision = "none"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.fail: Exception | None = None
        self.pairs = 0
        self.closed = False
        self.may_run = threading.Event()
        self.may_run.set()

    def ingest(self, pictures: Sequence[Planes]) -> list[Planes]:
        self.may_run.wait(30)
        return list(pictures)

    def frames_in(self, tensor: list[Planes]) -> int:
        return len(tensor)

    def part(self, tensor: list[Planes], start: int, stop: int) -> list[Planes]:
        return tensor[start:stop]

    def step(self, u: list[Planes], a_u: Any, v: list[Planes]) -> StepResult:
        if self.fail is not None:
            raise self.fail
        self.pairs += len(v)
        if self.seconds:
            time.sleep(self.seconds * len(v))
        before = [*u, *v[:-1]]
        return StepResult([p for picture in before for p in (picture, picture)], v[-1:], v[-1:])

    def finish(self, u: list[Planes], a_u: Any) -> list[Planes]:
        return u * 2

    def emit(self, frames: list[Planes], format: PixelFormat, height: int, width: int) -> list[Planes]:
        return frames

    def close(self) -> None:
        self.closed = True


def gray_code(number: int) -> int:
    return number ^ (number >> 1)


def numbered(number: int, width: int = 96, height: int = 64) -> Image:
    """A picture (H, W, 3) with a moving texture and its number, as blocks that survive coding.

    The number is in Gray code, so that from one picture to the next one block changes.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    texture = 128 + 60 * np.sin((x + 2 * number) / 9) * np.cos(y / 7)
    picture = np.repeat(texture[..., None], 3, axis=2).astype(np.uint8)
    code = gray_code(number % (1 << BITS))
    for bit in range(BITS):
        top, left = BLOCK * (bit // 6), BLOCK * (bit % 6) * 2
        picture[top : top + BLOCK, left : left + 2 * BLOCK] = 235 if code >> bit & 1 else 16
    return picture


def read_number(luma: NDArray[Any]) -> int:
    """The number in a picture, from its luma (H, W) or RGB (H, W, 3)."""
    luma = luma if luma.ndim == 2 else luma.mean(axis=2)
    code = 0
    for bit in range(BITS):
        top, left = BLOCK * (bit // 6), BLOCK * (bit % 6) * 2
        code |= int(luma[top + 2 : top + BLOCK - 2, left + 3 : left + 2 * BLOCK - 3].mean() > 126) << bit
    number = 0
    while code:
        number ^= code
        code >>= 1
    return number


def texture(height: int, width: int, seed: int = 0, detail: float = 0.95) -> NDArray[np.float32]:
    """Noise with detail at all sizes (H, W, 3) in 0..255; with less ``detail`` it looks like clouds."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(6):
        cell = 64 >> octave
        grid = rng.random((height // cell + 3, width // cell + 3, 3), np.float32)
        grown = cv2.resize(grid, (grid.shape[1] * cell, grid.shape[0] * cell), interpolation=cv2.INTER_CUBIC)
        total += grown[:height, :width] * detail**octave
    total = (total - total.min()) / (total.max() - total.min())
    return np.clip((total - 0.5) * 1.6 + 0.5, 0, 1) * np.float32(255)


def exposures(
    count: int, speed: tuple[float, float], duty: float = 1.0, size: tuple[int, int] = (256, 192), seed: int = 0,
    shots: int = 24, noise: float = 1.0, detail: float = 0.95,
) -> list[Image]:
    """Frames of a panning camera whose shutter is open for ``duty`` of the frame time: averages of ``shots`` views.

    ``speed`` is the way per frame in pixels (x, y), ``noise`` the sensor's, in codes.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    margin = 40 + int(count * max(map(abs, speed)))
    scene = texture(height + 2 * margin, width + 2 * margin, seed, detail)

    def view(moment: float) -> NDArray[np.float32]:
        shift = np.array([[1, 0, speed[0] * moment - margin], [0, 1, speed[1] * moment - margin]], np.float32)
        return np.asarray(cv2.warpAffine(scene, shift, (width, height), flags=cv2.INTER_LINEAR), np.float32)

    frames = []
    for n in range(count):
        mean = np.mean([view(n + duty * (s + 0.5) / shots) for s in range(shots)], axis=0)
        frames.append(np.clip(np.rint(mean + rng.normal(0, noise, mean.shape)), 0, 255).astype(np.uint8))
    return frames


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    """A port of this machine that nobody uses at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether ``condition`` comes true; waits for it, within reason."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
