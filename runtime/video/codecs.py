"""Which codec goes into which container, and what its encoder wants to be told."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field

import av
import av.error

from vtsr.errors import OptionError
from vtsr.runtime.cpu import has_avx512
from vtsr.runtime.frame import PixelFormat
from vtsr.runtime.video.colour import SUPPORTED, closest_encodable, nearest_supported, pixel_name

X264_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
# x264's AVX-512 code for distributing bits over time (mbtree) takes in memory that nobody has written unless rows are
# whole groups of 8 macroblocks; what it encodes then differs from run to run. Without AVX-512 it is about 5 % slower.
X264_EXACT_WIDTH = 128  # pixels


@dataclass(frozen=True)
class Codec:
    """A codec by its common name.

    encoders
        FFmpeg's encoders for it, best first; the first that this build has is used.
    crf, crf_range
        Default quality and the range allowed; None for codecs without such a setting.
    preset_option, presets, preset
        The encoder's option that trades speed for size, its values and our default.
    even
        Whether 4:2:0 pictures must have even width and height.
    """

    name: str
    encoders: tuple[str, ...]
    crf: int | None = None
    crf_range: tuple[int, int] = (0, 51)
    preset_option: str = "preset"
    presets: tuple[str, ...] = ()
    preset: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    even: bool = False

    @property
    def encoder(self) -> str | None:
        return next((name for name in self.encoders if has_encoder(name)), None)


CODECS = {
    codec.name: codec
    for codec in (
        # Defaults near visual transparency: the output is a master for further use, not a broadcast.
        Codec("h264", ("libx264",), 18, presets=X264_PRESETS, preset="medium", even=True),
        Codec(
            "hevc", ("libx265",), 20, presets=X264_PRESETS, preset="medium", even=True,
            options={"x265-params": "log-level=error"},
        ),
        Codec(
            "vp9", ("libvpx-vp9",), 24, (0, 63), "cpu-used", tuple(str(n) for n in range(9)), "4",
            options={"b": "0", "deadline": "good", "row-mt": "1"},
        ),
        Codec(
            "av1", ("libsvtav1", "libaom-av1"), 26, (0, 63), "preset", tuple(str(n) for n in range(14)), "8",
            even=True,
        ),
        Codec("ffv1", ("ffv1",), options={"level": "3", "slices": "4", "slicecrc": "1"}),
        Codec("prores", ("prores_ks",)),
    )
}  # fmt: skip
CODEC_ALIASES = {"avc": "h264", "x264": "h264", "h265": "hevc", "x265": "hevc", "libx264": "h264",
                 "libx265": "hevc", "libvpx-vp9": "vp9", "libsvtav1": "av1"}  # fmt: skip


@dataclass(frozen=True)
class Container:
    """A container by its file name extension, FFmpeg's name for it and the codec used unless told."""

    extension: str
    format: str
    codec: str


CONTAINERS = {
    container.extension: container
    for container in (
        Container(".mp4", "mp4", "h264"),
        Container(".m4v", "mp4", "h264"),
        Container(".mov", "mov", "h264"),
        Container(".mkv", "matroska", "h264"),
        Container(".webm", "webm", "vp9"),
        Container(".nut", "nut", "ffv1"),
    )
}


# FFmpeg says QuickTime files can hold these, and then refuses to write the header.
_REFUSED = {("mov", "vp9"), ("mov", "av1")}


@dataclass(frozen=True)
class Encoding:
    """What the user asked for; None means the default."""

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    threads: int = 0


@dataclass(frozen=True)
class Encoder:
    """An encoder with its settings, ready to be opened.

    notes
        What the user should know about the choice, one sentence each.
    """

    name: str
    pix_fmt: str
    options: dict[str, str]
    notes: tuple[str, ...] = ()


def has_encoder(name: str) -> bool:
    """Whether this build of PyAV has an encoder called ``name``."""
    try:
        av.Codec(name, "w")
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def container_for(extension: str) -> Container:
    """Raises `OptionError` for an extension that is not a known video container."""
    try:
        return CONTAINERS[extension.lower()]
    except KeyError:
        known = ", ".join(CONTAINERS)
        given = f"'{extension}'" if extension else "A name without extension"
        raise OptionError(
            f"{given} is not a video container this command writes; name the output {known}, .y4m, or a "
            "folder (ending in /) or pattern for images."
        ) from None


def fits(container: Container, encoder: str) -> bool:
    """Whether ``container`` can hold what ``encoder`` makes."""
    if (container.format, av.Codec(encoder, "w").canonical_name) in _REFUSED:
        return False
    with av.open(io.BytesIO(), "w", format=container.format) as trial:
        try:
            trial.add_stream(encoder)
        except (ValueError, av.error.FFmpegError):
            return False
    return True


