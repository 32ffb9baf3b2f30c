"""The network alone: ONNX Runtime against PyTorch eager on the same frames, threads and machine.

    pytest benchmarks/bench_network.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from paired import paired

from vtsr.runtime.models import open_model
from vtsr.runtime.onnx_backend import OnnxBackend

torch = pytest.importorskip("torch")

WIDTH, HEIGHT = 448, 256


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_step_in_onnx_runtime_against_pytorch_eager(
    benchmark: Any, precision: str, batch: int, layout: str
) -> None:
    from vtsr.export.step import Step
    from vtsr.training.network import build_network

    model = open_model("default")
    backend = OnnxBackend(model, threads=torch.get_num_threads(), precision=precision)
    step = Step(build_network(model.facts["facts"]["preset"])).eval()
    memory_format = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
    step = step.to(memory_format=memory_format)
    rng = np.random.default_rng(0)
    u, a_u = rng.random((2, 1, 3, HEIGHT, WIDTH), np.float32)
    v = rng.random((batch, 3, HEIGHT, WIDTH), np.float32)
    tensors = [torch.from_numpy(x).to(memory_format=memory_format) for x in (u, a_u, v)]
    carry = torch.ones(1, 1, 1, 1)

    def eager() -> None:
        with torch.inference_mode():
            step(tensors[0], tensors[1], carry, tensors[2])

    result = paired(eager, lambda: backend.step(u, a_u, v))
    benchmark.extra_info.update(
        size=f"{WIDTH}x{HEIGHT}", precision=precision, threads=torch.get_num_threads(), **result
    )
    benchmark.pedantic(lambda: backend.step(u, a_u, v), rounds=5, warmup_rounds=1)
    print(
        f"\n{WIDTH}x{HEIGHT}, batch {batch}: ONNX Runtime {precision} {1e3 * result['work_s']:.1f} ms, "
        f"PyTorch eager ({layout}) {1e3 * result['baseline_s']:.1f} ms, ratio {result['ratio']:.2f}"
    )
