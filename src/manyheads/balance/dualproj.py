"""The mean of the gradients, without what conflicts with a task."""

from __future__ import annotations

from ..gradients import solvers
from .aggregation import Aggregation, Problem, Solution


class DualProj(Aggregation):
    """The mean of the gradients, projected onto the cone of directions that conflict with no task.

    With the gradients g_k, k = 1..K, their Gramian G and the preferences p, w minimises w'Gw over w_k >= p_k / K, so
    that sum_k w_k g_k is the nearest to the mean sum_k p_k g_k / K with no negative inner product with any g_k.

    Cost: the Gramian, and one backward pass.

    State: none.

    Safe range: exact for all sizes and ratios of sizes, dependent and opposite gradients. A gradient of zero changes
    nothing. The user's `weight` of a task is p_k.

    Args:
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Differs from the paper: NOTE[DIFF] there the gradient of the present task is projected against those of past ones;
    here the mean is, against all.

    Reference:
        Lopez-Paz, Ranzato: Gradient episodic memory for continual learning, 2017.
    """

    def __init__(self, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)

    def solve(self, problem: Problem) -> Solution:
        return Solution(*solvers.project_mean(problem.gram, problem.preference, problem.rounding))
