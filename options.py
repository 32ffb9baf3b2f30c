"""Options and manners shared by every vtsr command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import vtsr
from vtsr.errors import VtsrError

USAGE_ERROR = 2  # exit code for bad input and bad options alike
INTERRUPTED = 130  # exit code after Ctrl-C, as shells report it
MAX_LEVELS = 4


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.add_argument("--version", action="version", version=f"vtsr {vtsr.__version__}")

    def error(self, message: str) -> Any:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds --levels, --model, --backend, --precision and --threads."""
    parser.add_argument(
        "-l", "--levels", type=int, default=2, metavar="N",
        help=f"recursion levels, 1 to {MAX_LEVELS}: N levels give 2^N times the frame rate (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="default", metavar="NAME|DIR",
        help="a shipped model by name, or a folder written by vtsr-export (default: default)",
    )  # fmt: skip
    parser.add_argument(
        "--backend", default="auto", choices=("auto", "onnxruntime", "tensorrt"),
        help="what runs the network; auto is TensorRT if it works, else ONNX Runtime (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "int8"),
        help="of the network on the CPU; auto is int8 where the model was measured to gain from it (default: auto)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")


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
