"""LiveUpconverter: what a camera's program can rely on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from live_media import RepeatBackend, eventually, exposures, texture

from vtsr import DeviceError, Frame, InputError, LiveUpconverter, OptionError, Upconverter
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.live.notes import Notes
from vtsr.runtime.live.prometheus import MetricsServer
from vtsr.runtime.live.statistics import BUCKETS

T = Fraction(1, 30)
STILL = np.full((32, 48, 3), 90, np.uint8)


def number(n: int) -> Any:
    return np.full((32, 48, 3), n % 256, np.uint8)


class Stream:
    """A `LiveUpconverter` on a `RepeatBackend`, with what it said."""

    def __init__(self, levels: int = 1, seconds: float = 0.0, **options: Any) -> None:
        self.said: list[str] = []
        self.backend = RepeatBackend(seconds)
        options.setdefault("check_exposure", False)
        self.live = LiveUpconverter(
            levels, backend=self.backend, scene_threshold=1, notes=Notes(self.said.append), **options
        )

    def __enter__(self) -> LiveUpconverter:
        return self.live

    def __exit__(self, *exception: object) -> None:
        self.live.close()


def run(live: LiveUpconverter, frames: list[tuple[Any, Any]]) -> list[Frame]:
    """Pushes (picture, pts) from another thread and returns all results."""

    def push() -> None:
        for picture, pts in frames:
            live.push(picture, pts)
        live.finish()

    pusher = threading.Thread(target=push)
    pusher.start()
    results = list(live)
    pusher.join()
    return results


@pytest.mark.parametrize("levels", [1, 2])
def test_a_stream_without_trouble_is_what_upconverter_makes_of_it(levels: int) -> None:
    clip = exposures(6, (4, 1), size=(64, 48))
    start = Fraction(100, 7)
    with Upconverter(levels, threads=1, precision="fp32") as up:
        expected = list(up.run([Frame(image, start + n * T, T, n) for n, image in enumerate(clip)]))
    with LiveUpconverter(levels, policy="wait", frame_rate=30, threads=1, precision="fp32") as live:
        found = run(live, [(image, start + n * T) for n, image in enumerate(clip)])
    assert [(f.pts, f.duration, f.source_index, f.phase) for f in found] == [
        (f.pts, f.duration, f.source_index, f.phase) for f in expected
    ]
    assert all(np.array_equal(f.image, e.image) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_sharp_still_picture_comes_out_as_it_went_in(precision: str) -> None:
    picture = np.rint(texture(48, 64, seed=5)).astype(np.uint8)
    picture[10:20, 10:30] = (255, 0, 0)
    with LiveUpconverter(2, policy="wait", frame_rate=30, threads=1, precision=precision) as live:
        frames = run(live, [(picture, n * T) for n in range(5)])
        worst = [int(np.abs(f.image.astype(int) - picture).max()) for f in frames]
    assert worst == [0] * 20


def blocked(stream: Stream, frames: int) -> list[int]:
    """Pushes frames while the network stands still, lets it go on, and says which frames were used."""
    live = stream.live
    stream.backend.may_run.clear()
    live.push(number(0), 0 * T)
    assert eventually(lambda: live.stats().waiting == 0)  # it is being processed
    for n in range(1, frames):
        live.push(number(n), n * T)
        assert live.stats().waiting <= live.stats().capacity
    stream.backend.may_run.set()
    live.finish()
    return sorted({f.source_index for f in live})


@pytest.mark.parametrize(
    ("policy", "used"),
    [("drop-oldest", [0, 17, 18, 19]), ("drop-newest", [0, 1, 2, 3]), ("adapt", [0, 17, 18, 19])],
)
def test_a_full_queue_drops_by_its_policy(policy: str, used: list[int]) -> None:
    stream = Stream(policy=policy, queue=3, frame_rate=30)
    with stream as live:
        assert blocked(stream, 20) == used
        counts = live.stats().counts
    assert (counts.frames_in, counts.dropped_full) == (20, 16)
    assert sum("dropped" in sentence for sentence in stream.said) == 1


def test_a_source_that_can_wait_loses_nothing() -> None:
    with Stream(policy="wait", queue=1, frame_rate=30) as live:
        frames = run(live, [(number(n), n * T) for n in range(50)])
        assert [f.source_index for f in frames] == [n for n in range(50) for _ in range(2)]


def test_the_newest_frames_are_used_when_the_budget_is_exceeded() -> None:
    now = [0.0]
    stream = Stream(policy="drop-oldest", queue=8, frame_rate=30, latency_budget=0.1, clock=lambda: now[0])
    with stream as live:
        stream.backend.may_run.clear()
        live.push(number(0), 0 * T)
        assert eventually(lambda: live.stats().waiting == 0)
        for n in range(1, 6):
            now[0] = n / 30
            live.push(number(n), n * T)
        now[0] = 0.2  # frames 1 to 3 have waited for longer than 0.1 s less a frame time
        stream.backend.may_run.set()
        live.finish()
        assert sorted({f.source_index for f in live}) == [0, 4, 5]
        assert live.stats().counts.dropped_late == 3


class Spy(RepeatBackend):
    """Remembers the pairs of pictures it was given, by the value of a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def step(self, u: list[Planes], a_u: Any, v: list[Planes]) -> Any:
        values = [int(p.planes[0][0, 0, 0]) for p in (*u, *v)]
        self.seen += list(pairwise(values))
        return super().step(u, a_u, v)


