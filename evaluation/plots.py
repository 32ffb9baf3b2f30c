"""Plots: quality frame by frame, bars per level, and side-by-side crops with difference maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import MissingExtraError, OutputError
from vtsr.evaluation.judge import View
from vtsr.evaluation.scores import Result, level_name

CROP = 96  # pixels: side of the crops shown
DIFFERENCE_RANGE = 64  # 8-bit codes: differences from -64 to 64 fill the colours of a difference map
SHOWN_FRAMES = 200  # output frames in a frame-wise plot at most; more would be a solid block
# Okabe and Ito's colours, told apart by colour-blind readers, one per method in order.
COLOURS = ("#7f7f7f", "#56b4e9", "#e69f00", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#000000", "#f0e442")
MARKERS = "oosD^vP*X"


def require_matplotlib() -> Any:
    """matplotlib.pyplot on a backend that needs no display; raises `MissingExtraError` without it."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError(
            "Plots need matplotlib; install it with: pip install 'vtsr[evaluate]'."
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    return pyplot


def plot_result(result: Result, folder: Path) -> list[Path]:
    """Writes levels.png and, for each clip, CLIP-frames.png; returns the files."""
    pyplot = require_matplotlib()
    _make(folder)
    files = [_level_bars(pyplot, result, folder / "levels.png")]
    files += [_frame_curves(pyplot, result, clip, folder / f"{clip}-frames.png") for clip in result.clips]
    return files


class CropPlotter:
    """An observer that writes CLIP-crops.png for every clip: where there is most to do, side by side.

    It keeps the input frame whose truth differs most from it, not the first or the last one if there are
    others, since these lack a neighbour.
    """

    def __init__(self, folder: Path) -> None:
        self._pyplot = require_matplotlib()
        _make(folder)
        self._folder = folder
        self._chosen: View | None = None
        self._score = -1.0
        self._latest: View | None = None

    def see(self, view: View) -> None:
        latest = self._latest
        if latest is not None and view.clip.name != latest.clip.name:
            self.close()
        elif latest is not None and latest.window.index > 0:
            score = float(_badness(latest).mean())
            if score > self._score:
                self._chosen, self._score = latest, score
        self._latest = view

    def close(self) -> None:
        """Draws the current clip."""
        view = self._chosen or self._latest
        if view is not None:
            crops(view, self._folder / f"{view.clip.name}-crops.png", self._pyplot)
        self._chosen, self._latest, self._score = None, None, -1.0


