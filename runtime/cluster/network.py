"""The segments of one video, made elsewhere and noted here in order."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from vtsr.errors import OptionError, VtsrError
from vtsr.runtime.cluster.segment import Made, Order
from vtsr.runtime.conversion import LocalNetwork, Plan, Watch, recorded_threads, say
from vtsr.runtime.engines.recipe import RECIPE_NAME
from vtsr.runtime.job import Timing
from vtsr.runtime.models import open_model
from vtsr.runtime.segments.identity import software_identity
from vtsr.runtime.segments.journal import End, Journal, Segment
from vtsr.runtime.segments.span import Span, overlap
from vtsr.runtime.segments.stores import Store, VideoStore
from vtsr.runtime.video.codecs import CONTAINERS
from vtsr.runtime.video.writer import said_as_output_error

# What the options of a command mean to a segment; the rest (names of reports, progress) stays here.
SENT = (
    "input", "output", "levels", "model", "backend", "precision", "threads", "slow_motion", "start", "duration", "fps",
    "scene_threshold", "codec", "crf", "preset", "pix_fmt", "audio", "size", "input_pix_fmt", "raw", "segment_frames",
)  # fmt: skip


def cpus_of(args: argparse.Namespace) -> int:
    """CPU cores of one task; many segments at once use them better than many threads on one."""
    return int(args.threads or 1)


class Cluster(Protocol):
    """Makes segments; see `vtsr.runtime.cluster.ray_cluster.RayCluster`."""

    def make(self, orders: Iterable[Order]) -> Iterator[Made]: ...


def settled(args: argparse.Namespace, has_gpus: bool) -> argparse.Namespace:
    """The options with backend and precision decided, once for all machines: they must not differ between segments.

    "auto" is TensorRT where the cluster has GPUs and the model was exported for it.
    """
    backend, precision = args.backend, args.precision
    if backend == "auto":
        exported = (open_model(args.model).path / RECIPE_NAME).is_file()
        backend = "tensorrt" if has_gpus and exported else "onnxruntime"
    if backend == "tensorrt":
        precision = open_model(args.model).precision
    elif precision == "auto":
        from vtsr.runtime.backend import load_backend

        chosen = load_backend(backend, args.model, args.threads, precision, args.levels)
        precision = chosen.precision
        chosen.close()
    return argparse.Namespace(**{**vars(args), "backend": backend, "precision": precision})


class ClusterNetwork:
    """Stands where `LocalNetwork` does.

    Every segment is a task, with as many frames of its neighbours as it depends on. A segment counts as made
    when the frames before it were decoded to the same pictures as in the task of the segment before; if not, it is
    made again without seeking. Inputs whose packets do not say when frames begin are processed on this machine.
    """

    def __init__(self, plan: Plan, args: argparse.Namespace, cluster: Cluster) -> None:
        self._plan, self._args, self._cluster = plan, args, cluster
        self.backend_name: str = args.backend
        self.precision: str = args.precision
        self.stage_seconds: dict[str, float] = {}

    def __enter__(self) -> ClusterNetwork:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def fill(self, journal: Journal, store: Store, span: Span, watch: Watch, timing: Timing) -> None:
        """Makes and notes all segments of ``span``."""
        times = self._plan.reader.frame_times()
        began = time.perf_counter()
        if times is not None and isinstance(store, VideoStore):
            orders = self._orders(span, times, journal)
            if self._fill(orders, journal, store, watch):
                timing.network += time.perf_counter() - began
                return
        say(f"warning: when the frames of {self._args.input} begin shows only on decoding; it is done on this machine.")
        done = max(journal.segments, default=-1) + 1
        rest = Span(max(span.first, done * self._args.segment_frames), span.stop)
        with LocalNetwork(self._plan, self._args) as local:
            local.fill(journal, store, rest, watch, timing)
            self.stage_seconds = local.stage_seconds

    def _orders(self, span: Span, times: list[Fraction], journal: Journal) -> list[Order]:
        size, levels = self._args.segment_frames, self._args.levels
        options = {name: value for name, value in vars(self._args).items() if name in SENT}
        options["input"] = os.path.abspath(self._args.input)
        options["threads"] = cpus_of(self._args)
        software, threads = software_identity(self._args.model), recorded_threads(journal)
        stop = len(times) if span.stop is None else min(span.stop, len(times))
        orders = []
        for first in range(span.first, stop, size):
            last = first + size >= len(times)
            part = Span(first, None if last else first + size)
            needed = times[part.begin(levels) : None if last else first + size + overlap(levels)]
            orders.append(Order(options, first // size, part, tuple(needed), threads, software))
        return orders

    def _fill(self, orders: list[Order], journal: Journal, store: VideoStore, watch: Watch) -> bool:
        """Whether all segments could be made; those before the first that could not are noted."""
        by_number, ready = {order.number: order for order in orders}, dict[int, Made]()
        numbers = iter(sorted(by_number))
        expected = next(numbers, None)
        again: list[Order] = []
        todo: Iterable[Order] = orders
        while expected is not None:
            for made in self._cluster.make(todo):
                if made.other_times:
                    return False
                if made.error:
                    raise VtsrError(made.error)  # no `InputError`: another machine may be able to read it
                store.add(made.number, made.packets)
                ready[made.number] = replace(made, packets=b"")
                while expected is not None and expected in ready:
                    if not _fits(ready[expected], journal) and not by_number[expected].exact:
                        by_number[expected] = replace(by_number[expected], exact=True)
                        del ready[expected]
                        again.append(by_number[expected])
                        break
                    self._note(ready.pop(expected), journal, watch)
                    expected = next(numbers, None)
            todo, again = again, []
            if expected is not None and not todo:
                raise VtsrError("The cluster returned fewer segments than it was asked for; go on with --resume.")
        return True

    def _note(self, made: Made, journal: Journal, watch: Watch) -> None:
        segment = Segment.from_json(made.segment)
        with said_as_output_error(journal.folder):
            journal.add(segment)
        watch.advance(segment.outputs)
        if made.end is not None:
            journal.end(End.from_json(made.end))


def _fits(made: Made, journal: Journal) -> bool:
    """Whether the frames before a segment are those the segment before it ends with."""
    before = journal.segments.get(made.number - 1)
    if before is None:
        return not made.head
    return set(made.head) <= set(before.observed.tail)


def check_cluster_options(args: argparse.Namespace) -> None:
    """Raises for what cannot be done on a cluster."""
    if args.compare is not None or args.keep_partial:
        raise OptionError("--compare and --keep-partial need frames in order; leave them out with --ray.")
    if not Path(args.input).is_dir() and Path(args.output).suffix.lower() not in CONTAINERS:
        raise OptionError(f"--ray makes video files ({', '.join(CONTAINERS)}); for others leave it out.")
