"""Upconverter: frames in, 2**levels as many frames out, each with 2**levels times less motion blur."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType

import numpy as np

from vtsr.errors import InputError, OptionError
from vtsr.runtime.backend import Backend, Tensor, load_backend
from vtsr.runtime.cuts import DEFAULT_THRESHOLD, SceneCutDetector
from vtsr.runtime.frame import Frame, Image, PendingFrame, PixelFormat, Planes
from vtsr.runtime.recursion import recursion_of

MIN_SIDE = 16  # pixels
MAX_SIDE = 16384  # pixels; more is a damaged header rather than a video


class Upconverter:
    """Turns a stream of frames into one of 2**levels times the frame rate.

    >>> import numpy as np, vtsr
    >>> frames = [np.full((32, 48, 3), 10 * i, np.uint8) for i in range(4)]
    >>> with vtsr.Upconverter(levels=1, frame_rate=25) as up:
    ...     outputs = list(up.run(frames))
    >>> len(outputs), str(outputs[3].pts), outputs[3].image.shape
    (8, '3/50', (32, 48, 3))

    Parameters
    ----------
    levels
        Recursion levels, 1 to 4.
    backend
        ``"auto"``, ``"onnxruntime"`` or ``"tensorrt"``, or a backend of your own making, which is then closed with
        this object.
    model
        Name of a shipped model, or a folder written by vtsr-export.
    threads
        CPU threads; None takes all cores.
    precision
        On the CPU: ``"fp32"``, ``"int8"``, or ``"auto"``: int8 where the model was measured to gain from it.
    scene_threshold
        Score above which two frames count as different scenes, see `vtsr.runtime.cuts`; 1 finds no cuts.
    frame_rate
        Frames per second of input that is given as bare arrays; `Frame` objects carry their own times.

    Raises `OptionError` for arguments out of range and `ModelError` if the model cannot be used. Frames
    of another size or format than the one before start a new scene.
    """

    def __init__(
        self,
        levels: int = 2,
        *,
        backend: str | Backend = "auto",
        model: str = "default",
        threads: int | None = None,
        precision: str = "auto",
        scene_threshold: float = DEFAULT_THRESHOLD,
        frame_rate: Fraction | int = Fraction(30),
    ) -> None:
        if frame_rate <= 0:
            raise OptionError(f"The frame rate must be positive, not {frame_rate}.")
        self.levels = levels
        self.cuts: list[int] = []  # source_index of the first frame of every scene but the first
        self._backend = load_backend(backend, model, threads, precision, levels)
        self._recursion = recursion_of(self._backend, levels)
        self._detector = SceneCutDetector(scene_threshold)
        self._frame_time = 1 / Fraction(frame_rate)
        self._pending: deque[Frame] = deque()  # input frames that have not all come out yet
        self._done = Fraction(0)  # share of the oldest pending frame that has come out
        self._shape: tuple[PixelFormat, int, int] | None = None
        self._count = 0
        self._ingest_seconds = self._emit_seconds = self._cut_seconds = 0.0

    @property
    def backend_name(self) -> str:
        return self._backend.name

    @property
    def precision(self) -> str:
        return self._backend.precision

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Time spent so far, by stage, in seconds."""
        stages = {"cuts": self._cut_seconds, "ingest": self._ingest_seconds}
        stages |= {f"level {k}": level.seconds for k, level in enumerate(self._recursion.levels, 1)}
        return stages | {"emit": self._emit_seconds}

    def push(self, *frames: Frame | Image) -> list[Frame]:
        """Takes the next frame, or several as one batch, and returns the outputs that are now complete.

        Outputs lag one input frame behind. Raises `InputError` for frames that are not RGB arrays or
        smaller than 16 x 16 pixels.
        """
        outputs: list[Frame] = []
        batch: list[Planes] = []
        for given in frames:
            frame, picture = self._accept(given)
            shape = (picture.format, picture.height, picture.width)
            began = time.perf_counter()
            boundary = self._detector.is_cut(picture) or (self._shape is not None and shape != self._shape)
            self._cut_seconds += time.perf_counter() - began
            if boundary:
                outputs += self._process(batch) + self._end_scene()
                batch = []
                self.cuts.append(frame.source_index)
            self._shape = shape
            self._pending.append(frame)
            batch.append(picture)
        return outputs + self._process(batch)

    def flush(self) -> list[Frame]:
        """Ends the stream and returns the remaining frames; the next push starts a new one."""
        outputs = self._end_scene()
        self._shape = None
        self._detector = SceneCutDetector(self._detector.threshold)
        return outputs

    def change_levels(self, levels: int) -> list[Frame]:
        """Goes on with another number of levels, 0 to 4, and returns the outputs that come before the change.

        Levels that go are flushed and the others keep their state, so that no frame is lost and no pair broken; the
        change may fall inside a frame, whose parts then differ in duration. 0 hands frames on untouched, at once.
        """
        outputs = self._complete(self._recursion.change(levels))
        self.levels = levels
        return outputs

    def run(self, frames: Iterable[Frame | Image], chunk: int = 1, behind: int = 0) -> Iterator[Frame]:
        """Upconverts a whole stream; the result is the same for any chunk.

        Parameters
        ----------
        chunk
            Input frames that are taken at a time, as one batch.
        behind
            Chunks after which results are handed out. On a GPU reading a result waits for it; with 3 the next frames
            are under way by then, which a file gains from and a camera does not.
        """
        if chunk < 1:
            raise OptionError(f"The chunk must be at least one frame, not {chunk}.")
        if behind < 0:
            raise OptionError(f"Results cannot be handed out {-behind} chunks early; behind must be 0 or more.")
        group: list[Frame | Image] = []
        waiting: deque[list[Frame]] = deque()
        for frame in frames:
            group.append(frame)
            if len(group) == chunk:
                waiting.append(self.push(*group))
                group = []
                if len(waiting) > behind:
                    yield from waiting.popleft()
        waiting.append(self.push(*group))
        waiting.append(self.flush())
        while waiting:
            yield from waiting.popleft()

    def close(self) -> None:
        """Frees the backend; frames that were not flushed are dropped."""
        self._backend.close()

    def __enter__(self) -> Upconverter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, given: Frame | Image) -> tuple[Frame, Planes]:
        frame = given
        if not isinstance(frame, Frame):
            frame = Frame(np.asarray(given), self._count * self._frame_time, self._frame_time, self._count)
        picture = frame.planes
        if not (MIN_SIDE <= min(picture.height, picture.width) <= max(picture.height, picture.width) <= MAX_SIDE):
            size = f"{picture.width} x {picture.height}"
            raise InputError(f"A frame of {size} pixels cannot be used; sides must be {MIN_SIDE} to {MAX_SIDE}.")
        self._count += 1
        return frame, picture

    def _process(self, batch: list[Planes]) -> list[Frame]:
        if not batch:
            return []
        if self.levels == 0:
            outputs, self._pending = list(self._pending), deque()
            return outputs
        began = time.perf_counter()
        tensor = self._backend.ingest(batch)
        self._ingest_seconds += time.perf_counter() - began
        return self._complete(self._recursion.push(tensor))

    def _end_scene(self) -> list[Frame]:
        return self._complete(self._recursion.flush())

    def _complete(self, tensors: list[Tensor]) -> list[Frame]:
        """Stored pictures of finished tensors, with their times."""
        outputs = []
        part = Fraction(1, 2**self.levels)  # of the duration of an input frame
        for tensor in tensors:
            assert self._shape is not None
            began = time.perf_counter()
            pictures = self._backend.emit(tensor, *self._shape)
            self._emit_seconds += time.perf_counter() - began
            for picture in pictures:
                source = self._pending[0]
                # Frames come out as they came in: a bare array for a bare array, which may not be there yet.
                kind = Frame if isinstance(source.picture, Planes) else PendingFrame
                start = source.pts + self._done * source.duration
                phase = int(self._done / part)
                outputs.append(kind(picture, start, part * source.duration, source.source_index, phase))
                self._done += part
                if self._done == 1:
                    self._done = Fraction(0)
                    self._pending.popleft()
        return outputs
