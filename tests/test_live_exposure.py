"""The exposure check: the share of the frame time with the shutter open, from pictures alone."""

from __future__ import annotations

import io
import time
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from live_media import eventually, exposures, texture

from vtsr import LiveUpconverter
from vtsr.runtime.frame import PixelFormat, Planes
from vtsr.runtime.live.exposure import ExposureCheck
from vtsr.runtime.live.gaps import must_restart, way
from vtsr.runtime.live.notes import Notes

FRAMES = 3


def seen(frames: list[Any]) -> ExposureCheck:
    check = ExposureCheck()
    pictures = [Planes((frame,), PixelFormat()) for frame in frames]
    for before, after in pairwise(pictures):
        check.see(before, after)
    return check


def coded(frames: list[Any], crf: int) -> list[Any]:
    """What is left of the frames after H.264."""
    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        options = {"crf": str(crf), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    memory.seek(0)
    with av.open(memory) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("speed", [(9, 5), (0, 12)])
@pytest.mark.parametrize("duty", [1.0, 0.5, 0.25])
def test_the_share_of_the_frame_time_is_found_on_rendered_exposures(speed: tuple[int, int], duty: float) -> None:
    estimate = seen(exposures(FRAMES, speed, duty)).estimate
    assert estimate is not None
    assert estimate.duty == pytest.approx(duty, abs=0.13)


@pytest.mark.parametrize("duty", [1.0, 0.5])
def test_it_is_found_after_compression_too(duty: float) -> None:
    estimate = seen(coded(exposures(6, (8, 3), duty), crf=18)).estimate
    assert estimate is not None
    assert estimate.duty == pytest.approx(duty, abs=0.2)
    assert estimate.is_open == (duty == 1.0)


def test_sharp_frames_are_told_from_exposed_ones() -> None:
    estimate = seen(exposures(FRAMES, (9, 5), 0.02)).estimate
    assert estimate is not None
    assert estimate.duty < 0.2
    assert "--duty 0." in estimate.sentence


def test_nothing_is_said_about_what_does_not_move() -> None:
    assert seen(exposures(FRAMES, (0, 0))).estimate is None


def test_nothing_is_said_about_what_shows_no_detail() -> None:
    assert seen([np.full((192, 256, 3), 100 + n, np.uint8) for n in range(FRAMES)]).estimate is None


def test_nothing_is_said_about_what_compression_has_left_of_soft_pictures() -> None:
    """The blur of an open shutter is wider than what is left of the detail, and looks like no blur at all."""
    assert seen(coded(exposures(6, (8, 3), 1.0, detail=0.6), crf=30)).estimate is None
    assert seen(coded(exposures(12, (0, 14), 1.0), crf=23)).estimate is None


@pytest.mark.parametrize(("duty", "told"), [(1.0, False), (0.4, True)])
def test_a_closed_shutter_is_said_once_while_the_stream_runs(duty: float, told: bool) -> None:
    said: list[str] = []
    frames = exposures(8, (8, 4), duty)
    with LiveUpconverter(
        1, policy="drop-oldest", frame_rate=30, threads=1, notes=Notes(said.append), on_frame=lambda frame: None
    ) as live:
        live.warm_up(frames[0])
        n = 0

        def known() -> bool:
            nonlocal n
            if n % 8 == 7:  # the clip again; the cut is not looked at as motion
                time.sleep(0.01)
            live.push(frames[n % 8], n / 30)
            n += 1
            time.sleep(0.03)
            return live.stats().duty is not None

        assert eventually(known)
        assert live.stats().duty == pytest.approx(duty, abs=0.2)
    assert len([s for s in said if "shutter" in s.lower()]) == int(told)


@pytest.mark.parametrize("pixels", [0.0, 1.0, 3.0, 8.0])
def test_the_way_across_a_gap_is_measured(pixels: float) -> None:
    first, second = (
        Planes((frame,), PixelFormat()) for frame in exposures(2, (pixels, 0), 0.01, size=(192, 128), noise=0)
    )
    assert way(first, second) == pytest.approx(pixels, abs=0.4)
    assert must_restart(first, second) == (pixels > 1.5)


def test_a_small_thing_that_moves_counts() -> None:
    still = np.rint(texture(128, 192, 1)).astype(np.uint8)
    moved = still.copy()
    thing = np.rint(texture(40, 40, 9)).astype(np.uint8)
    still[40:80, 40:80] = thing
    moved[40:80, 46:86] = thing
    assert must_restart(Planes((still,), PixelFormat()), Planes((moved,), PixelFormat()))
