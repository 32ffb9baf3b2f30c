"""Footage for measurements, rendered on the spot: anyone can repeat them, and nobody's rights are touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vtsr.benchmarks.plan import Size
from vtsr.evaluation.clips import Clip
from vtsr.evaluation.suite import render
from vtsr.runtime.demo import FRAMES, Street

WINDOW = 8  # original frames behind one input frame: levels 1 to 3 can be judged
SPEEDS = (0.5, 1.0, 1.5)  # of the streets, relative to the demo's
FIRST_SEED = 2001  # streets that neither the demo nor calibration shows
MOSAIC = (3, 2)  # rows and columns of street views that make up a still picture
FRAME_RATE = 30

Image = NDArray[np.uint8]


def texture(size: Size, index: int) -> Image:
    """Frame ``index`` of a texture that pans by three pixels per frame, uint8 (height, width, 3)."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (size.height // 8 + 2, size.width // 8 + 64, 3), dtype=np.uint8)
    x = 3 * index % 400
    grown = cells.repeat(8, axis=0).repeat(8, axis=1)
    return np.ascontiguousarray(grown[: size.height, x : x + size.width])


def write_texture(path: Path, size: Size, frames: int) -> None:
    """The panning texture as an H.264 file of ``FRAME_RATE`` frames per second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(texture(size, index), format="rgb24")))
        container.mux(stream.encode())


def high_speed_clips(windows: int) -> Iterator[Clip]:
    """Clips whose frames are instants, `WINDOW` of them for each of ``windows`` input frames.

    Streets with a tram at three speeds, and a still picture under a camera that pans, zooms and turns.
    """
    for index, speed in enumerate(SPEEDS):
        count = min(windows, int((FRAMES - 2) / speed))  # a street is no longer than the demo
        street = Street(FIRST_SEED + index)
        times = 2 + speed * (np.arange(WINDOW * count) + 0.5) / WINDOW
        yield Clip.of(f"street at {speed:g} x", np.stack([_coded(street.picture(float(t))) for t in times]))
    rows, columns = MOSAIC
    views = [_coded(Street(FIRST_SEED + 10 + n).picture(float(5 + 3 * n))) for n in range(rows * columns)]
    still = np.vstack([np.hstack(views[r * columns : (r + 1) * columns]) for r in range(rows)])
    yield Clip.of("moving camera", render(still, 3, 4, WINDOW * windows))


def _coded(picture: NDArray[np.float32]) -> Image:
    return np.asarray(np.rint(255 * picture), np.uint8)
