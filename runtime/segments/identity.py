"""Everything the output of a job depends on, as plain values: a job may only go on where all are the same."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import av
import onnxruntime

import vtsr
from vtsr.errors import InputError, ModelError, OutputError
from vtsr.runtime.models import MANIFEST_NAME, open_model
from vtsr.runtime.segments.journal import Value
from vtsr.runtime.video.images import list_images

PARTS = 16  # places of a file that are looked at
PART_BYTES = 64 * 1024
INPUT = "input "  # how the names of facts about the input begin


def input_identity(path: Path, images: bool) -> dict[str, Value]:
    """Size, time of change and a hash of parts of a file, or of all files of an image sequence.

    Raises `InputError` if it cannot be read.
    """
    try:
        if not images:
            facts = path.stat()
            size, changed, digest = facts.st_size, facts.st_mtime_ns, _parts_digest(path, facts.st_size)
        else:
            files = list_images(path)
            stats = [(file.name, file.stat()) for file in files]
            listing = "".join(f"{name}\0{s.st_size}\0{s.st_mtime_ns}\n" for name, s in stats)
            size, changed = sum(s.st_size for _, s in stats), max(s.st_mtime_ns for _, s in stats)
            digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check it and its permissions.") from error
    return {f"{INPUT}size": size, f"{INPUT}changed": changed, f"{INPUT}digest": digest}


def _parts_digest(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in range(PARTS):
            file.seek(max(0, size - PART_BYTES) * part // (PARTS - 1))
            digest.update(file.read(PART_BYTES))
    return digest.hexdigest()


def software_identity(model: str) -> dict[str, Value]:
    """Versions of what computes the output, and the digest of the model's manifest, which names all its files."""
    digest = model
    with contextlib.suppress(ModelError, OSError):  # a backend of one's own needs no model folder
        digest = hashlib.sha256((open_model(model).path / MANIFEST_NAME).read_bytes()).hexdigest()
    codecs = av.library_versions["libavcodec"]
    return {
        "vtsr": vtsr.__version__,
        "PyAV": f"{av.__version__} with libavcodec {'.'.join(map(str, codecs))}",
        "ONNX Runtime": str(onnxruntime.__version__),
        "--model": digest,
    }


def check_same(output: str, before: Mapping[str, Value], now: Mapping[str, Value]) -> None:
    """Raises `OutputError` with the first difference between a job as it was begun and as it is asked for now."""
    for name in [*before, *(n for n in now if n not in before)]:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name.startswith(INPUT):
            what = "with another input, or the input was changed since"
        elif name == "--model":
            what = "with another model"
        elif name.startswith("--"):
            what = f"{_option(name, old)}, not {_option(name, new)}"
        else:
            what = f"with {name} {old}, and this is {new}"
        raise OutputError(f"{output} was begun {what}; go on as it was begun, or start again with -y.")


def _option(name: str, value: Value) -> str:
    if value is None or value is False:
        return f"without {name}"
    return f"with {name}" if value is True else f"with {name} {value}"
