"""Squared norms: towards zero, towards the tasks' mean, towards the start, along a graph of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import ClassVar

import torch
from torch import Tensor

from ..catalog import hint
from ..faults import ConfigError
from ..ranges import Range, log
from . import BETWEEN, Penalty


class L2(Penalty):
    """The squared norm, R(W) = ||W||^2 = sum_k ||W_k||^2; the proximal step is W / (1 + 2 t).

    Reference:
        Hoerl, Kennard: Ridge regression: biased estimation for nonorthogonal problems, 1970.
    """

    def value(self, w: Tensor) -> Tensor:
        return w.square().sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        return w / (1 + 2 * t)


class Mean(Penalty):
    """Pull tasks to their mean: R(W) = sum_k ||W_k - mean||^2, whose strength does not grow with the number of tasks.

    The proximal step is W_k <- mean + (W_k - mean) / (1 + 2 t). Without it tasks are independent; with an infinite
    strength and one start for all they are one.

    Reference:
        Evgeniou, Pontil: Regularized multi-task learning, 2004.
    """

    places = BETWEEN
    search: ClassVar[Mapping[str, Range]] = {"strength": log(0.01, 100)}

    def __init__(
        self, strength: float = 1.0, *, on: str | None = None, step: str | None = None, biases: bool = False
    ) -> None:
        super().__init__(strength, on=on, step=step, biases=biases)

    def value(self, w: Tensor) -> Tensor:
        return (w - w.mean(0)).square().sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        return torch.lerp(w, w.mean(0).expand_as(w), 1 - 1 / (1 + 2 * t))


class Pairwise(Mean):
    """Pull each pair of tasks together: R(W) = sum over i < j of ||W_i - W_j||^2 = K sum_k ||W_k - mean||^2.

    The right side is what is computed: O(K P) instead of O(K^2 P). (K sum ||W_k||^2 - ||sum W_k||^2 equals it too, and
    cancels in float32.)

    Reference:
        Evgeniou, Pontil: Regularized multi-task learning, 2004.
    """

    def value(self, w: Tensor) -> Tensor:
        return len(w) * super().value(w)

    def prox(self, w: Tensor, t: float) -> Tensor:
        return super().prox(w, len(w) * t)


class Graph(Penalty):
    """Pull tasks together along the edges of a graph: R(W) = sum over edges i-j of A_ij ||W_i - W_j||^2 = tr(W^T L W).

    A_ij is the weight of an edge, 0 where there is none, and L = diag(A 1) - A. The proximal step is
    (I + 2 t L)^-1 W. All edges of weight 1 give `Pairwise`; those of a chain suit tasks that are ordered, such as
    points in time.

    Args:
        strength: the factor in front of R, at least 0.
        edges: [task, task] or [task, task, weight] each; by default the tasks are a chain, in their order. Edges of
            tasks that have nothing in a place (heads of another shape) do not count there.
        on, step, biases: see `Penalty`.

    Raises:
        ValueError: an edge that is none, or that has a negative weight.
        ConfigError: an edge of a task that there is not.

    Reference:
        Evgeniou, Micchelli, Pontil: Learning multiple tasks with kernel methods, 2005.
    """

    places = BETWEEN
    search: ClassVar[Mapping[str, Range]] = {"strength": log(0.01, 100)}

    def __init__(
        self,
        strength: float = 1.0,
        *,
        edges: Sequence[Sequence[str | float]] | None = None,
        on: str | None = None,
        step: str | None = None,
        biases: bool = False,
    ) -> None:
        super().__init__(strength, on=on, step=step, biases=biases)
        self.edges = None if edges is None else tuple(_edge(e) for e in edges)
        self.tasks: tuple[str, ...] | None = None

    def among(self, tasks: Sequence[str], every: Sequence[str]) -> Graph:
        for task in (task for edge in self.edges or () for task in edge[:2]):
            if task not in every and len(every) > 1:  # a task alone, to compare with, has no edges
                raise ConfigError(f"`edges` of `graph` should join tasks. Found `{task}`. {hint(task, every)}")
        bound = copy(self)
        bound.tasks = tuple(tasks)
        return bound

    def laplacian(self, n: int) -> Tensor:
        """L of a stack of n tasks, in float64."""
        if self.edges is None:
            joined: list[tuple[int, int, float]] = [(i, i + 1, 1.0) for i in range(n - 1)]
        elif self.tasks is None:
            raise ValueError("`edges` of `graph` name tasks, so the stack should be bound to them: use `among`.")
        else:
            where = {task: i for i, task in enumerate(self.tasks)}
            joined = [(where[a], where[b], weight) for a, b, weight in self.edges if {a, b} <= where.keys()]
        laplacian = torch.zeros(n, n, dtype=torch.float64)
        for i, j, weight in joined:
            laplacian[[i, j], [i, j]] += weight
            laplacian[[i, j], [j, i]] -= weight
        return laplacian

    def value(self, w: Tensor) -> Tensor:
        apart = (w - w.mean(0)).flatten(1)
        return (apart * (self.laplacian(len(w)).to(w) @ apart)).sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        laplacian = self.laplacian(len(w))
        pull = torch.linalg.inv(torch.eye(len(w), dtype=torch.float64) + 2 * t * laplacian).to(w)
        return (pull @ w.flatten(1)).reshape(w.shape)


def _edge(edge: Sequence[str | float]) -> tuple[str, str, float]:
    weight = edge[2] if len(edge) == 3 else 1.0
    if isinstance(edge, str) or len(edge) not in (2, 3) or edge[0] == edge[1] or not float(weight) >= 0:
        raise ValueError(f"An edge should be [task, other task] or [task, other task, weight >= 0]. Found {edge}.")
    return str(edge[0]), str(edge[1]), float(weight)


class L2SP(L2):
    """Stay near the start: R(W) = 1/2 ||W - W_0||^2, with W_0 the weights that training began with.

    Reference:
        Li, Grandvalet, Davoine: Explicit inductive bias for transfer learning with convolutional networks, 2018.
    """

    search: ClassVar[Mapping[str, Range]] = {"strength": log(1e-4, 1)}

    def __init__(
        self, strength: float = 1e-2, *, on: str = "shared", step: str | None = None, biases: bool = True
    ) -> None:
        super().__init__(strength, on=on, of="start", step=step, biases=biases)

    def value(self, w: Tensor) -> Tensor:
        return super().value(w) / 2

    def prox(self, w: Tensor, t: float) -> Tensor:
        return super().prox(w, t / 2)


class Successive(L2SP):
    """Stay near where the last epoch ended: R(W) = ||W - W'||^2, with W' the weights at the end of the epoch before.

    Reference:
        Hashimoto, Xiong, Tsuruoka, Socher: A joint many-task model: growing a neural network for multiple NLP tasks,
        2017.
    """

    def value(self, w: Tensor) -> Tensor:
        return 2 * super().value(w)

    def prox(self, w: Tensor, t: float) -> Tensor:
        return super().prox(w, 2 * t)

    def new_epoch(self, w: Tensor, start: Tensor) -> Tensor:
        return w.clone()
