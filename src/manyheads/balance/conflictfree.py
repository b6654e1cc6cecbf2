"""A direction with one angle to all gradients, as long as they agree."""

from __future__ import annotations

import numpy as np

from .aggregation import Aggregation, Problem, Solution
from .unitrows import even_rows, unit_rows


class ConFIG(Aggregation):
    """The direction that has the same cosine with every task's gradient, as long as the gradients' sum along it.

    With u_k = g_k / |g_k| and U their matrix, the direction is q = U^+ p / |U^+ p| (p_k the preferences, all 1 by
    default, so <q, u_k> is the same for all k) and the update d = (sum_k <g_k, q>) q.

    Cost: the Gramian, and one backward pass.
    State: none.
    Safe range: gradients of any size and any ratio of sizes; one of zero is left out. Where rows are dependent up to
    the rounding of float32 (K times 1.2e-7 of the largest eigenvalue of the u_k's Gramian), cosines are as equal as
    least squares make them, and a note says so. Where gradients cancel the update is 0. The user's `weight` p_k of a
    task makes its cosine p_k-fold.

    Args:
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Reference:
        Liu, Chu, Thuerey: ConFIG: Towards conflict-free training of physics informed neural networks, 2024.
    """

    def __init__(self, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)

    def solve(self, problem: Problem) -> Solution:
        weights = np.zeros(len(problem.gram))
        live, n, cosines = unit_rows(problem.gram)
        wanted = problem.preference[live]
        if not live.size or not wanted.any():
            return Solution(weights, 0.0, "all gradients are zero" if not live.size else "")
        v, missed = even_rows(cosines, wanted)
        along = cosines @ v
        square = float(v @ along)
        if not square > 1e-16:
            return Solution(weights, missed, "Pareto-stationary")
        weights[live] = (n @ along) / square * v / n
        return Solution(weights, missed, "" if missed < 1e-8 else "no direction has equal cosines")
