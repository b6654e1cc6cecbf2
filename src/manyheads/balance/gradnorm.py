"""Weights that learn to give every task a pull of its due length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ..ranges import Range, between, log
from .aggregation import UNSOLVED, Aggregation, Problem, Solution
from .learntscale import adam

LEAST = 1e-3
"""No weight falls below this, so that no task is lost for ever."""
AT_REST = 1e-9
"""A pull that is off by less, relative to the mean, is where it should be: the sign of rounding moves nothing."""


class GradNorm(Aggregation):
    """Learnt weights, under which tasks that learn slowly pull harder.

    With n_k = |g_k|, the training rate r_k = (L_k / L_k(0)) / mean_j (L_j / L_j(0)) and the mean pull m = mean_j w_j
    n_j, the weights go down sum_k |w_k n_k - m r_k^alpha| (m r_k^alpha held fixed) by one step of Adam, and are then
    divided so that they sum to the number of tasks. At rest w_k n_k = m r_k^alpha. The update is sum_k p_k w_k g_k with
    the weights from before the step, p_k the preference.

    Cost: the Gramian (its diagonal), and one backward pass.
    State: per task, L_k(0), w_k, and the two means and the count of its Adam.
    Safe range: gradients and losses of any size: the slope of the sum is taken in units of m, and a step where all
    gradients are zero moves nothing. A loss that starts at 0 or below has no rate, and r_k = 1 for it. Absent tasks
    keep their state; the weights of the present ones are brought to the sum K. A weight stays above 1e-3. The user's
    `weight` p_k multiplies w_k, so that pulls are p_k r_k^alpha to one another.

    Args:
        alpha: how much harder slow tasks pull; 0 makes all pulls equal.
        lr: step of the Adam that moves the weights.
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Raises:
        ValueError: `alpha` is negative, or `lr` is not positive.

    Reference:
        Chen, Badrinarayanan, Lee, Rabinovich: GradNorm: Gradient normalization for adaptive loss balancing in deep
        multitask networks, 2018.

    Differs from the paper: NOTE[DIFF] gradients over all shared parameters, where the paper takes those of the last
    shared layer; the slope in units of m, so that losses of any scale move the weights alike; the least weight.
    """

    needs_losses = True
    search: ClassVar[Mapping[str, Range]] = {"alpha": between(0, 3), "lr": log(0.0025, 0.25)}

    def __init__(self, alpha: float = 1.5, lr: float = 0.025, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__(gramian=gramian, every=every)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"`alpha` should be 0 or more. Found {alpha}.")
        if not 0 < lr < math.inf:
            raise ValueError(f"`lr` should be positive. Found {lr}.")
        self.alpha, self.lr = alpha, lr

    def solve(self, problem: Problem) -> Solution:
        assert problem.losses is not None
        known = zip(problem.tasks, problem.losses.tolist(), strict=True)
        fresh = {"w": 1.0, "m": 0.0, "v": 0.0, "t": 0}
        now = {task: self.state.get(task) or {"initial": loss} | fresh for task, loss in known}
        w = np.array([own["w"] for own in now.values()])
        w *= len(w) / w.sum()
        lengths = np.sqrt(np.maximum(np.diagonal(problem.gram), 0.0))
        pulls = w * lengths
        mean = float(pulls.mean())
        due = mean * self._rates(problem.losses, np.array([own["initial"] for own in now.values()])) ** self.alpha
        if mean > 0:
            surplus = (pulls - due) / mean
            slopes = np.where(np.abs(surplus) > AT_REST, np.sign(surplus), 0.0) * lengths / mean
            moved = np.array([self._step(own, s, x) for own, s, x in zip(now.values(), slopes, w, strict=True)])
            moved = np.maximum(moved, LEAST)
            for own, x in zip(now.values(), (moved * (len(w) / moved.sum())).tolist(), strict=True):
                own["w"] = x
        self.state.update(now)
        return Solution(problem.preference * w, UNSOLVED)

    @staticmethod
    def _rates(losses: np.ndarray, initial: np.ndarray) -> np.ndarray:
        """r_k: 1 where a loss began at 0 or below, or where none is left."""
        rates = np.ones(len(losses))
        known = initial > 0
        with np.errstate(over="ignore"):
            ratios = np.clip(losses[known] / initial[known], 0.0, 1e100)
        if ratios.size and ratios.max() > 0:
            rates[known] = ratios / ratios.mean()
        return rates

    def _step(self, own: dict[str, float], slope: float, w: float) -> float:
        """A weight after one step of Adam down the slope; `own` gets the new moments."""
        step, moments = adam(own, float(slope), self.lr)
        own |= moments
        return w - step
