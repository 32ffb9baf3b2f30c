"""Which layers suffer from INT8: the dB each costs alone, and which to keep in floating point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from vtsr.calibration.gate import CANDIDATE, REFERENCE, WINDOW, WithGraph, verdict
from vtsr.calibration.layers import blocks, find_layers, fold_half
from vtsr.errors import OptionError
from vtsr.evaluation.clips import Clip
from vtsr.evaluation.judge import evaluate
from vtsr.evaluation.methods import Method
from vtsr.evaluation.scores import level_name
from vtsr.runtime.models import ModelFolder

# The quantised graph in which the named layers stay in floating point.
Build = Callable[[Sequence[str]], onnx.ModelProto]


@dataclass(frozen=True)
class Cost:
    """Layers that are quantised together, and the mean dB they cost at the deepest level when they are all there is."""

    layers: tuple[str, ...]
    drop: float


def rank(
    folder: ModelFolder, build: Build, clips: Sequence[Clip], *,
    levels: int = 3, threads: int | None = 1, progress: bool = False,
) -> list[Cost]:  # fmt: skip
    """Every block of layers (see `vtsr.calibration.layers.blocks`) quantised alone, the most harmful first."""
    layers = find_layers(fold_half(onnx.load_from_string(folder.read("step.onnx"))))
    groups = blocks(layers)
    names = [layer.name for layer in layers]
    methods: list[Method] = [WithGraph(REFERENCE, folder, None, threads)]
    for group in groups:
        graph = build([name for name in names if name not in group])
        methods.append(WithGraph(group[0], folder, graph.SerializeToString(), threads))
    result = evaluate(clips, methods, WINDOW, levels=levels, metrics=("psnr",), progress=progress)
    deepest = level_name(2**levels)
    costs = [Cost(group, verdict(result, REFERENCE, group[0]).drop[deepest]) for group in groups]
    return sorted(costs, key=lambda cost: -cost.drop)


def keep_within(
    budget: float, costs: Sequence[Cost], folder: ModelFolder, build: Build, clips: Sequence[Clip], *,
    levels: int = 3, threads: int | None = 1,
) -> tuple[tuple[str, ...], float]:  # fmt: skip
    """The fewest of the most harmful layers to keep, so that the drop at the deepest level is within ``budget`` dB.

    Returns them and the drop that remains. Raises `OptionError` if only the floating-point model is within it.
    """
    keep: tuple[str, ...] = ()
    deepest = level_name(2**levels)
    for following in (*costs[:-1], None):
        graph = build(keep).SerializeToString()
        methods: list[Method] = [
            WithGraph(REFERENCE, folder, None, threads), WithGraph(CANDIDATE, folder, graph, threads),
        ]  # fmt: skip
        result = evaluate(clips, methods, WINDOW, levels=levels, metrics=("psnr",))
        drop = verdict(result, REFERENCE, CANDIDATE).drop[deepest]
        if drop <= budget:
            return keep, drop
        if following is not None:
            keep = (*keep, *following.layers)
    raise OptionError(f"No choice of layers keeps INT8 within {budget} dB; use a larger --budget, or fp16.")
