"""A loop-back on 127.0.0.1: a sender that is killed and started again, `vtsr-live`, and a receiver."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.error
from live_media import read_number

SENDER = Path(__file__).with_name("live_sender.py")


@dataclass
class Received:
    """What came out: number, timestamp and moment of each picture."""

    numbers: list[int] = field(default_factory=list)
    times: list[Fraction] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    failure: BaseException | None = None
    end: str = ""


class Receiver(threading.Thread):
    """Decodes a stream until nothing has come for ``silence`` seconds."""

    def __init__(self, url: str, silence: float = 3.0, patience: float = 20.0) -> None:
        super().__init__(daemon=True)
        self._url, self._silence, self._patience = url, silence, patience
        self.got = Received()

    def run(self) -> None:
        try:
            options = {"flags": "low_delay", "probesize": "200000", "analyzeduration": "500000"}
            with av.open(self._url, options=options, timeout=(self._patience, self._silence)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "SLICE"
                for packet in container.demux(stream):
                    try:
                        frames = packet.decode()
                    except av.error.InvalidDataError:
                        continue  # joined in the middle: nothing before the first key frame
                    for frame in frames:
                        self.got.moments.append(time.monotonic())
                        self.got.times.append(frame.pts * frame.time_base)
                        self.got.numbers.append(read_number(frame.to_ndarray(format="gray")))
        except (av.error.ExitError, av.error.EOFError) as end:
            self.got.end = repr(end)
            pass  # silence: the end
        except BaseException as error:  # noqa: BLE001  # the test's to raise
            self.got.failure = error


class Sender:
    """`live_sender.py` as a process; numbers go on where it was killed."""

    def __init__(self, url: str, rate: int, log: Path) -> None:
        self._url, self._rate, self._log = url, rate, log
        log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self.lives: list[int] = []  # the first number of each

    def start(self, seconds: float) -> None:
        first = max(self.sent, default=-1) + 1
        self.lives.append(first)
        command = [sys.executable, str(SENDER), self._url, str(self._rate), str(seconds), str(first), str(self._log)]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self) -> None:
        assert self._process is not None
        assert self._process.wait(120) == 0

    @property
    def sent(self) -> dict[int, float]:
        """When each number was sent; the last line may be torn by a kill."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return {int(words[0]): float(words[1]) for words in lines if len(words) == 2}


def latencies(sent: dict[int, float], got: Received) -> list[float]:
    """Seconds from the sending of each number to its first arrival."""
    first: dict[int, float] = {}
    for number, moment in zip(got.numbers, got.moments, strict=True):
        first.setdefault(number, moment)
    return sorted(first[n] - sent[n] for n in first if n in sent)


def script(sender: Sender, plan: list[tuple[float, float]], until: Callable[[], bool]) -> threading.Thread:
    """Starts the sender again and again: (seconds it sends until it is killed, pause)."""

    def act() -> None:
        for index, (seconds, pause) in enumerate(plan):
            last = index == len(plan) - 1
            sender.start(seconds if last else seconds + 60)
            if last:
                sender.wait()
            else:
                begin = len(sender.sent)
                while not until() and len(sender.sent) == begin:
                    time.sleep(0.02)
                time.sleep(seconds)
                sender.kill()
            time.sleep(pause)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread
