"""Metrics that know which way is up, what a constant gets, and when they have no value.

A metric is prepared once from labels and predictions (sorting, ties, row-wise errors), and is then a function of the
rows' weights alone, for a whole stack of weights at a time: plain scores, weighted scores and the bootstrap, whose
draws are counts of rows, are one and the same computation (`formulas`). A metric that is undefined is `None` with a
reason; NaN leaves this file through `redraws` alone. scikit-learn is the oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import boxes, masks, spans, spoken
from . import formulas as f
from .catalog import hint
from .formulas import Array, Weigh

_CELLS = 250_000
"""Weights held at a time by the bootstrap: 2 MB, about a cache; 16 MB took two to five times as long."""


class Predicted(NamedTuple):
    """What a model says about the rows of one task, in the target's units.

    Shape:
        value: (n,) a number, a class or a level; (n, L) zeros and ones for several labels a row.
        proba: (n,) P(class 1); (n, C) for several classes; (n, L) for several labels a row.
    """

    value: ArrayLike
    proba: ArrayLike | None = None


class Measured(NamedTuple):
    """A metric's value, or `None` and the reason."""

    value: float | None
    why: str | None = None


class _Prepared(NamedTuple):
    weigh: Weigh | None
    rows: Array
    why: str | None


@dataclass(frozen=True)
class Metric:
    """One metric: ``metric(y, predicted)`` is its value on the known labels."""

    name: str
    greater_is_better: bool
    best: float
    """The value of a perfect prediction; infinite where there is none."""
    needs: Literal["value", "proba"]
    kinds: frozenset[str]
    """The words of the task types that it suits."""
    undefined: str
    """Why it has no value, when labels are known and it has none."""
    function: Callable[..., Weigh] | None = None
    """(y, prediction) of one label a row, or (y, prediction, group) where `column` is set."""
    matrix: Callable[[Array, Array, Array], Weigh] | None = None
    """(y, prediction, known), each (n, L)."""
    constant: float | None = None
    """What every constant prediction gets (ROC AUC: 0.5), or `None` where it has to be measured."""
    centre: Literal["mean", "median", "mode"] = "mean"
    """The statistic of the labels that is the best constant prediction."""
    column: str | None = None
    """The column whose groups it needs."""
    dimensions: tuple[int, ...] = (1,)
    """How many dimensions `proba` may have when there is one label a row."""

    def __reduce__(self) -> tuple[Callable[[str], Metric], tuple[str]]:
        return find, (self.name,)

    def __call__(
        self,
        y_true: ArrayLike,
        prediction: Predicted,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        known: ArrayLike | None = None,
    ) -> Measured:
        """The metric's value; ``(None, reason)`` where it is undefined, never 0 or NaN for that, and no warning.

        Shape:
            y_true: (n,), or (n, L) for several labels a row.

        Args:
            y_true: the labels: numbers, classes or levels as the prediction's value has them, or zeros and ones.
            prediction: what the model says, row by row.
            sample_weight: (n,) weights of the rows, not negative; 1 each when `None`.
            groups: (n,) the group of each row, for a metric with a `column`.
            known: which labels count, of the shape of `y_true`; all when `None`.

        Raises:
            ValueError: shapes do not fit, what the metric needs is missing, or a label that counts is NaN.
        """
        with np.errstate(all="ignore"):
            weigh, rows, why = self._prepare(y_true, prediction, groups, known)
            if weigh is None:
                return Measured(None, why)
            weight = _weights(sample_weight, len(rows))[rows]
            if not weight.any():
                return Measured(None, "Every label has the weight 0.")
            value = float(weigh(weight[None])[0])
        return Measured(value) if math.isfinite(value) else Measured(None, self.undefined)

    def skill(self, value: float | None, constant: float | None = None) -> float | None:
        r"""How far a value is from a constant predictor's towards the best there is: 0 for the constant, 1 for perfect.

        .. math:: (M - M_{constant}) / (M_{best} - M_{constant})

        Args:
            value: the metric's value M.
            constant: the value of the constant predictor fitted on the training part; `None` takes the metric's own
                `constant`.

        Returns:
            `None` where the value, the constant's or the best one is missing, or where the constant is perfect already.
        """
        start = self.constant if constant is None else constant
        if value is None or start is None or not math.isfinite(self.best) or start == self.best:
            return None
        return (value - start) / (self.best - start)

    def better(self, a: float | None, b: float | None) -> bool:
        """Whether a is strictly better than b; a number is better than none."""
        if a is None or b is None:
            return a is not None and b is None
        return a > b if self.greater_is_better else a < b

    def _prepare(
        self, y_true: ArrayLike, prediction: Predicted, groups: ArrayLike | None, known: ArrayLike | None
    ) -> _Prepared:
        y = np.asarray(y_true)
        given = prediction.value if self.needs == "value" else prediction.proba
        if given is None:
            raise ValueError(f"Metric `{self.name}` needs probabilities. Found a prediction without `proba`.")
        p = np.asarray(given)
        self._check_shapes(y, p)
        counts = np.ones(y.shape, bool) if known is None else np.asarray(known, bool)
        if counts.shape != y.shape:
            raise ValueError(f"`known` should have the labels' shape {y.shape}. Found {counts.shape}.")
        rows: Array = counts if y.ndim == 1 else np.any(counts, axis=1)
        y, p, counts = y[rows], p[rows], counts[rows]
        if not len(y):
            return _Prepared(None, rows, "No label is known.")
        if y.dtype.kind == "f" and not np.isfinite(y[counts]).all():
            raise ValueError("Labels that count should be finite. Found NaN or infinity: leave them out by `known`.")
        if p.dtype.kind == "f" and not np.isfinite(p[counts] if p.shape == counts.shape else p).all():
            return _Prepared(None, rows, "A prediction is not a finite number.")
        if y.ndim == 2:
            assert self.matrix is not None
            return _Prepared(self.matrix(y, p, counts), rows, None)
        assert self.function is not None
        if self.column is None:
            return _Prepared(self.function(y, p), rows, None)
        if groups is None:
            raise ValueError(f"Metric `{self.name}` needs the column `{self.column}`. Found no `groups`.")
        return _Prepared(self.function(y, p, _codes(groups, len(rows))[rows]), rows, None)

    def _check_shapes(self, y: Array, p: Array) -> None:
        if y.ndim not in (1, 2):
            raise ValueError(f"Labels should have the shape (n,) or (n, L). Found {y.shape}.")
        if y.ndim == 2 and self.matrix is None:
            raise ValueError(f"Metric `{self.name}` is for one label a row. Found labels of shape {y.shape}.")
        if y.ndim == 1 and self.function is None:
            raise ValueError(f"Metric `{self.name}` is for several labels a row. Found labels of shape {y.shape}.")
        if y.ndim == 2 or self.needs == "value":
            fits = p.shape == y.shape
        else:
            fits = len(p) == len(y) and p.ndim in self.dimensions
        if fits:
            return
        remedy = ""
        if y.ndim == 1 and self.name == "roc_auc" and p.ndim == 2:
            remedy = " For several classes use `roc_auc_ovr`."
        if y.ndim == 1 and self.name == "roc_auc_ovr" and p.ndim == 1:
            remedy = " For two classes use `roc_auc`."
        shapes = (
            str(y.shape)
            if y.ndim == 2 or self.needs == "value"
            else " or ".join({1: f"({len(y)},)", 2: f"({len(y)}, C)"}[d] for d in self.dimensions)
        )
        raise ValueError(f"`{self.needs}` should have the shape {shapes} for `{self.name}`. Found {p.shape}.{remedy}")


