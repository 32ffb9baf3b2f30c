"""Draws how the shipped model looks where such methods tend to fail: strong camera motion, f4 on a still scene.

    python docs/tools/looks.py

Writes docs/images/look-motion.jpg, look-still.jpg and look.mp4, and prints the figures in them. The scene is the
street of the demo, rendered here; the truth is known, since each frame is the average of rendered pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.evaluation.clips import Clip
from vtsr.evaluation.judge import View, evaluate
from vtsr.evaluation.methods import parse_method
from vtsr.runtime.demo import HEIGHT, RAIL, TRAM_HEIGHT, WIDTH, Street, _paste

IMAGES = Path(__file__).parent.parent / "images"
WINDOW = 16  # pictures per input frame: f4 gives one output frame for each
NOISE = 1.5  # standard deviation of the sensor's noise in the still scene, in 8-bit codes
INK, PAPER = (25, 25, 25), (255, 255, 255)

Image = NDArray[np.uint8]


def fast_street() -> Iterator[Image]:
    """A pan and a shaking hand at twice the demo's speed: what is near passes at 16 pixels per frame."""
    street = Street()
    for index in range(6 * WINDOW):
        yield np.rint(street.picture(4 + 2 * index / WINDOW) * 255).astype(np.uint8)


def still_street() -> Iterator[Image]:
    """A camera on a tripod, with a sensor's noise; only a tram drives through."""
    street = Street()
    tram, street.tram = street.tram, np.zeros_like(street.tram)
    street.wheel = np.zeros_like(street.wheel)
    background = street.picture(12)
    rng = np.random.default_rng(0)
    for index in range(6 * WINDOW):
        canvas = background.copy()
        _paste(canvas, tram, (330 - 11 * index / WINDOW, RAIL - TRAM_HEIGHT))
        noisy = canvas * 255 + rng.normal(0, NOISE, canvas.shape)
        yield np.rint(noisy.clip(0, 255)).astype(np.uint8)


class Keep:
    """An observer that keeps what was made of one input frame."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.view: View | None = None

    def see(self, view: View) -> None:
        if view.window.index == self.index:
            self.view = view

    def close(self) -> None: ...


def looked_at(name: str, frames: Callable[[], Iterator[Image]]) -> tuple[Any, View]:
    keep = Keep(3)
    methods = [parse_method(text) for text in ("nothing", "flow+law", "vtsr=default")]
    result = evaluate([Clip(name, frames)], methods, WINDOW, metrics=("psnr",), observers=[keep])
    for factor in (2, 4, 8, 16):
        scores = {method.name: round(float(result.mean(method.name, factor).psnr), 2) for method in methods}
        print(f"{name}  x{factor:<3}", scores)
    assert keep.view is not None
    return result, keep.view


def sheet(rows: list[list[tuple[str, Image]]]) -> Image:
    """Captioned pictures of one size in rows."""
    height, width = rows[0][0][1].shape[:2]
    caption, gap = 24, 6
    canvas = np.full((len(rows) * (height + caption), len(rows[0]) * (width + gap) - gap, 3), PAPER, np.uint8)
    for y, row in enumerate(rows):
        for x, (text, picture) in enumerate(row):
            top, left = y * (height + caption), x * (width + gap)
            at = (left + 2, top + 17)
            cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
            canvas[top + caption : top + caption + height, left : left + width] = picture
    return canvas


def save(name: str, picture: Image) -> None:
    cv2.imwrite(str(IMAGES / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def motion() -> None:
    _, view = looked_at("strong camera motion", fast_street)
    crop = (slice(110, 262), slice(40, 300))
    rows = []
    for factor, phase in ((4, 1), (8, 5)):
        rows.append([
            ("input frame", view.blurred[crop]),
            (f"optical flow + law, x{factor}", view.outputs["flow+law"][factor][phase][crop]),
            (f"vtsr, x{factor}", view.outputs["vtsr"][factor][phase][crop]),
            ("truth", view.truths[factor][phase][crop]),
        ])  # fmt: skip
    save("look-motion.jpg", sheet(rows))


def still() -> None:
    _, view = looked_at("still scene", still_street)
    crop = (slice(100, 252), slice(130, 390))
    ours = view.outputs["vtsr"][16]
    rows = [
        [("input frame", view.blurred[crop])] + [(f"vtsr, x16, frame {n}", ours[n][crop]) for n in (0, 8, 15)],
        [("", np.full_like(view.blurred[crop], 255))]
        + [(f"10 x (frame {n} - input)", difference(ours[n], view.blurred)[crop]) for n in (0, 8, 15)],
    ]
    save("look-still.jpg", sheet(rows))
    sky = (slice(0, 100), slice(0, 400))
    change = np.abs(ours[(slice(None), *sky)].astype(int) - view.blurred[sky].astype(int))
    print(f"still part, x16: largest change from the input {change.max()} codes, mean {change.mean():.3f}")


def difference(picture: Image, reference: Image) -> Image:
    return np.clip(128 + 10 * (picture.astype(int) - reference.astype(int)), 0, 255).astype(np.uint8)


def film() -> None:
    """Input beside eight times its frame rate, in slow motion: 4 s."""
    street, frames = Street(), 14
    exposures = []
    for index in range(frames):
        times = index + (np.arange(12) + 0.5) / 12
        exposures.append(np.rint(np.mean([street.picture(6 + t) for t in times], axis=0) * 255).astype(np.uint8))
    stream = parse_method("default").start(3)
    made = [out for frame in exposures for out in stream.push(frame)] + stream.flush()
    with av.open(str(IMAGES / "look.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = WIDTH, 2 * HEIGHT, "yuv420p"
        video.options = {"crf": "27", "preset": "slow"}
        for before, after in zip(exposures, made, strict=True):
            for picture in np.clip(np.rint(after[8]), 0, 255).astype(np.uint8):
                both = np.concatenate([before, picture])
                for text, y in (("input", 20), ("vtsr, x8", HEIGHT + 20)):
                    cv2.putText(both, text, (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, PAPER, 2, cv2.LINE_AA)
                container.mux(video.encode(av.VideoFrame.from_ndarray(both, format="rgb24")))
        container.mux(video.encode(None))


if __name__ == "__main__":
    motion()
    still()
    film()
