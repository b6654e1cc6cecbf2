"""One task leads, and the others are not left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from scipy.optimize import nnls

from ..ranges import Range, log
from .aggregation import Aggregation, Array, Problem, Solution
from .unitrows import spectrum, unit_rows

FEASIBLE = 1e-6
"""Shares that would need a change more than a million times the primary gradient count as contradictory."""


class PCD(Aggregation):
    """The direction nearest to the primary task's gradient that leaves every other task a share of its own progress.

    With s_k = 1 / sqrt(v_k + eps), where v_k is the exponential mean of |g_k|^2 (freed of its bias to 0), and h_k = s_k
    g_k (h_1 of the primary task),

        q = argmin |d - h_1|^2 / 2   under   <h_j, d> >= tau p_j |h_j|^2 for every other task j,

    and the update is |g_1| q / |q|; p_j is the preference of task j (tau p_j is 1 at most).

    Cost: the Gramian, and one backward pass.
    State: per task, the exponential mean of |g_k|^2 and in how many steps it was there.
    Safe range: solved exactly for gradients of any size and any ratio of sizes; a constraint of a zero gradient is
    void. `eps` is in units of |g|^2: a task whose gradients are shorter than its root gets less than its share; 0 makes
    the rule free of scale. Where the shares contradict each other the update is g_1, where g_1 is zero it is 0, and a
    note says so; where the primary task is absent from a step it is the mean of the others. The user's `weight` p_j
    scales the share of a task; that of the primary task has no effect.

    Args:
        primary: name of the task that leads.
        tau: share of a step along its own gradient that each other task is to get, 0 to 1.
        beta: decay of the exponential mean.
        eps: added to the mean before its root.
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps.

    Raises:
        ValueError: `tau` or `beta` out of range, or `eps` negative.

    Reference:
        Varam, AlHajri: Not all objectives are born equal: Priority-constrained descent for hierarchical multi-objective
        optimization, 2026.

    Differs from the paper: NOTE[DIFF] preferences scale the shares; any number of tasks, where the paper lists the sets
    of active constraints.
    """

    search: ClassVar[Mapping[str, Range]] = {"tau": log(0.002, 0.2)}

    def __init__(
        self,
        primary: str,
        tau: float = 0.02,
        beta: float = 0.999,
        eps: float = 1e-8,
        *,
        gramian: str = "auto",
        every: int = 1,
    ) -> None:
        super().__init__(gramian=gramian, every=every)
        if not 0 <= tau <= 1:
            raise ValueError(f"`tau` should be 0 to 1. Found {tau}.")
        if not 0 <= beta < 1:
            raise ValueError(f"`beta` should be 0 or more and less than 1. Found {beta}.")
        if not 0 <= eps < np.inf:
            raise ValueError(f"`eps` should be 0 or more. Found {eps}.")
        self.primary, self.tau, self.beta, self.eps = primary, tau, beta, eps
        self.named["primary"] = (primary,)

    def solve(self, problem: Problem) -> Solution:
        scaled = self._scaled(problem)
        weights = np.zeros(len(problem.tasks))
        if self.primary not in problem.tasks:
            return Solution(np.full(len(weights), 1 / len(weights)), 0.0, "primary task absent: mean")
        first = problem.tasks.index(self.primary)
        live, n, cosines = unit_rows(problem.gram)
        if first not in live:
            return Solution(weights, 0.0, "primary gradient is zero")
        one = int(np.flatnonzero(live == first)[0])
        rest = np.flatnonzero(live != first)
        shares = np.minimum(self.tau * problem.preference[live[rest]], 1.0)
        # in units of |h_1|, with unit rows u: d = u_1 + z, |z| least, <u_j, z> >= tau p_j |h_j| / |h_1| - <u_j, u_1>
        wanted = shares * scaled[live[rest]] / scaled[first] - cosines[rest, one]
        values, vectors = spectrum(cosines)
        found = _least_change(vectors[rest] * np.sqrt(values), wanted)
        if found is None:
            weights[first] = 1.0
            return Solution(weights, 0.0, "contradictory shares: primary gradient")
        multipliers, missed = found
        v = np.zeros(len(live))
        v[rest] = multipliers
        v[one] = 1.0
        length = np.sqrt(max(float(v @ cosines @ v), 0.0))
        if not length > 1e-7 * np.abs(v).max():
            return Solution(weights, missed, "Pareto-stationary")
        weights[live] = v * (n[one] / n) / length
        return Solution(weights, missed)

    def _scaled(self, problem: Problem) -> Array:
        """|h_k|; renews the means of |g_k|^2."""
        scaled = np.zeros(len(problem.tasks))
        for k, (task, square) in enumerate(zip(problem.tasks, np.diagonal(problem.gram).tolist(), strict=True)):
            old = self.state.get(task, {"square": 0.0, "steps": 0})
            steps, mean = old["steps"] + 1, self.beta * old["square"] + (1 - self.beta) * square
            self.state[task] = {"square": mean, "steps": steps}
            below = mean / (1 - self.beta**steps) + self.eps
            scaled[k] = np.sqrt(square / below) if below > 0 else 0.0
        return scaled


def _least_change(rows: Array, wanted: Array) -> tuple[Array, float] | None:
    """The shortest z with rows @ z >= wanted, as multipliers of the rows.

    z = rows^T mu with mu >= 0, and mu_j > 0 only where the constraint is tight. By Lawson and Hanson's least distance
    programming it is a non-negative least squares problem, which ends after finitely many exact steps.

    Returns:
        The multipliers, and by how much the conditions are missed; None where no z will do.
    """
    if not (wanted > 0).any():
        return np.zeros(len(wanted)), 0.0
    system = np.vstack([rows.T, wanted])
    target = np.zeros(len(system))
    target[-1] = 1.0
    u, distance = nnls(system, target, maxiter=100 * len(wanted) + 100)
    if distance < FEASIBLE:
        return None
    mu = u / distance**2
    tight = np.flatnonzero(mu > 0)
    gram = rows @ rows.T
    polished = np.zeros(len(mu))  # the same set of tight constraints, without the rounding of the way there
    polished[tight] = np.linalg.lstsq(gram[np.ix_(tight, tight)], wanted[tight], rcond=1e-13)[0]
    return min(((m, _missed(gram, wanted, m)) for m in (mu, polished)), key=lambda found: found[1])


def _missed(gram: Array, wanted: Array, mu: Array) -> float:
    """The largest of: a constraint's violation, a negative multiplier, slack where the multiplier is not 0."""
    slack = gram @ mu - wanted
    scale = max(1.0, float(np.abs(mu).max()))
    return float(max(-slack.min(), -mu.min() / scale, np.abs(slack * mu).max() / scale, 0.0))
