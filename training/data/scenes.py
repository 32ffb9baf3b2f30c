"""vtsr-scenes: prepares training material: short scenes of sharp sub-frames, rendered or decoded once.

vtsr-train does this by itself; prepare it beforehand to use all cores, or to train several times on the same scenes.

    vtsr-scenes runs/scenes --photographs photos --clips clips
    vtsr-scenes runs/gopro --high-speed GOPRO_Large_all --scene-size 512 --held-out-share 0.1
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vtsr.errors import InputError, OptionError, OutputError
from vtsr.options import Parser, add_seed, run_cli
from vtsr.training.data.clips import ClipScenes, find_clips, find_high_speed, measure_clip
from vtsr.training.data.photographs import CutOut, SceneRenderer, list_images, read_cut_outs, read_rgb

SUBFRAMES = 24  # three exposures of eight sub-frames
SIZE = 128  # pixels; training crops are smaller, so that every crop is a new one
SCENES_NAME = "scenes.npy"
FACTS_NAME = "scenes.json"
RENDERED_AT_ONCE = 100  # scenes of one job, which share its photographs
PHOTOGRAPHS_AT_ONCE = 48  # of one job: what fits into memory, decoded
SMALLEST_PHOTOGRAPH = 160  # pixels of the short side
FEW = 5  # sources; from this many on at least one of a kind is held out


@dataclass(frozen=True)
class SceneOptions:
    """What goes into a cache.

    photographs, clips, high_speed
        Folders: photographs to render scenes from, ordinary clips (also DAVIS sequences, whose masks give
        cut-outs), and high-speed video, which is taken as it is.
    count, clip_count, per_video
        Scenes rendered from photographs, scenes from all ordinary clips together (an equal share of
        each), scenes of each high-speed video.
    interpolate
        Sub-frames per frame of clips and high-speed video; 1 takes the frames alone.
    held_out_share
        Share of the photographs and clips that only the last scenes of the cache show, in mixed order.
    """

    photographs: tuple[Path, ...] = ()
    clips: tuple[Path, ...] = ()
    high_speed: tuple[Path, ...] = ()
    count: int = 6000
    clip_count: int = 1500
    per_video: int = 20
    size: int = SIZE
    subframes: int = SUBFRAMES
    interpolate: int = 1
    held_out_share: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class SceneFacts:
    """What a cache holds: stored beside it."""

    scenes: int
    rendered: int
    held_out: int
    left_out: tuple[str, ...]  # names of clips that are too short, too small or too fast


def open_scenes(folder: Path) -> NDArray[np.uint8]:
    """The cached scenes as a read-only memory map, uint8 (scenes, subframes, size, size, 3).

    Raises `InputError` if there is no cache or it is damaged.
    """
    path = folder / SCENES_NAME
    if not path.is_file():
        raise InputError(f"There is no scene cache in {folder}; make one with vtsr-scenes.")
    try:
        scenes: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"The scene cache {path} cannot be read; remove it and make it again ({error}).") from error
    if scenes.ndim != 5 or scenes.shape[-1] != 3 or scenes.dtype != np.uint8:
        raise InputError(f"{path} is not a scene cache: it holds {scenes.dtype} of shape {scenes.shape}.")
    return scenes


def held_out_scenes(folder: Path, scenes: int) -> int:
    """How many scenes at the end of the cache are of sources that no other scene shows; 0 if unknown."""
    with suppress(OSError, ValueError):
        facts = json.loads((folder / FACTS_NAME).read_text(encoding="utf-8"))
        if isinstance(facts, dict) and facts.get("scenes") == scenes:
            return int(facts.get("held_out", 0))
    return 0


@dataclass(frozen=True)
class _Rendering:
    """Scenes from photographs: ``seeds`` of each, and the places in the cache they go to."""

    photographs: tuple[Path, ...]
    cut_outs: tuple[Path, ...]
    chooser: tuple[int, ...]  # seed of the choice of photographs
    seeds: tuple[tuple[int, int], ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class _Cutting:
    source: ClipScenes
    seeds: tuple[tuple[int, int], ...]
    places: tuple[int, ...]


def _fill(path: str, job: _Rendering | _Cutting) -> int:
    """Writes the scenes of one job into the array file; every scene has a seed of its own."""
    cache = np.lib.format.open_memmap(path, mode="r+")
    subframes, size = cache.shape[1:3]
    if isinstance(job, _Cutting):
        for index, scene in job.source.cut([list(seed) for seed in job.seeds]):
            cache[job.places[index]] = scene
    else:
        renderer = SceneRenderer(_photographs(job), _cut_outs(job.cut_outs))
        for seed, place in zip(job.seeds, job.places, strict=True):
            cache[place] = renderer.render(np.random.default_rng(seed), size, subframes)
    cache.flush()
    return len(job.places)


def _photographs(job: _Rendering) -> list[NDArray[Any]]:
    order = np.random.default_rng(job.chooser).permutation(len(job.photographs))
    chosen: list[NDArray[Any]] = []
    for index in order:
        picture = read_rgb(job.photographs[index])
        if min(picture.shape[:2]) >= SMALLEST_PHOTOGRAPH:
            chosen.append(picture)
        if len(chosen) == PHOTOGRAPHS_AT_ONCE:
            break
    if not chosen:
        folder = job.photographs[0].parent
        raise InputError(f"No photograph in {folder} has sides of {SMALLEST_PHOTOGRAPH} pixels or more.")
    return chosen


def _cut_outs(folders: tuple[Path, ...]) -> list[CutOut]:
    return [cut_out for folder in folders for cut_out in read_cut_outs(folder)]


def build_scenes(
    folder: Path, options: SceneOptions, workers: int | None = None, progress: bool = False
) -> SceneFacts:
    """Prepares the cache in ``folder``.

    The same options give the same scenes, whatever the number of ``workers`` (processes; all cores unless
    told). The file takes its final name when it is complete; what was there before stays until then.

    Raises `InputError` if there is nothing to make scenes from, `OutputError` if they cannot be written.
    """
    _check(options)
    photographs = [p for f in options.photographs for p in list_images(f)] if options.count else []
    clips = [(c, False) for f in options.clips for c in find_clips(f)] if options.clip_count else []
    clips += [(c, True) for f in options.high_speed for c in find_high_speed(f)] if options.per_video else []
    if not photographs and not clips:
        raise InputError("There is nothing to make scenes from; give photographs, clips or high-speed video.")
    with _executor(workers or os.cpu_count() or 1) as executor:
        facts = _each(executor, measure_clip, [(c,) for c, _ in clips], "measuring clips", progress)
        sources = [
            ClipScenes(c, f, options.size, options.subframes, options.interpolate, as_is)
            for (c, as_is), f in zip(clips, facts, strict=True)
        ]
        usable = [s for s in sources if s.usable]
        left_out = tuple(s.clip.name for s in sources if not s.usable)
        jobs, held_out = _plan(options, photographs, usable)
        total = sum(len(job.places) for job in jobs)
        if not total:
            raise InputError(
                f"No clip is long, slow and large enough for scenes of {options.subframes} sub-frames "
                f"of {options.size} pixels; lower --size or --subframes, or raise --interpolate."
            )
        rendered = sum(len(job.places) for job in jobs if isinstance(job, _Rendering))
        result = SceneFacts(total, rendered, held_out, left_out)
        with _partial(folder / SCENES_NAME, (total, options.subframes, options.size, options.size, 3)) as path:
            weights = [len(job.places) for job in jobs]
            _each(executor, _fill, [(path, job) for job in jobs], "making scenes", progress, weights)
            stored = vars(result) | {"subframes": options.subframes, "size": options.size, "seed": options.seed}
            (folder / FACTS_NAME).write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return result


def _check(options: SceneOptions) -> None:
    if options.size < 32 or options.subframes < 2 or options.interpolate < 1:
        raise OptionError("Scenes need a size of 32 pixels, 2 sub-frames and an interpolation of 1, or more of each.")
    if min(options.count, options.clip_count, options.per_video, options.seed) < 0:
        raise OptionError("Numbers of scenes and the seed must not be negative.")
    if not 0 <= options.held_out_share < 1:
        raise OptionError(f"The held-out share must be from 0 to below 1, not {options.held_out_share}.")


def _split(count: int, share: float, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Numbers of the sources to train on and of those held out."""
    held = round(share * count)
    if share and not held and count >= FEW:
        held = 1
    order = rng.permutation(count)
    return sorted(order[held:].tolist()), sorted(order[:held].tolist())


