"""The TensorRT backend on a device in software: the same frames as without a GPU, in whatever order things happen."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from software_cuda import (
    BlendEngines,
    DeadlockError,
    Engine,
    GraphEngines,
    MisuseError,
    RaceError,
    SoftwareDevice,
    blend_emit,
    blend_finish,
    blend_ingest,
    blend_step,
    blend_stream,
)

from vtsr import DeviceError, InputError, ModelError, OptionError, Upconverter
from vtsr.runtime.backend import StepResult
from vtsr.runtime.engines.cache import EngineCache
from vtsr.runtime.engines.recipe import open_recipe
from vtsr.runtime.frame import Frame, PixelFormat, Planes
from vtsr.runtime.job import Job
from vtsr.runtime.tensorrt import executor as executor_module
from vtsr.runtime.tensorrt.arrays import DeviceArray
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.embedding import DeviceUpconverter
from vtsr.runtime.tensorrt.layout import Layout
from vtsr.runtime.tensorrt.recipes import RecipeEngines, matching_batches, matching_engine
from vtsr.runtime.tensorrt.schedule import Scheduler
from vtsr.runtime.tensorrt.settings import Settings

Image = NDArray[np.uint8]
RGB = PixelFormat()
SWITCHES = ("graphs", "overlap", "pinned", "batching")


def clip(count: int, height: int = 20, width: int = 34, seed: int = 0) -> list[Image]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def wrapped(images: Sequence[Image]) -> list[Frame]:
    """Frames whose results are waited for only when they are read."""
    return [Frame(Planes((image,), RGB), source_index=n) for n, image in enumerate(images)]


def opened(levels: int, device: SoftwareDevice | None = None, **settings: Any) -> TensorRTBackend:
    settings.setdefault("levels", levels)
    return TensorRTBackend(device or SoftwareDevice(), BlendEngines(levels), Settings(**settings))


def images_of(frames: Sequence[Frame]) -> list[Image]:
    return [frame.image for frame in frames]


def same(found: Sequence[Image], expected: Sequence[Image]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


# What comes out


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    levels=st.integers(1, 3),
    scenes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    chunk=st.integers(1, 3),
    seed=st.integers(0, 1 << 30),
    pace=st.sampled_from(["random", "random", "lazy", "eager"]),
    mode=st.sampled_from(["throughput", "latency"]),
    slots=st.integers(1, 4),
    host_outputs=st.sampled_from([0, 1, 8]),
    switches=st.fixed_dictionaries({}, optional={name: st.just(False) for name in SWITCHES}),
    behind=st.integers(0, 4),
)
def test_frames_are_those_of_the_whole_scenes_in_any_order_of_events(
    levels: int, scenes: list[int], chunk: int, seed: int, pace: str, behind: int, **options: Any
) -> None:
    """Bit for bit, with every setting; scenes are ended by flushes; results are read so many pushes later."""
    switches = options.pop("switches")
    device = SoftwareDevice(seed, pace=pace)
    clips = [clip(count, seed=index) for index, count in enumerate(scenes)]
    outputs: list[Image] = []
    unread: list[list[Frame]] = []
    with Upconverter(levels, backend=opened(levels, device, **options, **switches), scene_threshold=1) as up:
        for images in clips:
            frames = wrapped(images)
            for start in range(0, len(frames), chunk):
                unread.append(up.push(*frames[start : start + chunk]))
                while len(unread) > behind:
                    outputs += [image.copy() for image in images_of(unread.pop(0))]
            unread.append(up.flush())
        outputs += [image for group in unread for image in images_of(group)]
    expected = [image for images in clips for image in blend_stream(images, levels)]
    assert same(outputs, expected)
    assert device.left_behind == {"memory": 0, "streams": 0}
    assert device.depth == 0


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_bare_arrays_come_back_as_bare_arrays(levels: int) -> None:
    images = clip(5)
    with Upconverter(levels, backend=opened(levels), scene_threshold=1) as up:
        outputs = list(up.run(images))
    assert all(isinstance(frame.picture, np.ndarray) for frame in outputs)
    assert same(images_of(outputs), blend_stream(images, levels))


def test_a_bare_array_is_waited_for_when_it_is_read() -> None:
    """So that plain NumPy pushes overlap, too, where the caller reads some pushes later."""
    images = clip(12)
    device = SoftwareDevice(pace="lazy")
    with Upconverter(1, backend=opened(1, device), scene_threshold=1) as up:
        up.push(images[0])
        outputs = up.push(images[1])
        waited = device.calls.count("synchronize")
        assert (outputs[0].planes.height, outputs[0].pts, outputs[1].phase) == (20, 0, 1)
        assert device.calls.count("synchronize") == waited
        first = outputs[0].picture
        assert isinstance(first, np.ndarray)
        assert device.calls.count("synchronize") == waited + 1
        assert np.array_equal(first, blend_stream(images, 1)[0])
        assert replace(outputs[1], source_index=7).image is outputs[1].image


@pytest.mark.parametrize("bare", [True, False])
def test_results_may_be_sent_to_other_processes_before_they_are_there(bare: bool) -> None:
    images = clip(3)
    with Upconverter(1, backend=opened(1, SoftwareDevice(pace="lazy")), scene_threshold=1) as up:
        outputs = [f for frame in (images if bare else wrapped(images)) for f in up.push(frame)]
        sent = pickle.loads(pickle.dumps(outputs))  # noqa: S301  # our own
    assert same(images_of(sent), blend_stream(images, 1)[:4])
    assert [(f.pts, f.source_index, f.phase) for f in sent] == [(f.pts, f.source_index, f.phase) for f in outputs]
    assert isinstance(sent[0].picture, np.ndarray if bare else Planes)


@pytest.mark.parametrize("behind", [0, 1, 3, 50])
def test_results_are_handed_out_as_many_pushes_late_as_asked_for(behind: int) -> None:
    images = clip(12)
    taken = 0

    def source() -> Any:
        nonlocal taken
        for image in images:
            taken += 1
            yield image

    device = SoftwareDevice(3, pace="lazy")
    with Upconverter(1, backend=opened(1, device), scene_threshold=1) as up:
        outputs, lags = [], []
        for frame in up.run(source(), behind=behind):
            outputs.append(frame.image)
            lags.append(taken - frame.source_index)
        assert same(outputs, blend_stream(images, 1))
        assert max(lags) == min(behind + 2, len(images))
        with pytest.raises(OptionError, match="behind must be 0 or more"):
            next(up.run(images, behind=-1))


def test_cuts_and_changes_of_size_start_new_scenes() -> None:
    calm = [np.full((24, 40, 3), 10 + n, np.uint8) for n in range(3)]
    other, larger = clip(3, 24, 40), clip(2, 48, 64, seed=5)
    device = SoftwareDevice(3)
    with Upconverter(2, backend=opened(2, device), scene_threshold=0.1) as up:
        outputs = images_of(list(up.run([*calm, other[0], other[0], *larger])))
        cuts = list(up.cuts)
    scenes, start = [], 0
    everything = [*calm, other[0], other[0], *larger]
    for end in [*cuts, len(everything)]:
        scenes.append(everything[start:end])
        start = end
    assert {3, 5} <= set(cuts)
    assert same(outputs, [image for scene in scenes for image in blend_stream(scene, 2)])
    assert device.left_behind == {"memory": 0, "streams": 0}


def test_results_stay_as_they_are_while_the_caller_keeps_them() -> None:
    images = clip(40)
    device = SoftwareDevice(1)
    with Upconverter(1, backend=opened(1, device, host_outputs=2), scene_threshold=1) as up:
        outputs = list(up.run(wrapped(images)))
        assert same(images_of(outputs), blend_stream(images, 1))
        assert len(device.page_locked_arrays) < 15
    assert same(images_of(outputs), blend_stream(images, 1))  # after the end, too


def test_results_dropped_unread_do_no_harm() -> None:
    images = clip(12)
    with Upconverter(2, backend=opened(2, SoftwareDevice(4, pace="lazy")), scene_threshold=1) as up:
        kept: list[Frame] = []
        for number, frame in enumerate(wrapped(images)):
            outputs = up.push(frame)
            kept += outputs if number % 2 else []
        kept += up.flush()
        expected = blend_stream(images, 2)
        assert len(kept) == 6 * 4 + 4
        assert all(np.array_equal(f.image, expected[4 * f.source_index + f.phase]) for f in kept)


def test_threads_may_push_and_read_at_the_same_time() -> None:
    """As `vtsr-upconvert` does: made in one thread, pushed in another, read in a third."""
    images = clip(30)
    outputs: list[Frame] = []
    found: list[Image] = []
    device = SoftwareDevice(7)
    up = Upconverter(2, backend=opened(2, device), scene_threshold=1)
    ready = threading.Semaphore(0)

    def push() -> None:
        for frame in wrapped(images):
            for output in up.push(frame):
                outputs.append(output)
                ready.release()
        last = up.flush()
        outputs.extend(last)
        ready.release(len(last))

    def read() -> None:
        for index in range(4 * len(images)):
            ready.acquire()
            found.append(outputs[index].image)

    threads = [threading.Thread(target=work) for work in (push, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    up.close()
    assert same(found, blend_stream(images, 2))


def test_a_whole_job_writes_the_same_frames() -> None:
    """Decoder, network and encoder in threads of their own, results waited for by the encoder."""
    images = clip(20)
    written: list[Image] = []

    class Sink:
        def write(self, frame: Frame) -> None:
            written.append(frame.image.copy())

        def finish(self) -> None:
            pass

        def abandon(self, keep: bool = False) -> None:
            pass

    device = SoftwareDevice(5, pace="lazy")
    with Upconverter(2, backend=opened(2, device), scene_threshold=1) as up:
        result = Job(wrapped(images), up, Sink(), parts=4).run()
    assert (result.frames_in, result.frames_out) == (20, 80)
    assert same(written, blend_stream(images, 2))


class BlendBackend:
    """The stand-in network without a device: every call computes at once."""

    name, precision = "blend", ""

    def ingest(self, pictures: Sequence[Planes]) -> NDArray[Any]:
        return blend_ingest(np.stack([picture.planes[0] for picture in pictures]), (32, 64))

    def frames_in(self, tensor: NDArray[Any]) -> int:
        return len(tensor)

    def part(self, tensor: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        return tensor[start:stop]

    def step(self, u: NDArray[Any], a_u: NDArray[Any] | None, v: NDArray[Any]) -> StepResult:
        return StepResult(*blend_step(u, a_u, v))

    def finish(self, u: NDArray[Any], a_u: NDArray[Any] | None) -> NDArray[Any]:
        return blend_finish(u, a_u)

    def emit(self, frames: NDArray[Any], format: PixelFormat, height: int, width: int) -> list[Planes]:
        return [Planes((image,), format) for image in blend_emit(frames, height, width)]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(12))
def test_the_number_of_levels_may_change_within_a_stream(seed: int) -> None:
    """Up, down and to nothing, between any two pushes."""
    rng = np.random.default_rng(seed)
    images = clip(30, seed=seed)
    changes = {int(n): int(rng.integers(0, 4)) for n in rng.choice(30, 6, replace=False)}
    found = []
    for backend in (opened(3, SoftwareDevice(seed, pace=("random", "lazy")[seed % 2])), BlendBackend()):
        with Upconverter(3, backend=backend, scene_threshold=1) as up:
            outputs = []
            for number, image in enumerate(images):
                if number in changes:
                    outputs += up.change_levels(changes[number])
                outputs += up.push(image)
            outputs += up.flush()
            found.append([(f.pts, f.duration, f.source_index, f.phase, f.image.tobytes()) for f in outputs])
    assert found[0] == found[1]


# How it is done


def calls_of(device: SoftwareDevice, levels: int, frames: int = 30, **options: Any) -> list[str]:
    with Upconverter(levels, backend=opened(levels, device, **options), scene_threshold=1) as up:
        for frame in wrapped(clip(frames)):
            up.push(frame)
        mark = len(device.calls)
        up.push(wrapped(clip(1))[0])
        return device.calls[mark:]


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_a_steady_push_is_one_copy_each_way_and_one_graph_per_engine(levels: int) -> None:
    calls = calls_of(SoftwareDevice(pace="eager"), levels)
    assert (calls.count("upload"), calls.count("download")) == (1, 1)
    assert calls.count("launch") == levels + 2  # ingest, the steps, emit
    assert not {"enqueue", "allocate", "page_locked", "create_call", "create_event", "copy"} & set(calls)


def test_an_engine_that_cannot_be_captured_is_enqueued_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    device = SoftwareDevice(captures=False)
    with caplog.at_level(logging.WARNING, "vtsr"):
        calls = calls_of(device, 3)
    assert calls.count("enqueue") == 5
    assert device.calls.count("capture") == 1
    assert len([r for r in caplog.records if "CUDA graph" in r.message]) == 1


def test_without_graphs_nothing_is_captured() -> None:
    device = SoftwareDevice()
    assert calls_of(device, 2, graphs=False).count("enqueue") == 4
    assert "capture" not in device.calls


def test_later_levels_have_more_urgent_streams() -> None:
    device = SoftwareDevice()
    backend = opened(3, device)
    with Upconverter(3, backend=backend, scene_threshold=1) as up:
        list(up.run(clip(4)))
        urgency = [backend.executor.stream(f"level {level}").urgency for level in (1, 2, 3)]
    assert urgency == sorted(set(urgency))


def test_latency_mode_has_results_when_push_returns() -> None:
    images = clip(6)
    device = SoftwareDevice(pace="lazy")
    with Upconverter(2, backend=opened(2, device, mode="latency"), scene_threshold=1) as up:
        for number, frame in enumerate(wrapped(images)):
            outputs = up.push(frame)
            assert bool(outputs) == bool(number)
            assert not any(task.name == "download" for stream in device._streams for task in stream.tasks)


def test_throughput_mode_returns_before_anything_has_run() -> None:
    device = SoftwareDevice(pace="lazy")
    with Upconverter(1, backend=opened(1, device), scene_threshold=1) as up:
        frames = wrapped(clip(3))
        up.push(frames[0])
        waited = device.calls.count("synchronize")
        outputs = up.push(frames[1])
        assert device.calls.count("synchronize") == waited
        assert (outputs[0].planes.height, outputs[0].planes.width) == (20, 34)
        assert device.calls.count("synchronize") == waited
        assert same(images_of(outputs), blend_stream(images_of(frames[:2]), 1)[:2])


def test_the_caller_cannot_run_ahead_without_bound() -> None:
    """Results that nobody reads do not let the queue of work grow: a push waits for its slot."""
    device = SoftwareDevice(pace="lazy")
    with Upconverter(1, backend=opened(1, device), scene_threshold=1) as up:
        longest = 0
        for frame in wrapped(clip(60)):
            up.push(frame)
            longest = max(longest, sum(len(s.tasks) for s in device._streams))
    assert longest < 150


def test_page_locked_arrays_are_not_staged() -> None:
    images = clip(8)
    device = SoftwareDevice(2)
    backend = opened(1, device)
    outputs: list[Image] = []
    array = backend.page_locked_empty((20, 34, 3))
    with Upconverter(1, backend=backend, scene_threshold=1) as up:
        for image in images:
            array[:] = image
            outputs += images_of(up.push(Frame(Planes((array,), RGB))))
            backend.wait_for_input()
        outputs += images_of(up.flush())
        staged = [a for a in device.page_locked_arrays if a.ctypes.data != array.ctypes.data and a.nbytes < 2304]
    assert same(outputs, blend_stream(images, 1))
    assert not staged


def test_memory_that_is_page_locked_outlives_its_first_name() -> None:
    array = opened(1).page_locked_empty((4, 4, 3))
    view = array[1]
    del array
    gc.collect()
    view[:] = 7
    assert (view == 7).all()


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("slots", [2, 3])
def test_the_memory_check_foresees_what_is_taken(levels: int, slots: int) -> None:
    """With somewhat more free memory than a stream takes it runs, with a little less it is refused beforehand."""

    def run(total: int) -> SoftwareDevice:
        device = SoftwareDevice(total=total)
        with Upconverter(levels, backend=opened(levels, device, slots=slots), scene_threshold=1) as up:
            for count in (25, 24):
                list(up.run(clip(count)))
        return device

    peak = run(1 << 34).peak
    run(int(peak * 1.2))
    with pytest.raises(DeviceError, match=r"needs \d+ MiB of GPU memory, but only .* free; use fewer levels"):
        run(int(peak * 0.99))


def test_too_little_memory_for_one_size_leaves_others_possible() -> None:
    device = SoftwareDevice(total=3 << 20)
    backend = opened(2, device)
    with pytest.raises(DeviceError, match="needs"):
        backend.ingest([Planes((clip(1, 512, 512)[0],), RGB)])
    assert device.left_behind == {"memory": 0, "streams": 0}
    with Upconverter(2, backend=backend, scene_threshold=1) as up:
        assert same(images_of(list(up.run(clip(3)))), blend_stream(clip(3), 2))
    assert device.left_behind == {"memory": 0, "streams": 0}


# What goes wrong


@pytest.mark.parametrize("call", ["allocate", "upload", "enqueue", "capture", "launch", "record", "download", "wait"])
def test_any_failing_call_is_named_and_nothing_is_left_behind(call: str) -> None:
    count = 0

    def fails(name: str) -> bool:
        nonlocal count
        count += name == call
        return name == call and count > 4

    device = SoftwareDevice(fails=fails)
    with Upconverter(2, backend=opened(2, device), scene_threshold=1) as up:
        with pytest.raises(DeviceError, match=rf"{call} failed: out of luck\.$"):
            list(up.run(clip(12)))
        with pytest.raises(DeviceError, match=rf"failed before .*{call}"):
            up.push(clip(1)[0])
    assert device.left_behind == {"memory": 0, "streams": 0}
    assert device.depth == 0


def test_closing_twice_is_closing_once_and_using_it_afterwards_is_refused() -> None:
    device = SoftwareDevice()
    backend = opened(1, device)
    up = Upconverter(1, backend=backend, scene_threshold=1)
    list(up.run(clip(3)))
    up.close()
    up.close()
    assert device.closed == 1
    with pytest.raises(DeviceError, match=r"closed; open another"):
        backend.ingest([Planes((clip(1)[0],), RGB)])


def test_a_backend_that_is_only_dropped_frees_everything() -> None:
    device = SoftwareDevice()
    backend = opened(1, device)
    up = Upconverter(1, backend=backend, scene_threshold=1)
    outputs = up.push(clip(1)[0]) + up.push(clip(1)[0])
    assert device.left_behind["memory"] > 0
    del up, backend, outputs
    gc.collect()
    assert device.left_behind == {"memory": 0, "streams": 0}


def test_pictures_unread_at_the_close_are_there_afterwards() -> None:
    images = clip(3)
    device = SoftwareDevice(pace="lazy")
    with Upconverter(1, backend=opened(1, device), scene_threshold=1) as up:
        outputs = [output for frame in wrapped(images) for output in up.push(frame)]
    assert same(images_of(outputs), blend_stream(images, 1)[:4])


EXIT_PROGRAM = """
import sys, weakref
sys.path.insert(0, sys.argv[1])

