"""New classes by their mean feature."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from ..adaptation import linear_head, prototypes
from ..faults import ConfigError
from . import Case, Way, freeze
from ._head import features


class Prototypes(Way):
    """Nothing is learned but the mean feature c_k of each class: softmax over -|f(x) - c_k|^2, by W = 2c, b = -|c|^2.

    It asks for one row of each class, and is what a model that was trained with `proto` was trained for; a class
    without rows is never chosen.

    Reference:
        Snell, Swersky, Zemel: Prototypical networks for few-shot learning, 2017.
    """

    frozen: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def prepare(self, case: Case) -> None:
        freeze(case.model, case.fresh)

    def fit(self, case: Case) -> None:
        head, task = case.model.heads[case.task.name], case.task
        if not isinstance(head, nn.Linear) or task.kind != "multiclass":
            raise ConfigError(
                f"`prototypes` should be asked of a task of type multiclass whose head is linear. Found `{task.kind}`; "
                "use `probe`."
            )
        z, (target, known, _) = features(case.model, case.train, task)
        y = target[known].long()
        weight, bias = linear_head(prototypes(z[known], y, head.out_features))
        missing = torch.bincount(y, minlength=head.out_features) == 0
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias.masked_fill(missing, -1e4))