# ---- weights and groups


def _weights(given: ArrayLike | None, n: int) -> Array:
    if given is None:
        return np.ones(n)
    weight = np.asarray(given, float)
    if weight.shape != (n,):
        raise ValueError(f"`sample_weight` should have the shape ({n},). Found {weight.shape}.")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("`sample_weight` should be finite and not negative. Found a value that is not.")
    return weight


def _codes(values: ArrayLike, n: int) -> Array:
    """Groups as 0, 1, ...; the rows without one (`None`, NaN) are a group of their own."""
    found = np.asarray(values)
    if found.shape != (n,):
        raise ValueError(f"Groups should have the shape ({n},). Found {found.shape}.")
    if found.dtype.kind != "O":
        return np.unique(found, return_inverse=True)[1]
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(None if v is None or v != v else v, len(seen)) for v in found], int)


# ---- the catalogue

_NUMBER = frozenset({"regression", "count"})
_LEVEL, _BINARY, _LABELS = frozenset({"ordinal"}), frozenset({"binary"}), frozenset({"multilabel"})
_CLASS = frozenset({"binary", "multiclass", "ordinal"})
_TAGS, _MASKS, _BOXES = frozenset({"tagging", "relation"}), frozenset({"segmentation"}), frozenset({"detection"})
_SPOKEN, _SOUND = frozenset({"transcription"}), frozenset({"reconstruction"})
_TOO_LARGE = "An error is too large for a floating-point number."
_VARIED, _BOTH = "At least two different labels are needed.", "Labels of both classes are needed."
_POSITIVE, _NO_BOX = "No row is positive, neither by its label nor by its prediction.", "There is no box to find."

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("r2", True, 1, "value", _NUMBER, _VARIED, f.r2, constant=0),
        Metric("r2_log1p", True, 1, "value", _NUMBER, "Numbers above -1 that differ are needed.", f.r2_log1p),
        Metric("explained_variance", True, 1, "value", _NUMBER, _VARIED, f.explained_variance, constant=0),
        Metric("d2_absolute_error_score", True, 1, "value", _NUMBER, _VARIED, f.d2_absolute, constant=0,
               centre="median"),
        Metric("mean_squared_error", False, 0, "value", _NUMBER | _LEVEL, _TOO_LARGE, f.squared),
        Metric("root_mean_squared_error", False, 0, "value", _NUMBER | _LEVEL, _TOO_LARGE, f.root),
        Metric("mean_absolute_error", False, 0, "value", _NUMBER | _LEVEL, _TOO_LARGE, f.absolute, centre="median"),
        Metric("median_absolute_error", False, 0, "value", _NUMBER | _LEVEL, _TOO_LARGE, f.median_absolute,
               centre="median"),
        Metric("mean_poisson_deviance", False, 0, "value", _NUMBER,
               "Labels must not be negative, and predictions must be positive.", f.poisson_deviance),
        Metric("roc_auc", True, 1, "proba", _BINARY | _LABELS, _BOTH, f.auc, f.each(f.auc), constant=0.5),
        Metric("roc_auc_ovr", True, 1, "proba", _CLASS - _BINARY, "Labels of two classes are needed.", f.auc_ovr,
               constant=0.5, dimensions=(2,)),
        Metric("average_precision", True, 1, "proba", _BINARY | _LABELS, "A positive label is needed.",
               f.average_precision, f.each(f.average_precision)),
        Metric("log_loss", False, 0, "proba", _CLASS | _LABELS, _TOO_LARGE, f.log_loss, f.each(f.log_loss),
               dimensions=(1, 2)),
        Metric("brier_score", False, 0, "proba", _CLASS | _LABELS, _TOO_LARGE, f.brier, f.each(f.brier),
               dimensions=(1, 2)),
        Metric("accuracy", True, 1, "value", _CLASS | _LABELS, _TOO_LARGE, f.accuracy, f.subset, centre="mode"),
        Metric("balanced_accuracy", True, 1, "value", _CLASS, _TOO_LARGE, f.balanced_accuracy, centre="mode"),
        Metric("f1", True, 1, "value", _BINARY, _POSITIVE, f.f1, centre="mode"),
        Metric("precision", True, 1, "value", _BINARY, "No row is predicted positive.", f.precision, centre="mode"),
        Metric("recall", True, 1, "value", _BINARY, "A positive label is needed.", f.recall, centre="mode"),
        Metric("f1_macro", True, 1, "value", _CLASS | _LABELS, _POSITIVE, f.f1_macro, f.each(f.f1), centre="mode"),
        Metric("f1_weighted", True, 1, "value", _CLASS, _TOO_LARGE, f.f1_weighted, centre="mode"),
        Metric("f1_micro", True, 1, "value", _LABELS, _POSITIVE, None, f.f1_micro, centre="mode"),
        Metric("f1_samples", True, 1, "value", _LABELS, _TOO_LARGE, None, f.f1_samples, centre="mode"),
        Metric("jaccard_samples", True, 1, "value", _LABELS, _TOO_LARGE, None, f.jaccard_samples, centre="mode"),
        Metric("matthews_corrcoef", True, 1, "value", _CLASS, "Labels of two classes are needed.", f.matthews,
               constant=0, centre="mode"),
        Metric("quadratic_weighted_kappa", True, 1, "value", _LEVEL, _VARIED, f.kappa, constant=0, centre="median"),
        Metric("entity_f1", True, 1, "value", _TAGS, "There is no span, neither labelled nor predicted.",
               spans.entity_f1, constant=0),
        Metric("token_accuracy", True, 1, "value", _TAGS, "There is no token.", spans.token_accuracy, constant=0),
        Metric("relation_f1", True, 1, "value", frozenset({"relation"}),
               "There is no relation, neither labelled nor predicted.", spans.relation_f1, constant=0),
        Metric("mean_iou", True, 1, "value", _MASKS, "No pixel has a label.", masks.mean_iou, constant=0),
        Metric("pixel_accuracy", True, 1, "value", _MASKS, "No pixel has a label.", masks.pixel_accuracy, constant=0),
        Metric("average_precision_50", True, 1, "value", _BOXES, _NO_BOX, boxes.at_50, constant=0),
        Metric("average_precision_50_95", True, 1, "value", _BOXES, _NO_BOX, boxes.at_50_95, constant=0),
        Metric("word_error_rate", False, 0, "value", _SPOKEN, "No word was said.", spoken.word_errors, constant=1),
        Metric("char_error_rate", False, 0, "value", _SPOKEN, "No word was said.", spoken.char_errors, constant=1),
        Metric("si_sdr_gain", True, spoken.MOST, "value", _SOUND, "All heard is clean.", spoken.gain, constant=0),
    )
}  # fmt: skip


