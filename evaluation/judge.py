"""The evaluation itself: clips through methods, every output frame against its true exposure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vtsr.errors import InputError, OptionError
from vtsr.evaluation.clips import Clip, Image
from vtsr.evaluation.methods import External, Method, Outputs, Stream
from vtsr.evaluation.protocol import Window, levels_of, to_uint8, windows
from vtsr.evaluation.region import Mask, moving_pixels
from vtsr.evaluation.scores import Curve, Result, Score, nan_mean
from vtsr.training import metrics as measure

METRICS = ("psnr", "ssim", "tof")
REGIONS = ("moving",)


@dataclass(frozen=True)
class View:
    """One input frame with everything made of it, for whoever wants to look.

    ``truths`` and each entry of ``outputs`` (by method name) map outputs per input frame to
    uint8 (factor, H, W, 3).
    """

    clip: Clip
    window: Window
    blurred: Image
    truths: dict[int, Image]
    outputs: dict[str, dict[int, Image]]


class Observer(Protocol):
    """Sees every input frame of an evaluation as it is judged, in order."""

    def see(self, view: View) -> None: ...

    def close(self) -> None: ...


def evaluate(
    clips: Iterable[Clip], methods: Sequence[Method | External], window: int = 8, *,
    levels: int | None = None, linear: bool = False, region: str | None = None,
    metrics: Sequence[str] = METRICS, observers: Sequence[Observer] = (), progress: bool = False,
) -> Result:  # fmt: skip
    """Judges methods side by side by the protocol of `vtsr.evaluation.protocol`.

    Clips are streamed: a few windows of original frames are in memory at a time, whatever their length.

    window
        Original frames averaged into one input frame, a power of two.
    levels
        Levels to judge, 1 and up; by default all the window allows (log2 of it, at most 4).
    linear
        Average in linear light instead of coded values.
    region
        ``"moving"`` scores PSNR and SSIM on the pixels that move; None on all. tOF is always of all.
    metrics
        Which of ``"psnr"``, ``"ssim"`` and ``"tof"`` to measure; the others are NaN.
    observers
        See every input frame and its outputs, except external ones of another window.
    progress
        Shows a progress bar on a terminal.

    Raises `OptionError` for options out of range and `InputError` for clips that are unreadable or
    shorter than one window.
    """
    deepest = levels_of(window)
    levels = deepest if levels is None else levels
    if not 1 <= levels <= deepest:
        raise OptionError(f"A window of {window} frames can judge levels 1 to {deepest}, not {levels}.")
    if region is not None and region not in REGIONS:
        raise OptionError(f"The region must be one of {', '.join(REGIONS)}, not '{region}'.")
    if unknown := set(metrics) - set(METRICS):
        raise OptionError(f"There is no metric '{unknown.pop()}'; there are {', '.join(METRICS)}.")
    names = [method.name for method in methods]
    if not names:
        raise OptionError("There is no method to judge.")
    if len(set(names)) < len(names):
        raise OptionError("Two methods have the same name; leave one out or rename it.")

    scores: list[Score] = []
    clips = list(clips)
    if len({clip.name for clip in clips}) < len(clips):
        raise OptionError("Two clips have the same name; rename one.")
    total = sum(clip.length // window for clip in clips if clip.length)
    with tqdm(total=total or None, unit="frame", disable=None if progress else True) as bar:
        for clip in clips:
            bar.set_description(clip.name)
            found: list[Score] = []
            # Methods that take the same inputs are judged together, in step.
            for size in dict.fromkeys([window, *(_window(method, window) for method in methods)]):
                together = [method for method in methods if _window(method, window) == size]
                if together:
                    judge = _Judge(clip, together, size, levels, linear, region, metrics)
                    found += judge.run(observers if size == window else (), bar if size == window else None)
            scores += sorted(found, key=lambda score: names.index(score.method))
    for observer in observers:
        observer.close()
    return Result(window, scores, linear, region)


def _window(method: Method | External, window: int) -> int:
    return (method.window or window) if isinstance(method, External) else window


@dataclass
class _Truths:
    """The truth at one number of parts, for the current window, and the flow along it for tOF."""

    frames: Image = field(default_factory=lambda: np.empty(0, np.uint8))
    flows: list[NDArray[np.float32]] = field(default_factory=list)
    last: Image | None = None


class _Tally:
    """The scores of one method at one level of one clip, frame by frame."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = metrics
        self.psnr: list[float] = []
        self.ssim: list[float] = []
        self.tof: list[float] = []
        self._last: Image | None = None

    def add(self, frames: Image, truth: _Truths, mask: Mask | None) -> None:
        for frame, target in zip(frames, truth.frames, strict=True):
            if "psnr" in self.metrics:
                self.psnr.append(measure.psnr(frame, target, mask))
            if "ssim" in self.metrics:
                self.ssim.append(measure.ssim(frame, target, mask))
        if "tof" in self.metrics:
            chain = [*([] if self._last is None else [self._last]), *frames]
            for n, target_flow in enumerate(truth.flows):
                ours = measure.flow(chain[n], chain[n + 1])
                self.tof.append(measure.flow_difference(ours, target_flow))
            self._last = frames[-1]

    def score(self, clip: Clip, method: str, window: int, factor: int) -> Score:
        psnr, ssim = np.array(self.psnr), np.array(self.ssim)
        return Score(
            clip.name, clip.group, method, window, factor,
            nan_mean(psnr), nan_mean(ssim), nan_mean(self.tof), _flicker(psnr, factor), _flicker(ssim, factor),
            psnr, ssim,
        )  # fmt: skip


