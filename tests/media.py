"""Tiny clips rendered for the tests: pictures from NumPy, encoded with PyAV, no file needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.frame import Frame

Array = NDArray[Any]


def picture(index: int, width: int = 64, height: int = 48) -> Array:
    """An RGB picture (height, width, 3), uint8: a soft texture that pans by two pixels per index.

    Every index gives another picture, and neighbours are related as in video.
    """
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x = x + 2.0 * index
    red = 128 + 90 * np.sin(x / 5.0) * np.cos(y / 7.0)
    green = 128 + 80 * np.sin((x + y) / 9.0)
    blue = 128 + 70 * np.cos((x - 2 * y) / 11.0)
    return np.rint(np.stack([red, green, blue], axis=-1)).astype(np.uint8)


def planes(index: int, pix_fmt: str = "yuv420p", width: int = 64, height: int = 48) -> list[Array]:
    """Planes of a moving picture in ``pix_fmt`` (planar YUV or gray), within the legal video range."""
    fmt = av.VideoFormat(pix_fmt, width, height)
    bits = fmt.components[0].bits
    dtype = np.uint8 if bits == 8 else np.uint16
    base = picture(index, width, height).astype(np.float64)
    out = []
    for component in fmt.components:
        plane = base[..., component.plane]
        plane = plane[:: -(-height // component.height), :: -(-width // component.width)]
        # Codes 32..224 of 8 bits, with real values in the additional bits.
        scaled = (32 + plane * (192 / 255)) * 2 ** (bits - 8) + (index % 3 if bits > 8 else 0)
        out.append(np.ascontiguousarray(np.rint(scaled).astype(dtype)[: component.height, : component.width]))
    return out


def to_av(pictures: Sequence[Array], pix_fmt: str) -> av.VideoFrame:
    """An FFmpeg frame from planes (or one packed plane), row by row."""
    height, width = pictures[0].shape[:2]
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, source in zip(frame.planes, pictures, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        data = np.ascontiguousarray(source).view(np.uint8).reshape(source.shape[0], -1)
        rows[: data.shape[0], : data.shape[1]] = data
    return frame


def from_av(frame: av.VideoFrame) -> list[Array]:
    """The planes of an FFmpeg frame (planar YUV or gray), row by row."""
    out = []
    for component in frame.format.components:
        plane = frame.planes[component.plane]
        dtype = np.uint8 if component.bits == 8 else np.uint16
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        row_bytes = component.width * dtype().itemsize
        out.append(np.ascontiguousarray(rows[: component.height, :row_bytes]).view(dtype))
    return out


def write_clip(
    path: Path,
    frames: int = 10,
    *,
    size: tuple[int, int] = (64, 48),
    rate: Fraction | int = 25,
    codec: str = "ffv1",
    pix_fmt: str = "yuv420p",
    time_base: Fraction | None = None,
    pts: Iterable[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    prepare: Callable[[Any, Any], None] | None = None,
    before_mux: Callable[[Any], None] | None = None,
) -> Path:
    """Encodes `planes` 0..frames-1 and returns ``path``; lossless by default.

    pts
        Timestamps in ``time_base``; 0, 1, 2, ... frame times by default.
    prepare(container, stream)
        Called before the header is written, e.g. to set tags or to add streams.
    before_mux(container)
        Called after the video stream is open, before its first packet, e.g. to write audio.
    """
    rate = Fraction(rate)
    time_base = time_base or 1 / rate
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.time_base = time_base
        stream.codec_context.time_base = time_base
        if prepare:
            prepare(container, stream)
        if before_mux:
            before_mux(container)
        times = list(pts) if pts is not None else [round(n / rate / time_base) for n in range(frames)]
        for index, time in enumerate(times):
            frame = to_av(planes(index, pix_fmt, *size), pix_fmt)
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_planes(path: Path) -> list[list[Array]]:
    """All pictures of a video, as planes."""
    with av.open(str(path)) as container:
        return [from_av(frame) for frame in container.decode(video=0)]


def read_times(path: Path) -> list[Fraction]:
    """The presentation times of all pictures of a video, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sine(seconds: float, rate: int = 48000, pitch: float = 440.0) -> Array:
    """A stereo sine, float32 (2, samples), with a slow swell so that every moment is different."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.4 * np.sin(2 * np.pi * pitch * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.7 * time))
    return np.stack([wave, 0.5 * wave]).astype(np.float32)


def mux_audio(container: Any, stream: Any, samples: Array, start: Fraction = Fraction(0)) -> None:
    """Encodes float32 samples (2, n) into an opened audio stream of ``container``."""
    rate = stream.codec_context.sample_rate
    for begin in range(0, samples.shape[1], 1024):
        part = np.ascontiguousarray(samples[:, begin : begin + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = begin + round(start * rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def read_audio(path: Path) -> Array:
    """All samples of the first audio stream, decoded (channels, n)."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    channels = frames[0].layout.nb_channels
    blocks = [f.to_ndarray() for f in frames]
    # Packed formats come as one row of samples that alternate between channels.
    return np.concatenate([b if b.shape[0] == channels else b.reshape(-1, channels).T for b in blocks], axis=1)


class Repeat:
    """Stands where `vtsr.Upconverter` does and repeats every frame, with the right times.

    What tests of files and containers need: the pictures that come out are known exactly.
    """

    def __init__(self, levels: int = 2, **options: Any) -> None:
        self.parts = 2**levels
        self.options = options
        self.precision = "fp32"
        self.backend_name = "onnxruntime"
        self.cuts: list[int] = []
        self.stage_seconds = {"level 1": 0.0}

    def push(self, frame: Frame) -> list[Frame]:
        length = frame.duration / self.parts
        return [
            replace(frame, pts=frame.pts + phase * length, duration=length, phase=phase)
            for phase in range(self.parts)
        ]

    def flush(self) -> list[Frame]:
        return []

    def close(self) -> None:
        pass

    def __enter__(self) -> Repeat:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass
class Outcome:
    """How a command ended: exit code and what it said on stderr."""

    code: int
    said: str


class Command:
    """`vtsr-upconvert` as a function, with `Repeat` instead of the network."""

    def __init__(self, monkeypatch: Any, capsys: Any) -> None:
        monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Repeat)
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        from vtsr.runtime.upconvert import main

        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse ends the process on bad options
            code = int(stop.code or 0)
        return Outcome(code, self._capsys.readouterr().err)
