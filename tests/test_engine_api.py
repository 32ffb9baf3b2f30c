"""The engine code against the real Python bindings of TensorRT 8.6, 10 and 11, on a machine without TensorRT.

Each version runs `tensorrt_standins/exercise.py` in a process of its own, see `bindings_wheels`.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from bindings_wheels import BINDINGS, exercise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bindings are built for Linux here")


@pytest.fixture(scope="module", params=list(BINDINGS))
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `exercise.py` reports for one version."""
    return exercise("exercise.py", request.param, tmp_path_factory)


def test_every_name_the_engine_code_uses_exists_or_is_asked_for_first(results: dict[str, Any]) -> None:
    assert results["unknown_names"] == []
    assert {"MemoryPoolType.WORKSPACE", "TensorIOMode.INPUT", "ILogger.ERROR"} <= set(results["names_checked"])


def test_the_checks_notice_mistakes(results: dict[str, Any]) -> None:
    assert results["traps"] == {"call": True, "attribute": True}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_is_built_with_calls_the_version_has(results: dict[str, Any], precision: str) -> None:
    build = results["builds"][precision]
    assert build["plan"] == "plan"
    assert build["wrong_calls"] == []


def test_strong_typing_is_on_wherever_it_exists(results: dict[str, Any]) -> None:
    """Bit 0 of the flags means explicit batch up to version 10 and strong typing since 11."""
    major = int(results["version"].split(".")[0])
    expected = {8: (1, None), 10: (0b11, True), 11: (1, True)}[major]
    build = results["builds"]["fp16"]
    assert (build["network_flags"], build["strong_bit"]) == expected


def test_flags_choose_the_precision_only_where_the_graph_cannot(results: dict[str, Any]) -> None:
    weak = results["version"].startswith("8.")
    flags = {precision: set(build["flags"]) for precision, build in results["builds"].items()}
    assert flags["fp32"] == set()
    assert flags["fp16"] == ({"FP16", "PREFER_PRECISION_CONSTRAINTS"} if weak else set())
    assert flags["int8"] == ({"FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"} if weak else set())
    # Layers that work on the picture stay fp32: by a constraint here, by their types in a typed graph.
    assert results["builds"]["fp16"]["held"] is weak


def test_fp32_engines_are_fp32_and_no_engine_needs_cublas_or_cudnn(results: dict[str, Any]) -> None:
    for build in results["builds"].values():
        assert build["cleared"] == ["TF32"]
        assert build["sources"] == ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]


def test_dynamic_inputs_get_a_profile_and_static_ones_none(results: dict[str, Any]) -> None:
    assert results["dynamic"]["profile"] == "call('u', (1, 3, 32, 32), (1, 3, 32, 64), (1, 3, 32, 64))"
    assert results["dynamic"]["wrong_calls"] == []
    assert results["builds"]["fp16"]["profile"] == "None"


def test_timings_are_kept_for_the_next_build(results: dict[str, Any]) -> None:
    assert results["builds"]["fp16"]["timings"] == "timings"


def test_a_failed_build_says_what_the_builder_said(results: dict[str, Any]) -> None:
    assert results["refusal"] == "TensorRT cannot build test: Could not find any implementation for node X."
    assert "no importer for Frobnicate" in results["unreadable_graph"]


def test_an_engine_runs_with_calls_the_version_has(results: dict[str, Any]) -> None:
    run = results["engine"]
    assert run["wrong_calls"] == []
    assert (run["dtype"], run["ms"], run["layers"]) == ("float16", 1.5, [{"Name": "conv"}])


def test_tensorrt_can_call_back_into_python(results: dict[str, Any]) -> None:
    found = results["callbacks"]
    assert found["logged"] == [["ERROR", "error"], ["WARNING", "warning"]]
    assert found["profiled"] == {"conv": 0.5}
    assert found.get("goes_on", True) is True
    assert ("goes_on" in found) is not results["version"].startswith("8.")


def test_without_a_gpu_the_real_classes_fail_with_one_sentence(results: dict[str, Any]) -> None:
    for message in (results["no_gpu_build"], results["no_gpu_load"]):
        assert message == "TensorRT finds no usable GPU: TensorRT gave no reason."
