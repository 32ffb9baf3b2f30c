"""Shell completion of every command, from its argument parser."""

from __future__ import annotations

import argparse
from pathlib import Path

from vtsr.errors import MissingExtraError

SHELLS = ("bash", "zsh")
# What the placeholders in --help stand for.
FOLDERS = {"DIR", "SCENES"}
FILES = {"FILE", "FILE.json", "PICTURE.png", "IN", "OUT", "CLIP", "CLIPS", "SUITE", "CHECKPOINT"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a command for ``shell``; options whose value is a file or folder complete paths.

    Raises `MissingExtraError` without shtab.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingExtraError(
            'Shell completion needs the extra "completion": pip install "vtsr[completion]".'
        ) from error
    for action in parser._actions:
        words = set(action.metavar.split("|")) if isinstance(action.metavar, str) else set()
        if action.choices is None and words & FOLDERS and not words & FILES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.choices is None and (words & FILES or action.type is Path):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    text: str = shtab.complete(parser, shell)
    return text
