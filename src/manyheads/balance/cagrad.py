"""The direction near the mean gradient that serves the worst-served task best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from ..gradients import solvers
from ..ranges import Range, between
from .aggregation import Aggregation, Problem, Solution


class CAGrad(Aggregation):
    """The direction within c |g_0| of the mean gradient g_0 that serves the worst-served task best.

    With the gradients g_k, k = 1..K, and the preferences p, g_0 = sum_k p_k g_k / K and d maximises min_k <g_k, d>
    under |d - g_0| <= c |g_0|. Then d = g_0 + c |g_0| g_w / |g_w|, where w minimises <g_w, g_0> + c |g_0| |g_w| over w
    >= 0, sum_k w_k = 1, and g_w = sum_k w_k g_k.

    Cost: the Gramian, and one backward pass.

    State: none.

    Safe range: c = 0 is the mean; for c < 1 a point of rest is one of the mean loss, from 1 on it is any at which no
    direction helps all tasks. Exact for all sizes and ratios of sizes, dependent gradients too. Where a convex
    combination of the gradients is 0, d may be undefined: it is then the nearest to g_0 of the best ones, and a note
    says so. A gradient of zero has no say in w. The user's `weight` of a task is p_k, in g_0 only.

    Args:
        c: how far from the mean, in units of its length. The paper tunes it per experiment (0.4 for scene
            understanding).
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Raises:
        ValueError: c is negative or not finite.

    Differs from the paper: NOTE[DIFF] exact instead of some steps of a descent in w; not divided by 1 + c^2 as its code
    does; zero gradients and preferences are ours.

    Reference:
        Liu, Liu, Jin, Stone, Liu: Conflict-averse gradient descent for multi-task learning, 2021.
    """

    search: ClassVar[Mapping[str, Range]] = {"c": between(0.1, 0.9)}

    def __init__(self, c: float = 0.5, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)
        if not (c >= 0 and math.isfinite(c)):
            raise ValueError(f"`c` should be a finite number, 0 or more. Found {c}.")
        self.c = c

    def solve(self, problem: Problem) -> Solution:
        return Solution(*solvers.conflict_averse(problem.gram, self.c, problem.preference, problem.rounding))
