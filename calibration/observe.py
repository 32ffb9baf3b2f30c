"""Observing a model: the recursion is run, and what its tensors hold is counted, level by level.

Inputs of levels 2 and up are the model's own outputs, sharper and with other errors than any camera's
frames; ranges of level 1 alone would not hold there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from vtsr.calibration.layers import find_layers, fold_half, model_hash, value_info
from vtsr.calibration.quantize import OUT
from vtsr.calibration.ranges import DEFAULT_METHOD, DEFAULT_PERCENTILE, Histogram, Ranges
from vtsr.errors import OptionError
from vtsr.options import MAX_LEVELS
from vtsr.runtime.backend import StepResult, Tensor
from vtsr.runtime.frame import Frame
from vtsr.runtime.models import ModelFolder
from vtsr.runtime.onnx_backend import OnnxBackend
from vtsr.runtime.recursion import Level

Image = NDArray[np.uint8]


class Observer(OnnxBackend):
    """A backend that counts the inputs and outputs of all layers, under the current ``level``.

    A pair of frames is run at a time, so memory is bounded by one pair's features whatever the level.
    """

    def __init__(self, model: ModelFolder, threads: int | None = None) -> None:
        super().__init__(model, threads)
        graph = fold_half(onnx.load_from_string(model.read("step.onnx")))
        self.hash = model_hash(graph)
        self.level = 1
        self.levels: dict[int, dict[str, Histogram]] = {}
        self._names: dict[str, list[str]] = {}  # tensor -> names it is counted under
        results = {value.name for value in graph.graph.output}
        for layer in find_layers(graph):
            self._names.setdefault(layer.source, []).append(layer.name)
            self._names.setdefault(layer.result, []).append(layer.name + OUT)
        self._outputs = [value.name for value in graph.graph.output]
        graph.graph.output.extend(value_info(name for name in self._names if name not in results))
        self._step = onnxruntime.InferenceSession(
            graph.SerializeToString(), self._options, providers=["CPUExecutionProvider"]
        )

    def step(self, u: Tensor, a_u: Tensor | None, v: Tensor) -> StepResult:
        halves = []
        for frame in v:
            result = self._observed(u, a_u, frame[None])
            halves.append(result.halves)
            u, a_u = result.next_u, result.next_a
        return StepResult(np.concatenate(halves), u, a_u)

    def _observed(self, u: Tensor, a_u: Tensor | None, v: Tensor) -> StepResult:
        carry = np.full((1, 1, 1, 1), a_u is not None, np.float32)
        feeds = {"u": u, "a_u": u if a_u is None else a_u, "carry": carry, "v": v}
        names = [*self._outputs, *self._names]
        values = dict(zip(names, self._step.run(names, feeds), strict=True))
        counts = self.levels.setdefault(self.level, {})
        for tensor, places in self._names.items():
            seen = Histogram.of(values[tensor])
            for name in places:
                counts[name] = counts[name] + seen if name in counts else seen
        return StepResult(*(values[name] for name in self._outputs))


def observe(
    model: ModelFolder, runs: Iterable[Image], levels: int = 3, *,
    method: str = DEFAULT_METHOD, percentile: float = DEFAULT_PERCENTILE, threads: int | None = None,
) -> Ranges:  # fmt: skip
    """Runs the recursion over ``runs``, each uint8 (T, H, W, 3) of consecutive frames, T at least 2.

    Raises `OptionError` for levels out of range or if there are no runs.
    """
    if not 1 <= levels <= MAX_LEVELS:
        raise OptionError(f"The number of levels must be 1 to {MAX_LEVELS}, not {levels}.")
    observer = Observer(model, threads)
    frames = 0
    for run in runs:
        chain = [Level(observer) for _ in range(levels)]
        for picture in run:
            tensor: Tensor | None = observer.ingest([Frame(picture).planes])
            for observer.level, level in enumerate(chain, 1):
                tensor = level.push(tensor)
                if tensor is None:
                    break
        frames += len(run)
    observer.close()
    if not observer.levels:
        raise OptionError("There is nothing to observe; give clips of at least two frames.")
    facts = {"frames": frames, "levels": levels}
    return Ranges(observer.hash, observer.levels, method, percentile, (), facts)
