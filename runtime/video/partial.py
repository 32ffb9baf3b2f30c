"""Output that appears under its final name only when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from vtsr.errors import OutputError


class PartialFile:
    """A hidden file beside ``path`` that takes its name on `commit`.

    Raises `OutputError` if the folder is missing or may not be written, or if ``path`` exists and
    ``overwrite`` is false.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path = path
        folder = path.parent
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give the output a file name, such as {path / 'out.mp4'}.")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; add -y to replace it or choose another name.")
        check_folder(folder)
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".part" + path.suffix, dir=folder)
        except OSError as error:
            raise OutputError(
                f"Nothing can be written into {folder} ({error.strerror}); choose another folder."
            ) from error
        os.close(handle)
        self.working = Path(name)
        # mkstemp makes files private; the output gets the permissions any new file would have.
        os.chmod(self.working, 0o666 & ~_umask())

    def commit(self) -> None:
        """Gives the finished file its name."""
        os.replace(self.working, self.path)

    def keep(self) -> Path:
        """Keeps what there is as ``NAME.partial`` and returns that path."""
        kept = self.path.with_name(self.path.name + ".partial")
        os.replace(self.working, kept)
        return kept

    def discard(self) -> None:
        self.working.unlink(missing_ok=True)


class PartialFolder:
    """A hidden folder beside ``folder`` whose files move there on `commit`.

    Raises `OutputError` as `PartialFile` does; ``taken`` are files in ``folder`` that would be replaced, ``working``
    an existing folder to be used instead of a new one.
    """

    def __init__(
        self, folder: Path, taken: list[Path], overwrite: bool = False, working: Path | None = None
    ) -> None:
        self.path = folder
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; give a folder for the images.")
        if taken and not overwrite:
            raise OutputError(
                f"{folder} holds images of that name already; add -y to replace them or choose another folder."
            )
        check_folder(folder.parent)
        self._taken = taken
        if working is not None:
            self.working = working
            return
        try:
            self.working = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        except OSError as error:
            raise OutputError(
                f"Nothing can be written into {folder.parent} ({error.strerror}); choose another folder."
            ) from error
        os.chmod(self.working, 0o777 & ~_umask())

    def commit(self, names: set[str] | None = None) -> None:
        """Moves the files to the folder; with ``overwrite``, old images that have not been replaced then go.

        ``names`` are those of all new files, if some were moved by an earlier commit that did not come to its end.
        """
        names = names or {file.name for file in self.working.iterdir()}
        if not self.path.exists():
            os.replace(self.working, self.path)
            return
        for file in sorted(self.working.iterdir()):
            os.replace(file, self.path / file.name)
        for old in self._taken:
            if old.name not in names:
                old.unlink(missing_ok=True)
        self.working.rmdir()

    def keep(self) -> Path:
        kept = self.path.with_name(self.path.name + ".partial")
        if kept.is_dir():
            shutil.rmtree(kept)
        os.replace(self.working, kept)
        return kept

    def discard(self) -> None:
        shutil.rmtree(self.working, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Raises `OutputError` unless ``folder`` is an existing folder."""
    if not folder.exists():
        raise OutputError(f"The output folder {folder} does not exist; create it first.")
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; choose another place for the output.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
