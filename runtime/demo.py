"""The demo clip: a street seen from a moving camera with an open shutter, rendered from nothing.

Every picture is drawn here, so the clip can be used for anything. Layers move at different speeds
(parallax), a tram drives through with turning wheels and a sign to read. Each frame is the average of
`SUBFRAMES` pictures taken during its frame time: real exposure blur, for which the exposure law holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.frame import Frame

WIDTH, HEIGHT = 480, 270
FRAME_RATE = Fraction(24)
FRAMES = 48  # 2 seconds
SUBFRAMES = 12  # pictures averaged per frame; nothing moves more than a pixel between two of them

OVERSAMPLING = 2  # layers are drawn at this multiple of the output size
MARGIN = 24  # output pixels drawn beyond what the pan needs, for the hand shake
GROUND = 205  # output row where the buildings stand
RAIL = 232  # output row of the nearer rail
BLEED = 4  # rows and columns drawn beyond the frame, for the hand shake

Array = NDArray[Any]

WARM, BLUISH = np.array([30, 5, -15]), np.array([0, 8, 20])  # casts of evening walls and of window glass


@dataclass(frozen=True)
class Layer:
    """Part of the scene that moves as one.

    pixels
        Oversampled premultiplied colour and coverage, float32 (H, W, 4) in [0, 1].
    top
        Output row of its first row of pixels.
    speed
        How fast it passes, in output pixels per frame.
    """

    pixels: Array
    top: int
    speed: float


def _noise(rng: np.random.Generator, height: int, width: int, coarse: int, octaves: int = 5) -> Array:
    """Fractal noise (height, width) in [0, 1]; ``coarse`` is the size of its largest features in pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell = max(1, coarse >> octave)
        shape = (height // cell + 3, width // cell + 3)
        grid = rng.random(shape, np.float32)
        grown = cv2.resize(grid, (shape[1] * cell, shape[0] * cell), interpolation=cv2.INTER_CUBIC)
        total += grown[:height, :width] * 0.55**octave
    return (total - total.min()) / (total.max() - total.min())


def _blank(width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    height = (HEIGHT + 2 * BLEED) * OVERSAMPLING
    return np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)


def _layer(colour: NDArray[np.uint8], alpha: NDArray[np.uint8], speed: float, grain: Array | None = None) -> Layer:
    value = colour.astype(np.float32) / 255
    if grain is not None:
        value = np.clip(value * (0.75 + 0.5 * grain[..., None]), 0, 1)
    rows = np.nonzero(alpha.any(axis=1))[0]
    top = int(rows[0]) // OVERSAMPLING
    used = slice(top * OVERSAMPLING, int(rows[-1]) + 1)
    return Layer(_premultiplied(value[used], alpha[used]), top, speed)


def _premultiplied(colour: Array, alpha: NDArray[np.uint8]) -> Array:
    cover = (alpha.astype(np.float32) / 255)[..., None]
    # A small blur keeps the later shrinking by `OVERSAMPLING` free of aliasing.
    return cv2.GaussianBlur(np.concatenate([colour * cover, cover], axis=2), (0, 0), 0.6).astype(np.float32)


def _span(speed: float) -> int:
    """Width in oversampled pixels that a layer of this speed shows over the whole clip."""
    return int((WIDTH + abs(speed) * (FRAMES + 1) + 2 * MARGIN) * OVERSAMPLING)


def _sky(rng: np.random.Generator, speed: float) -> Layer:
    width, height = _span(speed), (HEIGHT + 2 * BLEED) * OVERSAMPLING
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, bottom = np.array([0.30, 0.48, 0.74], np.float32), np.array([0.97, 0.82, 0.66], np.float32)
    sky = np.broadcast_to(top + (bottom - top) * rows**0.8, (height, width, 3))
    stretched = cv2.resize(_noise(rng, height, width // 2, 120, 6), (width, height))
    clouds = np.clip((stretched - 0.48) * 3.2, 0, 1)[..., None] * (1 - rows * 0.6)
    white = np.array([1, 0.97, 0.93], np.float32)
    colour = sky + (white - sky) * clouds
    return Layer(np.concatenate([colour, np.ones((height, width, 1))], axis=2).astype(np.float32), 0, speed)


def _hills(rng: np.random.Generator, speed: float, base: int, height: int, tint: tuple[int, int, int]) -> Layer:
    width = _span(speed)
    colour, alpha = _blank(width)
    ridge = _noise(rng, 1, width, 420, 8)[0]
    rows = np.arange(colour.shape[0])[:, None]
    alpha[:] = (rows > (base - ridge * height) * OVERSAMPLING) * 255
    colour[:] = tint
    return _layer(colour, alpha, speed, _noise(rng, alpha.shape[0], alpha.shape[1], 48, 6))


def _city(rng: np.random.Generator, speed: float) -> Layer:
    width, k = _span(speed), OVERSAMPLING
    colour, alpha = _blank(width)
    x = -10 * k
    while x < width:
        w, h = int(rng.integers(46, 92)) * k, int(rng.integers(60, 150)) * k
        wall = np.array([rng.integers(90, 210)] * 3) + rng.integers(-40, 40, 3)
        tone = tuple(int(c) for c in np.clip(wall + WARM, 30, 235))
        top, bottom = GROUND * k - h, GROUND * k
        cv2.rectangle(colour, (x, top), (x + w, bottom), tone, -1)
        cv2.rectangle(alpha, (x, top), (x + w, bottom), (255,), -1)
        cv2.rectangle(colour, (x, top), (x + w, top + 4 * k), tuple(int(c * 0.7) for c in tone), -1)
        if rng.random() < 0.5:  # brick courses
            for row in range(top + 6 * k, bottom, 3 * k):
                cv2.line(colour, (x, row), (x + w, row), tuple(int(c * 0.86) for c in tone), 1)
        step_x, step_y = int(rng.integers(11, 17)) * k, int(rng.integers(15, 22)) * k
        for wy in range(top + 10 * k, bottom - 14 * k, step_y):
            for wx in range(x + 6 * k, x + w - 9 * k, step_x):
                lit = rng.random() < 0.25
                glass = (255, 226, 150) if lit else tuple(int(c) for c in rng.integers(35, 95, 3) + BLUISH)
                cv2.rectangle(colour, (wx - k, wy - k), (wx + 7 * k, wy + 10 * k), (232, 228, 220), -1)
                cv2.rectangle(colour, (wx, wy), (wx + 6 * k, wy + 9 * k), glass, -1)
                cv2.line(colour, (wx + 3 * k, wy), (wx + 3 * k, wy + 9 * k), (225, 222, 214), k)
        if rng.random() < 0.45:
            word = str(rng.choice(["CAFE", "BOOKS", "HOTEL", "CINEMA", "BAKERY", "MUSIC", "No 24"]))
            board = tuple(int(c) for c in rng.integers(20, 110, 3))
            cv2.rectangle(colour, (x + 4 * k, bottom - 30 * k), (x + w - 4 * k, bottom - 17 * k), board, -1)
            size = cv2.getTextSize(word, cv2.FONT_HERSHEY_DUPLEX, 0.75, 2)[0]
            at = (x + (w - size[0]) // 2, bottom - 19 * k)
            cv2.putText(colour, word, at, cv2.FONT_HERSHEY_DUPLEX, 0.75, (250, 240, 215), 2, cv2.LINE_AA)
        x += w + int(rng.integers(0, 10)) * k
    return _layer(colour, alpha, speed, _noise(rng, alpha.shape[0], alpha.shape[1], 12, 4))


def _street(rng: np.random.Generator, speed: float) -> Layer:
    width, k = _span(speed), OVERSAMPLING
    colour, alpha = _blank(width)
    colour[:] = (96, 94, 98)
    alpha[GROUND * k :] = 255
    cv2.rectangle(colour, (0, GROUND * k), (width, (GROUND + 10) * k), (172, 164, 150), -1)
    for x in range(0, width, 24 * k):
        cv2.line(colour, (x, GROUND * k), (x - 10 * k, (GROUND + 10) * k), (132, 124, 112), k)
    cv2.rectangle(colour, (0, (GROUND + 10) * k), (width, (GROUND + 12) * k), (112, 104, 96), -1)
    for row, shade in ((RAIL, 190), (RAIL + 12, 205)):
        cv2.line(colour, (0, row * k), (width, row * k), (shade, shade, shade), 2 * k)
    for x in range(0, width, 70 * k):
        cv2.rectangle(colour, (x, (RAIL + 24) * k), (x + 34 * k, (RAIL + 27) * k), (228, 226, 216), -1)
    return _layer(colour, alpha, speed, _noise(rng, alpha.shape[0], alpha.shape[1], 8, 4))


def _trees(rng: np.random.Generator, speed: float) -> Layer:
    width, k = _span(speed), OVERSAMPLING
    colour, alpha = _blank(width)
    x = int(rng.integers(20, 120)) * k
    while x < width:
        foot, crown = (GROUND + 6) * k, int(rng.integers(52, 74)) * k
        cv2.rectangle(colour, (x - 2 * k, foot - crown), (x + 2 * k, foot), (86, 62, 44), -1)
        cv2.rectangle(alpha, (x - 2 * k, foot - crown), (x + 2 * k, foot), (255,), -1)
        base = np.array([rng.integers(50, 110), rng.integers(90, 140), rng.integers(30, 60)])
        for _ in range(420):
            angle, reach = rng.uniform(0, 2 * np.pi), 24 * k * np.sqrt(rng.random())
            at = (int(x + reach * np.cos(angle)), int(foot - crown + 0.8 * reach * np.sin(angle)))
            tone = tuple(int(c) for c in np.clip(base * rng.uniform(0.55, 1.35), 0, 255))
            cv2.circle(colour, at, int(rng.integers(2, 5)) * k // 2 + 1, tone, -1, cv2.LINE_AA)
            cv2.circle(alpha, at, int(rng.integers(2, 5)) * k // 2 + 1, (255,), -1, cv2.LINE_AA)
        x += int(rng.integers(110, 240)) * k
    return _layer(colour, alpha, speed)


TRAM_LENGTH, TRAM_HEIGHT = 250, 78  # output pixels
WHEEL = 9  # radius, output pixels
AXLES = (40, 84, 166, 210)


def _tram() -> Array:
    """Body of the tram without its wheels, as the pixels of a `Layer`."""
    k = OVERSAMPLING
    colour = np.zeros(((TRAM_HEIGHT + 4) * k, (TRAM_LENGTH + 8) * k, 3), np.uint8)
    alpha = np.zeros(colour.shape[:2], np.uint8)
    box = ((4 * k, 4 * k), ((TRAM_LENGTH + 2) * k, (TRAM_HEIGHT - 8) * k))
    for target, tone in ((colour, (184, 44, 38)), (alpha, (255,))):
        cv2.rectangle(target, *box, tone, -1)
    cv2.rectangle(colour, (4 * k, 4 * k), ((TRAM_LENGTH + 2) * k, 12 * k), (238, 232, 218), -1)
    cv2.rectangle(colour, (4 * k, 38 * k), ((TRAM_LENGTH + 2) * k, 42 * k), (238, 232, 218), -1)
    for x in range(12, TRAM_LENGTH - 20, 28):
        cv2.rectangle(colour, (x * k, 15 * k), ((x + 22) * k, 36 * k), (44, 58, 72), -1)
        cv2.line(colour, ((x + 4) * k, 34 * k), ((x + 12) * k, 17 * k), (120, 142, 158), k, cv2.LINE_AA)
    font, cream = cv2.FONT_HERSHEY_DUPLEX, (250, 238, 210)
    cv2.putText(colour, "CITY LINE 96", (60 * k, 58 * k), font, 1.1, cream, 3, cv2.LINE_AA)
    skirt = ((4 * k, (TRAM_HEIGHT - 12) * k), ((TRAM_LENGTH + 2) * k, (TRAM_HEIGHT - 8) * k))
    cv2.rectangle(colour, *skirt, (60, 24, 24), -1)
    return _premultiplied(colour.astype(np.float32) / 255, alpha)


def _wheel() -> Array:
    """A wheel with five spokes, as the pixels of a `Layer`."""
    k, n = OVERSAMPLING, 2 * (WHEEL + 2) * OVERSAMPLING
    colour, alpha = np.zeros((n, n, 3), np.uint8), np.zeros((n, n), np.uint8)
    centre = (n // 2, n // 2)
    cv2.circle(alpha, centre, WHEEL * k, (255,), -1, cv2.LINE_AA)
    cv2.circle(colour, centre, WHEEL * k, (48, 46, 50), -1, cv2.LINE_AA)
    cv2.circle(colour, centre, (WHEEL - 3) * k, (168, 164, 160), -1, cv2.LINE_AA)
    for spoke in range(5):
        angle = 2 * np.pi * spoke / 5
        tip = (int(centre[0] + WHEEL * k * 0.72 * np.cos(angle)), int(centre[1] + WHEEL * k * 0.72 * np.sin(angle)))
        cv2.line(colour, centre, tip, (52, 50, 54), 3 * k, cv2.LINE_AA)
    cv2.circle(colour, centre, 3 * k, (206, 60, 48), -1, cv2.LINE_AA)
    return _premultiplied(colour.astype(np.float32) / 255, alpha)


def _paste(canvas: Array, pixels: Array, corner: tuple[float, float], angle: float = 0.0) -> None:
    """Composites oversampled pixels with their top left corner at ``corner`` (x, y), turned about their centre."""
    height, width = np.array(pixels.shape[:2]) / OVERSAMPLING
    reach = 0.0 if angle == 0 else (np.hypot(width, height) - min(width, height)) / 2
    x0, x1 = max(0, int(corner[0] - reach) - 1), min(WIDTH, int(corner[0] + width + reach) + 2)
    y0, y1 = max(0, int(corner[1] - reach) - 1), min(HEIGHT, int(corner[1] + height + reach) + 2)
    if x0 >= x1 or y0 >= y1:
        return
    middle = np.array([pixels.shape[1] - 1, pixels.shape[0] - 1]) / 2
    place = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), angle, 1 / OVERSAMPLING)
    centre = np.array([corner[0] - x0 + (width - 1) / 2, corner[1] - y0 + (height - 1) / 2])
    place[:, 2] = place[:, 2] + centre - middle
    placed = cv2.warpAffine(pixels, place, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    window = canvas[y0:y1, x0:x1]
    window[:] = window * (1 - placed[..., 3:]) + placed[..., :3]


class Street:
    """The whole scene; `picture` shows it at any instant."""

    def __init__(self, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        self.layers = [
            _sky(rng, 0.6),
            _hills(rng, 1.5, 175, 95, (126, 138, 160)),
            _hills(rng, 2.6, 190, 75, (92, 112, 104)),
            _city(rng, 5.0),
            _trees(rng, 6.0),
            _street(rng, 8.0),
        ]
        self.tram, self.wheel = _tram(), _wheel()

    def picture(self, time: float) -> Array:
        """The view at ``time`` in frames, float32 (HEIGHT, WIDTH, 3) RGB in [0, 1]."""
        shake = (2.0 * np.sin(time * 0.55) + 0.8 * np.sin(time * 1.7 + 1), 1.6 * np.sin(time * 0.73 + 2))
        canvas = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for layer in self.layers:
            x = MARGIN + layer.speed * time + shake[0]
            left = int(x) - 1
            view = layer.pixels[:, left * OVERSAMPLING : (left + WIDTH + 4) * OVERSAMPLING]
            _paste(canvas, view, (left - x, layer.top + shake[1] - BLEED))
        x = WIDTH - 40 - 11.0 * time - shake[0]
        _paste(canvas, self.tram, (x, RAIL - TRAM_HEIGHT + shake[1] + 0.5 * np.sin(time * 2.1)))
        for axle in AXLES:
            corner = (x + axle - WHEEL - 2, RAIL - 2 * WHEEL - 2 + shake[1])
            _paste(canvas, self.wheel, corner, angle=float(np.degrees(19.0 * time / WHEEL)))
        return np.clip(canvas, 0, 1)


def render_demo(frames: int = FRAMES) -> Iterator[Frame]:
    """The demo clip: ``frames`` frames of 480 x 270 at 24 fps, uint8 RGB."""
    street = Street()
    duration = 1 / FRAME_RATE
    for index in range(frames):
        times = index + (np.arange(SUBFRAMES) + 0.5) / SUBFRAMES
        exposure = np.mean([street.picture(float(t)) for t in times], axis=0)
        yield Frame(np.rint(exposure * 255).astype(np.uint8), index * duration, duration, index)
