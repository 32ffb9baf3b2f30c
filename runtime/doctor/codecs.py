"""Which codecs this build of FFmpeg reads and writes."""

from __future__ import annotations

import av

from vtsr.runtime.doctor.report import Finding, Section
from vtsr.runtime.video.codecs import CODECS

# Names of FFmpeg's decoders where they differ from the codec's; more than one may do.
DECODERS = {"av1": ("libdav1d", "av1", "libaom-av1"), "vp9": ("vp9", "libvpx-vp9")}
REINSTALL = "PyAV's own wheels have it: pip install --force-reinstall --only-binary av av"


def codecs() -> Section:
    """What can be read and written."""
    readable = [name for name in CODECS if any(_exists(d, "r") for d in DECODERS.get(name, (name,)))]
    writable = [name for name, codec in CODECS.items() if codec.encoder is not None]
    return Section("Codecs", (_finding("read", readable), _finding("write", writable)))


def _finding(name: str, there: list[str]) -> Finding:
    missing = [codec for codec in CODECS if codec not in there]
    facts = {"codecs": there, "missing": missing}
    text = ", ".join(there) or "none"
    if not there:
        return Finding(name, "broken", text, REINSTALL, facts)
    if missing:
        return Finding(name, "missing", f"{text}; not {', '.join(missing)}", REINSTALL, facts)
    return Finding(name, "ok", text, facts=facts)


def _exists(name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)
    except (ValueError, av.error.FFmpegError):
        return False
    return True
