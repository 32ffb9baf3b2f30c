"""The TensorRT runtime on a real GPU: `pytest -m gpu`. All but timing is checked without one in `test_tensorrt_*`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_engine_gpu import deployed  # noqa: F401

from vtsr import DeviceError, Upconverter
from vtsr.runtime.engines.platform import import_pycuda, what_is_missing
from vtsr.runtime.frame import Frame, PixelFormat, Planes
from vtsr.runtime.models import open_model
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.settings import Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing())),
    pytest.mark.timeout(900),
]

WIDTH, HEIGHT = 96, 64
MIN_PSNR = {"fp32": 55.0, "fp16": 50.0, "int8": 35.0}  # dB between 8-bit pictures; rounding alone costs up to 59
Image = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("VTSR_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def clip(count: int = 12) -> list[Image]:
    """A moving texture."""
    y, x, c = np.indices((HEIGHT, WIDTH, 3)).astype(float)
    shots = [0.5 + 0.4 * np.sin((x - 2 * n) / 5 + c) * np.cos((y + n) / 7) for n in range(count)]
    return [np.rint(255 * shot).astype(np.uint8) for shot in shots]


def run(folder: Path, levels: int, images: list[Image], **settings: Any) -> NDArray[np.uint8]:
    """Bare arrays, read as late as all lanes need to be under way."""
    choices = Settings(levels=levels, **settings)
    backend = TensorRTBackend.open(open_model(folder), choices)
    with Upconverter(levels, backend=backend, scene_threshold=1) as up:
        return np.stack([frame.image for frame in up.run(images, behind=max(3, choices.ahead))])


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    error = float(np.mean((one.astype(float) - other) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 99.0


@pytest.mark.parametrize("levels", [1, 2])
def test_frames_agree_with_onnx_runtime(deployed: Path, levels: int) -> None:  # noqa: F811
    images = clip()
    model = open_model(deployed)
    with Upconverter(levels, backend="onnxruntime", model=str(deployed), precision="fp32", scene_threshold=1) as up:
        expected = np.stack([frame.image for frame in up.run(images)])
    found = run(deployed, levels, images)
    for phase in range(1 << levels):
        step = slice(phase, None, 1 << levels)
        assert psnr(found[step], expected[step]) >= MIN_PSNR[model.precision]


@pytest.mark.parametrize(
    "changed",
    [{}, {"graphs": False}, {"overlap": False}, {"pinned": False}, {"slots": 1}, {"slots": 2}, {"priorities": False},
     {"mode": "latency"}, {"mode": "latency", "wait": "block"}, {"host_outputs": 0}, {"lanes": 2, "stint": 4},
     {"lanes": 4, "stint": 3}, {"lanes": 3, "stint": 5, "graphs": False}],
    ids=str,
)  # fmt: skip
def test_every_way_of_running_gives_the_same_bits(deployed: Path, changed: dict[str, Any]) -> None:  # noqa: F811
    images = clip(40)
    reference = run(deployed, 2, images)
    for _ in range(3):
        assert np.array_equal(run(deployed, 2, images, **changed), reference)


def test_graphs_are_used_in_steady_state(deployed: Path) -> None:  # noqa: F811
    pytest.importorskip("cuda.bindings.driver")
    backend = TensorRTBackend.open(open_model(deployed), Settings(levels=2))
    with Upconverter(2, backend=backend, scene_threshold=1) as up:
        for image in clip(30):
            up.push(image)
        assert backend.executor.graph_launches > 4 * 15


def test_operations_are_timed_alone(deployed: Path) -> None:  # noqa: F811
    backend = TensorRTBackend.open(open_model(deployed), Settings(levels=2))
    with Upconverter(2, backend=backend, scene_threshold=1) as up:
        list(up.run(clip(30), behind=3))
        found = backend.operation_milliseconds(20)
    assert set(found) == {"upload", "ingest", "step 1", "step 2", "emit", "download"}
    assert all(0 < milliseconds < 100 for milliseconds in found.values())


def test_calls_of_an_engine_of_many_sizes_overlap(tiny_model: Path, tmp_path: Path) -> None:
    """Every level has execution contexts of its own for the one engine, with one optimisation profile for all."""
    from vtsr.runtime.engines.builder import has_strong_typing
    from vtsr.runtime.engines.platform import import_tensorrt

    if not has_strong_typing(import_tensorrt()):
        pytest.skip("TensorRT 8 cannot")
    pytest.importorskip("onnx")
    from vtsr.export.cli import main

    options = ["--fp16", "--dynamic", "--size", "96x64", "--levels", "2", "--pixels", "rgb24", "--onnx-only"]
    assert main(["--model", str(tiny_model), *options, "-o", str(tmp_path / "dynamic")]) == 0
    images = clip(20)
    found = run(tmp_path / "dynamic", 2, images)
    with Upconverter(2, backend="onnxruntime", model=str(tiny_model), precision="fp32", scene_threshold=1) as up:
        expected = np.stack([frame.image for frame in up.run(images)])
    assert psnr(found, expected) >= MIN_PSNR["fp16"]
    assert np.array_equal(run(tmp_path / "dynamic", 2, images, lanes=2, stint=4), found)


def test_p010_pictures_are_taken_as_decoders_give_them(deployed: Path) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    y = rng.integers(64, 940, (HEIGHT, WIDTH)).astype(np.uint16) << 6
    uv = rng.integers(64, 960, (HEIGHT // 2, WIDTH // 2, 2)).astype(np.uint16) << 6
    format = PixelFormat("yuv420", 10, "bt709", False)
    backend = TensorRTBackend.open(open_model(deployed), Settings(levels=1))
    with Upconverter(1, backend=backend, scene_threshold=1) as up:
        outputs = [f.planes for f in up.run([Frame(Planes((y, uv), format))] * 3)]
    for output in outputs:  # a still scene
        for plane, original in zip(output.planes, (y, uv), strict=True):
            assert np.abs((plane >> 6).astype(int) - (original >> 6)).max() <= 1


def test_torch_frames_stay_on_the_gpu(deployed: Path) -> None:  # noqa: F811
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    from vtsr.runtime.tensorrt.embedding import DeviceUpconverter

    images = clip(20)
    expected = run(deployed, 2, images)
    before = torch.cuda.current_device()
    stream = torch.cuda.Stream()
    outputs = []
    with DeviceUpconverter(TensorRTBackend.open(open_model(deployed)), 2) as up, torch.cuda.stream(stream):
        frame = torch.empty((HEIGHT, WIDTH, 3), dtype=torch.uint8, device="cuda")
        for image in images:
            frame.copy_(torch.from_numpy(image), non_blocking=True)  # the same memory every time
            outputs += [torch.from_dlpack(p).clone() for (p,) in up.push(frame, stream=stream.cuda_stream)]
        outputs += [torch.as_tensor(p, device="cuda").clone() for (p,) in up.flush(stream=stream.cuda_stream)]
        stream.synchronize()
    assert np.array_equal(torch.stack(outputs).cpu().numpy(), expected)
    assert torch.cuda.current_device() == before
    assert float(torch.ones(8, device="cuda").sum()) == 8.0  # torch goes on


def test_the_callers_context_is_current_again_and_memory_comes_back(deployed: Path) -> None:  # noqa: F811
    cuda = import_pycuda()
    own = cuda.Device(0).make_context()
    try:
        run(deployed, 1, clip(4))  # loads kernels, which stay
        before = cuda.mem_get_info()[0]
        for _ in range(5):
            run(deployed, 1, clip(4))
        assert cuda.Context.get_current() == own
        assert before - cuda.mem_get_info()[0] < 8 << 20
    finally:
        own.pop()
        own.detach()


def test_a_size_too_large_for_the_gpu_is_refused_beforehand(
    deployed: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    from vtsr.runtime.tensorrt.cuda import CudaDevice

    monkeypatch.setattr(CudaDevice, "memory_info", lambda self: (1 << 16, 1 << 30))
    with pytest.raises(DeviceError, match=r"needs \d+ MiB of GPU memory, but only 0 of 1024 MiB are free"):
        run(deployed, 1, clip(2))


PROGRAM = """
import sys, threading
import numpy as np
from vtsr import Upconverter
from vtsr.runtime.models import open_model
from vtsr.runtime.tensorrt.backend import TensorRTBackend

def work():
    global up, kept
    up = Upconverter(2, backend=TensorRTBackend.open(open_model(sys.argv[1])), scene_threshold=1)
    rng = np.random.default_rng(0)
    kept = [f for _ in range(8) for f in up.push(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))]

thread = threading.Thread(target=work)
thread.start(); thread.join()
up.push(np.zeros((64, 96, 3), np.uint8))
if "close" in sys.argv: up.close()
print("done")
"""


@pytest.mark.parametrize("ending", ["close", "leave open"])
def test_the_interpreter_ends_cleanly(deployed: Path, ending: str) -> None:  # noqa: F811
    run(deployed, 2, clip(2))  # the engines are in the cache now
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(deployed), ending], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "PyCUDA" not in done.stderr
    assert "Traceback" not in done.stderr


def test_compute_sanitizer_finds_nothing(deployed: Path) -> None:  # noqa: F811
    tool = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH')}:/usr/local/cuda/bin")
    if tool is None:
        pytest.skip("compute-sanitizer is not installed")
    run(deployed, 2, clip(2))
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", PROGRAM, str(deployed)]
    done = subprocess.run([*command, "close"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
