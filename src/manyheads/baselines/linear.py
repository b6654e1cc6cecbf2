"""Ridge, logistic and Poisson regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ..tasks import Task
from .learner import Inputs, Learner, Predict, learn, quiet
from .problem import Array, Problem, cost_of, folds


class Linear(Learner):
    """Ridge, logistic and Poisson regression on numbers as they are and codes one-hot; L2 shrinks rare levels."""

    penalties: ClassVar = np.logspace(-2, 6, 33)
    """Of ridge regression: sum of squares + penalty |w|^2."""
    strengths: ClassVar = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """C of logistic regression: |w|^2 / 2 + C sum of losses."""
    shrinkages: ClassVar = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Of Poisson regression: half the mean deviance + alpha |w|^2 / 2."""
    dense: ClassVar = 256
    """Columns up to which the matrix is a plain array, and ridge regression has exact leave-one-out errors."""

    def __init__(self, x: Inputs, layout: Mapping[str, Any]) -> None:
        self.levels = [int(c) for c in layout["categorical"]]

    def matrix(self, x: Inputs) -> Any:
        from scipy.sparse import csr_matrix, hstack

        numeric = x["numeric"].numpy().astype(np.float64)
        n, codes = len(numeric), x["categorical"].numpy()
        if not self.levels:
            return numeric
        starts = np.cumsum([0, *self.levels])
        at = (codes + starts[:-1]).ravel()
        hot = csr_matrix((np.ones(len(at)), at, np.arange(0, len(at) + 1, len(self.levels))), (n, int(starts[-1])))
        if numeric.shape[1] + starts[-1] <= self.dense:
            return np.concatenate([numeric, hot.toarray()], 1)
        return hstack([csr_matrix(numeric), hot]).tocsr()

    def choose(self, X: Any, problem: Problem, seed: int) -> Any:
        from sklearn.linear_model import RidgeCV

        if problem.present is None and problem.form != "poisson":
            if isinstance(X, np.ndarray):
                fitted = RidgeCV(self.penalties).fit(X, problem.y, sample_weight=problem.weight)
                return float(fitted.alpha_)
            return self._cross(X, problem, list(self.penalties[::4]), 3, seed)
        if problem.form == "poisson":
            return self._cross(X, problem, list(self.shrinkages), 3, seed)
        classes = 1 if problem.present is None or len(problem.present) == 2 else len(problem.present)
        if classes * X.shape[0] * X.shape[1] > 5_000_000:
            return self._cross(X, problem, [1e-2, 1e-1, 1.0], 3, seed)
        k = 5 if X.shape[0] < 1000 else 3
        best = self._cross(X, problem, list(self.strengths), k, seed)
        return self._cross(X, problem, [best, best / 10**0.5, best * 10**0.5], k, seed)

    def _cross(self, X: Any, problem: Problem, settings: list[float], k: int, seed: int) -> float:
        costs = np.zeros(len(settings))
        for train, held, part in folds(problem, k, seed):
            for i, setting in enumerate(settings):
                raw = self.fit(X[train], part, setting, seed)(X[held])
                costs[i] += cost_of(problem.form, problem.y[held], raw, problem.weight[held])
        return settings[int(np.nanargmin(costs))]

    def fit(self, X: Any, problem: Problem, setting: Any, seed: int) -> Callable[[Any], Array]:
        from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge

        if problem.form == "poisson":
            model = PoissonRegressor(alpha=setting, max_iter=1000).fit(X, problem.y, sample_weight=problem.weight)
            highest = np.log(10 * problem.y.max())  # an exponential of a line is no extrapolation
            return lambda Z: np.clip(Z @ model.coef_ + model.intercept_, -30, highest)
        if problem.present is not None:
            model = LogisticRegression(C=setting, max_iter=1000).fit(X, problem.y, sample_weight=problem.weight)
            return lambda Z: np.asarray(model.decision_function(Z))
        model = Ridge(alpha=setting).fit(X, problem.y, sample_weight=problem.weight)
        return lambda Z: np.asarray(model.predict(Z))


def fit(
    task: Task,
    x: Inputs,
    layout: Mapping[str, Any],
    target: Tensor,
    known: Tensor,
    weight: Tensor | None = None,
    seed: int = 0,
) -> Predict:
    """Ridge (numbers), Poisson (counts) or logistic regression with an L2 penalty chosen on the training rows.

    Ridge takes the penalty of the least leave-one-out error (3 folds past 256 columns), the others that of the least
    log loss or deviance over 3 to 5 folds, logistic regression from 6 strengths and then 2 between. Ordered levels are
    one logistic regression per threshold. Numbers are always fitted by squares, whatever the task's loss.

    Args:
        task: fitted.
        x: ``numeric`` (rows, width), ``categorical`` (rows, columns).
        layout: its ``categorical`` has the cardinalities.
        target: encoded labels, (rows,) or (rows, L).
        known: which of them count.
        weight: per label, of the target's shape.
        seed: of the folds.

    Reference:
        Frank, Hall: A simple approach to ordinal classification, 2001.
    """
    with quiet():
        return learn(Linear, task, x, layout, target, known, weight, seed)
