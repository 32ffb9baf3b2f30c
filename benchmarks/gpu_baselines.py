"""What else could run the step on the same GPU: PyTorch eager and compiled, ONNX Runtime with CUDA; and on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vtsr.runtime.models import ModelFolder, open_model
from vtsr.runtime.onnx_backend import OnnxBackend
from vtsr.runtime.tensorrt.layout import PAD_MULTIPLE

ROUNDS, CPU_ROUNDS, WARM_UP = 30, 3, 5
CUDA_PROVIDER = "CUDAExecutionProvider"
Figure = tuple[str, float | str]  # who, and milliseconds per step or why there are none


def padded(width: int, height: int) -> tuple[int, int]:
    """Height and width of the float pictures."""
    high, wide = (-(-n // PAD_MULTIPLE) * PAD_MULTIPLE for n in (height, width))
    return high, wide


def baselines(folder: Path, name: str, width: int, height: int, *, on_cpu: bool = True) -> Iterator[Figure]:
    """Milliseconds of one step on a pair of frames, which lie where the step runs.

    ``folder`` has the graphs the GPU runs, ``name`` is the model they were made of.
    """
    exported, model = open_model(folder), open_model(name)
    attempts: list[tuple[str, Callable[[], float]]] = [
        ("PyTorch eager", lambda: torch_ms(model, width, height, compiled=False)),
        ("torch.compile", lambda: torch_ms(model, width, height, compiled=True)),
        ("ONNX Runtime CUDA", lambda: onnx_cuda_ms(exported, width, height)),
    ]
    if on_cpu:
        attempts.append(("ONNX Runtime CPU", lambda: onnx_cpu_ms(model, width, height)))
    for who, attempt in attempts:
        try:
            yield who, attempt()
        except LookupError as reason:
            yield who, f"{who} was not measured: {reason.args[0]}."
        except Exception as error:  # noqa: BLE001  # of other people's compilers; the runtime's figures stand without
            said = (str(error).splitlines() or ["no reason given"])[0][:150]
            yield who, f"{who} was not measured: {type(error).__name__}: {said}"


def torch_ms(model: ModelFolder, width: int, height: int, *, compiled: bool) -> float:
    """The network in fp16, channels last, with fresh weights: these cost the same. Raises `LookupError` without."""
    try:
        import torch
    except ImportError as error:
        raise LookupError("PyTorch is not installed") from error
    if not torch.cuda.is_available():
        raise LookupError("this PyTorch has no CUDA")
    from vtsr.export.step import Step
    from vtsr.training.network import build_network

    preset = model.facts.get("facts", {}).get("preset")
    if preset is None:
        raise LookupError("the model does not state its preset")
    half: dict[str, Any] = {"device": "cuda", "dtype": torch.half}
    step: Any = Step(build_network(preset)).eval()
    step = step.to(**half, memory_format=torch.channels_last)
    frames = torch.rand(3, 1, 3, *padded(width, height), **half).unbind()
    u, a, v = (frame.contiguous(memory_format=torch.channels_last) for frame in frames)
    carry = torch.ones(1, 1, 1, 1, **half)
    run = torch.compile(step, mode="reduce-overhead") if compiled else step
    with torch.inference_mode():
        for _ in range(WARM_UP):
            run(u, a, carry, v)
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        for _ in range(ROUNDS):
            run(u, a, carry, v)
        ended.record()
        torch.cuda.synchronize()
    return float(begun.elapsed_time(ended)) / ROUNDS


def onnx_cuda_ms(model: ModelFolder, width: int, height: int) -> float:
    """ONNX Runtime's CUDA provider, inputs and outputs on the GPU. Raises `LookupError` where it has none."""
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise LookupError("this ONNX Runtime has no CUDA provider (onnxruntime-gpu has)")
    session = onnxruntime.InferenceSession(model.read("step.onnx"), providers=[CUDA_PROVIDER])
    if CUDA_PROVIDER not in session.get_providers():
        raise LookupError("ONNX Runtime could not start its CUDA provider")
    binding = session.io_binding()
    shapes = {"carry": (1, 1, 1, 1)}
    rng = np.random.default_rng(0)
    for entry in session.get_inputs():
        kind = np.float16 if entry.type == "tensor(float16)" else np.float32
        value = rng.random(shapes.get(entry.name, (1, 3, *padded(width, height)))).astype(kind)
        binding.bind_ortvalue_input(entry.name, onnxruntime.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
    for entry in session.get_outputs():
        binding.bind_output(entry.name, "cuda")
    for _ in range(WARM_UP):
        session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return 1e3 * (time.perf_counter() - began) / ROUNDS


def onnx_cpu_ms(model: ModelFolder, width: int, height: int) -> float:
    """ONNX Runtime on all cores, as vtsr runs it without a GPU."""
    backend = OnnxBackend(model)
    u, a, v = np.random.default_rng(0).random((3, 1, 3, *padded(width, height)), np.float32)
    backend.step(u, a, v)
    began = time.perf_counter()
    for _ in range(CPU_ROUNDS):
        backend.step(u, a, v)
    return 1e3 * (time.perf_counter() - began) / CPU_ROUNDS
