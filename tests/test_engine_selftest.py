"""What decides whether an engine is accepted, and what is told about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vtsr.errors import MissingExtraError, ModelError
from vtsr.runtime.engines import platform
from vtsr.runtime.engines.layers import layer_precision, layer_table
from vtsr.runtime.engines.request import EngineRequest
from vtsr.runtime.engines.selftest import MIN_PSNR, judge, moving_texture, psnr


def request(precision: str = "fp16") -> EngineRequest:
    shape = (1, 3, 32, 32)
    return EngineRequest("engine", b"", precision, True, {"u": (shape, shape, shape)})


def noisy(picture: Any, decibels: float) -> Any:
    """The picture with noise of exactly this PSNR."""
    noise = np.random.default_rng(0).standard_normal(picture.shape)
    noise *= 10 ** (-decibels / 20) / np.sqrt(np.mean(noise**2))
    return picture + noise


@pytest.mark.parametrize("precision", MIN_PSNR)
def test_an_engine_is_accepted_above_the_limit_of_its_precision_and_refused_below(precision: str) -> None:
    picture = moving_texture((2, 3, 32, 32)).astype(float)
    limit = MIN_PSNR[precision]
    figures = judge(request(precision), {"halves": noisy(picture, limit + 1)}, {"halves": picture})
    assert figures["halves"]["psnr"] == pytest.approx(limit + 1, abs=0.01)
    with pytest.raises(ModelError, match=r"wrong: halves is .* dB"):
        judge(request(precision), {"halves": noisy(picture, limit - 1)}, {"halves": picture})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_value_that_is_no_number_fails_an_engine(value: float) -> None:
    picture = moving_texture((1, 3, 32, 32))
    broken = picture.copy()
    broken[0, 1, 2, 3] = value
    assert psnr(broken, picture) == float("-inf")
    with pytest.raises(ModelError):
        judge(request(), {"halves": broken}, {"halves": picture})


def test_a_missing_or_misshapen_output_fails_an_engine() -> None:
    picture = moving_texture((1, 3, 32, 32))
    for outputs in ({}, {"halves": picture[:, :2]}):
        with pytest.raises(ModelError, match="instead of"):
            judge(request(), outputs, {"halves": picture})


def test_stored_samples_may_be_rounded_the_other_way_here_and_there() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    other = codes.copy()
    other.flat[:100] ^= 1  # 100 of 12,288
    assert judge(request(), {"image": other}, {"image": codes})["image"]["unequal"] == 100 / 12288
    other.flat[:200] = codes.flat[:200] ^ 1
    with pytest.raises(ModelError, match=r"1\.6% of image"):
        judge(request(), {"image": other}, {"image": codes})


def test_psnr_is_the_textbooks() -> None:
    a = np.zeros((2, 3, 4, 5), np.float32)
    assert psnr(a + np.float32(0.1), a) == pytest.approx(20, abs=1e-4)


def test_the_test_picture_moves_and_fills_the_range() -> None:
    pictures = moving_texture((3, 3, 64, 64))
    assert 0 <= pictures.min() < 0.1
    assert 0.9 < pictures.max() <= 1
    # Two pixels to the right per picture.
    assert np.allclose(pictures[1, :, :, 2:], pictures[0, :, :, :-2], atol=1e-5)


LAYERS = [
    # TensorRT 8 and 10 put type and layout into one string, 11 has a field for each.
    {"Name": "conv1", "Outputs": [{"Name": "a", "Format/Datatype": "Half row-major linear FP16 format"}]},
    {"Name": "conv2", "Outputs": [{"Name": "b", "Format": "Row major linear", "DataType": "Int8"}]},
    {"Name": "add", "Outputs": [{"Name": "c", "Format/Datatype": "Row major linear FP32"}]},
    {"Name": "shuffle", "Outputs": []},
]


@pytest.mark.parametrize(("layer", "precision"), zip(LAYERS, ["fp16", "int8", "fp32", ""], strict=True))
def test_the_precision_of_a_layer_is_read_from_either_form(layer: dict[str, Any], precision: str) -> None:
    assert layer_precision(layer) == precision


def test_layers_are_listed_by_their_share_of_the_time() -> None:
    rows = layer_table(LAYERS, {"conv1": 0.3, "conv2": 0.6, "add": 0.1}).splitlines()
    assert [row.split()[-1] for row in rows] == ["layer", "conv2", "conv1", "add", "shuffle"]
    assert rows[1].split() == ["60.0", "%", "0.6000", "int8", "conv2"]


def refuse(message: str) -> Any:
    def attempt() -> Any:
        raise MissingExtraError(message)

    return attempt


def test_all_that_is_missing_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_has_driver", lambda: False)
    monkeypatch.setattr(platform, "import_tensorrt", refuse("No module named 'tensorrt'"))
    monkeypatch.setattr(platform, "import_pycuda", refuse("libcuda.so.1: cannot open shared object file"))
    assert platform.what_is_missing() == "This machine lacks an NVIDIA driver and TensorRT."
    monkeypatch.setattr(platform, "import_pycuda", refuse("No module named 'pycuda'"))
    assert platform.what_is_missing() == "This machine lacks an NVIDIA driver, TensorRT and pycuda."
    monkeypatch.setattr(platform, "_has_driver", lambda: True)
    monkeypatch.setattr(platform, "import_tensorrt", lambda: None)
    assert platform.what_is_missing() == "This machine lacks pycuda."
    monkeypatch.setattr(platform, "import_pycuda", lambda: None)
    assert platform.what_is_missing() is None


def test_the_driver_version_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    version = tmp_path / "version"
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 13.2\n"
    version.write_text(text)
    monkeypatch.setattr(platform, "DRIVER_FILE", version)
    assert platform.driver_version() == "580.95.05"
    monkeypatch.setattr(platform, "DRIVER_FILE", tmp_path / "none")
    assert platform.driver_version() is None
