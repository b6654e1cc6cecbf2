"""The shortest convex combination of the gradients."""

from __future__ import annotations

from ..gradients import solvers
from .aggregation import Aggregation, Problem, Solution


class MGDA(Aggregation):
    """The shortest convex combination of the gradients: the direction that serves the worst-served task best.

    With the gradients g_k and their Gramian G, w minimises w'Gw over w >= 0, sum_k w_k = 1. The update d = sum_k w_k
    g_k has <g_k, d> >= |d|^2 for every task, with equality where w_k > 0; where d = 0 no direction helps all tasks.

    Cost: the Gramian, and one backward pass.

    State: none.

    Safe range: exact for all sizes and ratios of sizes, dependent and opposite gradients; d is small where one gradient
    is. Where gradients depend on each other w is not unique, d is. A gradient of zero, which would stop all tasks, is
    taken out. The user's `weight` p_k makes the gain guaranteed to a task p_k times that of the others: <g_k, d> >=
    p_k t with one t, which is the shortest convex combination of the g_k / p_k in the direction, with sum_k w_k = 1.

    Args:
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Differs from the paper: NOTE[DIFF] the exact point by active sets instead of Frank-Wolfe steps, on the parameters
    instead of the upper bound at the shared features (`gramian` chooses); zero gradients and preferences are ours.

    Reference:
        Sener, Koltun: Multi-task learning as multi-objective optimization, 2018. Desideri: Multiple-gradient descent
        algorithm (MGDA) for multiobjective optimization, 2012.
    """

    def __init__(self, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)

    def solve(self, problem: Problem) -> Solution:
        return Solution(*solvers.min_norm(problem.gram, problem.preference))
