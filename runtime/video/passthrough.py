"""Everything of the input that is not the processed video: audio, subtitles, data, attachments, chapters, tags."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from vtsr.runtime.video.containers import open_container
from vtsr.runtime.video.facts import Timeline
from vtsr.runtime.video.streams import disposition, is_cover
from vtsr.runtime.video.stretch import AudioStretch

# Tags that describe the old file or the old encoding, and would be wrong in the new one.
STALE_FILE_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
STALE_STREAM_TAGS = {"encoder", "rotate", "timecode", "vendor_id"}
STALE_PREFIXES = ("duration", "bps", "number_of_frames", "number_of_bytes", "_statistics")

# Containers in which audio that only fills the decoder is marked as such; FFmpeg writes Matroska's mark since 9.
KEEP_DECODER_DELAY = {"mp4", "mov"} | ({"matroska"} if av.library_versions["libavformat"] >= (63,) else set())

SHOWN_LETTERS = 60  # of a name, in messages
CHAPTER_TICK = Fraction(1, 10**9)  # seconds, Matroska's; for chapters whose times are moved

# Tags that an MP4 or MOV file holds in its classic boxes; others need FFmpeg's "use_metadata_tags".
CLASSIC_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "make",
    "model", "location", "creation_time", "author", "performer", "year",
}  # fmt: skip


def kept_file_tags(metadata: dict[str, str]) -> dict[str, str]:
    """The tags of a file that stay true for the output."""
    return {k: v for k, v in metadata.items() if k.lower() not in STALE_FILE_TAGS}


def kept_stream_tags(metadata: dict[str, str]) -> dict[str, str]:
    """The tags of a stream that stay true for the output."""
    return {
        k: v
        for k, v in metadata.items()
        if k.lower() not in STALE_STREAM_TAGS and not k.lower().startswith(STALE_PREFIXES)
    }


class Passthrough:
    """The other streams of an input file, copied into the output packet by packet as time goes on.

    path, video_index
        The input, opened a second time, and the stream that is processed elsewhere.
    timeline
        How input times become output times; streams are cut and shifted like the video.
    audio
        ``"copy"`` (packets as they are; only without stretching), ``"stretch"`` (slowed down with the
        video, pitch kept, encoded anew) or ``"none"``.

    Timestamps stay in each stream's own ticks, so audio stays gapless. Streams that the output's container
    cannot hold are left out with a note in ``notes``.
    """

    def __init__(self, path: Path, video_index: int, timeline: Timeline, audio: str = "copy") -> None:
        self.notes: list[str] = []
        self._timeline = timeline
        self._audio = audio
        self._path = path
        self._container = open_container(path)
        self._video_index = video_index
        self._copies: dict[int, Any] = {}
        self._stretches: dict[int, AudioStretch] = {}
        self._pending: Any = None
        self._source: Iterator[Any] | None = None

    def __enter__(self) -> Passthrough:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    # Before the header is written

    def add_streams(self, output: Any) -> None:
        """Adds a stream to ``output`` for everything that is carried over."""
        for stream in self._container.streams:
            if stream.index == self._video_index:
                continue
            kind = stream.type
            if kind == "video" and not is_cover(stream):
                continue  # the reader has told the user
            if kind == "audio" and self._audio != "copy":
                if self._audio == "stretch":
                    self._add_stretched(output, stream)
                continue
            self._add_copy(output, stream, kind)
        # The edit list of an MP4 file marks such audio; containers without a mark would play it.
        self._keeps_discarded = output.format.name in KEEP_DECODER_DELAY
        self._sources = sorted([*self._copies, *self._stretches])

    def _add_copy(self, output: Any, stream: Any, kind: str) -> None:
        label = f"The {kind} stream #{stream.index} ({_shown(getattr(stream, 'name', None)) or 'unknown codec'})"
        if kind == "data" and self._is_bookkeeping(stream):
            return
        if is_cover(stream) and output.format.name == "matroska":
            self._attach_cover(output, stream)
            return
        if not _can_hold(output.format.name, stream):
            self.notes.append(f"{label} does not fit into {output.format.name} and is left out.")
            return
        if kind == "attachment" and hasattr(output, "add_attachment"):
            output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
            return
        copy = output.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(kept_stream_tags(dict(stream.metadata)))
        copy.disposition = disposition(stream)
        self._copies[stream.index] = copy

    def _attach_cover(self, output: Any, stream: Any) -> None:
        # Matroska keeps covers as attachments, by these names.
        kind = "png" if stream.codec_context.name == "png" else "jpeg"
        with open_container(self._path) as container:
            packet = next(container.demux(container.streams[stream.index]))
            output.add_attachment(f"cover.{kind.replace('jpeg', 'jpg')}", f"image/{kind}", bytes(packet))

    def _is_bookkeeping(self, stream: Any) -> bool:
        # Timecodes number frames at the old rate. Chapters are copied as such; their track in MP4 is only a
        # second copy, which the muxer makes anew.
        is_chapter_track = stream.name == "bin_data" and self._container.chapters()
        return "timecode" in stream.metadata or bool(is_chapter_track)

    def _add_stretched(self, output: Any, stream: Any) -> None:
        if stream.codec_context is None:
            self.notes.append(f"The audio stream #{stream.index} cannot be decoded and is left out.")
            return
        try:
            stretch = AudioStretch(output, stream, self._timeline)
        except (av.error.FFmpegError, ValueError) as error:
            self.notes.append(f"The audio stream #{stream.index} cannot be slowed down ({error}) and is left out.")
            return
        stretch.output.metadata.update(kept_stream_tags(dict(stream.metadata)))
        stretch.output.disposition = disposition(stream)
        self._stretches[stream.index] = stretch

    def copy_chapters(self, output: Any) -> None:
        """Chapters, moved along with the video; those outside a cut are dropped, others trimmed."""
        if not hasattr(output, "set_chapters"):
            return
        line, chapters = self._timeline, []
        for chapter in self._container.chapters():
            base = Fraction(chapter["time_base"])
            start, end = chapter["start"] * base, chapter["end"] * base
            if line.cut:
                start = max(start, line.origin)
                end = end if line.end is None else min(end, line.end)
                if start >= end:
                    continue
            fine = CHAPTER_TICK if line.cut else base
            moved = {**chapter, "time_base": fine}
            moved["start"], moved["end"] = round(line(start) / fine), round(line(end) / fine)
            chapters.append(moved)
        if chapters:
            output.set_chapters(chapters)

    @property
    def audio_streams(self) -> int:
        """The number of audio streams in the input."""
        return len(self._container.streams.audio)

    # While the video is written

    def packets(self, until: Fraction | None) -> Iterator[Any]:
        """Output packets for input times before ``until`` (seconds); all that is left for None."""
        if not self._sources:
            return
        if self._source is None:
            self._seek()
            self._source = self._demux()
        while True:
            packet = self._pending or next(self._source, None)
            self._pending = None
            if packet is None:
                return
            time = _time(packet)
            if until is not None and time is not None and time >= until:
                self._pending = packet
                return
            yield from self._carried(packet, time)

    def _seek(self) -> None:
        if self._timeline.cut and self._timeline.origin > 0:
            try:
                self._container.seek(int(self._timeline.origin * 1_000_000))
            except av.error.FFmpegError:
                self._container.seek(0)

    def _demux(self) -> Iterator[Any]:
        packets = self._container.demux([self._container.streams[i] for i in self._sources])
        try:
            yield from packets
        except (av.error.FFmpegError, OSError):
            # The reader of the video meets the same damage and reports it. What was decoded is flushed.
            for stretch in self._stretches.values():
                yield from stretch.flush()

    def _carried(self, packet: Any, time: Fraction | None) -> Iterator[Any]:
        line, index = self._timeline, packet.stream.index
        if packet.size == 0 and time is None:  # the end of a stream
            if index in self._stretches:
                yield from self._stretches[index].flush()
            return
        if packet.is_discard and not self._keeps_discarded:
            return
        if line.cut and time is not None:
            kind = packet.stream.type
            length = (packet.duration or 0) * packet.time_base
            # Subtitles that are still on screen when the cut begins are shown; sound before it is not heard.
            begun = time + length > line.origin if kind == "subtitle" else time >= line.origin
            if not begun and not is_cover(packet.stream):
                return
            if line.end is not None and time >= line.end:
                return
        if index in self._stretches:
            yield from self._stretches[index].packets(packet)
            return
        self._retime(packet)
        packet.stream = self._copies[index]
        yield packet

    def _retime(self, packet: Any) -> None:
        line = self._timeline
        if line.is_identity:
            return
        tick = packet.time_base
        # Rounded once per stream, not per packet: distances between packets stay what they are.
        origin, begin = round(line.origin / tick), round(line.begin / tick)
        end = None if packet.pts is None else packet.pts + (packet.duration or 0)
        for name in ("pts", "dts"):
            value = getattr(packet, name)
            if value is not None:
                if packet.stream.type == "subtitle":
                    value = max(value, origin)
                setattr(packet, name, begin + (value - origin) * line.stretch)
        if packet.duration and end is not None:
            packet.duration = begin + (end - origin) * line.stretch - packet.pts


def _time(packet: Any) -> Fraction | None:
    ticks = packet.dts if packet.dts is not None else packet.pts
    return None if ticks is None else ticks * packet.time_base


def _shown(name: str | None) -> str:
    """A name out of the file, such as an attachment's, without what would move the cursor of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name or "")[:SHOWN_LETTERS]


def _can_hold(format: str, stream: Any) -> bool:
    """Tries: a container of that format with only this stream, in memory."""
    trial = av.open(io.BytesIO(), "w", format=format)
    try:
        if stream.type == "attachment":
            trial.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
            return format == "matroska"
        copy = trial.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(kept_stream_tags(dict(stream.metadata)))
        trial.start_encoding()
    except (av.error.FFmpegError, ValueError, AttributeError, TypeError):
        return False
    finally:
        with contextlib.suppress(av.error.FFmpegError):  # nothing was meant to be kept
            trial.close()
    return True
