"""Audio slowed down with the video, its pitch kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error

from vtsr.runtime.video.facts import Timeline

SLOWEST_TEMPO = Fraction(1, 2)  # of one atempo filter; slower needs several in a row
COMMON_RATE = 48000  # Hz, for encoders that do not take the source's
BITS_PER_CHANNEL = 96_000  # bits per second
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")  # FFmpeg's defaults by channel count


class AudioStretch:
    """Decodes an audio stream, slows it down by FFmpeg's ``atempo`` filter and encodes it anew.

    ``output`` is the new stream: Opus in WebM, AAC elsewhere. A stretch by 2**N is N filters in a row.
    """

    def __init__(self, container: Any, stream: Any, timeline: Timeline) -> None:
        name = "libopus" if container.format.name == "webm" else "aac"
        context = stream.codec_context
        rates = av.Codec(name, "w").audio_rates or [context.sample_rate]
        rate = context.sample_rate if context.sample_rate in rates else COMMON_RATE
        channels = min(max(1, context.channels), len(LAYOUTS))
        # Raw audio often says only how many channels there are.
        layout = LAYOUTS[channels - 1] if "channels" in context.layout.name else context.layout.name
        self._graph, sink_format = _graph(stream, timeline.stretch, name, rate, layout)
        self.output = container.add_stream(name, rate=rate)
        self.output.codec_context.format = sink_format
        self.output.codec_context.layout = layout
        self.output.codec_context.bit_rate = BITS_PER_CHANNEL * channels
        self._timeline = timeline
        self._tick = Fraction(1, rate)
        self._next: int | None = None  # pts of the next block of samples, in ticks
        self._decoder = stream
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


def _graph(stream: Any, stretch: int, encoder: str, rate: int, layout: str) -> tuple[Any, str]:
    """The filters from the decoder to the encoder, and the sample format they end in."""
    formats = av.Codec(encoder, "w").audio_formats
    sample_format = formats[0].name if formats else "fltp"
    graph = av.filter.Graph()
    nodes = [graph.add_abuffer(template=stream)]
    tempo = Fraction(1, stretch)
    while tempo < 1:
        step = max(tempo, SLOWEST_TEMPO)
        nodes.append(graph.add("atempo", str(float(step))))
        tempo /= step
    nodes.append(
        graph.add("aformat", f"sample_fmts={sample_format}:sample_rates={rate}:channel_layouts={layout}")
    )
    nodes.append(graph.add("abuffersink"))
    for first, second in itertools.pairwise(nodes):
        first.link_to(second)
    graph.configure()
    return graph, sample_format
