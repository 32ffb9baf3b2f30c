"""What a run leaves to be looked at: log.csv, curve.png, and TensorBoard's files where it is installed."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from vtsr.training.validation import score_names

FIELDS = ("step", "samples", "loss", "train_psnr", "data_share", "seconds", "learning_rate")
LEVEL_TITLES = ("f", "f2", "f3")
COLORS = ("#0072b2", "#d55e00", "#009e73")  # told apart by the colour-blind too (Okabe & Ito)


class Log:
    """One row per validation.

    Parameters
    ----------
    levels
        Recursion levels that are validated.
    step
        The step a run is resumed at; later rows, written after its state was saved, are dropped. 0 starts
        a new log.
    """

    def __init__(self, folder: Path, levels: int, step: int) -> None:
        self.path = folder / "log.csv"
        self.levels = levels
        self.fields = [*FIELDS, *score_names(levels)]
        kept = [row for row in read_log(self.path) if row["step"] <= step] if step else []
        partial = self.path.with_name(self.path.name + ".partial")
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.fields, restval="nan", extrasaction="ignore")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in kept)
        os.replace(partial, self.path)
        self._board = _tensorboard(folder)

    def add(self, row: dict[str, float]) -> None:
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.fields).writerow({k: f"{v:.6g}" for k, v in row.items()})
        if self._board is not None:
            for name, value in row.items():
                if name not in ("step", "samples", "seconds"):
                    self._board.add_scalar(name, value, int(row["step"]))
            self._board.flush()
        plot_log(self.path)


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv; a last row that a kill cut short is left out, a missing file is empty."""
    if not path.is_file():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                rows.append({k: float(v) for k, v in row.items()})
            except (TypeError, ValueError):  # None where columns are missing
                continue
    return rows


def plot_log(path: Path) -> None:
    """Draws curve.png beside a log.csv, if Matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    rows = read_log(path)
    if not rows:
        return
    samples = [row["samples"] / 1000 for row in rows]
    levels = [k for k in range(len(LEVEL_TITLES)) if f"f{k + 1}" in rows[0]]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    gain, loss = figure.subplots(1, 2, width_ratios=(3, 2))

    places: list[float] = []  # of the labels at the curves' ends
    spread = max(abs(rows[-1][f"f{k + 1}"] - rows[-1][f"nothing_f{k + 1}"]) for k in levels)
    for k in sorted(levels, key=lambda k: rows[-1][f"f{k + 1}"] - rows[-1][f"nothing_f{k + 1}"]):
        score, nothing = rows[-1][f"f{k + 1}"], rows[-1][f"nothing_f{k + 1}"]
        y = [row[f"f{k + 1}"] - row[f"nothing_f{k + 1}"] for row in rows]
        gain.plot(samples, y, "o-", color=COLORS[k], markersize=3)
        place = max([y[-1], *(p + 0.08 * spread for p in places)])  # labels do not overlap
        places.append(place)
        gain.annotate(
            f"{LEVEL_TITLES[k]}  {score - nothing:+.2f} dB\n{score:.2f}, nothing {nothing:.2f}",
            (1.01, place), xycoords=("axes fraction", "data"), color=COLORS[k], va="center", fontsize=8,
        )  # fmt: skip
    gain.axhline(0, color="0.5", linewidth=1)
    gain.set(title="Held-out scenes: PSNR above doing nothing, dB", xlabel="thousand samples")

    loss.plot(samples, [row["loss"] for row in rows], "o-", color="0.2", markersize=3)
    loss.set(title="Training loss (grey: learning rate)", xlabel="thousand samples", yscale="log")
    loss.yaxis.set_minor_formatter("{x:.3g}")
    loss.yaxis.set_major_formatter("{x:.3g}")
    rate = loss.twinx()
    rate.fill_between(samples, [row["learning_rate"] for row in rows], color="0.7", alpha=0.3, linewidth=0)
    rate.set_ylim(0)
    rate.ticklabel_format(axis="y", scilimits=(0, 0))
    for axes in (gain, loss):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    partial = path.with_name("curve.png.partial")
    figure.savefig(partial, dpi=120, format="png")
    os.replace(partial, path.with_name("curve.png"))


def _tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's event files, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
