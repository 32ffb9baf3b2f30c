"""What the tests of resumed jobs run in processes of their own, and a network whose state shows in every output."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtsr.runtime.backend import StepResult
from vtsr.runtime.frame import PixelFormat, Planes

Array = NDArray[np.float32]


class Blending:
    """A backend in NumPy: both neighbours and the carried estimate enter every half, bound by the exposure law.

    Frames are flat float arrays (N, samples).
    """

    name = "onnxruntime"
    precision = "fp32"

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds  # per step
        self._shapes: list[tuple[int, ...]] = []

    def ingest(self, pictures: Sequence[Planes]) -> Array:
        self._shapes = [plane.shape for plane in pictures[0].planes]
        flat = [np.concatenate([plane.ravel() for plane in p.planes]) for p in pictures]
        return np.stack(flat).astype(np.float32)

    def frames_in(self, tensor: Array) -> int:
        return len(tensor)

    def part(self, tensor: Array, start: int, stop: int) -> Array:
        return tensor[start:stop]

    def step(self, u: Array, a_u: Array | None, v: Array) -> StepResult:
        time.sleep(self._seconds)
        halves = []
        for frame in v:
            # The weights depend on the pair, so that nothing cancels out.
            share = np.float32(0.2) + np.float32(0.1) * np.sin((u[0] - frame) / np.float32(40))
            b_u, a_v = u[0] + share * (frame - u[0]), frame + share * (u[0] - frame)
            halves += list(_halves(u[0], None if a_u is None else a_u[0], b_u))
            u, a_u = frame[None], a_v[None]
        assert a_u is not None
        return StepResult(np.stack(halves), u, a_u)

    def finish(self, u: Array, a_u: Array | None) -> Array:
        return np.stack(_halves(u[0], u[0] if a_u is None else a_u[0], None))

    def emit(self, frames: Array, format: PixelFormat, height: int, width: int) -> list[Planes]:
        peak = 2**format.bits - 1
        out = []
        for frame in np.rint(frames.clip(0, peak)).astype(format.dtype):
            ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])
            parts = np.split(frame, ends[:-1])
            out.append(Planes(tuple(p.reshape(s) for p, s in zip(parts, self._shapes, strict=True)), format))
        return out

    def close(self) -> None:
        pass


def _halves(z: Array, a: Array | None, b: Array | None) -> tuple[Array, Array]:
    if a is None:
        assert b is not None
        return 2 * z - b, b
    if b is None:
        return a, 2 * z - a
    d = (b - a) / 2
    return z - d, z + d


def install(seconds: float = 0.0) -> None:
    """From now on the command runs `Blending` instead of a model."""
    import vtsr.runtime.upconverter as module

    real = module.Upconverter
    if getattr(real, "blends", False):
        return

    class Stand(real):  # type: ignore[misc, valid-type]
        blends = True

        def __init__(self, levels: int = 2, **options: Any) -> None:
            options = {k: v for k, v in options.items() if k in ("scene_threshold", "frame_rate")}
            super().__init__(levels, backend=Blending(seconds), **options)

    module.Upconverter = Stand  # type: ignore[misc]


def chain_of_kills(arguments: list[str], output: Path, kills: int, longest: float, said: Path) -> dict[str, int]:
    """Runs the command with --resume again and again, each time killing it after up to ``longest`` seconds.

    A run that ends by itself is counted, its output removed, and all begins anew; after ``kills`` kills the command
    may run to its end. Every run is a fork of this process, which has imported everything.
    """
    chance, killed, complete = random.Random(7), 0, 0
    while True:
        child = os.fork()
        if child == 0:
            with said.open("a") as log:
                os.dup2(log.fileno(), 2)
                code = 99
                try:
                    from vtsr.runtime.upconvert import main

                    code = main([*arguments, "--resume", "-q"])
                except BaseException:  # noqa: BLE001  # a fork must not go on as its parent
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
        if killed < kills:
            look, deadline = os.WEXITED | os.WNOHANG | os.WNOWAIT, time.monotonic() + chance.uniform(0.0, longest)
            while time.monotonic() < deadline and os.waitid(os.P_PID, child, look) is None:
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            continue
        if os.WEXITSTATUS(status) != 0:
            raise SystemExit(f"the command failed: {said.read_text()}")
        complete += 1
        if killed >= kills:
            return {"killed": killed, "complete": complete}
        output.unlink()


def main() -> None:
    """JSON on stdin: what to do; JSON on stdout: what came of it."""
    import vtsr.runtime.conversion  # noqa: F401  # imported once, for all forks

    order = json.loads(sys.stdin.read())
    install(order.get("seconds", 0.0))
    print(json.dumps(chain_of_kills(
        order["arguments"], Path(order["output"]), order["kills"], order["longest"], Path(order["said"])
    )))  # fmt: skip


if __name__ == "__main__":
    main()
