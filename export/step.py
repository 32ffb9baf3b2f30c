"""The step graph: one recursion level's work on a batch of frames, network and exposure law together.

State of a level is the last frame u and the carried estimate a_u of its first half (DESIGN: "streaming
recursion"). Given the next B frames v, the step runs the B pairs (u, v0), (v0, v1), ... as one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtsr.training.exposure import project

# Names of inputs and outputs are part of the public interface of exported graphs.
STEP_INPUTS = ("u", "a_u", "carry", "v")
STEP_OUTPUTS = ("halves", "next_u", "next_a")
FINISH_INPUTS = ("u", "a_u")
FINISH_OUTPUTS = ("halves",)


class Step(nn.Module):
    """One push of a recursion level.

    Inputs
    ------
    u : (1, 3, H, W)
        The last frame seen.
    a_u : (1, 3, H, W)
        Estimate of the first half of ``u`` from the pair before; any values at the start of a stream.
    carry : (1, 1, 1, 1)
        1 where ``a_u`` is an estimate, 0 at the start of a stream: the first half then follows from the
        second by the exposure law, a = 2u - b.
    v : (B, 3, H, W)
        The next frames.

    Outputs
    -------
    halves : (2B, 3, H, W)
        Half exposures of u, v[0] .. v[B-2] in order of time: a_u, b_u, a_v0, b_v0, ...
    next_u, next_a : (1, 3, H, W)
        The state for the next push: v[B-1] and the estimate of its first half.
    """

    def __init__(self, network: nn.Module, consistency: bool = True) -> None:
        super().__init__()
        self.network = network
        self.consistency = consistency

    def forward(self, u: Tensor, a_u: Tensor, carry: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = torch.cat([u, v])[:-1]
        b, a = self.network(first, v)
        a_start = carry * a_u + (1 - carry) * (2 * u - b[:1])
        a = torch.cat([a_start, a])
        a_first, next_a = a[:-1], a[-1:]
        if self.consistency:
            a_first, b = project(first, a_first, b)
        # Half exposures in order of time along the batch axis.
        halves = torch.cat([a_first[:, None], b[:, None]], dim=1).flatten(0, 1)
        return halves, v[-1:], next_a


class Finish(nn.Module):
    """The end of a stream: both halves of the last frame, b = 2u - a. A frame without neighbours is repeated."""

    def forward(self, u: Tensor, a_u: Tensor) -> Tensor:
        return torch.cat(project(u, a_u, 2 * u - a_u))
