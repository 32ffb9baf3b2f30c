"""Runs what the documentation tells readers to run: `sh` and `python` blocks of Markdown, in order, in one folder.

What a machine without a GPU, a network or an hour cannot run is declared in `docs_rules`; of those commands the
options are still checked against the real parsers.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtsr.options import Parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```\s*$", re.M | re.S)
COMMENT = re.compile(r"\s+#\s.*$")
ASSIGNMENT = re.compile(r"[A-Z_]+=")
# What only a shell can do, apart from running one command after another.
SHELL_ONLY = {"|", ">", ">>", "<", "&", "for", "do", "done", "export", "cd"}
Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the line of the document at which the text begins."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """All fenced blocks of a Markdown file, in order."""
    source = document.read_text(encoding="utf-8")
    return [
        Block(document, source[: match.start("text")].count("\n") + 1, match["language"], _dedent(match))
        for match in FENCE.finditer(source)
    ]


def _dedent(match: re.Match[str]) -> str:
    return re.sub(f"^{match['indent']}", "", match["text"], flags=re.M)


def prose(document: Path) -> str:
    """A Markdown file without its fenced blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def command_lines(block: Block) -> list[tuple[str, str]]:
    """Commands of an ``sh`` block as (place, text): continuations joined, comments gone, split at ``&&`` and ``;``."""
    lines, pending, began = [], "", 0
    for number, line in enumerate(block.text.splitlines()):
        began = began if pending else number
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        place = f"{block.document.relative_to(ROOT)}:{block.line + began}"
        sequence = list(_sequence(tokens(pending)))
        if len(sequence) == 1:  # as it is, with wildcards and variables
            lines.append((place, COMMENT.sub("", pending).strip()))
        else:
            lines += [(place, " ".join(word if word in SHELL_ONLY else shlex.quote(word) for word in words))
                      for words in sequence]  # fmt: skip
        pending = ""
    return lines


def tokens(line: str) -> list[str]:
    """Words and operators of a shell line, without its comment."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def _sequence(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", ";"):
            if command:
                yield command
            command = []
        else:
            command.append(word)


def stages(text: str) -> list[list[str]]:
    """The programs of a pipeline, each as its words without variable assignments and redirections."""
    out: list[list[str]] = [[]]
    words = iter(tokens(text))
    for word in words:
        if word == "|":
            out.append([])
        elif word in (">", ">>", "<"):
            next(words, None)
        elif word != "&" and (out[-1] or not ASSIGNMENT.match(word)):
            out[-1].append(word)
    return [stage for stage in out if stage]


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


def commands() -> dict[str, Main]:
    """The package's commands by name, as functions of their arguments."""
    return {name: _loader(target) for name, target in project()["scripts"].items()}


def _loader(target: str) -> Main:
    module, function = target.split(":")
    return lambda argv: getattr(importlib.import_module(module), function)(argv)


class _Parsed(Exception):
    pass


def parser_of(main: Main) -> Parser:
    """The argument parser a command builds, caught before it parses."""
    found: list[Parser] = []

    def catch(self: Parser, args: Any = None, namespace: Any = None) -> Any:
        found.append(self)
        raise _Parsed

    with _replaced(Parser, "parse_args", catch), contextlib.suppress(_Parsed):
        main([])
    return found[0]


def refuses(main: Main, argv: Sequence[str]) -> str | None:
    """What the command's parser says against these arguments; None if it takes them. Nothing is run."""
    parser = parser_of(main)
    said: list[str] = []

    def error(self: Parser, message: str) -> Any:
        said.append(message)
        raise _Parsed

    with _replaced(Parser, "error", error), contextlib.suppress(_Parsed):
        parser.parse_args(list(argv))
    return said[0] if said else None


@contextlib.contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


