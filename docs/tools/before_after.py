"""Writes docs/images/before-after.jpg: a part of one frame of the demo clip, and of the first frame made from it.

    python docs/tools/before_after.py [--levels N] [--model NAME|DIR]

To be run again whenever the shipped model changes.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr import Upconverter
from vtsr.runtime import demo

OUT = Path(__file__).parent.parent / "images" / "before-after.jpg"
FRAME = 24  # of the demo clip: the middle
LEFT, TOP, WIDTH, HEIGHT = 214, 112, 208, 130  # pixels, the part that is shown
ENLARGED = 4
GAP, BAND = 12, 52  # pixels, between the halves and above them
PAPER, INK = 255, (40, 40, 40)

Image = NDArray[np.uint8]


def part(picture: Image, title: str) -> Image:
    """The shown part of a picture, enlarged, under its title."""
    crop = picture[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    large = cv2.resize(crop, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    band = np.full((BAND, large.shape[1], 3), PAPER, np.uint8)
    cv2.putText(band, title, (2, 35), cv2.FONT_HERSHEY_SIMPLEX, 1.0, INK, 2, cv2.LINE_AA)
    return np.concatenate([band, large]).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=int, default=2)
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    clip = list(islice(demo.render_demo(), FRAME + 3))
    with Upconverter(options.levels, model=options.model, precision="fp32") as up:
        made = [frame for frame in up.run(clip) if frame.source_index == FRAME]
    before = part(clip[FRAME].image, "one frame of the demo clip")
    after = part(made[0].image, f"the first of the {len(made)} frames made of it")
    gap = np.full((before.shape[0], GAP, 3), PAPER, np.uint8)
    sheet = np.concatenate([before, gap, after], axis=1)
    cv2.imwrite(str(OUT), np.ascontiguousarray(sheet[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"docs/images/{OUT.name}: {sheet.shape[1]} x {sheet.shape[0]}, {OUT.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