def pairs_across_a_gap(way: int) -> tuple[list[tuple[int, int]], int]:
    """Pushes frames 0 1 2 and 5 6 of a scene that moves by ``way`` pixels per frame, and gives the pairs."""
    backend = Spy()
    scene = np.rint(texture(64, 160, seed=2)).astype(np.uint8)
    with LiveUpconverter(
        1, backend=backend, policy="wait", frame_rate=30, scene_threshold=1, check_exposure=False
    ) as live:
        pictures = []
        for n in (0, 1, 2, 5, 6):
            picture = scene[:, n * way : n * way + 96].copy()
            picture[0, 0] = n
            pictures.append((picture, n * T))
        frames = run(live, pictures)
        counts = live.stats().counts
    assert [f.source_index for f in frames] == [n for n in range(5) for _ in range(2)]
    assert [f.pts for f in frames] == [n * T + half * T / 2 for n in (0, 1, 2, 5, 6) for half in (0, 1)]
    assert counts.missing == 2
    return backend.seen, counts.restarts


def test_frames_beside_a_gap_are_not_paired_where_things_moved() -> None:
    assert pairs_across_a_gap(way=3) == ([(0, 1), (1, 2), (5, 6)], 1)


def test_frames_beside_a_gap_are_paired_where_nothing_moved() -> None:
    assert pairs_across_a_gap(way=0) == ([(0, 1), (1, 2), (2, 5), (5, 6)], 0)


def test_a_stall_gives_out_what_there_is_and_is_said_once() -> None:
    stream = Stream(policy="wait", frame_rate=100)
    with stream as live:
        for pause in range(3):
            for n in range(3):
                live.push(STILL, pause * 10 + Fraction(n, 100))
            for _ in range(6):  # all of them, though no more frames come
                assert live.get(20) is not None
        assert live.stats().counts.stalls >= 2
    assert sum("stopped sending" in sentence for sentence in stream.said) == 1


def test_another_frame_size_begins_a_new_scene() -> None:
    stream = Stream(policy="wait", frame_rate=30)
    with stream as live:
        frames = run(live, [(STILL if n < 3 else STILL[:20, :30], n * T) for n in range(6)])
        assert [f.image.shape[:2] for f in frames] == [(32, 48)] * 6 + [(20, 30)] * 6
    assert sum("30x20" in sentence for sentence in stream.said) == 1


def test_jumps_and_rates_are_said_once_and_times_go_on() -> None:
    stream = Stream(policy="wait", frame_rate=30)
    with stream as live:
        stamps = [n * T for n in range(20)] + [500 - n * 7 * T for n in range(6)]
        stamps += [900 + n * Fraction(1, 10) for n in range(30)]
        times = [f.pts for f in run(live, [(STILL, stamp) for stamp in stamps])]
        counts = live.stats().counts
    assert all(a < b for a, b in pairwise(times))
    assert counts.clock_jumps == 7
    assert counts.rate_changes == 1
    assert sum("clock jumped" in s for s in stream.said) == 1
    assert sum("10 per second" in s for s in stream.said) == 1


