"""An endpoint that Prometheus can scrape: `http://127.0.0.1:PORT/metrics`, text format 0.0.4."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate

from vtsr.errors import OptionError
from vtsr.runtime.live.statistics import BUCKETS, LiveStatistics

LOCAL = "127.0.0.1"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_SECONDS = 5.0  # after which a client that says nothing is cut off

_HELP = {
    "frames_in": "Frames pushed.",
    "frames_out": "Frames given out.",
    "dropped_full": "Frames dropped because the queue was full.",
    "dropped_late": "Frames dropped because they had waited for longer than the latency budget.",
    "missing": "Frames lost before they were pushed, by their timestamps.",
}


def exposition(stats: LiveStatistics) -> str:
    """The snapshot in Prometheus' text format."""
    lines: list[str] = []

    def metric(name: str, kind: str, help: str, value: float) -> None:
        lines.extend((f"# HELP {name} {help}", f"# TYPE {name} {kind}", f"{name} {value:.10g}"))

    for entry in fields(stats.counts):
        words = _HELP.get(entry.name, f"Number of {entry.name.replace('_', ' ')}.")
        metric(f"vtsr_live_{entry.name}_total", "counter", words, getattr(stats.counts, entry.name))
    metric("vtsr_live_waiting_frames", "gauge", "Frames in the queue.", stats.waiting)
    metric("vtsr_live_levels", "gauge", "Recursion levels in use.", stats.levels)
    metric("vtsr_live_load_ratio", "gauge", "Share of the frame time that the worker is busy.", stats.load)
    metric("vtsr_live_rate_in", "gauge", "Input frames per second.", stats.rate_in)
    metric("vtsr_live_rate_out", "gauge", "Output frames per second.", stats.rate_out)
    if stats.duty is not None:
        metric("vtsr_live_shutter_ratio", "gauge", "Measured share of the frame time with open shutter.", stats.duty)
    name, latency = "vtsr_live_latency_seconds", stats.latency
    lines += [f"# HELP {name} From the push of a frame to a frame made of it being taken.", f"# TYPE {name} histogram"]
    bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
    for bound, count in zip(bounds, accumulate(latency.buckets), strict=True):
        lines.append(f'{name}_bucket{{le="{bound}"}} {count}')
    lines += [f"{name}_sum {latency.total:.10g}", f"{name}_count {latency.count}"]
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Serves `/metrics` in a thread until `close`.

    port
        0 takes a free one; see ``port`` afterwards.
    host
        The address to listen on; only this machine can ask unless another is given.

    Raises `OptionError` if the port cannot be used.
    """

    def __init__(self, stats: Callable[[], LiveStatistics], port: int, host: str = LOCAL) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = CLIENT_SECONDS

            def do_GET(self) -> None:
                if self.path.split("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = exposition(stats()).encode()
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass  # stderr belongs to the statistics

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise OptionError(f"Metrics cannot be served on {host}:{port} ({why}); choose another port.") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="vtsr metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
