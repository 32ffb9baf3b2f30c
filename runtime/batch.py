"""A folder of videos into another folder: every file for itself, the rest done where one fails."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.errors import OptionError, OutputError, VtsrError
from vtsr.runtime.conversion import Outcome, say
from vtsr.runtime.video.codecs import CONTAINERS
from vtsr.runtime.video.images import EXTENSIONS
from vtsr.runtime.video.partial import check_folder

SOME_FAILED = 1  # exit code when some files failed and the others are done
# Names by which a file in a folder is taken for a video; a file named on the command line may be called anything.
VIDEO_EXTENSIONS = (
    *CONTAINERS, ".y4m", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob", ".wmv", ".asf", ".flv", ".f4v",
    ".3gp", ".3g2", ".mxf", ".ogv", ".ogg", ".dv", ".h264", ".h265", ".hevc", ".ivf", ".gif", ".apng",
)  # fmt: skip
WRITABLE = (*CONTAINERS, ".y4m")
SHOWN = 40  # files in the table; of more, only those that failed


@dataclass(frozen=True)
class Item:
    """One input of a batch and its output; ``name`` is the input's within the folder."""

    name: str
    input: Path
    output: Path
    images: bool = False


@dataclass
class Done:
    """What came of an item."""

    item: Item
    result: str  # "done", "complete" (before) or "failed"
    reason: str = ""
    outcome: Outcome = field(default_factory=Outcome)


def is_batch(path: Path) -> bool:
    """Whether a folder stands for the videos (or the image sequences) in it, not for one image sequence.

    It does if a video lies in it, or if it has no images of its own but something below it has.
    """
    if not path.is_dir():
        return False
    names = [entry.name for entry in path.iterdir() if entry.is_file()]
    if any(_is_video(name) for name in names):
        return True
    if any(_is_image(name) for name in names):
        return False
    return any(_is_video(n) or _is_image(n) for _, _, found in _walk(path, None) for n in found)


def find_items(folder: Path, output: Path) -> list[Item]:
    """Everything to be done in ``folder``, by name; in a tree without videos, its folders of images.

    Hidden files and folders, links to folders, and ``output`` itself are left out.
    """
    videos, sequences = [], []
    for place, relative, names in _walk(folder, output):
        found = [name for name in names if _is_video(name)]
        videos += [Item(str(relative / name), place / name, output / relative / _renamed(name)) for name in found]
        if not found and relative != Path() and any(_is_image(name) for name in names):
            sequences.append(Item(str(relative), place, output / relative, images=True))
    items = sorted(videos or sequences, key=lambda item: item.name)
    taken: dict[Path, str] = {}
    for item in items:
        first = taken.setdefault(item.output, item.name)
        if first != item.name:
            raise OptionError(f"{first} and {item.name} would both become {item.output}; rename one of them.")
    return items


def _walk(folder: Path, output: Path | None) -> Iterator[tuple[Path, Path, list[str]]]:
    """Every folder, its path within ``folder``, and the names of its files."""
    hidden = None if output is None else output.resolve()
    for place, folders, names in os.walk(folder):
        path = Path(place)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (path / f).resolve() != hidden)
        yield path, path.relative_to(folder), [name for name in names if not name.startswith(".")]


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_EXTENSIONS


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS


def _renamed(name: str) -> str:
    # What cannot be written becomes Matroska. The old ending stays, so that a.avi and a.mkv do not meet.
    return name if Path(name).suffix.lower() in WRITABLE else f"{name}.mkv"


def check_batch(args: argparse.Namespace) -> None:
    """Raises for options and names that make no sense for a folder of videos."""
    output = Path(args.output)
    if args.compare is not None:
        raise OptionError("--compare draws one video; leave it out for a folder of videos.")
    if args.size is not None or args.input_pix_fmt is not None or args.raw:
        raise OptionError("Raw video does not describe itself; convert its files one by one.")
    if args.output == "-" or output.suffix.lower() in WRITABLE:
        raise OptionError(f"{args.input} is a folder of videos; give a folder for the output too.")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; give a folder for the videos.")
    if output.exists() and output.samefile(args.input):
        raise OutputError(f"{output} is the input itself; choose another folder for the output.")
    check_folder(output.absolute().parent)