def test_frames_that_come_unevenly_are_divided_evenly_and_never_overlap() -> None:
    stamps = [Fraction(n, 30) + Fraction((-1) ** n, 200) for n in range(20)]
    with Stream(policy="wait", frame_rate=30, levels=2) as live:
        frames = run(live, [(STILL, stamp) for stamp in stamps])
    for n, (begin, end) in enumerate(pairwise(stamps)):
        parts = [f for f in frames if f.source_index == n]
        assert [f.pts for f in parts] == [begin + j * (end - begin) / 4 for j in range(4)]


def test_fewer_levels_while_the_machine_is_slow_and_more_again_later() -> None:
    stream = Stream(levels=2, seconds=0.02, policy="adapt", queue=3, frame_rate=50)
    live = stream.live
    stop = threading.Event()

    def push() -> None:
        n = 0
        while not stop.wait(0.02):
            live.push(number(n), Fraction(n, 50))
            n += 1
        live.finish()

    frames: list[Frame] = []
    takers = [threading.Thread(target=push), threading.Thread(target=lambda: frames.extend(live))]
    with stream:
        for thread in takers:
            thread.start()
        assert eventually(lambda: live.stats().levels < 2)
        stream.backend.seconds = 0.0
        assert eventually(lambda: live.stats().levels == 2)
        stop.set()
        for thread in takers:
            thread.join()
    assert all(a.pts + a.duration <= b.pts for a, b in pairwise(frames))
    assert {f.duration for f in frames} >= {Fraction(1, 200)}
    assert len({f.duration for f in frames}) > 1
    assert live.stats().counts.level_changes >= 2