def find(name: str) -> Metric:
    """The metric of a name: a scikit-learn scorer's without ``neg_``, or ``gauc:<column>``.

    ``gauc:<column>`` is the ROC AUC within each group of that column, weighted by the group's number of rows; groups
    whose labels are all of one class are left out.

    Raises:
        ValueError: no metric has this name; the message names the one that is meant.

    Example:
        >>> find("roc_auc")([0, 0, 1, 1], Predicted([0, 0, 0, 1], [0.1, 0.4, 0.35, 0.8]))
        Measured(value=0.75, why=None)
        >>> find("r2")([3.0], Predicted([2.5]))
        Measured(value=None, why='At least two different labels are needed.')
    """
    if name in METRICS:
        return METRICS[name]
    word, _, column = str(name).partition(":")
    if word == "gauc" and column:
        return Metric(
            name, True, 1, "proba", _BINARY, "No group has labels of both classes.", f.auc, constant=0.5, column=column
        )
    lowered = str(name).lower().strip()
    if lowered.removeprefix("neg_") in METRICS and lowered != lowered.removeprefix("neg_"):
        remedy = f"Write `{lowered.removeprefix('neg_')}`: its direction is known."
    elif word.lower() in f.FOREIGN:
        remedy = f"It is called `{f.FOREIGN[word.lower()]}` here."
    else:
        remedy = hint(str(name), [*METRICS, "gauc:<column>"])
    raise ValueError(f"No metric is called `{name}`. {remedy}")


