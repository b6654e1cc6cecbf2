"""Balances that read the losses only."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

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
        ValueError: a weight is negative or not finite. That a named task does not exist is found by `check`, which a
            config calls; `report` tells of one that never came.

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
        self.named["weights"] = tuple(self._weights)

    def weights(self, losses: Losses) -> Tensor:
        fixed = torch.tensor([self._weights.get(t, 1.0) for t in losses.tasks], dtype=losses.vector.dtype)
        return losses.preferences() * fixed.to(losses.vector.device)
