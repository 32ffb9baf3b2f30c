"""Ranges: histograms against NumPy's, thresholds against independent searches, files against tampering."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")

from vtsr.calibration.ranges import BINS, CODES, METHODS, Histogram, Ranges
from vtsr.errors import InputError, ModelError

HASH = "ab" * 32


def values(seed: int, scale: float = 1.0, count: int = 5000) -> np.ndarray:
    return (np.random.default_rng(seed).laplace(0, scale, count)).astype(np.float32)


def ranges_of(**tensors: np.ndarray) -> Ranges:
    return Ranges(HASH, {1: {name: Histogram.of(data) for name, data in tensors.items()}})


@pytest.mark.parametrize("scale", [1e-6, 0.3, 70.0])
def test_counts_are_those_of_numpy_over_a_power_of_two(scale: float) -> None:
    data = values(1, scale)
    seen = Histogram.of(data)
    top = 2.0**seen.exponent
    assert top / 2 <= np.abs(data).max() < top
    expected, _ = np.histogram(np.abs(data.astype(np.float64)), BINS, (0, top))
    assert np.array_equal(seen.counts, expected)


@given(st.lists(st.floats(1e-4, 1e4), min_size=3, max_size=3), st.permutations([0, 1, 2]))
@settings(max_examples=30, deadline=None)
def test_parts_merge_in_any_order_to_the_histogram_of_everything(scales: list[float], order: list[int]) -> None:
    parts = [values(seed, scale, 300) for seed, scale in enumerate(scales)]
    whole = Histogram.of(np.concatenate(parts))
    a, b, c = (Histogram.of(parts[i]) for i in order)
    for merged in ((a + b) + c, a + (b + c)):
        assert merged.exponent == whole.exponent
        assert merged.largest == whole.largest
        assert np.array_equal(merged.counts, whole.counts)


def test_zeros_do_not_coarsen_what_they_are_merged_with() -> None:
    small = Histogram.of(values(2, 1e-5))
    merged = small + Histogram.of(np.zeros(10, np.float32))
    assert merged.exponent == small.exponent
    assert merged.counts.sum() == 5010


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_model_that_computes_nonsense_is_refused(bad: float) -> None:
    with pytest.raises(ModelError, match="values"):
        Histogram.of(np.array([0, bad], np.float32))


def test_minmax_is_the_largest_value_exactly() -> None:
    data = values(3)
    assert Histogram.of(data).range("minmax") == np.abs(data).max()


def test_the_percentile_is_numpys_to_a_bin() -> None:
    data = np.abs(values(4))
    seen = Histogram.of(data)
    expected = np.percentile(data, 99)
    assert expected <= seen.range("percentile", 99) <= expected + 2 * 2.0**seen.exponent / BINS


def test_mse_finds_the_threshold_a_search_on_the_values_finds() -> None:
    data = np.abs(values(5, count=100_000))

    def error(limit: float) -> float:
        scale = limit / CODES
        return float(np.mean((np.minimum(np.rint(data / scale), CODES) * scale - data) ** 2))

    best = min(error(limit) for limit in np.linspace(1, data.max(), 400))
    assert error(Histogram.of(data).range("mse")) <= 1.01 * best
    assert error(float(data.max())) > 1.05 * best  # the search had something to find


def test_entropy_cuts_a_far_outlier_and_keeps_an_even_distribution() -> None:
    bulk = np.abs(np.random.default_rng(6).normal(0, 1, 200_000)).astype(np.float32)
    with_outlier = Histogram.of(np.append(bulk, np.float32(60)))
    assert 1.5 < with_outlier.range("entropy") < 10
    even = Histogram.of(np.random.default_rng(7).uniform(0, 1, 200_000).astype(np.float32))
    assert even.range("entropy") > 0.9


def test_entropy_agrees_with_onnxruntimes_calibrator() -> None:
    """Theirs takes signed histograms and 255 codes, ours magnitudes and 128: both cut the outlier, at 30, off."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    data = np.append(np.random.default_rng(8).normal(0, 1, 200_000), 30).astype(np.float32)
    limit = np.float32(32)
    counts, edges = np.histogram(data, 2049, (-limit, limit))
    find = calibrate.HistogramCollector.get_entropy_threshold
    low, high = find(None, (counts, edges.astype(np.float32), data.min(), data.max()), 255)
    theirs = max(abs(float(low)), float(high))
    assert theirs / 2 < Histogram.of(data).range("entropy") < theirs * 2


@pytest.mark.parametrize("method", METHODS)
def test_no_method_exceeds_the_largest_value_or_finds_nothing(method: str) -> None:
    for data in (values(9), np.full(5, 0.3, np.float32), np.array([1e-7], np.float32)):
        assert 0 < Histogram.of(data).range(method) <= np.abs(data).max()


