"""Balances that read the losses only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..catalog import hint
from ..faults import ConfigError
from . import Losses, Weighting


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
