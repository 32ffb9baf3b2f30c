"""The smallest live loop: pictures go in as they come, finished ones come out.

    python examples/live_minimal.py
"""

import threading

import numpy as np

import vtsr

with vtsr.LiveUpconverter(levels=1, frame_rate=30) as live:

    def camera() -> None:
        for n in range(30):  # your camera's pictures: uint8 (height, width, 3), RGB
            live.push(np.full((48, 64, 3), 8 * n, np.uint8))
            threading.Event().wait(1 / 30)
        live.finish()

    threading.Thread(target=camera).start()
    for frame in live:
        print(f"{float(frame.pts):.3f} s: part {frame.phase} of picture {frame.source_index}")
    print(live.stats().line())
