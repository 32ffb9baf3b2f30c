"""`vtsr-live` as a user runs it: files, pipes, devices, and one sentence for everything that is wrong."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from live_media import eventually, numbered, read_number

from vtsr import Frame, OptionError, OutputError
from vtsr.runtime.live import address, cli, loopback, source
from vtsr.runtime.live.regular import Regular
from vtsr.runtime.live.sink import PersistentSink
from vtsr.runtime.live.source import Reconnecting, rgb_facts
from vtsr.runtime.live.statistics import Counter

RATE = 30


def write(path: Path, count: int = 12, size: tuple[int, int] = (96, 64), rate: int = RATE) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for n in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(n, *size), format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers_of(path: Any, **options: Any) -> list[int]:
    with av.open(str(path) if isinstance(path, Path) else path, **options) as container:
        return [read_number(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]


def live(*arguments: object) -> int:
    try:
        return cli.main([*map(str, arguments), "--threads", "1"])
    except SystemExit as stop:
        return int(stop.code or 0)


def test_a_file_at_its_own_pace_is_recorded_with_exact_times(tmp_path: Path, capsys: Any) -> None:
    clip, out = write(tmp_path / "in.mkv"), tmp_path / "out.mp4"
    began = time.monotonic()
    assert live(clip, out, "--levels", 2, "--policy", "wait", "--stats", "0.1") == 0
    assert time.monotonic() - began >= 11 / RATE
    with av.open(str(out)) as container:
        frames = list(container.decode(video=0))
    assert [f.pts * f.time_base for f in frames] == pytest.approx([n / 120 for n in range(48)], abs=0.002)
    assert numbers_of(out) == [n for n in range(12) for _ in range(4)]
    said = capsys.readouterr().err
    assert "12 frames in, 48 out" in said
    assert "latency ms p50" in said
    assert list(tmp_path.glob("*.part*")) == []


def test_a_size_is_kept_whatever_the_source_has(tmp_path: Path) -> None:
    clip, out = write(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    assert live(clip, out, "--levels", 1, "--policy", "wait", "--size", "64x48", "-q") == 0
    with av.open(str(out)) as container:
        assert {(f.width, f.height) for f in container.decode(video=0)} == {(64, 48)}


PROGRAM = "import sys; from vtsr.runtime.live.cli import main; sys.exit(main())"


def y4m(count: int) -> bytes:
    memory = io.BytesIO()
    with av.open(memory, "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("wrapped_avframe", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(n), format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return memory.getvalue()


def test_y4m_comes_in_and_goes_out_through_pipes() -> None:
    options = ["--levels", "1", "--policy", "wait", "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, "-", "-", *options], input=y4m(10), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"YUV4MPEG2 W96 H64 F60:1")
    assert numbers_of(io.BytesIO(done.stdout), format="yuv4mpegpipe") == [n for n in range(10) for _ in range(2)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupted_recording_is_complete(tmp_path: Path) -> None:
    clip, out = write(tmp_path / "in.mkv", 600), tmp_path / "out.mkv"
    command = [sys.executable, "-c", PROGRAM, str(clip), str(out), "--levels", "1", "--threads", "1", "--stats", "0.2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # until something has come out
        if "fps" in line and "-> 0.0 fps" not in line:
            break
    process.send_signal(signal.SIGTERM)
    said = process.stderr.read()
    assert process.wait(60) == 130
    assert "interrupted" in said
    numbers = numbers_of(out)
    assert numbers
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing.mp4", "null"], "does not exist"),
        (["CLIP", "null", "--levels", "0"], "from 1 to 4"),
        (["CLIP", "null", "--latency-budget", "20"], "cannot be kept"),
        (["CLIP", "null", "--latency-budget", "0"], "more than 0"),
        (["CLIP", "null", "--duty", "2"], "above 0 to 1"),
        (["CLIP", "null", "--queue", "0"], "1 or more"),
        (["CLIP", "null", "--size", "0x0"], "no usable frame size"),
        (["CLIP", "null", "--prometheus", "99999"], "not [HOST:]PORT"),
        (["CLIP", "null", "--input-option", "x"], "KEY=VALUE"),
        (["CLIP", "CLIP"], "is the source itself"),
        (["CLIP", "missing/out.mp4"], "does not exist"),
        (["CLIP", "out.gif"], "not a video container"),
        (["CLIP", "gopher://x"], "cannot be written live"),
        (["ftp://x", "null"], "cannot be read live"),
        (["CLIP", "/dev/video97"], "virtual camera"),
        (["/dev/video97", "null"], "cannot be opened"),
        (["CLIP", "rtmp://127.0.0.1:1/x"], "cannot be written to"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "clip.mkv", 3)
    assert live(*(a.replace("CLIP", "clip.mkv") for a in arguments)) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path, capsys: Any) -> None:
    clip, out = write(tmp_path / "in.mkv", 3), tmp_path / "out.mkv"
    out.write_text("precious")
    assert live(clip, out, "--levels", 1) == 2
    assert "add -y" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert live(clip, out, "--levels", 1, "-y", "-q") == 0
    assert numbers_of(out)


def test_without_a_window_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vtsr.runtime.live import sink

    monkeypatch.setattr(sink.cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(OutputError, match=r"headless build.*opencv-python"):
        sink.check_window()
    monkeypatch.setattr(sink.cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform.startswith("linux"):
        with pytest.raises(OutputError, match="no display"):
            sink.check_window()


class Driver:
    """What v4l2loopback answers, by the layout in linux/videodev2.h, written down here once more."""

    def __init__(self, capabilities: int = 0x2) -> None:
        self.capabilities = capabilities
        self.format: dict[str, int] = {}

    def __call__(self, file: int, request: int, data: bytearray) -> None:
        if request == 0x80685600:  # VIDIOC_QUERYCAP
            data[84:88] = (0x80000000).to_bytes(4, "little")
            data[88:92] = self.capabilities.to_bytes(4, "little")
        elif request == 0xC0D05605:  # VIDIOC_S_FMT on 64 bits
            words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 208, 4)]
            self.format = {"type": words[0], "width": words[2], "height": words[3], "code": words[4], "size": words[7]}
        else:
            raise OSError(25, "Inappropriate ioctl for device")


@pytest.mark.skipif(sys.maxsize < 2**32, reason="the numbers are those of 64 bits")
def test_a_virtual_camera_is_told_its_format_and_gets_whole_pictures(tmp_path: Path) -> None:
    device, driver = tmp_path / "video10", Driver()
    device.touch()
    camera = loopback.CameraSink(str(device), rgb_facts("test", (96, 64), Fraction(RATE)), driver)
    for n in range(3):
        camera.write(Frame(numbered(n)))
    camera.finish()
    assert driver.format == {"type": 2, "width": 96, "height": 64, "code": 0x32315559, "size": 96 * 64 * 3 // 2}
    data = np.frombuffer(device.read_bytes(), np.uint8).reshape(3, 96, 96)
    assert [read_number(picture[:64]) for picture in data] == [0, 1, 2]


def test_a_camera_that_takes_no_pictures_is_no_sink(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    with pytest.raises(OutputError, match="no virtual camera"):
        loopback.CameraSink(str(device), rgb_facts("test", (96, 64), Fraction(RATE)), Driver(0x1))
    with pytest.raises(OutputError, match="no virtual camera"):  # a plain file refuses the request itself
        loopback.CameraSink(str(device), rgb_facts("test", (96, 64), Fraction(RATE)))


def regular(times: list[tuple[Fraction, Fraction]], interval: Fraction) -> tuple[list[Frame], Counter]:
    counter = Counter()
    slots = Regular(interval, counter)
    image = np.zeros((16, 16, 3), np.uint8)
    frames = [Frame(image, pts, duration, index) for index, (pts, duration) in enumerate(times)]
    return [shown for frame in frames for shown in slots.fill(frame)] + list(slots.finish()), counter


def test_a_constant_rate_shows_each_frame_for_its_time() -> None:
    quarter = Fraction(1, 120)
    # Two levels, then one, then a gap of one input frame.
    times = [(n * quarter, quarter) for n in range(4)] + [(4 * quarter, 2 * quarter), (6 * quarter, 2 * quarter)]
    times += [(12 * quarter, quarter), (13 * quarter, quarter)]
    shown, counter = regular(times, quarter)
    assert [f.source_index for f in shown] == [0, 1, 2, 3, 4, 4, 5, 5, 5, 5, 5, 5, 6, 7]
    assert [f.pts for f in shown] == [n * quarter for n in range(14)]
    assert counter.snapshot().repeats == 6
    assert counter.snapshot().skipped == 0


def test_a_long_pause_is_left_out_of_a_constant_rate() -> None:
    step = Fraction(1, 60)
    shown, _ = regular([(Fraction(0), step), (Fraction(3600), step)], step)
    assert len(shown) < 10


def test_a_source_that_comes_back_after_failing_is_opened_as_often_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    from vtsr import InputError
    from vtsr.runtime.live.notes import Notes

    monkeypatch.setattr(source, "FIRST_WAIT", 0.01)
    opened: list[Any] = []

    class Flaky:
        facts = rgb_facts("flaky", (48, 32), Fraction(RATE))

        def __init__(self, size: Any) -> None:
            opened.append(size)
            if len(opened) in (2, 3):
                raise InputError("It is not there.")

        def __iter__(self) -> Any:
            yield Frame(np.zeros((32, 48, 3), np.uint8), Fraction(len(opened)))
            if len(opened) == 1:
                raise InputError("It broke.")

        def close(self) -> None:
            opened.append("closed")

    stop, counter, said = threading.Event(), Counter(), list[str]()
    frames = []
    for frame in Reconnecting(Flaky, Notes(said.append), counter, stop):
        frames.append(frame)
        if len(frames) == 3:
            stop.set()
    assert len(frames) == 3
    assert opened[:1] == [None]
    assert set(opened[1:]) == {(48, 32), "closed"}  # at the size of the first connection
    assert counter.snapshot().reconnects == 2
    assert said == ["Connecting again. It broke.", "Connected to flaky again."]


def test_a_sink_that_breaks_is_opened_again_and_what_was_not_sent_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from vtsr.runtime.live import sink
    from vtsr.runtime.live.notes import Notes

    monkeypatch.setattr(sink, "FIRST_WAIT", 0.01)
    made: list[Any] = []

    class Fragile:
        def __init__(self) -> None:
            self.frames: list[Frame] = []
            if len(made) == 1:
                made.append(None)
                raise OutputError("Nobody is there.")
            made.append(self)

        def write(self, frame: Frame) -> None:
            if len(made) == 1 and len(self.frames) == 2:
                raise OutputError("It broke.")
            self.frames.append(frame)

        def finish(self) -> None: ...
        def abandon(self) -> None: ...

    skipped: list[int] = []
    persistent = PersistentSink(Fragile, Notes(lambda text: None), lambda: skipped.append(1))
    picture = Frame(np.zeros((16, 16, 3), np.uint8))
    sent = 0

    def back() -> bool:
        nonlocal sent
        persistent.write(picture)
        sent += 1
        return len(made) > 2

    assert eventually(back)
    assert len(made[0].frames) + len(made[2].frames) + len(skipped) == sent


@pytest.mark.parametrize(
    ("text", "sink", "kind"),
    [
        ("-", False, address.Kind.PIPE),
        ("/dev/video0", False, address.Kind.DEVICE),
        ("0", False, address.Kind.DEVICE),
        ("0", True, address.Kind.FILE),
        ("RTSP://camera/1", False, address.Kind.URL),
        ("window", True, address.Kind.WINDOW),
        ("window", False, address.Kind.FILE),
        ("a:b.mp4", True, address.Kind.FILE),
    ],
)
def test_addresses_mean_what_they_look_like(text: str, sink: bool, kind: address.Kind) -> None:
    assert address.kind_of(text, sink) is kind


def test_passwords_are_not_shown() -> None:
    assert address.shown("rtsp://me:secret@camera:554/x?y=1") == "rtsp://***@camera:554/x?y=1"
    with pytest.raises(OptionError):
        address.kind_of("file:///etc/passwd")


def test_times_of_a_short_run_are_monotonic_when_it_is_stopped_by_the_clock(tmp_path: Path) -> None:
    clip, out = write(tmp_path / "in.mkv", 300), tmp_path / "out.mkv"
    assert live(clip, out, "--levels", 1, "--seconds", "0.8", "-q") == 0
    with av.open(str(out)) as container:
        times = [f.pts for f in container.decode(video=0)]
    assert all(a < b for a, b in pairwise(times))
    assert 2 <= len(times) < 600
    assert os.path.getsize(out) > 0
