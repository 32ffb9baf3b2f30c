"""Draws the latency budget of docs/embedding.md as docs/images/latency.svg.

    python docs/tools/latency.py
"""

from __future__ import annotations

import runpy
from pathlib import Path

_DRAWING = runpy.run_path(str(Path(__file__).with_name("diagrams.py")))
box, line, picture, text = (_DRAWING[name] for name in ("box", "line", "picture", "text"))
BLUES, FAINT, IMAGES, LAW = (_DRAWING[name] for name in ("BLUES", "FAINT", "IMAGES", "LAW"))

LEFT, SCALE = 120, 5.2  # pixels: of time zero, and per millisecond
FRAME = 1000 / 30  # milliseconds, at 30 frames per second
TRANSPORT, COMPUTE, PARTS = 8.0, 12.0, 4  # milliseconds as an example; parts per frame at two levels


def at(milliseconds: float) -> float:
    return LEFT + SCALE * milliseconds


def bar(begin: float, end: float, top: float, fill: str, words: str) -> list[str]:
    return [
        box(at(begin), top, SCALE * (end - begin), 30, fill),
        text((at(begin) + at(end)) / 2, top + 20, words, 12),
    ]


def span(begin: float, end: float, top: float, words: str) -> list[str]:
    """A measure with its name below."""
    return [
        line(at(begin), top - 5, at(begin), top + 5), line(at(end), top - 5, at(end), top + 5),
        line(at(begin), top, at(end), top), text((at(begin) + at(end)) / 2, top + 17, words, 12),
    ]  # fmt: skip


def budget() -> str:
    """From the beginning of an exposure to its parts on the screen, along time."""
    arrived, following = FRAME + TRANSPORT, 2 * FRAME + TRANSPORT
    done = following + COMPUTE
    rows = {"exposure": 20, "transport": 62, "vtsr": 104, "shown": 146}
    parts = [text(14, top + 20, name, 13, "start") for name, top in rows.items()]
    parts += bar(0, FRAME, rows["exposure"], BLUES[0], "frame n")
    parts += bar(FRAME, 2 * FRAME, rows["exposure"], BLUES[1], "frame n + 1")
    parts += bar(FRAME, arrived, rows["transport"], "#dfe4ea", "n")
    parts += bar(2 * FRAME, following, rows["transport"], "#dfe4ea", "n + 1")
    parts += bar(arrived, following, rows["vtsr"], "#ffffff", "n is pushed, and waits for n + 1")
    parts += bar(following, done, rows["vtsr"], LAW, "compute")
    for part in range(PARTS):
        begin = done + part * FRAME / PARTS
        parts += bar(begin, begin + FRAME / PARTS, rows["shown"], BLUES[part], f"n.{part}")
    parts.append(line(at(arrived), rows["transport"] + 30, at(arrived), 200, dashed=True))
    parts.append(line(at(done), rows["vtsr"] + 30, at(done), 200, dashed=True))
    parts += span(arrived, following, 210, "one frame time")
    parts += span(following, done, 210, "compute")
    parts += span(done, done + FRAME, 210, "up to one frame time")
    note = "latency as counted: from the push of n to its parts being taken"
    parts.append(text(at(arrived), 258, note, 12, "start", FAINT))
    return picture(780, 276, "Latency budget of a live frame at 30 frames per second", parts)


if __name__ == "__main__":
    (IMAGES / "latency.svg").write_text(budget(), encoding="utf-8")
