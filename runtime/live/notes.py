"""Events of a stream that runs for weeks: said once, then only counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

LOGGER = logging.getLogger("vtsr.live")
QUIET_SECONDS = 60.0  # how long the same kind of event is only counted after it was said


class Notes:
    """Logs the first event of a kind, and the next one no sooner than ``quiet`` seconds later."""

    def __init__(
        self,
        log: Callable[[str], None] = LOGGER.warning,
        quiet: float = QUIET_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._quiet, self._clock = log, quiet, clock
        self._said: dict[str, float] = {}
        self._silent: dict[str, int] = {}
        self._lock = threading.Lock()

    def say(self, kind: str, sentence: str) -> bool:
        """Whether the sentence was logged; the number of those that were not is told with the next one."""
        with self._lock:
            now = self._clock()
            if kind in self._said and now - self._said[kind] < self._quiet:
                self._silent[kind] = self._silent.get(kind, 0) + 1
                return False
            more = self._silent.pop(kind, 0)
            self._said[kind] = now
        self._log(f"{sentence} (and {more} times since this was last said)" if more else sentence)
        return True
