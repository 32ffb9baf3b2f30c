"""What stands between the documentation and a test machine, declared openly.

To add a document nothing is needed here as long as its commands use the names in `prepare` and end within a second or
two. Else: a `Change` makes a command small, a `NotRun` says why it cannot run. Rules that nothing needs fail the tests.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from docs_harness import ROOT, Change, NotRun
from media import picture, write_clip
from training_media import panning, write_frames, write_photographs

TINY_TRAINING = " ".join(
    f"--set {option}"
    for option in (
        "preset=dense-tiny", "steps=2", "batch=2", "crop=32", "scene_count=8", "clip_scenes=4", "scene_size=64",
        "held_out=2", "held_out_share=0.2",
    )
)  # fmt: skip

CHANGES = [
    Change(r"^(vtsr-upconvert demo .*)$", r"\1 --duration 0.04", "the demo clip takes a minute on a slow machine"),
    Change(
        r"^(vtsr-train (?!.*--(?:resume|config)).*)$", rf"\1 {TINY_TRAINING} --workers 0",
        "thousands of steps take hours",
    ),
    Change(r"^(vtsr-train .*--resume.*)$", r"\1 --workers 0", "no second process for two steps"),
    Change(
        r"^(vtsr-scenes .*)$",
        r"\1 --count 8 --clip-count 4 --per-video 2 --scene-size 64 --held-out-share 0.2 --workers 1",
        "thousands of scenes take minutes",
    ),
    Change(r"^(vtsr-calibrate (?!.*--model).*)$", r"\1 --model tiny", "the shipped model takes longer"),
    Change(r"^(vtsr-calibrate (?!.*--from).*)$", r"\1 --frames 8 --levels 1", "48 frames take a minute"),
    Change(
        r"^(vtsr-export --fp32.*)$", r"\1 --model tiny --size 64x64 --levels 1 --pixels rgb24",
        "graphs of the shipped model take longer",
    ),
]  # fmt: skip

GPU = "needs an NVIDIA GPU with TensorRT and pycuda"
NOT_RUN = [
    NotRun(r"^(pip|python3 -m venv|source)\b", "would change the environment the tests run in"),
    NotRun(r"^(ruff|pytest|pre-commit|tests/check_types\.sh)", "is a check of its own"),
    NotRun(r"^docker\b", "needs a container engine"),
    NotRun(r"^python benchmarks/ablations\.py", "trains nine networks"),
    NotRun(r"\b(ff(mpeg|play|probe)|v4l2-ctl)\b", "needs programs that a test machine does not have"),
    NotRun(r"^(GRAPHS_ONLY=1 )?benchmarks/\S+\.sh", GPU),
    NotRun(r"^vtsr-export --build|--backend tensorrt", GPU),
    NotRun(r"TensorRTBackend|import_tensorrt", GPU),
    NotRun(
        r"^vtsr-export .*--(fp16|int8)", "takes long; tests/test_export_deploy.py exports both",
        makes={"deploy": "tiny"},
    ),
    NotRun(
        r"^vtsr-export \S+\.safetensors", "PyTorch's exporter takes 10 s; here it made the model `tiny`",
        makes={"my-model": "tiny", "deploy/mine": "tiny"},
    ),
    NotRun(r"^vtsr-calibrate .*--(gate|install)", "takes minutes; tests/test_calibration_model.py gates and installs"),
    NotRun(r"^vtsr-bench", "takes minutes; tests/test_bench_cli.py measures small frames"),
    NotRun(r"^vtsr-evaluate --suite", "takes minutes; tests/test_evaluation_suite.py builds one"),
    NotRun(r"^vtsr-train .*--config thesis", "needs data sets that have to be downloaded"),
    NotRun(r"^torchrun", "takes four processes; tests/test_training_run.py runs two"),
    NotRun(r"^vtsr-live .*(/dev/|://)", "needs a camera or a stream; tests/test_live_stream.py makes streams"),
    NotRun(r"^ray\b|--ray\b", "needs Ray (extra cluster); tests/test_cluster.py runs it where it is installed"),
    NotRun(r"TritonBackend", "needs a Triton server; tests/test_triton.py runs the client"),
    NotRun(r"torchvision", "needs weights that have to be downloaded"),
]  # fmt: skip

# What readers have in front of them when a document's Python begins.
NAMES: dict[str, dict[str, Any]] = {
    "README.md": {"show": lambda image, at=None: None},
}


def prepare(folder: Path, tiny_model: Path, tiny_checkpoint: Path) -> None:
    """Puts everything the documents speak of into ``folder``: footage, photographs, a trained model; all of it tiny."""
    folder.mkdir()
    write_clip(folder / "my.mp4", 4, codec="libx264")
    write_clip(folder / "clip.mp4", 16, codec="libx264")
    (folder / "footage").mkdir()
    for name in ("street.mp4", "match.mov", "footage/clip.mp4"):
        shutil.copyfile(folder / "clip.mp4", folder / name)
    write_frames(folder / "frames", np.stack([picture(n) for n in range(16)]))
    write_photographs(folder / "photos", 6)
    for number in range(2):
        write_frames(folder / "clips" / str(number), panning(number, 40, 160, 200, 2.0))
        write_frames(folder / "GOPRO_Large_all" / "train" / str(number), panning(number, 30, 96, 96, 2.0))
    shutil.copytree(ROOT / "docs" / "triton", folder / "docs" / "triton")
    for model in ("tiny", "deploy/mine"):
        shutil.copytree(tiny_model, folder / model)
    for weights in ("weights.safetensors", "runs/a/last.safetensors"):
        (folder / weights).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tiny_checkpoint, folder / weights)
