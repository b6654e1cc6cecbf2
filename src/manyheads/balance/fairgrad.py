"""Fair gains for the tasks, by a chosen measure of fairness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..gradients import solvers
from ..ranges import Range, between
from .aggregation import Aggregation, Problem, Solution

LEAST, MOST = 0.1, 100.0
"""The range of alpha in which powers of the gradients' sizes are numbers."""


class FairGrad(Aggregation):
    """The direction with alpha-fair gains of the tasks.

    With the gradients g_k, their Gramian G and the preferences p, the weights a > 0 solve (G a)_k = (p_k /
    a_k)^(1/alpha): the update d = sum_k a_k g_k maximises sum_k p_k <g_k, d>^(1 - alpha) / (1 - alpha) over all d of
    its length. Towards alpha = 0 it is the sum, alpha = 1 is proportional fairness (`NashMTL`), and a large alpha
    serves the worst-served task (`MGDA`).

    Cost: the Gramian, and one backward pass.

    State: none.

    Safe range: exact for all sizes, and for ratios of sizes up to 1e6 where alpha is 1/2 or more. Where a convex
    combination of the gradients is 0 there is no solution: the weights are those of that combination, and a note says
    "Pareto-stationary". A gradient of zero changes nothing. The user's `weight` of a task is p_k, of its gain's
    utility.

    Args:
        alpha: the measure of fairness, from 0.1 to 100.
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Raises:
        ValueError: alpha is out of range.

    Differs from the paper: NOTE[DIFF] the exact solution by Newton's method on a convex function instead of a bounded
    least-squares search; preferences are ours.

    Reference:
        Ban, Ji: Fair resource allocation in multi-task learning, 2024.
    """

    scale_free = True
    search: ClassVar[Mapping[str, Range]] = {"alpha": between(0.5, 4)}

    def __init__(self, alpha: float = 2.0, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)
        if not LEAST <= alpha <= MOST:
            raise ValueError(f"`alpha` should lie between {LEAST} and {MOST}. Found {alpha}.")
        self.alpha = alpha

    def solve(self, problem: Problem) -> Solution:
        return Solution(*solvers.fair(problem.gram, self.alpha, problem.preference))
