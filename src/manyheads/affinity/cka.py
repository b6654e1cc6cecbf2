"""Do two tasks, learned alone, span the same features?"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from . import Estimator, Reading
from .representation import compared
from .singles import Singles


class CKA(Estimator[Singles]):
    r"""Linear centred kernel alignment of single-task models' features, with the bias of few rows taken out.

    .. math:: \mathrm{CKA}_{ij} = \frac{H(K_i, K_j)}{\sqrt{H(K_i, K_i) H(K_j, K_j)}}, \qquad K_i = Z_i Z_i^\top

    with :math:`Z_i` (n, d) what the head of task i's own model reads for n rows that no model learned from, and
    :math:`H` the unbiased estimate of the Hilbert-Schmidt independence criterion: with diagonals set to 0,

    .. math:: H(K, L) = \frac{1}{n(n-3)} \left[ \mathrm{tr}(KL) + \frac{1^\top K 1 \, 1^\top L 1}{(n-1)(n-2)}
        - \frac{2}{n-2} 1^\top K L 1 \right]

    The plain estimate is near 1 for any two models whose features are as many as the rows. It does not change when
    features are rotated, mirrored, moved or scaled as a whole. 1: the same up to that; around 0: unrelated (it may be a
    little below). It is symmetric, and a similarity: 0 is no boundary between help and harm.

    Cost:
        1 single-task model per task, which a comparison trains anyway.

    Reference:
        Kornblith, Norouzi, Lee, Hinton: Similarity of neural network representations revisited, 2019. Song, Smola,
        Gretton, Bedo, Borgwardt: Feature selection via dependence maximization, 2012 (the unbiased estimate).
    """

    looks_at = "single"
    directed = False
    gain = False
    unit = "alignment of the features of two single-task models (linear CKA, unbiased); at most 1"

    def measure(self, seen: Singles) -> Reading:
        return compared(seen, _kernel, hsic)


def _kernel(z: Tensor) -> np.ndarray | None:
    """Z Z' of centred Z (n, d) with an empty diagonal, of H = 1 with itself; None where it has none above 0."""
    centred = z.numpy() - z.numpy().mean(0)
    kernel = centred @ centred.T
    scale = float(np.abs(kernel).max()) if kernel.size else 0.0
    if len(kernel) < 4 or not np.isfinite(scale) or scale <= 1e-24:
        return None
    kernel = kernel / scale
    np.fill_diagonal(kernel, 0.0)
    own = hsic(kernel, kernel)
    return kernel / own**0.5 if own > 1e-12 else None


def hsic(k: np.ndarray, other: np.ndarray) -> float:
    """The unbiased Hilbert-Schmidt independence criterion H of two kernels (n, n) with empty diagonals; n > 3."""
    n = len(k)
    rows, others = k.sum(0), other.sum(0)
    total = np.vdot(k, other) + rows.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ others)
    return float(total) / (n * (n - 3))
