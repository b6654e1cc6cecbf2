"""Smooth Tchebycheff scalarisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from ..ranges import Range, log
from . import Look, Losses, Weighting


class STCH(Weighting):
    """Smooth Tchebycheff scalarisation: nearly the worst task alone, with a slope.

    Minimises mu log sum_k exp(p_k (L_k - z_k) / mu), with p_k the user's preference, z_k the ideal loss of task k, and
    mu > 0 how smooth it is: for mu to 0 it is the largest p_k (L_k - z_k), for large mu the sum. w_k = K p_k softmax_k,
    with softmax_k = exp(p_k (L_k - z_k) / mu) / sum_j exp(p_j (L_j - z_j) / mu) and K the number of tasks in the step.

    Cost: one backward pass.
    State: none; with ``ideal="running"`` per task the smallest loss so far.
    Safe range: all losses, but they must have one unit: `mu` is in it, and the task with the largest unit gets all the
    weight. The preference is the method's own: it enters the softmax as well, so that the answer is the point of the
    Pareto front where p_k (L_k - z_k) are equal.

    Args:
        mu: in units of the losses.
        ideal: z_k: task -> loss, 0 for a task that is not named; or ``running``, the smallest loss of the task so far.

    Raises:
        ValueError: `mu` is not positive, or an ideal is not finite.

    Reference:
        Lin, Zhang, Yang, Liu, Wang, Zhang: Smooth Tchebycheff scalarization for multi-objective optimization, 2024.

    Differs from the paper: NOTE[DIFF] the factor K, so that equal losses give their sum.
    """

    own_preference: ClassVar[str] = "It is inside the softmax as well, so that its task's loss counts p_k-fold there."
    search: ClassVar[Mapping[str, Range]] = {"mu": log(0.1, 10)}

    def __init__(self, mu: float = 1.0, ideal: Mapping[str, float] | Literal["running"] | None = None) -> None:
        super().__init__()
        if not (mu > 0 and math.isfinite(mu)):
            raise ValueError(f"`mu` should be positive. Found {mu}.")
        if isinstance(ideal, str) and ideal != "running":
            raise ValueError(f"`ideal` should be losses by task, or `running`. Found `{ideal}`.")
        self.mu, self.running = mu, ideal == "running"
        self._ideal = dict(ideal) if isinstance(ideal, Mapping) else {}
        self.named["ideal"] = tuple(self._ideal)
        for task, loss in self._ideal.items():
            if not math.isfinite(loss):
                raise ValueError(f"The ideal of `{task}` should be finite. Found {loss}.")

    def weights(self, losses: Losses) -> Tensor:
        values = losses.vector.detach().tolist()
        away = [losses.weight.get(t, 1.0) * (v - self._best(t, v)) for t, v in zip(losses.tasks, values, strict=True)]
        worst = max(away)
        exponentials = [math.exp((a - worst) / self.mu) for a in away]
        total = math.fsum(exponentials)
        return losses.preferences() * losses.vector.new_tensor([len(away) * e / total for e in exponentials])

    def _best(self, task: str, loss: float) -> float:
        return self.state.get(task, {"best": loss})["best"] if self.running else self._ideal.get(task, 0.0)

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        if self.running:
            for task, loss in losses.items():
                self.state[task] = {"best": min(self._best(task, loss), loss)}
