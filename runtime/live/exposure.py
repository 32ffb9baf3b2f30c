"""Was the shutter open? Measured as the length of the motion blur over the way to the next frame.

Where a part of the picture moves by d pixels from frame to frame, an exposure of a share D of the frame time blurs it
over D d pixels along the motion and not at all across it. Across the motion one sees what the subject and the lens
look like; so the spectrum along the motion is that across it, times sinc(f D d)^2 for the blur, plus noise that came
after the blur. D is the value that fits this best over many places:

1. optical flow gives the way, and the places (`PATCH` pixels) that move as one;
2. each is turned so that its motion is horizontal; the second derivative whitens it (motion blur of an image with the
   usual 1/f spectrum shows as a dip of its autocorrelation at the length of the blur: Yitzhaky and Kopeika,
   "Identification of blur parameters from motion blurred images", 1997);
3. for each candidate D the measured autocorrelation is fitted by that of the model and that of white noise, both with
   weights of zero or more; the squared errors of all places are added up.

The error of the estimate is about 0.1 on rendered clips, also after compression, up to 0.2 where the subject is mostly
vertical or horizontal lines; see the tests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.frame import Planes
from vtsr.runtime.live.gaps import luma

PATCH = 64  # side of a place, pixels
LEAST_WAY, MOST_WAY = 4.0, 30.0  # pixels per frame: shorter blur hides in the lens', longer leaves too little to see
SPREAD = 0.08  # of the way, by which the motion of half of a place may differ from its median
LEAST_SPREAD = 0.6  # pixels
FLOW_WIDTH = 640  # flow is computed on pictures of at most this width
PLACES_PER_PAIR = 40
PAIRS = 16  # the newest pairs count
LEAST_PLACES = 30  # before anything is said
LEAST_SHARE = 0.5  # of the places that move must show detail: in a picture that lost most, the rest is no fair sample
OPEN = 0.75  # from this estimate on the shutter counts as open
# Least detail of a place across its motion: standard deviation of the second derivative, over the range of codes. Below
# it, noise and the leftovers of compression are all there is to see, and they look the same in all directions.
CONTRAST = 3 / 255
CANDIDATES = np.arange(0.0, 1.31, 0.05)

_FFT = 256
_FREQUENCIES = np.fft.rfftfreq(_FFT)
_SMOOTH = 0.7  # sigma of the blur against aliasing when a place is turned, pixels
_WINDOW = np.hanning(PATCH - 2)

Array = NDArray[Any]


def _autocorrelations(power: Array) -> Array:
    """From power spectra (..., F) to autocorrelations (..., F) that begin with 1."""
    r: Array = np.fft.irfft(power, axis=-1)[..., : _FFT // 2]
    return r / r[..., :1]


_NOISE = _autocorrelations(
    (2 * np.cos(2 * np.pi * _FREQUENCIES) - 2) ** 2 * np.exp(-((2 * np.pi * _FREQUENCIES * _SMOOTH) ** 2))
)


@dataclass(frozen=True)
class Exposure:
    """What was measured: the share of the frame time with the shutter open, on how many places."""

    duty: float
    places: int

    @property
    def is_open(self) -> bool:
        return self.duty >= OPEN

    @property
    def sentence(self) -> str:
        """For people, if the shutter was not open."""
        share = f"{max(self.duty, 0.05):.2g}"
        return (
            f"The shutter seems to have been open for about {100 * self.duty:.0f} % of the frame time only (measured "
            f"on {self.places} places), so that the motion in a frame is overestimated; use a longer exposure, or "
            f"--duty {share}."
        )


class ExposureCheck:
    """Estimates the duty from pairs of consecutive frames."""

    def __init__(self) -> None:
        self._errors: deque[tuple[Array, int, int]] = deque(maxlen=PAIRS)  # error, places measured, places tried

    def see(self, before: Planes, after: Planes) -> int:
        """Takes two consecutive frames of one size; returns the number of places that could be measured."""
        first, second = luma(before), luma(after)
        flow = _flow(first, second)
        picture = second.astype(np.float32) / 255
        count = tried = 0
        errors: Array = np.zeros(len(CANDIDATES))
        for x, y, motion in _places(flow)[:PLACES_PER_PAIR]:
            place = _turned(picture, x, y, motion)
            if place is None:
                continue
            tried += 1
            error = _place_errors(place, float(np.hypot(*motion)))
            if error is not None:
                errors = errors + error
                count += 1
        if tried:
            self._errors.append((errors, count, tried))
        return count

    @property
    def estimate(self) -> Exposure | None:
        """None until enough has moved."""
        places, tried = sum(count for _, count, _ in self._errors), sum(number for _, _, number in self._errors)
        if places < LEAST_PLACES or places < LEAST_SHARE * tried:
            return None
        total = np.sum([errors for errors, _, _ in self._errors], axis=0)
        return Exposure(min(1.0, _minimum(total)), places)


def _minimum(errors: Array) -> float:
    """The candidate of the least error, refined by a parabola through its neighbours."""
    best = int(np.argmin(errors))
    if not 0 < best < len(errors) - 1:
        return float(CANDIDATES[best])
    left, middle, right = errors[best - 1 : best + 2]
    bend = left - 2 * middle + right
    shift = 0.0 if bend <= 0 else 0.5 * (left - right) / bend
    return float(CANDIDATES[best] + shift * (CANDIDATES[1] - CANDIDATES[0]))


def _flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Array:
    """Motion (H, W, 2) in pixels of the full-size picture."""
    height, width = first.shape
    scale = max(1.0, width / FLOW_WIDTH)
    size = (round(width / scale), round(height / scale))
    small = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) if scale > 1 else p for p in (first, second)]
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = dis.calc(small[0], small[1], None)
    if scale > 1:
        flow = cv2.resize(flow, (width, height)) * np.float32(scale)
    found: Array = flow
    return found


def _places(flow: Array) -> list[tuple[float, float, Array]]:
    """Centres (x, y) of places that move as one, with their motion; those that move most alike first."""
    found = []
    for top in range(0, flow.shape[0] - PATCH + 1, PATCH // 2):
        for left in range(0, flow.shape[1] - PATCH + 1, PATCH // 2):
            motions = flow[top : top + PATCH : 2, left : left + PATCH : 2].reshape(-1, 2)
            motion = np.median(motions, axis=0)
            way = float(np.hypot(*motion))
            if not LEAST_WAY <= way <= MOST_WAY:
                continue
            spread = float(np.median(np.abs(motions - motion).max(axis=1)))
            if spread <= max(LEAST_SPREAD, SPREAD * way):
                found.append((spread, left + PATCH / 2, top + PATCH / 2, motion))
    found.sort(key=lambda place: place[0])
    return [(x, y, motion) for _, x, y, motion in found]


def _turned(picture: Array, x: float, y: float, motion: Array) -> Array | None:
    """The place around (x, y), turned so that it moves along its rows; None if it reaches over the border."""
    turn: Array = cv2.getRotationMatrix2D((x, y), float(np.degrees(np.arctan2(motion[1], motion[0]))), 1.0)
    turn[:, 2] += PATCH / 2 - np.array([x, y])
    outside = -1e3
    place = cv2.warpAffine(
        picture, turn, (PATCH, PATCH), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    return None if place.min() < outside / 100 else np.asarray(place)


def _place_errors(place: Array, way: float) -> Array | None:
    """Error of each candidate at a place that moves by ``way`` pixels; None if it shows too little."""
    smooth = np.asarray(cv2.GaussianBlur(place, (0, 0), _SMOOTH), np.float32)
    along, _ = _power(smooth)
    across, detail = _power(smooth.T)
    if detail < CONTRAST:
        return None
    lags = min(_FFT // 2, 48, int(1.4 * way + 4))
    measured = _autocorrelations(along)[:lags]
    blurred = across * np.sinc(_FREQUENCIES * (CANDIDATES * way)[:, None]) ** 2
    return _fit(measured, _autocorrelations(blurred)[:, :lags], _NOISE[:lags])


def _power(place: Array) -> tuple[Array, float]:
    """Mean power spectrum of the rows' second derivative, and its standard deviation."""
    bend = place[:, 2:] - 2 * place[:, 1:-1] + place[:, :-2]
    bend = bend - bend.mean()
    power: Array = (np.abs(np.fft.rfft(bend * _WINDOW, _FFT, axis=1)) ** 2).mean(axis=0)
    return power, float(bend.std())


def _fit(measured: Array, models: Array, noise: Array) -> Array:
    """Mean squared error of measured (L) = p model + q noise with the best p, q >= 0, for models (C, L)."""
    mm, nn = (models * models).sum(axis=1), float(noise @ noise)
    mn, md, nd = models @ noise, models @ measured, float(noise @ measured)
    determinant = np.maximum(mm * nn - mn**2, 1e-12)
    p, q = (md * nn - nd * mn) / determinant, (nd * mm - md * mn) / determinant
    p_alone, q_alone = np.maximum(md / mm, 0), np.full_like(mm, max(nd / nn, 0.0))
    total = float(measured @ measured)

    def error(p: Array, q: Array) -> Array:
        return total - 2 * (p * md + q * nd) + p * p * mm + 2 * p * q * mn + q * q * nn

    zero = np.zeros_like(mm)
    alone = np.minimum(error(p_alone, zero), error(zero, q_alone))
    result: Array = np.where((p >= 0) & (q >= 0), error(p, q), alone) / len(measured)
    return result