class Other: pass
other = Other()
weakref.finalize(other, print, "another library's finalizer")   # registers weakref's own exit function early

from unittest import mock
from software_cuda import BlendEngines, SoftwareDevice
from test_tensorrt_backend import clip
from vtsr import Upconverter
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.engines.platform import primary_context_of

cuda = mock.MagicMock()
context = primary_context_of(cuda, 0)
assert primary_context_of(cuda, 0) is context and cuda.Device.return_value.retain_primary_context.call_count == 1
context.detach.side_effect = lambda: print("context released", context.push.call_count)

class Device(SoftwareDevice):
    def close(self):
        print("device closed", self.left_behind)

up = Upconverter(1, backend=TensorRTBackend(Device(), BlendEngines(1)), scene_threshold=1)
kept = [f for image in clip(3) for f in up.push(image)]
"""


def test_at_the_end_of_the_interpreter_backends_are_closed_before_the_context_goes() -> None:
    """Left open, and with results still held."""
    arguments = [sys.executable, "-c", EXIT_PROGRAM, str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said[:2] == ["device closed {'memory': 0, 'streams': 0}", "context released 1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_use_after_a_fork_is_refused_in_one_sentence() -> None:
    device = SoftwareDevice(pace="lazy")
    backend = opened(1, device)
    with Upconverter(1, backend=backend, scene_threshold=1) as up:
        frames = wrapped(clip(3))
        up.push(frames[0])
        unread = up.push(frames[1])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            said = []
            for action in (lambda: up.push(frames[2]), lambda: unread[0].image, backend.close):
                try:
                    action()
                    said.append("nothing")
                except DeviceError as error:
                    said.append(str(error))
            os.write(writing, "|".join(said).encode())
            os._exit(0)
        os.waitpid(child, 0)
        pushed, read, closed = os.read(reading, 4096).decode().split("|")
        assert pushed == "A GPU cannot be used across fork; open the backend in the process that uses it."
        assert "cannot be read across fork" in read
        assert closed == "nothing"
        assert same(images_of(unread), blend_stream(images_of(frames[:2]), 1)[:2])  # the parent goes on


@pytest.mark.parametrize(
    "options",
    [{"mode": "fast"}, {"wait": "nap"}, {"slots": 0}, {"levels": 5}, {"device": -1}, {"host_outputs": -2}],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"^[A-Z].*\.$"):
        Settings(**options)


def test_a_format_without_engines_is_named() -> None:
    with (
        Upconverter(1, backend=opened(1), scene_threshold=1) as up,
        pytest.raises(ModelError, match=r"no ingest engine for gray 34x20"),
    ):
        up.push(Frame(Planes((clip(1)[0][..., 0],), PixelFormat("gray"))))


def test_planes_that_do_not_go_together_are_refused() -> None:
    planes = Planes((np.zeros((20, 34), np.uint8), np.zeros((10, 18), np.uint8)), PixelFormat("yuv420"))
    with (
        Upconverter(1, backend=opened(1), scene_threshold=1) as up,
        pytest.raises(InputError, match=r"nv12 34x20 consists of .* 10x17x2 uint8, not of .* 10x18 uint8\.$"),
    ):
        up.push(Frame(planes))


# The checks themselves can fail


def test_a_missing_wait_is_found_as_a_race_or_as_wrong_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of operation in turn forgets what it should wait for."""
    for forgetful in ("stage", "upload", "ingest", "step 1", "step 2", "emit", "download"):
        original = Scheduler.add
        plain = executor_module.Executor.__call__

        def call(self: Any, operation: Any, kind: str = forgetful, plain: Any = plain) -> None:
            plain(self, replace(operation, waits=()) if operation.kind == kind else operation)

        monkeypatch.setattr(executor_module.Executor, "__call__", call)
        noticed = False
        for seed in range(40):
            images = clip(10)
            try:
                device = SoftwareDevice(seed, pace=("random", "lazy")[seed % 2])
                with Upconverter(2, backend=opened(2, device, slots=2), scene_threshold=1) as up:
                    outputs = [f for frame in wrapped(images) for f in up.push(frame)] + up.flush()
                    noticed = not same(images_of(outputs), blend_stream(images, 2))
            except (RaceError, AssertionError):
                noticed = True
            if noticed:
                break
        monkeypatch.undo()
        assert noticed, f"{forgetful} need not wait"
        assert Scheduler.add is original