def choose_encoder(
    container: Container, encoding: Encoding, fmt: PixelFormat, width: int, height: int
) -> Encoder:
    """The encoder for frames in format ``fmt``, with all its options.

    The pixel format is kept where the encoder takes it; otherwise the nearest is chosen, with a note.
    Raises `OptionError` for an unknown codec, one the container cannot hold, and settings out of range.
    """
    name = encoding.codec or container.codec
    if encoding.codec is None and name == "vp9" and fmt.bits > 8 and not _encodes_deep("vp9"):
        name = "av1"  # common builds of libvpx stop at 8 bits
    codec = CODECS.get(CODEC_ALIASES.get(name, name))
    if codec is None:
        # Any other encoder of this build may be named; its own defaults are used.
        codec = Codec(name, (name,))
        if not has_encoder(name) or av.Codec(name, "w").type != "video":
            available = ", ".join(c.name for c in CODECS.values() if c.encoder)
            raise OptionError(f"Codec '{name}' is unknown; choose one of {available}.")
    encoder = codec.encoder
    if encoder is None:
        raise OptionError(f"This build of PyAV has no encoder for {codec.name}; choose another --codec.")
    if not fits(container, encoder):
        good = ", ".join(c.name for c in CODECS.values() if c.encoder and fits(container, c.encoder))
        raise OptionError(f"{container.extension} cannot hold {codec.name}; choose one of {good}.")
    options = dict(codec.options)
    options.update(_quality(codec, encoding))
    options.update(_preset(codec, encoding))
    if encoder == "libx264" and width % X264_EXACT_WIDTH and has_avx512():
        options["x264-params"] = "asm=AVX2"
    pix_fmt, notes = _choose_pix_fmt(codec, encoder, encoding.pix_fmt, fmt, width, height)
    if encoder == "libsvtav1":
        # The library writes its settings to stderr unless the environment says otherwise.
        os.environ.setdefault("SVT_LOG", "1")
    return Encoder(encoder, pix_fmt, options, tuple(notes))


def _encodes_deep(name: str) -> bool:
    encoder = CODECS[name].encoder
    formats = av.Codec(encoder, "w").video_formats if encoder else None
    return any(f.components[0].bits > 8 for f in formats or ())


def _quality(codec: Codec, encoding: Encoding) -> dict[str, str]:
    if encoding.crf is None:
        return {} if codec.crf is None else {"crf": str(codec.crf)}
    if codec.name in CODECS and codec.crf is None:
        raise OptionError(f"{codec.name} has no --crf; leave the option out.")
    low, high = codec.crf_range
    if not low <= encoding.crf <= high:
        raise OptionError(f"--crf for {codec.name} goes from {low} (best) to {high}, not {encoding.crf}.")
    return {"crf": str(encoding.crf)}


def _preset(codec: Codec, encoding: Encoding) -> dict[str, str]:
    preset = encoding.preset
    if preset is None:
        return {} if codec.preset is None else {codec.preset_option: codec.preset}
    if codec.name in CODECS and preset not in codec.presets:
        choice = f"choose one of {', '.join(codec.presets)}" if codec.presets else "leave the option out"
        raise OptionError(f"{codec.name} has no preset '{preset}'; {choice}.")
    return {codec.preset_option: preset}


def _choose_pix_fmt(
    codec: Codec, encoder: str, wanted: str | None, fmt: PixelFormat, width: int, height: int
) -> tuple[str, list[str]]:
    formats = av.Codec(encoder, "w").video_formats
    choices = sorted(SUPPORTED) if formats is None else [f.name for f in formats]
    odd = codec.even and (width % 2 or height % 2)
    if wanted is not None:
        if wanted not in choices:
            raise OptionError(f"{encoder} cannot encode pixel format {wanted}; choose from {', '.join(choices)}.")
        if odd and nearest_supported(wanted)[0] in ("yuv420", "yuv422"):
            raise OptionError(
                f"{codec.name} needs an even width and height for {wanted}, and the video is "
                f"{width}x{height}; use --pix-fmt yuv444p or another codec."
            )
        return wanted, []
    if odd:
        choices = [c for c in choices if c in SUPPORTED and SUPPORTED[c][0] in ("gray", "yuv444", "rgb")]
        if not choices:
            raise OptionError(
                f"{codec.name} needs an even width and height, and the video is {width}x{height}; "
                "use --codec vp9 or h264."
            )
    own = pixel_name(fmt)
    if own in choices:
        return own, []
    lossy = codec.name in CODECS and codec.crf is not None
    if fmt.sampling == "rgb" and not odd and lossy and "yuv420p" in choices:
        # What players expect, so nothing to be told; full chroma is there for the asking.
        deep = fmt.bits > 8 and "yuv420p10le" in choices
        return ("yuv420p10le" if deep else "yuv420p"), []
    chosen = closest_encodable(fmt, choices)
    if chosen is None:
        raise OptionError(
            f"{encoder} has no pixel format near {own}; choose with --pix-fmt from {', '.join(choices)}."
        )
    if chosen == "bgr0":  # the same samples in another order
        return chosen, []
    return chosen, [f"{encoder} stores {own} pictures as {chosen}; --pix-fmt chooses another format."]

