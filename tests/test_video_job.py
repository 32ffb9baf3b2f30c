"""Three stages at once, bounded, and one failure stops them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media import Repeat

from vtsr.errors import InputError, OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.job import BATCHES_BEHIND, DECODED_AHEAD, Channel, Job, Stopped, Timing

BLANK = np.zeros((16, 16, 3), np.uint8)


def source(count: int, seen: list[int] | None = None) -> Iterator[Frame]:
    for index in range(count):
        if seen is not None:
            seen.append(index)
        yield Frame(BLANK, source_index=index)


class Memory:
    """A sink that keeps what it is given."""

    def __init__(self, fail_at: int = -1, pause: float = 0.0) -> None:
        self.frames: list[Frame] = []
        self.state = "open"
        self._fail_at, self._pause = fail_at, pause

    def write(self, frame: Frame) -> None:
        time.sleep(self._pause)
        if len(self.frames) == self._fail_at:
            raise OutputError("The disk is full.")
        self.frames.append(frame)

    def finish(self) -> None:
        self.state = "finished"

    def abandon(self, keep: bool = False) -> Path | None:
        self.state = "kept" if keep else "abandoned"
        return Path("kept") if keep else None


def workers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("vtsr ")]


def test_every_frame_comes_out_once_and_in_order() -> None:
    sink = Memory()
    result = Job(source(50), Repeat(2), sink, parts=4).run()
    assert [(f.source_index, f.phase) for f in sink.frames] == [(n, j) for n in range(50) for j in range(4)]
    assert (result.frames_in, result.frames_out, sink.state) == (50, 200, "finished")
    assert workers() == []


def test_nothing_runs_ahead_of_a_slow_stage() -> None:
    seen: list[int] = []
    excess: list[int] = []

    class Slow(Repeat):
        def push(self, frame: Frame) -> list[Frame]:
            time.sleep(0.002)
            excess.append(len(seen) - (frame.source_index + 1))
            return super().push(frame)

    Job(source(100, seen), Slow(1), Memory(), parts=2).run()
    # Those in the queue, and one that the decoder holds in its hand.
    assert max(excess) <= DECODED_AHEAD + 1
    assert max(excess) >= 1  # the decoder does work while the network does


def test_a_slow_encoder_holds_the_network_back() -> None:
    sink = Memory(pause=0.002)
    excess: list[int] = []

    class Counting(Repeat):
        def push(self, frame: Frame) -> list[Frame]:
            excess.append(self.parts * frame.source_index - len(sink.frames))
            return super().push(frame)

    Job(source(40), Counting(1), sink, parts=2).run()
    assert max(excess) <= 2 * BATCHES_BEHIND + 1


@pytest.mark.parametrize("keep", [False, True])
def test_an_error_of_the_encoder_reaches_the_caller(keep: bool) -> None:
    sink, seen = Memory(fail_at=3), []
    job = Job(source(100_000, seen), Repeat(1), sink, parts=2, keep_partial=keep)
    with pytest.raises(OutputError, match="disk is full"):
        job.run()
    assert (sink.state, job.kept) == (("kept", Path("kept")) if keep else ("abandoned", None))
    assert workers() == []
    assert len(seen) < 1000


def test_an_error_of_the_decoder_reaches_the_caller() -> None:
    def broken() -> Iterator[Frame]:
        yield from source(3)
        raise InputError("The tape is torn.")

    sink = Memory()
    with pytest.raises(InputError, match="tape is torn"):
        Job(broken(), Repeat(1), sink, parts=2).run()
    assert sink.state == "abandoned"
    assert workers() == []


def test_ctrl_c_in_the_network_is_handed_on() -> None:
    class Interrupted(Repeat):
        def push(self, frame: Frame) -> list[Frame]:
            if frame.source_index == 5:
                raise KeyboardInterrupt
            return super().push(frame)

    sink = Memory()
    with pytest.raises(KeyboardInterrupt):
        Job(source(100), Interrupted(1), sink, parts=2).run()
    assert sink.state == "abandoned"
    assert workers() == []


def test_a_channel_hands_out_what_waits_before_it_ends() -> None:
    channel: Channel[int] = Channel(3)
    for item in range(3):
        channel.put(item)
    channel.close()
    assert list(channel) == [0, 1, 2]


def test_an_aborted_channel_stops_both_ends() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    channel.abort()
    with pytest.raises(Stopped):
        channel.put(2)
    with pytest.raises(Stopped):
        next(iter(channel))


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        (Timing(9, decode=5, network=3, encode=2), "decode"),
        (Timing(9, decode=1, network=3, encode=7), "encode"),
        (Timing(9, 1, 8, 2, {"level 1": 2.5, "level 2": 5.0, "emit": 0.5}), "network (level 2)"),
    ],
)
def test_the_closing_line_names_the_stage_that_was_busy_longest(timing: Timing, expected: str) -> None:
    assert timing.bottleneck == expected
    assert timing.line().endswith(f"bottleneck: {expected}")
