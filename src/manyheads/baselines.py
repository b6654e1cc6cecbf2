"""The simple models that a comparison always shows beside the net, one per task: constant, linear, boosting.

Every one works in the space of the task's own output (the transformed number, log rate, log odds), and comes back
through `Task.predict`, as the net does. Training and validation rows are one: folds of them choose what has to be
chosen. A task splits into problems of one column each: one for most, one per label for several labels a row, and one
per threshold, [y > j], for ordered levels (Frank and Hall 2001).
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .catalog import hint
from .data import Taskset
from .faults import ConfigError
from .metrics import Predicted
from .results import Score
from .tasks import Task

Array = np.ndarray[Any, Any]
Inputs = Mapping[str, Tensor]
Predict = Callable[[Inputs], Predicted]
Form = Literal["squared", "absolute", "poisson", "classes"]

TUNING_ROWS = 20_000
"""Rows that choose the settings at most; the model itself is fitted on all rows."""
_TINY = 1e-12
_FEW = 4
"""Labelled rows below which nothing but a constant is fitted."""


@dataclass(frozen=True)
class Baseline:
    """What one simple model got on one task."""

    method: str
    score: Score
    """The primary metric on the test rows, with the reason where it has no value."""
    predicted: Predicted | None
    """Row by row for the test rows with a label, in the order of the tables."""
    truth: Array | None
    """The labels of the same rows, as `Task.truth` has them."""
    seconds: float
    """Tuning, fitting and predicting."""
    rows: int
    """Labelled training rows."""
    note: str = ""
    """Why it is not what its name says, where a constant had to stand in."""


# ---- problems of one column


class _Problem(NamedTuple):
    """One column to learn: `y` in the output's space, or codes 0..K-1 of the `present` classes."""

    form: Form
    rows: Array
    y: Array
    weight: Array
    present: Array | None = None


def _problems(task: Task, target: Tensor, known: Tensor, weight: Tensor | None) -> list[_Problem]:
    y: Array = target.numpy().astype(np.float64)
    w: Array = np.ones(y.shape) if weight is None else weight.numpy().astype(np.float64)
    there: Array = known.numpy().astype(bool) & (w > 0)
    if task.kind == "ordinal":
        levels = np.arange(len(getattr(task, "classes", ())) - 1)
        y = y[:, None] > levels
        there, w = (np.repeat(v[:, None], len(levels), 1) for v in (there, w))
    if y.ndim == 1:
        y, there, w = y[:, None], there[:, None], w[:, None]
    form: Form = "classes"
    if task.kind == "count":
        form = "poisson"
    elif task.kind == "regression":
        form = "absolute" if task.loss == "mae" else "squared"
    found = []
    for column in range(y.shape[1]):
        rows = np.flatnonzero(there[:, column])
        labels, weights, present = y[rows, column], w[rows, column], None
        if len(rows):
            weights = weights / weights.mean()
        if form == "classes":
            present, labels = np.unique(labels.astype(np.int64), return_inverse=True)
        found.append(_Problem(form, rows, labels, weights, present))
    return found


def _alike(problem: _Problem) -> str:
    """Why a problem has nothing to learn; empty where it has."""
    if len(problem.rows) < _FEW:
        return f"{len(problem.rows)} labelled training rows are too few; the constant stands in."
    if problem.y.min() == problem.y.max():
        return "All training labels are the same; the constant stands in."
    return ""


def _one_output(task: Task, problem: _Problem, raw: Array) -> Array:
    """Decision values of the present classes -> the output's units: log odds, or log probabilities of all classes."""
    if problem.present is None:
        return raw[:, None]
    if task.kind != "multiclass":
        return raw[:, None]
    logits = np.stack([np.zeros_like(raw), raw], 1) if raw.ndim == 1 else raw
    logits = logits - logits.max(1, keepdims=True)
    share = np.full((len(raw), len(getattr(task, "classes", ()))), np.log(_TINY))
    share[:, problem.present] = np.maximum(logits - np.log(np.exp(logits).sum(1, keepdims=True)), np.log(_TINY))
    return share


