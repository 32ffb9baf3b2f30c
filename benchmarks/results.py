"""Result files: what vtsr-bench and benchmarks/run_gpu.sh write, and what docs/performance.md is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.errors import InputError, OutputError

CPU = "cpu"
GPU = "tensorrt"

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """One run on one machine.

    kind
        `CPU` or `GPU`.
    machine, versions, revision
        See `vtsr.benchmarks.machine`.
    rows
        What was measured; ``bench`` says which measurement a row belongs to.
    missing
        What was not measured, one sentence each.
    """

    kind: str
    machine: dict[str, Any]
    versions: dict[str, str]
    revision: str
    rows: list[Row]
    date: str = ""
    missing: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, bench: str, **wanted: Any) -> list[Row]:
        """The rows of a measurement, or those of them with given values."""
        rows = [row for row in self.rows if row.get("bench") == bench]
        return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]

    def save(self, path: Path) -> None:
        """Writes the file, which appears when it is complete. Raises `OutputError` if it cannot be written."""
        data = {
            "kind": self.kind, "date": self.date, "machine": self.machine, "versions": self.versions,
            "revision": self.revision, **self.facts, "missing": self.missing, "rows": rounded(self.rows),
        }  # fmt: skip
        temporary = path.with_name(path.name + ".partial")
        try:
            temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise OutputError(f"The results {path} could not be written ({error.strerror}).") from error


def load(path: Path) -> Results:
    """A result file. Raises `InputError` if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = Results(
            kind=str(data.pop("kind")), machine=dict(data.pop("machine")), versions=dict(data.pop("versions")),
            revision=str(data.pop("revision")), rows=[dict(row) for row in data.pop("rows")],
            date=str(data.pop("date", "")), missing=[str(reason) for reason in data.pop("missing", [])], facts=data,
        )  # fmt: skip
        if found.kind not in (CPU, GPU) or not all("bench" in row for row in found.rows):
            raise ValueError(f"unknown kind {found.kind!r}, or rows that do not name their measurement")
        return found
    except OSError as error:
        raise InputError(f"The results {path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds no results of vtsr-bench; measure again with --json.") from error


def rounded(value: Any) -> Any:
    """The same with floats to five significant digits: more would be noise, and change with every run."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value
