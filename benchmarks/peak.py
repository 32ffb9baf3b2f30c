"""What the machine can do at most: matrix products and copies, as fast as they go with the threads that are given."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

SIDE = 1536  # of the matrices: some milliseconds per product, and far beyond what caches hold badly
COPIED = 64 << 20  # bytes per thread, beyond every cache

Work = Callable[[], Any]


def product_operations() -> int:
    """Multiplications and additions of one product."""
    return 2 * SIDE**3


def float_product(threads: int) -> Work:
    """A product of fp32 matrices in ONNX Runtime, whose kernels the network runs on."""
    rng = np.random.default_rng(0)
    left, right = rng.random((2, SIDE, SIDE), np.float32)
    return _product("MatMul", left, right, threads)


def integer_product(threads: int) -> Work:
    """A product of uint8 and int8 matrices into int32."""
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
    right = rng.integers(-127, 128, (SIDE, SIDE), np.int8)
    return _product("MatMulInteger", left, right, threads)


def _product(operator: str, left: Any, right: Any, threads: int) -> Work:
    from onnx import TensorProto, helper, numpy_helper

    from vtsr.benchmarks.contestants import open_session

    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
    result = TensorProto.INT32 if operator == "MatMulInteger" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["out"])], "product",
        [helper.make_tensor_value_info("left", kinds[left.dtype], left.shape)],
        [helper.make_tensor_value_info("out", result, (SIDE, SIDE))],
        [numpy_helper.from_array(right, "right")],
    )  # fmt: skip
    # IR and opset of 2023, which every ONNX Runtime that vtsr accepts reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = open_session(model.SerializeToString(), threads)
    return lambda: session.run(None, {"left": left})


def copy(threads: int) -> tuple[Work, int]:
    """A copy by every thread of memory of its own, and how many bytes that reads and writes."""
    pairs = [(np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def work() -> None:
        for job in [pool.submit(np.copyto, target, source) for source, target in pairs]:
            job.result()

    return work, 2 * COPIED * threads
