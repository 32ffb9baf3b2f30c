"""A video of all methods side by side, at the deepest level, for the eye."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vtsr.errors import OutputError
from vtsr.evaluation.clips import Image
from vtsr.evaluation.judge import View

FRAME_RATE = Fraction(24)  # of the video: slow motion, so that single frames can be judged
CAPTION = 22  # pixels: height of the line above each picture
GAP = 4  # pixels between pictures
TALLEST = 480  # pixels: higher pictures are shrunk
WIDEST = 3840  # pixels: pictures go on in a second row beyond this width


class SideBySide:
    """An observer that writes ``folder``/CLIP.mp4: the input, every method and the truth, output by output."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The folder '{folder}' cannot be made: {error.strerror}.") from error
        self._folder = folder
        self._clip: str | None = None
        self._container: Any = None
        self._stream: Any = None

    def see(self, view: View) -> None:
        if view.clip.name != self._clip:
            self.close()
            self._clip = view.clip.name
        factor = max(factor for made in view.outputs.values() for factor in made)
        truth = view.truths[factor]
        for j in range(factor):
            pictures = {"input": view.blurred}
            for name, made in view.outputs.items():
                # A method without this level shows the nearest output of its own.
                own = max(made)
                pictures[name] = made[own][j * own // factor]
            pictures["truth"] = truth[j]
            self._write(_mosaic(pictures))

    def close(self) -> None:
        """Completes the video of the current clip."""
        if self._container is None:
            return
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        self._container = None
        # Under its final name only when complete.
        os.replace(self._partial, self._folder / f"{self._clip}.mp4")

    @property
    def _partial(self) -> Path:
        return self._folder / f"{self._clip}.mp4.partial"

    def _write(self, picture: Image) -> None:
        import av

        try:
            if self._container is None:
                self._container = av.open(str(self._partial), "w", format="mp4")
                self._stream = self._container.add_stream("libx264", rate=FRAME_RATE)
                self._stream.height, self._stream.width = picture.shape[:2]
                self._stream.pix_fmt = "yuv420p"
                self._stream.options = {"crf": "16"}
            for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                self._container.mux(packet)
        except (OSError, av.FFmpegError) as error:
            raise OutputError(f"The video '{self._partial}' cannot be written: {error.strerror or error}.") from error


def _mosaic(pictures: dict[str, Image]) -> Image:
    """Captioned pictures in one or more rows, with even sides as video wants them: uint8 (H, W, 3)."""
    first = next(iter(pictures.values()))
    scale = min(1.0, TALLEST / first.shape[0], (WIDEST - GAP) / first.shape[1])
    width, height = max(round(first.shape[1] * scale), 1), max(round(first.shape[0] * scale), 1)
    across = max(min(len(pictures), WIDEST // (width + GAP)), 1)
    down = -(-len(pictures) // across)
    cell_width, cell_height = width + GAP, height + CAPTION
    canvas = np.zeros((down * cell_height + down * cell_height % 2, across * cell_width + across * cell_width % 2, 3),
                      np.uint8)  # fmt: skip
    for n, (name, picture) in enumerate(pictures.items()):
        y, x = n // across * cell_height, n % across * cell_width
        if scale < 1:
            picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        canvas[y + CAPTION : y + CAPTION + height, x : x + width] = picture
        cv2.putText(
            canvas, name, (x + 4, y + CAPTION - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA
        )
    return canvas
