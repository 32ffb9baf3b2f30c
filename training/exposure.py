"""The exposure law: a fully exposed frame is the mean of its two half-exposure frames.

    z[n] = (a[n] + b[n]) / 2        a first half, b second half       (thesis eq. 3.4)

Two network calls estimate a[n] and b[n] independently, so their mean misses z[n]. The projection
below is the nearest pair that keeps the law exactly and stays inside [0, 1].
"""

from __future__ import annotations

from torch import Tensor


def project(z: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest pair (a, b) with mean ``z`` and, where ``z`` is within [0, 1], both halves within [0, 1].

    Every pair with mean z is (z - d, z + d), so the orthogonal projection onto the law is
    d = (b - a) / 2; both halves stay in range while |d| <= min(z, 1 - z). The truth satisfies both
    conditions and both sets are convex, so neither step can raise the squared error.

    Parameters
    ----------
    z, a, b : float tensors of one shape (..., C, H, W), values around [0, 1]
        The frame, and the estimates of its first and second half.
    """
    room = (0.5 - (z - 0.5).abs()).clamp(min=0)
    d = (b - a) * 0.5
    d = d.minimum(room).maximum(-room)
    return z - d, z + d
