"""Gradients that lose what conflicts with the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..blocks import seed_of
from .aggregation import UNSOLVED, Aggregation, Array, Problem, Solution
from .unitrows import unit_rows


def turns(seed: int, task: str, step: int, others: Sequence[str]) -> list[int]:
    """A random order of the other tasks (positions), in which it does not matter who else is there or stands where."""
    if len(others) < 2:
        return list(range(len(others)))
    return sorted(range(len(others)), key=lambda k: seed_of(seed, task, step, others[k]))


class PCGrad(Aggregation):
    """The sum of the gradients, each without what points against another one.

    For each task i, v_i = g_i; then for each other task j in random order, where <v_i, g_j> < 0, v_i loses its part
    along g_j: v_i <- v_i - <v_i, g_j> / |g_j|^2 g_j. The update is sum_i p_i v_i, with p_i the preference. Each v_i is
    a combination of the g_j, so the Gramian is all that is needed.

    Cost: the Gramian, and one backward pass.
    State: per task, in how many steps it was there (it draws the order).
    Safe range: gradients of any size and any ratio of sizes; one of zero is left as it is and takes nothing from
    others. Exact for the drawn order. With two tasks the update opposes no gradient; with three or more it may (a later
    projection can undo an earlier one), and the order alone changes it. The user's `weight` p_i scales the altered
    gradient of its task.

    Args:
        seed: of the order in which the other tasks come.
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Reference:
        Yu, Kumar, Gupta, Levine, Hausman, Finn: Gradient surgery for multi-task learning, 2020.
    """

    def __init__(self, seed: int = 0, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)
        self.seed = seed

    def solve(self, problem: Problem) -> Solution:
        live, n, cosines = unit_rows(problem.gram)
        tasks = [problem.tasks[k] for k in live]
        weights = problem.preference.astype(float).copy()
        altered = np.zeros((len(live), len(live)))
        for i in range(len(live)):
            altered[i] = self._altered(i, tasks, cosines)
        for task in problem.tasks:
            self.state[task] = {"steps": self.state.get(task, {}).get("steps", 0) + 1}
        weights[live] = ((problem.preference[live] * n) @ altered) / n
        return Solution(weights, UNSOLVED)

    def _altered(self, i: int, tasks: Sequence[str], cosines: Array) -> Array:
        """v_i / |g_i| in coefficients of the unit rows."""
        v = np.zeros(len(tasks))
        v[i] = 1.0
        others = [j for j in range(len(tasks)) if j != i]
        step = self.state.get(tasks[i], {}).get("steps", 0)
        for k in turns(self.seed, tasks[i], step, [tasks[j] for j in others]):
            j = others[k]
            along = float(v @ cosines[j])
            if along < 0:
                v[j] -= along
        return v
