"""One name, one meaning: options that several commands share are the same in all of them."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from docs_harness import commands, parser_of

from vtsr.completion import SHELLS, script

each_command = pytest.mark.parametrize("name", sorted(commands()))


def actions() -> list[tuple[str, argparse.Action]]:
    return [(name, action) for name, main in commands().items() for action in parser_of(main)._actions]


def test_an_option_has_the_same_short_form_everywhere() -> None:
    forms: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for _, action in actions():
        for option in action.option_strings:
            forms[option].add(tuple(sorted(action.option_strings)))
    assert {option: found for option, found in forms.items() if len(found) > 1} == {}


def test_an_option_takes_the_same_kind_of_value_everywhere() -> None:
    kinds: dict[str, set[Any]] = defaultdict(set)
    users: dict[str, list[str]] = defaultdict(list)
    for name, action in actions():
        for option in action.option_strings:
            # Files may state their format: FILE, FILE.json.
            metavar = action.metavar.split(".")[0] if isinstance(action.metavar, str) else None
            kinds[option].add((type(action).__name__.replace("Append", "Store"), metavar))
            users[option].append(name)
    for option in ("-o", "--out"):  # results are a file here and a folder there
        del kinds[option]
    different = {option: (users[option], found) for option, found in kinds.items() if len(found) > 1}
    assert different == {}


@each_command
def test_every_option_says_what_it_does(name: str) -> None:
    silent = [action.dest for action in parser_of(commands()[name])._actions if not action.help]
    assert not silent, f"{name}: no help for {silent}"


@each_command
def test_help_begins_with_what_the_command_does(name: str) -> None:
    description = parser_of(commands()[name]).description or ""
    assert description[:1].isupper(), description
    assert not description.startswith(name)
    assert all(len(line) <= 120 for line in description.splitlines())


@each_command
@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_are_complete(name: str, shell: str) -> None:
    parser = parser_of(commands()[name])
    text = script(parser, shell)
    for action in parser._actions:
        for option in action.option_strings:
            assert option in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vtsr-upconvert --back", {"--backend"}),
        ("vtsr-upconvert --backend ten", {"tensorrt"}),
        ("vtsr-upconvert hol", {"holiday.mp4"}),
        ("vtsr-upconvert holiday.mp4 out.mp4 --lev", {"--levels"}),
        ("vtsr-upconvert --model dep", {"deploy"}),
        ("vtsr-upconvert --report holiday", {"holiday.mp4"}),
    ],
)
def test_bash_completes(line: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").touch()
    (tmp_path / "deployed.txt").touch()  # not a folder
    (tmp_path / "deploy").mkdir()
    loaded = script(parser_of(commands()["vtsr-upconvert"]), "bash")
    words = line.split()
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_vtsr_upconvert; printf '%s\\n' ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{loaded}\n{ask}"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_a_command_prints_its_completion(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else is asked of the command line, not even the input."""
    with pytest.raises(SystemExit) as stop:
        commands()["vtsr-upconvert"](["--completion", "zsh"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("#compdef vtsr-upconvert")


def test_completion_without_shtab_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        commands()["vtsr-upconvert"](["--completion", "bash"])
    assert stop.value.code == 2
    assert 'pip install "vtsr[completion]"' in capsys.readouterr().err
