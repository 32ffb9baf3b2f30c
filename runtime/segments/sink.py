"""Output frames into segments, each of them noted in the journal once it lies on the disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from vtsr.errors import OutputError
from vtsr.runtime.frame import Frame
from vtsr.runtime.memory import give_back
from vtsr.runtime.segments.journal import Segment
from vtsr.runtime.segments.ledger import Ledger
from vtsr.runtime.segments.span import Span
from vtsr.runtime.segments.stores import Part
from vtsr.runtime.video.writer import said_as_output_error

TIDY_SECONDS = 2.0


class Notes(Protocol):
    """Where finished segments are noted; see `vtsr.runtime.segments.journal.Journal`."""

    folder: Path

    def add(self, segment: Segment) -> None: ...


class Parts(Protocol):
    """Where segments are made; see `vtsr.runtime.segments.stores.Store`."""

    def begin(self, number: int) -> Part: ...


class SegmentSink:
    """Where a `Job` puts the frames of ``span``; frames of its neighbours are ignored.

    size
        Input frames per segment.
    ledger
        What was seen of the input frames.
    cuts
        Input frames that begin a scene, as far as is known.
    keep
        Saves what there is, given the unfinished part, as a file of its own.

    A segment is closed (its encoder emptied, its file put on the disk) while the next one is being made.
    """

    def __init__(
        self,
        journal: Notes,
        store: Parts,
        span: Span,
        size: int,
        ledger: Ledger,
        cuts: Callable[[], Sequence[int]],
        keep: Callable[[Part | None], Path] | None = None,
    ) -> None:
        self._journal, self._store, self._span, self._size = journal, store, span, size
        self._ledger, self._cuts, self._keep = ledger, cuts, keep
        self._closer = ThreadPoolExecutor(1, "vtsr close")
        self._closing: Future[None] | None = None
        self._number: int | None = None
        self._part: Part | None = None
        self._outputs = 0
        self._tidied = time.monotonic()

    def write(self, frame: Frame) -> None:
        if frame.source_index not in self._span:
            return
        number = frame.source_index // self._size
        if number != self._number:
            self._turn_to(number)
        assert self._part is not None
        self._part.write(frame)
        self._outputs += 1

    def finish(self) -> None:
        """The span is complete; so is its last segment, however short."""
        self._turn_to(None)
        self._wait()
        self._closer.shutdown()

    def abandon(self, keep: bool = False) -> Path | None:
        """Ends without success; what is finished stays. With ``keep``, all there is as ``NAME.partial``."""
        with contextlib.suppress(Exception):  # it is why the job is abandoned
            self._wait()
        self._closer.shutdown()
        part, self._part = self._part, None
        if not keep or self._keep is None:
            return None
        with contextlib.suppress(OutputError):  # the disk is full, perhaps: why it is abandoned
            return self._keep(part)
        return None

    def _turn_to(self, number: int | None) -> None:
        self._wait()
        if self._part is not None and self._number is not None:
            self._closing = self._closer.submit(self._close, self._part, self._number, self._outputs)
        self._part, self._number, self._outputs = None, number, 0
        if number is not None:
            self._part = self._store.begin(number)

    def _wait(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.result()

    def _close(self, part: Part, number: int, outputs: int) -> None:
        extent = part.close()
        frames = range(number * self._size, (number + 1) * self._size)
        cuts = tuple(sorted({cut for cut in self._cuts() if cut in frames}))
        segment = Segment(number, self._ledger.take(number), outputs, extent.size, extent.crc, extent.end, cuts)
        with said_as_output_error(self._journal.folder):
            self._journal.add(segment)
        if time.monotonic() - self._tidied > TIDY_SECONDS:  # it takes long in a large process
            give_back()
            self._tidied = time.monotonic()
