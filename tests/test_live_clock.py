"""Live timelines: timestamps are carried while a source behaves and go on where it does not."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtsr.runtime.live.clock import Placed, SourceClock
from vtsr.runtime.live.playout import Playout

T = Fraction(1, 30)


def run(clock: SourceClock, stamps: list[Fraction | None], arrivals: list[float]) -> list[Placed]:
    return [clock.place(stamp, arrival) for stamp, arrival in zip(stamps, arrivals, strict=True)]


def test_timestamps_of_a_good_source_are_carried_exactly() -> None:
    stamps = [Fraction(7, 3) + n * Fraction(1001, 30000) for n in range(40)]
    placed = run(SourceClock(Fraction(1001, 30000)), list(stamps), [0.5 + float(s) for s in stamps])
    assert [p.pts for p in placed] == stamps
    assert [p.ordinal for p in placed] == list(range(40))
    assert {p.scene for p in placed} == {0}
    assert not any(p.jumped or p.rate_changed for p in placed)


def test_frames_that_come_in_bursts_keep_their_timestamps() -> None:
    stamps = [n * T for n in range(30)]
    arrivals = [2.0 * (n // 10) for n in range(30)]  # ten at once, every two seconds
    placed = run(SourceClock(T), list(stamps), arrivals)
    assert [p.pts for p in placed] == stamps
    assert not any(p.jumped for p in placed)


def test_missing_frames_leave_their_places_free() -> None:
    kept = [0, 1, 2, 5, 6, 9]
    placed = run(SourceClock(T), [n * T for n in kept], [n / 30 for n in kept])
    assert [p.ordinal for p in placed] == kept
    assert [p.pts for p in placed] == [n * T for n in kept]


@pytest.mark.parametrize("jump", [-1000, 1000, -3])
def test_a_jump_of_the_clock_goes_on_after_the_time_that_really_passed(jump: int) -> None:
    stamps = [n * T + (jump if n >= 10 else 0) for n in range(20)]
    arrivals = [float(n * T) + (1.0 if n >= 10 else 0.0) for n in range(20)]  # and a pause of one second
    placed = run(SourceClock(T), list(stamps), arrivals)
    assert [n for n, p in enumerate(placed) if p.jumped] == [10]
    assert float(placed[10].pts - placed[9].pts) == pytest.approx(1 + 1 / 30, abs=1e-4)
    assert [p.pts - placed[10].pts for p in placed[10:]] == [n * T for n in range(10)]
    assert placed[10].scene != placed[9].scene


def test_a_pause_that_the_timestamps_show_is_no_jump() -> None:
    stamps = [n * T + (5 if n >= 10 else 0) for n in range(20)]
    placed = run(SourceClock(T), list(stamps), [float(s) for s in stamps])
    assert not any(p.jumped for p in placed)
    assert [p.pts for p in placed] == stamps


def test_a_repeated_timestamp_moves_on_by_one_frame_in_the_same_scene() -> None:
    stamps = [0 * T, 1 * T, 1 * T, 2 * T]
    placed = run(SourceClock(T), list(stamps), [n / 30 for n in range(4)])
    assert [p.pts for p in placed] == [n * T for n in range(4)]
    assert len({p.scene for p in placed}) == 1


@pytest.mark.parametrize("rate", [15, 60, 25])
def test_another_frame_rate_is_noticed_once(rate: int) -> None:
    step = Fraction(1, rate)
    stamps = [n * T for n in range(20)]
    stamps += [stamps[-1] + (n + 1) * step for n in range(30)]
    placed = run(SourceClock(T), list(stamps), [float(s) for s in stamps])
    assert sum(p.rate_changed for p in placed) == 1
    assert placed[-1].frame_time == step
    assert [p.pts for p in placed] == stamps


def test_an_unknown_frame_rate_is_learnt_without_calling_it_a_change() -> None:
    stamps = [n * Fraction(1, 50) for n in range(20)]
    placed = run(SourceClock(), list(stamps), [float(s) for s in stamps])
    assert placed[-1].frame_time == Fraction(1, 50)
    assert not any(p.rate_changed for p in placed)


def test_frames_without_timestamps_are_spaced_more_evenly_than_they_arrive() -> None:
    jitter = [0.008 * (-1) ** n for n in range(120)]
    arrivals = [n / 30 + jitter[n] for n in range(120)]
    placed = run(SourceClock(T), [None] * 120, arrivals)
    steps = [float(b.pts - a.pts) for a, b in pairwise(placed)]
    assert max(abs(s - 1 / 30) for s in steps[20:]) < 0.004 < 0.016  # arrivals are 16 ms off
    # and they do not drift away from the arrivals
    assert float(placed[-1].pts) == pytest.approx(arrivals[-1] - arrivals[0], abs=0.02)


def test_a_camera_without_timestamps_that_loses_frames_shows_the_gap() -> None:
    moments = [n / 30 for n in range(20)] + [n / 30 for n in range(23, 40)]
    placed = run(SourceClock(T), [None] * len(moments), moments)
    assert placed[20].ordinal - placed[19].ordinal == 4
    assert float(placed[-1].pts) == pytest.approx(39 / 30, abs=0.01)


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.fractions(-10, 10)), st.floats(0, 3)), min_size=1, max_size=40
    )
)
def test_no_source_makes_time_go_back(events: list[tuple[Fraction | None, float]]) -> None:
    clock, now, last = SourceClock(T), 0.0, None
    for stamp, pause in events:
        now += pause
        placed = clock.place(stamp, now)
        assert placed.frame_time > 0
        if last is not None:
            assert placed.pts > last.pts
            assert placed.ordinal > last.ordinal
            assert placed.scene >= last.scene
        last = placed


def shown(lateness: list[float], most: float = 1.0) -> list[float]:
    """When frames are shown that are ready ``lateness`` after their time, 30 per second."""
    playout = Playout(most)
    moments = []
    for n, late in enumerate(lateness):
        ready = n / 30 + late
        moments.append(max(ready, playout.due(n * T, ready)))
    return moments


def test_bursts_are_shown_evenly() -> None:
    # Four results at once with every fourth frame.
    moments = shown([0.05 + (3 - n % 4) / 30 for n in range(200)])
    steps = [b - a for a, b in pairwise(moments[8:])]
    assert max(abs(s - 1 / 30) for s in steps) < 0.001


def test_a_hiccup_raises_the_delay_only_for_a_while() -> None:
    late = [0.05] * 100 + [0.35] + [0.05] * 900
    moments = shown(late)
    delays = [m - n / 30 for n, m in enumerate(moments)]
    assert delays[101] == pytest.approx(0.35, abs=0.01)
    assert delays[-1] < 0.1


def test_the_delay_stays_within_its_bound() -> None:
    late = [0.05] * 10 + [3.0] * 5 + [0.05] * 10
    playout = Playout(0.2)
    for n, one in enumerate(late):
        playout.due(n * T, n / 30 + one)
    assert playout.delay is not None
    assert playout.delay <= 0.25 + 1e-9


def test_a_backlog_at_the_beginning_is_forgotten_soon() -> None:
    # A connection begins with two seconds' frames at once, and then brings them as they come.
    late = [max(0.05, 2.05 - n / 30) for n in range(300)]
    moments = shown(late, most=3.0)
    delays = [m - n / 30 for n, m in enumerate(moments)]
    assert delays[0] == pytest.approx(2.05)
    assert max(delays[150:]) < 0.06
