"""Options and manners shared by every vtsr command.

An option that more than one command has is added by a function of this module, so that it has the same name, the same
short form and the same meaning everywhere. `tests/test_options.py` holds all commands to that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import vtsr
from vtsr.completion import SHELLS, script
from vtsr.errors import VtsrError

USAGE_ERROR = 2  # exit code for bad input and bad options alike
INTERRUPTED = 130  # exit code after Ctrl-C, as shells report it
MAX_LEVELS = 4


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and exit code 2.

    A module's docstring makes a good description: the name of the command in front of it is left out.

    guide
        The document that explains every option, below docs/; --help ends with it.
    """

    def __init__(self, *args: Any, guide: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.description = _sentence(self.description, self.prog)
        if guide:
            self.epilog = f"{self.epilog or ''}\nguide: docs/{guide}".lstrip()
        self.add_argument("--version", action="version", version=f"vtsr {vtsr.__version__}")
        self.add_argument(
            "--completion", action=_Completion, choices=SHELLS, metavar="SHELL",
            help=f"print the completion script for {' or '.join(SHELLS)} and exit",
        )  # fmt: skip

    def error(self, message: str) -> Any:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Completion(argparse.Action):
    """Acts while options are being parsed, before a required argument can be missed, as --help does."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        try:
            print(script(parser, values))
        except VtsrError as error:
            parser.exit(USAGE_ERROR, f"{parser.prog}: {error}\n")
        parser.exit()


def _sentence(description: str | None, prog: str) -> str | None:
    text = (description or "").strip().removeprefix("`").removeprefix(prog).removeprefix("`").removeprefix(":").lstrip()
    return text[:1].upper() + text[1:] or None


def add_levels(parser: argparse._ActionsContainer, default: int = 2, effect: str = "") -> None:
    """Adds -l, --levels; ``effect`` says what they do where it is not the frame rate of the output."""
    effect = effect or "N levels give 2^N times the frame rate"
    parser.add_argument(
        "-l", "--levels", type=int, default=default, metavar="N",
        help=f"recursion levels, 1 to {MAX_LEVELS}: {effect} (default: {default})",
    )  # fmt: skip


def add_model(parser: argparse._ActionsContainer) -> None:
    """Adds --model."""
    parser.add_argument(
        "--model", default="default", metavar="NAME|DIR",
        help="a shipped model by name, or a folder written by vtsr-export (default: default)",
    )  # fmt: skip


def add_backend(parser: argparse._ActionsContainer) -> None:
    """Adds --backend."""
    parser.add_argument(
        "--backend", default="auto", choices=("auto", "onnxruntime", "tensorrt"),
        help="what runs the network; auto is TensorRT if it works, else ONNX Runtime (default: auto)",
    )  # fmt: skip


def add_threads(parser: argparse._ActionsContainer, default: int | None = None) -> None:
    """Adds --threads; None stands for all cores."""
    parser.add_argument(
        "--threads", type=int, default=default, metavar="N", help=f"CPU threads (default: {default or 'all cores'})"
    )


def add_quiet(parser: argparse._ActionsContainer) -> None:
    """Adds -q, --quiet."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary; warnings are still shown")


def add_yes(parser: argparse._ActionsContainer) -> None:
    """Adds -y, --yes."""
    parser.add_argument("-y", "--yes", action="store_true", help="replace existing output")


def add_seed(parser: argparse._ActionsContainer) -> None:
    """Adds --seed."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="of all random choices: the same seed, the same result (default: 0)",
    )  # fmt: skip


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """Adds --levels, --model, --backend, --precision and --threads."""
    add_levels(parser)
    add_model(parser)
    add_backend(parser)
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "int8"),
        help="of the network on the CPU; auto is int8 where the model was measured to gain from it (default: auto)",
    )  # fmt: skip
    add_threads(parser)


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """Inside, SIGTERM (`kill`, a batch system's time limit) ends a command as Ctrl-C does: cleanly."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(number: int, place: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_cli(
    parser: Parser, body: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None
) -> int:
    """Parses ``argv``, runs ``body`` and returns its exit code; errors become one sentence on stderr."""
    args = parser.parse_args(argv)
    try:
        return body(args)
    except VtsrError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"{parser.prog}: the reader of the output closed it.", file=sys.stderr)
        return USAGE_ERROR
