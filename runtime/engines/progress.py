"""How far the build of an engine is, on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def shown_progress(trt: Any, config: Any, name: str, *, shown: bool) -> Iterator[None]:
    """Shows the phases of a build where TensorRT reports them (10 and later), else the seconds it takes."""
    if not shown or not sys.stderr.isatty():
        yield
    elif hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor"):
        monitor = make_progress_monitor(trt, name)
        config.progress_monitor = monitor
        try:
            yield
        finally:
            monitor.close()
    else:
        with _spinner(name):
            yield


def make_progress_monitor(trt: Any, name: str) -> Any:
    """A progress monitor with one bar per nested phase; Ctrl-C ends the build at the next step."""

    class Bars(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            label = name if parent_phase is None else phase_name
            self._bars[phase_name] = tqdm(total=num_steps, desc=label, leave=False, position=len(self._bars))

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                bar = self._bars.get(phase_name)
                if bar is not None:
                    bar.update(step + 1 - bar.n)
            except KeyboardInterrupt:
                return False
            return True

        def phase_finish(self, phase_name: str) -> None:
            bar = self._bars.pop(phase_name, None)
            if bar is not None:
                bar.close()

        def close(self) -> None:
            for phase in list(self._bars):
                self.phase_finish(phase)

    return Bars()


@contextmanager
def _spinner(name: str) -> Iterator[None]:
    done = threading.Event()

    def turn() -> None:
        with tqdm(desc=name, bar_format="{desc}: building, {elapsed}", leave=False) as bar:
            while not done.wait(0.5):
                bar.refresh()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
