"""The accuracy gate: a quantised step graph against the model's own, on clips with known truth.

Both are run by ONNX Runtime through the whole recursion and judged by the protocol of
`vtsr.evaluation.protocol`. The clips must not be those of the calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from vtsr.calibration.clips import RENDERED_SIZE
from vtsr.errors import ModelError
from vtsr.evaluation.clips import Clip
from vtsr.evaluation.judge import evaluate
from vtsr.evaluation.methods import Method, Stream, backend_stream
from vtsr.evaluation.scores import Result, level_name
from vtsr.runtime.demo import Street
from vtsr.runtime.models import ModelFolder
from vtsr.runtime.onnx_backend import OnnxBackend

MEAN_DROP = 0.2  # dB, largest accepted at any level, mean over clips
WORST_DROP = 0.4  # dB, largest accepted at any level on any clip
FLICKER_RISE = 0.05  # dB, mean over clips; the amplitude itself is about 1 dB
WINDOW = 8  # original frames per input frame: judges f, f2, f3
REFERENCE, CANDIDATE = "reference", "candidate"
RENDERED_SEED, RENDERED_INPUTS = 77, 4
RENDERED_SPEEDS = (0.15, 0.4, 1.0)  # multiples of the demo's; quiet clips are the ones that show small errors


@dataclass(frozen=True)
class WithGraph:
    """A model folder with another step graph, as a method of the evaluation; None is its own."""

    name: str
    folder: ModelFolder
    step: bytes | None = None
    threads: int | None = 1

    def start(self, levels: int) -> Stream:
        return backend_stream(OnnxBackend(with_graph(self.folder, self.step), self.threads), levels)


@dataclass(frozen=True)
class _Patched(ModelFolder):
    """A model folder one of whose files is another one, in memory."""

    step: bytes = b""

    def read(self, file_name: str) -> bytes:
        return self.step if file_name == "step.onnx" else super().read(file_name)


def with_graph(folder: ModelFolder, step: bytes | None) -> ModelFolder:
    """The folder with other contents of step.onnx."""
    if step is None:
        return folder
    return _Patched(folder.path, folder.name, folder.precision, folder.consistency, folder.files, folder.facts, step)


@dataclass(frozen=True)
class Verdict:
    """What the gate found, by level name ("f", "f2", "f3"): dB of the reference less the candidate's.

    drop, worst
        Mean over clips, and of the clip that loses most.
    flicker_rise
        Mean over clips of the increase of the flicker amplitude, dB.
    """

    drop: Mapping[str, float]
    worst: Mapping[str, float]
    flicker_rise: Mapping[str, float]
    worst_clip: str
    clips: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """What fails, a few words each."""
        limits = (("mean drop", self.drop, MEAN_DROP), ("drop of the worst clip", self.worst, WORST_DROP),
                  ("rise of flicker", self.flicker_rise, FLICKER_RISE))  # fmt: skip
        return [
            f"{what} {value:.3f} dB at {level} (limit {limit})"
            for what, values, limit in limits
            for level, value in values.items()
            if not value <= limit  # NaN fails
        ]

    @property
    def passed(self) -> bool:
        return not self.faults

    def sentence(self) -> str:
        levels = ", ".join(f"{level} {drop:+.3f}" for level, drop in self.drop.items())
        start = f"{'passed' if self.passed else 'FAILED'} on {len(self.clips)} clips: mean drop in dB {levels}"
        return "; ".join([f"{start}; worst {max(self.worst.values()):+.3f} ({self.worst_clip})", *self.faults])

    def to_json(self) -> dict[str, Any]:
        """Plain data for a manifest."""

        def rounded(values: Mapping[str, float]) -> dict[str, float]:
            return {level: round(value, 4) for level, value in values.items()}

        return {
            "passed": self.passed,
            "mean_drop_db": rounded(self.drop), "worst_drop_db": rounded(self.worst),
            "flicker_rise_db": rounded(self.flicker_rise),
            "limits_db": {"mean_drop": MEAN_DROP, "worst_drop": WORST_DROP, "flicker_rise": FLICKER_RISE},
            "worst_clip": self.worst_clip, "clips": list(self.clips),
        }  # fmt: skip


def check(
    folder: ModelFolder, graph: onnx.ModelProto | bytes, clips: Iterable[Clip] | None = None, *,
    levels: int = 3, threads: int | None = 1, progress: bool = False,
) -> Verdict:  # fmt: skip
    """Judges a step graph against ``folder``'s own on clips of original frames (None: rendered ones).

    Both are run by ONNX Runtime on the CPU, whatever the graph is meant for. Raises `ModelError` if it cannot
    run the graph, `InputError` for clips shorter than a window of 8 frames.
    """
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    methods: list[Method] = [WithGraph(REFERENCE, folder, None, threads), WithGraph(CANDIDATE, folder, data, threads)]
    chosen = list(clips) if clips is not None else rendered_clips()
    result = evaluate(chosen, methods, WINDOW, levels=levels, metrics=("psnr",), progress=progress)
    return verdict(result, REFERENCE, CANDIDATE)


def verdict(result: Result, reference: str, candidate: str) -> Verdict:
    """The verdict on one method of an evaluation against another."""
    drop, worst, rise = {}, {}, {}
    worst_clip, largest = "", float("-inf")
    for factor in result.factors:
        before, after = result.of(reference, factor), result.of(candidate, factor)
        if len(before) != len(after) or not before:
            raise ModelError(f"The evaluation lacks {candidate!r} or {reference!r} at some level or clip.")
        drops = np.array([b.psnr - a.psnr for b, a in zip(before, after, strict=True)])
        level = level_name(factor)
        drop[level], worst[level] = float(drops.mean()), float(drops.max())
        rise[level] = float(np.mean([a.flicker_psnr - b.flicker_psnr for b, a in zip(before, after, strict=True)]))
        if worst[level] > largest:
            largest, worst_clip = worst[level], before[int(drops.argmax())].clip
    return Verdict(drop, worst, rise, worst_clip, tuple(result.clips))


def rendered_clips(inputs: int = RENDERED_INPUTS, size: tuple[int, int] = RENDERED_SIZE) -> list[Clip]:
    """Original frames of streets that calibration never sees: `WINDOW` per input frame, at `RENDERED_SPEEDS`."""
    clips = []
    width, height = size
    for index, speed in enumerate(RENDERED_SPEEDS):
        street = Street(RENDERED_SEED + index)
        frames = np.stack([
            np.rint(street.picture(5 + speed * n / WINDOW)[-height:, :width] * 255).astype(np.uint8)
            for n in range(inputs * WINDOW)
        ])  # fmt: skip
        clips.append(Clip.of(f"street {index + 1}", frames, "rendered"))
    return clips
