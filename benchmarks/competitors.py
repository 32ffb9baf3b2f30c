"""What a user would take instead: ffmpeg's minterpolate, optical flow in OpenCV, blending.

Every method is there twice: as a `Method` for `vtsr.evaluation.evaluate`, which judges it, and as a function from
input frames to output frames at one factor, which is timed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr.evaluation.methods import (
    Blend,
    Flow,
    Method,
    Model,
    Outputs,
    Stream,
    WithLaw,
    _Between,
    _Blended,
    _Warped,
)  # fmt: skip
from vtsr.evaluation.optical_flow import dis_flow
from vtsr.evaluation.protocol import to_uint8
from vtsr.runtime.models import INT8_STEP, open_model, shipped_models

Image = NDArray[np.uint8]
Make = Callable[[Sequence[Image], int], Any]  # input frames and outputs per input; consumes or returns the outputs

RATE = 24  # frames per second of what ffmpeg reads; any number will do
PADDING_BEFORE, PADDING_AFTER = 1, 2  # repeated frames: minterpolate gives nothing after the last but one
BEST = "mc_mode=aobmc:me_mode=bidir:vsbmc=1"


class HalfSizeFlow(_Warped):
    """Flow at half size, as the preset of OpenCV's DIS does it by default."""

    def __init__(self, first: Image, second: Image) -> None:
        self.first, self.second = first.astype(np.float32), second.astype(np.float32)
        self.forward, self.backward = dis_flow(first, second, 1), dis_flow(second, first, 1)
        y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
        self.grid = np.stack((x, y), axis=-1)


@dataclass(frozen=True)
class FastFlow:
    """As `vtsr.evaluation.methods.Flow`, with the flow at half size."""

    name: str = "fast flow"

    def start(self, levels: int) -> Stream:
        return _Between(levels, HalfSizeFlow)


@dataclass(frozen=True)
class Minterpolate:
    """ffmpeg's motion-compensated interpolation, run on the blurred frames.

    It takes frames for instants, while a frame's exposures lie around its centre. So it runs at twice the highest
    output rate, and those frames are taken that are exactly at the centres of the exposures.
    """

    ffmpeg: str
    options: str = ""
    name: str = "minterpolate"

    def start(self, levels: int) -> Stream:
        return _Interpolated(self, levels)

    def command(self, width: int, height: int, filters: str, output: Sequence[str]) -> list[str]:
        """Reads RGB frames from stdin."""
        quiet = [self.ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin"]
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(RATE), "-i", "-"]
        return [*quiet, *source, "-vf", filters, "-sws_flags", "accurate_rnd+full_chroma_int", *output]

    def filter(self, factor: int) -> str:
        return f"minterpolate=fps={factor * RATE}" + (f":{self.options}" if self.options else "")

    def at_centres(self, frames: Sequence[Image], factors: Sequence[int]) -> dict[int, Image]:
        """The exposures of all frames by factor, uint8 (N, factor, H, W, 3); factors are powers of two."""
        height, width = frames[0].shape[:2]
        padded = [frames[0]] * PADDING_BEFORE + list(frames) + [frames[-1]] * PADDING_AFTER
        output = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        finest = 2 * max(factors)
        made = run(self.command(width, height, self.filter(finest), output), padded)
        pictures = np.frombuffer(made, np.uint8).reshape(-1, height, width, 3)
        # Picture i is i / finest frame times after the first, padded frame; frame n lasts from its centre - 1/2 on.
        begin = finest * PADDING_BEFORE - finest // 2
        end = begin + finest * len(frames)
        found = {}
        for factor in factors:
            step = finest // factor
            found[factor] = pictures[begin + step // 2 : end : step].reshape(-1, factor, height, width, 3)
        return found

    def convert(self, frames: Sequence[Image], factor: int) -> None:
        """The frames at ``factor`` times the rate, thrown away."""
        height, width = frames[0].shape[:2]
        run(self.command(width, height, self.filter(factor), ["-f", "null", "-"]), frames)

    def only_read(self, frames: Sequence[Image]) -> None:
        """What `convert` does besides interpolating."""
        height, width = frames[0].shape[:2]
        run(self.command(width, height, "null", ["-f", "null", "-"]), frames)


def run(command: Sequence[str], frames: Sequence[Image]) -> bytes:
    """What a command writes when it is given frames. Raises `RuntimeError` with its last words if it fails."""
    data = b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)
    done = subprocess.run(list(command), input=data, capture_output=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"{Path(command[0]).name} failed: {last}")
    return done.stdout


