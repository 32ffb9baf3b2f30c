"""Audio slowed down with the video, its pitch kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error

from vtsr.runtime.video.facts import Timeline

SLOWEST_TEMPO = 0.5  # of one atempo filter; slower needs several in a row
OPUS_RATE = 48000  # Hz, the rate Opus always decodes at


class AudioStretch:
    """Decodes an audio stream, slows it down by FFmpeg's ``atempo`` filter and encodes it anew.

    ``output`` is the new stream: Opus in WebM, AAC elsewhere. A stretch by 2**N is N filters in a row.
    """

    def __init__(self, container: Any, stream: Any, timeline: Timeline) -> None:
        opus = container.format.name == "webm"
        rate = OPUS_RATE if opus else stream.codec_context.sample_rate
        layout = stream.codec_context.layout.name
        self.output = container.add_stream("libopus" if opus else "aac", rate=rate)
        self.output.codec_context.layout = layout
        channels = max(1, stream.codec_context.channels)
        self.output.codec_context.bit_rate = 96_000 * channels
        self._timeline = timeline
        self._tick = Fraction(1, rate)
        self._next: int | None = None  # pts of the next block of samples, in ticks
        self._decoder = stream
        self._graph = av.filter.Graph()
        nodes = [self._graph.add_abuffer(template=stream)]
        factor = timeline.stretch
        while factor > 1:
            step = min(Fraction(factor), 1 / Fraction(SLOWEST_TEMPO))
            nodes.append(self._graph.add("atempo", f"{float(1 / step)}"))
            factor = int(factor / step)
        sample_format = self.output.codec_context.format.name
        nodes.append(
            self._graph.add(
                "aformat", f"sample_fmts={sample_format}:sample_rates={rate}:channel_layouts={layout}"
            )
        )
        nodes.append(self._graph.add("abuffersink"))
        for first, second in itertools.pairwise(nodes):
            first.link_to(second)
        self._graph.configure()
        self._finished = False

    def packets(self, packet: Any) -> Iterator[Any]:
        """Encoded packets for one packet of the source."""
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            return  # damaged; the sound jumps there
        for frame in frames:
            if self._next is None:
                time = Fraction(0) if frame.pts is None else frame.pts * frame.time_base
                self._next = round(self._timeline(time) / self._tick)
            self._graph.push(frame)
            yield from self._encode()

    def flush(self) -> Iterator[Any]:
        """What decoder, filters and encoder still hold; call once, at the end of the source."""
        if self._finished or self._next is None:
            return
        self._finished = True
        for frame in self._decoder.decode(None):
            self._graph.push(frame)
        self._graph.push(None)
        yield from self._encode()
        yield from self.output.encode(None)

    def _encode(self) -> Iterator[Any]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            # Counted, not rounded from times: the new audio is gapless.
            assert self._next is not None
            frame.pts, frame.time_base = self._next, self._tick
            self._next += frame.samples
            yield from self.output.encode(frame)
