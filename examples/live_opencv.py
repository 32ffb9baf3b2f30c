"""An OpenCV capture loop: any camera or file that OpenCV opens, at twice its frame rate.

    python examples/live_opencv.py 0                      the first camera, in a window
    python examples/live_opencv.py clip.mp4 --headless    count what comes out

The loop reads and shows; the network runs in the background and drops pictures rather than falling behind.
"""

from __future__ import annotations

import argparse
import threading
import time

import cv2

import vtsr


def capture(camera: cv2.VideoCapture, live: vtsr.LiveUpconverter, rate: float | None) -> None:
    """Pushes pictures until there are no more; ``rate`` paces a file, a camera paces itself."""
    while True:
        ok, picture = camera.read()
        if not ok:
            break
        live.push(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        if rate:
            time.sleep(1 / rate)
    live.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="number of a camera, or a video file")
    parser.add_argument("--levels", type=int, default=1)
    parser.add_argument("--headless", action="store_true", help="open no window")
    args = parser.parse_args()
    is_camera = args.source.isdigit()
    camera = cv2.VideoCapture(int(args.source) if is_camera else args.source)
    if not camera.isOpened():
        print(f"{args.source} cannot be opened.")
        return 2
    rate = None if is_camera else camera.get(cv2.CAP_PROP_FPS)
    with vtsr.LiveUpconverter(args.levels, latency_budget=0.2) as live:
        reader = threading.Thread(target=capture, args=(camera, live, rate), daemon=True)
        reader.start()
        for frame in live:
            if args.headless:
                continue
            cv2.imshow("vtsr", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
            if cv2.waitKey(1) == ord("q"):
                break
        print(live.stats().line())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
