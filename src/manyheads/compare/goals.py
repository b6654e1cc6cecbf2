"""What the tasks of anyone's module are: what is minimised and what is reported, and the loaders of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .. import metrics
from ..metrics import Predicted
from ..statistics import is_absolute, paired_draws, scale
from ..verdicts import Direction

Loader = Iterable[tuple[Any, Mapping[str, Tensor]]]
"""Anything that can be gone through again and again, batch by batch: (what the module is given, {task: labels})."""
Data = tuple[Loader, Loader, Loader]
"""Rows to learn from, to stop on, and to judge by."""
IGNORED = -100
"""A whole number that is no label, as torch's losses have it; NaN among other numbers."""
DRAWS = 400
"""Bootstrap draws for a metric that is a function."""


def _itself(output: Tensor) -> Tensor:
    return output


@dataclass(frozen=True)
class Goal:
    """A task of anyone's module: what is minimised, and what is reported.

    Args:
        loss: (output, label) of the rows that have one -> a scalar, or an error per row (then the mean is taken).
        metric: a metric of this library (``roc_auc``, ``r2``), or (output, label) -> number, both as arrays.
        greater_is_better: the direction of a metric that is a function.
        says: output -> what the metric reads: probabilities (`torch.sigmoid`) or values.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    metric: str | Callable[[np.ndarray, np.ndarray], float]
    greater_is_better: bool = True
    says: Callable[[Tensor], Tensor] = _itself

    @property
    def direction(self) -> Direction:
        """The metric's name and which way is up."""
        if isinstance(self.metric, str):
            return Direction(self.metric, metrics.find(self.metric).greater_is_better)
        return Direction(getattr(self.metric, "__name__", "metric"), self.greater_is_better)

    def value(self, output: np.ndarray, label: np.ndarray) -> float | None:
        """The metric of what is said; None where it is not defined."""
        if not len(label):
            return None
        if isinstance(self.metric, str):
            return metrics.find(self.metric)(label, self.predicted(output)).value
        found = float(self.metric(output, label))
        return found if np.isfinite(found) else None

    def predicted(self, said: np.ndarray) -> Predicted:
        """What a metric of this library is given."""
        assert isinstance(self.metric, str)
        if metrics.find(self.metric).needs == "proba":
            return Predicted((said > 0.5).astype(int) if said.ndim == 1 else said.argmax(-1), said)
        return Predicted(said)

    def draws(self, label: np.ndarray, joint: np.ndarray, single: np.ndarray) -> tuple[float | None, np.ndarray]:
        """(delta, its bootstrap draws over rows, the same for both)."""
        if isinstance(self.metric, str):
            return paired_draws(metrics.find(self.metric), label, self.predicted(joint), self.predicted(single))
        j, s = self.value(joint, label), self.value(single, label)
        if j is None or s is None:
            return None, np.full(DRAWS, np.nan)
        sign = 1 if self.greater_is_better else -1
        size = scale(self.direction.metric) if is_absolute([s], self.direction.metric) else abs(s)
        random, found = np.random.default_rng(0), []
        for _ in range(DRAWS):
            rows = random.integers(len(label), size=len(label))
            a, b = self.value(joint[rows], label[rows]), self.value(single[rows], label[rows])
            found.append(np.nan if a is None or b is None else sign * (a - b) / size)
        return sign * (j - s) / size, np.array(found)


def known_rows(label: Tensor) -> Tensor:
    """Which rows have a label, (rows,)."""
    known = ~label.isnan() if label.is_floating_point() else label != IGNORED
    return known.flatten(1).all(1) if known.dim() > 1 else known
