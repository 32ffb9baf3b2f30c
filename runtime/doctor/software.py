"""What is installed: Python, the packages vtsr needs, and those of its extras."""

from __future__ import annotations

import contextlib
import importlib
import io
import platform
import re
import sys
from collections.abc import Iterable
from importlib import metadata

import vtsr
from vtsr.runtime.doctor.report import Finding, Section

DISTRIBUTION = "vtsr"
# Packages that are imported under another name.
MODULES = {"opencv-python-headless": "cv2"}
# What provides the same module under another name.
EQUALS = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino"),
}
LABELS = {"opencv-python-headless": "opencv"}
PURPOSES = {
    "train": "training, export and calibration",
    "evaluate": "vtsr-evaluate",
    "tensorrt": "NVIDIA GPUs",
    "engine-cache": "keeping TensorRT engines",
    "cluster": "spreading work over machines",
    "dev": "working on vtsr itself",
}
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def software() -> Section:
    """Python and vtsr."""
    version = platform.python_version()
    where = f"{platform.system()} {platform.machine()}"
    return Section(
        "Software",
        (
            Finding("vtsr", "ok", vtsr.__version__, facts={"version": vtsr.__version__}),
            Finding(
                "Python", "ok", f"{version}, {where}", facts={"version": version, "executable": sys.executable}
            ),
            *(_needed(name) for name in _requirements()[""]),
        ),
    )


def extras() -> Section:
    """The packages of every extra; only their versions are looked up, nothing is imported."""
    groups = _requirements()
    return Section("Extras", tuple(_extra(name, groups[name]) for name in sorted(groups) if name not in ("", "dev")))


def _requirements() -> dict[str, list[str]]:
    """Package names by extra, "" for those always needed; from vtsr's own metadata."""
    groups: dict[str, list[str]] = {"": []}
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # the source is on the path without being installed
        lines = ["numpy", "onnxruntime", "opencv-python-headless", "av", "tqdm"]
    for line in lines:
        match = _REQUIREMENT.fullmatch(line)
        if match is None:
            continue
        name, _, _, marker = match.groups()
        extra = _EXTRA.search(marker or "")
        if name.lower() == DISTRIBUTION or "python_version" in (marker or ""):
            continue  # an extra that includes another, or a package for other versions of Python
        groups.setdefault(extra[1] if extra else "", []).append(name)
    return groups


def _version(name: str) -> str | None:
    for candidate in (name, *EQUALS.get(name, ())):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def _needed(name: str) -> Finding:
    module = MODULES.get(name, name.replace("-", "_"))
    version = _version(name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # OpenCV says there what it lacks; so does the report
            imported = importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = f"Install it again: pip install --force-reinstall {name}"
        return Finding(LABELS.get(name, name), "broken", f"cannot be imported ({reason})", advice)
    version = version or str(getattr(imported, "__version__", "of unknown version"))
    facts, text = {"version": version}, version
    if name == "av":
        facts["ffmpeg"] = str(getattr(imported, "ffmpeg_version_info", "unknown"))
        text += f" with FFmpeg {facts['ffmpeg']}"
    return Finding(LABELS.get(name, name), "ok", text, facts=facts)


def _extra(extra: str, names: Iterable[str]) -> Finding:
    versions = {name: _version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    facts = {"packages": versions}
    if not missing:
        return Finding(extra, "ok", there, facts=facts)
    purpose = f"For {PURPOSES[extra]}" if extra in PURPOSES else "To use it"
    text = f"without {', '.join(missing)}" + (f" (there: {there})" if there else "")
    return Finding(extra, "missing", text, f'{purpose}: pip install "vtsr[{extra}]"', facts)
