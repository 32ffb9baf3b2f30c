"""Ready-made experiments: the thesis' tables on the data sets they were made with.

The data sets are not part of the package; each experiment reads one from a folder in the layout it is
distributed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.errors import InputError
from vtsr.evaluation import clips as media
from vtsr.evaluation.clips import Clip

# The thesis' mean PSNR, half-exposure truth, outputs per input -> dB. Only these three figures are at
# hand, without the data set they were measured on, so no other cell of its tables is filled in here.
THESIS = {"thesis f^N, as quoted": {2: 28.8, 4: 26.2, 8: 24.0}}
THESIS_NOTE = (
    "The row of the thesis is its quoted mean for f, f2 and f3; the data set behind it and the other cells of its\n"
    "tables are not at hand and left blank. Both score exposures of T/2, T/4 and T/8, not instantaneous frames."
)


@dataclass(frozen=True)
class Experiment:
    """One table of the thesis.

    window
        Original frames per input frame.
    find
        Lists the clips of the data set in a folder, given the folder and options of `open_clip`; raises
        `InputError` if it is not laid out as expected.
    layout
        That layout, in words.
    published
        PSNR from the publication: {row: {outputs per input: dB}}.
    """

    name: str
    dataset: str
    title: str
    window: int
    find: Callable[..., list[Clip]]
    layout: str
    published: dict[str, dict[int, float]] = field(default_factory=dict)
    note: str = ""


def gopro(folder: Path, **cut: Any) -> list[Clip]:
    """Test sequences of GOPRO_Large_all: test/SEQUENCE/*.png, 240 frames per second; ``cut`` as for `open_clip`."""
    return _sequences(_folder(folder, "test", "GOPRO"), "GOPRO", **cut)


def dvd(folder: Path, **cut: Any) -> list[Clip]:
    """Sequences of the DVD set: its original high-speed videos if they are there, else the sharp frames.

    original_high_fps_videos/*.mp4 or *.mov, or quantitative_datasets/SEQUENCE/GT/*.jpg.
    """
    videos = folder / "original_high_fps_videos"
    if videos.is_dir():
        return _sequences(videos, "DVD", **cut)
    return _sequences(_folder(folder, "quantitative_datasets", "DVD"), "DVD", inner="GT", **cut)


def sony(folder: Path, **cut: Any) -> list[Clip]:
    """Sequences of the Sony set, 250 frames per second: SEQUENCE.mp4 or folders of pictures."""
    if not folder.is_dir():
        raise InputError(f"There is no Sony data set at '{folder}'.")
    return _sequences(folder, "Sony", **cut)


EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "table-4.1", "GOPRO", "Recursion f, f2, f3 on GOPRO", 8, gopro,
            "test/SEQUENCE/*.png, 240 frames per second", THESIS, THESIS_NOTE,
        ),
        Experiment(
            "table-4.2", "DVD", "Recursion f, f2, f3 on DVD", 8, dvd,
            "original_high_fps_videos/*.mp4 or quantitative_datasets/SEQUENCE/GT/*.jpg", THESIS, THESIS_NOTE,
        ),
        Experiment(
            "table-4.4", "Sony", "Recursion f to f4 against doing nothing on Sony", 16, sony,
            "SEQUENCE.mp4 or SEQUENCE/*.png, 250 frames per second", THESIS, THESIS_NOTE,
        ),
    )
}  # fmt: skip


def _folder(root: Path, name: str, dataset: str) -> Path:
    if not root.is_dir():
        raise InputError(f"There is no {dataset} data set at '{root}'.")
    if not (root / name).is_dir():
        raise InputError(f"'{root}' is not laid out like the {dataset} data set: it has no folder '{name}'.")
    return root / name


def _sequences(folder: Path, dataset: str, inner: str = "", **cut: Any) -> list[Clip]:
    """A clip for every video and every folder of pictures (or its folder ``inner``)."""
    found = []
    for path in sorted(folder.iterdir()):
        place = path / inner if path.is_dir() else path
        if (place.is_dir() and media.pictures(place)) or (path.is_file() and path.suffix.lower() in media.VIDEOS):
            name = path.stem if path.is_file() else path.name
            found.append(media.open_clip(place, name=name, group=dataset, **cut))
    if not found:
        raise InputError(f"'{folder}' holds no sequences of the {dataset} data set.")
    return found