def crops(view: View, file: Path, pyplot: Any) -> None:
    """Crops of the first output of an input frame by every method, and their differences from the truth.

    Columns are the input, the methods and the truth; rows are the shallowest and the deepest level, each
    followed by the difference from the truth (red is too bright, blue too dark).
    """
    rows, columns = _worst_crop(view)
    factors = sorted({max(view.truths), min(view.truths)})
    # Doing nothing is the input; one column shows both.
    names = [name for name in view.outputs if name != "nothing"]
    titles = ["input = nothing" if "nothing" in view.outputs else "input", *names, "truth"]
    across, down = len(titles), 2 * len(factors)
    width, height = 1.9 * across + 0.4, 1.9 * down + 0.6
    figure, axes = pyplot.subplots(
        down, across, figsize=(width, height), squeeze=False,
        gridspec_kw={
            "wspace": 0.04, "hspace": 0.04,
            "left": 0.4 / width, "right": 1.0, "top": 1 - 0.6 / height, "bottom": 0.0,
        },
    )  # fmt: skip
    image = None
    for level, factor in enumerate(factors):
        # The first output is farthest from the middle of the exposure, where the input is right.
        truth = view.truths[factor][0][rows, columns]
        shown = {titles[0]: view.blurred[rows, columns]}
        for name in names:
            made = view.outputs[name].get(factor)
            if made is not None:
                shown[name] = made[0][rows, columns]
        shown["truth"] = truth
        for column, name in enumerate(titles):
            above, below = axes[2 * level][column], axes[2 * level + 1][column]
            for axis in (above, below):
                axis.set_xticks([])
                axis.set_yticks([])
            if level == 0:
                above.set_title(name, fontsize=10)
            if name not in shown:
                above.axis("off")
                below.axis("off")
                continue
            above.imshow(shown[name], interpolation="nearest")
            if name == "truth":
                below.axis("off")
                continue
            difference = shown[name].astype(np.float32) - truth
            image = below.imshow(
                difference.mean(axis=-1), cmap="RdBu_r", vmin=-DIFFERENCE_RANGE, vmax=DIFFERENCE_RANGE,
                interpolation="nearest",
            )  # fmt: skip
            rms = float(np.sqrt(np.square(difference).mean()))
            below.text(
                0.03, 0.03, f"rms {rms:.1f}", transform=below.transAxes, fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
        axes[2 * level][0].set_ylabel(f"{level_name(factor)}, first of {factor}", fontsize=10)
        axes[2 * level + 1][0].set_ylabel("minus truth", fontsize=10)
    figure.suptitle(f"{view.clip.name}, input frame {view.window.index}", fontsize=11, y=1 - 0.15 / height)
    if image is not None:
        # In the empty place under the last truth.
        place = axes[-1][-1].inset_axes((0.1, 0.45, 0.8, 0.1))
        bar = figure.colorbar(image, cax=place, orientation="horizontal")
        bar.ax.tick_params(labelsize=7)
        bar.set_label("8-bit codes", fontsize=8)
    _save(pyplot, figure, file)


def _level_bars(pyplot: Any, result: Result, file: Path) -> Path:
    """Mean PSNR, SSIM, tOF and flicker of every method at every level."""
    panels = [
        ("PSNR (dB)", "psnr"), ("SSIM", "ssim"), ("tOF (px per frame)", "tof"), ("PSNR flicker (dB)", "flicker_psnr"),
    ]  # fmt: skip
    panels = [panel for panel in panels if any(getattr(s, panel[1]) == getattr(s, panel[1]) for s in result.scores)]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False)
    factors, methods = result.factors, result.methods
    width = 0.8 / len(methods)
    for axis, (title, name) in zip(axes[0], panels, strict=True):
        values = []
        for m, method in enumerate(methods):
            for x, factor in enumerate(factors):
                score = result.mean(method, factor)
                if score is None:
                    continue
                value = getattr(score, name)
                values.append(value)
                axis.bar(
                    x + (m - (len(methods) - 1) / 2) * width, value, width * 0.92, color=_colour(m),
                    label=method if x == 0 or result.mean(method, factors[0]) is None else None,
                )  # fmt: skip
        axis.set_title(title, fontsize=11)
        axis.set_xticks(range(len(factors)), [level_name(factor) for factor in factors])
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        finite = [value for value in values if value == value]
        if name in ("psnr", "ssim") and finite:
            # Differences of a dB matter and would vanish on an axis from zero; it is cut, and says so.
            low, high = min(finite), max(finite)
            axis.set_ylim(low - 0.35 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
            axis.text(0, 0.0, "axis cut", transform=axis.transAxes, fontsize=7, color="gray", va="top", ha="right")
    handles, labels = _unique_legend(axes[0][0])
    figure.legend(handles, labels, loc="lower center", ncol=min(len(labels), 6), frameon=False, fontsize=10)
    figure.suptitle(f"Mean over {len(result.clips)} clips, window {result.window}", fontsize=12)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    _save(pyplot, figure, file)
    return file


def _frame_curves(pyplot: Any, result: Result, clip: str, file: Path) -> Path:
    """PSNR and SSIM of every output frame, one column per level, as in the thesis' figure 4.4."""
    factors = result.factors
    rows = [row for row in (("PSNR (dB)", "psnr_curve"), ("SSIM", "ssim_curve"))
            if any(len(getattr(score, row[1])) for score in result.scores)]  # fmt: skip
    figure, axes = pyplot.subplots(
        max(len(rows), 1), len(factors), figsize=(5.2 * len(factors), 2.7 * max(len(rows), 1) + 0.9),
        squeeze=False, sharey="row",
    )  # fmt: skip
    for r, (title, name) in enumerate(rows):
        for c, factor in enumerate(factors):
            axis = axes[r][c]
            for m, method in enumerate(result.methods):
                found = result.of(method, factor, clip=clip)
                if not found:
                    continue
                curve = getattr(found[0], name)[:SHOWN_FRAMES]
                axis.plot(
                    np.arange(len(curve)), curve, color=_colour(m), linewidth=1.2, label=method,
                    marker=MARKERS[m % len(MARKERS)], markersize=2.6 if len(curve) <= 100 else 0,
                )  # fmt: skip
            shown = [score for score in result.scores if (score.clip, score.factor) == (clip, factor)]
            frames = max((len(getattr(score, name)) for score in shown), default=0)
            # A line where an input frame begins, while there are few enough to see them apart.
            if frames <= 100:
                for start in range(0, frames, factor):
                    axis.axvline(start - 0.5, color="black", alpha=0.09, linewidth=0.8)
            axis.grid(axis="y", alpha=0.3)
            axis.margins(x=0.01)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
            if r == 0:
                axis.set_title(f"{level_name(factor)}: {factor} frames per input frame", fontsize=10)
            if r == len(rows) - 1:
                axis.set_xlabel("output frame", fontsize=9)
            if c == 0:
                axis.set_ylabel(title, fontsize=10)
    handles, labels = _unique_legend(axes[0][0])
    if labels:
        figure.legend(handles, labels, loc="lower center", ncol=min(len(labels), 6), frameon=False, fontsize=10)
    figure.suptitle(f"{clip}, window {result.window}", fontsize=12)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    _save(pyplot, figure, file)
    return file


def _badness(view: View) -> NDArray[np.float32]:
    """How far the truth at the ends of the exposure is from the input, (H, W): where work is to be done."""
    truth = view.truths[max(view.truths)]
    ends = truth[[0, -1]].astype(np.float32) - view.blurred
    return np.asarray(np.square(ends).mean(axis=(0, -1)), np.float32)


def _worst_crop(view: View) -> tuple[slice, slice]:
    badness = _badness(view)
    height, width = (min(CROP, side) for side in badness.shape)
    sums = cv2.boxFilter(badness, -1, (width, height), normalize=False, borderType=cv2.BORDER_CONSTANT)
    # Windows that lie inside the picture; boxFilter anchors them at their middle.
    top, left = height // 2, width // 2
    inside = sums[top : top + badness.shape[0] - height + 1, left : left + badness.shape[1] - width + 1]
    y, x = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return slice(int(y), int(y) + height), slice(int(x), int(x) + width)


def _colour(method: int) -> str:
    return COLOURS[method % len(COLOURS)]


def _unique_legend(axis: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    return list(unique.values()), list(unique)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder '{folder}' cannot be made: {error.strerror}.") from error


def _save(pyplot: Any, figure: Any, file: Path) -> None:
    try:
        figure.savefig(file, dpi=110, bbox_inches="tight")
    except OSError as error:
        raise OutputError(f"The plot '{file}' cannot be written: {error.strerror}.") from error
    finally:
        pyplot.close(figure)


