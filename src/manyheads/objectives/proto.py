"""Classes by their mean feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..adaptation import linear_head, prototypes
from ..data import Taskset
from ..evaluate import at_a_time
from ..faults import ConfigError
from ..ranges import Range
from ..tasks import Task
from .episodic import Episodic, Net, Rows, mean_error
from .maml import shape_of


class Proto(Episodic):
    """Softmax over -|f(x) - c_k|^2, where c_k is the mean feature of an episode's support rows of class k.

    Nothing is fitted within an episode, and the head of the task is not used: `fit` makes it from prototypes afterwards
    (W = 2c, b = -|c|^2).

    Args:
        tasks: what the outputs mean; default: the model's own `tasks`. Of a net that is not ours the output is f(x).
        ways: classes per episode; as many in training as later, or more.
        by, support, query, episodes, norm, vectorised: as MAML has them; support and query are per class.

    Reference:
        Snell, Swersky, Zemel: Prototypical networks for few-shot learning, 2017.
    """

    search: ClassVar[Mapping[str, Range]] = {}

    def __init__(
        self,
        tasks: Sequence[Task] | None = None,
        *,
        ways: int = 5,
        by: str | None = None,
        support: int | Sequence[int] = 5,
        query: int = 5,
        episodes: int = 1,
        norm: str | None = None,
        vectorised: bool = True,
    ) -> None:
        super().__init__(tasks, shape_of(support, query, episodes, ways, by), 0, 0.0, "all", norm, vectorised)

    def of_episode(
        self, net: Net, weights: Mapping[str, Tensor], support: Rows, query: Rows
    ) -> dict[str, tuple[Tensor, Tensor]]:
        found = self.answers(net, weights, support, query)
        return {t: mean_error(net.tasks[t], output, *query[1][t]) for t, output in found.items()}

    def answers(self, net: Net, weights: Mapping[str, Tensor], support: Rows, query: Rows) -> dict[str, Tensor]:
        (task,) = net.names
        target = support[1][task][0]
        assert self.shape.ways is not None
        features = net.features(weights, {k: torch.cat([v, query[0][k]]) for k, v in support[0].items()})
        old, new = features.split([len(target), len(features) - len(target)])
        weight, bias = linear_head(prototypes(old, target, self.shape.ways))
        return {task: new @ weight.mT + bias}

    def fit(self, model: nn.Module, rows: Taskset, table: str | None = None, steps: int | None = None) -> nn.Module:
        """A copy of the model whose heads are the prototypes of these rows; a class without rows is never chosen."""
        own = deepcopy(model).eval()
        for task in rows.tasks:
            head = getattr(own, "heads", {}).get(task)
            if not isinstance(head, nn.Linear):
                raise ConfigError(f"Prototypes should go into a linear head. Found none of the task `{task}`.")
            target, known, _ = rows.labels(task)
            with torch.no_grad():
                some, every = rows.take(known.nonzero().flatten()), at_a_time(rows)
                parts = [some.batch(torch.arange(i, min(i + every, len(some)))) for i in range(0, len(some), every)]
                features = torch.cat([own.transform(part.inputs, table, task) for part in parts])  # type: ignore[operator]
                weight, bias = linear_head(prototypes(features, target[known], len(head.bias)))
                missing = torch.bincount(target[known].long(), minlength=len(head.bias)) == 0
                head.weight.copy_(weight)
                head.bias.copy_(bias.masked_fill(missing, -1e4))
        return own

    def conclude(self, model: nn.Module, train: Mapping[str, Taskset]) -> None:
        """The heads become the prototypes of all training rows, so that the model can name the classes it knows."""
        for table, rows in train.items():
            named = [t for t in rows.tasks if isinstance(getattr(model, "heads", {}).get(t), nn.Linear)]
            if named:
                model.load_state_dict(self.fit(model, rows.only(named), table).state_dict())