def test_levels_are_observed_apart_and_ranged_together() -> None:
    first, second = Histogram.of(values(10)), Histogram.of(values(11, 3))
    ranges = Ranges(HASH, {1: {"x": first}, 2: {"x": second}}, method="minmax")
    assert ranges.range("x") == second.largest > first.largest


def test_a_tensor_that_was_always_zero_or_never_seen_is_named() -> None:
    ranges = ranges_of(quiet=np.zeros(4, np.float32))
    with pytest.raises(InputError, match=r"'quiet' was always zero.*\.$"):
        ranges.range("quiet")
    with pytest.raises(InputError, match=r"nothing of 'other'.*\.$"):
        ranges.range("other")


def test_saved_ranges_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    ranges = Ranges(
        HASH, {1: {"x": Histogram.of(values(12))}, 3: {"x": Histogram.of(np.zeros(3, np.float32))}},
        "percentile", 99.5, ("a", "b"), {"frames": 4},
    )  # fmt: skip
    ranges.save(path)
    back = Ranges.load(path)
    assert (back.method, back.percentile, back.keep_float) == ("percentile", 99.5, ("a", "b"))
    assert back.facts == {"frames": 4}
    for level in (1, 3):
        assert np.array_equal(back.levels[level]["x"].counts, ranges.levels[level]["x"].counts)
        assert back.levels[level]["x"].largest == ranges.levels[level]["x"].largest
    assert [p.name for p in tmp_path.iterdir()] == ["ranges.json"]


def test_ranges_of_two_machines_merge_and_those_of_two_models_do_not(tmp_path: Path) -> None:
    here, there = ranges_of(x=values(13)), ranges_of(x=values(14), y=values(15))
    merged = here.merged(there)
    whole = Histogram.of(np.concatenate([values(13), values(14)]))
    assert np.array_equal(merged.levels[1]["x"].counts, whole.counts)
    assert "y" in merged.levels[1]
    with pytest.raises(InputError, match="different models"):
        here.merged(Ranges("cd" * 32, there.levels))


def tampered(change: Any) -> Any:
    def apply(data: dict[str, Any]) -> str:
        data = copy.deepcopy(data)
        change(data)
        return json.dumps(data)

    return apply


def entry(data: dict[str, Any]) -> dict[str, Any]:
    return data["levels"]["1"]["x"]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: "",
        lambda data: "[]",
        lambda data: "[" * 100_000,
        lambda data: json.dumps(data)[:-40],
        lambda data: json.dumps(data).replace('"levels"', '"levels": {}, "levels"', 1),
        tampered(lambda d: d.update(format="vtsr-ranges-0")),
        tampered(lambda d: d.update(model="ab")),
        tampered(lambda d: d.update(method="guess")),
        tampered(lambda d: d.update(percentile=True)),
        tampered(lambda d: d.update(percentile=101)),
        tampered(lambda d: d.update(keep_float=[3])),
        tampered(lambda d: d.update(levels={})),
        tampered(lambda d: d.update(levels={"5": d["levels"]["1"]})),
        tampered(lambda d: d.update(levels={"1": {}})),
        tampered(lambda d: d.update(extra=1)),
        tampered(lambda d: d.pop("facts")),
        tampered(lambda d: entry(d).update(largest=entry(d)["largest"] * 2)),
        tampered(lambda d: entry(d).update(largest=float("nan"))),
        tampered(lambda d: entry(d).update(largest=float("inf"))),
        tampered(lambda d: entry(d).update(largest="1")),
        tampered(lambda d: entry(d).update(exponent=0.5)),
        tampered(lambda d: entry(d).update(exponent=entry(d)["exponent"] + 1)),
        tampered(lambda d: entry(d).update(exponent=10**9)),
        tampered(lambda d: entry(d).update(counts=[])),
        tampered(lambda d: entry(d).update(counts=[1] * (BINS + 1))),
        tampered(lambda d: entry(d)["counts"].append(1)),
        tampered(lambda d: entry(d)["counts"].__setitem__(0, -1)),
        tampered(lambda d: entry(d)["counts"].__setitem__(0, 1.5)),
        tampered(lambda d: entry(d)["counts"].__setitem__(0, None)),
    ],
)
def test_an_altered_file_is_refused_in_one_sentence(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    ranges_of(x=values(16)).save(path)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(InputError, match=r"^[^\n]*ranges\.json is not an intact file of ranges[^\n]*\.$"):
        Ranges.load(path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Ranges.load(tmp_path / "none.json")
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a file of ranges"):
        Ranges.load(tmp_path / "bin")
