"""What the activations of a model hold: histograms by recursion level, and ranges from them.

Histograms are of absolute values, as the quantisation is symmetric. Their range is a power of two that
doubles when a larger value comes, two bins becoming one; so they take bounded memory, and any order of
adding and merging gives the same result to the last count.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from vtsr.calibration.layers import model_hash
from vtsr.errors import InputError, ModelError, OptionError, OutputError

FORMAT = "vtsr-ranges-1"
METHODS = ("minmax", "percentile", "entropy", "mse")
DEFAULT_METHOD = "percentile"
BINS = 2048
CODES = 127  # largest code of symmetric int8; -128 is not used
DEFAULT_PERCENTILE = 99.999
LOWEST_EXPONENT, HIGHEST_EXPONENT = -40, 40  # of the range; activations beyond are a broken model

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Counts of |x| in `BINS` equal bins over [0, 2**exponent); ``largest`` is the largest |x|."""

    counts: Counts
    exponent: int
    largest: float

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Histogram:
        """The histogram of an array. Raises `ModelError` for NaN and infinity."""
        size = np.abs(values, dtype=np.float32).ravel()
        largest = float(size.max(initial=0.0))
        if not math.isfinite(largest):
            raise ModelError("The model computes values that are not finite; train or export it again.")
        # frexp: largest = m * 2**e with 0.5 <= m < 1, so it lies inside the range.
        exponent = max(math.frexp(largest)[1], LOWEST_EXPONENT) if largest else LOWEST_EXPONENT
        if exponent > HIGHEST_EXPONENT:
            raise ModelError(f"The model computes values as large as {largest:.1e}; train or export it again.")
        size *= np.float32(BINS * 2.0**-exponent)  # exact: a power of two
        return cls(np.bincount(size.astype(np.int32), minlength=BINS).astype(np.int64), exponent, largest)

    def widened(self, exponent: int) -> Histogram:
        """The same counts over a range of 2**exponent, which is not smaller."""
        counts = self.counts
        for _ in range(exponent - self.exponent):
            counts = np.concatenate([counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
        return replace(self, counts=counts, exponent=exponent)

    def __add__(self, other: Histogram) -> Histogram:
        exponent = max(self.exponent, other.exponent)
        a, b = self.widened(exponent), other.widened(exponent)
        return Histogram(a.counts + b.counts, exponent, max(self.largest, other.largest))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Upper edges of the bins."""
        return np.asarray((np.arange(BINS) + 1) * (2.0**self.exponent / BINS), np.float64)

    def range(self, method: str, percentile: float = DEFAULT_PERCENTILE) -> float:
        """The |x| that becomes the largest code, by one of `METHODS`; larger values saturate."""
        if method not in METHODS:
            raise OptionError(f"There is no method {method!r} of finding ranges; choose one of {', '.join(METHODS)}.")
        if method == "minmax":
            return self.largest
        if method == "percentile":
            return min(self._percentile(percentile), self.largest)
        return min(self._entropy() if method == "entropy" else self._mse(), self.largest)

    def _percentile(self, percentile: float) -> float:
        share = np.cumsum(self.counts) / self.counts.sum()
        return float(self.edges[int(np.searchsorted(share, percentile / 100))])

    def _mse(self) -> float:
        """The range with the smallest mean squared error of rounding and saturation, over bin centres."""
        used = np.flatnonzero(self.counts)
        centres, counts = (used + 0.5) * (2.0**self.exponent / BINS), self.counts[used]
        # From a code as wide as two bins on: the bins would not show the rounding of finer ones.
        candidates = self.edges[2 * CODES :: 8]
        candidates = candidates[candidates < 1.02 * self.largest]
        best, smallest = self.largest, math.inf
        for candidate in (*candidates, self.largest):
            scale = candidate / CODES
            error = np.minimum(np.rint(centres / scale), CODES) * scale - centres
            total = float((counts * error**2).sum())
            if total < smallest:
                best, smallest = float(candidate), total
        return best

    def _entropy(self) -> float:
        """The range whose quantised distribution is nearest to the original by Kullback-Leibler divergence.

        Source: S. Migacz, 8-bit inference with TensorRT, 2017. The first bin is left out, as exact zeros
        after an activation function are coded exactly by every range.
        """
        counts = self.counts.astype(np.float64)
        counts[0] = 0
        if counts.sum() == 0:
            return self.largest
        beyond = counts.sum() - np.cumsum(counts)
        best, smallest = self.largest, math.inf
        codes = CODES + 1
        last = int(np.flatnonzero(counts)[-1]) + 1
        for stop in range(codes, max(last, codes) + 1, 8):
            part = counts[:stop]
            reference = part.copy()
            reference[-1] += beyond[stop - 1]
            code = np.arange(stop) * codes // stop
            sums = np.bincount(code, part, codes)
            filled = np.bincount(code, part > 0, codes)
            spread = np.where(part > 0, (sums / np.maximum(filled, 1))[code], 0)
            divergence = _divergence(reference, spread)
            if divergence < smallest:
                best, smallest = float(self.edges[stop - 1]), divergence
        return best


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence of two unnormalised distributions; where only p has something, q gets a little."""
    if not q.sum():
        return math.inf
    little = 1e-4
    p, q = p / p.sum(), q / q.sum()
    at = p > 0
    return float((p[at] * np.log(p[at] / np.maximum(q[at], little * p[at]))).sum())


@dataclass(frozen=True)
class Ranges:
    """Histograms of one model's activations.

    model
        `vtsr.calibration.layers.model_hash` of the model observed.
    levels
        Level (1, 2, ...) -> tensor -> histogram. A tensor is the name of a layer, for its input, or that with
        ":out", for its output.
    method
        How ranges are found, one of `METHODS`.
    keep_float
        Layers that the sensitivity search keeps in floating point.
    """

    model: str
    levels: Mapping[int, Mapping[str, Histogram]]
    method: str = DEFAULT_METHOD
    percentile: float = DEFAULT_PERCENTILE
    keep_float: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def histogram(self, tensor: str) -> Histogram:
        """What the tensor held at all levels. Raises `InputError` if it was not observed."""
        found = [tensors[tensor] for _, tensors in sorted(self.levels.items()) if tensor in tensors]
        if not found:
            raise InputError(f"The ranges say nothing of {tensor!r}; calibrate this model again.")
        return sum(found[1:], found[0])

    def range(self, tensor: str) -> float:
        """The |x| that becomes code 127. Raises `InputError` if the tensor was always zero."""
        seen = self.histogram(tensor)
        if not seen.largest > 0:
            raise InputError(f"The tensor {tensor!r} was always zero; calibrate with clips in which something moves.")
        return seen.range(self.method, self.percentile)

    def check_model(self, model: onnx.ModelProto) -> None:
        """Raises `ModelError` if these are ranges of another model."""
        if model_hash(model) != self.model:
            raise ModelError("The ranges belong to another model; run vtsr-calibrate with this one.")

    def merged(self, other: Ranges) -> Ranges:
        """Both observations together, with the settings of this one. Raises `InputError` for another model's."""
        if other.model != self.model:
            raise InputError("Ranges of different models cannot be merged; calibrate the same model on both machines.")
        levels: dict[int, dict[str, Histogram]] = {}
        for ranges in (self, other):
            for level, tensors in ranges.levels.items():
                known = levels.setdefault(level, {})
                for name, histogram in tensors.items():
                    known[name] = known[name] + histogram if name in known else histogram
        return replace(self, levels=levels)

    def save(self, path: Path) -> None:
        """Writes JSON; the file appears when it is complete. Raises `OutputError`."""
        data = {
            "format": FORMAT, "model": self.model, "method": self.method, "percentile": self.percentile,
            "keep_float": list(self.keep_float), "facts": self.facts,
            "levels": {
                str(level): {name: _to_json(histogram) for name, histogram in sorted(tensors.items())}
                for level, tensors in sorted(self.levels.items())
            },
        }  # fmt: skip
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"The ranges {path} cannot be written: {error.strerror}.") from error

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Reads what `save` wrote. Raises `InputError` for anything else, however slightly altered."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"The ranges {path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not a file of ranges; make one with vtsr-calibrate.") from error
        try:
            return _parse(json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique))
        except (ValueError, RecursionError) as error:
            reason = f" ({error})" if isinstance(error, _Malformed) else ""
            raise InputError(
                f"{path} is not an intact file of ranges{reason}; make it again with vtsr-calibrate."
            ) from error


class _Malformed(ValueError):
    """What is wrong with a file of ranges, in a few words."""


def _refuse(constant: str) -> Any:
    raise _Malformed(f"it holds {constant}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise _Malformed("a name comes twice")
    return dict(pairs)


def _to_json(histogram: Histogram) -> dict[str, Any]:
    used = np.flatnonzero(histogram.counts)
    stop = int(used[-1]) + 1 if len(used) else 0
    return {
        "largest": histogram.largest, "exponent": histogram.exponent,
        "counts": histogram.counts[:stop].tolist(),
    }  # fmt: skip


def _expect(holds: bool, words: str) -> None:
    if not holds:
        raise _Malformed(words)


def _keys(data: Any, names: Iterable[str], place: str) -> None:
    _expect(isinstance(data, dict) and set(data) == set(names), f"{place} has missing or unknown entries")


def _parse(data: Any) -> Ranges:
    _expect(isinstance(data, dict) and data.get("format") == FORMAT, f"its format is not {FORMAT}")
    _keys(data, ("format", "model", "method", "percentile", "keep_float", "facts", "levels"), "it")
    model, method, percentile, keep = data["model"], data["method"], data["percentile"], data["keep_float"]
    _expect(isinstance(model, str) and re.fullmatch("[0-9a-f]{64}", model) is not None, "model is no SHA-256")
    _expect(isinstance(method, str) and method in METHODS, "the method is unknown")
    _expect(type(percentile) in (int, float) and 50 < percentile <= 100, "the percentile is out of range")
    _expect(isinstance(keep, list) and all(isinstance(name, str) for name in keep), "keep_float is no list of names")
    _expect(isinstance(data["facts"], dict), "the facts are malformed")
    levels = data["levels"]
    _expect(isinstance(levels, dict) and bool(levels), "it has no levels")
    _expect(all(key in ("1", "2", "3", "4") for key in levels), "a level is not 1 to 4")
    _expect(all(isinstance(tensors, dict) and tensors for tensors in levels.values()), "a level is empty")
    parsed = {
        int(level): {name: _histogram(name, entry) for name, entry in tensors.items()}
        for level, tensors in levels.items()
    }
    return Ranges(model, parsed, method, float(percentile), tuple(keep), data["facts"])


def _histogram(name: str, entry: Any) -> Histogram:
    _keys(entry, ("largest", "exponent", "counts"), repr(name))
    largest, exponent, counts = entry["largest"], entry["exponent"], entry["counts"]
    _expect(type(exponent) is int and LOWEST_EXPONENT <= exponent <= HIGHEST_EXPONENT, f"the exponent of {name!r}")
    _expect(isinstance(counts, list) and 0 < len(counts) <= BINS, f"the counts of {name!r}")
    _expect(all(type(n) is int and 0 <= n < 2**53 for n in counts) and counts[-1] > 0, f"the counts of {name!r}")
    _expect(type(largest) in (int, float), f"the range of {name!r}")
    # The largest value lies in the last bin that has anything, so neither can be altered alone.
    place = math.isfinite(largest) and int(largest * BINS * 2.0**-exponent)
    _expect(place == len(counts) - 1, f"the range of {name!r}")
    padded = np.zeros(BINS, np.int64)
    padded[: len(counts)] = counts
    return Histogram(padded, exponent, float(largest))
