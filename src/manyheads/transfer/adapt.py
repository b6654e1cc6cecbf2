"""The steps that a model learned to take."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ..faults import ConfigError
from ..objectives.maml import MAML
from . import Case, Way


class Adapt(Way):
    """Plain descent of all weights on the new rows, as a model that was trained with `maml` was trained for.

    The head begins as the first units of the head of an old task of the same kind: those that the model's own episodes
    used. Nothing holds the other tasks, whose scores after it are those of a model that has followed the new one.

    Args:
        inner_steps, inner_lr: of the descent.
        adapt: the parameters that move: `all`, `heads`, or a pattern of names.
        norm: what batch normalisation does: `batch` or `frozen`.

    Reference:
        Finn, Abbeel, Levine: Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    """

    whole: ClassVar[bool] = True

    def __init__(
        self, *, inner_steps: int = 5, inner_lr: float = 0.01, adapt: str = "all", norm: str | None = None
    ) -> None:
        self.inner_steps, self.inner_lr, self.adapt, self.norm = inner_steps, inner_lr, adapt, norm
        MAML(inner_steps=inner_steps, inner_lr=inner_lr, adapt=adapt, norm=norm)  # refuses what cannot be

    def prepare(self, case: Case) -> None:
        head = case.model.heads[case.task.name]
        for name, task in case.old.tasks.items():
            first = case.old.heads[name]
            if task.kind != case.task.kind or not isinstance(head, nn.Linear) or not isinstance(first, nn.Linear):
                continue
            if first.in_features == head.in_features and first.out_features >= head.out_features:
                with torch.no_grad():
                    head.weight.copy_(first.weight[: head.out_features])
                    head.bias.copy_(first.bias[: head.out_features])
                return

    def fit(self, case: Case) -> None:
        ((source, rows),) = case.train.items()
        if not len(rows):
            raise ConfigError("A model should have a row or more to follow. Found none.")
        self.prepare(case)
        objective = MAML(
            [case.task], inner_steps=self.inner_steps, inner_lr=self.inner_lr, adapt=self.adapt, norm=self.norm
        )
        found = objective.fit(case.model, rows.only([case.task.name]), source)
        case.model.load_state_dict(found.state_dict(), strict=False)
