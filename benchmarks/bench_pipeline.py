"""The pipeline around the network: its overhead, and whether its memory stays flat.

    pytest benchmarks/bench_pipeline.py -s
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

LEVELS = 2
WIDTH, HEIGHT = 640, 360
FRAMES = 24


def write_clip(path: Path, width: int, height: int, frames: int) -> None:
    """A moving texture as H.264."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height // 8 + 2, width // 8 + 64, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            x = 3 * index % 400
            picture = np.ascontiguousarray(texture[:height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_time_of_the_whole_command_over_pure_network_time(benchmark: Any, tmp_path: Path) -> None:
    """Decoding, conversion, cut detection, encoding and waiting, relative to the time in the network's steps."""
    from vtsr.runtime.upconvert import main

    source, report = tmp_path / "in.mp4", tmp_path / "report.json"
    write_clip(source, WIDTH, HEIGHT, FRAMES)

    def run() -> None:
        options = ["--levels", str(LEVELS), "--report", str(report), "-y"]
        assert main([str(source), str(tmp_path / "out.mp4"), *options]) == 0

    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    spent = json.loads(report.read_text())["seconds"]
    network = sum(v for k, v in spent["network_stages"].items() if k.startswith("level"))
    overhead = spent["total"] / network
    benchmark.extra_info.update(size=f"{WIDTH}x{HEIGHT}", levels=LEVELS, overhead=overhead, seconds=spent)
    print(f"\n{WIDTH}x{HEIGHT}, levels {LEVELS}: total {spent['total']:.2f} s, network {network:.2f} s: {overhead:.3f}")


MEMORY_PROGRAM = """
import resource, sys
from vtsr.runtime.upconvert import main
code = main([sys.argv[1], sys.argv[2], "--levels", "1", "-y"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
raise SystemExit(code)
"""


def test_resident_memory_from_100_to_1000_frames(benchmark: Any, tmp_path: Path) -> None:
    peaks = {}
    for frames in (100, 1000):
        source = tmp_path / f"{frames}.mp4"
        write_clip(source, 320, 240, frames)
        command = [sys.executable, "-c", MEMORY_PROGRAM, str(source), str(tmp_path / "out.mp4")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[frames] = int(done.stdout.split()[-1]) / 1024
    growth = peaks[1000] / peaks[100] - 1
    benchmark.extra_info.update(peak_mib=peaks, growth=growth)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\npeak resident memory: {peaks[100]:.0f} MiB at 100 frames, {peaks[1000]:.0f} MiB at 1000: {growth:+.1%}")
