"""Where finished segments lie, by kind of output, and how they become the output."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from vtsr.runtime.frame import Frame
from vtsr.runtime.segments.journal import Segment, sync_folder
from vtsr.runtime.segments.packets import PacketWriter, is_intact, read_packets
from vtsr.runtime.video.facts import Timeline, VideoFacts
from vtsr.runtime.video.images import ImageWriter
from vtsr.runtime.video.passthrough import Passthrough
from vtsr.runtime.video.raw import RawWriter
from vtsr.runtime.video.writer import FrameEncoder, VideoFile, VideoTarget, said_as_output_error

RAW_NAME, IMAGES_NAME = "video", "images"  # where uncompressed output grows


class Extent(NamedTuple):
    """What a part is on the disk; 0 where that means nothing.

    size
        Bytes of its file; of a file or folder that grows, bytes or images up to the end of the part.
    crc, end
        CRC-32 of its file, and the tick at which it ends.
    """

    size: int
    crc: int = 0
    end: int = 0


class Part(Protocol):
    """A segment that is being made."""

    def write(self, frame: Frame) -> None: ...

    def close(self) -> Extent:
        """Puts all of it on the disk, for good. Another part may be written to meanwhile."""


class Store(Protocol):
    """One kind of output. All methods raise `OutputError` if writing fails.

    in_order
        Whether segments can only be made one after the other.
    """

    in_order: bool
    codec: str
    pix_fmt: str
    frame_rate: Any
    notes: list[str]

    def begin(self, number: int) -> Part: ...
    def is_damaged(self, segment: Segment) -> bool:
        """Whether a finished segment is not there any more as it was."""

    def go_on_behind(self, segments: Iterable[Segment]) -> None:
        """Drops what lies behind the finished segments."""

    def join(self, segments: Iterable[Segment]) -> None:
        """Makes the output of the segments and gives it its name."""

    def keep(self, segments: Iterable[Segment], last: Part | None) -> Path:
        """What there is as ``NAME.partial``, with the unfinished part at the end; returns that path."""


# Video files


class VideoPart:
    """Coded pictures of one encoder in a file (or any binary stream) of their own."""

    def __init__(self, target: VideoTarget, file: BinaryIO, output: Path) -> None:
        self._file, self._output = file, output
        with said_as_output_error(output):
            self._packets = PacketWriter(file)
        self._encoder = FrameEncoder.alone(target)

    def write(self, frame: Frame) -> None:
        with said_as_output_error(self._output):
            self._packets.add(self._encoder.encode(frame))

    def close(self) -> Extent:
        with said_as_output_error(self._output):
            self._packets.add(self._encoder.flush())
            self._file.flush()
            if not isinstance(self._file, BytesIO):
                os.fsync(self._file.fileno())
                self._file.close()
        return Extent(self._packets.size, self._packets.crc, self._encoder.end)


class VideoStore:
    """A video file whose segments are joined packet by packet, with the other streams of the input.

    passthrough
        Opens the other streams, or None; called once to see whether the container takes them, and once to join.
    """

    in_order = False

    def __init__(
        self,
        folder: Path,
        output: Path,
        target: VideoTarget,
        passthrough: Callable[[], AbstractContextManager[Passthrough | None]],
    ) -> None:
        self._folder, self._output, self._target, self._passthrough = folder, output, target, passthrough
        self.codec, self.pix_fmt = target.encoder.name, target.encoder.pix_fmt
        self.frame_rate, self.notes = target.frame_rate, list(target.notes)
        # What cannot work is to be known before the first frame, not after the last.
        with passthrough() as others:
            VideoFile(BytesIO(), target, others).abandon()
            self.notes += others.notes if others is not None else []

    def file_of(self, number: int) -> Path:
        return self._folder / f"{number:09d}.packets"

    def begin(self, number: int) -> VideoPart:
        with said_as_output_error(self._output):
            file = self.file_of(number).open("wb")
        return VideoPart(self._target, file, self._output)

    def add(self, number: int, data: bytes) -> None:
        """Stores a segment made elsewhere."""
        with said_as_output_error(self._output), self.file_of(number).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def is_damaged(self, segment: Segment) -> bool:
        return not is_intact(self.file_of(segment.number), segment.size, segment.crc)

    def go_on_behind(self, segments: Iterable[Segment]) -> None:
        pass  # unfinished files are written over

    def join(self, segments: Iterable[Segment]) -> None:
        working = self._folder / f"joined{self._output.suffix}"
        ordered = sorted(segments, key=lambda segment: segment.number)
        self._mux(working, [self.file_of(segment.number) for segment in ordered], ordered[-1].end)
        with said_as_output_error(self._output):
            os.replace(working, self._output)

    def keep(self, segments: Iterable[Segment], last: Part | None) -> Path:
        ordered = sorted(segments, key=lambda segment: segment.number)
        files, end = [self.file_of(segment.number) for segment in ordered], ordered[-1].end if ordered else 0
        if isinstance(last, VideoPart):
            end = last.close().end
            files.append(self.file_of(ordered[-1].number + 1 if ordered else 0))
        kept = self._output.with_name(self._output.name + ".partial")
        self._mux(kept, files, end)
        return kept

    def _mux(self, path: Path, files: Iterable[Path], end: int) -> None:
        with said_as_output_error(self._output), self._passthrough() as others:
            video = VideoFile(path, self._target, others)
            try:
                for file in files:
                    video.add(read_packets(file))
                video.finish(end)
            except BaseException:
                video.abandon()
                raise


# Uncompressed video


class RawPart:
    """A stretch of the one file all frames go to."""

    def __init__(self, writer: RawWriter, file: BinaryIO, output: Path) -> None:
        self._writer, self._file, self._output = writer, file, output
        self._end = file.tell()

    def write(self, frame: Frame) -> None:
        self._writer.write(frame)
        self._end = self._file.tell()

    def close(self) -> Extent:
        with said_as_output_error(self._output):
            self._file.flush()
            os.fsync(self._file.fileno())
        return Extent(self._end)


class RawStore:
    """A y4m or raw file that grows frame by frame."""

    in_order = True

    def __init__(
        self, folder: Path, output: Path, facts: VideoFacts, *,
        y4m: bool, parts: int, timeline: Timeline, pix_fmt: str | None,
    ) -> None:  # fmt: skip
        self._output, self._working = output, folder / RAW_NAME
        with said_as_output_error(output):
            self._working.touch()
            self._file: BinaryIO = self._working.open("r+b")
        self._writer = RawWriter(self._file, facts, y4m=y4m, parts=parts, timeline=timeline, pix_fmt=pix_fmt)
        self._writer.path = output
        self._header = self._file.tell()
        self.codec, self.pix_fmt = self._writer.codec, self._writer.pix_fmt
        self.frame_rate, self.notes = self._writer.frame_rate, self._writer.notes

    def begin(self, number: int) -> RawPart:
        return RawPart(self._writer, self._file, self._output)

    def is_damaged(self, segment: Segment) -> bool:
        return self._working.stat().st_size < segment.size

    def go_on_behind(self, segments: Iterable[Segment]) -> None:
        with said_as_output_error(self._output):
            self._file.truncate(max([self._header, *(segment.size for segment in segments)]))
            self._file.seek(0, os.SEEK_END)

    def join(self, segments: Iterable[Segment]) -> None:
        with said_as_output_error(self._output):
            self._file.close()
            os.replace(self._working, self._output)

    def keep(self, segments: Iterable[Segment], last: Part | None) -> Path:
        kept = self._output.with_name(self._output.name + ".partial")
        with said_as_output_error(self._output):
            self._file.close()
            shutil.copyfile(self._working, kept)
        return kept


# Images


class ImagePart:
    """The next images of a sequence."""

    def __init__(self, writer: ImageWriter) -> None:
        self._writer, self._first, self._stop = writer, writer.count, writer.count

    def write(self, frame: Frame) -> None:
        self._writer.write(frame)
        self._stop = self._writer.count

    def close(self) -> Extent:
        folder = self._writer.file_of(0).parent
        with said_as_output_error(self._writer.path):
            for number in range(self._first, self._stop):
                with self._writer.file_of(number).open("r+b") as file:
                    os.fsync(file.fileno())
        sync_folder(folder)
        return Extent(self._stop)


class ImageStore:
    """Numbered images in a folder that takes its name, or fills another, in the end."""

    in_order = True

    def __init__(self, folder: Path, output: Path, facts: VideoFacts, *, overwrite: bool) -> None:
        self._folder, self._output, self._facts, self._overwrite = folder / IMAGES_NAME, output, facts, overwrite
        with said_as_output_error(output):
            self._folder.mkdir(exist_ok=True)
        self._writer = self._open(0)
        self.codec, self.pix_fmt = self._writer.codec, self._writer.pix_fmt
        self.frame_rate, self.notes = self._writer.frame_rate, self._writer.notes

    def _open(self, first: int) -> ImageWriter:
        return ImageWriter(
            self._output, self._facts, overwrite=self._overwrite, working=self._folder, first=first
        )

    def begin(self, number: int) -> ImagePart:
        return ImagePart(self._writer)

    def is_damaged(self, segment: Segment) -> bool:
        files = map(self._writer.file_of, range(segment.size - segment.outputs, segment.size))
        return not all(file.is_file() for file in files)

    def go_on_behind(self, segments: Iterable[Segment]) -> None:
        count = sum(segment.outputs for segment in segments)
        wanted = {self._writer.file_of(number).name for number in range(count)}
        with said_as_output_error(self._output):
            for file in self._folder.iterdir():
                if file.name not in wanted:
                    file.unlink()
        self._writer = self._open(count)

    def join(self, segments: Iterable[Segment]) -> None:
        with said_as_output_error(self._writer.path):
            self._writer.finish()

    def keep(self, segments: Iterable[Segment], last: Part | None) -> Path:
        kept = self._writer.path.with_name(self._writer.path.name + ".partial")
        with said_as_output_error(self._writer.path):
            if kept.is_dir():
                shutil.rmtree(kept)
            shutil.copytree(self._folder, kept)
        return kept
