"""The documentation does what it says: its commands run, its Python runs, the options it names exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from docs_harness import DOCUMENTS, ROOT, Reader, blocks, check, command_lines, commands, parser_of, prose
from docs_rules import CHANGES, NAMES, NOT_RUN, prepare

COMMON = {"-h", "--help", "--version", "--completion"}  # explained by --help itself
FLAG = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "footage"
    prepare(folder, tiny_model, tiny_checkpoint)
    return folder


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
each_command = pytest.mark.parametrize("name", sorted(commands()))


@each_document
def test_a_reader_can_follow_a_document(
    document: Path, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(footage, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("HOME", str(tmp_path))  # not the user's
    monkeypatch.setenv("VTSR_CACHE", str(tmp_path / "cache"))
    Reader(CHANGES, NOT_RUN, footage).follow(document, dict(NAMES.get(document.name, {})))


def test_every_rule_is_needed() -> None:
    reader = Reader(CHANGES, NOT_RUN, Path())
    texts = [text for document in DOCUMENTS for text in _texts(document)]
    excuses = {rule.pattern for rule in map(reader.excuse, texts) if rule}
    run = [text for text in texts if not reader.excuse(text)]
    idle = [rule.pattern for rule in NOT_RUN if rule.pattern not in excuses]
    idle += [rule.pattern for rule in CHANGES if not any(re.search(rule.pattern, text) for text in run)]
    assert not idle, f"nothing in the documents needs {idle}; remove from docs_rules.py"


def _texts(document: Path) -> list[str]:
    """All commands and Python blocks of a document."""
    found = blocks(document)
    python = [block.text for block in found if block.language == "python"]
    return python + [text for block in found if block.language == "sh" for _, text in command_lines(block)]


@each_document
def test_commands_stand_where_they_are_run(document: Path) -> None:
    """A command in an indented block or one without a language would be run by nobody."""
    elsewhere = [block.text for block in blocks(document) if block.language not in ("sh", "python")]
    lines = [line for text in elsewhere for line in text.splitlines()]
    lines += [line for line in prose(document).splitlines() if line.startswith("    ")]
    stray = [line for line in lines if line.split()[:1] and line.split()[0] in commands() and " [" not in line]
    assert not stray, f"put these into a block that begins with ```sh: {stray}"


@each_document
def test_options_in_running_text_exist(document: Path) -> None:
    for span in re.findall(r"`([^`]+)`", prose(document)):
        words = span.split()
        if words and words[0] in commands():
            unknown = set(FLAG.findall(span.partition(" ")[2])) - _options(words[0])
            assert not unknown, f"{document.name}: `{span}`: {words[0]} has no {unknown}"


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path) if path else document
        assert found.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in _anchors(found), f"{document.name} links to {target}"


@each_document
def test_nothing_is_left_to_be_filled_in(document: Path) -> None:
    left = re.findall(r"^[A-Z]{3,}$|\b(?:TODO|FIXME|TBD|XXX)\b", document.read_text(encoding="utf-8"), re.M)
    assert not left, f"{document.name} still says {left}"


def test_the_index_lists_every_document() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in DOCUMENTS if path.parent.name == "docs" and f"({path.name})" not in index]
    assert missing == ["README.md"], f"docs/README.md does not mention {missing}"


def test_every_picture_is_shown_somewhere() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    pictures = [path.name for path in (ROOT / "docs" / "images").rglob("*.*") if path.suffix != ".md"]
    assert [name for name in pictures if f"{name})" not in shown] == []


def _anchors(document: Path) -> set[str]:
    """Anchors of the headings of a Markdown file, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_command
def test_every_option_is_explained_in_the_guide(name: str) -> None:
    parser = parser_of(commands()[name])
    named = re.search(r"^guide: (docs/\w+\.md)$", parser.epilog or "", re.M)
    assert named, f"{name} --help names no guide; give its Parser guide=..."
    guide = ROOT / named[1]
    explained = set(FLAG.findall(guide.read_text(encoding="utf-8")))
    actions = parser._actions
    missing = [a.option_strings[-1] for a in actions if a.option_strings and not explained & set(a.option_strings)]
    assert set(missing) <= COMMON, f"{guide.name} does not mention {set(missing) - COMMON}"


@each_command
def test_examples_in_the_help_are_accepted(name: str) -> None:
    parser = parser_of(commands()[name])
    lines = f"{parser.description}\n{parser.epilog or ''}".splitlines()
    examples = [re.split(r"\s{2,}", line.strip())[0] for line in lines if line.strip().startswith(f"{name} ")]
    assert examples, f"{name} --help has no example"
    for example in examples:
        check(f"{name} --help", example)


def _options(name: str) -> set[str]:
    return {option for action in parser_of(commands()[name])._actions for option in action.option_strings}
