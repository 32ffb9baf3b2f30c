"""Training schemes: what is computed from a sample and compared with what.

A sample is a list of exposures per level, each (N, T * 2**k, 3, H, W): see `vtsr.training.data.sampler`.

basic           every pair alone: f(z0, z1) against (b0, a1)                          (thesis eq. 3.3)
reconstruction  triplets: basic, and the mean of both estimates of z1's halves against z1    (eq. 3.5-3.6)
multilevel      basic at f and at f2 on the network's own outputs, L_T/2 + L_T/4             (eq. 3.7)
unrolled        f .. f3 on the network's own outputs, loss at every level

With the exposure law in the loop (law, law-...) the halves of every frame with two neighbours are
projected first, as they are at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtsr.training import losses
from vtsr.training.exposure import project

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Scheme:
    """``depth`` levels on the network's own outputs, ``law`` in the loop, weights of the extra terms."""

    depth: int = 1
    law: bool = True
    reconstruction: float = 0.0  # lambda_r of eq. 3.6
    one_sided: float = 0.3  # weight of the halves that only one pair predicts
    temporal: float = 0.0  # weight of the temporal-consistency term

    def __call__(self, network: nn.Module, levels: list[Tensor], loss: Loss) -> tuple[Tensor, list[Tensor]]:
        """The loss, the mean over levels, and the mean squared error of each level.

        The error is that of the halves with two neighbours, or of all where there are none.
        """
        total = levels[0].new_zeros(())
        errors = []
        frames = levels[0]
        offset = 0  # sub-frames of the finest level that ``frames`` starts behind
        for k in range(1, self.depth + 1):
            b, a = _pairs(network, frames)
            z, inner_a, inner_b = frames[:, 1:-1], a[:, :-1], b[:, 1:]
            if self.reconstruction and z.shape[1]:
                total = total + self.reconstruction * loss(_flat((inner_a + inner_b) / 2), _flat(z))
            if self.law:
                inner_a, inner_b = project(z, inner_a, inner_b)
            # What is known from both sides, in order of time: b0 | a1 b1 a2 b2 ... | a_last
            inner = torch.stack([inner_a, inner_b], dim=2).flatten(1, 2)
            estimate = torch.cat([b[:, :1], inner, a[:, -1:]], dim=1)
            target = levels[k][:, offset + 1 : offset + 1 + estimate.shape[1]]
            if inner.shape[1]:
                truth = target[:, 1:-1]
                total = total + loss(_flat(inner), _flat(truth))
                errors.append(functional.mse_loss(inner.detach(), truth))
                weight = self.one_sided
            else:
                errors.append(functional.mse_loss(estimate.detach(), target))
                weight = 1.0
            total = total + weight * loss(_flat(estimate[:, [0, -1]]), _flat(target[:, [0, -1]]))
            if self.temporal:
                total = total + self.temporal * losses.temporal(estimate, target)
            frames = estimate
            offset = 2 * (offset + 1)
        return total / self.depth, errors


def _flat(frames: Tensor) -> Tensor:
    """(N, T, C, H, W) to (N * T, C, H, W)."""
    return frames.flatten(0, 1)


def _pairs(network: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor]:
    """All T - 1 pairs of (N, T, C, H, W) frames as one batch: b of frames 0 .. T-2 and a of frames 1 .. T-1."""
    shape = (frames.shape[0], frames.shape[1] - 1, *frames.shape[2:])
    first, second = _flat(frames[:, :-1]), _flat(frames[:, 1:])
    if not first.is_contiguous(memory_format=torch.channels_last):
        first = first.contiguous(memory_format=torch.channels_last)
        second = second.contiguous(memory_format=torch.channels_last)
    b, a = network(first, second)
    return b.float().reshape(shape), a.float().reshape(shape)


SCHEMES: dict[str, Scheme] = {
    "basic": Scheme(depth=1, law=False, one_sided=1.0),
    "reconstruction": Scheme(depth=1, law=False, reconstruction=0.15, one_sided=1.0),
    "multilevel": Scheme(depth=2, law=False, one_sided=1.0),
    "unrolled": Scheme(depth=3, law=False, one_sided=1.0),
    "law": Scheme(depth=1),
    "law-reconstruction": Scheme(depth=1, reconstruction=0.15),
    "law-multilevel": Scheme(depth=2),
    "law-unrolled": Scheme(depth=3),
}
