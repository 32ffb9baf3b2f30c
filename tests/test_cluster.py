"""Segments made elsewhere, in any order, by workers that die: the output is that of one machine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import resume_worker
from media import Command, write_clip
from test_upconvert_resume import SIZE, everything, scenes

import vtsr.runtime.cluster.segment as segment_module
from vtsr.errors import MissingExtraError, OptionError
from vtsr.runtime.cluster.network import settled
from vtsr.runtime.cluster.ray_cluster import RayCluster, connect
from vtsr.runtime.cluster.segment import Made, Order, make_segment
from vtsr.runtime.upconvert import main, parser
from vtsr.runtime.upconverter import Upconverter

FRAMES = 33
OPTIONS = ["--levels", 2, "--segment-frames", SIZE, "--precision", "fp32", "--backend", "onnxruntime"]


class Elsewhere:
    """A cluster in this process: it makes segments out of order.

    change
        What happens to a result on its way back.
    stop_after
        Results after which Ctrl-C comes.
    """

    gpus, workers = 0, 3

    def __init__(self, change: Callable[[Order, Made], Made] | None = None, stop_after: int | None = None) -> None:
        self.change, self.stop_after = change, stop_after
        self.orders: list[Order] = []

    def make(self, orders: Iterable[Order]) -> Iterator[Made]:
        taken = list(orders)
        random.Random(3).shuffle(taken)
        for order in taken:
            if self.stop_after is not None and len(self.orders) >= self.stop_after:
                raise KeyboardInterrupt
            self.orders.append(order)
            made = make_segment(order)
            yield self.change(order, made) if self.change is not None else made


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    command = Command(monkeypatch, capsys)
    monkeypatch.setattr("vtsr.runtime.upconverter.Upconverter", Upconverter)
    resume_worker.install()
    monkeypatch.setattr(segment_module, "load_backend", lambda *options: resume_worker.Blending())
    return command


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Stands for the cluster at any address."""
    elsewhere = Elsewhere()

    @contextlib.contextmanager
    def connected(address: str, gpus: Any, cpus: int) -> Iterator[Elsewhere]:
        yield elsewhere

    monkeypatch.setattr("vtsr.runtime.cluster.ray_cluster.connect", connected)
    return elsewhere


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
@pytest.mark.parametrize("part", [[], ["--start", "0.2", "--duration", "0.9"]])
def test_segments_made_in_any_order_give_the_same_file(
    command: Command, cluster: Elsewhere, tmp_path: Path, codec: str, part: list[str]
) -> None:
    clip = scenes(tmp_path / "in.mp4", FRAMES) if codec == "libx264" else write_clip(tmp_path / "in.mkv", FRAMES)
    suffix, report = clip.suffix, tmp_path / "report.json"
    assert command(clip, tmp_path / f"here{suffix}", *OPTIONS, *part).code == 0
    outcome = command(clip, tmp_path / f"there{suffix}", *OPTIONS, *part, "--ray", "auto", "--report", report)
    assert outcome.code == 0, outcome.said
    assert everything(tmp_path / f"there{suffix}") == everything(tmp_path / f"here{suffix}")
    count = FRAMES if not part else 23 if codec == "libx264" else 22
    frames = json.loads(report.read_text())["input"]["frames"]
    assert len(cluster.orders) == -(-frames // SIZE)
    assert abs(frames - count) <= 1
    # No more of the neighbours is read than what the output depends on.
    for order in cluster.orders[:-1]:
        assert len(order.times) <= SIZE + 4
    assert f"{frames} frames in, {4 * frames} out" in outcome.said


@pytest.mark.parametrize("there", [True, False])
def test_a_job_that_was_stopped_goes_on_there_and_here(
    command: Command, cluster: Elsewhere, tmp_path: Path, there: bool
) -> None:
    clip, output = scenes(tmp_path / "in.mp4", FRAMES), tmp_path / "out.mp4"
    assert command(clip, tmp_path / "here.mp4", *OPTIONS).code == 0
    cluster.stop_after = 6  # of seven; what follows on the missing one does not count yet
    assert command(clip, output, *OPTIONS, "--ray", "auto").code == 130
    cluster.stop_after = None
    outcome = command(clip, output, *OPTIONS, "--resume", *(["--ray", "auto"] if there else []))
    assert outcome.code == 0, outcome.said
    assert everything(output) == everything(tmp_path / "here.mp4")


def test_a_segment_that_followed_other_pictures_is_made_again_without_seeking(
    command: Command, cluster: Elsewhere, tmp_path: Path
) -> None:
    def wrong(order: Order, made: Made) -> Made:
        if order.number == 2 and not order.exact:
            head = tuple(replace(mark, crc=mark.crc ^ 1) for mark in made.head)
            return replace(made, head=head, packets=b"nonsense")
        return made

    cluster.change = wrong
    clip, output = scenes(tmp_path / "in.mp4", FRAMES), tmp_path / "out.mp4"
    assert command(clip, tmp_path / "here.mp4", *OPTIONS).code == 0
    assert command(clip, output, *OPTIONS, "--ray", "auto").code == 0
    assert everything(output) == everything(tmp_path / "here.mp4")
    assert [order.number for order in cluster.orders if order.exact] == [2]


def test_an_input_without_times_is_done_here(command: Command, cluster: Elsewhere, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.h264", 12, codec="libx264")
    assert command(clip, tmp_path / "here.mp4", *OPTIONS).code == 0
    outcome = command(clip, tmp_path / "there.mp4", *OPTIONS, "--ray", "auto")
    assert outcome.code == 0
    assert "done on this machine" in outcome.said
    assert everything(tmp_path / "there.mp4") == everything(tmp_path / "here.mp4")


def test_frames_at_other_times_than_the_packets_say_are_not_believed(
    command: Command, cluster: Elsewhere, tmp_path: Path
) -> None:
    # A damaged picture is missing among the decoded ones, though its packet is there.
    clip = write_clip(tmp_path / "in.mkv", 20)
    data = bytearray(clip.read_bytes())
    middle = data.find(bytes(16), len(data) // 2)
    middle = len(data) // 2 if middle < 0 else middle
    data[middle : middle + 40] = os.urandom(40)
    clip.write_bytes(data)
    assert command(clip, tmp_path / "here.mkv", *OPTIONS).code == 0
    assert command(clip, tmp_path / "there.mkv", *OPTIONS, "--ray", "auto").code == 0
    assert everything(tmp_path / "there.mkv") == everything(tmp_path / "here.mkv")


def test_what_a_worker_cannot_do_is_one_sentence(command: Command, cluster: Elsewhere, tmp_path: Path) -> None:
    def lost(order: Order, made: Made) -> Made:
        return make_segment(replace(order, options={**order.options, "input": "/nowhere/in.mp4"}))

    cluster.change = lost
    outcome = command(scenes(tmp_path / "in.mp4", 12), tmp_path / "out.mp4", *OPTIONS, "--ray", "auto")
    assert (outcome.code, outcome.said.count("\n")) == (2, 1)
    assert "/nowhere/in.mp4 does not exist" in outcome.said


def test_a_machine_with_other_software_takes_no_part(command: Command, cluster: Elsewhere, tmp_path: Path) -> None:
    def older(order: Order, made: Made) -> Made:
        return make_segment(replace(order, software={**order.software, "vtsr": "0.0.1"}))

    cluster.change = older
    outcome = command(scenes(tmp_path / "in.mp4", 12), tmp_path / "out.mp4", *OPTIONS, "--ray", "auto")
    assert outcome.code == 2
    assert "with vtsr 0.0.1, and this is" in outcome.said


def test_many_files_share_the_cluster(command: Command, cluster: Elsewhere, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(4):
        write_clip(tmp_path / "in" / f"{index}.mp4", 3 + 4 * index, codec="libx264")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video" * 100)
    outcome = command(tmp_path / "in", tmp_path / "out", *OPTIONS, "--ray", "auto")
    assert outcome.code == 1
    assert "5 files: 4 done, 1 failed" in outcome.said
    for index in range(4):
        assert command(tmp_path / "in" / f"{index}.mp4", tmp_path / "here.mp4", *OPTIONS, "-y").code == 0
        assert everything(tmp_path / "out" / f"{index}.mp4") == everything(tmp_path / "here.mp4")


@pytest.mark.parametrize(
    ("expected", "name", "options"),
    [
        ("--ray makes video files", "out/", []),
        ("--ray makes video files", "out.y4m", []),
        ("need frames in order", "out.mp4", ["--compare", "c.png"]),
    ],
)
def test_what_a_cluster_does_not_do(
    command: Command, tmp_path: Path, expected: str, name: str, options: list[str]
) -> None:
    clip = write_clip(tmp_path / "in.mp4", 3, codec="libx264")
    outcome = command(clip, f"{tmp_path}/{name}", "--ray", "auto", *options)
    assert (outcome.code, outcome.said.count("\n")) == (2, 1)
    assert expected in outcome.said


# What is asked of Ray


class FakeRay:
    """What of Ray is used before a task runs."""

    def __init__(self, **resources: float) -> None:
        self.resources, self.asked = resources, dict[str, Any]()

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **asked: Any) -> Callable[[Any], Any]:
        self.asked = asked
        return lambda task: task


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers"), [(1, 0, 8), (4, 0, 2), (1, 1, 3)]
)
def test_a_task_declares_what_it_needs(cpus: int, gpus: int, workers: int) -> None:
    ray = FakeRay(CPU=8.0, GPU=3.0)
    assert RayCluster(ray, cpus, gpus).workers == workers
    assert (ray.asked["num_cpus"], ray.asked["num_gpus"]) == (cpus, gpus)
    assert ray.asked["max_retries"] > 0


def test_a_cluster_that_has_not_enough_is_refused() -> None:
    with pytest.raises(OptionError, match="1 GPU"):
        RayCluster(FakeRay(CPU=8.0), 1, 1)


def test_the_backend_is_decided_once_for_all_machines() -> None:
    def chosen(*options: str, gpus: bool) -> tuple[str, str]:
        args = settled(parser().parse_args(["in.mp4", "out.mp4", *options]), gpus)
        return args.backend, args.precision

    assert chosen("--precision", "fp32", gpus=True) == ("onnxruntime", "fp32")  # not exported for TensorRT
    assert chosen("--backend", "tensorrt", gpus=True) == ("tensorrt", "fp32")
    backend, precision = chosen(gpus=False)
    assert backend == "onnxruntime"
    assert precision in ("fp32", "int8")  # and not "auto"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"vtsr\[cluster\]"), connect("auto", lambda resources: 0, 1):
        pass


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # ours, and nobody listens
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OptionError, match="No Ray cluster answers"), connect(address, lambda resources: 0, 1):
            pass


# Ray itself


def busy_workers(parent: int) -> list[int]:
    """Processes below ``parent`` that are making a segment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if not (entry / "cmdline").read_bytes().startswith(b"ray::make_segment"):
                continue
            pid = int(entry.name)
            while pid > 1 and pid != parent:
                pid = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if pid == parent:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra cluster)")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for worker processes in /proc")
def test_a_real_cluster_survives_the_death_of_a_worker(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 40, codec="libx264", size=(96, 64))
    options = ["--levels", "2", "--segment-frames", "8", "--threads", "1", "--precision", "fp32", "-q"]
    assert main([str(clip), str(tmp_path / "here.mp4"), *options]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "vtsr.runtime.upconvert", str(clip), str(tmp_path / "there.mp4"), *options,
         "--ray", "local"], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killed: list[int] = []

    def kill_one() -> None:
        while not killed and process.poll() is None:
            for worker in busy_workers(process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
            time.sleep(0.01)

    hunter = threading.Thread(target=kill_one)
    hunter.start()
    _, said = process.communicate(timeout=240)
    hunter.join()
    if "No Ray cluster answers" in said:
        pytest.skip(f"Ray does not start on this machine: {said}")
    assert process.returncode == 0, said
    assert len(killed) == 1
    assert everything(tmp_path / "there.mp4") == everything(tmp_path / "here.mp4")

