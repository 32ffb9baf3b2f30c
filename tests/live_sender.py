"""A camera on the network, as a program that can be killed: numbered pictures as MPEG-TS, at their pace.

    python live_sender.py URL RATE SECONDS FIRST LOG [WIDTH HEIGHT]

writes to LOG when (time.monotonic) which number was sent.
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction
from pathlib import Path

import av
from live_media import numbered


def send(
    url: str, rate: int, seconds: float, first: int, log: Path, width: int = 96, height: int = 64
) -> None:
    pictures = [numbered(first + n, width, height) for n in range(round(rate * seconds))]
    with av.open(url, "w", format="mpegts", container_options={"pkt_size": "1316"}) as container, log.open("a") as sent:
        options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "16", "g": str(rate // 2)}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, rate)
        began = time.monotonic()
        for n, picture in enumerate(pictures):
            time.sleep(max(0.0, began + n / rate - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, rate)
            print(first + n, time.monotonic(), file=sent, flush=True)
            container.mux(stream.encode(frame))


if __name__ == "__main__":
    given = sys.argv[1:]
    send(given[0], int(given[1]), float(given[2]), int(given[3]), Path(given[4]), *map(int, given[5:]))
