"""The command `vtsr-doctor`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtsr.errors import OutputError, VtsrError
from vtsr.options import Parser, add_backend, add_model, run_cli
from vtsr.runtime.doctor.report import Finding, Section, as_data, as_text, is_usable
from vtsr.runtime.doctor.software import extras, software

DESCRIPTION = "Says what is installed, what would be used and why, and tests that it computes the right thing."
PIPE = "-"
EPILOG = """examples:
  vtsr-doctor                         all there is to know about this machine
  vtsr-doctor --quick --json          for programs, on stdout

exit codes: 0 vtsr works here, 1 something it needs is broken
marks: ok fine, -- not there and not needed, !! broken; -> what to do
"""
NOT_USABLE = 1


def parser() -> Parser:
    """The command's options."""
    options = Parser(prog="vtsr-doctor", description=DESCRIPTION, epilog=EPILOG, guide="doctor.md")
    options.add_argument(
        "--json", nargs="?", const=PIPE, metavar="FILE",
        help="the report as JSON on stdout instead of text, or in FILE beside the text",
    )  # fmt: skip
    options.add_argument("--quick", action="store_true", help="leave out the self-test, which takes seconds")
    add_model(options)
    add_backend(options)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_cli(parser(), examine, argv)


def examine(args: argparse.Namespace) -> int:
    """Prints the report and returns 0 if vtsr is usable."""
    sections = [software()]
    if is_usable(sections):  # everything else needs the packages
        from vtsr.runtime.doctor.codecs import codecs
        from vtsr.runtime.doctor.machine import machine

        sections += [extras(), machine(), codecs(), _models(args.model), _network(args)]
    data = json.dumps(as_data(sections), indent=1) + "\n"
    if args.json == PIPE:
        print(data, end="")
    else:
        if args.json:
            _write(Path(args.json), data)
        print(as_text(sections), end="\n\n")
        print(_verdict(sections))
    return 0 if is_usable(sections) else NOT_USABLE


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The file '{path}' cannot be written: {error.strerror}.") from error


def _models(chosen: str) -> Section:
    from vtsr.runtime.models import shipped_models

    names = shipped_models()
    if not names:
        advice = "Install vtsr again: pip install --force-reinstall vtsr"
        return Section("Models", (Finding("default", "broken", "no model is in the package", advice),))
    return Section("Models", tuple(_model(name) for name in dict.fromkeys([*names, chosen])))


def _model(name: str) -> Finding:
    from vtsr.runtime.models import open_model

    try:
        model = open_model(name)
        size = sum(len(model.read(file)) for file in model.files)
    except VtsrError as error:
        return Finding(name, "broken", "cannot be used", str(error))
    facts = {"path": str(model.path), "files": len(model.files), "bytes": size, "precision": model.precision}
    text = f"{len(model.files)} files, {size / 2**20:.1f} MiB, all hashes right"
    return Finding(name, "ok", text, facts=facts)


def _network(args: argparse.Namespace) -> Section:
    from vtsr.runtime.doctor.choice import choice

    backend, works = choice(args.model, args.backend)
    findings = [backend]
    if works and not args.quick:
        findings.append(_self_test(args))
    return Section("Network", tuple(findings))


def _self_test(args: argparse.Namespace) -> Finding:
    from vtsr.runtime.doctor.selftest import run_self_test

    try:
        test = run_self_test(args.model, args.backend)
    except VtsrError as error:
        return Finding("self-test", "broken", "failed", str(error))
    facts: dict[str, Any] = {
        "psnr_db": round(test.psnr, 2), "nothing_db": round(test.nothing, 2), "gain_db": round(test.gain, 2),
        "seconds": round(test.seconds, 2), "ms_per_frame": round(test.milliseconds, 1),
        "backend": test.backend, "precision": test.precision,
    }  # fmt: skip
    text = (
        f"{test.psnr:.1f} dB, {test.gain:.1f} dB better than doing nothing ({test.nothing:.1f} dB), on a rendered clip "
        f"of 480 x 270 at twice the frame rate; {test.milliseconds:.0f} ms per frame, {test.seconds:.1f} s in all"
    )
    if test.passed:
        return Finding("self-test", "ok", text, facts=facts)
    advice = "The network computes something wrong here: use --precision fp32, or install onnxruntime and vtsr again."
    return Finding("self-test", "broken", text, advice, facts)


def _verdict(sections: Sequence[Section]) -> str:
    broken = [finding.name for section in sections for finding in section.findings if finding.state == "broken"]
    if broken:
        return f"Not usable yet: {', '.join(broken)} (marked !!)."
    tested = any(finding.name == "self-test" for section in sections for finding in section.findings)
    return "vtsr works here." if tested else "Nothing is broken; without --quick the network is tested, too."


if __name__ == "__main__":
    raise SystemExit(main())
