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
CROP_SHARE = 0.5  # of width and height, the moving area that is shown; two rows of it are as high as a frame
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

    @property
    def is_empty(self) -> bool:
        """Whether none of the frames has been seen."""
        return self._input is None

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
    """The whole input frame on the left; on the right its parts, cropped to the area that moves most.

    Up to eight parts are shown at the scale of the input frame, where a frame marks the area.
    """
    top, left, height, width = moving_area(outputs)
    columns = {2: 1, 4: 2, 8: 4, 16: 4}[len(outputs)]
    rows = len(outputs) // columns
    cell = (PANEL_HEIGHT - GAP * (rows - 1)) // rows
    crops = [_panel(image[top : top + height, left : left + width], cell) for image in outputs]
    sheet = _grid(crops, columns)
    scale = sheet.shape[0] / source.shape[0]
    whole = _panel(source, sheet.shape[0])
    corners = np.rint(np.array([left, top, left + width, top + height]) * scale).astype(int)
    x0, y0, x1, y1 = (int(value) for value in corners)
    cv2.rectangle(whole, (x0 + 1, y0 + 1), (x1 - 2, y1 - 2), INK, 2, cv2.LINE_AA)
    return _beside(
        _labelled(whole, "input: one frame, one exposure"),
        _labelled(sheet, f"output: the {len(outputs)} frames made of it, in order"),
    )


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
