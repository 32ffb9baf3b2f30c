"""Ways to turn blurred input frames into shorter exposures, all with the same streaming interface.

The half-exposures of an input frame that lasts from n to n + 1 are centred at n + 1/4 and n + 3/4; in
general output j of 2^k at n + (j + 1/2) / 2^k, while the input itself is centred at n + 1/2. Interpolating
methods work between these centres; before the first and after the last one there is nothing to
interpolate, and they say what they do there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from vtsr.errors import InputError, MissingExtraError, ModelError, OptionError
from vtsr.evaluation import clips as media
from vtsr.evaluation.clips import Clip, Image
from vtsr.evaluation.optical_flow import dis_flow
from vtsr.runtime.backend import Backend
from vtsr.runtime.frame import Frame, Planes

# What one input frame became: outputs per input frame -> frames (outputs, H, W, 3), which are uint8, or
# float32 on the scale 0..255 and still to be rounded. The recursion gives 2, 4, 8, ...
Outputs = dict[int, NDArray[Any]]


class Stream(Protocol):
    """One clip on its way through a method."""

    def push(self, frame: Image) -> list[Outputs]:
        """Takes the next input frame, uint8 (H, W, 3); returns what is done by now, in input order."""

    def flush(self) -> list[Outputs]:
        """Returns the outputs of the inputs still held. The stream ends here."""


class Method(Protocol):
    """A named way to upconvert; ``start`` begins a new clip."""

    @property
    def name(self) -> str: ...

    def start(self, levels: int) -> Stream:
        """A stream that returns levels 1 to ``levels`` for every input frame."""


@dataclass(frozen=True)
class Nothing:
    """Doing nothing: every output of an input frame is that frame (the thesis' frame repetition)."""

    name: str = "nothing"

    def start(self, levels: int) -> Stream:
        return _Repeat(levels)


@dataclass(frozen=True)
class Blend:
    """Linear blending of the two input frames whose centres enclose the output's; the ends repeat."""

    name: str = "blend"

    def start(self, levels: int) -> Stream:
        return _Between(levels, _Blended)


@dataclass(frozen=True)
class Flow:
    """Optical flow (DIS, both directions), bicubic warping to the output's centre, blending by time.

    At the ends the nearest motion goes on: the first frame is moved back, the last one forward.
    """

    name: str = "flow"

    def start(self, levels: int) -> Stream:
        return _Between(levels, _Warped)


@dataclass(frozen=True)
class WithLaw:
    """Another method with the exposure law imposed on its outputs.

    To all outputs of an input frame z it adds z - mean(those outputs), so that their average is z again:
    the orthogonal projection onto the law z = mean of the exposures that make it up.
    """

    method: Method

    @property
    def name(self) -> str:
        return f"{self.method.name}+law"

    def start(self, levels: int) -> Stream:
        return _Lawful(self.method.start(levels))


@dataclass(frozen=True)
class Named:
    """Another method under a name of its own."""

    name: str
    method: Method

    def start(self, levels: int) -> Stream:
        return self.method.start(levels)


@dataclass(frozen=True)
class Model:
    """A shipped model by name or a folder written by vtsr-export, on any backend of the runtime."""

    model: str
    backend: str = "auto"
    threads: int | None = None
    name: str = ""
    precision: str = "fp32"  # on the CPU, or "int8" for models that have such a graph

    def __post_init__(self) -> None:
        if not self.name:
            suffix = "" if self.precision == "fp32" else f"@{self.precision}"
            object.__setattr__(self, "name", Path(self.model).name + suffix)

    def start(self, levels: int) -> Stream:
        from vtsr.runtime.backend import load_backend

        return _Upconverted(load_backend(self.backend, self.model, self.threads, self.precision), levels)


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint (.safetensors), run in PyTorch, with the exposure law or without it."""

    path: Path
    consistency: bool = True
    device: str | None = None  # PyTorch's name; None is CUDA if there is any, else the CPU
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.stem if self.consistency else f"{self.path.stem} raw")

    def start(self, levels: int) -> Stream:
        try:
            import torch

            from vtsr.training.checkpoint import load_network
        except ImportError as error:
            raise MissingExtraError(
                "Checkpoints need PyTorch; install it with: pip install 'vtsr[train]'."
            ) from error
        if not self.path.is_file():
            raise ModelError(f"There is no checkpoint at '{self.path}'.")
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return network_stream(load_network(self.path).to(device).eval(), levels, self.consistency)


@dataclass(frozen=True)
class Network:
    """A network in memory (a PyTorch module), for validation during training."""

    network: Any
    consistency: bool = True
    name: str = "network"

    def start(self, levels: int) -> Stream:
        return network_stream(self.network, levels, self.consistency)


@dataclass(frozen=True)
class External:
    """Frames that another system made from our inputs (see `vtsr-evaluate --write-inputs`).

    path
        A folder with one folder of pictures, or one video, per clip, named like the clip. For a single
        clip it may hold the pictures itself or be the video. If a clip's folder holds folders x2, x4, ...
        each is that many outputs per input; else the number of frames tells.
    window
        How many original frames were averaged into each of its inputs; None is the window of the others.
    """

    name: str
    path: Path
    window: int | None = None

    def open(self, clip: Clip, inputs: int) -> Stream:
        """The stream of the frames made from ``inputs`` input frames of ``clip``.

        Raises `InputError` if they are missing or their number is not a multiple of ``inputs``.
        """
        place = self._place(clip.name)
        folders = {}
        if place.is_dir():
            folders = {path.name: path for path in sorted(place.iterdir()) if path.is_dir()}
        parts: dict[int, Clip] = {}
        for name, folder in folders.items() or {"": place}.items():
            frames = media.open_clip(folder, name=f"{self.name}: {clip.name}")
            factor, rest = divmod(sum(1 for _ in frames), inputs)
            if rest or not factor or (name and name != f"x{factor}"):
                raise InputError(
                    f"'{folder}' should hold {f'{name[1:]} frames' if name else 'the same number of frames'} "
                    f"for each of the {inputs} input frames, but holds {factor * inputs + rest}."
                )
            parts[factor] = frames
        return _Given(parts)

    def _place(self, clip: str) -> Path:
        candidates = [self.path / clip, *(self.path / f"{clip}{suffix}" for suffix in (*media.VIDEOS, ".npy"))]
        for candidate in candidates:
            if candidate.exists():
                return candidate
        if self.path.is_file() or (self.path.is_dir() and media.pictures(self.path)):
            return self.path
        raise InputError(f"There are no frames of {self.name} for the clip '{clip}' at '{candidates[0]}'.")


def backend_stream(backend: Backend, levels: int) -> Stream:
    """A stream through a backend of the runtime, which is closed at its end."""
    return _Upconverted(backend, levels)


def network_stream(network: Any, levels: int, consistency: bool = True) -> Stream:
    """A stream through a PyTorch network, on the device of its parameters."""
    return _Recursion(network, levels, consistency)


BASELINES: dict[str, Method] = {"nothing": Nothing(), "blend": Blend(), "flow": Flow()}


def parse_method(text: str, backend: str = "auto", threads: int | None = None) -> Method:
    """A method from its name on the command line.

    ``nothing``, ``blend`` and ``flow`` are the baselines; a path that ends in .safetensors is a
    checkpoint, and with ``raw:`` before it a checkpoint without the exposure law; anything else is a
    shipped model or a folder written by vtsr-export. ``+law`` after a name imposes the law on the outputs,
    and ``LABEL=`` before it is how the report calls the method. ``@int8`` after a model runs its INT8 graph.
    """
    label, equals, rest = text.partition("=")
    if equals and label and "/" not in label:
        return Named(label, parse_method(rest, backend, threads))
    if text.endswith("+law"):
        return WithLaw(parse_method(text.removesuffix("+law"), backend, threads))
    if text in BASELINES:
        return BASELINES[text]
    raw, path = text.startswith("raw:"), text.removeprefix("raw:")
    if path.endswith(".safetensors"):
        return Checkpoint(Path(path), consistency=not raw)
    if raw:
        raise OptionError(
            f"Only checkpoints run without the exposure law; for '{path}', export it with --no-consistency."
        )
    if not path:
        raise OptionError("A method has no name; give one of nothing, blend, flow, or a model.")
    model, at, precision = path.rpartition("@")
    if at and precision in ("fp32", "int8"):
        return Model(model, backend, threads, precision=precision)
    return Model(path, backend, threads)


@dataclass
class _Repeat:
    levels: int

    def push(self, frame: Image) -> list[Outputs]:
        return [{2**k: np.repeat(frame[None], 2**k, axis=0) for k in range(1, self.levels + 1)}]

    def flush(self) -> list[Outputs]:
        return []


class _Pair(Protocol):
    """What lies between two consecutive input frames."""

    def at(self, time: float) -> NDArray[np.float32]:
        """The picture at ``time``: 0 is the centre of the first frame, 1 that of the second.

        ``time`` may lie up to half a frame outside.
        """


@dataclass
class _Between:
    """Streams an interpolation between consecutive frames; lag of one frame."""

    levels: int
    pair: Callable[[Image, Image], _Pair]
    _last: Image | None = None
    _before: _Pair | None = None

    def push(self, frame: Image) -> list[Outputs]:
        if self._last is None:
            self._last = frame
            return []
        after = self.pair(self._last, frame)
        done = self._outputs(self._before, after)
        self._last, self._before = frame, after
        return [done]

    def flush(self) -> list[Outputs]:
        if self._last is None:
            return []
        if self._before is None:  # a single frame: there is nothing to interpolate
            return _Repeat(self.levels).push(self._last)
        return [self._outputs(self._before, None)]

    def _outputs(self, before: _Pair | None, after: _Pair | None) -> Outputs:
        outputs: Outputs = {}
        for level in range(1, self.levels + 1):
            count = 2**level
            pictures = []
            for j in range(count):
                offset = (j + 0.5) / count - 0.5  # from the centre of this frame, in frame times
                if before is not None and (offset < 0 or after is None):
                    pictures.append(before.at(1 + offset))
                else:
                    assert after is not None
                    pictures.append(after.at(offset))
            outputs[count] = np.stack(pictures)
        return outputs


class _Blended:
    def __init__(self, first: Image, second: Image) -> None:
        self.first, self.second = first.astype(np.float32), second.astype(np.float32)

    def at(self, time: float) -> NDArray[np.float32]:
        time = min(max(time, 0.0), 1.0)
        return np.asarray((1 - time) * self.first + time * self.second, np.float32)


class _Warped:
    def __init__(self, first: Image, second: Image) -> None:
        self.first, self.second = first.astype(np.float32), second.astype(np.float32)
        # Flow at full size; half size, the preset's choice, costs 0.05 dB.
        self.forward, self.backward = dis_flow(first, second, 0), dis_flow(second, first, 0)
        y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
        self.grid = np.stack((x, y), axis=-1)

    def at(self, time: float) -> NDArray[np.float32]:
        # Flow is known where a pixel starts, and needed where it is at `time`: one step of fixed-point
        # iteration moves it there. Both directions then tell of the same motion, and are averaged.
        forward = self._moved(self.forward, -time * self.forward, cv2.INTER_LINEAR)
        backward = self._moved(self.backward, -(1 - time) * self.backward, cv2.INTER_LINEAR)
        motion = (1 - time) * forward - time * backward
        if time <= 0:
            return self._moved(self.first, -time * motion, cv2.INTER_CUBIC)
        if time >= 1:
            return self._moved(self.second, (1 - time) * motion, cv2.INTER_CUBIC)
        return np.asarray(
            (1 - time) * self._moved(self.first, -time * motion, cv2.INTER_CUBIC)
            + time * self._moved(self.second, (1 - time) * motion, cv2.INTER_CUBIC),
            np.float32,
        )

    def _moved(self, picture: NDArray[Any], motion: NDArray[Any], interpolation: int) -> NDArray[np.float32]:
        """Backward warping: each pixel is fetched from ``motion`` (H, W, 2) pixels away."""
        x, y = cv2.split(np.asarray(self.grid + motion, np.float32))
        return np.asarray(cv2.remap(picture, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE), np.float32)


@dataclass
class _Lawful:
    stream: Stream
    _inputs: deque[Image] = field(default_factory=deque)

    def push(self, frame: Image) -> list[Outputs]:
        self._inputs.append(frame)
        return [self._project(outputs) for outputs in self.stream.push(frame)]

    def flush(self) -> list[Outputs]:
        return [self._project(outputs) for outputs in self.stream.flush()]

    def _project(self, outputs: Outputs) -> Outputs:
        z = self._inputs.popleft().astype(np.float32)
        return {
            factor: np.asarray(frames + (z - frames.mean(axis=0, dtype=np.float32)), np.float32)
            for factor, frames in outputs.items()
        }


class _Upconverted:
    """The runtime's recursion, with every level's frames taken out as 8-bit pictures."""

    def __init__(self, backend: Backend, levels: int) -> None:
        from vtsr.runtime.recursion import Level

        self._backend = backend
        self._levels = [Level(backend) for _ in range(levels)]
        self._done: list[list[Image]] = [[] for _ in range(levels)]
        self._picture: Planes | None = None

    def push(self, frame: Image) -> list[Outputs]:
        self._picture = Frame(frame).planes
        tensor = self._backend.ingest([self._picture])
        self._pass_on(tensor, range(len(self._levels)))
        return self._take()

    def flush(self) -> list[Outputs]:
        for k, level in enumerate(self._levels):
            last = level.flush()
            if last is not None:
                self._keep(k, last)
                self._pass_on(last, range(k + 1, len(self._levels)))
        taken = self._take()
        self._backend.close()
        return taken

    def _pass_on(self, tensor: Any, levels: range) -> None:
        for k in levels:
            tensor = self._levels[k].push(tensor)
            if tensor is None:
                return
            self._keep(k, tensor)

    def _keep(self, level: int, tensor: Any) -> None:
        assert self._picture is not None
        picture = self._picture
        emitted = self._backend.emit(tensor, picture.format, picture.height, picture.width)
        self._done[level] += [planes.planes[0] for planes in emitted]

    def _take(self) -> list[Outputs]:
        ready = min(len(frames) >> k for k, frames in enumerate(self._done, start=1))
        taken: list[Outputs] = []
        for n in range(ready):
            taken.append({2**k: np.stack(f[n << k : (n + 1) << k]) for k, f in enumerate(self._done, start=1)})
        for k, frames in enumerate(self._done, start=1):
            del frames[: ready << k]
        return taken


CHUNK = 4  # input frames per run of a network's recursion


class _Recursion:
    """A PyTorch network over a clip of any length, in chunks whose results are those of the whole clip.

    Level 1 of an input frame depends on one input before it and one after it; every deeper level on half as
    much again, so on less than two in all. So many go along with each chunk, and what comes of them is
    dropped.
    """

    def __init__(self, network: Any, levels: int, consistency: bool) -> None:
        self._network, self._levels, self._consistency = network, levels, consistency
        self._context = min(levels, 2)
        self._held: list[Image] = []  # context before, then the inputs not yet done
        self._before = 0  # how many of the held ones are context

    def push(self, frame: Image) -> list[Outputs]:
        self._held.append(frame)
        if len(self._held) < self._before + CHUNK + self._context:
            return []
        return self._run(CHUNK)

    def flush(self) -> list[Outputs]:
        remaining = len(self._held) - self._before
        return self._run(remaining) if remaining else []

    def _run(self, count: int) -> list[Outputs]:
        import torch

        from vtsr.training.recursion import upconvert

        device = next(self._network.parameters()).device
        clip = torch.from_numpy(np.stack(self._held)).to(device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            levels: Sequence[Any] = upconvert(self._network, clip, self._levels, consistency=self._consistency)
        arrays = [level.float().permute(0, 2, 3, 1).mul(255).cpu().numpy() for level in levels]
        done: list[Outputs] = []
        for n in range(self._before, self._before + count):
            done.append({2**k: a[n * 2**k : (n + 1) * 2**k] for k, a in enumerate(arrays, start=1)})
        # The inputs just done become the context of the next ones, as far as it reaches.
        done_by_now = self._before + count
        drop = max(done_by_now - self._context, 0)
        del self._held[:drop]
        self._before = done_by_now - drop
        return done


class _Given:
    """Frames that are there already, dealt out input by input."""

    def __init__(self, parts: dict[int, Clip]) -> None:
        self._frames = {factor: iter(clip) for factor, clip in parts.items()}

    def push(self, frame: Image) -> list[Outputs]:
        outputs = {f: np.stack([next(frames) for _ in range(f)]) for f, frames in self._frames.items()}
        for frames in outputs.values():
            if frames.shape[1:] != frame.shape:
                raise InputError(
                    f"Frames of {frames.shape[2]}x{frames.shape[1]} pixels cannot be compared with a clip of "
                    f"{frame.shape[1]}x{frame.shape[0]}; give them the size of the inputs."
                )
        return [outputs]

    def flush(self) -> list[Outputs]:
        return []
