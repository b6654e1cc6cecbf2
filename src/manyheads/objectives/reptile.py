"""Towards where each episode's own training leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..adaptation import adapt as descend
from ..tasks import Task
from .episodic import Episodic, Net, Rows
from .maml import shape_of


class Reptile(Episodic):
    """The gradient of L_k is the mean over episodes of theta - phi, where phi is theta after some steps of descent.

    There is no query set: every step follows from all rows of an episode, and what is shown as the loss is the error
    at phi of those same rows.

    Args:
        inner_steps: of the plain descent on an episode's rows; 1 is training on the episodes' mean.
        tasks, inner_lr, adapt, by, support, query, episodes, ways, norm, vectorised: as MAML has them.

    Reference:
        Nichol, Achiam, Schulman: On first-order meta-learning algorithms, 2018.

    Differs from the paper:
        The inner steps are plain descent, not Adam; each sees all rows of an episode, not a part drawn anew.
    """

    reaching = True

    def __init__(
        self,
        tasks: Sequence[Task] | None = None,
        *,
        inner_steps: int = 5,
        inner_lr: float = 0.01,
        adapt: str = "all",
        by: str | None = None,
        support: int | Sequence[int] = 10,
        query: int = 10,
        episodes: int = 8,
        ways: int | None = None,
        norm: str | None = None,
        vectorised: bool = True,
    ) -> None:
        shape = shape_of(support, query, episodes, ways, by)
        super().__init__(tasks, shape, inner_steps, inner_lr, adapt, norm, vectorised)

    def of_episode(
        self, net: Net, weights: Mapping[str, Tensor], support: Rows, query: Rows
    ) -> dict[str, tuple[Tensor, Tensor]]:
        x = {k: both(support[0][k], query[0][k]) for k in support[0]}
        labels = {t: tuple(map(both, support[1][t], query[1][t])) for t in support[1]}
        moving, start = self.moving(net.model), {n: w.detach() for n, w in weights.items()}
        answer = {}
        for task in net.names:  # each task's own way from theta, so that a balance sees whose is whose
            rows: Rows = (x, {task: labels[task]})
            alone = net.only(task)
            names = [n for n in moving if n in net.reach[task]]
            with torch.no_grad():
                phi = descend(alone.total, start, rows, self.inner_steps, self.inner_lr, True, names)
                value, count = alone.errors(phi, rows)[task]
            # <theta, theta - phi> less its own value: the value of the error, and the gradient theta - phi
            pull = torch.stack([((weights[n] - start[n]) * (start[n] - phi[n])).sum() for n in names]).sum()
            answer[task] = value + pull, count
        return answer


def both(first: Tensor, second: Tensor) -> Tensor:
    """The rows of support and query, one after the other."""
    return torch.cat([first, second])
