"""What a source or a sink is called on the command line."""

from __future__ import annotations

import re
from enum import Enum
from urllib.parse import urlsplit

from vtsr.errors import OptionError

PIPE = "-"
WINDOW = "window"
NOTHING = "null"
NETWORK_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "tcp", "srt", "http", "https")
SINK_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "tcp", "srt")


class Kind(Enum):
    """What an address means."""

    DEVICE = "device"
    URL = "url"
    FILE = "file"
    PIPE = "pipe"
    WINDOW = "window"
    NOTHING = "null"


def scheme(address: str) -> str:
    """The scheme of a URL in small letters, empty for anything else."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    return found.group(1).lower() if found else ""


def kind_of(address: str, sink: bool = False) -> Kind:
    """Raises `OptionError` for a URL that cannot be read, or written, live."""
    if address == PIPE:
        return Kind.PIPE
    if sink and address == WINDOW:
        return Kind.WINDOW
    if sink and address == NOTHING:
        return Kind.NOTHING
    if re.fullmatch(r"/dev/video\d+", address) or (not sink and re.fullmatch(r"\d{1,2}", address)):
        return Kind.DEVICE
    if name := scheme(address):
        known = SINK_SCHEMES if sink else NETWORK_SCHEMES
        if name not in known:
            verb = "written" if sink else "read"
            raise OptionError(f"{name}:// cannot be {verb} live; use one of {', '.join(known)}.")
        return Kind.URL
    return Kind.FILE


def shown(address: str) -> str:
    """The address without the password a URL may hold, for messages."""
    if not scheme(address):
        return address
    parts = urlsplit(address)
    if parts.username is None and parts.password is None:
        return address
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"***@{host}").geturl()