def _flat(task: Task, problem: _Problem, n: int) -> Array:
    """The output of a problem without anything to learn: the mean, or the only class."""
    if task.kind == "multiclass":
        shares = np.full(len(getattr(task, "classes", ())), _TINY)
        if problem.present is not None and len(problem.rows):
            shares[problem.present] += np.bincount(problem.y, problem.weight) / problem.weight.sum()
        return np.tile(np.log(shares), (n, 1))
    if problem.present is not None:
        share = 0.5 if not len(problem.rows) else np.average(problem.present[problem.y], weights=problem.weight)
        share = min(max(float(share), _TINY), 1 - _TINY)
        return np.full((n, 1), np.log(share) - np.log1p(-share))
    mean = float(np.average(problem.y, weights=problem.weight)) if len(problem.rows) else 0.0
    return np.full((n, 1), np.log(max(mean, _TINY)) if problem.form == "poisson" else mean)


def _folds(problem: _Problem, k: int, seed: int) -> Array:
    """The fold of each row, classes spread evenly; -1 (never held out) for the only row of a class."""
    order = np.random.default_rng(seed).permutation(len(problem.y))
    fold = np.empty(len(order), np.int64)
    if problem.present is None:
        fold[order] = np.arange(len(order)) % k
        return fold
    order = order[np.argsort(problem.y[order], kind="stable")]
    fold[order] = np.arange(len(order)) % k
    fold[(np.bincount(problem.y) == 1)[problem.y]] = -1
    return fold


def _cost(form: Form, y: Array, raw: Array, weight: Array) -> float:
    """The weighted sum of errors of decision values, up to terms that do not depend on them."""
    if form == "squared":
        return float(weight @ (y - raw) ** 2)
    if form == "absolute":
        return float(weight @ np.abs(y - raw))
    if form == "poisson":
        return float(weight @ (np.exp(raw) - y * raw))
    if raw.ndim == 1:
        return float(weight @ np.logaddexp(0, np.where(y == 1, -raw, raw)))
    top = raw.max(1)
    total = np.log(np.exp(raw - top[:, None]).sum(1)) + top
    return float(weight @ (total - raw[np.arange(len(y)), y]))


def _few(problem: _Problem, seed: int) -> _Problem:
    """The rows that choose the settings."""
    if len(problem.y) <= TUNING_ROWS:
        return problem
    kept = np.sort(np.random.default_rng(seed).permutation(len(problem.y))[:TUNING_ROWS])
    y, present = problem.y[kept], problem.present
    if present is not None:
        codes, y = np.unique(y, return_inverse=True)
        present = present[codes]
    return _Problem(problem.form, problem.rows[kept], y, problem.weight[kept], present)


# ---- the learners


