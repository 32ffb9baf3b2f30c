"""The streaming recursion as operations on blocks of memory. Pure: no CUDA; an executor does the work.

Streams: ``upload`` copies in, ``level 1`` to ``level N`` compute, ``download`` copies out; further lanes have computing
streams and a download stream of their own. A picture goes

    host -> stage: page-locked block -> upload: stored planes -> level 1: ingest, step 1 -> level 2: step 2 ...
    -> level N: step N, emit -> download: page-locked block -> host

Levels hand over blocks, never copies: a level's halves are the next level's input, and its last frame stays where
it is as the ``u`` of the next call. That is why a block serves two calls and full overlap takes three slots.
Batches for which there is no engine, as at starts and ends of streams, are run in pieces: the step carries its
state, so that the result is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vtsr.errors import ModelError
from vtsr.runtime.backend import StepResult
from vtsr.runtime.frame import Planes
from vtsr.runtime.tensorrt.layout import Layout
from vtsr.runtime.tensorrt.schedule import HOST, Block, Lease, Mark, Ring, Scheduler
from vtsr.runtime.tensorrt.settings import Settings

UPLOAD, DOWNLOAD, SINGLE = "upload", "download", "single"


def lane_stream(name: str, lane: int) -> str:
    """The name of a lane's own stream; the first lane's have plain names."""
    return f"lane {lane} {name}" if lane else name


class Place(NamedTuple):
    """A tensor's place: an offset in a block, bytes."""

    block: Block
    offset: int


@dataclass(frozen=True, eq=False)
class Stage:
    """Host copies pictures into a page-locked block."""

    pictures: Sequence[Planes]
    target: Block


@dataclass(frozen=True, eq=False)
class Upload:
    """Copies the planes of a batch to the device; from the caller's own page-locked memory if ``source`` is None."""

    batch: int
    source: Block | None
    target: Block
    picture: Planes | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """Runs an engine. ``steady`` calls return in the same places again and again, so that a graph pays."""

    role: str
    batch: int
    tensors: Mapping[str, Place]
    steady: bool


@dataclass(frozen=True, eq=False)
class Download:
    """Copies the planes of a batch to the host."""

    batch: int
    source: Block
    target: Block


@dataclass(frozen=True, eq=False)
class Copy:
    """Copies a whole block into another at ``offset``, on the device."""

    source: Block
    target: Block
    offset: int
    nbytes: int


class Frames:
    """``count`` float frames (3, H', W') from ``start`` on in a leased block; what a level of the recursion gets.

    ``steady`` ones come from the middle of a stream.
    """

    __slots__ = ("count", "lane", "lease", "level", "start", "steady", "turn")

    def __init__(
        self, lease: Lease, start: int, count: int, level: int, turn: int, lane: int, steady: bool = False
    ) -> None:
        self.lease, self.start, self.count = lease, start, count
        self.level, self.turn, self.lane, self.steady = level, turn, lane, steady

    def part(self, start: int, stop: int) -> Frames:
        count = max(stop - start, 0)
        return Frames(self.lease, self.start + start, count, self.level, self.turn, self.lane, self.steady)


class StoredBatch(NamedTuple):
    """Places of the planes of ``size`` pictures; ``leases`` keep their blocks."""

    size: int
    places: Mapping[str, Place]
    leases: tuple[Lease, ...] = ()


class Stored(NamedTuple):
    """The pictures of one push in device memory, as they were stored; any lane can make float frames of them."""

    batches: tuple[StoredBatch, ...]
    steady: bool  # its blocks come back in turn

    @property
    def pictures(self) -> int:
        return sum(batch.size for batch in self.batches)


class Emitted(NamedTuple):
    """``batch`` finished pictures in a block, there once ``mark`` is over.

    ``borrowed``: the block is to be copied before anything else is issued.
    """

    lease: Lease
    batch: int
    mark: Mark
    borrowed: bool