@dataclass
class _Interpolated:
    """Collects the clip and interpolates it at the end, as the filter sees whole files."""

    method: Minterpolate
    levels: int
    _frames: list[Image] = field(default_factory=list)

    def push(self, frame: Image) -> list[Outputs]:
        self._frames.append(frame)
        return []

    def flush(self) -> list[Outputs]:
        if not self._frames:
            return []
        made = self.method.at_centres(self._frames, [2**k for k in range(1, self.levels + 1)])
        return [{factor: frames[n] for factor, frames in made.items()} for n in range(len(self._frames))]


def interpolate(
    frames: Sequence[Image], factor: int, pair: Callable[[Image, Image], Any], law: bool
) -> Iterator[Image]:
    """The exposures of every frame between two others: what `_Between` computes, at one factor only."""
    before = pair(frames[0], frames[1])
    for n in range(1, len(frames) - 1):
        after = pair(frames[n], frames[n + 1])
        offsets = [(j + 0.5) / factor - 0.5 for j in range(factor)]
        made = [before.at(1 + t) if t < 0 else after.at(t) for t in offsets]
        if law:
            error = frames[n].astype(np.float32) - np.mean(made, axis=0, dtype=np.float32)
            made = [picture + error for picture in made]
        yield from (to_uint8(picture) for picture in made)
        before = after


@dataclass(frozen=True)
class Competitor:
    """A method, and how to time it.

    make
        Makes the output frames at one factor and drops them.
    outputs
        How many it makes of N frames at a factor.
    only_read
        What of `make` is not interpolation and is taken off; None if nothing.
    """

    method: Method
    make: Make
    outputs: Callable[[int, int], int]
    ours: bool = False
    precision: str = ""
    only_read: Callable[[Sequence[Image]], None] | None = None

    @property
    def name(self) -> str:
        return self.method.name


def competitors(threads: int, precisions: Sequence[str], ffmpeg: str | None = None) -> list[Competitor]:
    """All there are on this machine: shipped models first. ``ffmpeg`` is the program's path, if it is there."""
    found = []
    for name in shipped_models():
        for precision in precisions:
            if precision == "int8" and INT8_STEP not in open_model(name).files:
                continue
            found.append(_model(name, precision, threads))
    between: list[tuple[Method, Callable[[Image, Image], Any], bool]] = [
        (Blend(), _Blended, False), (FastFlow(), HalfSizeFlow, False), (Flow(), _Warped, False),
        (WithLaw(Flow()), _Warped, True),
    ]  # fmt: skip
    for method, pair, law in between:
        found.append(Competitor(method, _consume(pair, law), lambda n, factor: (n - 2) * factor))
    if ffmpeg:
        for minterpolate in (Minterpolate(ffmpeg), Minterpolate(ffmpeg, BEST, "minterpolate, best")):
            made = Competitor(minterpolate, minterpolate.convert, lambda n, factor: (n - 2) * factor + 1)
            found.append(replace(made, only_read=minterpolate.only_read))
    return found


def find_ffmpeg() -> str | None:
    return shutil.which("ffmpeg")


def _model(name: str, precision: str, threads: int) -> Competitor:
    from vtsr import Upconverter

    def make(frames: Sequence[Image], factor: int) -> None:
        levels = factor.bit_length() - 1
        if levels not in opened:  # loading is not what is timed: the first, untimed run does it
            opened[levels] = Upconverter(
                levels, model=name, precision=precision, threads=threads, backend="onnxruntime", scene_threshold=1
            )
        for _ in opened[levels].run(frames):
            pass

    opened: dict[int, Upconverter] = {}
    method = Model(name, "onnxruntime", threads, f"vtsr {name} {precision}", precision)
    return Competitor(method, make, lambda n, factor: n * factor, True, precision)


def _consume(pair: Callable[[Image, Image], Any], law: bool) -> Make:
    def make(frames: Sequence[Image], factor: int) -> None:
        for _ in interpolate(frames, factor, pair, law):
            pass

    return make
