"""Two seconds of the real thing: a rendered clip through the model, compared with the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtsr.errors import ModelError

FRAMES = 3
SUBFRAMES = 8  # pictures averaged per frame; half of them make a half exposure
LEAST_GAIN = 1.0  # dB over doing nothing; the shipped model gains several


@dataclass(frozen=True)
class SelfTest:
    """Figures of a self-test.

    psnr, nothing
        Mean PSNR in dB over all half exposures: of the model, and of the input frames shown twice.
    seconds, milliseconds
        Of the whole test, and of the network per input frame.
    """

    psnr: float
    nothing: float
    seconds: float
    milliseconds: float
    backend: str
    precision: str

    @property
    def gain(self) -> float:
        return self.psnr - self.nothing

    @property
    def passed(self) -> bool:
        return self.gain >= LEAST_GAIN


def rendered_exposures() -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Frames of a moving scene with an open shutter, and the two half exposures of each; RGB, uint8."""
    from vtsr.runtime.demo import Street

    street, half = Street(), SUBFRAMES // 2
    frames, halves = [], []
    for index in range(FRAMES):
        times = index + (np.arange(SUBFRAMES) + 0.5) / SUBFRAMES
        pictures = np.stack([street.picture(float(moment)) for moment in times]) * 255
        frames.append(_rounded(pictures.mean(axis=0)))
        halves += [_rounded(part.mean(axis=0)) for part in (pictures[:half], pictures[half:])]
    return frames, halves


def run_self_test(model: str = "default", backend: str = "auto") -> SelfTest:
    """Upconverts the rendered clip by one level. Raises what `vtsr.Upconverter` raises."""
    from vtsr.runtime.upconverter import Upconverter

    began = time.perf_counter()
    frames, halves = rendered_exposures()
    with Upconverter(1, model=model, backend=backend) as up:
        outputs = [frame.image for frame in up.run(frames)]
        seconds = sum(up.stage_seconds.values())
        backend_name, precision = up.backend_name, up.precision
    if len(outputs) != len(halves):
        raise ModelError(f"{len(outputs)} frames came out instead of {len(halves)}; install vtsr again.")
    repeated = [frame for frame in frames for _ in range(2)]
    return SelfTest(
        psnr=_mean_psnr(outputs, halves),
        nothing=_mean_psnr(repeated, halves),
        seconds=time.perf_counter() - began,
        milliseconds=1000 * seconds / len(frames),
        backend=backend_name,
        precision=precision,
    )


def _rounded(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _mean_psnr(pictures: list[NDArray[np.uint8]], truth: list[NDArray[np.uint8]]) -> float:
    errors = [float(np.mean((a.astype(np.float64) - b) ** 2)) for a, b in zip(pictures, truth, strict=True)]
    return float(np.mean([10 * np.log10(255**2 / max(error, 1e-9)) for error in errors]))