def run_batch(
    args: argparse.Namespace, convert: Callable[[argparse.Namespace], Outcome], at_once: int = 1
) -> tuple[int, dict[str, Any]]:
    """Converts all of a folder, ``at_once`` files at a time; returns the exit code and the report.

    A failure of one file does not touch the others.
    """
    items = find_items(Path(args.input), Path(args.output))
    done: list[Done] = []
    new = _new_folders(items, Path(args.output))

    def run(number: int, item: Item) -> None:
        if not args.quiet:
            say(f"[{number}/{len(items)}] {item.name}")
        done.append(_run_item(item, args, convert, at_once))

    try:
        if at_once == 1:
            for number, item in enumerate(items, 1):
                run(number, item)
        else:
            pool = ThreadPoolExecutor(at_once, "vtsr file")
            try:
                list(pool.map(run, range(1, len(items) + 1), items))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # those that nothing came into
        done.sort(key=lambda entry: entry.item.name)
        for line in table(done, len(items), args.quiet):
            say(line)
    failed = any(entry.result == "failed" for entry in done)
    return SOME_FAILED if failed else 0, {"files": [_entry(d) for d in done]}


def _new_folders(items: list[Item], output: Path) -> list[Path]:
    """Folders that are not there yet, the deepest first."""
    wanted = {output}
    for item in items:
        wanted.update(folder for folder in item.output.parents if output in folder.parents)
    return sorted((folder for folder in wanted if not folder.exists()), key=lambda folder: -len(folder.parts))


def _run_item(
    item: Item, args: argparse.Namespace, convert: Callable[[argparse.Namespace], Outcome], at_once: int
) -> Done:
    output = f"{item.output}{os.sep}" if item.images else str(item.output)
    changed = {"input": str(item.input), "output": output, "report": None, "quiet": args.quiet or at_once > 1}
    own = argparse.Namespace(**{**vars(args), **changed})
    try:
        item.output.parent.mkdir(parents=True, exist_ok=True)
        outcome = convert(own)
    except VtsrError as error:
        return Done(item, "failed", str(error))
    except OSError as error:
        return Done(item, "failed", f"{error.strerror or error}.")
    except Exception as error:  # noqa: BLE001  # whatever is wrong with one file, the others are to be done
        return Done(item, "failed", f"Unexpected {type(error).__name__}: {error}")
    return Done(item, "complete" if outcome.skipped else "done", outcome=outcome)


def table(done: list[Done], count: int, quiet: bool) -> Iterator[str]:
    """The summary, line by line; only failures if ``quiet``."""
    numbers = {kind: sum(d.result == kind for d in done) for kind in ("done", "complete", "failed")}
    shown = [d for d in done if d.result == "failed" or (not quiet and len(done) <= SHOWN)]
    width = max((len(d.item.name) for d in shown), default=0)
    for entry in shown:
        yield f"  {entry.result:8}  {entry.item.name:{width}}  {_what(entry)}".rstrip()
    if not quiet:
        words = [f"{numbers['done']} done", f"{numbers['failed']} failed"]
        if numbers["complete"]:
            words.insert(1, f"{numbers['complete']} complete already")
        if len(done) < count:
            words.append(f"{count - len(done)} not reached")
        yield f"{count} files: {', '.join(words)}"


def _what(done: Done) -> str:
    if done.result != "done":
        return done.reason
    outcome = done.outcome
    return f"{outcome.frames_in:6} in {outcome.frames_out:6} out {outcome.timing.total:8.1f} s"


def _entry(done: Done) -> dict[str, Any]:
    entry: dict[str, Any] = {"input": str(done.item.input), "output": str(done.item.output), "result": done.result}
    if done.reason:
        entry["reason"] = done.reason
    if done.outcome.report:
        entry["report"] = done.outcome.report
    return entry
