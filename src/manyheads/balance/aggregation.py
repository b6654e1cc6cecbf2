"""Balances that read the Gramian of the tasks' gradients: G[i, j] = <g_i, g_j> over the parameters that tasks share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ..gradients.gramian import MODES, Gradients
from ..gradients.jacobian import Jacobian
from . import Balance, Losses
from .given import gramian, vector, whole

Array = np.ndarray


@dataclass(frozen=True)
class Problem:
    """What a method sees of a step: everything in float64 and in the order of `tasks`.

    Attributes:
        gram: G (tasks, tasks), of the raw gradients.
        tasks: names; what a method remembers is kept under them.
        losses: their losses (tasks,), None where nobody knows them.
        preference: the user's `weight` of each task (tasks,), 1 where unsaid.
        rounding: relative rounding of the gradients that `gram` is of; 0 where it is exact.
    """

    gram: Array
    tasks: tuple[str, ...]
    losses: Array | None
    preference: Array
    rounding: float = 0.0


UNSOLVED = float("nan")
"""The residual of weights that answer no equation: those of a procedure, a memory or a draw."""


@dataclass(frozen=True)
class Solution:
    """What a method answers.

    Attributes:
        weights: one per task (tasks,), in the normalisation of the method's paper; the update is sum_k w_k g_k.
        residual: how far the method's defining equation, or the optimality conditions of its problem, are missed, in
            units of unit-normalised gradients: 0 is exact, `UNSOLVED` (NaN) where there is none.
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
        gramian: ``auto``, or one of `manyheads.gradients.gramian.MODES`.
        every: weights are renewed each so many steps. In the steps between, gradients of single tasks are not looked
            at: one that is not finite is then not left out.

    Raises:
        ValueError: an unknown word, or `every` is not a whole number, 1 or more.
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
        self.gramian, self.every = gramian, whole("every", every)
        self.residual = UNSOLVED
        """Of the last solution; NaN where the method solves nothing."""
        self.note = ""
        """Of the last solution."""
        self._age = 0
        self._sizes: dict[tuple[float, ...], float] = {}
        self._watch = Watch()

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
            gram: (tasks, tasks), symmetric and positive semi-definite up to the rounding of its type, which may be any.
            losses: (tasks,), finite, for the methods that read them.
            tasks: names; default ``"0"``, ``"1"``, ...
            preference: one per task, finite, 0 or more; 1 where unsaid.

        Returns:
            (tasks,) float64, a tensor where `gram` is one.

        Raises:
            ValueError: what is handed over is not like that.
        """
        matrix, names = gramian(gram, tasks)
        problem = Problem(
            gram=matrix,
            tasks=names,
            losses=None if losses is None else vector(losses, names, "losses"),
            preference=vector({} if preference is None else preference, names, "preference", least=0, default=1),
        )
        weights = self._solved(problem).weights
        return torch.from_numpy(weights) if isinstance(gram, Tensor) else weights

    # -- a step

    @final
    def fill(self, losses: Losses, scale: float, rows: Jacobian | None) -> bool:
        aux = list(losses.aux.values())
        if len(losses) == 1:
            return self._descend(losses, scale, rows)
        gradients: Gradients | Jacobian
        gradients = Gradients(dict(losses), losses.cut, losses.features, scale) if rows is None else rows
        weights = self.settled(losses, gradients.shared != [])
        if weights is None:
            losses, gram = self.finite(losses, gradients.measure(self.gramian))
            if len(losses) < len(gradients.tasks) and scale != 1.0:
                gradients.backward(dict.fromkeys(gradients.tasks, 1.0), aux)  # the scaler is to see it
                return False
            if not losses:
                return False
            weights = self.weigh(losses, gram, gradients.mode)
        gradients.backward(weights, aux)
        return True

    def _descend(self, losses: Losses, scale: float, rows: Jacobian | None) -> bool:
        """A step of one task."""
        weights = self.settled(losses, shared=False)
        if rows is not None:
            assert weights is not None
            rows.backward(weights, everywhere=True)
            return True
        total = losses.vector @ losses.preferences()
        roots = [total, *(value for value in losses.aux.values() if value.requires_grad)]
        torch.autograd.backward(roots, [torch.full_like(root, scale) for root in roots])
        return True

    @final
    def settled(self, losses: Losses, shared: bool) -> dict[str, float] | None:
        """The weights of a step that asks for no Gramian, None where one is due.

        One task descends with its preference, everywhere; where nothing is shared nobody has to give way; between two
        renewals (`every`) the last weights stay.

        Args:
            losses: of the tasks that have a label in this step.
            shared: whether there is a parameter that two of them reach.
        """
        old = self.last_weights
        if len(losses) == 1 or not shared:
            self._watch.alone()
            weights = losses.preferences().tolist() if len(losses) == 1 else [1.0] * len(losses)
        elif self._age % self.every and all(task in old for task in losses.tasks):
            weights = [old[task] for task in losses.tasks]
            self._age += 1
        else:
            return None
        self.last_weights = dict(zip(losses.tasks, weights, strict=True))
        return self.last_weights

    @final
    def finite(self, losses: Losses, gram: Array) -> tuple[Losses, Array]:
        """Both without the tasks whose gradient is not finite, which are counted in `dropped`."""
        fine = np.isfinite(gram.diagonal())
        if fine.all():
            return losses, gram
        for i in np.flatnonzero(~fine):
            self.dropped[losses.tasks[i]] = self.dropped.get(losses.tasks[i], 0) + 1
        kept = np.flatnonzero(fine).tolist()
        return losses.only(kept), gram[np.ix_(kept, kept)]

    @final
    def weigh(self, losses: Losses, gram: Array, mode: str) -> dict[str, float]:
        """The weights of a step, in the library's size, and the state renewed: for a loop that measures by itself.

        Args:
            losses: of the tasks that have a gradient in this step.
            gram: (tasks, tasks), of their gradients.
            mode: how it was found, for the History.
        """
        self._age += 1
        preference = losses.preferences().double().cpu().numpy()
        values = losses.vector.detach().double().cpu().numpy()
        rounding = torch.finfo(losses.vector.dtype).eps if losses.vector.dtype != torch.float64 else 0.0
        solution = self._solved(Problem(gram, losses.tasks, values, preference, rounding))
        self._watch.add(losses.tasks, gram, solution, mode)
        weights = self.sized(solution.weights, preference)
        self.last_weights = dict(zip(losses.tasks, weights.tolist(), strict=True))
        return self.last_weights

    def sized(self, weights: Array, preference: Array) -> Array:
        """Weights as the paper has them -> those whose update, where all tasks agree, is that of `Equal`."""
        if self.scale_free:
            total = weights.sum()
            return weights * (preference.sum() / total) if abs(total) > 1e-12 * np.abs(weights).sum() else weights
        key = tuple(preference.tolist())
        if key not in self._sizes:
            fresh = copy(self)
            fresh.state = {}
            n = len(preference)
            agreed = fresh.solve(Problem(np.ones((n, n)), tuple(map(str, range(n))), np.ones(n), preference))
            self._sizes[key] = preference.sum() / agreed.weights.sum() if preference.any() else 0.0
        return weights * self._sizes[key]

    def report(self) -> dict[str | None, dict[str, float]]:
        found, self._watch = self._watch.report(), Watch()
        for task, own in super().report().items():
            found[task] = found.get(task, {}) | own
        return found

    def state_dict(self) -> dict[str, Any]:
        own = {"age": self._age, "weights": dict(self.last_weights), "watch": self._watch.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._age, self.last_weights = state["age"], dict(state["weights"])
        self._watch = Watch()
        self._watch.load_state_dict(state["watch"])

    def _solved(self, problem: Problem) -> Solution:
        if self.needs_losses and problem.losses is None:
            raise ValueError(
                f"`{type(self).__name__}` should be given the losses as well. Found none; `weights(G, losses)`."
            )
        with _blas().limit(limits=1, user_api="blas"):  # several threads wait longer for each other than they work
            solution = self.solve(problem)
        self.residual, self.note = float(solution.residual), solution.note
        return solution


class Watch:
    """Sums over steps of what is worth seeing of a Gramian; forgotten with the epoch."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], list[Any]] = {}
        self.steps: dict[str, int] = {}
        self.residual: float | None = None

    def add(self, tasks: Sequence[str], gram: Array, solution: Solution, mode: str) -> None:
        """One step more."""
        norms = np.sqrt(np.maximum(gram.diagonal(), 0))
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        cosines = gram * inverse[:, None] * inverse
        sums = self.sums.setdefault((mode, *tasks), [0, 0.0, 0.0, 0.0])
        for i, value in enumerate((1, norms, cosines, cosines < 0)):
            sums[i] = sums[i] + value
        if not np.isnan(solution.residual):
            self.residual = max(self.residual or 0.0, float(solution.residual))
        for word in (f"steps, {mode}", *([f"steps, {solution.note}"] if solution.note else [])):
            self.steps[word] = self.steps.get(word, 0) + 1

    def alone(self) -> None:
        """One step more in which nothing was shared by two tasks."""
        self.steps[ALONE] = self.steps.get(ALONE, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        sums = [[list(key), s[0], *(np.asarray(x).tolist() for x in s[1:])] for key, s in self.sums.items()]
        return {"sums": sums, "steps": dict(self.steps), "residual": self.residual}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.sums = {tuple(key): [n, *map(np.array, rest)] for key, n, *rest in state["sums"]}
        self.steps, self.residual = dict(state["steps"]), state["residual"]

    def report(self) -> dict[str | None, dict[str, float]]:
        """Means over the steps that a task, or both of a pair, had a label in, by the mode that most steps had."""
        steps: dict[str | None, dict[str, float]] = {None: {word: float(n) for word, n in self.steps.items()}}
        if not self.sums:
            return steps if self.steps else {}
        mode = max((word for word, *_ in self.sums), key=lambda word: self.steps[f"steps, {word}"])
        norms: dict[str, list[float]] = {}
        pairs: dict[tuple[str, str], list[float]] = {}
        for (word, *tasks), (n, total, cosines, against) in self.sums.items():
            for i, a in enumerate(tasks if word == mode else ()):
                _added(norms, a, n, total[i])
                for j in range(i + 1, len(tasks)):
                    _added(pairs, (min(a, tasks[j]), max(a, tasks[j])), n, cosines[i, j], against[i, j])
        found: dict[str | None, dict[str, float]] = {a: {"gradient norm": s / n} for a, (n, s) in sorted(norms.items())}
        if len(norms) <= MANY:
            for (a, b), (n, cosine, _) in sorted(pairs.items()):
                found[a][f"cosine with {b}"] = found[b][f"cosine with {a}"] = cosine / n
        seen = sum(n for n, _, _ in pairs.values())
        everywhere = {
            "cosine, mean over pairs": sum(c for _, c, _ in pairs.values()) / seen,
            "conflicting pairs": sum(c for _, _, c in pairs.values()) / seen,
        }
        if self.residual is not None:
            everywhere["solver residual, largest"] = self.residual
        return {**found, None: everywhere | steps[None]}


ALONE = "steps, nothing shared"
"""In so many steps there was one task alone, or no parameter that two tasks reach: nobody had to give way."""
MANY = 12
"""With more tasks than this the cosine of each pair is not reported."""


@cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401  # it brings a BLAS of its own
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _added(sums: dict[Any, list[float]], key: Any, *values: float) -> None:
    sums[key] = [float(a + b) for a, b in zip(sums.get(key, [0.0] * len(values)), values, strict=True)]