def test_pushes_from_many_threads_all_count() -> None:
    with Stream(policy="wait") as live:
        threads = [threading.Thread(target=lambda: [live.push(STILL) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        taken = [live.get(20) for _ in range(160)]
        for thread in threads:
            thread.join()
        assert None not in taken
        assert live.stats().counts.frames_in == 80


def test_results_come_to_a_callback() -> None:
    got: list[Frame] = []
    with Stream(policy="wait", frame_rate=30, on_frame=got.append) as live:
        for n in range(5):
            live.push(number(n), n * T)
        live.finish()
        assert live.join(20)
    assert [f.source_index for f in got] == [n for n in range(5) for _ in range(2)]


def test_results_come_to_an_event_loop_that_does_other_things_meanwhile() -> None:
    async def service() -> tuple[list[int], int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        with Stream(policy="wait", seconds=0.002, frame_rate=30) as live:
            task = asyncio.create_task(others())
            threading.Thread(target=lambda: [live.push(number(n), n * T) for n in range(30)] and live.finish()).start()
            found = [f.source_index async for f in live]
            task.cancel()
        return found, turns

    found, turns = asyncio.run(service())
    assert found == [n for n in range(30) for _ in range(2)]
    assert turns > 30


def test_a_consumer_that_takes_nothing_stops_nobody() -> None:
    stream = Stream(policy="drop-oldest", queue=2, frame_rate=30)
    with stream as live:
        for n in range(200):
            live.push(number(n), n * T)
        began = time.monotonic()
        stats = live.stats()
        assert stats.waiting <= 2
    assert time.monotonic() - began < 10  # `close` gave up no thread
    assert stream.backend.closed


def test_a_failure_of_the_backend_reaches_those_who_push_and_those_who_take() -> None:
    stream = Stream(policy="wait", frame_rate=30)
    with stream as live:
        stream.backend.fail = DeviceError("The GPU is gone.")
        live.push(STILL, 0)
        live.push(STILL, T)
        with pytest.raises(DeviceError, match="gone"):
            list(live)
        with pytest.raises(DeviceError, match="gone"):
            live.push(STILL, 2 * T)


@pytest.mark.parametrize("wrong", [np.zeros((32, 48), np.uint8), np.zeros((4, 48, 3), np.uint8), "picture"])
def test_what_is_no_picture_is_refused_where_it_is_pushed(wrong: Any) -> None:
    with Stream() as live:
        with pytest.raises(InputError):
            live.push(wrong)
        assert live.push(STILL)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "panic"}, "drop-oldest"),
        ({"queue": 0}, "at least one"),
        ({"latency_budget": 0.0}, "longer than zero"),
        ({"frame_rate": 0}, "positive"),
        ({"duty": 0.0}, "above 0 to 1"),
        ({"duty": 1.5}, "above 0 to 1"),
        ({"lowest_level": 3}, "0 to 2"),
        ({"levels": 5}, "number of levels"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        LiveUpconverter(**{"levels": 2, "backend": RepeatBackend(), **options})


@pytest.mark.parametrize("sampling", ["rgb", "yuv420"])
def test_a_short_exposure_is_divided_and_nothing_is_made_up_for_the_rest(sampling: str) -> None:
    clip = exposures(5, (4, 1), duty=0.5, size=(64, 48))
    shapes = [(48, 64), (24, 32), (24, 32)]

    def picture(image: Any) -> Any:
        if sampling == "rgb":
            return Planes((image,), PixelFormat())
        image = image // 4 + 96  # within the range of colours: what is clipped does not average to anything
        planes = [np.ascontiguousarray(image[:: 48 // h, :: 64 // w, i]) for i, (h, w) in enumerate(shapes)]
        return Planes(tuple(planes), PixelFormat("yuv420"))

    frames = [Frame(picture(image), n * T, T, n) for n, image in enumerate(clip)]
    with Upconverter(2, threads=1, precision="fp32") as up:
        whole = list(up.run(frames))
    with LiveUpconverter(
        2, duty=0.5, policy="wait", frame_rate=30, threads=1, precision="fp32", check_exposure=False
    ) as live:
        found = run(live, [(frame, None) for frame in frames])
    for n, frame in enumerate(frames):
        parts = [f for f in found if f.source_index == n]
        assert [f.pts - n * T for f in parts] == [0, T / 8, T / 4, 3 * T / 8]
        assert parts[-1].pts + parts[-1].duration == (n + 1) * T
        for plane in range(len(frame.planes.planes)):
            original = frame.planes.planes[plane].astype(float)
            mean = np.mean([f.planes.planes[plane].astype(float) for f in parts], axis=0)
            assert np.abs(mean - original).max() <= 1  # the exposure law, within rounding
            for part, full in zip(parts, whole[4 * n : 4 * n + 4], strict=True):
                wanted = original + 0.5 * (full.planes.planes[plane] - original)
                assert np.abs(part.planes.planes[plane] - wanted).max() <= 0.51


def test_statistics_are_plain_data_and_a_line() -> None:
    with Stream(policy="wait", frame_rate=30) as live:
        run(live, [(number(n), n * T) for n in range(10)])
        stats = live.stats()
    assert json.loads(json.dumps(stats.as_dict()))["counts"]["frames_out"] == 20
    assert 0 <= stats.latency.p50 <= stats.latency.p95 <= stats.latency.p99 <= stats.latency.max
    assert sum(stats.latency.buckets) == stats.latency.count == 20
    assert "dropped 0" in stats.line()


def metrics(port: int, path: str = "/metrics") -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_metrics_are_served_to_this_machine_in_prometheus_format() -> None:
    with Stream(policy="wait", frame_rate=30) as live:
        server = MetricsServer(live.stats, 0)
        try:
            run(live, [(number(n), n * T) for n in range(10)])
            found = metrics(server.port)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                metrics(server.port, "/etc/passwd")
            with pytest.raises(OptionError, match="choose another port"):
                MetricsServer(live.stats, server.port)
            assert server._server.server_address[0] == "127.0.0.1"
        finally:
            server.close()
    assert found["vtsr_live_frames_in_total"] == 10
    assert found["vtsr_live_frames_out_total"] == 20
    assert found["vtsr_live_latency_seconds_count"] == 20
    buckets = [found[f'vtsr_live_latency_seconds_bucket{{le="{bound:g}"}}'] for bound in BUCKETS]
    assert buckets == sorted(buckets)
    assert found['vtsr_live_latency_seconds_bucket{le="+Inf"}'] == 20


def test_the_same_event_is_said_again_only_after_a_while() -> None:
    now, said = [0.0], list[str]()
    notes = Notes(said.append, quiet=60, clock=lambda: now[0])
    for second in range(0, 130):
        now[0] = float(second)
        notes.say("drop", "A frame was dropped.")
    notes.say("other", "Something else.")
    assert said == [
        "A frame was dropped.",
        "A frame was dropped. (and 59 times since this was last said)",
        "A frame was dropped. (and 59 times since this was last said)",
        "Something else.",
    ]
