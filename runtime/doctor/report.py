"""Findings of the doctor, as text for people and as plain data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "missing", "broken"]
MARKS: dict[State, str] = {"ok": "ok", "missing": "--", "broken": "!!"}
NAME_WIDTH, LINE_WIDTH = 16, 110
_INDENT = " " * (2 + 4 + NAME_WIDTH + 1)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    state
        ``"ok"``; ``"missing"``: something optional is not there; ``"broken"``: nothing works without it.
    text
        What was found.
    advice
        The sentence to act on; every finding that is not ok has one.
    facts
        The same for programs.
    """

    name: str
    state: State
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """At most `LINE_WIDTH` characters each."""
        first = f"  {MARKS[self.state]}  {self.name:<{NAME_WIDTH}} "
        wrapped = textwrap.wrap(self.text, LINE_WIDTH - len(_INDENT)) or [""]
        lines = [(first + wrapped[0]).rstrip(), *(_INDENT + line for line in wrapped[1:])]
        advice = textwrap.wrap(self.advice, LINE_WIDTH - len(_INDENT) - 3)
        return lines + [_INDENT + ("-> " if number == 0 else "   ") + line for number, line in enumerate(advice)]


@dataclass(frozen=True)
class Section:
    """Findings that belong together."""

    title: str
    findings: tuple[Finding, ...]


def is_usable(sections: Iterable[Section]) -> bool:
    """Whether nothing that is needed is broken."""
    return all(finding.state != "broken" for section in sections for finding in section.findings)


def as_text(sections: Iterable[Section]) -> str:
    """The report for people; ``--`` marks what is missing but optional, ``!!`` what is broken."""
    blocks = []
    for section in sections:
        lines = [section.title, *(line for finding in section.findings for line in finding.lines())]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def as_data(sections: Iterable[Section]) -> dict[str, Any]:
    """The report as JSON takes it."""
    sections = tuple(sections)
    return {
        "usable": is_usable(sections),
        "sections": {
            section.title: [
                {
                    "name": finding.name, "state": finding.state, "text": finding.text, "advice": finding.advice,
                    **({"facts": finding.facts} if finding.facts else {}),
                }
                for finding in section.findings
            ]
            for section in sections
        },
    }  # fmt: skip
