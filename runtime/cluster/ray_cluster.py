"""A Ray cluster: where it is, what a segment asks of it, and its results as they come."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vtsr.errors import MissingExtraError, OptionError, VtsrError
from vtsr.runtime.cluster.segment import Made, Order, make_segment

RETRIES = 3  # times a segment is given to another worker when one dies with it
STARTS = 2  # attempts to start a cluster on this machine
ANSWER_SECONDS = 5.0
QUEUED = 2  # segments per worker that may be under way: one being made, one waiting


class ClusterError(VtsrError):
    """The cluster lost a segment for good."""


class RayCluster:
    """Makes segments by tasks of a connected cluster.

    cpus, gpus
        Per task.
    """

    def __init__(self, ray: Any, cpus: int, gpus: int) -> None:
        self._ray = ray
        self.gpus = gpus
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(make_segment)
        resources = ray.cluster_resources()
        name, each = ("GPU", gpus) if gpus else ("CPU", cpus)
        self.workers = int(resources.get(name, 0) // each)
        if self.workers < 1:
            raise OptionError(f"A segment needs {each} {name}, and the cluster has less; add a machine to it.")
        # Files that are made at the same time share what the cluster has.
        self._room = threading.BoundedSemaphore(QUEUED * self.workers)

    def make(self, orders: Iterable[Order]) -> Iterator[Made]:
        """Segments as they get ready, in any order. Raises `ClusterError` where workers keep dying."""
        waiting: dict[Any, int] = {}
        source = iter(orders)
        exhausted = False
        try:
            while waiting or not exhausted:
                # Wait for room only with nothing under way: otherwise a result is what makes room.
                while not exhausted and self._room.acquire(blocking=not waiting):
                    order = next(source, None)
                    if order is None:
                        exhausted = True
                        self._room.release()
                        break
                    waiting[self._task.remote(order)] = order.number
                if not waiting:
                    continue
                ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=1.0)
                for reference in ready:
                    number = waiting.pop(reference)
                    self._room.release()
                    yield self._get(reference, number)
        finally:
            for reference in waiting:
                with contextlib.suppress(Exception):  # it may have ended meanwhile
                    self._ray.cancel(reference, force=True)
                self._room.release()

    def _get(self, reference: Any, number: int) -> Made:
        try:
            made: Made = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise ClusterError(f"Segment {number} was lost by the cluster ({reason}); go on with --resume.") from error
        return made


def _look_for(address: str) -> None:
    """Raises `OSError` if nothing listens at HOST:PORT; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


def _init(ray: Any, address: str) -> None:
    # A machine that is busy may not start all of Ray's processes in the time that Ray gives them.
    for attempt in range(STARTS if address == "local" else 1):
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except Exception:
            ray.shutdown()
            if attempt + 1 == STARTS or address != "local":
                raise
        else:
            return


@contextlib.contextmanager
def connect(address: str, gpus: Callable[[dict[str, float]], int], cpus: int) -> Iterator[RayCluster]:
    """A connection to the cluster at ``address``; "local" starts one on this machine.

    gpus
        From the resources of the cluster, how many a task needs.

    Raises `MissingExtraError` without Ray, `OptionError` if no cluster answers.
    """
    # Ray would report to its makers who uses it how.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Ray is not installed; pip install 'vtsr[cluster]' for --ray.") from error
    try:
        _look_for(address)
        _init(ray, address)
    except Exception as error:  # Ray raises a dozen unrelated classes, and Exception itself
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise OptionError(
            f"No Ray cluster answers at {address} ({reason}); start one with 'ray start --head', or use --ray local."
        ) from error
    try:
        yield RayCluster(ray, cpus, gpus(ray.cluster_resources()))
    finally:
        ray.shutdown()
