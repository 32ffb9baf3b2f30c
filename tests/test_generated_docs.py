"""Files in docs/ that scripts write are what the scripts write today."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import vtsr

DOCS = Path(__file__).parent.parent / "docs"
DRAWINGS = runpy.run_path(str(DOCS / "tools" / "diagrams.py"))["DRAWINGS"]


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_diagrams_are_current(name: str) -> None:
    drawn = DRAWINGS[name]()
    ElementTree.fromstring(drawn)
    committed = (DOCS / "images" / name).read_text(encoding="utf-8")
    assert committed == drawn, "run python docs/tools/diagrams.py"


@pytest.mark.parametrize(("frames", "levels"), [(4, 2), (3, 3)])
def test_the_diagram_of_the_recursion_counts_right(frames: int, levels: int) -> None:
    """A call of f per boundary, as many frames as the counting law says."""
    recursion = runpy.run_path(str(DOCS / "tools" / "diagrams.py"))["recursion"]
    root = ElementTree.fromstring(recursion(frames, levels))
    shapes = [child.tag.split("}")[1] for child in root]
    assert shapes.count("circle") == sum(2**k * frames - 1 for k in range(levels))
    boxes_around = 1 + 2  # the paper and the legend
    assert shapes.count("rect") == sum(2**k * frames for k in range(levels + 1)) + boxes_around


def test_the_reference_is_current() -> None:
    written = runpy.run_path(str(DOCS / "tools" / "api.py"))["reference"]()
    assert (DOCS / "api.md").read_text(encoding="utf-8") == written, "run python docs/tools/api.py"


def test_the_reference_has_every_public_name() -> None:
    reference = (DOCS / "api.md").read_text(encoding="utf-8")
    missing = [name for name in vtsr.__all__ if name != "__version__" and f"\n#### {name}\n" not in reference]
    assert not missing
