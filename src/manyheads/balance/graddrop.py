"""Gradients of which one sign is picked, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..blocks import seed_of
from ..ranges import Range, between
from .surgery import Surgery


class GradDrop(Surgery):
    """In each entry of the gradient one sign is drawn, and only the tasks that have it are heard.

    With h_k = p_k g_k the gradient of task k times its preference, the positive sign's purity in an entry is P = (1 +
    sum_k h_k / sum_k |h_k|) / 2. A number u is drawn uniformly from [0, 1) for each entry; M_k is 1 where h_k > 0 and u
    < P, or h_k < 0 and u >= P, and 0 elsewhere. The update is sum_k (l_k + (1 - l_k) M_k) h_k, with l_k the part of a
    task's gradient that leaks through in any case.

    Cost: a backward pass per task; the rows of the Jacobian are kept.
    State: in how many steps a sign was drawn.
    Safe range: gradients of any size and any ratio of sizes. Where all signs agree nothing is lost; elsewhere the
    update is noisy, and its mean over the draws is the sum of the h_k where all leaks are equal. One long gradient
    picks nearly all signs. The user's `weight` p_k scales the gradient of its task.

    Args:
        leak: l_k, 0 to 1, for all tasks, or task -> l_k; 0 for a task that is not named.
        seed: of the draws, one for each entry and step.

    Raises:
        ValueError: a leak is not between 0 and 1.

    Reference:
        Chen, Ngiam, Huang, Luong, Kretzschmar, Chai, Anguelov: Just pick a sign: Optimizing deep multitask models with
        gradient sign dropout, 2020.

    Differs from the paper: NOTE[DIFF] signs are those of the gradients of shared parameters; the paper drops gradients
    of a shared activation, whose signs it multiplies by the activation's and adds up over the batch.
    """

    search: ClassVar[Mapping[str, Range]] = {"leak": between(0, 1)}

    def __init__(self, leak: float | Mapping[str, float] = 0.0, seed: int = 0) -> None:
        super().__init__()
        self._leak, self._leaks = (0.0, dict(leak)) if isinstance(leak, Mapping) else (leak, {})
        for value in (self._leak, *self._leaks.values()):
            if not 0 <= value <= 1:
                raise ValueError(f"`leak` should be 0 to 1. Found {value}.")
        self.seed = seed
        self.named["leak"] = tuple(self._leaks)

    def combine(self, rows: Tensor, tasks: Sequence[str], preference: Tensor) -> Tensor:
        rows = rows * preference[:, None]
        sizes = rows.abs()
        size = sizes.sum(0)
        purity = (1 + rows.sum(0) / size.where(size > 0, 1.0)) / 2
        draw = torch.Generator().manual_seed(seed_of(self.seed, "graddrop", self._age))
        picked = torch.rand(rows.shape[1], generator=draw, dtype=torch.float32).to(rows.device) < purity
        total = sizes.sum(1, dtype=torch.float64)
        heard = torch.where(picked, rows.clamp(min=0), rows.clamp(max=0))
        if self._leak or self._leaks:
            leak = rows.new_tensor([self._leaks.get(task, self._leak) for task in tasks])[:, None]
            heard = leak * rows + (1 - leak) * heard
        share = heard.abs().sum(1, dtype=torch.float64) / total.where(total > 0, 1.0)
        self.last_weights = dict(zip(tasks, (share * preference).tolist(), strict=True))
        return heard.sum(0)