def _plan(
    options: SceneOptions, photographs: list[Path], clips: list[ClipScenes]
) -> tuple[list[_Rendering | _Cutting], int]:
    """All jobs, and how many scenes at the end of the cache are held out."""
    rng = np.random.default_rng([options.seed, 2**32])
    photo_split = _split(len(photographs), options.held_out_share, rng)
    clip_split = _split(len(clips), options.held_out_share, rng)
    ordinary = sum(not c.as_is for c in clips)
    per_clip = -(-options.clip_count // ordinary) if ordinary else 0
    held_renderings = round(options.count * len(photo_split[1]) / max(1, len(photographs)))
    jobs: list[_Rendering | _Cutting] = []
    index = 0  # of a scene, which is its seed
    ends = []
    for part in (0, 1):
        count = 0
        if photo_split[part]:
            count = held_renderings if part else options.count - held_renderings
        chosen = tuple(photographs[i] for i in photo_split[part])
        for start in range(0, count, RENDERED_AT_ONCE):
            places = tuple(range(index, index + min(RENDERED_AT_ONCE, count - start)))
            seeds = tuple((options.seed, i) for i in places)
            jobs.append(_Rendering(chosen, options.clips, (options.seed, index, 1), seeds, places))
            index += len(places)
        for i in clip_split[part]:
            places = tuple(range(index, index + (options.per_video if clips[i].as_is else per_clip)))
            jobs.append(_Cutting(clips[i], tuple((options.seed, j) for j in places), places))
            index += len(places)
        ends.append(index)
    # The held-out scenes in mixed order: any number of the last ones is then a fair sample.
    mixed = ends[0] + rng.permutation(ends[1] - ends[0])
    jobs = [replace(j, places=tuple(int(mixed[p - ends[0]]) if p >= ends[0] else p for p in j.places)) for j in jobs]
    return jobs, ends[1] - ends[0]


@contextmanager
def _partial(path: Path, shape: tuple[int, ...]) -> Iterator[str]:
    """An array file under a preliminary name, which becomes ``path`` if the body succeeds."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cache = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is found out now, not by a crash while writing
            with open(partial, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, cache.offset + cache.nbytes)
        del cache
        yield str(partial)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"The scene cache {path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):  # it has its final name, or was never made
            partial.unlink()


@contextmanager
def _executor(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of processes, or None for a single one."""
    if workers == 1:
        yield None
        return
    # Spawned, since OpenCV's threads do not survive a fork; Ctrl-C is for the parent to handle.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, ignore) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _on_one_thread(function: Any, *arguments: Any) -> Any:
    """``function`` with OpenCV on one thread: DIS flow depends on their number, and processes keep cores busy."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return function(*arguments)
    finally:
        cv2.setNumThreads(threads)


def _each(
    executor: ProcessPoolExecutor | None,
    function: Any,
    arguments: Sequence[tuple[Any, ...]],
    title: str,
    progress: bool,
    weights: Iterable[int] | None = None,
) -> list[Any]:
    """``function`` of every tuple of arguments, in order; the progress bar counts ``weights``, or calls."""
    share = list(weights) if weights is not None else [1] * len(arguments)
    # None: no bar where nobody would see it.
    bar = tqdm(total=sum(share), desc=title, disable=None if progress and arguments else True)
    with bar:
        if executor is None:
            results = []
            for given, weight in zip(arguments, share, strict=True):
                results.append(_on_one_thread(function, *given))
                bar.update(weight)
            return results
        futures: dict[Future[Any], int] = {
            executor.submit(_on_one_thread, function, *given): i for i, given in enumerate(arguments)
        }
        found: dict[int, Any] = {}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                bar.update(share[futures[future]])
        except BrokenProcessPool as error:
            raise OutputError("A process that makes scenes was ended; give fewer --workers more memory.") from error
        return [found[i] for i in range(len(arguments))]


def _body(args: argparse.Namespace) -> int:
    options = SceneOptions(
        photographs=tuple(args.photographs), clips=tuple(args.clips), high_speed=tuple(args.high_speed),
        count=args.count, clip_count=args.clip_count, per_video=args.per_video, size=args.size,
        subframes=args.subframes, interpolate=args.interpolate, held_out_share=args.held_out_share,
        seed=args.seed,
    )  # fmt: skip
    if args.workers is not None and args.workers < 1:
        raise OptionError(f"--workers must be at least 1, not {args.workers}.")
    facts = build_scenes(args.out, options, args.workers, progress=True)
    print(f"{facts.scenes} scenes in {args.out}, the last {facts.held_out} of sources that no other shows")
    if facts.left_out:
        print(f"left out, since too short, too small or too fast: {', '.join(facts.left_out)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="vtsr-scenes", description=__doc__, guide="training.md")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder of the cache")
    sources = parser.add_argument_group("sources (folders)")
    sources.add_argument(
        "--photographs", type=Path, nargs="+", default=[], metavar="DIR", help="photographs; their motion is rendered"
    )
    sources.add_argument(
        "--clips", type=Path, nargs="+", default=[], metavar="DIR",
        help="ordinary clips; they are shrunk until they are slow enough",
    )  # fmt: skip
    sources.add_argument(
        "--high-speed", type=Path, nargs="+", default=[], metavar="DIR",
        help="high-speed video: GOPRO, DVD, Sony or your own",
    )  # fmt: skip
    defaults = SceneOptions()
    for name, text in (
        ("count", "scenes rendered from photographs"),
        ("clip_count", "scenes from all ordinary clips together"),
        ("per_video", "scenes from each high-speed video"),
        ("size", "height and width of a scene in pixels"),
        ("subframes", "sub-frames of a scene"),
        ("interpolate", "sub-frames per frame of clips and high-speed video"),
        ("held_out_share", "share of the sources that only the last scenes show"),
    ):
        value = getattr(defaults, name)
        # Elsewhere --size is WxH, that of a picture.
        flag = "--scene-size" if name == "size" else f"--{name.replace('_', '-')}"
        text = f"{text} (default: {value})"
        parser.add_argument(flag, dest=name, type=type(value), default=value, metavar="N", help=text)
    add_seed(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores)")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    raise SystemExit(main())
