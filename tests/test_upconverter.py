"""Streaming recursion through the public API, with the shipped model on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import vtsr
from vtsr import Frame, Upconverter
from vtsr.runtime.frame import CHROMA_BLOCK, PixelFormat, Planes

Clip = list[NDArray[np.uint8]]


def moving_clip(count: int, height: int = 48, width: int = 64, seed: int = 0) -> Clip:
    """A textured picture that moves by a few pixels per frame, with exposure blur."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height + 8, width + 8 * count + 64, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 1.5)
    shots = [texture[4 : 4 + height, 4 + 3 * i // 2 :][:, :width].astype(float) for i in range(4 * count)]
    return [np.rint(np.mean(shots[4 * i : 4 * i + 4], axis=0)).astype(np.uint8) for i in range(count)]


def upconvert(frames: Sequence[Frame] | Clip, levels: int, chunk: int = 1, **options: object) -> list[Frame]:
    with Upconverter(levels=levels, threads=1, **options) as up:  # type: ignore[arg-type]
        return list(up.run(frames, chunk=chunk))


def stack(frames: Sequence[Frame]) -> NDArray[np.int64]:
    return np.stack([f.image for f in frames]).astype(np.int64)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_input_frame_gives_its_parts_in_order_with_exact_times(levels: int, count: int) -> None:
    parts = 2**levels
    rate = Fraction(24000, 1001)
    outputs = upconvert(moving_clip(count, 16, 32), levels, frame_rate=rate)
    assert [(f.source_index, f.phase) for f in outputs] == [(n, j) for n in range(count) for j in range(parts)]
    assert [f.pts for f in outputs] == [i / (rate * parts) for i in range(count * parts)]
    assert {f.duration for f in outputs} == {1 / (rate * parts)}


def test_times_of_a_variable_frame_rate_are_split_frame_by_frame() -> None:
    starts = [Fraction(5, 7), Fraction(1), Fraction(31, 30), Fraction(2)]
    lengths = [Fraction(2, 7), Fraction(1, 30), Fraction(29, 30), Fraction(1, 30)]
    frames = [
        Frame(image, pts, duration, index)
        for index, (image, pts, duration) in enumerate(zip(moving_clip(4), starts, lengths, strict=True))
    ]
    outputs = upconvert(frames, 2)
    expected = [pts + j * d / 4 for pts, d in zip(starts, lengths, strict=True) for j in range(4)]
    assert [f.pts for f in outputs] == expected


@pytest.mark.parametrize("levels", [1, 2])
def test_mean_of_the_parts_of_a_frame_is_the_frame(levels: int) -> None:
    frames = moving_clip(4)
    outputs = stack(upconvert(frames, levels)).reshape(4, 2**levels, *frames[0].shape)
    # Each output is rounded by half a code at most, and so is their mean.
    assert np.abs(outputs.mean(axis=1) - np.stack(frames)).max() <= 0.5 + 1e-3


def test_parts_of_a_moving_frame_differ_and_stay_between_their_neighbours_in_time() -> None:
    frames = moving_clip(5)
    outputs = stack(upconvert(frames, 1))
    first, second = outputs[4], outputs[5]
    assert np.abs(first - second).mean() > 1
    to_previous = [np.abs(x - frames[1]).mean() for x in (first, second)]
    assert to_previous[0] < to_previous[1]


@pytest.mark.parametrize("levels", [1, 3])
def test_a_still_scene_comes_out_as_it_went_in(levels: int) -> None:
    still = moving_clip(1)[0]
    outputs = stack(upconvert([still] * 4, levels))
    assert np.abs(outputs - still).max() <= 1


def test_a_single_frame_is_repeated() -> None:
    frame = moving_clip(1)[0]
    outputs = upconvert([frame], 2)
    assert len(outputs) == 4
    assert all(np.array_equal(f.image, frame) for f in outputs)


@pytest.mark.parametrize("chunk", [2, 3, 7])
def test_chunks_give_the_same_frames_as_streaming(chunk: int) -> None:
    frames = moving_clip(7)
    streamed, chunked = upconvert(frames, 2), upconvert(frames, 2, chunk=chunk)
    assert [f.pts for f in streamed] == [f.pts for f in chunked]
    assert np.abs(stack(streamed) - stack(chunked)).max() <= 1


def test_push_and_flush_give_what_run_gives_one_frame_late() -> None:
    frames = moving_clip(4)
    with Upconverter(levels=1, threads=1) as up:
        pushed = [up.push(frame) for frame in frames]
        tail = up.flush()
    assert [len(p) for p in pushed] == [0, 2, 2, 2]
    joined = [f for group in [*pushed, tail] for f in group]
    assert np.array_equal(stack(joined), stack(upconvert(frames, 1)))


def test_nothing_is_mixed_across_a_cut() -> None:
    one, other = moving_clip(4, seed=1), [255 - f // 2 for f in moving_clip(4, seed=2)]
    with Upconverter(levels=2, threads=1) as up:
        outputs = list(up.run(one + other))
        assert up.cuts == [4]
    separate = upconvert(one, 2) + upconvert(other, 2)
    assert np.array_equal(stack(outputs), stack(separate))


def test_cuts_fall_where_they_are_inside_a_chunk_too() -> None:
    clip = moving_clip(3, seed=1) + [255 - f // 2 for f in moving_clip(3, seed=2)]
    assert np.abs(stack(upconvert(clip, 2)) - stack(upconvert(clip, 2, chunk=6))).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (50, 70)])
def test_any_size_comes_back_at_its_own_size(height: int, width: int) -> None:
    outputs = upconvert(moving_clip(2, height, width), 1)
    assert {f.image.shape for f in outputs} == {(height, width, 3)}


def test_what_is_in_view_does_not_depend_on_the_padding() -> None:
    wide = moving_clip(3, 64, 96)
    cropped = upconvert([f[:50, :70] for f in wide], 1)
    whole = upconvert(wide, 1)
    inner = (slice(None), slice(0, 20), slice(0, 40))  # far enough from the cut edges
    assert np.abs(stack(cropped)[inner] - stack(whole)[inner]).mean() < 1


@pytest.mark.parametrize("sampling", ["gray", *CHROMA_BLOCK])
@pytest.mark.parametrize(("bits", "full_range"), [(8, False), (10, True), (12, False)])
def test_yuv_of_a_still_scene_survives_exactly(sampling: str, bits: int, full_range: bool) -> None:
    rng = np.random.default_rng(bits)
    format = PixelFormat(sampling, bits, "bt709", full_range)  # type: ignore[arg-type]
    height, width = 35, 51
    shapes = [(height, width)]
    if sampling != "gray":
        block = CHROMA_BLOCK[sampling]
        shapes += [(-(-height // block[1]), -(-width // block[0]))] * 2
    # Any codes at all, so also ones outside the RGB cube.
    planes = Planes(tuple(rng.integers(0, 2**bits, s).astype(format.dtype) for s in shapes), format)
    outputs = upconvert([Frame(planes)], 2)
    for output in outputs:
        assert isinstance(output.picture, Planes)
        for plane, original in zip(output.picture.planes, planes.planes, strict=True):
            assert plane.dtype == original.dtype
            assert np.array_equal(plane, original)


def test_sixteen_bit_images_keep_their_precision() -> None:
    ramp = np.linspace(0, 65535, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint16)
    outputs = upconvert([ramp, ramp], 1)
    assert all(np.abs(f.image.astype(int) - ramp).max() <= 257 for f in outputs)
    assert len(np.unique(outputs[0].image)) > 2000


def test_a_change_of_size_starts_a_new_scene() -> None:
    with Upconverter(levels=1, threads=1) as up:
        outputs = list(up.run(moving_clip(2, 32, 32) + moving_clip(2, 48, 32)))
        assert up.cuts == [2]
    assert [f.image.shape[0] for f in outputs] == [32] * 4 + [48] * 4


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"levels": 0}, vtsr.OptionError),
        ({"levels": 5}, vtsr.OptionError),
        ({"threads": 0}, vtsr.OptionError),
        ({"scene_threshold": 1.5}, vtsr.OptionError),
        ({"frame_rate": 0}, vtsr.OptionError),
        ({"backend": "abacus"}, vtsr.OptionError),
        ({"model": "no-such-model"}, vtsr.ModelError),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^[A-Z].*\.$"):
        Upconverter(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 64, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.float32),
        "frame.png",
    ],
)
def test_bad_frames_are_refused(frame: object) -> None:
    with Upconverter(levels=1, threads=1) as up, pytest.raises(vtsr.InputError, match=r"^A frame .*\.$"):
        up.push(frame)  # type: ignore[arg-type]
