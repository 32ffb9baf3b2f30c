"""What the benchmark computes from clocks and graphs, against computations of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_stand_in import Benchmark
from hypothesis import given
from hypothesis import strategies as st
from media import write_clip

from vtsr.benchmarks.front import dominators, front
from vtsr.benchmarks.growth import fit, growths
from vtsr.benchmarks.paired import FEWEST, interleaved, ratio, summary
from vtsr.benchmarks.plan import Plan, Size


def test_works_take_turns_in_every_round() -> None:
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    found = interleaved(Benchmark(), works, rounds=4)
    assert "".join(calls) == "abc" * 5  # one round to warm up
    assert {name: len(spent) for name, spent in found.items()} == {"a": 4, "b": 4, "c": 4}


def test_rounds_that_take_too_long_become_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work() -> None:
        nonlocal now
        now += 10

    monkeypatch.setattr("vtsr.benchmarks.paired.time.perf_counter", lambda: now)
    found = interleaved(Benchmark(), {"a": work, "b": work}, rounds=50, budget=70)
    assert found["a"] == [10.0] * 3  # 70 s hold three rounds of 20 s
    assert FEWEST < 3


def test_a_ratio_is_taken_within_rounds() -> None:
    """The machine is ten times slower in the middle round, and twice as slow in the last."""
    assert ratio([1.0, 10.0, 2.0], [0.5, 5.0, 1.0]) == 2.0
    assert summary([4.0, 2.0, 3.0, 1.0, 5.0]) == {"seconds": 3.0, "fastest": 1.0, "spread": pytest.approx(2 / 3)}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_a_sweep_finds(qualities: list[tuple[int, int]]) -> None:
    points = {str(n): (float(x), float(y)) for n, (x, y) in enumerate(qualities)}
    highest, expected = -1.0, set()
    for x in sorted({x for x, _ in points.values()}, reverse=True):  # from the fastest on, what raises the quality
        top = max(y for a, y in points.values() if a == x)
        if top > highest:
            expected |= {name for name, point in points.items() if point == (x, top)}
            highest = top
    assert set(front(points)) == expected
    assert all(dominators(points, name) for name in points if name not in expected)


def test_power_laws_are_recognised() -> None:
    sizes = [1e4, 4e4, 2e5, 3e6]
    assert fit([(x, 3e-6 * x**1.25) for x in sizes]) == (pytest.approx(1.25), pytest.approx(0, abs=1e-9))
    rows = [{"bench": "memory", "size": str(x), "levels": 1, "pixels": x, "peak_mib": 80 + x / 1e3, "base_mib": 80}
            for x in sizes]  # fmt: skip
    rows += [{"bench": "length", "frames": n, "seconds": n / 10, "peak_mib": 200.0} for n in (8, 16, 32)]
    found = {(g.cost, g.against): g for g in growths(rows)}
    assert found["memory", "pixels"].exponent == pytest.approx(1)  # of what comes on top of the program
    assert found["memory", "pixels"].factor == pytest.approx(1e-3)
    assert found["memory", "frames"].exponent == pytest.approx(0)
    assert found["time", "frames"].exponent == pytest.approx(1)


def test_two_points_make_no_law() -> None:
    assert growths([{"bench": "length", "frames": n, "seconds": n, "peak_mib": 1} for n in (8, 16)]) == []


# --- Work counted from graphs ---


def test_work_of_a_graph_counted_by_hand() -> None:
    """One 3x3 convolution from 3 to 8 channels at half size, and one of 1x1 in 2 groups."""
    onnx = pytest.importorskip("onnx")
    from vtsr.benchmarks.work import count

    def weights(name: str, *shape: int) -> Any:
        return onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)

    def frames(name: str, batch: int | str) -> Any:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, 3, "height", "width"])

    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Add", ["u", "a_u"], ["sum"]),
            onnx.helper.make_node("Add", ["sum", "v"], ["x"]),
            onnx.helper.make_node("Conv", ["x", "w1"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
            onnx.helper.make_node("Conv", ["y", "w2"], ["z"], group=2),
        ],
        "step", [frames("u", 1), frames("a_u", 1), frames("v", 1)],
        [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 4, "rows", "columns"])],
        [weights("w1", 8, 3, 3, 3), weights("w2", 4, 4, 1, 1)],
    )  # fmt: skip
    work = count(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8))
    assert work.macs == 8 * 27 / 4 + 4 * 4 / 4
    assert work.bytes_per_pixel == 4 * (3 + 8 / 4) + 4 * (8 / 4 + 4 / 4)
    assert work.weight_bytes == 4 * (8 * 27 + 4 * 4)


def test_work_of_a_step_is_that_of_its_network(tiny_model: Path, tiny_checkpoint: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from vtsr.benchmarks.work import count
    from vtsr.export.half import to_half
    from vtsr.training.checkpoint import load_network
    from vtsr.training.network import multiply_adds_per_pixel

    step = onnx.load(tiny_model / "step.onnx")
    single, half = count(step), count(to_half(step))
    gate = 3  # the motion gate reads every sample once; PyTorch's count is of layers, and it is none
    assert single.macs == pytest.approx(multiply_adds_per_pixel(load_network(tiny_checkpoint)) + gate)
    assert half.macs == single.macs
    assert half.bytes_per_pixel < 0.6 * single.bytes_per_pixel  # the picture stays in single precision


def test_int8_does_the_same_work_on_fewer_bytes() -> None:
    onnx = pytest.importorskip("onnx")
    from vtsr.benchmarks.contestants import step_bytes
    from vtsr.benchmarks.work import count
    from vtsr.runtime.cpu import has_integer_dot_products
    from vtsr.runtime.models import open_model

    if has_integer_dot_products() is False:
        pytest.skip("this CPU has no integer dot products")
    model = open_model("default")
    fp32, int8 = (count(onnx.load_from_string(step_bytes(model, precision))) for precision in ("fp32", "int8"))
    assert int8.macs == fp32.macs
    assert int8.weight_bytes < fp32.weight_bytes / 3
    assert int8.intensity > 1.5 * fp32.intensity


# --- Processes of their own ---

needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


@needs_linux
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    held = np.ones(400 << 20, np.uint8)
    program = (
        "from vtsr.benchmarks.child import peak_memory; low = peak_memory(); "
        "big = bytearray(b'x') * (200 << 20); del big; print(low, peak_memory())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    low, high = map(float, done.stdout.split())
    assert low < held.nbytes / 2**20 / 2
    assert high - low == pytest.approx(200, abs=20)  # though it was freed


def test_the_naive_loop_makes_the_frames_of_the_stream(tmp_path: Path) -> None:
    """Two ways to the same video, so that their times can be compared."""
    from media import read_planes, read_times

    from vtsr.benchmarks.child import measure

    source = write_clip(tmp_path / "in.nut", 4, size=(64, 32), pix_fmt="yuv444p")  # planes of one size stack
    common = {"source": str(source), "model": "default", "precision": "fp32", "threads": 1, "levels": 2}
    ways = [tmp_path / f"{way}.nut" for way in ("naive", "stream")]  # lossless
    for target in ways:
        found = measure(target.stem, target=str(target), **common)
        assert {"decode", "network", "encode"} <= set(found["stages"])
        assert found["process_s"] > found["seconds"] > found["stages"]["network"] > 0
    naive, stream = (read_planes(target) for target in ways)
    assert len(naive) == len(stream) == 16
    assert all(np.array_equal(one, other) for one, other in zip(np.stack(naive), np.stack(stream), strict=True))
    assert read_times(ways[0]) == read_times(ways[1])


def test_a_process_that_fails_says_why() -> None:
    from vtsr.benchmarks.child import measure

    with pytest.raises(RuntimeError, match=r"cold_start ended with exit code 1: .*There is no model 'nonesuch'"):
        measure("cold_start", model="nonesuch", precision="fp32", threads=1, width=32, height=32)


# --- Plans ---


def test_sizes_are_padded_as_the_runtime_pads() -> None:
    from vtsr.runtime.backend import load_backend
    from vtsr.runtime.frame import Frame

    backend = load_backend("onnxruntime", "default", 1, "fp32")
    for size in (Size(64, 64), Size(65, 33)):
        tensor = backend.ingest([Frame(np.zeros((size.height, size.width, 3), np.uint8)).planes])
        assert (tensor.shape[3], tensor.shape[2]) == size.padded


@pytest.mark.parametrize(("sizes", "typical"), [((Size(640, 360), Size(64, 64)), "64x64"), (Plan().sizes, "448x256")])
def test_the_typical_size_is_one_that_was_asked_for(sizes: tuple[Size, ...], typical: str) -> None:
    assert str(Plan(sizes=sizes).typical) == typical


def test_contestants_that_compute_something_else_are_found_out() -> None:
    from vtsr.benchmarks.contestants import check_same_work

    expected = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    check_same_work("same", "fp32", expected + np.float32(1e-6), expected)
    with pytest.raises(AssertionError, match="swapped computes something else"):
        check_same_work("swapped", "int8", expected[::-1], expected)


def test_matrix_products_and_copies_do_what_is_counted() -> None:
    pytest.importorskip("onnx")
    from vtsr.benchmarks import peak

    product: Callable[[], Any] = peak.float_product(1)
    left, right = np.random.default_rng(0).random((2, peak.SIDE, peak.SIDE), np.float32)
    np.testing.assert_allclose(product()[0], left @ right, rtol=1e-4)
    assert peak.product_operations() == 2 * peak.SIDE**3
    copying, moved = peak.copy(2)
    copying()
    assert moved == 2 * 2 * peak.COPIED


def test_other_programs_use_the_share_of_ticks_that_are_not_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtsr.benchmarks import machine

    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "STAT", stat)
    assert machine.busy_share(0) is None  # no such file
    stat.write_text("cpu 100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n")

    def later(seconds: float) -> None:
        stat.write_text("cpu 140 0 60 930 70 0 0 0 0 0\ncpu0 1 2 3\n")  # 50 of 200 ticks were work

    monkeypatch.setattr(machine.time, "sleep", later)
    assert machine.busy_share(1) == 0.25


def test_the_machine_names_its_cores_and_revision() -> None:
    from vtsr.benchmarks.machine import machine_facts, revision, versions

    facts = machine_facts()
    assert facts["cores"] == os.cpu_count()
    assert facts["cpu"]
    assert versions()["numpy"] == np.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    if head.returncode == 0:
        assert head.stdout.startswith(revision().rstrip("+"))


def test_threads_without_work_do_not_burn_the_cpu() -> None:
    """They would take it from decoder, encoder and whatever a benchmark runs in turn with the network."""
    import time

    from vtsr.runtime.backend import load_backend

    backend = load_backend("onnxruntime", "default", 4, "fp32")
    u, v = np.random.default_rng(0).random((2, 1, 3, 64, 64), np.float32)
    backend.step(u, None, v)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1  # three threads that spin would use up to 1.5 s
