"""The journal of a job: a file of JSON lines that says what it is and which segments are finished.

    {"format": "vtsr-journal-1", "job": {...}}                    the header: everything the output depends on
    {"segment": 0, "frames": 60, "outputs": 240, ...}             one line per finished segment, in any order
    {"end": {...}}                                                once the whole input was read

A line is only added once the segment lies on the disk (fsync), and is on the disk itself before the job goes on. A last
line that was cut short by a power failure counts as not written; everything else that is not exactly as expected
makes the journal unusable. Nothing in it names a file: names follow from segment numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Container
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from vtsr.errors import OutputError
from vtsr.runtime.segments.ledger import MARKED, Observed
from vtsr.runtime.segments.marks import Mark
from vtsr.runtime.strict import Malformed, expect, is_int, parse_json

try:
    import fcntl
except ImportError:  # Windows: the journal is not locked there
    fcntl = None  # type: ignore[assignment]

FORMAT = "vtsr-journal-1"
FILE_NAME = "journal.jsonl"
MAX_LINE = 1 << 20  # bytes
MAX_JOURNAL = 1 << 30  # bytes; some 2 million segments
MAX_SEGMENT = 10**9
MAX_FRAMES = 10**6  # of one segment
MAX_BYTES = 1 << 50
MAX_TICK = 1 << 62
_FRACTION = re.compile(r"-?\d{1,30}(/[1-9]\d{0,30})?")

Value = str | int | float | bool | None


class DamagedJournalError(OutputError):
    """The journal cannot be used."""


@dataclass(frozen=True)
class Segment:
    """A finished segment.

    outputs
        Output frames.
    size, crc, end
        As the part said, see `vtsr.runtime.segments.stores.Extent`.
    cuts
        Input frames of it that begin a new scene.
    """

    number: int
    observed: Observed
    outputs: int
    size: int
    crc: int
    end: int
    cuts: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        seen = self.observed
        return {
            "segment": self.number,
            "frames": seen.frames,
            "outputs": self.outputs,
            "size": self.size,
            "crc": self.crc,
            "end": self.end,
            "cuts": list(self.cuts),
            "duplicates": seen.duplicates,
            "clipped": seen.clipped,
            "shortest": str(seen.shortest),
            "longest": str(seen.longest),
            "clean": seen.clean,
            "tail": [[mark.index, str(mark.pts), mark.crc] for mark in seen.tail],
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Segment:
        expected = {
            "segment", "frames", "outputs", "size", "crc", "end", "cuts", "duplicates", "clipped", "shortest",
            "longest", "clean", "tail",
        }  # fmt: skip
        if set(line) != expected:
            raise Malformed("it is not a line of a journal")
        frames = _whole(line["frames"], 1, MAX_FRAMES)
        clipped = line["clipped"]
        if type(clipped) not in (int, float) or not 0 <= clipped <= frames:
            raise Malformed("it is not a line of a journal")
        observed = Observed(
            frames,
            _whole(line["duplicates"], 0, frames),
            float(clipped),
            _fraction(line["shortest"]),
            _fraction(line["longest"]),
            _flag(line["clean"]),
            [_mark(entry) for entry in _list(line["tail"], MARKED)],
        )
        return cls(
            _whole(line["segment"], 0, MAX_SEGMENT),
            observed,
            _whole(line["outputs"], 0, MAX_FRAMES * 16),
            _whole(line["size"], 0, MAX_BYTES),
            _whole(line["crc"], 0, 2**32 - 1),
            _whole(line["end"], -MAX_TICK, MAX_TICK),
            tuple(_whole(cut, 0, MAX_SEGMENT * MAX_FRAMES) for cut in _list(line["cuts"], frames)),
        )


@dataclass(frozen=True)
class End:
    """What the reader said when the whole input had been read."""

    warnings: tuple[str, ...] = ()
    damaged_packets: int = 0
    damaged_frames: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "end": {
                "warnings": list(self.warnings),
                "damaged_packets": self.damaged_packets,
                "damaged_frames": self.damaged_frames,
            }
        }

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> End:
        facts = line["end"]
        if set(line) != {"end"} or not isinstance(facts, dict):
            raise Malformed("it is not a line of a journal")
        if set(facts) != {"warnings", "damaged_packets", "damaged_frames"}:
            raise Malformed("it is not a line of a journal")
        warnings = _list(facts["warnings"], MAX_LINE)
        if not all(isinstance(text, str) for text in warnings):
            raise Malformed("it is not a line of a journal")
        return cls(
            tuple(warnings),
            _whole(facts["damaged_packets"], 0, MAX_SEGMENT),
            _whole(facts["damaged_frames"], 0, MAX_SEGMENT),
        )


@dataclass
class Journal:
    """An open journal, locked for this process; made by `begin` or `reopen`.

    folder
        Where the journal and the finished segments lie.
    job
        Everything the output depends on, by name.
    """

    folder: Path
    job: dict[str, Value]
    _file: BinaryIO
    segments: dict[int, Segment] = field(default_factory=dict)
    ended: End | None = None

    @classmethod
    def begin(cls, folder: Path, job: dict[str, Value]) -> Journal:
        """A new journal in a new folder. Raises `OutputError` if it cannot be written."""
        made = False
        try:
            folder.mkdir()
            made = True
            file = (folder / FILE_NAME).open("xb", buffering=0)
            _lock(file, folder)
            journal = cls(folder, job, file)
            journal._append({"format": FORMAT, "job": job})
            sync_folder(folder)
            sync_folder(folder.parent)
        except OSError as error:
            if made:  # and not by another process at the same moment
                shutil.rmtree(folder, ignore_errors=True)
            reason = f"Nothing can be written into {folder.parent} ({error.strerror})"
            raise OutputError(f"{reason}; choose another folder.") from error
        return journal

    @classmethod
    def reopen(cls, folder: Path) -> Journal | None:
        """The journal in ``folder``; None if it does not even hold a whole header.

        Raises `OutputError` if it is damaged or another process works on it.
        """
        path = folder / FILE_NAME
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"The journal {path} cannot be opened ({error.strerror}).") from error
        try:
            _lock(file, folder)
            journal = cls._parse(folder, file)
        except Malformed as error:
            file.close()
            raise DamagedJournalError(f"The journal {path} is damaged; start again with -y.") from error
        except BaseException:
            file.close()
            raise
        if journal is None:
            file.close()
        return journal

    @classmethod
    def _parse(cls, folder: Path, file: BinaryIO) -> Journal | None:
        lines, good = _lines(file)
        if not lines:
            return None
        header = lines[0]
        job = header.get("job")
        if set(header) != {"format", "job"} or header["format"] != FORMAT or not isinstance(job, dict):
            raise Malformed("it is not a line of a journal")
        if not all(type(value) in (str, int, float, bool, type(None)) for value in job.values()):
            raise Malformed("it is not a line of a journal")
        journal = cls(folder, job, file)
        for line in lines[1:]:
            if journal.ended is not None:
                raise Malformed("it is not a line of a journal")
            if "end" in line and "segment" not in line:
                journal.ended = End.from_json(line)
                continue
            segment = Segment.from_json(line)
            if segment.number in journal.segments:
                raise Malformed("it is not a line of a journal")
            journal.segments[segment.number] = segment
        file.truncate(good)
        file.seek(good)
        return journal

    def add(self, segment: Segment) -> None:
        """Notes a finished segment, whose file must be on the disk already."""
        self._append(segment.to_json())
        self.segments[segment.number] = segment

    def end(self, facts: End) -> None:
        """Notes that the input has been read to its end."""
        self._append(facts.to_json())
        self.ended = facts

    def drop(self, numbers: Container[int]) -> None:
        """Forgets some segments, and that the input was read to its end; what remains is written anew."""
        kept = {number: segment for number, segment in self.segments.items() if number not in numbers}
        self._file.close()
        new = self.folder / (FILE_NAME + ".new")
        with new.open("wb", buffering=0) as self._file:
            self._append({"format": FORMAT, "job": self.job})
            for segment in kept.values():
                self._append(segment.to_json())
        os.replace(new, self.folder / FILE_NAME)
        sync_folder(self.folder)
        self._file = (self.folder / FILE_NAME).open("r+b", buffering=0)
        _lock(self._file, self.folder)
        self._file.seek(0, os.SEEK_END)
        self.segments, self.ended = kept, None

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        begin = self._file.tell()
        try:
            written = 0
            while written < len(data):  # unbuffered files may take less than they are given
                written += self._file.write(data[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(begin)  # half a line must not be followed by another
            self._file.seek(begin)
            raise

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Removes the journal and all that is finished."""
        self.close()
        with contextlib.suppress(OSError):
            (self.folder / FILE_NAME).unlink()  # first: a folder without a journal is nothing to go on with
        shutil.rmtree(self.folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power failure, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems
    finally:
        os.close(handle)


def _lock(file: BinaryIO, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"Another process is at work in {folder}; wait for it or stop it.") from error
    except OSError:
        pass  # a file system without locks


def _lines(file: BinaryIO) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of all whole lines, and where the last of them ends."""
    found: list[dict[str, Any]] = []
    good = 0
    data = file.read(MAX_JOURNAL + 1)
    expect(len(data) <= MAX_JOURNAL, "it is too long")
    while (stop := data.find(b"\n", good)) >= 0:
        text = data[good:stop]
        if len(text) > MAX_LINE:
            raise Malformed("it is not a line of a journal")
        try:
            line = parse_json(text)
        except Malformed:
            # A power failure may leave a block of zeros, or of anything, where the last lines should be.
            if b"\n" in data[stop + 1 :].rstrip(b"\0"):
                raise
            break
        if not isinstance(line, dict):
            raise Malformed("it is not a line of a journal")
        found.append(line)
        good = stop + 1
    return found, good


def _whole(value: Any, low: int, high: int) -> int:
    expect(is_int(value, low, high), "a number is out of range")
    return int(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise Malformed("it is not a line of a journal")
    return value


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise Malformed("it is not a line of a journal")
    return value


def _fraction(value: Any) -> Fraction:
    if not isinstance(value, str) or not _FRACTION.fullmatch(value):
        raise Malformed("it is not a line of a journal")
    return Fraction(value)


def _mark(entry: Any) -> Mark:
    if not isinstance(entry, list) or len(entry) != 3:
        raise Malformed("it is not a line of a journal")
    return Mark(_whole(entry[0], 0, MAX_TICK), _fraction(entry[1]), _whole(entry[2], 0, 2**32 - 1))
