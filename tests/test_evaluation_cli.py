"""vtsr-evaluate from end to end on rendered frames: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vtsr.evaluation.evaluate import main
from vtsr.evaluation.experiments import EXPERIMENTS

Run = Callable[..., tuple[int, str, str]]


def moving(count: int, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).uniform(0, 255, (40, 140, 3)).astype(np.float32)
    scene = np.clip((cv2.GaussianBlur(noise, (0, 0), 1.5) - 128) * 4 + 128, 0, 255).astype(np.uint8)
    return np.stack([scene[:, t : t + 56] for t in range(count)])


def save(frames: NDArray[np.uint8], folder: Path, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t:05d}{suffix}"), frame[..., ::-1])
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save(moving(24), tmp_path / "street")


def test_the_table_the_json_and_the_csv_tell_the_same(run: Run, clip: Path, tmp_path: Path) -> None:
    other = save(moving(16, seed=1), tmp_path / "river")
    code, out, _ = run(
        clip, other, "--methods", "nothing,flow+law", "--window", "4",
        "--json", tmp_path / "out" / "scores.json", "--csv", tmp_path / "out" / "scores.csv",
    )  # fmt: skip
    assert code == 0
    data = json.loads((tmp_path / "out" / "scores.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert data["clips"] == ["street", "river"]
    assert [(row["clip"], row["method"], row["level"]) for row in rows] == [
        (clip, method, level)
        for clip in ("street", "river") for method in ("nothing", "flow+law") for level in ("f", "f2")
    ]  # fmt: skip
    for row, score in zip(rows, data["scores"], strict=True):
        assert float(row["psnr"]) == pytest.approx(score["psnr"])
        assert score["psnr"] == pytest.approx(np.mean(score["psnr_curve"]), abs=1e-3)
        assert len(score["psnr_curve"]) == score["factor"] * (24 if row["clip"] == "street" else 16) // 4
    for method in ("nothing", "flow+law"):
        mean = np.mean([float(row["psnr"]) for row in rows if (row["method"], row["level"]) == (method, "f")])
        assert data["mean"][method][0]["psnr"] == pytest.approx(mean, abs=1e-4)
        line = next(line for line in out.splitlines() if line.startswith(f"{method} "))
        assert f"{mean:.2f}" in line.split()


def test_a_method_below_doing_nothing_is_named(run: Run, tmp_path: Path) -> None:
    still = save(np.repeat(moving(1), 8, axis=0), tmp_path / "still")
    worse = save(moving(8, seed=9), tmp_path / "theirs" / "still").parent
    code, out, _ = run(still, "--methods", "nothing,flow", "--external", f"theirs={worse}", "--metrics", "psnr")
    assert code == 0
    lines = [line for line in out.splitlines() if "below doing nothing" in line]
    assert len(lines) == 1
    assert lines[0].startswith("theirs is below doing nothing on: still f3 (-")


def test_plots_and_videos_are_pictures_of_the_right_things(run: Run, clip: Path, tmp_path: Path) -> None:
    code, _, _ = run(
        clip, "--methods", "nothing,flow", "--window", "4", "--metrics", "psnr",
        "--plot", tmp_path / "plots", "--video", tmp_path / "videos",
    )  # fmt: skip
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "levels.png", "street-crops.png", "street-frames.png",
    ]  # fmt: skip
    for path in (tmp_path / "plots").iterdir():
        picture = cv2.imread(str(path))
        assert picture is not None
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20  # something is drawn
    with av.open(str(tmp_path / "videos" / "street.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 24  # 6 inputs, 4 outputs of each
    # Four columns of 56 pixels: input, nothing, flow, truth; the truth is the clip itself.
    brightness = frames[9][22:62, 180:236].mean(axis=-1)  # chroma is stored at half size
    errors = [np.abs(brightness - frame.mean(axis=-1)).mean() for frame in moving(24)]
    assert int(np.argmin(errors)) == 9
    assert errors[9] < 8


def test_frames_made_from_written_inputs_come_back_as_a_row(run: Run, clip: Path, tmp_path: Path) -> None:
    code, _, err = run(clip, "--write-inputs", tmp_path / "inputs", "--window", "6")
    assert code == 0
    assert "4 input frames" in err
    written = [cv2.imread(str(path))[..., ::-1] for path in sorted((tmp_path / "inputs" / "street").iterdir())]
    means = moving(24).astype(np.float64).reshape(4, 6, 40, 56, 3).mean(axis=1)
    assert np.abs(np.stack(written) - means).max() <= 0.5
    # A system that repeats each input three times.
    save(np.repeat(np.stack(written), 3, axis=0), tmp_path / "theirs" / "street")
    code, out, _ = run(
        clip, "--methods", "nothing", "--external", f"copies={tmp_path / 'theirs'}:6", "--metrics", "psnr"
    )
    assert code == 0
    assert "copies (window 6)" in out
    assert "x3" in out


def test_options_of_the_protocol_reach_it(run: Run, clip: Path, tmp_path: Path) -> None:
    save_to = tmp_path / "scores.json"
    run(
        clip, "--methods", "nothing", "--linear", "--region", "moving", "--levels", "1", "--crop", "32x24+4+5",
        "--max-frames", "16", "--metrics", "psnr", "--json", save_to,
    )  # fmt: skip
    data = json.loads(save_to.read_text())
    assert (data["averaging"], data["region"]) == ("linear light", "moving")
    (score,) = data["scores"]
    assert len(score["psnr_curve"]) == 4
    assert score["ssim"] is None


def miniature(name: str, root: Path) -> Path:
    """A data set of two sequences in the layout an experiment expects."""
    for seed, sequence in enumerate(("first", "second")):
        frames = moving(16, seed)
        if name == "table-4.1":
            save(frames, root / "test" / sequence)
            save(frames[:2], root / "train" / sequence)
        elif name == "table-4.2":
            save(frames, root / "quantitative_datasets" / sequence / "GT", ".jpg")
            save(frames, root / "quantitative_datasets" / sequence / "input", ".jpg")
        elif seed:
            save(frames, root / sequence)
        else:
            with av.open(str(_made(root) / f"{sequence}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=250)
                stream.width, stream.height, stream.pix_fmt = 56, 40, "yuv420p"
                for frame in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode())
    return root


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_an_experiment_runs_on_its_data_set(run: Run, name: str, tmp_path: Path) -> None:
    root = miniature(name, tmp_path / "set")
    code, out, _ = run(
        "--experiment", name, "--data", root, "--methods", "nothing,blend", "--metrics", "psnr",
        "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert code == 0
    data = json.loads((tmp_path / "scores.json").read_text())
    assert data["clips"] == ["first", "second"]
    assert data["window"] == EXPERIMENTS[name].window
    assert {row["level"] for row in data["scores"]} >= {"f", "f2", "f3"}
    assert "28.80  26.20  24.00" in " ".join(out.split("thesis")[1].split("\n")[0].strip().split(" "))
    assert "blank" in out


def test_original_high_speed_videos_of_dvd_come_first(tmp_path: Path) -> None:
    miniature("table-4.2", tmp_path)
    save(moving(8), tmp_path / "original_high_fps_videos" / "fast")
    assert [clip.name for clip in EXPERIMENTS["table-4.2"].find(tmp_path)] == ["fast"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the three"),
        (["absent.mp4"], "absent.mp4"),
        (["CLIP", "--window", "12"], "power of two"),
        (["CLIP", "--window", "64", "--methods", "nothing"], "fewer than the 64 frames"),
        (["CLIP", "--levels", "9"], "levels 1 to 3"),
        (["CLIP", "--methods", "no/such.safetensors"], "no checkpoint"),
        (["CLIP", "--crop", "900x900", "--methods", "nothing"], "does not fit"),
        (["CLIP", "--crop", "wide"], "not a crop"),
        (["CLIP", "--external", "theirs"], "NAME=PATH"),
        (["CLIP", "--external", "theirs=absent", "--methods", "nothing"], "no frames of theirs"),
        (["CLIP", "--metrics", "beauty"], "no metric"),
        (["CLIP", "--threads", "0"], "threads"),
        (["CLIP", "--cache", "here"], "--suite only"),
        (["--experiment", "table-4.1"], "go together"),
        (["--experiment", "table-4.1", "--data", "CLIP"], "not laid out like the GOPRO"),
        (["--experiment", "table-9"], "invalid choice"),
        (["--suite", "absent"], "absent"),
        (["--suite", "CLIP", "--scale", "0.5"], "chooses scales"),
        (["CLIP", "--methods", "nothing", "--json", "CLIP"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(
    run: Run, clip: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run(*[clip if argument == "CLIP" else argument for argument in arguments])
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("vtsr-evaluate: ")
    assert len(err.strip().splitlines()) == 1


def test_clips_of_one_name_are_told_apart(run: Run, tmp_path: Path) -> None:
    for place in ("a", "b"):
        save(moving(4), tmp_path / place / "clip")
    code, out, _ = run(
        tmp_path / "a" / "clip", tmp_path / "b" / "clip", "--methods", "nothing", "--window", "2", "--metrics", "psnr"
    )
    assert code == 0
    assert "a_clip" in out
    assert "b_clip" in out


def test_help_explains_itself(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "--write-inputs" in out
    assert "flow+law" in out
