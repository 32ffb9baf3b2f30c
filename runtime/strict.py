"""Reading JSON that others may have written: nothing is accepted that our own writers would not write."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20  # the largest of our files, ranges and recipes, have a few MiB
SHA256 = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")  # no folder, no hidden file, no device


class Malformed(ValueError):
    """What is wrong with a file, in a few words."""


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What a JSON file holds.

    Raises `OSError` if it cannot be read and `Malformed` for what is not strictly JSON (NaN, a name that comes
    twice, another encoding than UTF-8) or is too large or too deep.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Malformed(f"it has more than {max_bytes >> 20} MiB")
    return parse_json(data)


def parse_json(data: bytes | str) -> Any:
    """As `read_json`, of bytes in UTF-8 or a text."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed("it is not JSON") from error


def expect(holds: bool, words: str) -> None:
    """Raises `Malformed` with ``words`` unless it holds."""
    if not holds:
        raise Malformed(words)


def check_keys(data: Any, needed: Collection[str], optional: Collection[str] = (), *, of: str = "it") -> None:
    """Raises `Malformed` unless ``data`` is a table with all names ``needed`` and none but those and ``optional``."""
    expect(isinstance(data, dict), f"{of} is no table")
    missing, unknown = set(needed) - set(data), set(data) - set(needed) - set(optional)
    expect(not missing, f"{of} lacks {_first(missing)}")
    expect(not unknown, f"{of} has an unknown entry {_first(unknown)}")


def is_int(value: Any, low: int, high: int) -> bool:
    """Whether a value is an integer (not a bool) from ``low`` to ``high``."""
    return type(value) is int and low <= value <= high


def _first(names: set[str]) -> str:
    return repr(min(names, default="")[:60])


def _refuse(constant: str) -> Any:
    raise Malformed(f"it holds {constant}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise Malformed("a name comes twice")
    return table
