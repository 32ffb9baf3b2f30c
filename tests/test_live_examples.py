"""The examples of live use, run as a reader would run them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import runpy
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from live_media import numbered, read_number

EXAMPLES = Path(__file__).parent.parent / "examples"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**ENVIRONMENT, **options.pop("env", {})}
    )


def test_the_minimal_loop_is_minimal_and_shows_every_picture_it_kept() -> None:
    text = (EXAMPLES / "live_minimal.py").read_text()
    code = text.split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    done = run("live_minimal.py")
    assert done.returncode == 0, done.stderr
    times = [float(line.split()[0]) for line in done.stdout.splitlines() if " s: part " in line]
    assert times == sorted(times)
    assert len(times) >= 10


def test_the_drawn_latency_budget_is_current() -> None:
    docs = EXAMPLES.parent / "docs"
    drawn = runpy.run_path(str(docs / "tools" / "latency.py"))["budget"]()
    assert (docs / "images" / "latency.svg").read_text(encoding="utf-8") == drawn, "run python docs/tools/latency.py"


def clip(path: Path, count: int = 20) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for n in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(n), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_the_opencv_loop_reads_and_counts(tmp_path: Path) -> None:
    done = run("live_opencv.py", clip(tmp_path / "clip.avi"), "--headless")
    assert done.returncode == 0, done.stderr
    assert "latency ms p50" in done.stdout
    assert run("live_opencv.py", tmp_path / "nothing.avi", "--headless").returncode == 2


def test_the_asyncio_service_gives_back_what_it_was_sent_at_twice_the_rate() -> None:
    async def client(port: int) -> list[tuple[float, int]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(struct.pack("!II", 96, 64))
        for n in range(6):
            writer.write(numbered(n).tobytes())
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(-1), 60)
        writer.close()
        size = 8 + 96 * 64 * 3
        assert len(answer) % size == 0
        found = []
        for start in range(0, len(answer), size):
            picture = np.frombuffer(answer[start + 8 : start + size], np.uint8).reshape(64, 96, 3)
            found.append((struct.unpack("!d", answer[start : start + 8])[0], read_number(picture)))
        return found

    async def two_at_once(port: int) -> list[list[tuple[float, int]]]:
        return await asyncio.gather(client(port), client(port))

    command = [sys.executable, str(EXAMPLES / "live_asyncio.py"), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        for found in asyncio.run(two_at_once(port)):
            times = [time for time, _ in found]
            assert times == sorted(set(times))
            assert [number for _, number in found] == sorted(number for _, number in found)
            assert found[-1][1] == 5
    finally:
        server.kill()
        server.wait()


def test_a_gstreamer_pipeline_keeps_its_timestamps(tmp_path: Path) -> None:
    if importlib.util.find_spec("gi") is None:
        pytest.skip("PyGObject (python3-gi) is not installed")
    import gi

    try:
        gi.require_version("Gst", "1.0")
        from gi.repository import Gst
    except (ValueError, ImportError):
        pytest.skip("GStreamer's introspection data (gir1.2-gstreamer-1.0) is not installed")
    Gst.init(None)
    needed = ("appsink", "appsrc", "videotestsrc", "videoconvert", "videorate", "filesink")
    if missing := [name for name in needed if Gst.ElementFactory.find(name) is None]:
        pytest.skip(f"GStreamer lacks {', '.join(missing)} (gstreamer1.0-plugins-base)")
    out = tmp_path / "out.rgb"
    source = "videotestsrc num-buffers=12 pattern=ball is-live=true ! video/x-raw,width=90,height=64,framerate=10/1"
    # videorate fills a constant rate by the timestamps it gets: 1.2 seconds are 24 frames only if those are right.
    sink = f"videoconvert ! videorate ! video/x-raw,format=RGB,framerate=20/1 ! filesink location={out}"
    done = run("live_gstreamer.py", "--source", source, "--sink", sink)
    assert done.returncode == 0, done.stderr
    assert "dropped" in done.stdout
    frames = np.fromfile(out, np.uint8).reshape(-1, 64, 272)[:, :, :270].reshape(-1, 64, 90, 3)
    assert 22 <= len(frames) <= 25
    # One white ball on black, wherever it has got to.
    assert all(20 < (frame > 128).all(axis=2).sum() < 64 * 90 / 2 for frame in frames)
    assert any(not np.array_equal(frames[0], frame) for frame in frames)
