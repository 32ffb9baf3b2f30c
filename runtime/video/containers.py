"""Opening media for reading: the same for all versions of PyAV, and nothing but the file that was named.

FFmpeg knows playlists (HLS, DASH, concat scripts, SDP, ...): files that make it open other files or
addresses. What reads them is left out, whatever a file's name and beginning, and so is every protocol that was
not asked for. See SECURITY.md.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
from av.container import InputContainer

from vtsr.errors import InputError

# Readers of files that name other files or addresses, or that are programs.
REFERRING_FORMATS = frozenset({
    "avisynth", "concat", "dash", "dvdvideo", "hls", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp",
    "vapoursynth", "vobsub", "webm_dash_manifest",
})  # fmt: skip
# How such files begin.
_REFERRING_MARKS = (b"#EXTM3U", b"ffconcat", b"# VobSub", b"v=0")
_XML_MARKS = (b"<MPD", b"<CompositionPlaylist")
_HEAD_BYTES = 4096

# PyAV 19 keeps tags that are not UTF-8 by itself (as surrogates); before, it raises unless told what to do.
_KEEPS_ALL_TAGS = not hasattr(InputContainer, "metadata_errors")

FILE_PROTOCOLS = ("file",)
NO_PROTOCOLS = ("none",)  # for open file objects: whatever else a file asks for is refused


def open_container(
    file: str | Path | BinaryIO,
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
    timeout: tuple[float, float] | None = None,
) -> Any:
    """An FFmpeg container of a local file or a binary file object, opened for reading.

    format, options
        FFmpeg's demuxer and its options, for input that does not describe itself.
    timeout
        Seconds until opening and until reading a packet is given up.

    Raises `InputError` for playlists, and FFmpeg's errors for whatever cannot be read.
    """
    local = isinstance(file, str | Path)
    # "file:" keeps names such as "a:b.mp4" from being read as a protocol.
    target = f"file:{file}" if isinstance(file, str | Path) else file
    limits = {
        "format_whitelist": _self_contained_formats(),
        "protocol_whitelist": ",".join(FILE_PROTOCOLS if local else NO_PROTOCOLS),
    }
    try:
        return _open(target, format, options, timeout, limits)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(file, str | Path) and _refers_to_others(Path(file)):
            raise InputError(
                f"{file} is a playlist, which names other files, and those are not opened; give the video itself."
            ) from error
        raise


def open_address(
    address: str,
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
    timeout: tuple[float, float] | None = None,
) -> Any:
    """An FFmpeg container of a network address or device that the user has named, opened for reading.

    What an address may lead to is up to FFmpeg's own rules: a playlist from the network cannot name local files.
    Raises FFmpeg's errors for whatever cannot be read.
    """
    return _open(address, format, options, timeout, {})


def _open(
    target: str | BinaryIO,
    format: str | None,
    options: dict[str, str] | None,
    timeout: tuple[float, float] | None,
    limits: dict[str, str],
) -> Any:
    tags = {} if _KEEPS_ALL_TAGS else {"metadata_errors": "replace"}
    return av.open(
        target, mode="r", format=format, options=options, container_options=limits, timeout=timeout, **tags
    )


@functools.cache
def _self_contained_formats() -> str:
    """The demuxers that may be used, as FFmpeg takes them."""
    return ",".join(sorted(av.formats_available - REFERRING_FORMATS))


def _refers_to_others(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return False
    return head.startswith(_REFERRING_MARKS) or (head.startswith(b"<") and any(mark in head for mark in _XML_MARKS))
