"""Quality against speed: the shipped models beside what a user would take instead."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import cv2
import pytest

from vtsr.benchmarks.competitors import competitors, find_ffmpeg
from vtsr.benchmarks.footage import WINDOW, high_speed_clips
from vtsr.benchmarks.paired import Work, interleaved
from vtsr.benchmarks.plan import Plan
from vtsr.evaluation.judge import evaluate
from vtsr.evaluation.protocol import levels_of, windows

TIMED_CLIP = 1  # the street at the demo's own speed


def test_competitors(benchmark: Any, plan: Plan) -> None:
    """PSNR per level on rendered clips by the protocol of vtsr-evaluate, and output frames per second."""
    levels = [level for level in plan.levels if level <= levels_of(WINDOW)]
    if not levels:
        pytest.skip("the clips can judge levels 1 to 3 only")
    ffmpeg = find_ffmpeg()
    notes = [] if ffmpeg else ["minterpolate: there is no ffmpeg program on the PATH"]
    clips = list(high_speed_clips(5 if plan.quick else 8))
    if plan.quick:
        clips = clips[: TIMED_CLIP + 1][-1:]
    cv2.setNumThreads(plan.threads)
    contestants = competitors(plan.threads, plan.runtime_precisions, ffmpeg)
    judged = evaluate(clips, [c.method for c in contestants], WINDOW, levels=max(levels), metrics=("psnr",))

    timed = clips[: TIMED_CLIP + 1][-1]
    inputs = [window.blurred for window in windows(timed, WINDOW)]
    works: dict[str, Work] = {}
    for contestant in contestants:
        works |= {f"{contestant.name} {k}": partial(contestant.make, inputs, 2**k) for k in levels}
        if contestant.only_read is not None:
            works[f"{contestant.name} reading"] = partial(contestant.only_read, inputs)
    found = interleaved(benchmark, works, 2 if plan.quick else 3, plan.budget)
    height, width = inputs[0].shape[:2]
    rows = []
    for contestant in contestants:
        reading = statistics.median(found.get(f"{contestant.name} reading", [0.0]))
        for level in levels:
            factor = 2**level
            whole = statistics.median(found[f"{contestant.name} {level}"])
            spent = whole - reading if whole > reading else whole  # starting a program can vary by more than it does
            scores = {s.clip: s.psnr for s in judged.scores if s.method == contestant.name and s.factor == factor}
            rows.append({
                "bench": "competitors", "method": contestant.name, "ours": contestant.ours,
                "precision": contestant.precision, "size": f"{width}x{height}", "levels": level,
                "threads": plan.threads, "psnr": statistics.fmean(scores.values()), "psnr_by_clip": scores,
                "fps_out": contestant.outputs(len(inputs), factor) / spent,
            })  # fmt: skip
    benchmark.extra_info.update(rows=rows, notes=notes)
