"""Lanes of the TensorRT runtime: the same calls, the same bits, in order, whatever takes how long; and their worth."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from software_cuda import BlendEngines, SoftwareDevice, blend_stream
from test_tensorrt_backend import clip, images_of, opened, same, wrapped
from test_tensorrt_schedule import CASES, FRAME_BYTES, LAYOUT, busy, violations

from vtsr import DeviceError, OptionError, Upconverter
from vtsr.runtime.backend import StepResult
from vtsr.runtime.recursion import Recursion
from vtsr.runtime.tensorrt.arrays import DeviceArray
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.embedding import DeviceUpconverter
from vtsr.runtime.tensorrt.flow import Flow, pieces
from vtsr.runtime.tensorrt.lanes import LanedRecursion
from vtsr.runtime.tensorrt.planning import plan_stream
from vtsr.runtime.tensorrt.schedule import Operation
from vtsr.runtime.tensorrt.settings import Settings
from vtsr.runtime.tensorrt.timeline import efficiency, timeline


class Symbols:
    """A backend whose frames are formulas: what a frame was computed from, and by an engine of which batch."""

    name, precision = "symbols", ""

    def __init__(self) -> None:
        self.pairs = 0
        self.lanes: list[int] = []

    def frames(self, stored: list[Any], lane: int) -> list[Any]:
        self.lanes.append(lane)
        return stored

    def frames_in(self, tensor: list[Any]) -> int:
        return len(tensor)

    def part(self, tensor: list[Any], start: int, stop: int) -> list[Any]:
        return tensor[start:stop]

    def step(self, u: list[Any], a_u: list[Any] | None, v: list[Any]) -> StepResult:
        (before,), carried = u, a_u[0] if a_u is not None else None
        halves: list[Any] = []
        done = 0
        for batch in pieces(len(v), [1, 2, 4, 8], "step"):
            for after in v[done : done + batch]:
                pair = hash((batch, before, after))  # both estimates of a pair
                halves += [hash((half, before, carried, pair)) for half in "ab"]
                before, carried = after, pair
            done += batch
        self.pairs += len(v)
        return StepResult(halves, [before], [carried])

    def finish(self, u: list[Any], a_u: list[Any] | None) -> list[Any]:
        return [hash((half, u[0], None if a_u is None else a_u[0])) for half in "ab"]


def through(recursion: Any, scenes: Sequence[int], chunk: int) -> list[Any]:
    """All that comes out, push by push; every frame is a formula of its own."""
    outputs, start = [], 0
    for count in scenes:
        frames = list(range(start, start + count))
        for first in range(0, count, chunk):
            outputs.append(recursion.push(frames[first : first + chunk]))
        outputs.append(recursion.flush())
        start += count
    return outputs


uses = st.fixed_dictionaries(
    {
        "levels": st.integers(1, 4),
        "lanes": st.integers(2, 4),
        "longer": st.integers(1, 5),  # a stint than the number of levels
        "scenes": st.lists(st.integers(1, 40), min_size=1, max_size=3),
        "chunk": st.sampled_from([1, 1, 2, 3, 8]),
    }
)


@settings(max_examples=400, deadline=None, database=None)
@given(use=uses)
def test_every_frame_comes_of_the_same_calls_as_in_a_single_lane(use: dict[str, Any]) -> None:
    """Of the same frames, in the same order, through engines of the same batches: so bits are equal."""
    levels, scenes, chunk = use["levels"], use["scenes"], use["chunk"]
    laned = LanedRecursion(Symbols(), levels, use["lanes"], levels + use["longer"])
    assert through(laned, scenes, chunk) == through(Recursion(Symbols(), levels), scenes, chunk)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_fewer_pushes_do_not_make_up_a_state(levels: int) -> None:
    """The check above can fail, and nothing is computed in vain."""
    expected = through(Recursion(Symbols(), levels), [40], 1)
    laned = LanedRecursion(Symbols(), levels, 2, 8)
    laned._past = deque(maxlen=levels)
    assert through(laned, [40], 1) != expected


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_the_price_of_a_change_of_lanes_is_as_stated(levels: int) -> None:
    symbols = Symbols()
    through(LanedRecursion(symbols, levels, 3, 10), [95], 1)
    alone = Symbols()
    through(Recursion(alone, levels), [95], 1)
    assert symbols.pairs - alone.pairs == 9 * (2 ** (levels + 1) - levels - 2)


def test_lanes_take_stints_in_turn_and_every_scene_begins_in_the_next() -> None:
    symbols = Symbols()
    through(LanedRecursion(symbols, 1, 3, 4), [5, 2], 1)
    assert symbols.lanes == [0, 0, 0, 0, *(1, 1, 1), 2, 2]  # two pushes of lane 0 made up by lane 1


# The schedule


def planned(
    levels: int, lanes: int, stint: int, frames: Sequence[int], behind: int | None = None, **choices: Any
) -> Any:
    chosen = Settings(lanes=lanes, stint=stint, **choices)
    batches = {
        "ingest": [1], "step": [1 << k for k in range(levels)], "finish": [1], "emit": sorted({2, 1 << levels})
    }  # fmt: skip
    behind = max(3, chosen.ahead) if behind is None else behind
    return plan_stream(LAYOUT, batches, FRAME_BYTES, chosen, levels=levels, scenes=frames, behind=behind)


@settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    levels=st.integers(1, 3),
    lanes=st.integers(2, 4),
    longer=st.integers(1, 2),
    scenes=st.lists(st.integers(1, 16), min_size=1, max_size=2),
    behind=st.integers(0, 12),
    slots=st.integers(1, 3),
    host_outputs=st.sampled_from([0, 8]),
    seed=st.integers(0, 1 << 30),
)
def test_no_timing_makes_lanes_collide_or_wait_for_ever(
    levels: int, lanes: int, longer: int, scenes: list[int], behind: int, slots: int, host_outputs: int, seed: int
) -> None:
    operations, _ = planned(
        levels, lanes, levels + longer, scenes, behind, slots=slots, host_outputs=host_outputs
    )
    rng = random.Random(seed)
    for _ in range(4):
        times = {id(o): 10 ** rng.uniform(-3, 3) if rng.random() < 0.8 else 0.0 for o in operations}
        contended = rng.random() < 0.3
        spans = timeline(
            operations, lambda o, t=times: t[id(o)], issue=rng.choice([0.0, 1.0]), engines=contended,
            abreast=rng.randint(1, 4),
        )  # fmt: skip
        assert len(spans) == len(operations)  # all have run
        assert not list(violations(spans))


def lane_of(operation: Operation) -> str:
    name = operation.mark.stream
    return name.split()[1] if name.startswith("lane ") else "0"


def test_lanes_share_nothing_on_the_device_but_stored_pictures() -> None:
    operations, _ = planned(2, 3, 4, (60,))
    users: dict[Any, set[str]] = {}
    for operation in operations:
        if "level" in operation.mark.stream:
            for block in (*operation.reads, *operation.writes):
                users.setdefault(block, set()).add(lane_of(operation))
    assert set().union(*users.values()) == {"0", "1", "2"}
    shared = {block.role for block, lanes in users.items() if len(lanes) > 1}
    assert shared == {"planes in", "no carry", "carry"}  # the latter are only read


def test_every_picture_is_copied_in_once_though_two_lanes_read_it() -> None:
    operations, _ = planned(2, 2, 4, (41,))
    kinds = Counter(operation.kind for operation in operations)
    assert kinds["upload"] == 41
    assert kinds["ingest"] == 41 + 10 * 3
    assert kinds["download"] == kinds["emit"]


def test_memory_does_not_grow_with_the_length_of_the_stream() -> None:
    def blocks(frames: int) -> Counter[tuple[str, int]]:
        flow: Flow = planned(2, 2, 4, (frames,))[1]
        return Counter((block.role, block.nbytes) for block in flow.blocks)

    assert blocks(60) == blocks(300)


# What lanes are worth, by the model


def per_frame(levels: int, lanes: int, abreast: int, times: tuple[float, float, float], **more: Any) -> float:
    frames = 16 * 4 * 12  # rounds of four lanes
    operations, _ = planned(levels, lanes, 16, (frames,), **more)
    spans = timeline(operations, busy(*times, levels), abreast=abreast)
    return max(span.end for span in spans) / frames


SMALL = (0.02, 1.0, 0.05)  # copies in, computation and copies out of one frame, of which computation is most


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_four_lanes_fill_a_gpu_of_which_a_call_takes_a_quarter(levels: int) -> None:
    """But for what is made twice, and the start and end of the stream."""
    price = 1 + (2 ** (levels + 1) - levels - 2) / (2**levels - 1) / 16
    assert per_frame(levels, 4, 4, SMALL) <= 1.1 * price / 4
    operations, _ = planned(levels, 4, 16, (400,))
    assert efficiency(timeline(operations, busy(*SMALL, levels), abreast=4), 4) >= 0.9


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_single_lane_leaves_such_a_gpu_idle(levels: int) -> None:
    """Levels overlap each other, but the last alone is 2^(N-1) of the 2^N - 1 pairs, one call after another."""
    assert per_frame(levels, 1, 4, SMALL) >= 0.95 * 2 ** (levels - 1) / (2**levels - 1)


@pytest.mark.parametrize("levels", [1, 2])
def test_where_a_call_fills_the_gpu_lanes_only_cost(levels: int) -> None:
    one, four = (per_frame(levels, lanes, 1, SMALL) for lanes in (1, 4))
    assert one < four < 1.12 * one


def test_results_have_to_be_read_late_for_lanes_to_run_at_once() -> None:
    early, late = (per_frame(2, 4, 4, SMALL, behind=behind) for behind in (3, 64))
    assert early > 2 * late


@pytest.mark.parametrize("times", CASES)
def test_lanes_reach_the_bound_of_copies_too(times: tuple[float, float, float]) -> None:
    operations, _ = planned(1, 2, 16, (400,))
    assert efficiency(timeline(operations, busy(*times, 1), abreast=2), 2) >= 0.85


# The backend


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    levels=st.integers(1, 3),
    lanes=st.integers(2, 4),
    longer=st.integers(1, 3),
    scenes=st.lists(st.integers(1, 25), min_size=1, max_size=2),
    chunk=st.sampled_from([1, 1, 2]),
    seed=st.integers(0, 1 << 30),
    pace=st.sampled_from(["random", "lazy"]),
    behind=st.sampled_from([0, 3, 30]),
    graphs=st.booleans(),
)
def test_frames_are_those_of_the_whole_scenes_in_any_order_of_events(
    levels: int, lanes: int, longer: int, scenes: list[int], chunk: int, seed: int, pace: str, behind: int, graphs: bool
) -> None:
    device = SoftwareDevice(seed, pace=pace)
    clips = [clip(count, seed=index) for index, count in enumerate(scenes)]
    outputs: list[Any] = []
    unread: list[Any] = []
    backend = opened(levels, device, lanes=lanes, stint=levels + longer, graphs=graphs)
    with Upconverter(levels, backend=backend, scene_threshold=1) as up:
        for images in clips:
            frames = wrapped(images)
            for start in range(0, len(frames), chunk):
                unread.append(up.push(*frames[start : start + chunk]))
                while len(unread) > behind:
                    outputs += [image.copy() for image in images_of(unread.pop(0))]
            unread.append(up.flush())
        outputs += [image for group in unread for image in images_of(group)]
        assert all(seconds > 0 for name, seconds in up.stage_seconds.items() if name == "ingest")
    assert same(outputs, [image for images in clips for image in blend_stream(images, levels)])
    assert device.left_behind == {"memory": 0, "streams": 0}


@pytest.mark.parametrize("seed", range(4))
def test_device_frames_may_be_overwritten_while_another_lane_has_yet_to_read_them(seed: int) -> None:
    """The caller writes every frame to the same memory, as soon as its stream says that the one before was taken."""
    images = clip(30)
    device = SoftwareDevice(seed, pace=("random", "lazy")[seed % 2])
    backend = TensorRTBackend(device, BlendEngines(2), Settings(levels=2, lanes=2, stint=4))
    stream, found = device.foreign_stream(), []
    with DeviceUpconverter(backend, 2) as up:
        address, memory = device.external_memory(images[0].nbytes)
        given_ = DeviceArray(address, images[0].shape, np.uint8, dlpack_type=device.dlpack_type)

        def read(pictures: list[Any]) -> None:
            for (picture,) in pictures:
                slot = np.zeros(picture.shape, np.uint8)
                found.append(slot)

                def copy(picture: Any = picture, slot: Any = slot) -> None:
                    slot[:] = device.view(picture.address, picture.shape, picture.dtype)

                device.on_foreign(stream, "caller reads", copy, reads=[(picture.address, picture.nbytes)])

        for image in images:

            def write(image: Any = image) -> None:
                memory[:] = image.reshape(-1)

            device.on_foreign(stream, "caller writes", write, writes=[(address, image.nbytes)])
            read(up.push(given_, stream=stream))
        read(up.flush(stream=stream))
    assert same(found, blend_stream(images, 2))


def test_page_locked_pictures_are_read_where_they_are() -> None:
    images = clip(20)
    device = SoftwareDevice(2)
    backend = opened(1, device, lanes=2, stint=3)
    array = backend.page_locked_empty((20, 34, 3))
    outputs = []
    with Upconverter(1, backend=backend, scene_threshold=1) as up:
        for image in images:
            array[:] = image
            outputs += up.push(array)
            backend.wait_for_input()
        outputs += up.flush()
        size = images[0].nbytes
        assert [locked.nbytes for locked in device.page_locked_arrays if locked.nbytes < 2 * size] == [size]
        assert same(images_of(outputs), blend_stream(images, 1))


def test_steady_calls_of_every_lane_are_graphs() -> None:
    device = SoftwareDevice(pace="eager")
    backend = opened(2, device, lanes=2, stint=16)
    with Upconverter(2, backend=backend, scene_threshold=1) as up:
        for frame in wrapped(clip(100)):
            up.push(frame)
        mark = len(device.calls)
        for frame in wrapped(clip(10)):
            up.push(frame)
        calls = Counter(device.calls[mark:])
    assert calls["launch"] == 10 * 3  # two steps and an emit
    assert calls["enqueue"] == 10  # an ingest
    assert not {"allocate", "create_call", "page_locked"} & set(calls)


@pytest.mark.parametrize(("lanes", "chunk"), [(2, 1), (3, 1), (2, 2), (1, 3)])
def test_the_memory_check_foresees_what_lanes_and_chunks_take(lanes: int, chunk: int) -> None:
    def run(total: int) -> SoftwareDevice:
        device = SoftwareDevice(total=total)
        backend = opened(2, device, lanes=lanes, stint=4, chunk=chunk)
        with Upconverter(2, backend=backend, scene_threshold=1) as up:
            for count in (45 * chunk, *(44 * chunk - rest for rest in range(chunk))):
                list(up.run(clip(count), chunk=chunk, behind=12))
        return device

    peak = run(1 << 34).peak
    run(int(peak * 1.2))
    with pytest.raises(DeviceError, match=rf"{lanes} lanes and chunks of {chunk} needs \d+ MiB .* use fewer"):
        run(int(peak * 0.99))


def test_a_number_of_levels_is_kept() -> None:
    with Upconverter(1, backend=opened(1, lanes=2), scene_threshold=1) as up:
        list(up.run(clip(3)))
        with pytest.raises(OptionError, match=r"keep their number of levels; open the backend with one lane"):
            up.change_levels(2)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lanes": 0}, "lanes must be 1 to 8, not 0"),
        ({"lanes": 9}, "lanes must be 1 to 8, not 9"),
        ({"chunk": 0}, "frames per push must be 1 to 64, not 0"),
        ({"stint": 1}, "stint must be 2 to 256 pushes, not 1"),
        ({"lanes": 2, "mode": "latency"}, "need the throughput mode"),
        ({"lanes": 2, "overlap": False}, "need the throughput mode"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        Settings(**options)


def test_a_stint_too_short_for_the_levels_is_refused() -> None:
    with pytest.raises(OptionError, match=r"3 pushes is too short for 3 levels; use 4 or more"):
        Upconverter(3, backend=opened(3, lanes=2, stint=3))
