"""Balances that read the Gramian of the tasks' gradients: G[i, j] = <g_i, g_j> over the parameters that tasks share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ..gramian import MODES, Gradients
from . import Balance, Look, Losses

Array = np.ndarray


@dataclass(frozen=True)
class Problem:
    """What a method sees of a step: everything in float64 and in the order of `tasks`.

    Attributes:
        gram: G (tasks, tasks), of the raw gradients.
        tasks: names; what a method remembers is kept under them.
        losses: their losses (tasks,), None where nobody knows them.
        preference: the user's `weight` of each task (tasks,), 1 where unsaid.
    """

    gram: Array
    tasks: tuple[str, ...]
    losses: Array | None
    preference: Array


@dataclass(frozen=True)
class Solution:
    """What a method answers.

    Attributes:
        weights: one per task (tasks,), in the normalisation of the method's paper; the update is sum_k w_k g_k.
        residual: how far the method's defining equation, or the optimality conditions of its problem, are missed, in
            units of unit-normalised gradients: 0 is exact.
        note: why the weights are not what the method promises ("Pareto-stationary": no direction helps all tasks); ""
            where they are.
    """

    weights: Array
    residual: float
    note: str = ""


class Aggregation(Balance):
    """A balance whose weights come from the Gramian of the tasks' gradients.

    The parameters that two tasks or more share get sum_k w_k g_k; what belongs to one task gets its own gradient. Where
    all tasks agree (equal gradients) the update is that of `Equal`, the sum: the weights are brought to that size, by a
    constant factor K / sum(weights of K equal gradients), or, where the size of a method's weights depends on the
    gradients' scale (`scale_free`), to the sum K in each step.

    Args:
        gramian: ``auto``, or one of `manyheads.gramian.MODES`.
        every: weights are renewed each so many steps.

    Raises:
        ValueError: an unknown word, or less than one step.
    """

    cut = True
    scale_free: ClassVar[bool] = False
    """Whether the update's size says nothing about the gradients' sizes: its weights are made to sum to K."""
    needs_losses: ClassVar[bool] = False
    """Whether `Problem.losses` is read."""

    def __init__(self, *, gramian: str = "auto", every: int = 1) -> None:
        super().__init__()
        if gramian not in MODES:
            raise ValueError(f"`gramian` should be one of {', '.join(MODES)}. Found `{gramian}`.")
        if every < 1:
            raise ValueError(f"`every` should be 1 or more. Found {every}.")
        self.gramian, self.every = gramian, every
        self.residual = 0.0
        """Of the last solution."""
        self.note = ""
        """Of the last solution."""

    @abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """The weights of a step. A method with a memory reads and renews `state`, by the names of the tasks."""

    @final
    def weights(
        self,
        gram: Array | Tensor,
        losses: Sequence[float] | Mapping[str, float] | Array | Tensor | None = None,
        *,
        tasks: Sequence[str] | None = None,
        preference: Sequence[float] | Mapping[str, float] | Array | Tensor | None = None,
    ) -> Array | Tensor:
        """The weights for a Gramian, as the method's paper has them; `residual` and `note` are of this solution.

        Args:
            gram: (tasks, tasks), symmetric.
            losses: (tasks,), for the methods that read them.
            tasks: names; default ``"0"``, ``"1"``, ...
            preference: one per task, 1 by default.

        Returns:
            (tasks,) float64, a tensor where `gram` is one.

        Raises:
            ValueError: not a finite square symmetric matrix, or another number of losses.
        """
        matrix = _plain(gram)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
            raise ValueError(f"A Gramian should have shape (tasks, tasks). Found {matrix.shape}.")
        if not np.isfinite(matrix).all():
            raise ValueError("A Gramian should be finite. Found NaN or infinity in it; drop that task's row and column.")
        if np.abs(matrix - matrix.T).max() > 1e-6 * max(np.abs(matrix).max(), 1e-300):
            raise ValueError("A Gramian should be symmetric. Found a matrix that differs from its transpose.")
        names = tuple(map(str, range(len(matrix)))) if tasks is None else tuple(tasks)
        problem = Problem(
            gram=(matrix + matrix.T) / 2,
            tasks=names,
            losses=_vector(losses, names, "losses"),
            preference=np.ones(len(names)) if preference is None else _vector(preference, names, "preference"),
        )
        weights = self._solved(problem).weights
        return torch.from_numpy(weights) if isinstance(gram, Tensor) else weights

    def _solved(self, problem: Problem) -> Solution:
        if self.needs_losses and problem.losses is None:
            raise ValueError(f"`{type(self).__name__}` should be given the losses as well. Found none; `weights(G, losses)`.")
        solution = self.solve(problem)
        self.residual, self.note = float(solution.residual), solution.note
        return solution


def _plain(value: Any) -> Array:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


def _vector(value: Any, tasks: Sequence[str], what: str) -> Array | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [value[t] for t in tasks]
    found = _plain(value)
    if found.shape != (len(tasks),):
        raise ValueError(f"`{what}` should have shape ({len(tasks)},). Found {found.shape}.")
    return found
