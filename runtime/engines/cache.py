"""The engine cache: files that are checked before use and made anew when they do not hold.

An entry is `NAME-KEY.plan` (the engine), `NAME-KEY.onnx` (the graph it was built from) and `NAME-KEY.json`
(its manifest). KEY is derived from everything that invalidates an engine: graph, shapes, precision, builder
settings, and the platform (TensorRT, GPU, driver, operating system), so an engine of another machine
or version is never even looked at. Engine files are executable code: one is deserialised only if it lies in
the cache folder, nobody else can write there, and its SHA-256 is the one recorded when it was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vtsr.errors import MissingExtraError, ModelError, OptionError, OutputError
from vtsr.runtime.engines.request import EngineRequest, key_of

FORMAT = "vtsr-engine-1"
FOLDER_VARIABLE = "VTSR_CACHE"
KEY_LENGTH = 16  # hexadecimal digits of the key in file names
PLAN, MANIFEST, GRAPH, LOCK, PARTIAL = ".plan", ".json", ".onnx", ".lock", ".partial"
LOCK_PATIENCE = 1.0  # seconds before the wait for another process is announced
LOCK_TIMEOUT = 3600.0  # seconds; the slowest builds take minutes
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")
ENTRY = re.compile(rf"(?P<name>{NAME.pattern})-(?P<key>[0-9a-f]{{{KEY_LENGTH}}})")

Loaded = TypeVar("Loaded")
Say = Callable[[str], None]


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(frozen=True)
class Built:
    """A fresh engine and what is worth knowing about it (JSON)."""

    plan: bytes = field(repr=False)
    facts: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """An engine in the cache; ``problem`` says why it cannot be used, None if its files are intact."""

    path: Path  # of the plan
    manifest: dict[str, Any]
    problem: str | None

    @property
    def name(self) -> str:
        match = ENTRY.fullmatch(self.path.stem)
        return match["name"] if match else self.path.stem


def cache_folder() -> Path:
    """Where engines are kept: ``$VTSR_CACHE``, else the platform's cache folder for vtsr."""
    override = os.environ.get(FOLDER_VARIABLE)
    if override:
        return Path(override).expanduser()
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise MissingExtraError(
            f'The engine cache needs the extra "tensorrt": pip install "vtsr[tensorrt]" ({error}).'
        ) from error
    return user_cache_path("vtsr", appauthor=False)