def constant_prediction(
    metric: Metric, y: ArrayLike, rows: int, classes: int | None = None, known: ArrayLike | None = None
) -> Predicted:
    """The best constant for a metric, fitted on labels: their mean, median or mode, and the share of each class.

    Shape:
        y: (m,), or (m, L) for several labels a row.

    Args:
        metric: whose `centre` is asked for.
        y: the training part's labels.
        rows: for how many rows to predict.
        classes: number of classes C where `proba` has to be (rows, C).
        known: which labels count, of the shape of `y`.

    Raises:
        ValueError: a label column has no known label.
    """
    labels = np.asarray(y)
    counts = np.ones(labels.shape, bool) if known is None else np.asarray(known, bool)
    if labels.ndim == 2:
        columns = [
            constant_prediction(metric, label, rows, None, there)
            for label, there in zip(labels.T, counts.T, strict=True)
        ]
        return Predicted(
            np.stack([np.asarray(c.value) for c in columns], 1), np.stack([np.asarray(c.proba) for c in columns], 1)
        )
    labels = labels[counts]
    if not len(labels):
        raise ValueError("A constant predictor needs a known label. Found none.")
    if metric.centre == "mode":
        values, frequency = np.unique(labels, return_counts=True)
        value = values[frequency.argmax()]
    else:
        value = np.mean(labels) if metric.centre == "mean" else np.median(labels)
    proba = None
    if classes is not None:
        shares = np.bincount(labels.astype(int), minlength=classes) / len(labels)
        proba = np.tile(shares, (rows, 1))
    elif labels.dtype.kind in "bifu" and np.isin(labels, (0, 1)).all():
        proba = np.full(rows, float(np.mean(labels)))
    return Predicted(np.full(rows, value), proba)


