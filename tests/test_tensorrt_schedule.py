"""The schedule of the TensorRT runtime, without a GPU: no race, no deadlock, no needless wait, good overlap."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtsr.errors import ModelError
from vtsr.runtime.frame import PixelFormat
from vtsr.runtime.tensorrt.flow import Flow, Run, pieces
from vtsr.runtime.tensorrt.layout import Layout
from vtsr.runtime.tensorrt.planning import plan_stream
from vtsr.runtime.tensorrt.schedule import HOST, Block, Operation, Ring, Scheduler
from vtsr.runtime.tensorrt.settings import Settings
from vtsr.runtime.tensorrt.timeline import Span, efficiency, engine_of, timeline

LAYOUT = Layout(PixelFormat(), 64, 96)
FRAME_BYTES = 3 * 64 * 96 * 4
TIMINGS_PER_PLAN = 4
PLANS = 2500  # 10,000 schedules in all


@dataclass(frozen=True)
class Plan:
    """A use of the runtime: scenes of so many frames, pushed ``chunk`` at a time; results read ``behind`` pushes later.

    Of results with ``skipped`` not 0, every so many are dropped without being read.
    """

    levels: int
    slots: int = 3
    scenes: Sequence[int] = (12,)
    chunk: int = 1
    behind: int = 2
    skipped: int = 0
    overlap: bool = True
    batching: bool = True
    host_outputs: int = 8


def issued(plan: Plan) -> tuple[list[Operation], Flow]:
    """All operations of a plan, in order of issue."""
    choices = Settings(
        slots=plan.slots, overlap=plan.overlap, batching=plan.batching, host_outputs=plan.host_outputs
    )
    steps = [1 << level for level in range(plan.levels)]
    batches = {"ingest": [1], "step": steps, "finish": [1], "emit": sorted({2, 1 << plan.levels})}
    return plan_stream(
        LAYOUT, batches, FRAME_BYTES, choices, levels=plan.levels, scenes=plan.scenes, chunk=plan.chunk,
        behind=plan.behind, skip_every=plan.skipped,
    )  # fmt: skip


def violations(spans: list[Span]) -> Iterator[str]:
    """Pairs of operations that use a block at the same time or in the wrong order, one of them writing."""
    written: dict[object, float] = {}
    read: dict[object, float] = {}
    for span in spans:
        operation = span.operation
        for block in operation.reads:
            if span.start < written.get(block, 0.0):
                yield f"{operation.kind} reads {block.role} {block.index} before it is written"
        for block in operation.writes:
            if span.start < max(written.get(block, 0.0), read.get(block, 0.0)):
                yield f"{operation.kind} overwrites {block.role} {block.index} while it is in use"
        for block in operation.reads:
            read[block] = max(read.get(block, 0.0), span.end)
        for block in operation.writes:
            written[block], read[block] = span.end, 0.0


plans = st.builds(
    Plan,
    levels=st.integers(1, 4),
    slots=st.integers(1, 4),
    scenes=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    chunk=st.integers(1, 3),
    behind=st.integers(0, 3),
    skipped=st.sampled_from([0, 0, 2]),
    overlap=st.sampled_from([True, True, True, False]),
    batching=st.sampled_from([True, True, False]),
    host_outputs=st.sampled_from([0, 1, 8]),
)


@settings(max_examples=PLANS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(plan=plans, seed=st.integers(0, 1 << 30))
def test_no_timing_makes_operations_collide(plan: Plan, seed: int) -> None:
    operations, _ = issued(plan)
    rng = random.Random(seed)
    for _ in range(TIMINGS_PER_PLAN):
        # Durations over six orders of magnitude, so that everything overtakes everything else where it may.
        times = {id(o): 10 ** rng.uniform(-3, 3) if rng.random() < 0.8 else 0.0 for o in operations}
        issue = rng.choice([0.0, 1e-3, 1.0])
        spans = timeline(operations, lambda o, t=times: t[id(o)], issue=issue, engines=rng.random() < 0.3)
        assert not list(violations(spans))


@settings(max_examples=300, deadline=None, database=None)
@given(seed=st.integers(0, 1 << 30))
def test_any_operations_on_any_blocks_are_kept_in_order(seed: int) -> None:
    """Not only those a recursion issues: blocks written twice unread, read by several streams, and by the host."""
    rng = random.Random(seed)
    operations: list[Operation] = []
    scheduler = Scheduler(operations.append)
    blocks = [Block("any", index, 1) for index in range(4)]
    for _ in range(40):
        reads, writes = (rng.sample(blocks, rng.randrange(3)) for _ in range(2))
        scheduler.add("any", rng.choice(["a", "b", "c", HOST]), reads, writes)
    for _ in range(3):
        times = {id(o): 10 ** rng.uniform(-3, 3) for o in operations}
        assert not list(violations(timeline(operations, lambda o, t=times: t[id(o)], engines=False)))


@settings(max_examples=150, deadline=None, database=None)
@given(plan=plans)
def test_operations_wait_for_earlier_ones_only(plan: Plan) -> None:
    """So there is always one that can go on: no deadlock."""
    operations, _ = issued(plan)
    seen: set[object] = set()
    for operation in operations:
        assert seen.issuperset(operation.waits)
        assert all(mark.stream not in (HOST, operation.mark.stream) for mark in operation.waits)
        seen.add(operation.mark)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_every_wait_is_needed(levels: int, slots: int) -> None:
    """Without any one of them, a slow operation elsewhere makes two collide: the check above can fail."""
    operations, _ = issued(Plan(levels, slots, scenes=(5, 4)))
    by_mark = {operation.mark: operation for operation in operations}
    needed = 0
    for operation in operations:
        for dropped in operation.waits:
            slow = by_mark[dropped]
            waits = operation.waits
            operation.waits = tuple(mark for mark in waits if mark is not dropped)
            spans = timeline(operations, lambda o, s=slow: 1e6 if o is s else 1e-3, engines=False)
            assert list(violations(spans)), f"{operation.kind} need not wait for {slow.kind}"
            operation.waits = waits
            needed += 1
    assert needed > 20


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("chunk", [1, 2])
def test_memory_does_not_grow_with_the_length_of_the_stream(levels: int, chunk: int) -> None:
    def blocks(frames: int) -> Counter[tuple[str, int]]:
        _, flow = issued(Plan(levels, scenes=(frames,), chunk=chunk))
        return Counter((block.role, block.nbytes) for block in flow.blocks)

    assert blocks(12) == blocks(60)


def test_pinned_memory_that_a_caller_keeps_is_bounded() -> None:
    _, flow = issued(Plan(2, scenes=(40,), behind=1000, host_outputs=3))
    kept = Counter((block.role, block.nbytes) for block in flow.blocks if block.role == "pictures")
    assert max(kept.values()) == 3


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("scenes", [(30,), (7, 11, 5, 9)])
@pytest.mark.parametrize("slots", [2, 3])
def test_steady_calls_meet_as_many_combinations_of_places_as_there_are_slots(
    levels: int, scenes: Sequence[int], slots: int
) -> None:
    """Each is a CUDA graph; cuts do not bring new ones."""
    operations, _ = issued(Plan(levels, slots, scenes=scenes))
    combinations: dict[tuple[str, int], set[tuple[object, ...]]] = {}
    for operation in operations:
        work = operation.work
        if isinstance(work, Run) and work.steady:
            places = tuple(sorted((name, id(p.block), p.offset) for name, p in work.tensors.items()))
            combinations.setdefault((operation.kind, work.batch), set()).add(places)
    assert combinations
    assert all(len(found) <= slots for found in combinations.values())


def test_levels_hand_over_blocks_without_copies() -> None:
    operations, _ = issued(Plan(3, scenes=(6,)))
    assert {operation.kind for operation in operations} == {
        "stage", "upload", "ingest", "step 1", "step 2", "step 3", "finish 1", "finish 2", "finish 3", "emit",
        "download", "read",
    }  # fmt: skip
    for earlier, later in (("step 1", "step 2"), ("step 2", "step 3")):
        written = {b for o in operations if o.kind == earlier for b in o.writes if b.role == "frames"}
        assert written <= {b for o in operations if o.kind == later for b in o.reads}


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_level_runs_all_its_pairs_in_one_call_and_without_batching_one_by_one(levels: int) -> None:
    for batching in (True, False):
        operations, _ = issued(Plan(levels, scenes=(9,), batching=batching))
        steady = [o.work.batch for o in operations if o.kind == f"step {levels}"]
        assert max(steady) == (1 << (levels - 1) if batching else 1)
        # As many pairs either way: N frames of a level have N - 1.
        assert sum(steady) == 9 * (1 << (levels - 1)) - 1


# How well it overlaps


def busy(copy_in: float, compute: float, copy_out: float, levels: int):  # type: ignore[no-untyped-def]
    """Durations such that one input frame costs so much of each engine of the GPU."""
    pairs = (1 << levels) - 1

    def duration(operation: Operation) -> float:
        engine = engine_of(operation)
        if engine == HOST:
            return 0.0
        if engine == "copy in":
            return copy_in
        if engine == "copy out":
            return copy_out * operation.work.batch / (1 << levels)
        return compute * operation.work.batch / pairs if operation.kind.startswith("step") else 0.0

    return duration


CASES = [(1.0, 1.0, 1.0), (0.2, 1.0, 0.5), (0.1, 0.3, 1.0), (0.05, 1.0, 0.1), (1.0, 0.4, 0.7)]


def predicted(times: tuple[float, float, float], levels: int, issue: float = 0.0, **plan: object) -> float:
    operations, _ = issued(Plan(levels, scenes=(150,), **{"behind": 3, **plan}))  # type: ignore[arg-type]
    return efficiency(timeline(operations, busy(*times, levels), issue=issue))


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("times", CASES)
def test_three_slots_keep_the_busiest_engine_busy(times: tuple[float, float, float], levels: int) -> None:
    assert 0.9 <= predicted(times, levels) <= 1.0


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("times", CASES)
def test_without_overlap_copies_and_computation_add_up(times: tuple[float, float, float], levels: int) -> None:
    off = predicted(times, levels, overlap=False)
    assert off == pytest.approx(max(times) / sum(times), abs=0.02)
    assert off < predicted(times, levels)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("times", CASES)
def test_more_slots_never_cost_throughput(times: tuple[float, float, float], levels: int) -> None:
    by_slots = [predicted(times, levels, slots=slots) for slots in (1, 2, 3, 4)]
    assert all(fewer <= more + 1e-6 for fewer, more in pairwise(by_slots))


@pytest.mark.parametrize("levels", [2, 3])
def test_levels_that_the_gpu_can_run_at_the_same_time_need_three_slots(levels: int) -> None:
    """A level's frames are read by its next level's calls for two input frames."""

    def per_frame(slots: int) -> float:
        operations, _ = issued(Plan(levels, slots, scenes=(100,), behind=3))
        costs = {HOST: 0.0, "ingest": 0.1, "emit": 0.1}
        spans = timeline(operations, lambda o: costs.get(o.mark.stream, costs.get(o.kind, 1.0)), engines=False)
        return max(span.end for span in spans) / 100

    one, two, three, four = (per_frame(slots) for slots in (1, 2, 3, 4))
    assert one == pytest.approx(two, rel=0.05)
    assert two > 2.0  # two levels in turn
    assert three < 1.5  # at the same time
    assert three == pytest.approx(four, rel=0.05)


def test_reading_each_result_at_once_is_the_price_of_latency() -> None:
    times = (1.0, 1.0, 1.0)
    assert predicted(times, 2, behind=0) < 0.6 * predicted(times, 2, behind=3)


def test_a_host_slower_than_the_gpu_is_the_limit() -> None:
    """Six calls per frame (upload, ingest, two steps, emit, download) at 0.2 each take longer than the GPU's 1.0."""
    assert predicted((1.0, 1.0, 1.0), 2, issue=0.2) == pytest.approx(1 / (6 * 0.2), abs=0.03)
    assert predicted((1.0, 1.0, 1.0), 2, issue=0.01) > 0.9


# Parts


def test_pieces_use_the_largest_batches_there_are() -> None:
    assert pieces(7, [1, 2, 4], "step") == [4, 2, 1]
    assert pieces(6, [2, 8], "emit") == [2, 2, 2]
    assert pieces(0, [1], "step") == []


def test_a_batch_that_cannot_be_put_together_is_named() -> None:
    with pytest.raises(ModelError, match=r"no emit engine for a batch of 1 \(only 2, 4\)"):
        pieces(3, [2, 4], "emit")


def test_a_ring_gives_the_turns_own_block_and_never_one_that_is_held() -> None:
    ring = Ring("frames", 16, 3)
    first = ring.take(0)
    others = [ring.take(turn) for turn in (1, 2)]
    assert [lease.block.index for lease in (first, *others)] == [0, 1, 2]
    kept = first
    spare = ring.take(3)  # its block is held
    assert spare.block not in {lease.block for lease in (kept, *others)}
    del first, kept
    assert ring.take(6).block.index == 0