class EngineCache:
    """Engines in one folder, safe to use from several processes at once.

    Parameters
    ----------
    folder
        None takes `cache_folder`.
    say
        Called with one line whenever an engine is built or rebuilt, saying why.
    """

    def __init__(self, folder: str | Path | None = None, say: Say = say_on_stderr) -> None:
        self.folder = (Path(folder) if folder is not None else cache_folder()) / "engines"
        self._say = say

    def get(
        self,
        request: EngineRequest,
        platform: Mapping[str, Any],
        load: Callable[[bytes], Loaded],
        build: Callable[[], Built] | None = None,
    ) -> tuple[Loaded, dict[str, Any]]:
        """The engine of ``request`` and its manifest; built if it is missing, rebuilt once if it does not hold.

        Parameters
        ----------
        platform
            Facts about TensorRT, GPU, driver and operating system; an engine is bound to all of them.
        load
            Makes an engine of a plan. Raises `ModelError` if it cannot.
        build
            Makes the engine; None if it must be there.

        Raises `ModelError` if there is no usable engine and it cannot be built, and what ``build`` raises.
        """
        if not NAME.fullmatch(request.name):
            raise OptionError(f"{request.name!r} cannot be part of a file name; use letters, digits, '.', '_' and '-'.")
        invalidates = {**request.invalidates(), "platform": dict(platform)}
        key = key_of(invalidates)
        plan_path = self.folder / f"{request.name}-{key[:KEY_LENGTH]}{PLAN}"
        self._prepare()
        with self._lock(plan_path, wait=True):
            entry, plan = self._inspect(plan_path, key)
            reason = entry.problem
            if plan is not None:
                try:
                    return load(plan), entry.manifest
                except ModelError as error:
                    reason = f"it cannot be loaded: {error}"
            fresh = not plan_path.exists()
            if fresh:
                reason = self._why_missing(request, invalidates)
            if build is None:
                raise ModelError(f"There is no usable engine {request.name}: {reason}; make it with vtsr-export.")
            self._say(f"{'Building' if fresh else 'Rebuilding'} {request.name}: {reason}.")
            built = build()
            engine = load(built.plan)  # an engine that cannot be loaded is not kept
            return engine, self._store(plan_path, request, invalidates, built)

    def entries(self) -> list[Entry]:
        """All engines in the folder, in order of their names, each checked."""
        if not self.folder.is_dir():
            return []
        self._prepare()
        return [self.inspect(path) for path in sorted(self.folder.glob(f"*{PLAN}"))]

    def inspect(self, path: Path) -> Entry:
        """The engine file at ``path``, checked against its own manifest."""
        return self._inspect(path, None)[0]

    def prune(self, platform: Mapping[str, Any] | None = None) -> tuple[int, int]:
        """Removes what is of no use: damaged engines, remains of interrupted builds, and engines of another
        platform if ``platform`` is given. Returns the number of engines removed and of bytes freed.
        """
        engines = freed = 0
        if not self.folder.is_dir():
            return 0, 0
        self._prepare()
        for stem in sorted({stem for path in self.folder.iterdir() if (stem := _stem(path)) is not None}):
            plan_path = self.folder / f"{stem}{PLAN}"
            try:
                with self._lock(plan_path, wait=False):
                    entry = self.inspect(plan_path)
                    theirs = entry.manifest.get("invalidates", {}).get("platform") if not entry.problem else None
                    if entry.problem is None and (platform is None or theirs == dict(platform)):
                        doomed = [p for p in self._files_of(stem) if p.name.endswith(PARTIAL)]
                    else:
                        doomed = self._files_of(stem)
                        engines += plan_path.exists()
                    for path in doomed:
                        freed += path.stat().st_size
                        path.unlink(missing_ok=True)
            except BlockingIOError:
                continue  # in use
            except OSError as error:
                raise OutputError(f"The engine cache {self.folder} cannot be pruned: {error.strerror}.") from error
        return engines, freed

    def _files_of(self, stem: str) -> list[Path]:
        # The lock file stays: another process may just be waiting for it.
        return [p for p in self.folder.iterdir() if _stem(p) == stem and p.suffix != LOCK]

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            facts = self.folder.stat()
        except OSError as error:
            raise OutputError(
                f"The engine cache {self.folder} cannot be used ({error.strerror}); "
                f"set {FOLDER_VARIABLE} to a folder of yours."
            ) from error
        if os.name != "posix":
            return
        trusted = (os.getuid(), 0)  # what root has installed is as good as the Python we run
        if facts.st_uid not in trusted or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ModelError(
                f"Other users can write to the engine cache {self.folder}, and engines are executable code; "
                f"make it yours (chmod 700) or set {FOLDER_VARIABLE} to another folder."
            )

    @contextlib.contextmanager
    def _lock(self, plan_path: Path, *, wait: bool) -> Iterator[None]:
        if not os.access(self.folder, os.W_OK):
            yield  # a cache that comes with a read-only image: nobody builds here
            return
        try:
            from filelock import FileLock, Timeout
        except ImportError as error:
            raise MissingExtraError(
                f'The engine cache needs the extra "tensorrt": pip install "vtsr[tensorrt]" ({error}).'
            ) from error
        lock = FileLock(str(plan_path.with_suffix(LOCK)))
        try:
            lock.acquire(timeout=LOCK_PATIENCE if wait else 0)
        except Timeout as error:
            if not wait:
                raise BlockingIOError from error
            self._say(f"Waiting for another process that works on {plan_path.stem}.")
            try:
                lock.acquire(timeout=LOCK_TIMEOUT)
            except Timeout as again:
                raise ModelError(
                    f"Another process has held {lock.lock_file} for an hour; end it and try again."
                ) from again
        except OSError as error:
            raise OutputError(f"The engine cache {self.folder} cannot be written: {error.strerror}.") from error
        try:
            yield
        finally:
            lock.release()

    def _inspect(self, plan_path: Path, key: str | None) -> tuple[Entry, bytes | None]:
        """The entry, and the plan's bytes if nothing is wrong with it. ``key`` None takes the manifest's."""
        manifest, problem = _read_manifest(plan_path.with_suffix(MANIFEST))
        if problem is None:
            found = key_of(manifest["invalidates"])
            if found != manifest["key"] or not plan_path.stem.endswith(f"-{found[:KEY_LENGTH]}"):
                problem = "its manifest does not belong to it"
            elif key is not None and found != key:
                problem = "it was made from something else"
        if problem is not None:
            return Entry(plan_path, manifest, problem), None
        try:
            plan = _read_file(plan_path)
        except OSError as error:
            return Entry(plan_path, manifest, f"its file cannot be read ({error.strerror})"), None
        size = manifest["plan"]["bytes"]
        if len(plan) != size:
            problem = f"its file has {len(plan)} bytes instead of {size}"
        elif hashlib.sha256(plan).hexdigest() != manifest["plan"]["sha256"]:
            problem = "its file is damaged"
        return Entry(plan_path, manifest, problem), None if problem else plan

    def _why_missing(self, request: EngineRequest, invalidates: Mapping[str, Any]) -> str:
        """What has changed since the latest engine of the same name was built."""
        latest: tuple[float, dict[str, Any]] | None = None
        for path in self.folder.glob(f"{request.name}-*{MANIFEST}"):
            match = ENTRY.fullmatch(path.stem)
            manifest, problem = _read_manifest(path)
            if match and match["name"] == request.name and problem is None:
                age = path.stat().st_mtime
                if latest is None or age > latest[0]:
                    latest = age, manifest["invalidates"]
        if latest is None:
            return "there is none yet"
        changes = _differences(latest[1], invalidates)
        return f"{changes[0]}{f' (and {len(changes) - 1} more)' if len(changes) > 1 else ''}"

    def _store(
        self, plan_path: Path, request: EngineRequest, invalidates: dict[str, Any], built: Built
    ) -> dict[str, Any]:
        manifest = {
            "format": FORMAT,
            "name": request.name,
            "key": key_of(invalidates),
            "invalidates": invalidates,
            "plan": {"sha256": hashlib.sha256(built.plan).hexdigest(), "bytes": len(built.plan)},
            "facts": {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **built.facts},
        }
        text = json.dumps(manifest, indent=1) + "\n"
        # The manifest comes last: an interruption leaves an entry without one, which is rebuilt.
        plan_path.with_suffix(MANIFEST).unlink(missing_ok=True)
        files = ((GRAPH, request.graph), (PLAN, built.plan), (MANIFEST, text.encode()))
        for suffix, data in files:
            write_atomically(plan_path.with_suffix(suffix), data)
        loaded: dict[str, Any] = json.loads(text)
        return loaded


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that has its name only when it is complete and on disk. Raises `OutputError`."""
    partial = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=PARTIAL, dir=path.parent)
        partial = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _stem(path: Path) -> str | None:
    """Name and key of the entry that a file of the cache belongs to; None for files of others."""
    match = re.match(rf"({ENTRY.pattern})\.", path.name)
    return match[1] if match and path.suffix in (PLAN, MANIFEST, GRAPH, LOCK, PARTIAL) else None


def _read_file(path: Path) -> bytes:
    """Contents of a regular file; a link may lead out of the cache and is not followed."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _read_manifest(path: Path) -> tuple[dict[str, Any], str | None]:
    """A manifest whose parts have the right types, and None; or what is wrong with it."""
    try:
        manifest = json.loads(_read_file(path))
    except FileNotFoundError:
        return {}, "it has no manifest"
    except (OSError, ValueError, RecursionError):
        return {}, "its manifest is damaged"
    if not isinstance(manifest, dict):
        return {}, "its manifest is damaged"
    if manifest.get("format") != FORMAT:
        return {}, "its manifest has another format"
    plan, facts = manifest.get("plan"), manifest.get("facts")
    sound = (
        isinstance(manifest.get("name"), str)
        and isinstance(manifest.get("key"), str)
        and isinstance(manifest.get("invalidates"), dict)
        and isinstance(manifest["invalidates"].get("platform"), dict)
        and isinstance(facts, dict)
        and isinstance(plan, dict)
        and isinstance(plan.get("sha256"), str)
        and type(plan.get("bytes")) is int
    )
    return (manifest, None) if sound else ({}, "its manifest is damaged")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, in words, the platform first."""
    changes = []
    platforms = old.get("platform", {}), new.get("platform", {})
    for name in sorted({*platforms[0], *platforms[1]}):
        before, after = (p.get(name) for p in platforms)
        if before != after:
            changes.append(f"{name} changed from {before} to {after}")
    for name in sorted({*old, *new} - {"platform"}):
        if old.get(name) != new.get(name):
            changes.append(f"another {name} is asked for")
    return changes or ["there is none yet"]
