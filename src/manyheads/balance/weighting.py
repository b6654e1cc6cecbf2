"""Balances that read the losses only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..catalog import hint
from ..faults import ConfigError
from . import Look, Losses, Weighting


class Equal(Weighting):
    """The sum of the losses: sum_k p_k L_k, with p_k the user's preference (`weight` of the task, 1 by default).

    Well tuned it is hard to beat.

    Cost: one backward pass.
    State: none.
    Safe range: any losses; the preference p_k multiplies the loss.

    Reference:
        Kurin et al.: In defense of the unitary scalarization for deep multi-task learning, 2022.
    """

    constant = True
    separable = True

    def weights(self, losses: Losses) -> Tensor:
        return losses.preferences()


class Fixed(Weighting):
    """A fixed weight per task: sum_k w_k p_k L_k.

    Cost: one backward pass.
    State: none.
    Safe range: any losses; the preference p_k multiplies w_k.

    Args:
        weights: task -> w_k; 1 for a task that is not named.

    Raises:
        ValueError: a weight is negative, or a named task never comes (checked at the first step that has every task).

    Reference:
        Caruana: Multitask learning, 1997.
    """

    constant = True
    separable = True

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        for task, weight in weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise ValueError(f"The weight of `{task}` should be 0 or more. Found {weight}.")
        self._weights = dict(weights)

    def check(self, tasks: Sequence[str]) -> None:
        """Refuse weights for tasks that do not exist."""
        for task in self._weights:
            if task not in tasks:
                raise ConfigError(f"`weights` names the task `{task}`, which does not exist. {hint(task, tasks)}")

    def weights(self, losses: Losses) -> Tensor:
        fixed = torch.tensor([self._weights.get(t, 1.0) for t in losses.tasks], dtype=losses.vector.dtype)
        return losses.preferences() * fixed.to(losses.vector.device)


LIMIT = 30.0
"""Where |s_k| ends, so that a task whose loss is 0 does not get an infinite weight."""


class Uncertainty(Weighting):
    """Homoscedastic uncertainty: minimise sum_k p_k (exp(-s_k) L_k + s_k) over the net and over s_k = log sigma_k^2.

    At the optimum of s_k the weight is 1 / L_k, so tasks of any scale get one size; s_k starts at 0, which is `Equal`.

    Cost: one backward pass.
    State: s_k and its Adam moments.
    Safe range: losses above 0 (a loss of 0 drives s_k to its limit of -30); the preference p_k multiplies the weight.

    Args:
        lr: step of the Adam that moves s_k, in units of s.

    *Differs from the paper*: NOTE[DIFF] one form for regression and classification (the paper has 1/2 exp(-s) L + s/2
    for regression, the same up to the factor 1/2); s_k is moved by its own Adam, so that a bare `balance.backward` in
    anyone's loop learns it.

    Reference:
        Kendall, Gal, Cipolla: Multi-task learning using uncertainty to weigh losses for scene geometry and semantics,
        2018.
    """

    separable = True

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"`lr` should be positive. Found {lr}.")
        self.lr = lr

    def weights(self, losses: Losses) -> Tensor:
        s = [self.state.get(t, {}).get("s", 0.0) for t in losses.tasks]
        variances = torch.tensor(s, dtype=losses.vector.dtype, device=losses.vector.device)
        return losses.preferences() * variances.neg().exp()

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        for task, loss in losses.items():
            old = self.state.get(task, {"s": 0.0, "m": 0.0, "v": 0.0, "t": 0})
            gradient = 1.0 - math.exp(-old["s"]) * loss
            t = old["t"] + 1
            m, v = 0.9 * old["m"] + 0.1 * gradient, 0.999 * old["v"] + 0.001 * gradient**2
            step = self.lr * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
            self.state[task] = {"s": min(max(old["s"] - step, -LIMIT), LIMIT), "m": m, "v": v, "t": t}
