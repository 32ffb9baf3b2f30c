"""A camera on the network, as a program that can be killed: numbered pictures at their pace.

    python live_sender.py URL RATE SECONDS FIRST LOG [WIDTH HEIGHT]

writes to LOG when (time.monotonic) which number was sent.
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from live_media import numbered

FORMATS = {"rtsp": "rtsp", "rtmp": "flv"}  # else MPEG-TS
OPTIONS = {"rtsp": {"rtsp_transport": "tcp"}, "udp": {"pkt_size": "1316"}}


def connected(url: str, rate: int, width: int, height: int) -> tuple[Any, Any]:
    """The container and its stream, as soon as the other end listens."""
    scheme = url.partition(":")[0]
    for _ in range(200):
        try:
            container = av.open(
                url, "w", format=FORMATS.get(scheme, "mpegts"), container_options=OPTIONS.get(scheme, {})
            )
            options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "16", "g": str(rate // 2)}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = Fraction(1, rate)
            container.start_encoding()  # only now RTSP connects
            return container, stream
        except (OSError, av.error.FFmpegError):
            time.sleep(0.1)
    raise SystemExit("Nobody listens.")


def send(
    url: str, rate: int, seconds: float, first: int, log: Path, width: int = 96, height: int = 64
) -> None:
    pictures = [numbered(first + n, width, height) for n in range(round(rate * seconds))]
    container, stream = connected(url, rate, width, height)
    with container, log.open("a") as sent:
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
