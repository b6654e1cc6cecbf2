"""Gradients that are turned until they agree as well as they usually do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..ranges import Range, log
from .aggregation import UNSOLVED, Aggregation, Array, Problem, Solution
from .pcgrad import turns
from .unitrows import unit_rows

SHARPEST = 1.0 - 1e-6
"""A wanted cosine nearer to 1 would ask for unbounded multiples of the other gradient."""


class GradVac(Aggregation):
    """The sum of the gradients, each turned towards the others until their cosines are at least the usual ones.

    For each task i, v_i = g_i; then for each other task j in random order, with c = cos(v_i, g_j) and the target t_ij,
    where c < t_ij: v_i <- v_i + |v_i| (t_ij sqrt(1 - c^2) - c sqrt(1 - t_ij^2)) / (|g_j| sqrt(1 - t_ij^2)) g_j, after
    which their cosine is t_ij; then t_ij <- (1 - beta) t_ij + beta c. Targets start at 0. The update is sum_i p_i v_i,
    with p_i the preference.

    Cost: the Gramian, and one backward pass.
    State: per task, in how many steps it was there (it draws the order), and t_ij for every j that it met.
    Safe range: gradients of any size and any ratio of sizes; one of zero is left as it is, and teaches no target. A
    target counts as 1 - 1e-6 at most. The user's `weight` p_i scales the altered gradient of its task.

    Args:
        beta: how fast targets follow the cosines, 0 to 1.
        seed: of the order in which the other tasks come.
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Raises:
        ValueError: `beta` is not in 0 to 1.

    Reference:
        Wang, Tsvetkov, Firat, Cao: Gradient vaccine: Investigating and improving multi-task optimization in massively
        multilingual models, 2021.

    Differs from the paper: NOTE[DIFF] one target per pair over all shared parameters, where the paper also tries one
    per layer.
    """

    search: ClassVar[Mapping[str, Range]] = {"beta": log(0.001, 0.5)}

    def __init__(self, beta: float = 0.01, seed: int = 0, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)
        if not 0 <= beta <= 1:
            raise ValueError(f"`beta` should be 0 to 1. Found {beta}.")
        self.beta, self.seed = beta, seed

    def solve(self, problem: Problem) -> Solution:
        live, n, cosines = unit_rows(problem.gram)
        tasks = [problem.tasks[k] for k in live]
        met: dict[str, dict[str, Any]] = {}
        for task in problem.tasks:
            old = self.state.get(task, {"steps": 0, "cosines": {}})
            met[task] = {"steps": old["steps"] + 1, "cosines": dict(old["cosines"])}
        altered = np.zeros((len(live), len(live)))
        for i, task in enumerate(tasks):
            altered[i] = self._altered(i, tasks, cosines, met[task])
        self.state.update(met)
        weights = problem.preference.astype(float).copy()
        with np.errstate(over="ignore", invalid="ignore"):
            combined = ((problem.preference[live] * n) @ altered) / n
        if not np.isfinite(combined).all():
            return Solution(weights, UNSOLVED, "altered gradients too large: plain sum")
        weights[live] = combined
        return Solution(weights, UNSOLVED)

    def _altered(self, i: int, tasks: Sequence[str], cosines: Array, own: dict[str, Any]) -> Array:
        """v_i / |g_i| in coefficients of the unit rows; renews the targets of task i."""
        v = np.zeros(len(tasks))
        v[i] = 1.0
        length = 1.0
        others = [j for j in range(len(tasks)) if j != i]
        for k in turns(self.seed, tasks[i], own["steps"] - 1, [tasks[j] for j in others]):
            j = others[k]
            if not 0 < length < math.inf:
                break
            c = min(max(float(v @ cosines[j]) / length, -1.0), 1.0)
            target = own["cosines"].get(tasks[j], 0.0)
            t = min(target, SHARPEST)
            if c < t:
                v[j] += length * (t * math.sqrt(1 - c * c) / math.sqrt(1 - t * t) - c)
                length = math.sqrt(max(float(v @ cosines @ v), 0.0))
            own["cosines"][tasks[j]] = (1 - self.beta) * target + self.beta * c
        return v
