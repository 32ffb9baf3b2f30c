"""One conversion from start to end: decode, infer and encode at the same time, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from vtsr.runtime.frame import Frame

Item = TypeVar("Item")

DECODED_AHEAD = 4  # input frames that may wait for the network
BATCHES_BEHIND = 2  # times the frames of one input frame that may wait for the encoder
POLL_SECONDS = 0.2  # how long a wait lasts before signals are looked at


class Processor(Protocol):
    """What `vtsr.Upconverter` looks like to a job."""

    @property
    def stage_seconds(self) -> dict[str, float]: ...
    def push(self, frame: Frame) -> list[Frame]: ...
    def flush(self) -> list[Frame]: ...


class Sink(Protocol):
    """Where frames go; see `vtsr.runtime.video.writer`."""

    def write(self, frame: Frame) -> None: ...
    def finish(self) -> None: ...
    def abandon(self, keep: bool = False) -> Path | None: ...


class Stopped(Exception):
    """The other end of a channel has given up."""


class Channel(Generic[Item]):
    """A queue of at most ``capacity`` items between two threads, which either may end at any time."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._aborted = False

    def put(self, item: Item) -> None:
        """Waits for room; raises `Stopped` once the channel was aborted."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._aborted:
                self._changed.wait(POLL_SECONDS)
            if self._aborted:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """No more items will come; those that wait are still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Drops what waits and stops both ends."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                while not self._items and not self._closed and not self._aborted:
                    self._changed.wait(POLL_SECONDS)
                if self._aborted:
                    raise Stopped
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


@dataclass
class Timing:
    """Wall-clock seconds of a job: in all, and how long each stage was at work (not waiting)."""

    total: float = 0.0
    decode: float = 0.0
    network: float = 0.0
    encode: float = 0.0
    network_stages: dict[str, float] = field(default_factory=dict)

    @property
    def bottleneck(self) -> str:
        """The stage that was busy longest; of the network, also its slowest part."""
        busy = {"decode": self.decode, "network": self.network, "encode": self.encode}
        slowest = max(busy, key=lambda name: busy[name])
        if slowest == "network" and self.network_stages:
            part = max(self.network_stages, key=lambda name: self.network_stages[name])
            return f"network ({part})"
        return slowest

    def line(self) -> str:
        """One line for people."""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.network_stages.items())
        return (
            f"decode {self.decode:.1f} s, network {self.network:.1f} s{f' ({parts})' if parts else ''}, "
            f"encode {self.encode:.1f} s; bottleneck: {self.bottleneck}"
        )


@dataclass
class Result:
    """What a job did."""

    frames_in: int
    frames_out: int
    timing: Timing


class Job:
    """Runs frames from ``source`` through ``processor`` into ``sink``.

    parts
        Output frames per input frame, for the size of the queue to the encoder.
    on_input, on_output
        Called with every frame, in the decoding and the encoding thread.

    Decoder, network and encoder have a thread each. The caller's thread only waits: Ctrl-C is raised there, and
    would leave a lock behind if it hit between two instructions of a queue. A failure anywhere stops all three at
    once and is raised by `run` after the sink has been abandoned.
    """

    def __init__(
        self,
        source: Iterable[Frame],
        processor: Processor,
        sink: Sink,
        *,
        parts: int = 1,
        keep_partial: bool = False,
        on_input: Callable[[Frame], None] | None = None,
        on_output: Callable[[Frame], None] | None = None,
    ) -> None:
        self._source, self._processor, self._sink = source, processor, sink
        self._keep_partial = keep_partial
        self._on_input, self._on_output = on_input, on_output
        self._decoded: Channel[Frame] = Channel(DECODED_AHEAD)
        self._processed: Channel[Frame] = Channel(BATCHES_BEHIND * parts)
        self._failures: list[BaseException] = []
        self._timing = Timing()
        self._frames_in = self._frames_out = 0
        self.kept: Path | None = None

    def run(self) -> Result:
        """Raises the first error of any stage, and `KeyboardInterrupt`; ``kept`` then names the partial file."""
        began = time.perf_counter()
        stages = (("decode", self._decode), ("network", self._infer), ("encode", self._encode))
        # Events, since up to Python 3.12 a join() that a signal interrupts takes the thread for ended.
        ends = [threading.Event() for _ in stages]
        threads = [
            threading.Thread(target=self._guarded, args=(stage, end), name=f"vtsr {name}", daemon=True)
            for (name, stage), end in zip(stages, ends, strict=True)
        ]
        try:
            for thread in threads:
                thread.start()
            for end in ends:
                while not end.wait(POLL_SECONDS):
                    pass
            if self._failures:
                raise self._failures[0]
            mark = time.perf_counter()
            self._sink.finish()
            self._timing.encode += time.perf_counter() - mark
        except BaseException:
            self._abort()
            for thread, end in zip(threads, ends, strict=True):
                if thread.ident is not None:
                    end.wait()
            self.kept = self._sink.abandon(self._keep_partial)
            raise
        self._timing.total = time.perf_counter() - began
        self._timing.network_stages = dict(self._processor.stage_seconds)
        return Result(self._frames_in, self._frames_out, self._timing)

    def _guarded(self, stage: Callable[[], None], end: threading.Event) -> None:
        try:
            stage()
        except Stopped:
            pass  # another stage failed and says why
        except BaseException as error:  # noqa: BLE001  # handed to the caller's thread, which raises it
            self._failures.append(error)
            self._abort()
        finally:
            end.set()

    def _abort(self) -> None:
        self._decoded.abort()
        self._processed.abort()

    def _decode(self) -> None:
        mark = time.perf_counter()
        for frame in self._source:
            if self._on_input is not None:
                self._on_input(frame)
            self._timing.decode += time.perf_counter() - mark
            self._decoded.put(frame)
            self._frames_in += 1
            mark = time.perf_counter()
        self._timing.decode += time.perf_counter() - mark
        self._decoded.close()

    def _infer(self) -> None:
        for frame in self._decoded:
            self._hand_on(partial(self._processor.push, frame))
        self._hand_on(self._processor.flush)
        self._processed.close()

    def _hand_on(self, step: Callable[[], list[Frame]]) -> None:
        mark = time.perf_counter()
        frames = step()
        self._timing.network += time.perf_counter() - mark
        for frame in frames:
            self._processed.put(frame)

    def _encode(self) -> None:
        for frame in self._processed:
            mark = time.perf_counter()
            self._sink.write(frame)
            self._frames_out += 1
            self._timing.encode += time.perf_counter() - mark
            if self._on_output is not None:
                self._on_output(frame)