def test_the_software_device_finds_deadlocks_and_misuse() -> None:
    device = SoftwareDevice(pace="lazy")
    with pytest.raises(MisuseError, match="outside"):
        device.create_event()
    with device.scope():
        memory = device.allocate(64)
        device.free(memory)
        with pytest.raises(MisuseError, match="not in any memory"):
            device.view(memory.address, (64,), np.uint8)
        first, second = device.create_stream(0), device.create_stream(0)
        blocked, never = device.create_event(), device.create_event()
        device.record(never, first)
        first.tasks.clear()
        device.wait(second, never)
        device.record(blocked, second)
        with pytest.raises(DeadlockError):
            device.synchronize(blocked)


# Real networks


@pytest.fixture(scope="module")
def tiny_graphs(tiny_model: Path) -> Any:
    """ONNX graphs of a small model for any role, batch and layout, as vtsr-export fixes them."""
    onnx = pytest.importorskip("onnx")
    from vtsr.export.deploy import step_shapes
    from vtsr.export.graph import freeze, simplified
    from vtsr.export.pixels import fixed_emit, fixed_ingest, storage
    from vtsr.runtime.models import open_model

    model = open_model(tiny_model)

    def graph(role: str, batch: int, layout: Layout) -> bytes:
        format = layout.format
        kind = storage(layout.name.split()[0], format.matrix, format.full_range)
        assert layout.same_storage(kind.facts())
        if role == "ingest":
            made = fixed_ingest(kind, batch, layout.height, layout.width)
        elif role == "emit":
            made = fixed_emit(kind, batch, layout.height, layout.width)
        else:
            shapes = step_shapes(batch, layout.height, layout.width)
            if role == "finish":
                shapes = {name: shapes[name] for name in ("u", "a_u")}
            made = freeze(simplified(onnx.load_from_string(model.read(f"{role}.onnx"))), shapes)
        data: bytes = made.SerializeToString()
        return data

    return graph


