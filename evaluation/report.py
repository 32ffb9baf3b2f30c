"""Reports: a table to read, JSON and CSV to compute with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vtsr.errors import OutputError
from vtsr.evaluation.scores import Result, Score, level_name

# Name, unit, the number behind it and how it is written.
COLUMNS: tuple[tuple[str, str, Callable[[Score], float], str], ...] = (
    ("PSNR", "dB", lambda s: s.psnr, "{:.2f}"),
    ("SSIM", "", lambda s: s.ssim, "{:.4f}"),
    ("tOF", "px", lambda s: s.tof, "{:.3f}"),
    ("flicker", "dB", lambda s: s.flicker_psnr, "{:.2f}"),
)


def table(result: Result, published: Mapping[str, Mapping[int, float]] | None = None) -> str:
    """The scores as text: means over the clips for every metric, then PSNR clip by clip.

    ``published`` adds rows of PSNR from elsewhere: {name: {outputs per input: dB}}.
    """
    averaging = "linear light" if result.linear else "coded values"
    heading = f"Window {result.window}, averages of {averaging}, {_count(len(result.clips), 'clip')}"
    heading += ", PSNR and SSIM of moving pixels only" if result.region else ""
    return "\n\n".join([heading, _means(result, published or {}), *_by_clip(result), *_below_nothing(result)])


def write_json(result: Result, path: Path, extra: Mapping[str, object] | None = None) -> None:
    """Everything, curves included; raises `OutputError` if the file cannot be written."""
    data = {**(extra or {}), **result.to_json()}
    _write(path, json.dumps(data, indent=1) + "\n")


def write_csv(result: Result, path: Path) -> None:
    """One row per clip, method and level; raises `OutputError` if the file cannot be written."""
    fields = ["clip", "group", "method", "window", "level", "factor", "psnr", "ssim", "tof",
              "flicker_psnr", "flicker_ssim"]  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(fields)
            for score in result.scores:
                row = {**vars(score), "level": level_name(score.factor)}
                values = (row[name] for name in fields)
                writer.writerow(
                    "" if value != value else round(value, 5) if isinstance(value, float) else value
                    for value in values
                )
    except OSError as error:
        raise OutputError(f"The file '{path}' cannot be written: {error.strerror}.") from error


def _means(result: Result, published: Mapping[str, Mapping[int, float]]) -> str:
    """Rows are methods; for every metric, one column per level."""
    measured = [column for column in COLUMNS if any(_known(column[2](score)) for score in result.scores)]
    factors = result.factors
    rows = [["method", *(level_name(factor) for _ in measured for factor in factors)]]
    for method in result.methods:
        means = [result.mean(method, factor) for factor in factors]
        windows = {score.window for score in means if score is not None}
        label = method if windows == {result.window} else f"{method} (window {windows.pop()})"
        cells = [
            _number(number(score), style) if score is not None else ""
            for _, _, number, style in measured for score in means
        ]  # fmt: skip
        rows.append([label, *cells])
    for name, scores in published.items():
        cells = [
            _number(scores[factor], style) if column == "PSNR" and factor in scores else ""
            for column, _, _, style in measured for factor in factors
        ]  # fmt: skip
        rows.append([name, *cells])
    headings = [f"{name} {unit}".strip() for name, unit, *_ in measured]
    return align(rows, headings)


def _by_clip(result: Result) -> list[str]:
    """PSNR of every method, clip by clip, one block per level."""
    if len(result.clips) < 2 or not any(_known(score.psnr) for score in result.scores):
        return []
    blocks = []
    for factor in result.factors:
        methods = [method for method in result.methods if result.of(method, factor)]
        rows = [[f"PSNR dB, {level_name(factor)}", *methods]]
        for clip in result.clips:
            scores = [result.of(method, factor, clip=clip) for method in methods]
            rows.append([clip, *(_number(found[0].psnr, "{:.2f}") if found else "" for found in scores)])
        for group in result.groups:
            means = [result.mean(method, factor, group) for method in methods]
            rows.append([f"mean of {group}", *(_number(m.psnr, "{:.2f}") if m else "" for m in means)])
        means = [result.mean(method, factor) for method in methods]
        rows.append(["mean", *(_number(m.psnr, "{:.2f}") if m else "" for m in means)])
        blocks.append(align(rows))
    return blocks


def _below_nothing(result: Result) -> list[str]:
    """Names every method, clip and level at which doing nothing has the higher PSNR."""
    lines = []
    for method in result.methods:
        worse = []
        for score in result.scores:
            floor = result.of("nothing", score.factor, clip=score.clip)
            if score.method == method != "nothing" and floor and score.psnr < floor[0].psnr:
                worse.append(f"{score.clip} {level_name(score.factor)} ({score.psnr - floor[0].psnr:+.2f} dB)")
        if worse:
            lines.append(f"{method} is below doing nothing on: {', '.join(worse)}")
    return ["\n".join(lines)] if lines else []


def align(rows: Sequence[Sequence[str]], headings: Sequence[str] = ()) -> str:
    """Columns under one another, the first to the left and the others to the right.

    With ``headings``, the columns but the first fall into equal groups, each under its heading.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    size = (len(widths) - 1) // len(headings) if headings else 0
    if size:
        for group, heading in enumerate(headings):  # a group is at least as wide as its heading
            first = 1 + group * size
            width = sum(widths[first : first + size]) + 2 * (size - 1)
            widths[first] += max(len(heading) - width, 0)
    lines = []
    if size:
        line = " " * widths[0]
        for group, heading in enumerate(headings):
            first = 1 + group * size
            line += "    " + heading.ljust(sum(widths[first : first + size]) + 2 * (size - 1))
        lines.append(line.rstrip())
    for row in rows:
        line = row[0].ljust(widths[0])
        for column in range(1, len(row)):
            line += "    " if size and (column - 1) % size == 0 else "  "
            line += row[column].rjust(widths[column])
        lines.append(line.rstrip())
    return "\n".join(lines)


def _known(value: float) -> bool:
    return value == value  # not NaN


def _number(value: float, style: str) -> str:
    return style.format(value) if _known(value) else "-"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The file '{path}' cannot be written: {error.strerror}.") from error
