"""Group optimisation for multi-task alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from ..ranges import Range, log
from . import Look, Losses, Weighting
from .given import whole
from .logarithmic import over_sizes, renewed_mean, sizes


def groups_of(values: Sequence[float], n_groups: int) -> list[int]:
    """Where groups of sorted numbers begin that are least spread about their means: k-means on a line, solved exactly.

    Args:
        values: in ascending order.
        n_groups: at most as many as there are values.

    Returns:
        (n_groups,) ascending positions, the first of which is 0.
    """
    n = len(values)
    sums, squares = (np.concatenate([[0.0], np.cumsum(np.power(values, p))]) for p in (1, 2))

    def spread(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Of values[start:end] about their mean, times their number."""
        return squares[end] - squares[start] - (sums[end] - sums[start]) ** 2 / (end - start)

    ends = np.arange(1, n + 1)
    best = np.concatenate([[np.inf], spread(np.zeros(n, int), ends)])  # of the first so many values, in one group
    begins = []
    for _ in range(1, n_groups):
        start, end = np.tril_indices(n)[::-1]  # start < end + 1
        cost = np.full((n + 1, n), np.inf)
        cost[end + 1, start] = best[start] + spread(start, end + 1)
        begins.append(cost.argmin(1))
        best = cost.min(1)
    found, end_of_rest = [], n
    for begin in reversed(begins):
        end_of_rest = int(begin[end_of_rest])
        found.append(end_of_rest)
    return [0, *reversed(found)]


class GO4Align(Weighting):
    """Group optimisation for multi-task alignment: tasks that learn alike share one weight.

    v_k = q_k / L_k brought to the sum K, with q_k = exp(-eta R_k), R_k the sum of the losses that task k has had before
    this step, eta the step size and K the number of tasks in the step. The v_k are put into groups that are least
    spread about their means (k-means on a line), and w_k = p_k times the mean of v over the group of k, with p_k the
    user's preference.

    Cost: one backward pass.
    State: per task R_k and the running mean of |L_k|.
    Safe range: losses above 0; as in `SI`, the running mean stands in for a loss that is 0, less, or next to nothing.
    q_k is in the losses' units: `lr` times the sum of a run's losses should stay near 1. The preference p_k multiplies
    w_k.

    Args:
        n_groups: at most; with 1 the weights are those of `Equal`.
        lr: eta.

    Raises:
        ValueError: less than one group, or `lr` is negative.

    Reference:
        Shen, Wang, Xiao, van Noord, Worring: GO4Align: group optimization for multi-task alignment, 2024.

    Differs from the paper: NOTE[DIFF] weights sum to K; R_k ends before this step, so that a step in parts is one step;
    k-means is solved exactly in the place of an iteration from a random start.
    """

    search: ClassVar[Mapping[str, Range]] = {"lr": log(1e-5, 1e-2)}

    def __init__(self, n_groups: int = 2, lr: float = 1e-4) -> None:
        super().__init__()
        if not (lr >= 0 and math.isfinite(lr)):
            raise ValueError(f"`lr` should be 0 or more. Found {lr}.")
        self.n_groups, self.lr = whole("n_groups", n_groups), lr

    def weights(self, losses: Losses) -> Tensor:
        values = dict(zip(losses.tasks, losses.vector.detach().tolist(), strict=True))
        log_shares = [-self.lr * self.state.get(task, {"risk": 0.0})["risk"] for task in values]
        single = over_sizes(log_shares, sizes(values, self.state))
        order = sorted(range(len(single)), key=lambda i: (single[i], losses.tasks[i]))
        begins = groups_of([single[i] for i in order], min(self.n_groups, len(order)))
        shared = list(single)
        for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
            group = order[begin:end]
            for i in group:
                shared[i] = math.fsum(single[j] for j in group) / len(group)
        return losses.preferences() * losses.vector.new_tensor(shared)

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        for task, loss in losses.items():
            old = self.state.get(task)
            risk = (old["risk"] if old else 0.0) + loss
            self.state[task] = {"risk": risk, "mean": renewed_mean(old, loss)}