FORMATS = [
    RGB,
    PixelFormat("rgb", 16),
    PixelFormat("gray"),
    PixelFormat("yuv420", 8, "bt601", False),
    PixelFormat("yuv422", 10, "bt709", False),
    PixelFormat("yuv444", 12, "bt2020", True),
]


def pictures(format: PixelFormat, count: int, height: int = 34, width: int = 50) -> list[Planes]:
    """Smooth moving pictures, so that nothing depends on the rounding of noise."""
    layout = Layout(format, height, width)
    peak = 2**format.bits - 1
    made = []
    for n in range(count):
        planes = []
        for plane in layout.planes(1):
            grid = np.indices(plane.shape[1:]).astype(float)
            value = 0.5 + 0.3 * np.sin((grid[1] - 2 * n) / 6) * np.cos(grid[0] / 9)
            value = value + 0.05 * grid[2] if len(grid) > 2 else value
            planes.append((value * peak).clip(0, peak).astype(plane.dtype))
        made.append(Planes(tuple(planes), format))
    return made


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f"{f.sampling}-{f.bits}")
@pytest.mark.parametrize("levels", [1, 2])
def test_a_real_network_gives_what_onnx_runtime_gives(
    tiny_graphs: Any, tiny_model: Path, levels: int, format: PixelFormat
) -> None:
    """The same graphs at fixed sizes and batches: codes differ by one at most, where a sum is rounded another way."""
    frames = [Frame(picture, source_index=n) for n, picture in enumerate(pictures(format, 4))]
    with Upconverter(levels, model=str(tiny_model), threads=1, precision="fp32", scene_threshold=1) as up:
        expected = list(up.run(frames))
    backend = TensorRTBackend(SoftwareDevice(levels), GraphEngines(tiny_graphs, levels), Settings(levels=levels))
    with Upconverter(levels, backend=backend, scene_threshold=1) as up:
        found = list(up.run(frames))
    assert [(f.pts, f.source_index, f.phase) for f in found] == [(f.pts, f.source_index, f.phase) for f in expected]
    for one, other in zip(found, expected, strict=True):
        for plane, reference in zip(one.planes.planes, other.planes.planes, strict=True):
            assert plane.dtype == reference.dtype
            assert np.abs(plane.astype(int) - reference).max() <= 1