class _Learner(ABC):
    """A model of one column: what it reads, how its setting is chosen, how it is fitted."""

    @abstractmethod
    def __init__(self, x: Inputs, layout: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def matrix(self, x: Inputs) -> Any:
        """The rows as the model reads them."""

    @abstractmethod
    def choose(self, X: Any, problem: _Problem, seed: int) -> Any:
        """The best setting on the problem's rows, which are the rows of X."""

    @abstractmethod
    def fit(self, X: Any, problem: _Problem, setting: Any, seed: int) -> Callable[[Any], Array]:
        """X -> decision values (n,), or (n, K) for more than two classes."""


class _Linear(_Learner):
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

    def choose(self, X: Any, problem: _Problem, seed: int) -> Any:
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

    def _cross(self, X: Any, problem: _Problem, settings: list[float], k: int, seed: int) -> float:
        costs = np.zeros(len(settings))
        for train, held, part in _parts(problem, k, seed):
            for i, setting in enumerate(settings):
                raw = self.fit(X[train], part, setting, seed)(X[held])
                costs[i] += _cost(problem.form, problem.y[held], raw, problem.weight[held])
        return settings[int(np.nanargmin(costs))]

    def fit(self, X: Any, problem: _Problem, setting: Any, seed: int) -> Callable[[Any], Array]:
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


class _Shape(NamedTuple):
    """One configuration of the trees."""

    learning_rate: float
    leaves: int
    l2: float


class _Trees(NamedTuple):
    shape: _Shape
    iterations: int


class _Boosting(_Learner):
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

    def budget(self, problem: _Problem) -> tuple[list[_Shape], int, int]:
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

    def choose(self, X: Any, problem: _Problem, seed: int) -> Any:
        shapes, k, run = self.budget(problem)
        parts = list(_parts(problem, k, seed))[:run]
        least, best = np.inf, _Trees(shapes[0], 1)
        for shape in shapes:
            cost, iterations = self._iterations(X, problem, parts, shape, seed)
            if not cost < least:
                break
            least, best = cost, _Trees(shape, iterations)
        return best

    def _iterations(
        self, X: Any, problem: _Problem, parts: list[tuple[Array, Array, _Problem]], shape: _Shape, seed: int
    ) -> tuple[float, int]:
        """(the least error over the held-out rows, after how many iterations)."""
        models = [self._model(problem.form, shape, 50, seed, warm_start=True) for _ in parts]
        total = 50
        while True:
            costs = np.zeros(total)
            for model, (train, held, part) in zip(models, parts, strict=True):
                model.set_params(max_iter=total).fit(X[train], part.y, sample_weight=part.weight)
                costs += [
                    _cost(problem.form, problem.y[held], raw, problem.weight[held])
                    for raw in self._staged(model, problem.form, X[held])
                ]
            best = int(costs.argmin())
            if best < 0.7 * total or total >= 400:
                return float(costs[best]), best + 1
            total *= 2

    def fit(self, X: Any, problem: _Problem, setting: Any, seed: int) -> Callable[[Any], Array]:
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
        return np.log(np.maximum(values, _TINY)) if form == "poisson" else values

    @staticmethod
    def _staged(model: Any, form: Form, X: Any) -> Iterator[Array]:
        if form == "classes":
            for raw in model.staged_decision_function(X):
                yield raw.ravel() if raw.ndim == 1 or raw.shape[1] == 1 else raw
            return
        for values in model.staged_predict(X):
            yield np.log(np.maximum(values, _TINY)) if form == "poisson" else values


def _parts(problem: _Problem, k: int, seed: int) -> Iterator[tuple[Array, Array, _Problem]]:
    """(training rows, held-out rows, the problem of the training rows) of each fold that holds something out."""
    k = min(k, len(problem.y))
    fold = _folds(problem, k, seed)
    for i in range(k):
        train, held = np.flatnonzero(fold != i), np.flatnonzero(fold == i)
        part = _Problem(problem.form, problem.rows[train], problem.y[train], problem.weight[train], problem.present)
        # a training part of zero counts, or of equal numbers, has nothing to tell the settings apart
        if len(held) and part.y.min() < part.y.max():
            yield train, held, part


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread, and no word from the solvers: a setting at which one stops early is judged like the others."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _learn(
    kind: type[_Learner],
    task: Task,
    x: Inputs,
    layout: Mapping[str, Any],
    target: Tensor,
    known: Tensor,
    weight: Tensor | None,
    seed: int,
) -> Predict:
    learner = kind(x, layout)
    X = learner.matrix(x)
    fits: list[tuple[_Problem, Callable[[Any], Array] | None]] = []
    decided = task
    for problem in _problems(task, target, known, weight):
        if _alike(problem) or not X.shape[1]:
            fits.append((problem, None))
            continue
        tuning = _few(problem, seed)
        setting = learner.choose(X[tuning.rows], tuning, seed)
        fits.append((problem, learner.fit(X[problem.rows], problem, setting, seed)))
        if isinstance(getattr(task, "threshold", None), str):
            decided = _decided(learner, task, X, tuning, setting, seed)

    def predict(inputs: Inputs) -> Predicted:
        with _quiet():
            Z = learner.matrix(inputs)
            n = Z.shape[0]
            columns = [
                _flat(task, problem, n) if model is None or not n else _one_output(task, problem, model(Z))
                for problem, model in fits
            ]
        output = np.concatenate(columns, 1)
        if getattr(task, "transform", "") == "log1p" and len(fits[0][0].y):
            low, high = float(fits[0][0].y.min()), float(fits[0][0].y.max())
            output = output.clip(2 * low - high, 2 * high - low)  # an exponential of a line is no extrapolation
        return decided.predict(torch.from_numpy(output))

    return predict


def _decided(learner: _Learner, task: Task, X: Any, problem: _Problem, setting: Any, seed: int) -> Task:
    """The task with the threshold that suits this model's held-out rows."""
    outputs, targets = [], []
    for train, held, part in _parts(problem, 3, seed):
        rows = problem.rows
        outputs.append(learner.fit(X[rows[train]], part, setting, seed)(X[rows[held]]))
        targets.append(problem.y[held])
    if not outputs:
        return task
    output, target = torch.from_numpy(np.concatenate(outputs)), torch.from_numpy(np.concatenate(targets))
    return task.tuned(output[:, None], target.float(), torch.ones_like(target, dtype=torch.bool))


# ---- the registry


