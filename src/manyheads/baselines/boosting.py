"""Gradient boosting of small trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from ..tasks import Task
from .learner import Inputs, Learner, Predict, learn, quiet
from .problem import TINY, Array, Form, Problem, cost_of, folds


class _Shape(NamedTuple):
    """One configuration of the trees."""

    learning_rate: float
    leaves: int
    l2: float


class _Trees(NamedTuple):
    shape: _Shape
    iterations: int


class Boosting(Learner):
    """Histogram gradient boosting of small slow trees that look at 40 % of the columns per split.

    The budget of the choice falls with rows x trees per iteration:

    ================  ================================================  ==========
    rows x classes    configurations (leaves, learning rate)            folds
    ================  ================================================  ==========
    up to 150         3 at .1                                           3
    up to 500         3 at .1                                           5
    up to 6,000       3 at .1; 6, 12 and 24 at .07                      3
    up to 60,000      6 and 24 at .1                                    3
    more              24 at .1                                          1 out of 5
    ================  ================================================  ==========

    Configurations are tried in this order, until one is worse than the one before; on few rows the choice among more
    of them loses more than it gains (tried).

    The number of iterations is where the error over all held-out rows is least: trees are added to the models of all
    folds, 50, 100, 200, 400 in all, until that place is well behind. Codes are categories; past 250 levels in the
    training rows the rare ones count as missing.
    """

    share: ClassVar = 0.4
    levels: ClassVar = 250

    def __init__(self, x: Inputs, layout: Mapping[str, Any]) -> None:
        self.numeric = x["numeric"].shape[1]
        self.codes: list[Array] = []
        for column, cardinality in zip(x["categorical"].numpy().T, layout["categorical"], strict=True):
            counts = np.bincount(column, minlength=int(cardinality))
            kept = np.argsort(-counts, kind="stable")[: self.levels]
            kept = kept[counts[kept] > 0]
            code = np.full(len(counts), np.nan)
            code[kept] = np.arange(len(kept))
            self.codes.append(code)

    def matrix(self, x: Inputs) -> Any:
        codes = [c[column] for c, column in zip(self.codes, x["categorical"].numpy().T, strict=True)]
        return np.concatenate([x["numeric"].numpy().astype(np.float64), *(c[:, None] for c in codes)], 1)

    def budget(self, problem: Problem) -> tuple[list[_Shape], int, int]:
        """(configurations, folds, folds that are run)."""
        classes = 1 if problem.present is None or len(problem.present) == 2 else len(problem.present)
        load = len(problem.y) * classes
        if load <= 500:
            return [_Shape(0.1, 3, 1.0)], *((3, 3) if load <= 150 else (5, 5))
        if load <= 6_000:
            return (
                [_Shape(0.1, 3, 1.0), *(_Shape(0.07, leaves, l2) for leaves, l2 in ((6, 1.0), (12, 10.0), (24, 10.0)))],
                3,
                3,
            )
        if load <= 60_000:
            return [_Shape(0.1, 6, 1.0), _Shape(0.1, 24, 10.0)], 3, 3
        return [_Shape(0.1, 24, 10.0)], 5, 1

    def choose(self, X: Any, problem: Problem, seed: int) -> Any:
        shapes, k, run = self.budget(problem)
        parts = list(folds(problem, k, seed))[:run]
        least, best = np.inf, _Trees(shapes[0], 1)
        for shape in shapes:
            cost, iterations = self._iterations(X, problem, parts, shape, seed)
            if not cost < least:
                break
            least, best = cost, _Trees(shape, iterations)
        return best

    def _iterations(
        self, X: Any, problem: Problem, parts: list[tuple[Array, Array, Problem]], shape: _Shape, seed: int
    ) -> tuple[float, int]:
        """(the least error over the held-out rows, after how many iterations)."""
        models = [self._model(problem.form, shape, 50, seed, warm_start=True) for _ in parts]
        total = 50
        while True:
            costs = np.zeros(total)
            for model, (train, held, part) in zip(models, parts, strict=True):
                model.set_params(max_iter=total).fit(X[train], part.y, sample_weight=part.weight)
                costs += [
                    cost_of(problem.form, problem.y[held], raw, problem.weight[held])
                    for raw in self._staged(model, problem.form, X[held])
                ]
            best = int(costs.argmin())
            if best < 0.7 * total or total >= 400:
                return float(costs[best]), best + 1
            total *= 2

    def fit(self, X: Any, problem: Problem, setting: Any, seed: int) -> Callable[[Any], Array]:
        model = self._model(problem.form, setting.shape, setting.iterations, seed)
        model.fit(X, problem.y, sample_weight=problem.weight)
        return lambda Z: self._raw(model, problem.form, Z)

    def _model(self, form: Form, shape: _Shape, iterations: int, seed: int, warm_start: bool = False) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        settings = {
            "learning_rate": shape.learning_rate, "max_leaf_nodes": shape.leaves, "l2_regularization": shape.l2,
            "max_iter": iterations, "max_features": self.share, "min_samples_leaf": 20, "early_stopping": False,
            "random_state": seed, "warm_start": warm_start,
            "categorical_features": list(range(self.numeric, self.numeric + len(self.codes))) or None,
        }  # fmt: skip
        if form == "classes":
            return HistGradientBoostingClassifier(**settings)
        loss = {"squared": "squared_error", "absolute": "absolute_error", "poisson": "poisson"}[form]
        return HistGradientBoostingRegressor(loss=loss, **settings)

    @staticmethod
    def _raw(model: Any, form: Form, X: Any) -> Array:
        if form == "classes":
            return np.asarray(model.decision_function(X))
        values = np.asarray(model.predict(X))
        return np.log(np.maximum(values, TINY)) if form == "poisson" else values

    @staticmethod
    def _staged(model: Any, form: Form, X: Any) -> Iterator[Array]:
        if form == "classes":
            for raw in model.staged_decision_function(X):
                yield raw.ravel() if raw.ndim == 1 or raw.shape[1] == 1 else raw
            return
        for values in model.staged_predict(X):
            yield np.log(np.maximum(values, TINY)) if form == "poisson" else values


def fit(
    task: Task,
    x: Inputs,
    layout: Mapping[str, Any],
    target: Tensor,
    known: Tensor,
    weight: Tensor | None = None,
    seed: int = 0,
) -> Predict:
    """Histogram gradient boosting: the best of up to 4 configurations and its iterations, by folds, then all rows.

    Args:
        task: fitted.
        x: ``numeric`` (rows, width), ``categorical`` (rows, columns).
        layout: its ``categorical`` has the cardinalities.
        target: encoded labels, (rows,) or (rows, L).
        known: which of them count.
        weight: per label, of the target's shape.
        seed: of the folds and of the columns that a split looks at.

    Reference:
        Ke et al.: LightGBM: a highly efficient gradient boosting decision tree, 2017; scikit-learn's implementation.
    """
    with quiet():
        return learn(Boosting, task, x, layout, target, known, weight, seed)