def check(place: str, text: str) -> None:
    """Fails if a command names an option, a file of the repository or an extra that is not there."""
    for words in stages(text):
        program, arguments = words[0], words[1:]
        if program in ("python", "torchrun") and "-m" in arguments:
            at = arguments.index("-m")
            program, arguments = f"-m {arguments[at + 1]}", arguments[at + 2 :]
        if program.startswith("vtsr-"):
            assert program in commands(), f"{place}: there is no command {program}"
            _check_arguments(place, text, commands()[program], arguments)
        elif program.startswith("-m vtsr."):
            _check_arguments(place, text, _loader(f"{program[3:]}:main"), arguments)
        elif program == "pip":
            for extras in re.findall(r"\[([\w,-]+)\]", text):
                unknown = set(extras.split(",")) - set(project()["optional-dependencies"])
                assert not unknown, f"{place}: there is no extra {unknown}"
        elif program in ("python", "pytest", "bash") or "/" in program:
            given = [program] if "-c" in arguments else [program, *arguments]
            named = [word.split("::")[0] for word in given if "/" in word and not word.startswith("-")]
            for path in named[:1]:
                assert (ROOT / path).exists(), f"{place}: there is no {path}"


def _check_arguments(place: str, text: str, main: Main, arguments: Sequence[str]) -> None:
    if not {"--help", "--version", "--completion"} & set(arguments):
        wrong = refuses(main, arguments)
        assert wrong is None, f"{place}: `{text}` is refused: {wrong}"


@dataclass(frozen=True)
class Change:
    """Commands that match ``pattern`` run with ``replacement`` in its place (`re.sub`)."""

    pattern: str
    replacement: str
    why: str


@dataclass(frozen=True)
class NotRun:
    """Commands, or Python blocks, that contain ``pattern`` are checked and not run.

    makes
        What a reader would have afterwards, for the commands that follow: new path -> prepared path.
    """

    pattern: str
    why: str
    makes: dict[str, str] = field(default_factory=dict)


class Reader:
    """Follows a document in the current folder, as a reader would, under the rules given."""

    def __init__(self, changes: Sequence[Change], not_run: Sequence[NotRun], prepared: Path) -> None:
        self.changes, self.not_run, self.prepared = changes, not_run, prepared

    def follow(self, document: Path, names: dict[str, Any]) -> None:
        """Runs all ``sh`` and ``python`` blocks; Python blocks share ``names``."""
        for block in blocks(document):
            if block.language == "sh":
                for place, text in command_lines(block):
                    self.command(place, text)
            elif block.language == "python":
                self.python(block, names)

    def command(self, place: str, text: str) -> None:
        check(place, text)
        rule = self.excuse(text)
        if rule:
            self._make(rule)
            return
        for change in self.changes:
            text = re.sub(change.pattern, change.replacement, text)
        words = tokens(text)
        if not SHELL_ONLY & set(words) and words[0] in commands():
            code = _run(commands()[words[0]], words[1:])
        else:
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            code = subprocess.run(["sh", "-c", text], env={**os.environ, "PATH": path}, check=False).returncode
        assert code == 0, f"{place}: `{text}` ended with code {code}"

    def python(self, block: Block, names: dict[str, Any]) -> None:
        code = compile("\n" * (block.line - 1) + block.text, str(block.document), "exec")
        rule = self.excuse(block.text)
        if rule:
            _check_imports(block)
            self._make(rule)
        else:
            names.setdefault("__name__", "__documented__")
            exec(code, names)

    def excuse(self, text: str) -> NotRun | None:
        """The rule by which a command or block is not run."""
        return next((rule for rule in self.not_run if re.search(rule.pattern, text)), None)

    def _make(self, rule: NotRun) -> None:
        for made, source in rule.makes.items():
            Path(made).parent.mkdir(parents=True, exist_ok=True)
            origin = self.prepared / source
            if origin.is_dir():
                shutil.copytree(origin, made, dirs_exist_ok=True)
            else:
                shutil.copyfile(origin, made)


def _run(main: Main, arguments: Sequence[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:  # --help, and options that are refused
        return int(stop.code or 0)


def _check_imports(block: Block) -> None:
    """Every name a block imports from this package exists, where its module can be imported here."""
    for module, imported in re.findall(r"^from (vtsr[\w.]*) import (.+)$", block.text, re.M):
        loaded = importlib.import_module(module)
        for name in imported.split(","):
            assert hasattr(loaded, name.split(" as ")[0].strip()), f"{block.place}: {module} has no {name.strip()}"
