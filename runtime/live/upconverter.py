"""LiveUpconverter: `vtsr.Upconverter` for streams that do not wait."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from types import TracebackType

import numpy as np

from vtsr.errors import InputError, OptionError, VtsrError
from vtsr.options import MAX_LEVELS
from vtsr.runtime.backend import Backend
from vtsr.runtime.cuts import DEFAULT_THRESHOLD
from vtsr.runtime.frame import Frame, Image, Planes
from vtsr.runtime.live import duty as shutter
from vtsr.runtime.live.clock import GAP_FRAMES, Placed, SourceClock
from vtsr.runtime.live.gaps import must_restart
from vtsr.runtime.live.levels import LevelController
from vtsr.runtime.live.notes import Notes
from vtsr.runtime.live.results import Results
from vtsr.runtime.live.statistics import Counter, Latencies, LiveStatistics, Rate
from vtsr.runtime.live.waiting import Item, Policy, WaitingRoom
from vtsr.runtime.live.watch import ExposureWatch
from vtsr.runtime.upconverter import MAX_SIDE, MIN_SIDE, Upconverter

STALL_FRAMES = 8  # frame times without a frame after which the last one is given out
MIN_STALL_SECONDS = 0.25
BATCHES_AHEAD = 3  # times the frames of one input frame that may wait for the consumer
JOIN_SECONDS = 10.0  # how long `close` waits for the worker


@dataclass
class _Pending:
    """An input frame whose parts have not all come out."""

    item: Item
    picture: Planes
    frame_time: Fraction


class LiveUpconverter:
    """Turns a live stream of frames into one of up to 2**levels times the frame rate.

    >>> import numpy as np, vtsr
    >>> with vtsr.LiveUpconverter(levels=1, policy="wait", frame_rate=30) as live:
    ...     for n in range(3):
    ...         _ = live.push(np.full((32, 48, 3), 80 * n, np.uint8), pts=n / 30)
    ...     live.finish()
    ...     len([frame.pts for frame in live])
    6

    Any thread pushes; a worker thread runs the network; results are taken by iterating, by ``async for``, by `get`, or
    come to ``on_frame``.

    Parameters
    ----------
    levels
        Recursion levels, 1 to 4; at most, with the policy "adapt".
    policy
        What happens when frames come faster than they can be processed: "adapt", "drop-oldest", "drop-newest" or
        "wait"; see `vtsr.runtime.live.waiting.Policy`.
    queue
        Frames that may wait.
    latency_budget
        Seconds from the push of a frame to the last result made of it. One frame time of them is spent waiting for the
        next frame; a frame that has waited for longer than the rest while a newer one is there is dropped (not with
        "wait"), and "adapt" lowers the number of levels when results are later.
    lowest_level
        How far "adapt" may go down; 0 hands frames on as they are.
    frame_rate
        Frames per second of the source, if known; it is measured anyway.
    on_frame
        Called with every result in the worker's thread; then there is nothing to iterate over.
    duty
        Share of the frame time for which the shutter was open, see `vtsr.runtime.live.duty`.
    check_exposure
        Whether to measure that share while the stream runs, and to say so if the shutter was not open.
    notes
        Where events are said; the logger "vtsr.live" by default.
    counter
        What events are counted in; a source or a sink may add to the same.
    backend, model, threads, precision, scene_threshold
        As of `vtsr.Upconverter`.

    Raises `OptionError` for arguments out of range and `ModelError` if the model cannot be used. If the worker fails,
    the next `push` and the end of the results raise its error.
    """

    def __init__(
        self,
        levels: int = 2,
        *,
        policy: str | Policy = Policy.ADAPT,
        queue: int = 4,
        latency_budget: float | None = None,
        lowest_level: int = 0,
        frame_rate: Fraction | int | None = None,
        on_frame: Callable[[Frame], object] | None = None,
        duty: float | Fraction = 1,
        check_exposure: bool = True,
        notes: Notes | None = None,
        counter: Counter | None = None,
        backend: str | Backend = "auto",
        model: str = "default",
        threads: int | None = None,
        precision: str = "auto",
        scene_threshold: float = DEFAULT_THRESHOLD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self.policy = Policy(policy)
        except ValueError:
            names = ", ".join(p.value for p in Policy)
            raise OptionError(f"There is no policy {policy!r}; choose one of {names}.") from None
        if queue < 1:
            raise OptionError(f"The queue must hold at least one frame, not {queue}.")
        if latency_budget is not None and latency_budget <= 0:
            raise OptionError(f"The latency budget must be longer than zero, not {latency_budget} s.")
        if frame_rate is not None and frame_rate <= 0:
            raise OptionError(f"The frame rate must be positive, not {frame_rate}.")
        if not 1 <= levels <= MAX_LEVELS:
            raise OptionError(f"The number of levels must be 1 to {MAX_LEVELS}, not {levels}.")
        if not 0 <= lowest_level <= levels:
            raise OptionError(f"The lowest level must be 0 to {levels}, not {lowest_level}.")
        self.duty = shutter.checked(duty)
        self.budget = latency_budget
        self.counter = counter or Counter()
        self.notes = notes or Notes()
        self._up = Upconverter(
            levels, backend=backend, model=model, threads=threads, precision=precision,
            scene_threshold=scene_threshold,
        )  # fmt: skip
        self._highest = levels
        self._clock = clock
        self._source_clock = SourceClock(None if frame_rate is None else 1 / Fraction(frame_rate))
        self._room = WaitingRoom(queue, self.policy)
        self._results = Results(BATCHES_AHEAD * 2**levels)
        self._on_frame = on_frame
        self._controller = LevelController(levels, lowest_level)
        self._watch = ExposureWatch(self.notes) if check_exposure else None
        self._latencies = Latencies()
        self._began = clock()
        self._rates = Rate(self._began), Rate(self._began)
        self._push_lock = threading.Lock()  # the order of pushes is the order of their clock and of the queue
        self._pushed = 0
        self._failure: BaseException | None = None
        self._pending: dict[int, _Pending] = {}  # by index in the recursion's stream
        self._index = 0
        self._last: Item | None = None  # the newest frame given to the recursion
        self._shape: tuple[int, ...] | None = None
        self._loads: deque[float] = deque(maxlen=32)
        self._late = False
        self._stopping = False
        self._worker = threading.Thread(target=self._guarded, name="vtsr live", daemon=True)
        self._worker.start()

    # In

    def warm_up(self, picture: Frame | Image) -> None:
        """Prepares the backend for pictures like this one, which may take long; to be called before the first push."""
        frame = picture if isinstance(picture, Frame) else Frame(np.asarray(picture))
        for time_ in range(2):
            self._up.push(replace(frame, pts=Fraction(time_), duration=Fraction(1)))
        self._up.flush()

    def push(self, picture: Frame | Image, pts: Fraction | float | None = None) -> bool:
        """Takes the next frame; returns at once (but for the policy "wait"), False if a frame had to go for it.

        picture
            A uint8 or uint16 RGB array (H, W, 3), or a `Frame`, whose own ``pts`` counts unless another is given.
            It must not be changed afterwards.
        pts
            Seconds on the source's clock; None goes by the time of the push.

        Raises `InputError` for what is no picture, and what the worker failed with.
        """
        frame = picture if isinstance(picture, Frame) else Frame(np.asarray(picture))
        planes = frame.planes
        if not MIN_SIDE <= min(planes.height, planes.width) <= max(planes.height, planes.width) <= MAX_SIDE:
            raise InputError(
                f"A frame of {planes.width} x {planes.height} pixels cannot be used; sides must be {MIN_SIDE} to "
                f"{MAX_SIDE}."
            )
        if pts is None and isinstance(picture, Frame):
            pts = frame.pts
        exact = None if pts is None else Fraction(pts).limit_denominator(10**9)
        with self._push_lock:
            self._raise_failure()
            arrival = self._clock()
            placed = self._source_clock.place(exact, arrival)
            self._tell(placed)
            item = Item(frame, placed, self._pushed, arrival)
            self._pushed += 1
            self.counter.add("frames_in")
            gone = self._room.put(item)
        if gone is not None:
            self.counter.add("dropped_full")
            self._late = True
            if not self._stopping:
                self.notes.say("drop", "Frames come faster than they can be processed; some are dropped.")
        return gone is None

    def _tell(self, placed: Placed) -> None:
        if placed.jumped:
            self.counter.add("clock_jumps")
            self.notes.say("clock", "The source's clock jumped; the output's goes on.")
        if placed.rate_changed:
            self.counter.add("rate_changes")
            rate = float(1 / placed.frame_time)
            self.notes.say("rate", f"The source's frame rate is {rate:.4g} per second from now on.")

    def finish(self) -> None:
        """No more frames will come: what waits is processed, then the results end."""
        self._room.close()

    def close(self) -> None:
        """Ends at once: what waits is dropped; then frees the backend. Idempotent."""
        self._stopping = True
        self.counter.add("dropped_full", self._room.close(drop=True))
        self._results.close(drop=True)
        if threading.current_thread() is not self._worker:
            self._worker.join(JOIN_SECONDS)
        if self._watch is not None:
            self._watch.close()
        if not self._worker.is_alive():
            self._up.close()

    def __enter__(self) -> LiveUpconverter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Out

    def get(self, timeout: float | None = None) -> Frame | None:
        """The next result; None after ``timeout`` seconds without one and at the end (see `finished`)."""
        taken = self._results.take(timeout)
        if taken is None:
            if self._results.finished:
                self._raise_failure()
            return None
        return self._taken(*taken)

    def __iter__(self) -> Iterator[Frame]:
        while (taken := self._results.take()) is not None:
            yield self._taken(*taken)
        self._raise_failure()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while (taken := await self._results.take_async()) is not None:
            yield self._taken(*taken)
        self._raise_failure()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until everything pushed before `finish` has come out; for use with ``on_frame``."""
        self._worker.join(timeout)
        self._raise_failure()
        return not self._worker.is_alive()

    @property
    def finished(self) -> bool:
        """Whether no more results will come."""
        return self._results.finished

    def _taken(self, frame: Frame, arrival: float) -> Frame:
        self._latencies.add(max(0.0, self._clock() - arrival))
        self.counter.add("frames_out")
        return frame

    def stats(self) -> LiveStatistics:
        """What happened so far."""
        counts, now = self.counter.snapshot(), self._clock()
        loads = list(self._loads)
        estimate = None if self._watch is None else self._watch.estimate
        return LiveStatistics(
            seconds=now - self._began,
            counts=counts,
            latency=self._latencies.snapshot(),
            rate_in=self._rates[0].see(now, counts.frames_in),
            rate_out=self._rates[1].see(now, counts.frames_out),
            waiting=len(self._room),
            capacity=self._room.capacity,
            levels=self._up.levels,
            highest=self._highest,
            load=sum(loads) / len(loads) if loads else 0.0,
            duty=None if estimate is None else estimate.duty,
        )

    @property
    def waiting(self) -> int:
        """Frames in the waiting room now."""
        return len(self._room)

    @property
    def backend_name(self) -> str:
        return self._up.backend_name

    # The worker

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # handed to the threads that push and take
            self._failure = error
            self._room.close(drop=True)
        finally:
            self._results.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if isinstance(self._failure, VtsrError):
                raise self._failure
            raise RuntimeError("The live worker failed.") from self._failure

    def _work(self) -> None:
        stalled = True  # before the first frame
        while not self._room.closed:
            wait = max(MIN_STALL_SECONDS, float(STALL_FRAMES * self._source_clock.frame_time))
            item = self._room.take(None if stalled else wait)
            if item is not None:
                stalled = False
                self._process(item)
            elif not self._room.closed and not stalled:
                stalled = True
                self.counter.add("stalls")
                self.notes.say("stall", "The source has stopped sending frames; waiting for it.")
                self._deliver(self._end_scene())
        if not self._stopping:
            self._deliver(self._end_scene())

    def _process(self, item: Item) -> None:
        began = self._clock()
        adapts, waits = self.policy is Policy.ADAPT, self.policy is Policy.WAIT
        if not waits and began - item.arrival > self._patience(item) and len(self._room):
            self.counter.add("dropped_late")
            self.notes.say("late", "Frames wait for longer than the latency budget; some are dropped.")
            self._late = True
            return
        outputs = self._scene_before(item)
        picture, frame_time = item.frame.planes, item.placed.frame_time
        self._pending[self._index] = _Pending(item, picture, frame_time)
        self._fit_before(item)
        cuts = len(self._up.cuts)
        outputs += self._up.push(Frame(picture, Fraction(self._index), Fraction(1), self._index))
        if len(self._up.cuts) > cuts:
            self._up.cuts.clear()  # they are counted, and would grow for ever
            self.counter.add("cuts")
        self._watch_exposure(item, picture)
        self._index += 1
        self._last = item
        self._deliver(outputs)
        busy = self._clock() - began
        self._loads.append(busy / float(frame_time))
        if adapts:
            self._adapt(busy, float(frame_time), item)

    def _adapt(self, busy: float, frame_time: float, item: Item) -> None:
        now = self._clock()
        late, self._late = self._late or now - item.arrival > self._patience(item), False
        levels = self._controller.observe(busy, frame_time, late, now)
        if levels == self._up.levels:
            return
        self.counter.add("level_changes")
        verb = "lowered" if levels < self._up.levels else "raised"
        self.notes.say(f"level {verb}", f"The number of levels is {verb} from {self._up.levels} to {levels}.")
        self._deliver(self._up.change_levels(levels))

    def _patience(self, item: Item) -> float:
        """How long a frame may take: its results come together with the next frame's, one frame time later."""
        return math.inf if self.budget is None else max(0.0, self.budget - float(item.placed.frame_time))

    def _scene_before(self, item: Item) -> list[Frame]:
        """What has to come out before a frame that does not follow the last one."""
        last = self._last
        shape = item.frame.planes.planes[0].shape
        if self._shape is not None and shape != self._shape:
            self.counter.add("size_changes")
            size = f"{shape[1]}x{shape[0]}"
            self.notes.say("size", f"The source's frame size is {size} from now on.")
        self._shape = shape
        if last is None:
            return []
        if item.placed.scene != last.placed.scene:
            return self._end_scene()
        between = item.placed.ordinal - last.placed.ordinal - 1
        if between <= 0:
            return []
        # Frames that were dropped here are counted as such; the others are the source's.
        self.counter.add("missing", max(0, between - (item.number - last.number - 1)))
        if self._up.levels == 0 or not must_restart(last.frame.planes, item.frame.planes):
            return []
        self.counter.add("restarts")
        return self._end_scene()

    def _end_scene(self) -> list[Frame]:
        self._last = None
        return self._up.flush()

    def _fit_before(self, item: Item) -> None:
        """The frame before lasts until this one, unless something is missing between them."""
        before = self._pending.get(self._index - 1)
        if before is None:
            return
        distance = item.placed.pts - before.item.placed.pts
        if 0 < distance <= GAP_FRAMES * before.frame_time:
            before.frame_time = distance

    def _watch_exposure(self, item: Item, picture: Planes) -> None:
        last = self._last
        if self._watch is None or last is None or item.placed.ordinal != last.placed.ordinal + 1:
            return
        self._watch.offer(last.frame.planes, picture, self._clock())

    def _deliver(self, outputs: list[Frame]) -> None:
        for output in outputs:
            timed = self._timed(output)
            arrival = timed[1]
            if self._on_frame is not None:
                self._on_frame(self._taken(*timed))
            elif not self._results.put((timed[0], arrival)):
                return

    def _timed(self, output: Frame) -> tuple[Frame, float]:
        """The output on the output's timeline, and when its input frame arrived."""
        index = output.source_index
        for done in [i for i in self._pending if i < index]:
            del self._pending[done]
        pending = self._pending[index]
        item, source = pending.item, pending.item.frame
        begin, length = shutter.span(output.pts - index, output.duration, self.duty)
        planes = output.planes
        if self.duty < 1 and output.duration < 1:
            planes = shutter.scaled(planes, pending.picture, self.duty)
        kept = planes if isinstance(source.picture, Planes) else planes.planes[0]
        placed = replace(
            output,
            picture=kept,
            pts=item.placed.pts + begin * pending.frame_time,
            duration=length * pending.frame_time,
            source_index=item.number,
        )
        return placed, item.arrival
