"""A GStreamer pipeline through vtsr: appsink hands pictures out, appsrc takes the finished ones back.

    python examples/live_gstreamer.py                                 test pictures, in a window
    python examples/live_gstreamer.py --source v4l2src \\
        --sink "videoconvert ! x264enc tune=zerolatency ! mpegtsmux ! udpsink port=5000"

Needs python3-gi and GStreamer's base plugins (Debian: python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base).
GStreamer's clock is carried through: a picture leaves with the timestamp it came with.
"""

from __future__ import annotations

import argparse
import threading
from fractions import Fraction
from typing import Any

import gi
import numpy as np

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

import vtsr  # noqa: E402

SECOND = 1_000_000_000  # GStreamer counts nanoseconds


class Bridge:
    """Everything between appsink and appsrc."""

    def __init__(self, source: str, sink: str, levels: int) -> None:
        caps = "video/x-raw,format=RGB"
        self.inlet = Gst.parse_launch(
            f"{source} ! videoconvert ! {caps} ! appsink name=out emit-signals=true max-buffers=4 drop=true sync=false"
        )
        self.outlet = Gst.parse_launch(f"appsrc name=in is-live=true format=time block=false ! {sink}")
        self.live = vtsr.LiveUpconverter(levels, on_frame=self.take)
        self.appsrc = self.outlet.get_by_name("in")
        self.caps: str | None = None
        self.ended = threading.Event()
        appsink = self.inlet.get_by_name("out")
        appsink.connect("new-sample", self.give)
        appsink.connect("eos", lambda _: self.live.finish())

    def give(self, appsink: Any) -> Any:
        """A picture from GStreamer, in its streaming thread."""
        sample = appsink.emit("pull-sample")
        shape, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
        width, height = shape.get_value("width"), shape.get_value("height")
        ok, found = buffer.map(Gst.MapFlags.READ)
        if not ok:
            return Gst.FlowReturn.ERROR
        try:
            stride = -(-3 * width // 4) * 4  # rows begin at multiples of four bytes
            rows = np.frombuffer(found.data, np.uint8)[: stride * height].reshape(height, stride)
            picture = rows[:, : 3 * width].reshape(height, width, 3).copy()
        finally:
            buffer.unmap(found)
        self.live.push(picture, pts=Fraction(buffer.pts, SECOND))
        return Gst.FlowReturn.OK

    def take(self, frame: vtsr.Frame) -> None:
        """A finished picture, in the worker's thread."""
        height, width = frame.image.shape[:2]
        caps = f"video/x-raw,format=RGB,width={width},height={height},framerate=0/1"
        if caps != self.caps:
            self.caps = caps
            self.appsrc.set_property("caps", Gst.Caps.from_string(caps))
        rows = np.zeros((height, -(-3 * width // 4) * 4), np.uint8)
        rows[:, : 3 * width] = frame.image.reshape(height, 3 * width)
        buffer = Gst.Buffer.new_wrapped(rows.tobytes())
        buffer.pts, buffer.duration = round(frame.pts * SECOND), round(frame.duration * SECOND)
        self.appsrc.emit("push-buffer", buffer)

    def run(self) -> None:
        """Until the source ends or something fails."""
        self.outlet.set_state(Gst.State.PLAYING)
        self.inlet.set_state(Gst.State.PLAYING)
        watched = Gst.MessageType.ERROR | Gst.MessageType.EOS
        try:
            while not self.live.join(0.1):
                message = self.inlet.get_bus().timed_pop_filtered(0, Gst.MessageType.ERROR)
                if message is not None:
                    raise SystemExit(f"GStreamer: {message.parse_error()[0].message}")
            self.appsrc.emit("end-of-stream")
            message = self.outlet.get_bus().timed_pop_filtered(10 * SECOND, watched)
            if message is not None and message.type == Gst.MessageType.ERROR:
                raise SystemExit(f"GStreamer: {message.parse_error()[0].message}")
        finally:
            self.inlet.set_state(Gst.State.NULL)
            self.outlet.set_state(Gst.State.NULL)
            print(self.live.stats().line())
            self.live.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="videotestsrc is-live=true pattern=ball ! video/x-raw,framerate=30/1")
    parser.add_argument("--sink", default="videoconvert ! autovideosink")
    parser.add_argument("--levels", type=int, default=1)
    args = parser.parse_args()
    Gst.init(None)
    Bridge(args.source, args.sink, args.levels).run()


if __name__ == "__main__":
    main()
