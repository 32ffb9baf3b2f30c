"""`vtsr-live` on real network streams on 127.0.0.1, with a source that is killed and comes back."""

from __future__ import annotations

import os
import socket
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
from live_loop import Receiver, Sender, latencies, script
from live_media import free_port, numbered, read_number

from vtsr.runtime.live import cli, source

RATE = 30
# For a longer run: VTSR_LIVE_SECONDS=60 pytest tests/test_live_stream.py -s
SECONDS = float(os.environ.get("VTSR_LIVE_SECONDS", "3"))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_udp_stream_whose_source_is_killed_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "READ_SECONDS", 0.7)  # instead of 3 s, to lose the connection sooner
    into, out = free_port(), free_port()
    receiver = Receiver(f"udp://127.0.0.1:{out}", silence=4.0 + SECONDS / 10, patience=60)
    sender = Sender(f"udp://127.0.0.1:{into}?pkt_size=1316", RATE, tmp_path / "sent")
    depths: list[int] = []
    pipeline = cli.Pipeline.run

    def watched(self: Any, **options: Any) -> None:
        def each() -> None:
            depths.append(self._live.stats().waiting)

        pipeline(self, **{**options, "each": each, "interval": 0.05})

    monkeypatch.setattr(cli.Pipeline, "run", watched)
    receiver.start()
    done = threading.Event()
    acting = script(sender, [(SECONDS / 2, 1.0), (SECONDS / 2, 0.0)], done.is_set)
    code = cli.main(
        [f"udp://127.0.0.1:{into}", f"udp://127.0.0.1:{out}", "--levels", "1", "--threads", "1", "--queue", "4",
         "--patience", "4", "--stats", "100"]
    )  # fmt: skip
    done.set()
    acting.join(60)
    receiver.join(60)
    said, got = capsys.readouterr().err, receiver.got
    assert code == 2  # the source was lost for good in the end
    assert "did not come back within 4 s" in said
    assert got.failure is None
    # Both lives of the source are there, in order; a picture is shown at least once.
    numbers = got.numbers
    assert numbers, (got.end, said)
    assert all(a <= b for a, b in pairwise(numbers)), numbers
    assert all(a < b for a, b in pairwise(got.times))
    sent = sender.sent
    assert set(numbers) <= set(sent)
    assert min(numbers) < sender.lives[1] <= max(numbers)
    assert said.count("Connecting again.") == 1  # though it was lost twice
    assert said.count("Connected to") == 1
    assert max(depths) <= 4
    found = latencies(sent, got)
    p50, p99 = np.percentile(found, (50, 99)) * 1000
    with capsys.disabled():
        print(
            f"\n{len(sent)} sent, {len(set(numbers))} came through as {len(numbers)}; from sending to arriving "
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms; {said.strip().splitlines()[-2]}"
        )


@pytest.mark.parametrize(("scheme", "listen"), [("rtsp", "rtsp_flags=listen"), ("rtmp", "listen=1")])
def test_rtsp_and_rtmp_sources_are_recorded(
    scheme: str, listen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.Reconnecting, "_again", lambda self: None)  # the first connection is enough
    url = f"{scheme}://127.0.0.1:{free_port(socket.SOCK_STREAM)}/live/camera"
    sender, output = Sender(url, RATE, tmp_path / "sent"), tmp_path / "out.mp4"
    sender.start(1.0)
    arguments = [url, str(output), "--levels", "1", "--threads", "1", "--policy", "wait", "-q"]
    assert cli.main([*arguments, "--input-option", listen]) == 0
    sender.wait()
    with av.open(str(output)) as container:
        frames = list(container.decode(video=0))
    numbers = [read_number(frame.to_ndarray(format="gray")) for frame in frames]
    assert numbers == [n for n in range(numbers[0], RATE) for _ in range(2)]
    assert numbers[0] < RATE // 2
    assert all(a.pts < b.pts for a, b in pairwise(frames))


def test_a_sink_on_the_network_gets_frames_in_order(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for n in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(n), format="rgb24")))
        container.mux(stream.encode())
    url = f"udp://127.0.0.1:{free_port()}"
    receiver = Receiver(url, silence=2.0)
    receiver.start()
    threading.Event().wait(0.3)  # until it listens
    assert cli.main([str(clip), url, "--levels", "1", "--threads", "1", "--policy", "wait", "-q"]) == 0
    receiver.join(30)
    numbers, times = receiver.got.numbers, receiver.got.times
    assert receiver.got.failure is None
    assert numbers, receiver.got
    # UDP may lose packets, what a slow machine cannot show in time is skipped, and a receiver joins where it can.
    assert len(set(numbers)) >= 8
    assert numbers == sorted(numbers)
    assert max(map(numbers.count, numbers)) <= 2
    assert all(a < b for a, b in pairwise(times))


def test_a_source_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cli, "OPEN_SECONDS", 0.5)
    for scheme, kind in (("rtsp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        assert cli.main([f"{scheme}://user:secret@127.0.0.1:{free_port(kind)}/x", "null"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "cannot be opened" in said
        assert "secret" not in said
    assert source.OPEN_SECONDS > 1