def redraws(
    metric: Metric,
    y_true: ArrayLike,
    prediction: Predicted,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    known: ArrayLike | None = None,
    redraw: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The metric on bootstrap draws of the rows; NaN for the draws in which it is undefined.

    The draws depend on the number of rows (or groups) and the seed alone: two models, or two tasks of one table whose
    unknown labels are given by `known`, see the same ones.

    Shape:
        returns (draws,).

    Args:
        metric, y_true, prediction, sample_weight, known: as in `Metric.__call__`.
        groups: (n,) groups that are drawn whole; also the groups of a metric with a `column`.
        redraw: (n,) groups that are drawn whole instead of `groups`.
        draws: how many.
        seed: of the draws.
    """
    n = len(np.asarray(y_true))
    with np.errstate(all="ignore"):
        weigh, rows, _ = metric._prepare(y_true, prediction, groups, known)
        if weigh is None:
            return np.full(draws, np.nan)
        base = None if sample_weight is None else _weights(sample_weight, n)[rows]
        unit = groups if redraw is None else redraw
        code = None if unit is None else _codes(unit, n)
        units = n if code is None else int(code.max()) + 1
        where = np.flatnonzero(rows) if code is None else code[rows]
        every = code is None and len(where) == n
        rng, found = np.random.default_rng(seed), []
        size = max(1, _CELLS // n)
        for start in range(0, draws, size):
            some = min(size, draws - start)
            drawn = rng.integers(0, units, size=(some, units)) + np.arange(some)[:, None] * units
            counts = np.bincount(drawn.ravel(), minlength=some * units).reshape(some, units).astype(float)
            weight = counts if every else counts[:, where]
            if base is not None:
                weight = weight * base
            found.append(weigh(weight))
    values = np.concatenate(found)
    return np.where(np.isfinite(values), values, np.nan)


def bootstrap(
    metric: Metric,
    y_true: ArrayLike,
    prediction: Predicted,
    groups: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
    *,
    sample_weight: ArrayLike | None = None,
    known: ArrayLike | None = None,
    redraw: ArrayLike | None = None,
) -> tuple[float, float] | None:
    """95 % percentile interval of a metric over rows, or over whole groups where groups are given.

    Draws in which the metric is undefined (one class, for ROC AUC) are left out.

    Args:
        metric, y_true, prediction, groups, draws, seed, sample_weight, known, redraw: as in `redraws`.

    Returns:
        (low, high); `None` where the metric itself is undefined or is so in half of the draws, or where there are fewer
        than two rows (groups) to draw from.

    Reference:
        Bootstrap Methods: Another Look at the Jackknife. Efron, 1979.
    """
    if metric(y_true, prediction, sample_weight, groups, known).value is None:
        return None
    unit = groups if redraw is None else redraw
    n = len(np.asarray(y_true))
    there = np.ones(n, bool) if known is None else np.asarray(known, bool).reshape(n, -1).any(1)
    if (int(there.sum()) if unit is None else len(np.unique(_codes(unit, n)[there]))) < 2:
        return None
    values = redraws(metric, y_true, prediction, sample_weight, groups, known, redraw, draws, seed)
    values = values[~np.isnan(values)]
    if 2 * len(values) < draws:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
