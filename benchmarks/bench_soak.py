"""Soak: 20,000 live frames of a source with every kind of trouble, in flat memory.

    pytest benchmarks/bench_soak.py -s

The frames are tiny, so that it takes minutes; what it looks for (something that grows with the number of frames) does
not depend on their size. VTSR_SOAK_FRAMES sets another number.
"""

from __future__ import annotations

import os
import random
import threading
import time
from fractions import Fraction
from typing import Any

import numpy as np

import vtsr
from vtsr.runtime.live.notes import Notes

FRAMES = int(os.environ.get("VTSR_SOAK_FRAMES", "20000"))
WIDTH, HEIGHT = 64, 48
WARM_UP = 0.1  # share of the frames before memory counts
RATE = 30
PAUSES = 20  # stalls during the run


def resident() -> float:
    """Resident memory of this process, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def pictures(rng: np.random.Generator) -> list[Any]:
    """A second of a moving texture, at two sizes."""
    texture = rng.integers(0, 256, (HEIGHT + 16, WIDTH + 64, 3), dtype=np.uint8)
    whole = [np.ascontiguousarray(texture[8 : 8 + HEIGHT, n : n + WIDTH]) for n in range(RATE)]
    return whole + [np.ascontiguousarray(picture[: HEIGHT // 2 * 2 - 8]) for picture in whole]


def test_20000_frames_in_flat_memory(benchmark: Any) -> None:
    shown, said = pictures(np.random.default_rng(0)), list[str]()
    live = vtsr.LiveUpconverter(
        2, lowest_level=1, policy="adapt", queue=4, threads=1, frame_rate=RATE, notes=Notes(said.append),
    )  # fmt: skip
    threads_before = threading.active_count()
    out, last, peaks, depth = 0, Fraction(-1), {}, 0
    pushed = threading.Event()

    def source() -> None:
        """Drops, repeats, jumps of the clock, other sizes and rates, and stalls, at random but the same every time."""
        dice, clock, size = random.Random(0), Fraction(0), 0
        step = Fraction(1, RATE)
        for n in range(FRAMES):
            fate = dice.random()
            if fate < 0.001:
                clock += dice.choice((-1000, 1000))
            elif fate < 0.01:
                clock += step * dice.randint(1, 5)
            elif fate < 0.011:
                size = RATE - size
            elif fate < 0.012:
                step = Fraction(1, dice.choice((15, 25, 30, 60)))
            clock += step
            live.push(shown[size + n % RATE], clock)
            if n % (FRAMES // PAUSES) == 0:
                time.sleep(1)
            # Nearly as fast as it can be, and now and then too fast.
            while live.waiting > dice.choice((1, 1, 1, 1, 4)):
                time.sleep(0.0005)
        pushed.set()
        live.finish()

    def run() -> None:
        nonlocal out, last, depth
        threading.Thread(target=source, daemon=True).start()
        for frame in live:
            assert frame.pts > last, "time went back"
            out, last = out + 1, frame.pts
            depth = max(depth, live.waiting)
            if out % 500 == 0:
                stats = live.stats()
                peaks[stats.counts.frames_in] = resident()

    began = time.monotonic()
    benchmark.pedantic(run, rounds=1)
    seconds = time.monotonic() - began
    stats = live.stats()
    live.close()
    assert pushed.is_set()
    first = [memory for frames, memory in peaks.items() if frames < 2 * WARM_UP * FRAMES and frames > WARM_UP * FRAMES]
    late = [memory for frames, memory in peaks.items() if frames > (1 - WARM_UP) * FRAMES]
    growth = max(late) - max(first)
    counts = stats.counts
    benchmark.extra_info.update(
        frames=counts.frames_in, outputs=out, growth_mib=growth, resident_mib=max(late), statistics=stats.as_dict()
    )
    print(
        f"\n{counts.frames_in} frames in, {out} out in {seconds:.0f} s; resident memory {max(first):.1f} MiB after "
        f"{WARM_UP:.0%}, {max(late):.1f} MiB at the end: {growth:+.1f} MiB; at most {depth} waiting; "
        f"{threading.active_count()} threads afterwards, {threads_before} while running"
    )
    print(f"{stats.line()}; {len(said)} lines logged")
    assert counts.frames_in == FRAMES
    assert growth < 16
    assert depth <= 4
