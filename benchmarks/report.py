"""Results to Markdown: the text that vtsr-bench prints, and docs/performance.md.

    python -m vtsr.benchmarks.report

writes docs/performance.md and its plots from benchmarks/results/ of a checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vtsr.benchmarks.front import dominators, front
from vtsr.benchmarks.growth import growths
from vtsr.benchmarks.results import CPU, GPU, Results, Row, load
from vtsr.errors import InputError, OutputError
from vtsr.options import Parser, run_cli

ROOT = Path(__file__).parent.parent
SPEED_WORK = "speed-work.json"  # what was made faster: a list of seen, change, predicted, gained
BUSY = 0.15  # share of the cores that others use from which on a machine counts as busy
AIMS = {"eager": 3.0, "int8": 1.3, "cold": 1.0, "overhead": 0.10}  # what the project wants to reach

Lines = list[str]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Lines:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [*lines, ""]


def ms(seconds: float) -> str:
    """Milliseconds with three digits."""
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(factor: float | None) -> str:
    return "" if factor is None else f"{factor:.2f}"


def fps(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def text(results: Results) -> str:
    """The results of one run for a terminal."""
    sections = cpu_sections(results) if results.kind == CPU else gpu_sections(results)
    return "\n".join([line for section in sections for line in section if not line.startswith("![")])


def cpu_sections(results: Results) -> list[Lines]:
    """Every section for which there are rows."""
    makers: list[Callable[[Results], Lines]] = [
        in_short, machine, engines, sizes, levels, batches, threads, presets, pipeline, cold_start, memory, growth,
        competitors, roofline, left_out,
    ]  # fmt: skip
    return [lines for lines in (make(results) for make in makers) if lines]


def busy(results: Results) -> bool:
    """Whether other programs were using the machine when the run began."""
    share = results.machine.get("busy_before")
    return share is not None and share > BUSY


def in_short(results: Results) -> Lines:
    """The ratios the project has set itself aims for, reached or not."""
    lines: Lines = []

    def say(what: str, reached: bool, aim: str) -> None:
        verdict = "not judged on a busy machine" if busy(results) else "reached" if reached else "not reached"
        lines.append(f"- {what} (aim: {aim}; {verdict})")

    for row in results.of("engines", engine="ONNX Runtime fp32"):
        if "ratio" in row:
            say(f"ONNX Runtime fp32 is **{row['ratio']:.2f} times** as fast as PyTorch eager",
                row["ratio"] >= AIMS["eager"], f"{AIMS['eager']:g} times")  # fmt: skip
    for row in results.of("engines", engine="ONNX Runtime int8"):
        if "ratio_fp32" in row:
            say(f"int8 is **{row['ratio_fp32']:.2f} times** as fast as fp32", row["ratio_fp32"] >= AIMS["int8"],
                f"{AIMS['int8']:g} times where the CPU has integer dot products")  # fmt: skip
    for row in results.of("overhead"):
        say(f"decoding, encoding and everything else cost **{row['overhead']:.1%}** on top of the network's own time",
            row["overhead"] <= AIMS["overhead"], f"{AIMS['overhead']:.0%}")  # fmt: skip
    for row in results.of("cold start"):
        say(f"from the start of the program to the first finished frame: **{row['seconds']:.2f} s**",
            row["seconds"] <= AIMS["cold"], f"{AIMS['cold']:g} s")  # fmt: skip
    return ["## In short", "", *lines, ""] if lines else []


def machine(results: Results) -> Lines:
    facts = results.machine
    vectors = ", ".join(facts.get("vectors", [])) or "no vector extensions that count here"
    memory = f", {facts['memory_gib']:g} GiB" if facts.get("memory_gib") else ""
    threads = next((row["threads"] for row in results.rows if "threads" in row), facts.get("cores"))
    libraries = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    lines = [
        "## Machine", "",
        f"{facts.get('cpu')}, {facts.get('cores')} cores ({vectors}){memory}, {facts.get('system')}; "
        f"{threads} threads for every contestant that can use them.",
        f"{libraries}; revision {results.revision or 'unknown'}, {results.date}.",
    ]  # fmt: skip
    if busy(results):
        lines.append(
            f"**Other programs were using {facts['busy_before']:.0%} of the machine before the run: seconds are too "
            "long, and ratios of what uses several threads are doubtful.**"
        )
    if results.facts.get("quick"):
        lines.append("Measured with `--quick`: small frames and few rounds.")
    return [*lines, ""]


def engines(results: Results) -> Lines:
    rows = results.of("engines")
    if not rows:
        return []
    return [
        "## Against PyTorch", "",
        f"One step on one pair of {rows[0]['size']} frames, the same weights and inputs everywhere, outputs compared. "
        "All engines run in turn in every round; a ratio is the median over rounds.", "",
        *table(
            ("engine", "times as fast as PyTorch eager", "ms", "spread of the middle half"),
            ((r["engine"], times(r.get("ratio")), ms(r["seconds"]), f"{r['spread']:.0%}") for r in rows),
        ),
    ]  # fmt: skip


def sizes(results: Results) -> Lines:
    rows = results.of("sizes")
    if not rows:
        return []
    names = list(dict.fromkeys(r["engine"] for r in rows))
    body = []
    for size in dict.fromkeys(r["size"] for r in rows):
        here = {r["engine"]: r for r in rows if r["size"] == size}
        body.append([size, *(f"{ms(here[n]['seconds'])} ({times(here[n].get('ratio'))})" if "ratio" in here[n]
                             else ms(here[n]["seconds"]) for n in names)])  # fmt: skip
    return [
        "## Time by size", "",
        "Milliseconds per pair of frames, and times as fast as PyTorch eager in the same round.", "",
        *table(("size", *names), body), "![time by size](images/performance-sizes.png)", "",
    ]  # fmt: skip


def levels(results: Results) -> Lines:
    rows = results.of("levels")
    if not rows:
        return []
    return [
        "## Recursion levels", "",
        f"One more input frame of {rows[0]['size']} through the whole recursion, pixels in, pixels out. Level N takes "
        "2^N - 1 pairs per input frame and gives 2^N output frames.", "",
        *table(
            ("precision, levels", "pairs", "ms per input frame", "ms per pair", "output frames per second"),
            ((f"{r['precision']}, {r['levels']}", r["pairs"], ms(r["seconds"]), ms(r["seconds"] / r["pairs"]),
              fps(r["fps_out"])) for r in rows),
        ),
    ]  # fmt: skip


def batches(results: Results) -> Lines:
    rows = results.of("batches")
    if not rows:
        return []
    return [
        "## Batches", "",
        f"Pairs of {rows[0]['size']} in one call, as a level runs them, against one by one.", "",
        *table(
            ("precision, batch", "ms per pair", "times as fast as batch 1"),
            ((f"{r['precision']}, {r['batch']}", ms(r["seconds"]), times(r["ratio"])) for r in rows),
        ),
    ]  # fmt: skip


def threads(results: Results) -> Lines:
    rows = results.of("threads")
    if not rows:
        return []
    return [
        "## Threads", "",
        *table(
            ("precision, threads", "ms per pair", "times as fast as one thread", "of the ideal"),
            ((f"{r['precision']}, {r['threads']}", ms(r["seconds"]), times(r["ratio"]),
              f"{r['ratio'] / r['threads']:.0%}") for r in rows),
        ),
    ]  # fmt: skip


def presets(results: Results) -> Lines:
    rows = results.of("presets")
    if not rows:
        return []
    shipped = next((r for r in rows if r["shipped"]), rows[0])
    return [
        "## Presets", "",
        f"What the sizes of network that `vtsr-train` knows cost, untrained, in fp32 at {rows[0]['size']}; "
        "counted from their graphs.", "",
        *table(
            ("preset", "multiply-adds per pixel", "bytes per pixel", "weights, MB", "ms per pair",
             f"times {shipped['preset']}"),
            ((r["preset"], f"{r['macs_per_pixel']:,.0f}", f"{r['bytes_per_pixel']:.0f}",
              f"{r['weight_bytes'] / 1e6:.1f}", ms(r["seconds"]), times(r["seconds"] / shipped["seconds"]))
             for r in rows),
        ),
    ]  # fmt: skip


def pipeline(results: Results) -> Lines:
    rows, overheads = results.of("pipeline"), results.of("overhead")
    if not rows:
        return []
    stream = next(r for r in rows if r["what"] == "stream")
    stages = stream["stages"]
    work = stages["decode"] + stages["network"] + stages["encode"]
    lines = [
        "## Whole conversions", "",
        f"`vtsr-upconvert` on a {stream['size']} H.264 clip of {stream['frames']} frames to {2 ** stream['levels']} "
        f"times the rate ({stream['precision']}), against the loop one writes first: the whole video in memory, one "
        "pair at a time, one thing after the other, with the same decoder, network and encoder. Loading the model is "
        "included.", "",
        *table(
            ("", "times as fast", "output frames per second", "peak memory, MiB"),
            ((({"naive": "naive loop", "stream": "vtsr-upconvert"})[r["what"]], times(r["ratio"]), fps(r["fps_out"]),
              f"{r['peak_mib']:.0f}") for r in rows),
        ),
        f"While it runs, decoding is at work for {stages['decode'] / work:.1%} of the time that all stages add up to, "
        f"the network for {stages['network'] / work:.1%}, encoding for {stages['encode'] / work:.1%}; they overlap.",
    ]  # fmt: skip
    for row in overheads:
        lines.append(
            f"The conversion takes {row['job_s']:.2f} s; the same steps of the network with nothing beside them take "
            f"{row['steps_s']:.2f} s: an overhead of {row['overhead']:.1%} (median of ratios within a round)."
        )
    return [*lines, ""]


def cold_start(results: Results) -> Lines:
    rows = results.of("cold start")
    if not rows:
        return []
    row = rows[0]
    return [
        "## Cold start", "",
        f"From the start of a Python process to its end, with one finished frame of {row['size']} "
        f"({row['precision']}); files are in the system's cache.", "",
        *table(
            ("stage", "seconds"),
            (
                ("Python itself, which does nothing", f"{row['interpreter_s']:.2f}"),
                ("importing vtsr, NumPy, OpenCV, ONNX Runtime", f"{row['import_s']:.2f}"),
                ("loading the model, optimising its graph", f"{row['session_s']:.2f}"),
                ("first frame", f"{row['first_frame_s']:.2f}"),
                ("**in all**", f"**{row['seconds']:.2f}**"),
            ),
        ),
    ]  # fmt: skip


def memory(results: Results) -> Lines:
    rows = results.of("memory")
    if not rows:
        return []
    levels = sorted({r["levels"] for r in rows})
    found = {(r["size"], r["levels"]): r["peak_mib"] for r in rows}
    body = [
        [size, *(f"{found[size, n]:.0f}" if (size, n) in found else "" for n in levels)]
        for size in dict.fromkeys(r["size"] for r in rows)
    ]
    base = sorted(r["base_mib"] for r in rows)[len(rows) // 2]
    return [
        "## Peak memory", "",
        f"Resident, in MiB, of a process that upconverts a stream ({rows[0]['precision']}); {base:.0f} of it are "
        "Python, its libraries and the model. Empty: not measured, as it would take minutes.", "",
        *table(("size", *(f"level {n}" for n in levels)), body),
    ]  # fmt: skip


def growth(results: Results) -> Lines:
    found = growths(results.rows)
    if not found:
        return []
    return [
        "## How cost grows", "",
        "Exponents p of cost ~ x^p, fitted to the figures above; 1 is proportional, 0 is constant. Memory by pixels "
        "and pairs is what comes on top of the loaded program.", "",
        *table(
            ("cost against x", "exponent", "deviation from the law"),
            ((f"{g.cost} against {g.against}, {g.label}", f"{g.exponent:.2f}", f"{g.residual:.0%}") for g in found),
        ),
        "![how cost grows](images/performance-growth.png)", "",
    ]  # fmt: skip


def competitors(results: Results) -> Lines:
    rows = results.of("competitors")
    if not rows:
        return []
    ffmpeg = results.versions.get("ffmpeg")
    program = f"of ffmpeg {ffmpeg}" if ffmpeg else "of ffmpeg"
    clips = sorted(rows[0]["psnr_by_clip"])
    lines = [
        "## Against other methods", "",
        f"Quality is PSNR by the protocol of [evaluation.md](evaluation.md), mean over clips that "
        f"the project renders ({', '.join(clips)}); speed is that of {rows[0]['size']} frames in memory to frames in "
        f"memory on the same machine at the same output rate. `minterpolate` is the filter {program} (reading its "
        "input is taken off its time; it uses one thread by design; \"best\" is aobmc, bidir and vsbmc), `flow` "
        "OpenCV's DIS optical flow with warping (\"fast\": computed at half size), `+law` with our exposure law on top"
        ", `blend` linear blending.", "",
        "![quality against speed](images/performance-quality.png)", "",
    ]  # fmt: skip
    levels = sorted({r["levels"] for r in rows})
    names = list(dict.fromkeys(r["method"] for r in rows))
    cells: dict[tuple[str, int], Row] = {(r["method"], r["levels"]): r for r in rows}
    heads = ("method", *(f"x{2**n}: PSNR, dB | fps" for n in levels))
    body = [
        [name, *(f"{cells[name, n]['psnr']:.2f} | {fps(cells[name, n]['fps_out'])}" for n in levels)] for name in names
    ]
    wide = table(heads, body)
    wide[1] = "| --- |" + " ---: | ---: |" * len(levels)
    return [*lines, *wide, *(front_sentence([r for r in rows if r["levels"] == n]) for n in levels), ""]


def front_sentence(rows: Sequence[Row]) -> str:
    """Which methods nothing beats in both quality and speed, and whether all of them are ours."""
    points = {r["method"]: (r["fps_out"], r["psnr"]) for r in rows}
    best = front(points)
    ours = {r["method"] for r in rows if r["ours"]}
    factor = 2 ** rows[0]["levels"]
    others = [name for name in best if name not in ours]
    said = f"At x{factor} nothing is better in both than {_list(best)}"
    if not others:
        said += ": the front is ours."
    else:
        said += f"; {_list(others)} {'is' if len(others) == 1 else 'are'} on the front because of "
        quick = [name for name in others if points[name][0] > max((points[o][0] for o in ours), default=0.0)]
        said += "their speed." if len(quick) == len(others) and len(others) > 1 else (
            "its speed." if len(quick) == len(others) else "quality at their speed."
        )  # fmt: skip
    for name in sorted(ours - set(best)):
        said += f" {name} is behind {_list(dominators(points, name))}."
    return f"- {said}"


def _list(names: Sequence[str]) -> str:
    quoted = [f"*{name}*" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def roofline(results: Results) -> Lines:
    rows = results.of("roofline")
    if not rows:
        return []
    first = rows[0]
    peaks = "; ".join(
        f"{r['precision']} {r['peak_gops']:,.0f} G operations per second"
        for r in {row["precision"]: row for row in rows}.values()
    )
    return [
        "## Roofline", "",
        "Multiply-adds and bytes are counted from the step graph (bytes: inputs and outputs of convolutions, all else "
        f"fused into them). The roofs are measured in the same run with {first['threads']} threads: a large matrix "
        f"product in ONNX Runtime ({peaks}) and copies between arrays beyond the caches "
        f"({first['bandwidth_gbs']:.1f} GB/s).", "",
        *table(
            ("precision, size", "multiply-adds per pixel", "bytes per pixel", "limit, ms", "set by", "measured, ms",
             "of the limit reached"),
            ((f"{r['precision']}, {r['size']}", f"{r['macs_per_pixel']:,.0f}", f"{r['bytes_per_pixel']:.0f}",
              ms(r["limit_s"]), r["bound"], ms(r["seconds"]), f"{r['fraction']:.0%}") for r in rows),
        ),
        "![roofline](images/performance-roofline.png)", "",
    ]  # fmt: skip


def left_out(results: Results) -> Lines:
    if not results.missing:
        return []
    return ["## Not measured", "", *(f"- {reason}" for reason in results.missing), ""]


def gpu_sections(results: Results) -> list[Lines]:
    """Goals first, then a table for every kind of row, with the columns the rows have."""
    facts = results.machine
    libraries = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    measured = f"Measured on {facts.get('GPU', 'an unknown GPU')} ({facts.get('cpu', 'unknown CPU')}): {libraries}"
    sections = [[f"{measured}; revision {results.revision or 'unknown'}, {results.date}.", ""]]
    goals = results.of("goals")
    if goals:
        said = (f"- {g['goal']} {_cell(g['aim'])}: **{_cell(g['value'])}**"
                f" ({'reached' if g['reached'] else 'not reached'})" for g in goals)  # fmt: skip
        sections.append([*said, ""])
    for bench in dict.fromkeys(str(row["bench"]) for row in results.rows if row["bench"] != "goals"):
        rows = results.of(bench)
        columns = [c for c in dict.fromkeys(name for row in rows for name in row) if c != "bench"]
        body = [[_cell(row.get(column, "")) for column in columns] for row in rows]
        heads = [column.replace("_", " ") for column in columns]
        sections.append([f"### {bench[:1].upper()}{bench[1:]}", "", *table(heads, body)])
    if results.missing:
        sections.append(["### Not measured on the GPU", "", *(f"- {reason}" for reason in results.missing), ""])
    return sections


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


INTRODUCTION = """# Performance