def constant(
    task: Task,
    x: Inputs,
    layout: Mapping[str, Any],
    target: Tensor,
    known: Tensor,
    weight: Tensor | None = None,
    seed: int = 0,
) -> Predict:
    """The best constant for the primary metric, from the unweighted training labels, as skill has it.

    Args:
        task: fitted.
        x: inputs of the rows (not read).
        layout: of the inputs (not read).
        target: encoded labels, (rows,) or (rows, L).
        known: which of them count.
        weight: not read.
        seed: not read.

    Raises:
        ValueError: no label is known.
    """
    metric = metrics.find(task.metrics[0])
    rows = known.flatten(1).any(1) if known.dim() > 1 else known
    y, there, lost = task.truth(target[rows]), known[rows].numpy(), np.zeros(0, bool)
    if there.ndim > 1 and len(there):  # a label without a known row is as likely as not
        there, y, lost = there.copy(), y.copy(), ~there.any(0)
        y[:, lost], there[:, lost] = 0, True
    classes = len(getattr(task, "classes", ())) if task.kind in ("multiclass", "ordinal") else None

    def predict(inputs: Inputs) -> Predicted:
        found = metrics.constant_prediction(metric, y, len(inputs["numeric"]), classes, there)
        if not lost.any():
            return found
        return Predicted(found.value, np.where(lost, 0.5, np.asarray(found.proba)))

    return predict


