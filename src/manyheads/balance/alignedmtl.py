"""Gradients made orthogonal and equally long, before they are summed."""

from __future__ import annotations

import numpy as np

from .aggregation import Aggregation, Problem, Solution
from .unitrows import spectrum, unit_rows

SCALES = ("min", "median", "rmse")


class AlignedMTL(Aggregation):
    """The preferred mean of the gradients, after the nearest change that gives their matrix the condition number 1.

    The matrix J of the gradients g_k has singular values sigma_1 >= ... >= sigma_r > 0 and G = J J^T = V diag(sigma^2)
    V^T. The aligned gradients are the rows of B J with B = s V diag(1 / sigma) V^T, whose singular values are all s;
    the update is their mean under the preferences p, so w = B^T p / sum(p).

    Cost: the Gramian, and one backward pass.
    State: none.
    Safe range: gradients of any size, ratios of sizes up to 1e6 in full precision. The number r of directions is that
    of the eigenvalues above K times 1.2e-7, the rounding of float32, of the largest in the Gramian of *unit* rows: what
    is below may be rounding, by which nothing should be divided, and a task of small gradients is not taken for a
    dependent one. With dependent rows only the directions that exist are aligned. A gradient of zero gets w_k = 0. With
    `min` the update is as long as the smallest singular value: short where two gradients nearly cancel. The user's
    `weight` of a task is p_k.

    Args:
        scale: s is the smallest sigma (``min``), the root of the (lower) median of sigma^2 (``median``) or of the mean
            of sigma^2 (``rmse``).
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Raises:
        ValueError: an unknown scale.

    Reference:
        Senushkin, Patakin, Kuznetsov, Konushin: Independent component alignment for multi-task learning, 2023.
    """

    def __init__(self, scale: str = "min", *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)
        if scale not in SCALES:
            raise ValueError(f"`scale` should be one of {', '.join(SCALES)}. Found `{scale}`.")
        self.scale = scale

    def solve(self, problem: Problem) -> Solution:
        weights = np.zeros(len(problem.gram))
        live, n, cosines = unit_rows(problem.gram)
        preference = problem.preference
        if not live.size or not preference.sum() > 0:
            return Solution(weights, 0.0, "all gradients are zero" if not live.size else "")
        values, vectors = spectrum(cosines)
        # G = F F^T: the factor keeps the digits of small gradients, which the eigenvalues of G itself would lose
        factor = (n / n.max())[:, None] * vectors * np.sqrt(values)
        v, sigma, _ = np.linalg.svd(factor, full_matrices=False)
        if self.scale == "min":
            s = sigma[-1]
        elif self.scale == "median":
            s = np.sort(sigma)[(len(sigma) - 1) // 2]
        else:
            s = np.sqrt(np.mean(sigma**2))
        balance = s * (v / sigma) @ v.T
        weights[live] = balance @ (preference[live] / preference.sum())
        aligned = np.linalg.svd(balance @ factor, compute_uv=False)
        return Solution(weights, float(np.abs(aligned / s - 1).max()))
