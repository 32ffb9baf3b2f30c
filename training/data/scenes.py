"""The scene cache: sub-frames rendered or decoded once, read through a memory map for ever after.

    vtsr-train prepares it when it is missing; by hand:
    python -m vtsr.training.data.scenes OUT --photographs DIR --clips DIR --count 6000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError
from vtsr.options import Parser, run_cli
from vtsr.training.data.clips import ClipScenes, find_clips
from vtsr.training.data.photographs import SceneRenderer, list_images, read_cut_outs, read_rgb

SUBFRAMES = 24  # three exposures of eight sub-frames
SIZE = 128  # pixels; training crops are smaller, so that every crop is a new one
SCENES_NAME = "scenes.npy"


def open_scenes(folder: Path) -> NDArray[np.uint8]:
    """The cached scenes as a read-only memory map, uint8 (scenes, SUBFRAMES, SIZE, SIZE, 3)."""
    path = folder / SCENES_NAME
    if not path.is_file():
        raise InputError(f"There is no scene cache in {folder}; make one with python -m vtsr.training.data.scenes.")
    return np.load(path, mmap_mode="r")


def _render_range(job: tuple[str, int, int, int, list[Path], list[Path]]) -> int:
    """Fills scenes [start, stop) of the array file; every scene has a seed of its own."""
    path, start, stop, seed, photo_paths, cut_out_folders = job
    cv2.setNumThreads(1)
    scenes = np.lib.format.open_memmap(path, mode="r+")
    rng = np.random.default_rng([seed, start])
    chosen = [photo_paths[i] for i in rng.permutation(len(photo_paths))[:48]]
    photographs = [p for p in map(read_rgb, chosen) if min(p.shape[:2]) >= 160]
    cut_outs = [c for folder in cut_out_folders for c in read_cut_outs(folder)]
    renderer = SceneRenderer(photographs, cut_outs)
    for index in range(start, stop):
        scenes[index] = renderer.render(np.random.default_rng([seed, index]), SIZE, SUBFRAMES)
    return stop - start


def _cut_range(job: tuple[str, int, int, int, Path]) -> int:
    path, start, stop, seed, clip = job
    cv2.setNumThreads(1)
    source = ClipScenes(clip, min_side=SIZE)
    if len(source) < SUBFRAMES:
        return 0
    scenes = np.lib.format.open_memmap(path, mode="r+")
    for index in range(start, stop):
        scenes[index] = source.cut(np.random.default_rng([seed, index]), SIZE, SUBFRAMES)
    return stop - start


def build_scenes(
    folder: Path,
    photographs: Sequence[Path],
    clips: Sequence[Path],
    count: int,
    clip_count: int,
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """Renders ``count`` scenes from photographs and cuts ``clip_count`` from clips; returns how many there are.

    The same arguments give the same scenes, whatever the number of workers. The file takes its final
    name when it is complete.
    """
    photo_paths = [p for f in photographs for p in list_images(f)]
    clip_paths = [c for f in clips for c in find_clips(f)] if clip_count else []
    if count and not photo_paths:
        raise InputError(f"There are no photographs in {', '.join(map(str, photographs)) or 'no folder'}.")
    folder.mkdir(parents=True, exist_ok=True)
    partial = str(folder / (SCENES_NAME + ".partial"))
    share = -(-clip_count // len(clip_paths)) if clip_paths else 0
    total = count + share * len(clip_paths)
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(total, SUBFRAMES, SIZE, SIZE, 3))
    step = 100
    with multiprocessing.get_context("spawn").Pool(workers or os.cpu_count()) as pool:
        cut = pool.map_async(
            _cut_range,
            [(partial, count + i * share, count + (i + 1) * share, seed, c) for i, c in enumerate(clip_paths)],
            chunksize=1,
        )
        rendered = pool.map_async(
            _render_range,
            [
                (partial, s, min(s + step, count), seed, photo_paths, list(clips))
                for s in range(0, count, step)
            ],
            chunksize=1,
        )
        made, filled = sum(rendered.get()), cut.get()
    if sum(filled) < share * len(clip_paths):  # some clips were too short or too fast: close the gaps
        scenes = np.lib.format.open_memmap(partial, mode="r+")
        for i, n in enumerate(filled):
            if n:
                source = count + i * share
                scenes[made : made + n] = scenes[source : source + n]
                made += n
        compact = str(folder / (SCENES_NAME + ".compact.partial"))
        target = np.lib.format.open_memmap(compact, mode="w+", dtype=np.uint8, shape=(made, *scenes.shape[1:]))
        for i in range(0, made, step):
            target[i : i + step] = scenes[i : min(i + step, made)]
        target.flush()
        os.replace(compact, partial)
    else:
        made += sum(filled)
    os.replace(partial, folder / SCENES_NAME)
    facts = {"scenes": made, "rendered": count, "subframes": SUBFRAMES, "size": SIZE, "seed": seed}
    (folder / "scenes.json").write_text(json.dumps(facts, indent=1) + "\n")
    return made


def _main(args: argparse.Namespace) -> int:
    made = build_scenes(args.out, args.photographs, args.clips, args.count, args.clip_count, args.seed)
    print(f"{made} scenes in {args.out}")
    return 0


if __name__ == "__main__":
    parser = Parser(prog="python -m vtsr.training.data.scenes", description="Prepare the scene cache.")
    parser.add_argument("out", type=Path, help="folder of the cache")
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--clips", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--count", type=int, default=6000, help="scenes rendered from photographs")
    parser.add_argument("--clip-count", type=int, default=1500, help="scenes cut from clips")
    parser.add_argument("--seed", type=int, default=0)
    raise SystemExit(run_cli(parser, _main))