@pytest.mark.parametrize("bits", [8, 10])
def test_nv12_and_p010_give_what_planar_yuv_gives(tiny_graphs: Any, bits: int) -> None:
    format = PixelFormat("yuv420", bits, "bt709", False)
    planar = pictures(format, 3)
    shift = 6 if bits == 10 else 0  # P010 has its bits on top

    def paired(picture: Planes) -> Planes:
        y, u, v = picture.planes
        return Planes((y << shift, np.stack([u, v], axis=-1) << shift), format)

    outputs = []
    for clip_ in (planar, [paired(p) for p in planar]):
        backend = TensorRTBackend(SoftwareDevice(bits), GraphEngines(tiny_graphs, 1), Settings(levels=1))
        with Upconverter(1, backend=backend, scene_threshold=1) as up:
            outputs.append([f.planes for f in up.run([Frame(p) for p in clip_])])
    for one, other in zip(*outputs, strict=True):
        for plane, reference in zip(paired(one).planes, other.planes, strict=True):
            # One code at most: the bytes of a sample are summed in another order.
            assert np.abs(plane.astype(int) - reference).max() <= 1 << shift


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("lanes", [1, 2])
def test_nv12_and_p010_in_device_memory_give_what_they_give_from_the_host(
    tiny_graphs: Any, bits: int, lanes: int
) -> None:
    """As hardware decoders leave them: two planes, each somewhere in device memory, written over by the next frame."""
    format = PixelFormat("yuv420", bits, "bt709", False)
    shift = 6 if bits == 10 else 0
    given_ = []
    for y, u, v in (picture.planes for picture in pictures(format, 7)):
        given_.append((y << shift, np.stack([u, v], axis=-1) << shift))
    backend = TensorRTBackend(SoftwareDevice(bits), GraphEngines(tiny_graphs, 1), Settings(levels=1))
    with Upconverter(1, backend=backend, scene_threshold=1) as up:
        expected = [f.planes.planes for f in up.run([Frame(Planes(planes, format)) for planes in given_])]

    device = SoftwareDevice(bits + 1)
    stream, found = device.foreign_stream(), []
    backend = TensorRTBackend(device, GraphEngines(tiny_graphs, 1), Settings(levels=1, lanes=lanes, stint=2))
    with DeviceUpconverter(backend, 1, format) as up:
        places = [device.external_memory(plane.nbytes) for plane in given_[0]]

        def keep(outputs: Any) -> None:
            with device.scope():
                device.synchronize_all()
            found.extend(tuple(device.view(p.address, p.shape, p.dtype).copy() for p in picture) for picture in outputs)

        for planes in given_:
            arrays = []
            for plane, (address, memory) in zip(planes, places, strict=True):

                def write(plane: Any = plane, memory: Any = memory) -> None:
                    memory[:] = np.ascontiguousarray(plane).reshape(-1).view(np.uint8)

                device.on_foreign(stream, "decoder", write, writes=[(address, plane.nbytes)])
                arrays.append(DeviceArray(address, plane.shape, plane.dtype, dlpack_type=device.dlpack_type))
            keep(up.push(*arrays, stream=stream))
        keep(up.flush(stream=stream))
    assert len(found) == len(expected) == 14
    for one, other in zip(found, expected, strict=True):
        assert all(map(np.array_equal, one, other))


