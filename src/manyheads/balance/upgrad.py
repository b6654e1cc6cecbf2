"""The mean of the gradients, each without what conflicts with others."""

from __future__ import annotations

from ..gradients import solvers
from .aggregation import Aggregation, Problem, Solution


class UPGrad(Aggregation):
    """The mean of the gradients, each projected onto the cone of directions that conflict with no task.

    With the gradients g_k, k = 1..K, their Gramian G and the preferences p, v_i minimises v'Gv over v >= p_i e_i (e_i
    the unit vector), so that sum_k v_ik g_k is the nearest to p_i g_i with no negative inner product with any g_k; the
    weights are w = sum_i v_i / K. The update does not conflict with any task.

    Cost: the Gramian, K small quadratic programs, and one backward pass.

    State: none.

    Safe range: exact for all sizes and ratios of sizes, dependent and opposite gradients; tasks that are opposite but
    for 1e-12 are solved to about 1e-8, and gradients in float32 that are opposite but for rounding as if they were
    opposite. A gradient of zero changes nothing. The user's `weight` of a task is p_k.

    Args:
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Reference:
        Quinton, Rey: Jacobian descent for multi-objective optimization, 2024.
    """

    def __init__(self, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)

    def solve(self, problem: Problem) -> Solution:
        return Solution(*solvers.mean_projected(problem.gram, problem.preference, problem.rounding))