def linear(
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
    with _quiet():
        return _learn(_Linear, task, x, layout, target, known, weight, seed)


def boosting(
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
    with _quiet():
        return _learn(_Boosting, task, x, layout, target, known, weight, seed)


BASELINES: dict[str, Callable[..., Predict]] = {"constant": constant, "linear": linear, "boosting": boosting}
"""Word -> ``fit(task, x, layout, target, known, weight, seed)``, a function of inputs that gives the predictions."""


# ---- over tables and tasks


class _Table(NamedTuple):
    """The labelled rows of one source for one task."""

    x: dict[str, Tensor]
    target: Tensor
    known: Tensor
    weight: Tensor | None
    extra: dict[str, Array]


def _table(rows: Taskset, task: str) -> _Table | None:
    if task not in rows.tasks:
        return None
    target, known, weight = rows.labels(task)
    index = rows.known_rows(task)
    if not len(index):
        return None
    x = {k: v[index] for k, v in rows.inputs.items() if k in ("numeric", "categorical")}
    extra = {k: v[index.numpy()] for k, v in rows.extra.items()}
    return _Table(x, target[index], known[index], None if weight is None else weight[index], extra)


def _joined(parts: Sequence[_Table]) -> _Table:
    if len(parts) == 1:
        return parts[0]
    weights = [torch.ones_like(p.known, dtype=torch.float32) if p.weight is None else p.weight for p in parts]
    return _Table(
        {k: torch.cat([p.x[k] for p in parts]) for k in parts[0].x},
        torch.cat([p.target for p in parts]),
        torch.cat([p.known for p in parts]),
        None if all(p.weight is None for p in parts) else torch.cat(weights),
        {k: np.concatenate([p.extra[k] for p in parts]) for k in parts[0].extra if all(k in p.extra for p in parts)},
    )


def _gather(tasksets: Sequence[Mapping[str, Taskset]], task: str) -> dict[str, _Table]:
    parts: dict[str, list[_Table]] = {}
    for split in tasksets:
        for source, rows in split.items():
            found = _table(rows, task)
            if found is not None:
                parts.setdefault(source, []).append(found)
    return {source: _joined(found) for source, found in parts.items()}


def run(
    methods: Sequence[str],
    task: Task,
    train: Sequence[Mapping[str, Taskset]],
    test: Mapping[str, Taskset],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
) -> dict[str, Baseline]:
    """Simple models of one task, fitted and scored.

    Tables with the same feature columns are one source already, and share a model. A task that sources of different
    columns label has a model per source, which knows nothing of the others; their predictions are scored together.
    Where a source has no training label, the constant of the other sources stands in.

    Args:
        methods: words of `BASELINES`.
        task: fitted on the training labels.
        train: the splits to learn from, such as (training, validation); each {source: rows}.
        test: {source: rows} to score.
        layouts: {source: what its inputs look like}, as `Preprocess.layouts` has them.
        seed: of folds and trees.

    Raises:
        ConfigError: an unknown word.
    """
    _check(methods)
    return _run(methods, task, _gather(train, task.name), _gather([test], task.name), layouts, seed)


def _check(methods: Sequence[str]) -> None:
    for method in methods:
        if method not in BASELINES:
            raise ConfigError(f"No baseline is called `{method}`. {hint(method, BASELINES)}")


def _run(
    methods: Sequence[str],
    task: Task,
    train: Mapping[str, _Table],
    test: Mapping[str, _Table],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> dict[str, Baseline]:
    return {method: _one(method, task, train, test, layouts, seed) for method in methods}


def _one(
    method: str,
    task: Task,
    train: Mapping[str, _Table],
    test: Mapping[str, _Table],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> Baseline:
    start, notes, parts = time.perf_counter(), [], []
    for source, rows in test.items() if train else ():
        where = f"Source `{source}`: " if len(test) > 1 else ""
        own, word = train.get(source), method
        if own is None:
            own, word = _labels_only(list(train.values())), "constant"
            if method != "constant":
                notes.append(f"{where}no training label; the constant of the other sources stands in.")
        if word != "constant":
            problems = _problems(task, own.target, own.known, own.weight)
            whys = [why for why in map(_alike, problems) if why]
            if whys and len(whys) == len(problems):
                word = "constant"
                notes.append(where + whys[0])
            elif whys and task.kind == "multilabel":
                notes.append(f"{where}{len(whys)} of {len(problems)} labels: {whys[0]}")
        fit = BASELINES[word]
        parts.append(fit(task, own.x, layouts.get(source, {}), own.target, own.known, own.weight, seed)(rows.x))
    return _scored(method, task, test, train, parts, time.perf_counter() - start, " ".join(notes))


def _labels_only(parts: Sequence[_Table]) -> _Table:
    """The labels of several sources together, without their inputs."""
    return _joined([p._replace(x={}, extra={}) for p in parts])


def _scored(
    method: str,
    task: Task,
    test: Mapping[str, _Table],
    train: Mapping[str, _Table],
    parts: Sequence[Predicted],
    seconds: float,
    note: str,
) -> Baseline:
    metric = metrics.find(task.metrics[0])
    rows, labels = sum(len(t.target) for t in train.values()), sum(int(t.known.sum()) for t in test.values())
    predicted = truth = value = None
    why: str | None = "No label in the training rows." if not train else "No label in the test rows."
    if parts:
        whole = _joined(list({k: t._replace(x={}) for k, t in test.items()}.values()))
        truth = task.truth(whole.target)
        probas = [p.proba for p in parts]
        predicted = Predicted(
            np.concatenate([np.asarray(p.value) for p in parts]),
            None if any(p is None for p in probas) else np.concatenate([np.asarray(p) for p in probas]),
        )
        groups = None if metric.column is None else whole.extra[metric.column]
        several = whole.known.numpy() if whole.known.dim() > 1 else None
        value, why = metric(truth, predicted, groups=groups, known=several)
    up = metric.greater_is_better
    score = Score(task=task.name, metric=metric.name, value=value, labels=labels, greater_is_better=up, why=why)
    return Baseline(method, score, predicted, truth, seconds, rows, note)


def run_all(
    methods: Sequence[str],
    tasks: Sequence[Task],
    train: Sequence[Mapping[str, Taskset]],
    test: Mapping[str, Taskset],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
    n_jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Baseline]]:
    """Simple models of every task: {task: {method: what it got}}, the same for any number of processes.

    Args:
        methods: words of `BASELINES`.
        tasks: fitted on the training labels.
        train: the splits to learn from, such as (training, validation); each {source: rows}.
        test: {source: rows} to score.
        layouts: {source: what its inputs look like}.
        seed: of folds and trees.
        n_jobs: processes, of one thread each; 1 stays in this one, -1 takes one per core.
        progress: called with the name of each task that is done, in order.

    Raises:
        ConfigError: an unknown word.
    """
    _check(methods)
    work = ((methods, task, _gather(train, task.name), _gather([test], task.name), layouts, seed) for task in tasks)
    if n_jobs == 1:
        found: Any = (_run(*arguments) for arguments in work)
    else:
        from joblib import Parallel, delayed

        found = Parallel(n_jobs=n_jobs, backend="loky", return_as="generator")(delayed(_run)(*a) for a in work)
    answer = {}
    for task, result in zip(tasks, found, strict=True):
        answer[task.name] = result
        if progress is not None:
            progress(task.name)
    return answer
