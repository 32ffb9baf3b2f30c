"""Reads hostile media in a process of its own, whose memory is bounded, and tells what became of each.

`Worker` is the parent's side: it kills the process when a file takes too long and starts another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

MEMORY = 1 << 30  # bytes of address space beyond what libraries take
FRAME_LIMIT = 3000  # frames after which a clip is long enough
PATIENCE = 20.0  # seconds for one file of a few kilobytes, on a busy machine


@dataclass
class Verdict:
    """What reading one file led to: frames and warnings, or a sentence; anything else is a defect."""

    frames: int = 0
    sentence: str = ""
    warnings: list[str] = field(default_factory=list)
    defect: str = ""
    seconds: float = 0.0
    noise: str = ""  # what libraries wrote to the terminal


class Worker:
    """Hands files to the other process, one at a time."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._process: subprocess.Popen[str] | None = None
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `__exit__`
        self._answers: queue.Queue[str | None] = queue.Queue()

    def read(self, path: Path) -> Verdict:
        """Decodes a file to its end."""
        return self._ask({"do": "read", "path": str(path)})

    def convert(self, path: Path, output: Path, *options: str) -> Verdict:
        """Runs vtsr-upconvert, with `media.Repeat` for the network."""
        return self._ask({"do": "convert", "arguments": [str(path), str(output), *options]})

    def _ask(self, question: dict[str, Any]) -> Verdict:
        began = time.monotonic()
        process = self._started()
        assert process.stdin is not None
        before = os.fstat(self._noise.fileno()).st_size
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            self._stop()
            return Verdict(defect=f"nothing after {PATIENCE} s")
        except BrokenPipeError:
            answer = None
        self._noise.seek(before)
        noise = self._noise.read().decode(errors="replace")
        if answer is None:
            code = process.wait()
            self._process = None
            return Verdict(defect=f"the process ended with {code}: {noise[-500:]}")
        return Verdict(**json.loads(answer), seconds=time.monotonic() - began, noise=noise)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            process = subprocess.Popen(
                [sys.executable, "-m", "hostile_worker", str(self._memory)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise, text=True,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            answers: queue.Queue[str | None] = queue.Queue()

            def listen() -> None:
                assert process.stdout is not None
                for line in process.stdout:
                    answers.put(line)
                answers.put(None)

            threading.Thread(target=listen, daemon=True).start()
            self._process, self._answers = process, answers
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._noise.close()


# The other process


def _read(path: Path) -> dict[str, Any]:
    from vtsr.runtime.video.images import ImageReader, is_image_sequence
    from vtsr.runtime.video.reader import VideoReader

    reader = ImageReader(path) if is_image_sequence(path) else VideoReader(path, threads=2)
    with contextlib.closing(reader):
        frames, previous = 0, None
        for frame in reader:
            shape = frame.planes.height, frame.planes.width
            assert shape == (reader.facts.height, reader.facts.width), "the size is not the stated one"
            assert frame.duration > 0, "a frame without duration"
            assert previous is None or frame.pts > previous, "time goes backwards"
            frames, previous = frames + 1, frame.pts
            if frames == FRAME_LIMIT:
                break
        return {"frames": frames, "warnings": reader.warnings}


def _convert(arguments: list[str]) -> dict[str, Any]:
    import io

    from media import Repeat

    import vtsr.runtime.upconverter
    from vtsr.runtime.upconvert import main

    vtsr.runtime.upconverter.Upconverter = Repeat  # type: ignore[assignment,misc]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(arguments)
    lines = said.getvalue().strip().splitlines()
    assert all(line.startswith("vtsr-upconvert: ") for line in lines), said.getvalue()
    assert code in (0, 2), f"exit code {code}"
    # Where something was done before, a line before the sentence says how to go on.
    assert code == 0 or len(lines) == 1 or (len(lines) == 2 and "--resume" in lines[0]), said.getvalue()
    return {"sentence": lines[-1] if code else "", "warnings": lines if not code else []}


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from vtsr.errors import VtsrError

    try:
        if question["do"] == "read":
            return _read(Path(question["path"]))
        return _convert(question["arguments"])
    except VtsrError as error:
        return {"sentence": str(error)}
    except BaseException:  # noqa: BLE001  # reported as the defect it is
        return {"defect": traceback.format_exc()}


def serve(memory: int) -> None:
    """Answers questions on stdin until it closes."""
    import cv2  # noqa: F401  # libraries are loaded before memory becomes scarce

    import vtsr.runtime.upconvert  # noqa: F401

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is noise
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
