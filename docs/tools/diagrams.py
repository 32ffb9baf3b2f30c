"""Draws the diagrams of docs/how-it-works.md as SVG files in docs/images.

    python docs/tools/diagrams.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

IMAGES = Path(__file__).parent.parent / "images"
INK, PAPER, FAINT = "#1b1f24", "#ffffff", "#8a939e"
BLUES = ("#9ec5f4", "#6ea8ec", "#4b8bdb", "#2f6fc4")  # one per pair of frames
LAW = "#f3c26b"  # what the exposure law gives without a pair
FONT = "font-family='Helvetica, Arial, sans-serif'"


def text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", colour: str = INK) -> str:
    return f"<text x='{x:g}' y='{y:g}' font-size='{size}' text-anchor='{anchor}' fill='{colour}' {FONT}>{words}</text>"


def box(x: float, y: float, width: float, height: float, fill: str, line: str = INK) -> str:
    return (
        f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='3' fill='{fill}' "
        f"stroke='{line}' stroke-width='1'/>"
    )


def line(x0: float, y0: float, x1: float, y1: float, arrow: bool = False, dashed: bool = False) -> str:
    marks = " marker-end='url(#tip)'" if arrow else ""
    marks += " stroke-dasharray='4 3'" if dashed else ""
    return f"<line x1='{x0:g}' y1='{y0:g}' x2='{x1:g}' y2='{y1:g}' stroke='{INK}' stroke-width='1'{marks}/>"


def circle(x: float, y: float, radius: float, fill: str) -> str:
    return f"<circle cx='{x:g}' cy='{y:g}' r='{radius:g}' fill='{fill}' stroke='{INK}'/>"


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """An SVG file on white paper, readable on dark pages too."""
    tip = (
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0 0 L8 4 L0 8 z' fill='{INK}'/></marker></defs>"
    )
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'>"
    paper = f"<rect width='{width}' height='{height}' fill='{PAPER}'/>"
    return "\n".join([head, f"<title>{title}</title>", tip, paper, *parts, "</svg>", ""])


def recursion(frames: int = 4, levels: int = 2) -> str:
    """Input frames above, the frames of every level below, a call of f at every boundary."""
    left, width, height, step = 150, 640, 38, 128
    parts = []
    for level in range(levels + 1):
        count = frames * 2**level
        side = width / count
        top = 16 + level * step
        share = "T" if level == 0 else f"T/{2**level}"
        parts.append(text(16, top + 16, "input" if level == 0 else f"level {level}", 14, "start"))
        parts.append(text(16, top + 34, f"{count} frames, {share}", 12, "start", FAINT))
        for n in range(count):
            x = left + n * side
            if level == 0:
                fill = BLUES[0]
            elif n in (0, count - 1):
                fill = LAW
            else:
                fill = BLUES[(n + 1) // 2 % 2 + 1]
            parts.append(box(x, top, side, height, fill))
            if level == 0:
                parts.append(text(x + side / 2, top + 24, f"z[{n}]", 14))
            elif level == 1:
                parts.append(text(x + side / 2, top + 24, f"{'ab'[n % 2]}[{n // 2}]", 13))
        if level == levels:
            continue
        middle, bottom = top + height + (step - height) / 2, top + step
        for n in range(1, count):
            x = left + n * side
            for direction in (-1, 1):
                parts.append(line(x + direction * side / 2, top + height, x + direction * 7, middle - 9))
                parts.append(line(x + direction * 6, middle + 9, x + direction * side / 4, bottom - 2, arrow=True))
            parts.append(circle(x, middle, 12 if level == 0 else 10, PAPER))
            parts.append(text(x, middle + 5, "f", 14))
    below = 16 + levels * step + height + 26
    for x, fill, words in (
        (left, BLUES[1], "the two outputs of one call have one colour"),
        (left + 330, LAW, "from the exposure law: no pair reaches here"),
    ):
        parts += [box(x, below - 11, 14, 14, fill), text(x + 22, below + 1, words, 12, "start")]
    return picture(left + width + 16, below + 16, "The recursion: f at every boundary, level after level", parts)


def exposure_law() -> str:
    """The projection of an estimate onto the line of all pairs that average to z."""
    parts = [
        line(60, 300, 400, 300, arrow=True), text(396, 322, "a, first half", 13, "end"),
        line(60, 300, 60, 20, arrow=True), text(70, 26, "b, second half", 13, "start"),
        line(90, 50, 330, 290), text(250, 190, "a + b = 2 z", 13, "start"),
    ]  # fmt: skip
    truth, estimate = (150, 110), (240, 120)
    # The nearest point of the line y = x - 40 (in the picture's coordinates, y downwards).
    x, y = estimate
    foot = ((x + y + 40) / 2, (x + y - 40) / 2)
    parts += [
        line(*estimate, *foot, arrow=True), line(*truth, *estimate, dashed=True),
        circle(*truth, 5, BLUES[3]), text(truth[0] - 10, truth[1] + 18, "truth", 13, "end"),
        circle(*estimate, 5, PAPER), text(estimate[0] + 10, estimate[1] - 6, "what the network says", 13, "start"),
        circle(*foot, 5, LAW), text(foot[0] - 10, foot[1] + 18, "what comes out", 13, "end"),
    ]  # fmt: skip
    return picture(420, 336, "The exposure law as a projection", parts)


def chain(levels: int = 3) -> str:
    """The levels as operators on a stream, with what each remembers and how many frames pass."""
    parts = []
    names = ["ingest", *(f"level {k}" for k in range(1, levels + 1)), "emit"]
    width, height, gap, top = 104, 56, 52, 44
    for n, name in enumerate(names):
        x = 52 + n * (width + gap)
        is_level = name.startswith("level")
        parts.append(box(x, top, width, height, BLUES[1] if is_level else BLUES[0]))
        parts.append(text(x + width / 2, top + (24 if is_level else 33), name, 14))
        if is_level:
            batch = 2 ** (n - 1)
            parts.append(text(x + width / 2, top + 43, f"{batch} pair{'s' if batch > 1 else ''}, 1 call", 12))
            parts.append(box(x + 12, top + height + 22, width - 24, 24, LAW))
            parts.append(text(x + width / 2, top + height + 39, "u, a of u", 12))
            parts.append(line(x + 32, top + height + 22, x + 32, top + height + 2, arrow=True))
            parts.append(line(x + width - 32, top + height, x + width - 32, top + height + 20, arrow=True))
        frames = 1 if n < 2 else 2 ** (n - 1)
        parts.append(line(x - gap + 2, top + height / 2, x - 2, top + height / 2, arrow=True))
        parts.append(text(x - gap / 2, top + height / 2 - 9, str(frames), 14))
    x = 52 + len(names) * (width + gap)
    parts.append(line(x - gap + 2, top + height / 2, x - 2, top + height / 2, arrow=True))
    parts.append(text(x - gap / 2, top + height / 2 - 9, str(2**levels), 14))
    parts.append(text(16, 22, "frames per input frame", 12, "start", FAINT))
    parts.append(text(16, top + height + 39, "remembered", 12, "start", FAINT))
    return picture(x + 16, top + height + 62, "The levels as a chain of operators on a stream", parts)


DRAWINGS: dict[str, Callable[[], str]] = {
    "recursion.svg": recursion,
    "exposure-law.svg": exposure_law,
    "levels.svg": chain,
}


def main() -> None:
    for name, draw in DRAWINGS.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
        print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