@pytest.fixture(scope="module")
def deployment(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment folder for 96 x 64 pixels and two levels in fp16, as vtsr-export writes it."""
    pytest.importorskip("onnx")
    from vtsr.export.cli import main

    out = tmp_path_factory.mktemp("deployments") / "tiny-fp16"
    options = ["--fp16", "--size", "96x64", "--levels", "2", "--pixels", "rgb24", "--pixels", "p010le", "--onnx-only"]
    assert main(["--model", str(tiny_model), *options, "-o", str(out)]) == 0
    return out


class RecipeGraphs(GraphEngines):
    """The very graphs of a recipe's engines, chosen as the real source of engines chooses them."""

    def __init__(self, recipe: Any, strong: bool) -> None:
        super().__init__(self._graph, 1)
        self.recipe, self.strong = recipe, strong

    def batches(self, role: str, layout: Layout) -> Sequence[int]:
        return matching_batches(self.recipe, role, layout)

    def _graph(self, role: str, batch: int, layout: Layout) -> bytes:
        entry = matching_engine(self.recipe, role, batch, layout)
        assert entry is not None
        graph: bytes = self.recipe.request(entry, self.strong).graph
        return graph


@pytest.mark.parametrize("strong", [True, False], ids=["all types stated", "fp32-typed"])
@pytest.mark.parametrize("kind", ["rgb24", "p010le"])
def test_what_vtsr_export_writes_is_what_the_runtime_takes(
    deployment: Path, tiny_model: Path, kind: str, strong: bool
) -> None:
    """Against the fp32 model in ONNX Runtime; P010 against planar YUV of 10 bits."""
    recipe = open_recipe(deployment)
    format = RGB if kind == "rgb24" else PixelFormat("yuv420", 10, "bt709", False)
    planar = pictures(format, 4, 64, 96)
    given_pictures = planar
    if kind == "p010le":
        given_pictures = [
            Planes((y << 6, np.stack([u, v], axis=-1) << 6), format)
            for y, u, v in (picture.planes for picture in planar)
        ]
    backend = TensorRTBackend(SoftwareDevice(1), RecipeGraphs(recipe, strong), Settings(levels=2))
    with Upconverter(2, backend=backend, scene_threshold=1) as up:
        found = [frame.planes.planes[0] for frame in up.run([Frame(picture) for picture in given_pictures])]
    with Upconverter(2, model=str(tiny_model), threads=1, precision="fp32", scene_threshold=1) as up:
        expected = [frame.planes.planes[0] for frame in up.run([Frame(picture) for picture in planar])]
    if kind == "p010le":
        found = [luma >> 6 for luma in found]
    assert len(found) == len(expected) == 16
    largest = np.abs(np.stack(found).astype(float) - np.stack(expected)).max()
    assert largest <= 2  # fp16 and rounding, of 256 or 1024 codes


def test_a_size_or_format_that_was_not_exported_has_no_engines(deployment: Path) -> None:
    recipe = open_recipe(deployment)
    assert list(matching_batches(recipe, "step", Layout(RGB, 64, 96))) == [1, 2]
    assert list(matching_batches(recipe, "step", Layout(RGB, 40, 70))) == [1, 2]  # the same padding
    assert list(matching_batches(recipe, "ingest", Layout(RGB, 40, 70))) == []
    assert list(matching_batches(recipe, "step", Layout(RGB, 64, 128))) == []
    assert list(matching_batches(recipe, "emit", Layout(RGB, 64, 96))) == [2, 4]
    assert list(matching_batches(recipe, "emit", Layout(PixelFormat("yuv420", 10, "bt601", False), 64, 96, True))) == []


def test_a_missing_engine_is_answered_with_the_options_that_make_it(deployment: Path, tmp_path: Path) -> None:
    layout = Layout(PixelFormat("yuv420", 10, "bt2020", True), 1080, 1920)
    source = RecipeEngines(open_recipe(deployment), cache=EngineCache(tmp_path))
    with pytest.raises(ModelError, match="no ingest engine for yuv420p10le 1920x1080") as told:
        source.engine("ingest", 1, layout)
    words = str(told.value).split("again with ")[1].rstrip(".").split()
    from vtsr.export.cli import _parser

    args = _parser().parse_args(words)
    assert (args.size, args.pixels, args.matrix, args.full_range) == ([(1920, 1080)], ["yuv420p10le"], "bt2020", True)


def test_engines_without_a_copy_of_the_last_frame_do_as_well() -> None:
    images = clip(5)
    backend = TensorRTBackend(SoftwareDevice(), BlendEngines(2, next_u=False), Settings(levels=2))
    with Upconverter(2, backend=backend, scene_threshold=1) as up:
        assert same(images_of(list(up.run(images))), blend_stream(images, 2))


def test_engines_that_take_the_carry_in_another_type_are_refused() -> None:
    """Else the 1.0 that is written would be read as a 0."""

    class Half(BlendEngines):
        def engine(self, role: str, batch: int, layout: Layout) -> Engine:
            made = super().engine(role, batch, layout)
            if role == "step":
                made.inputs["carry"] = ((1, 1, 1, 1), np.dtype(np.float16))
            return made

    with (
        Upconverter(1, backend=TensorRTBackend(SoftwareDevice(), Half(1), Settings()), scene_threshold=1) as up,
        pytest.raises(ModelError, match=r"takes carry as float16, not as float32; export the model again\.$"),
    ):
        up.push(clip(1)[0])


def test_engines_that_disagree_on_the_type_of_frames_are_refused() -> None:
    class Mixed(BlendEngines):
        def engine(self, role: str, batch: int, layout: Layout) -> Engine:
            made = super().engine(role, batch, layout)
            if role == "ingest":
                made.outputs = {"rgb": (made.outputs["rgb"][0], np.dtype(np.float16))}
            return made

    with (
        Upconverter(1, backend=TensorRTBackend(SoftwareDevice(), Mixed(1), Settings()), scene_threshold=1) as up,
        pytest.raises(ModelError, match="disagree on the type of frames"),
    ):
        up.push(clip(1)[0])
