"""The Nash bargaining solution between the tasks."""

from __future__ import annotations

from ..gradients import solvers
from .aggregation import Aggregation, Problem, Solution


class NashMTL(Aggregation):
    """The Nash bargaining solution: the direction with the largest product of the tasks' gains.

    With the gradients g_k, their Gramian G and the preferences p, the weights a > 0 solve (G a)_k = p_k / a_k: the
    update d = sum_k a_k g_k maximises sum_k p_k log <g_k, d> over all d of its length, whatever the gradients' sizes.

    Cost: the Gramian, and one backward pass.

    State: none.

    Safe range: exact for all sizes and ratios of sizes. Where a convex combination of the gradients is 0 there is no
    solution: the weights are those of that combination, and a note says "Pareto-stationary". A gradient of zero changes
    nothing. The user's `weight` of a task is p_k, its bargaining power.

    Args:
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Differs from the paper: NOTE[DIFF] the exact solution in each step by Newton's method, instead of successive convex
    programs that may stop early; the bound on the update's norm is left to clipping; preferences are ours (the
    asymmetric bargaining solution).

    Reference:
        Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya: Multi-task learning as a bargaining game, 2022.
    """

    scale_free = True

    def __init__(self, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)

    def solve(self, problem: Problem) -> Solution:
        return Solution(*solvers.fair(problem.gram, 1.0, problem.preference))