def pieces(count: int, sizes: Sequence[int], what: str) -> list[int]:
    """``count`` as a sum of available batch sizes, the largest first. Raises `ModelError` if there is none."""
    parts = []
    for size in sorted(sizes, reverse=True):
        parts += [size] * (count // size)
        count %= size
    if count:
        have = ", ".join(map(str, sorted(sizes))) or "none"
        raise ModelError(f"There is no {what} engine for a batch of {count} (only {have}); export the model again.")
    return parts


class Flow:
    """Issues the operations of a stream of pictures of one layout.

    Parameters
    ----------
    batches
        Batch sizes for which there are engines, by role: ``ingest``, ``step``, ``finish``, ``emit``.
    frame_bytes
        Size of one float frame.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        layout: Layout,
        batches: Mapping[str, Sequence[int]],
        frame_bytes: int,
        settings: Settings,
    ) -> None:
        self._scheduler = scheduler
        self.layout = layout
        self._settings = settings
        self.frame_bytes = frame_bytes
        self._batches = dict(batches)
        if not settings.batching:
            self._batches["step"] = [1]
        self._rings: dict[tuple[Any, ...], Ring] = {}
        self._turn = -1
        self._turns = [-1] * settings.lanes
        self.last_read: Mark | None = None  # of pictures that were given
        self.no_carry = Block("no carry", 0, 4)  # the executor fills both
        self.carry = Block("carry", 0, 4)

    @property
    def blocks(self) -> list[Block]:
        """Every block there is."""
        ringed = [block for ring in self._rings.values() for block in ring.blocks.values()]
        return [self.no_carry, self.carry, *ringed]

    def _stream(self, name: str, lane: int = 0) -> str:
        return lane_stream(name, lane) if self._settings.overlap else SINGLE

    def _ring(self, role: str, nbytes: int, *key: Any, on_host: bool = False, slots: int | None = None) -> Ring:
        name = (role, nbytes, *key)
        if name not in self._rings:
            self._rings[name] = Ring(role, nbytes, slots or self._settings.slots, on_host)
        return self._rings[name]

    def _stored_ring(self, nbytes: int, parts: int) -> Ring:
        """Blocks for stored pictures, ``parts`` per push: of all the pushes that lanes have yet to begin with."""
        slots = self._settings.ahead + self._settings.slots
        return self._ring("planes in", nbytes, parts, slots=slots * (parts if self._settings.lanes > 1 else 1))

    def _frames(self, count: int, level: int, turn: int, lane: int, room: int = 0) -> Frames:
        capacity = 1 << (max(count, room) - 1).bit_length()
        ring = self._ring("frames", capacity * self.frame_bytes, level, lane)
        return Frames(ring.take(turn), 0, count, level, turn, lane)

    def ingest(self, pictures: Sequence[Planes], direct: bool = False) -> Frames | Stored:
        """Pictures in host memory to the device; ``direct`` ones are page-locked and not staged.

        With one lane these are float frames; with several the lanes make them where they need them.
        """
        self._turn += 1
        batches, done = [], 0
        parts = pieces(len(pictures), self._batches["ingest"], "ingest")
        for index, batch in enumerate(parts):
            chosen = pictures[done : done + batch]
            nbytes = self.layout.nbytes(batch)
            turn = self._turn * len(parts) + index if self._settings.lanes > 1 else self._turn
            stored = self._stored_ring(nbytes, len(parts)).take(turn)
            if direct and batch == 1:
                work, sources = Upload(1, None, stored.block, chosen[0]), []
            else:
                staged = self._ring("staged", nbytes, on_host=True).take(self._turn)
                self._scheduler.add("stage", HOST, (), (staged.block,), Stage(chosen, staged.block))
                work, sources = Upload(batch, staged.block, stored.block), [staged.block]
            self.last_read = self._scheduler.add("upload", self._stream(UPLOAD), sources, (stored.block,), work)
            places = {plane.name: Place(stored.block, plane.offset) for plane in self.layout.planes(batch)}
            batches.append(StoredBatch(batch, places, (stored,)))
            done += batch
        # With several lanes there are too many combinations of blocks for graphs.
        stored_all = Stored(tuple(batches), steady=len(parts) == 1 and self._settings.lanes == 1)
        return stored_all if self._settings.lanes > 1 else self.frames(stored_all)

    def ingest_placed(self, pictures: Sequence[StoredBatch]) -> Frames | Stored:
        """As `ingest` for pictures that are in device memory already."""
        self._turn += 1
        stored = Stored(tuple(pictures), steady=False)
        if self._settings.lanes > 1:
            return stored
        frames = self.frames(stored)
        self.last_read = frames.lease.block.last_write
        return frames

    def frames(self, stored: Stored, lane: int = 0) -> Frames:
        """Float frames of stored pictures, for a lane."""
        self._turns[lane] += 1
        frames = self._frames(stored.pictures, 0, self._turns[lane], lane)
        frames.steady = True
        target, done = frames.lease.block, 0
        for batch, places, _ in stored.batches:
            tensors = {**places, "rgb": Place(target, done * self.frame_bytes)}
            run = Run("ingest", batch, tensors, stored.steady)
            sources = {place.block for place in places.values()}
            self._scheduler.add("ingest", self._stream("level 1", lane), sources, (target,), run)
            done += batch
        return frames

    @property
    def reading_stream(self) -> str:
        """The stream that reads pictures in device memory where they are."""
        return self._stream("level 1" if self._settings.lanes == 1 else UPLOAD)

    def placed_copy(self) -> Lease:
        """A block for a copy of one picture that is in device memory already."""
        return self._stored_ring(self.layout.nbytes(1), 1).take(self._turn + 1)

    def copy(self, source: Block, target: Block, offset: int, nbytes: int) -> None:
        """Copies a given picture on the device."""
        work = Copy(source, target, offset, nbytes)
        self.last_read = self._scheduler.add("copy", self.reading_stream, (source,), (target,), work)

    def step(self, u: Frames, a_u: Frames | None, v: Frames) -> StepResult:
        """One push of a level: see `vtsr.export.step.Step`."""
        level, size, lane = v.level + 1, self.frame_bytes, v.lane
        stream = self._stream(f"level {level}", lane)
        # Where u comes with v, at the start of a stream, there is a pair less than later, but the same kind of block.
        room = 2 * (v.count + (a_u is None and u.turn == v.turn))
        halves = self._frames(2 * v.count, level, v.turn, lane, room)
        parts = pieces(v.count, self._batches["step"], "step")
        steady = halves.steady = a_u is not None and len(parts) == 1 and u.steady and v.steady
        done = 0
        for batch in parts:
            following = Frames(self._ring("state", size, level, lane).take(v.turn), 0, 1, v.level, v.turn, lane)
            unused = self._ring("unused", size, level, lane).take(0)
            start = a_u if a_u is not None else u
            carry = self.carry if a_u is not None else self.no_carry
            tensors = {
                "u": Place(u.lease.block, u.start * size),
                "a_u": Place(start.lease.block, start.start * size),
                "carry": Place(carry, 0),
                "v": Place(v.lease.block, (v.start + done) * size),
                "halves": Place(halves.lease.block, 2 * done * size),
                "next_a": Place(following.lease.block, 0),
                "next_u": Place(unused.block, 0),  # v's last frame is there already
            }
            reads = {tensors[name].block for name in ("u", "a_u", "carry", "v")}
            writes = {tensors[name].block for name in ("halves", "next_a", "next_u")}
            run = Run("step", batch, tensors, steady)
            self._scheduler.add(f"step {level}", stream, reads, writes, run)
            done += batch
            u, a_u = v.part(done - 1, done), following
        return StepResult(halves, u, a_u)

    def finish(self, u: Frames, a_u: Frames | None) -> Frames:
        """Both halves of the last frame of a level."""
        level, size = u.level + 1, self.frame_bytes
        halves = self._frames(2, level, u.turn, u.lane)
        start = a_u if a_u is not None else u
        tensors = {
            "u": Place(u.lease.block, u.start * size),
            "a_u": Place(start.lease.block, start.start * size),
            "halves": Place(halves.lease.block, 0),
        }
        reads = {u.lease.block, start.lease.block}
        run = Run("finish", 1, tensors, steady=False)
        stream = self._stream(f"level {level}", u.lane)
        self._scheduler.add(f"finish {level}", stream, reads, (halves.lease.block,), run)
        return halves

    def emit(self, frames: Frames, *, to_host: bool = True) -> list[Emitted]:
        """Stored pictures of float frames, in host memory or on the device, in order of time."""
        stream = self._stream(f"level {frames.level}", frames.lane)
        outputs = []
        done = 0
        parts = pieces(frames.count, self._batches["emit"], "emit")
        for batch in parts:
            nbytes = self.layout.nbytes(batch)
            ring = self._ring("planes out", nbytes, to_host, frames.lane)
            stored = ring.take(frames.turn) if to_host else ring.take_free()
            assert stored is not None
            tensors = {plane.name: Place(stored.block, plane.offset) for plane in self.layout.planes(batch)}
            tensors["rgb"] = Place(frames.lease.block, (frames.start + done) * self.frame_bytes)
            run = Run("emit", batch, tensors, steady=to_host and frames.steady and len(parts) == 1)
            mark = self._scheduler.add("emit", stream, (frames.lease.block,), (stored.block,), run)
            done += batch
            if to_host:
                outputs.append(self._download(batch, nbytes, stored.block, frames.lane))
            else:
                outputs.append(Emitted(stored, batch, mark, False))
        return outputs

    def _download(self, batch: int, nbytes: int, source: Block, lane: int) -> Emitted:
        ring = self._ring("pictures", nbytes, on_host=True)
        lease = ring.take_free(self._settings.host_outputs + self._settings.ahead)
        borrowed = lease is None
        if lease is None:  # the caller keeps all of them
            lease = self._ring("borrowed", nbytes, on_host=True).take_free()
            assert lease is not None
        work = Download(batch, source, lease.block)
        mark = self._scheduler.add("download", self._stream(DOWNLOAD, lane), (source,), (lease.block,), work)
        return Emitted(lease, batch, mark, borrowed)

