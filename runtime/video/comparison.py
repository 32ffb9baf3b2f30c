"""A before-and-after picture: one input frame beside the frames that were made of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vtsr.errors import OptionError, OutputError
from vtsr.runtime.frame import Frame, Image
from vtsr.runtime.video.images import EXTENSIONS
from vtsr.runtime.video.partial import check_folder
from vtsr.runtime.video.rgb import rgb_of_planes

PANEL_HEIGHT = 720  # pixels, of the input's panel and of the grid beside it
GAP = 8  # pixels between panels
CROP_SHARE = 0.5  # of width and height, the moving area that is shown
LABEL_HEIGHT = 34  # pixels
BACKGROUND, INK = 24, (235, 235, 235)


class Comparison:
    """Collects the input frame nearest ``middle`` (an index) and its output frames, and draws them.

    Where the clip turns out shorter, an earlier frame is used: the candidates are the middle and all powers
    of two before it.
    """

    def __init__(self, path: Path, middle: int) -> None:
        if path.suffix.lower() not in EXTENSIONS:
            raise OptionError(f"'{path.suffix}' is not an image type; name the comparison picture .png.")
        check_folder(path.parent)
        self.path = path
        self._middle = middle
        self._input: Image | None = None
        self._candidate: tuple[int, Image] | None = None
        self._parts: list[Image] = []
        self._outputs: list[Image] = []
        self._inputs: dict[int, Image] = {}

    def see_input(self, frame: Frame) -> None:
        index = frame.source_index
        if index == self._middle or (index < self._middle and index & (index - 1) == 0):
            self._inputs[index] = _as_bytes(frame)

    def see_output(self, frame: Frame) -> None:
        source = self._inputs.get(frame.source_index)
        if source is None:
            return
        if frame.phase == 0:
            self._parts = []
            # Earlier candidates are not needed any more.
            for index in [i for i in list(self._inputs) if i < frame.source_index]:
                del self._inputs[index]
        self._parts.append(_as_bytes(frame))
        self._input, self._outputs = source, self._parts

    def save(self) -> None:
        """Raises `OutputError` if the picture cannot be written."""
        if self._input is None:
            return
        picture = compose(self._input, self._outputs)
        done, data = cv2.imencode(self.path.suffix, np.ascontiguousarray(picture[..., ::-1]))
        try:
            if done:
                data.tofile(self.path)
        except OSError as error:
            raise OutputError(f"{self.path} could not be written ({error.strerror}).") from error


def compose(source: Image, outputs: list[Image]) -> Image:
    """The input frame on the left, its parts in a grid on the right, all cropped to the moving area."""
    top, left, height, width = moving_area(outputs)
    crop = (slice(top, top + height), slice(left, left + width))
    columns = 1 if len(outputs) < 4 else 2 if len(outputs) < 8 else 4
    rows = len(outputs) // columns
    small = (PANEL_HEIGHT - GAP * (rows - 1)) // rows
    sheet = [_grid([_panel(image[crop], small) for image in outputs], columns)]
    big = _panel(source[crop], sheet[0].shape[0])
    left_label = "input: one exposure"
    right_label = f"output: its {len(outputs)} parts, in order"
    return _beside(_labelled(big, left_label), _labelled(sheet[0], right_label))


def moving_area(outputs: list[Image]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the window where first and last output differ most."""
    rows, columns = outputs[0].shape[:2]
    height, width = max(1, round(rows * CROP_SHARE)), max(1, round(columns * CROP_SHARE))
    change = cv2.absdiff(outputs[0], outputs[-1]).astype(np.float32).mean(axis=2)
    sums = cv2.integral(change)
    window = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    )
    top, left = np.unravel_index(int(np.argmax(window)), window.shape)
    return int(top), int(left), height, width


def _as_bytes(frame: Frame) -> Image:
    image = rgb_of_planes(frame.planes)
    return image if image.dtype == np.uint8 else np.rint(image / 257.0).astype(np.uint8)


def _panel(image: Image, height: int) -> Image:
    scale = height / image.shape[0]
    size = (max(1, round(image.shape[1] * scale)), height)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _grid(panels: list[Image], columns: int) -> Image:
    height, width = panels[0].shape[:2]
    rows = len(panels) // columns
    sheet = np.full(
        (rows * height + GAP * (rows - 1), columns * width + GAP * (columns - 1), 3), BACKGROUND, np.uint8
    )
    for number, panel in enumerate(panels):
        y, x = (number // columns) * (height + GAP), (number % columns) * (width + GAP)
        sheet[y : y + height, x : x + width] = panel
    return sheet


def _labelled(panel: Image, text: str) -> Image:
    band = np.full((LABEL_HEIGHT, panel.shape[1], 3), BACKGROUND, np.uint8)
    cv2.putText(band, text, (GAP, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
    return np.concatenate([band, panel])


def _beside(left: Image, right: Image) -> Image:
    gap = np.full((left.shape[0], GAP, 3), BACKGROUND, np.uint8)
    return np.concatenate([left, gap, right], axis=1)
