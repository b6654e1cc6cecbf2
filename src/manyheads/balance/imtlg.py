"""A direction that all tasks like equally well."""

from __future__ import annotations

import numpy as np

from .aggregation import Aggregation, Problem, Solution
from .unitrows import even_rows, unit_rows


class IMTLG(Aggregation):
    """The sum of gradients whose projection onto every task's gradient is the same.

    With u_k = g_k / |g_k| and C the Gramian of the u_k, the update d = sum_k w_k g_k has <d, u_k> = lambda p_k for all
    k and sum_k w_k = 1: w_k is proportional to v_k / |g_k|, where C v = p and p_k is the preference of task k.

    Cost: the Gramian, and one backward pass.
    State: none.
    Safe range: gradients of any size and any ratio of sizes. A gradient of zero is left out (w_k = 0). Where rows are
    dependent up to the rounding of float32 (K times 1.2e-7 of C's largest eigenvalue), the projections are equal if a
    direction can have that; otherwise they are as equal as least squares make them, and a note says so. Where the v_k /
    |g_k| sum to less than a thousandth of their absolute sum (three tasks or more), weights that sum to 1 would blow up
    or climb: then their absolute values sum to 1, and a note says so. The user's `weight` p_k of a task makes the
    projection onto its gradient p_k-fold.

    Args:
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Reference:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang: Towards impartial multi-task learning, 2021.

    Differs from the paper: NOTE[DIFF] preferences, dependent rows and the bound on the weights are ours; the paper has
    independent rows and equal projections.
    """

    def __init__(self, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)

    def solve(self, problem: Problem) -> Solution:
        weights = np.zeros(len(problem.gram))
        live, n, cosines = unit_rows(problem.gram)
        wanted = problem.preference[live]
        if not live.size or not wanted.any():
            return Solution(
                np.full(len(weights), 1.0 / len(weights)), 0.0, "" if live.size else "all gradients are zero"
            )
        v, missed = even_rows(cosines, wanted)
        note = "" if missed < 1e-8 else "no direction has equal projections"
        if not np.abs(v).max() > 1e-8:  # the gradients cancel: any equal projection is 0
            v, note = wanted.copy(), "Pareto-stationary"
            missed = float(np.abs(cosines @ v).max() / v.sum())
        w = v * (n.min() / n)
        total, size = w.sum(), np.abs(w).sum()
        if total < 1e-3 * size:
            note = note or "weights cannot sum to 1"
            total = size
        weights[live] = w / total
        return Solution(weights, missed, note)
