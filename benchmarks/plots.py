"""Plots of results; every file carries the fingerprint of the figures it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vtsr.benchmarks.front import front
from vtsr.benchmarks.growth import Growth, growths
from vtsr.benchmarks.results import Results, Row, rounded
from vtsr.errors import OutputError
from vtsr.evaluation.plots import require_matplotlib

FINGERPRINT = "vtsr figures"  # name of the PNG text chunk
# Okabe and Ito's colours, told apart by colour-blind readers.
ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#7f7f7f"
CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY)
SHAPES = "osD^vPX"
OUR_SHAPES = "*ph"  # one per model
OUR_SHADES = {"fp32": BLUE, "int8": RED, "fp16": GREEN}

Draw = Callable[[Any, Results], Any]  # pyplot, results -> figure, or None without rows


def plot(results: Results, folder: Path, prefix: str = "") -> list[Path]:
    """Writes the plots there are rows for; returns the files. Raises `OutputError` if that fails."""
    pyplot = require_matplotlib()
    drawers: dict[str, Draw] = {"sizes": sizes, "growth": growth, "quality": quality, "roofline": roofline}
    files = []
    for name, draw in drawers.items():
        figure = draw(pyplot, results)
        if figure is None:
            continue
        file = folder / f"{prefix}{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, dpi=110, metadata={FINGERPRINT: fingerprint(results), "Software": None})
        except OSError as error:
            raise OutputError(f"The plot {file} could not be written ({error.strerror}).") from error
        finally:
            pyplot.close(figure)
        files.append(file)
    return files


def fingerprint(results: Results) -> str:
    """A hash of all rows: a plot with the same one shows the same figures."""
    return hashlib.sha256(json.dumps(rounded(results.rows), sort_keys=True).encode()).hexdigest()[:16]


def sizes(pyplot: Any, results: Results) -> Any:
    """Milliseconds per pair by size, one line per engine."""
    rows = results.of("sizes")
    if not rows:
        return None
    figure, axis = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for n, engine in enumerate(dict.fromkeys(r["engine"] for r in rows)):
        here = [r for r in rows if r["engine"] == engine]
        axis.loglog([r["pixels"] for r in here], [1e3 * r["seconds"] for r in here], marker=SHAPES[n], color=CYCLE[n],
                    label=engine)  # fmt: skip
    ticks = {r["pixels"]: r["size"] for r in rows}
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.minorticks_off()
    axis.set_xlabel("frame size")
    axis.set_ylabel("milliseconds per pair of frames")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def growth(pyplot: Any, results: Results) -> Any:
    """One panel per cost and thing it grows with."""
    found = growths(results.rows)
    if not found:
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels: dict[tuple[str, str], list[Growth]] = {}
    for g in found:
        panels.setdefault((g.cost, g.against), []).append(g)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 3.6 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, ((cost, against), drawn) in zip(axes.flat, panels.items(), strict=False):
        for n, g in enumerate(drawn):
            x, y = zip(*g.points, strict=True)
            colour = CYCLE[n % len(CYCLE)]
            axis.loglog(x, y, linestyle="", marker=SHAPES[n % len(SHAPES)], color=colour,
                        label=f"{g.label}: {g.exponent:.2f}")  # fmt: skip
            axis.loglog(x, [g.factor * v**g.exponent for v in x], color=colour, linewidth=1)
        axis.set_title(f"{cost} against {against}", fontsize=10)
        axis.set_xlabel(against)
        axis.set_ylabel({"s": "seconds", "MiB": "MiB"}[drawn[0].unit])
        axis.grid(alpha=0.3, which="both")
        if against != "pixels":
            ticks = sorted({x for g in drawn for x, _ in g.points})
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        low, high = axis.get_ylim()
        if high < 4 * low:  # a constant should look like one
            low, high = (low * high) ** 0.5 / 3, (low * high) ** 0.5 * 3
        axis.set_ylim(low, high * (high / low) ** (0.07 * (len(drawn) + 1)))  # room for the legend
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axis.legend(title="exponent", fontsize=7, title_fontsize=7, loc="upper left")
    return figure


def quality(pyplot: Any, results: Results) -> Any:
    """PSNR against output frames per second, one panel per level, with the Pareto front."""
    rows = results.of("competitors")
    if not rows:
        return None
    levels = sorted({r["levels"] for r in rows})
    names = list(dict.fromkeys(r["method"] for r in rows))
    models = list(dict.fromkeys(_model(r) for r in rows if r["ours"]))
    figure, axes = pyplot.subplots(
        1, len(levels), figsize=(1.2 + 4.0 * len(levels), 4.6), layout="constrained", squeeze=False
    )
    for axis, level in zip(axes.flat, levels, strict=True):
        here = {r["method"]: r for r in rows if r["levels"] == level}
        best = front({name: (r["fps_out"], r["psnr"]) for name, r in here.items()})
        steps = sorted((here[name]["fps_out"], here[name]["psnr"]) for name in best)
        axis.plot([x for x, _ in steps], [y for _, y in steps], drawstyle="steps-pre", color=GREY, linewidth=1,
                  linestyle="--", zorder=1, label="Pareto front")  # fmt: skip
        for n, name in enumerate(names):
            row = here[name]
            style = _style(row, n, name in best, models)
            axis.scatter([row["fps_out"]], [row["psnr"]], zorder=2, label=name, **style)
        axis.set_xscale("log")
        axis.set_title(f"{2**level} times the frame rate")
        axis.set_xlabel("output frames per second")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("PSNR, dB")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), fontsize=9, frameon=False)
    figure.suptitle(f"Quality against speed, {rows[0]['size']}, {rows[0]['threads']} threads (filled: on the front)",
                    fontsize=11)  # fmt: skip
    return figure


def _model(row: Row) -> str:
    return str(row["method"]).removesuffix(f" {row['precision']}")


def _style(row: Row, index: int, on_front: bool, models: Sequence[str]) -> dict[str, Any]:
    if row["ours"]:
        colour = OUR_SHADES.get(row["precision"], BLUE)
        shape = OUR_SHAPES[models.index(_model(row)) % len(OUR_SHAPES)]
    else:
        colour, shape = CYCLE[2 + index % 5], SHAPES[index % len(SHAPES)]
    return {
        "marker": shape,
        "s": 190 if row["ours"] else 60,
        "facecolor": colour if on_front else "none",
        "edgecolor": colour,
    }


def roofline(pyplot: Any, results: Results) -> Any:
    """Operations per second against operations per byte, with the measured roofs."""
    rows = results.of("roofline")
    if not rows:
        return None
    figure, axis = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    intensities = [2 * r["macs_per_pixel"] / r["bytes_per_pixel"] for r in rows]
    left, right = min(*intensities, 4.0) / 2, 4 * max(intensities)
    bandwidth = rows[0]["bandwidth_gbs"]
    for precision in dict.fromkeys(r["precision"] for r in rows):
        colour = OUR_SHADES.get(precision, GREY)
        here = [r for r in rows if r["precision"] == precision]
        peak = here[0]["peak_gops"]
        roof = [left * bandwidth, peak, peak]
        axis.loglog([left, peak / bandwidth, right], roof, color=colour, label=f"roof, {precision}")
        for n, r in enumerate(here):
            intensity = 2 * r["macs_per_pixel"] / r["bytes_per_pixel"]
            axis.scatter([intensity], [r["gops"]], marker=SHAPES[n], color=colour, zorder=3,
                         label=f"{precision}, {r['size']}: {r['fraction']:.0%}")  # fmt: skip
    axis.set_xlabel("operations per byte")
    axis.set_ylabel("giga-operations per second")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
    return figure