def _flicker(curve: Curve, factor: int) -> float:
    return measure.flicker_amplitude(curve, factor) if len(curve) else float("nan")


class _Judge:
    """One clip, and the methods that take its inputs at one window."""

    def __init__(
        self, clip: Clip, methods: Sequence[Method | External], window: int, levels: int,
        linear: bool, region: str | None, metrics: Sequence[str],
    ) -> None:  # fmt: skip
        self.clip, self.methods, self.window, self.levels = clip, methods, window, levels
        self.linear, self.region, self.metrics = linear, region, metrics
        self.tallies: dict[tuple[str, int], _Tally] = {}
        self.truths: dict[int, _Truths] = {}

    def run(self, observers: Sequence[Observer], bar: Any) -> list[Score]:
        streams = {method.name: self._start(method) for method in self.methods}
        done: dict[str, deque[Outputs]] = {name: deque() for name in streams}
        waiting: deque[Window] = deque()
        for window in windows(self.clip, self.window, self.linear):
            waiting.append(window)
            for name, stream in streams.items():
                done[name] += stream.push(window.blurred)
            while waiting and all(done.values()):
                self._judge(waiting.popleft(), {n: queue.popleft() for n, queue in done.items()}, observers)
                if bar is not None:
                    bar.update()
        for name, stream in streams.items():
            done[name] += stream.flush()
        while waiting:
            self._judge(waiting.popleft(), {n: queue.popleft() for n, queue in done.items()}, observers)
            if bar is not None:
                bar.update()
        if not self.tallies:
            raise self._too_short()
        return [
            tally.score(self.clip, name, self.window, factor) for (name, factor), tally in self.tallies.items()
        ]

    def _start(self, method: Method | External) -> Stream:
        if isinstance(method, External):
            # Counted, as the length a container states may be wrong.
            inputs = sum(1 for _ in self.clip) // self.window
            if not inputs:
                raise self._too_short()
            return method.open(self.clip, inputs)
        return method.start(self.levels)

    def _too_short(self) -> InputError:
        return InputError(
            f"The clip '{self.clip.name}' has fewer than the {self.window} frames of one window; "
            "choose a smaller window or a longer clip."
        )

    def _judge(self, window: Window, outputs: dict[str, Outputs], observers: Sequence[Observer]) -> None:
        mask = moving_pixels(window.originals) if self.region == "moving" else None
        for factor in sorted({factor for made in outputs.values() for factor in made}):
            self._advance(self.truths.setdefault(factor, _Truths()), window.truth(factor))
        rounded: dict[str, dict[int, Image]] = {}
        for name, made in outputs.items():
            rounded[name] = {
                factor: frames if frames.dtype == np.uint8 else to_uint8(frames) for factor, frames in made.items()
            }
            for factor, frames in rounded[name].items():
                tally = self.tallies.setdefault((name, factor), _Tally(self.metrics))
                tally.add(frames, self.truths[factor], mask)
        if observers:
            truths = {factor: truth.frames for factor, truth in self.truths.items()}
            view = View(self.clip, window, window.blurred, truths, rounded)
            for observer in observers:
                observer.see(view)

    def _advance(self, truth: _Truths, frames: Image) -> None:
        if "tof" in self.metrics:
            chain = [*([] if truth.last is None else [truth.last]), *frames]
            truth.flows = [measure.flow(chain[n], chain[n + 1]) for n in range(len(chain) - 1)]
            truth.last = frames[-1]
        truth.frames = frames