<!-- Generated by `python -m vtsr.benchmarks.report` from benchmarks/results/; change those or the generator. -->

Every figure on this page comes from a file in `benchmarks/results/`. `vtsr-bench` measures the same on your machine
(`pip install "vtsr[bench]"`; with PyTorch beside it, `vtsr[bench,train]`, it compares with that too):

```sh
vtsr-bench --quick
vtsr-bench --json mine.json --plot plots
```

`--cpu` is the default; `--gpu` measures the TensorRT runtime. `--sizes`, `--levels` and `--precisions` choose what
is measured, `--only` single measurements by name, `--model` the model and `--threads` the number of threads;
`--quick` takes small frames and few rounds; `--json` writes all figures, `--plot` plots, `--quiet` prints nothing.
Contestants run in turn in every round, under [pytest-benchmark](https://pytest-benchmark.readthedocs.io); where two
are compared, the ratio is the median over rounds of the ratio within a round, which a busy machine disturbs least.
Seconds are medians too. All footage is rendered on the spot, so that anybody can repeat every figure.
"""

SPEED_WORK_FROM = (
    "From ONNX Runtime's profiler and clocks of CPU time, on one thread of an AMD EPYC (Zen 5) with ONNX Runtime 1.31 "
    "and the first default model (46,248 multiply-adds per pixel); ratios are medians over rounds in turn."
)
NO_CPU = "The CPU has not been measured with this version yet; `benchmarks/run_cpu.sh` does it in about ten minutes."
NO_GPU = (
    "The TensorRT runtime has not been measured on a GPU yet; `benchmarks/run_gpu.sh` builds, checks and times "
    "everything where there is one."
)


def performance(results: Sequence[Results], speed_work: Sequence[Row] = ()) -> str:
    """docs/performance.md."""
    lines = [*INTRODUCTION.splitlines(), ""]
    cpus = [r for r in results if r.kind == CPU]
    for found in cpus:
        lines += [line for section in cpu_sections(found) for line in section]
    if not cpus:
        lines += [NO_CPU, ""]
    lines += ["## NVIDIA GPUs", ""]
    gpus = [r for r in results if r.kind == GPU]
    for found in gpus:
        lines += [line for section in gpu_sections(found) for line in section]
    if not gpus:
        lines += [NO_GPU, ""]
    if speed_work:
        lines += ["## Where the time goes, and what was tried", "", SPEED_WORK_FROM, ""]
        body = [(r["seen"], r["change"], r["predicted"], r["gained"]) for r in speed_work]
        lines += ["| seen in the profile | change | predicted | gained |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(row)} |" for row in body] + [""]
    return "\n".join(lines).rstrip() + "\n"


def committed(folder: Path) -> tuple[list[Results], list[Row]]:
    """The result files of a folder in order of their names, and the notes on speed work."""
    notes = folder / SPEED_WORK
    work = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else []
    return [load(path) for path in sorted(folder.glob("*.json")) if path != notes], work


def _body(args: argparse.Namespace) -> int:
    from vtsr.benchmarks.plots import plot

    folder = args.root / "benchmarks" / "results"
    if not folder.is_dir():
        raise InputError(f"There are no results in {folder}; run this in a checkout, or give one with --root.")
    results, work = committed(folder)
    target = args.root / "docs" / "performance.md"
    for found in results:
        if found.kind == CPU:
            for file in plot(found, args.root / "docs" / "images", "performance-"):
                print(f"written: {file}")
    try:
        target.write_text(performance(results, work), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target} could not be written ({error.strerror}).") from error
    print(f"written: {target}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Writes docs/performance.md; returns the exit code."""
    parser = Parser(prog="python -m vtsr.benchmarks.report", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: where this package lies)")
    return run_cli(parser, _body, argv)


if __name__ == "__main__":
    sys.exit(main())
