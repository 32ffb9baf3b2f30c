"""A vtsr backend whose network runs on a Triton Inference Server.

    from vtsr import Upconverter
    with Upconverter(levels=2, backend=TritonBackend("localhost:8000")) as up:
        for frame in up.run(frames):
            ...

Conversion from and to stored pixels stays here; frames travel as float32. Needs `pip install "tritonclient[http]"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from vtsr.runtime.backend import StepResult
from vtsr.runtime.models import open_model
from vtsr.runtime.onnx_backend import CARRY, NO_CARRY, OnnxBackend

Array = NDArray[np.float32]


class TritonBackend(OnnxBackend):
    """Step and finish on a server with the models of docs/triton/models; ingest and emit here.

    Parameters
    ----------
    address
        ``host:port`` of the server's HTTP endpoint.
    model
        The model the server runs, by name or folder: it decides the conversion of pixels.
    """

    name = "triton"

    def __init__(self, address: str, model: str = "default") -> None:
        super().__init__(open_model(model), threads=1)
        self._client = InferenceServerClient(address)

    def step(self, u: Array, a_u: Array | None, v: Array) -> StepResult:
        carry = NO_CARRY if a_u is None else CARRY
        feeds = {"u": u, "a_u": u if a_u is None else a_u, "carry": carry, "v": v}
        halves, next_a = self._ask("vtsr_step", feeds, ["halves", "next_a"])
        return StepResult(halves, v[-1:], next_a)  # next_u is the last of v: no need to send it back

    def finish(self, u: Array, a_u: Array | None) -> Array:
        return self._ask("vtsr_finish", {"u": u, "a_u": u if a_u is None else a_u}, ["halves"])[0]

    def close(self) -> None:
        self._client.close()
        super().close()

    def _ask(self, model: str, feeds: dict[str, Array], wanted: Sequence[str]) -> list[Array]:
        inputs: list[Any] = []
        for name, value in feeds.items():
            given = InferInput(name, list(value.shape), "FP32")
            given.set_data_from_numpy(np.ascontiguousarray(value))
            inputs.append(given)
        outputs = [InferRequestedOutput(name) for name in wanted]
        answer = self._client.infer(model, inputs, outputs=outputs)
        return [answer.as_numpy(name) for name in wanted]
