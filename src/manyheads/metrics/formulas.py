"""The formulas of the metrics: from labels and predictions to a function of the rows' weights alone.

What can be done once (sorting, ties, row-wise errors) is done once; the function that is left takes a whole stack of
weights (draws, rows) to the values (draws,), NaN where a draw leaves the metric undefined. Labels and predictions are
(rows,), or (rows, L) beside the labels that are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weigh = Callable[[Array], Array]
"""Weights (draws, rows) -> values (draws,); NaN where a draw leaves the metric undefined."""


class Parts(NamedTuple):
    """A metric part by part: by label, by class, by type of span."""

    keys: Sequence[Any]
    """The number of a label or class, or a name."""
    weigh: Weigh
    """Weights (draws, rows) -> values (parts, draws); NaN where a part has none."""
    labels: Array
    """(parts,) the labels that each part rests on."""
    counts: Array
    """(parts,) how many of these are of the part itself."""


FOREIGN = {
    "rmse": "root_mean_squared_error", "mse": "mean_squared_error", "l2": "mean_squared_error",
    "mae": "mean_absolute_error", "l1": "mean_absolute_error", "medae": "median_absolute_error",
    "r2_score": "r2", "r_squared": "r2", "rsquared": "r2", "poisson": "mean_poisson_deviance",
    "auc": "roc_auc", "auroc": "roc_auc", "roc_auc_score": "roc_auc", "rocauc": "roc_auc",
    "ap": "average_precision", "map": "average_precision", "pr_auc": "average_precision", "auprc": "average_precision",
    "aucpr": "average_precision", "acc": "accuracy", "accuracy_score": "accuracy",
    "balanced_accuracy_score": "balanced_accuracy", "bacc": "balanced_accuracy",
    "logloss": "log_loss", "cross_entropy": "log_loss", "crossentropy": "log_loss", "nll": "log_loss",
    "bce": "log_loss", "brier": "brier_score", "brier_score_loss": "brier_score", "f1_score": "f1",
    "macro_f1": "f1_macro", "micro_f1": "f1_micro", "mcc": "matthews_corrcoef", "qwk": "quadratic_weighted_kappa",
    "kappa": "quadratic_weighted_kappa", "cohen_kappa": "quadratic_weighted_kappa", "iou": "mean_iou",
    "miou": "mean_iou", "jaccard": "jaccard_samples",
    "map_50": "average_precision_50", "map50": "average_precision_50", "ap50": "average_precision_50",
    "coco_map": "average_precision_50_95", "map_50_95": "average_precision_50_95", "coco_ap": "average_precision_50_95",
    "seqeval": "entity_f1", "ner_f1": "entity_f1", "slot_f1": "entity_f1",
    "gauc": "gauc:<column>", "group_auc": "gauc:<column>",
}  # fmt: skip
"""What metrics are called elsewhere -> their names here."""


# ---- small pieces


def _ratio(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def _mean_of_defined(values: Array) -> Array:
    """Over the first axis, leaving out NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(0), there.sum(0))


def _centred(y: Array) -> Array:
    shifted = y - y[0]
    return shifted - shifted.mean()


def _spread(W: Array, y: Array) -> Array:
    """Weighted sum of squares around the weighted mean; 0 where it is nothing but rounding."""
    total = W.sum(1)
    squares = W @ (y * y) - _ratio((W @ y) ** 2, total)
    return np.where(squares > 1e-14 * total * (y * y).max(), squares, 0)


def _median(values: Array, W: Array) -> Array:
    order = np.argsort(values, kind="stable")
    ordered, running = values[order], W[:, order].cumsum(1)
    half = running[:, -1:] / 2
    last = len(values) - 1
    low = np.minimum((running < half).sum(1), last)
    high = np.minimum((running <= half).sum(1), last)
    return (ordered[low] + ordered[high]) / 2


def _mean(errors: Array) -> Weigh:
    return lambda W: _ratio(W @ errors, W.sum(1))


def _nowhere(W: Array) -> Array:
    return np.full(len(W), np.nan)


def mean_over(parts: Callable[..., Parts]) -> Callable[..., Weigh]:
    """The mean over the parts that are defined."""

    def function(*given: Array) -> Weigh:
        own = parts(*given)
        return lambda W: _mean_of_defined(own.weigh(W)) if len(own.keys) else _nowhere(W)

    return function


def by_label(function: Callable[[Array, Array], Weigh]) -> Callable[[Array, Array, Array], Parts]:
    """A metric of one label, for each label on its known rows."""

    def parts(y: Array, p: Array, known: Array) -> Parts:
        there = np.flatnonzero(known.any(0))
        found = [
            (None if known[:, label].all() else known[:, label], function(*(v[known[:, label], label] for v in (y, p))))
            for label in there
        ]

        def weigh(W: Array) -> Array:
            return np.stack([f(W if rows is None else W[:, rows]) for rows, f in found])

        return Parts(there.tolist(), weigh, known.sum(0)[there], ((y == 1) & known).sum(0)[there])

    return parts


def each(function: Callable[[Array, Array], Weigh]) -> Callable[..., Weigh]:
    """The mean of a metric of one label, on that label's known rows, over the labels where it is defined."""
    return mean_over(by_label(function))


# ---- numbers


def squared(y: Array, p: Array) -> Weigh:
    """The mean squared error."""
    return _mean((y - p.astype(float)) ** 2)


def root(y: Array, p: Array) -> Weigh:
    """The root of the mean squared error."""
    mean = squared(y, p)
    return lambda W: np.sqrt(mean(W))


def absolute(y: Array, p: Array) -> Weigh:
    """The mean absolute error."""
    return _mean(np.abs(y - p.astype(float)))


def median_absolute(y: Array, p: Array) -> Weigh:
    """The weighted median of the absolute errors."""
    errors = np.abs(y - p.astype(float))
    return lambda W: np.where(W.sum(1) > 0, _median(errors, W), np.nan)


def r2(y: Array, p: Array) -> Weigh:
    """1 - the sum of squared errors over that around the mean."""
    errors, centred = (y - p.astype(float)) ** 2, _centred(y.astype(float))
    return lambda W: 1 - _ratio(W @ errors, _spread(W, centred))


def r2_log1p(y: Array, p: Array) -> Weigh:
    """R2 of log(1 + y): of numbers with a heavy tail, by their size rather than by their largest."""
    if (y <= -1).any() or (p <= -1).any():
        return _nowhere
    return r2(np.log1p(y.astype(float)), np.log1p(p.astype(float)))


def explained_variance(y: Array, p: Array) -> Weigh:
    """1 - the variance of the errors over that of the labels."""
    errors, centred = _centred(y - p.astype(float)), _centred(y.astype(float))
    return lambda W: 1 - _ratio(_spread(W, errors), _spread(W, centred))


def d2_absolute(y: Array, p: Array) -> Weigh:
    """1 - the sum of absolute errors over that around the median."""
    numbers = y.astype(float)
    errors = np.abs(numbers - p)

    def weigh(W: Array) -> Array:
        around = np.abs(numbers - _median(numbers, W)[:, None])
        return 1 - _ratio(W @ errors, np.einsum("ij,ij->i", W, around))

    return weigh


def poisson_deviance(y: Array, p: Array) -> Weigh:
    """The mean of 2 (y log(y / p) - y + p)."""
    if (y < 0).any() or (p <= 0).any():
        return _nowhere
    logs = np.log(np.where(y > 0, y, 1) / p)
    return _mean(2 * (y * logs - y + p))


# ---- probabilities


def log_loss(y: Array, p: Array) -> Weigh:
    """The mean of -log P(label), with probabilities at least one rounding error from 0 and 1."""
    chosen = np.where(y == 1, p, 1 - p) if p.ndim == 1 else p[np.arange(len(y)), y.astype(int)]
    tiny = np.finfo(chosen.dtype).eps
    return _mean(-np.log(np.clip(chosen, tiny, 1 - tiny).astype(float)))


def brier(y: Array, p: Array) -> Weigh:
    """The mean squared error of the probabilities, summed over the classes where there are several."""
    if p.ndim == 1:
        return squared(y, p)
    return _mean(((p - np.eye(p.shape[1])[y.astype(int)]) ** 2).sum(1))


def auc(y: Array, p: Array, group: Array | None = None) -> Weigh:
    r"""The area under the ROC curve, within each group where there are groups, then the mean by the groups' rows.

    With weights w, over the positives i and the negatives j of group g,

    .. math:: AUC_g = \sum_{i,j} w_i w_j ([p_i > p_j] + [p_i = p_j] / 2) / (\sum_i w_i \sum_j w_j), \qquad
              \sum_g n_g AUC_g / \sum_g n_g

    where n_g is the group's number (weight) of rows. Groups of one class are left out of both sums. Negatives are
    sorted by (group, score), so that the weight below a positive is a difference of running sums.
    """
    code = np.zeros(len(y), int) if group is None else group
    _, rank = np.unique(p, return_inverse=True)
    step = int(rank.max()) + 1
    key = code.astype(np.int64) * step + rank
    positive = np.flatnonzero(y == 1)
    positive = positive[np.argsort(code[positive], kind="stable")]
    negative = np.flatnonzero(y != 1)
    negative = negative[np.argsort(key[negative], kind="stable")]
    if not len(positive) or not len(negative):
        return _nowhere
    ordered = key[negative]
    below = np.searchsorted(ordered, key[positive], "left")
    up_to = np.searchsorted(ordered, key[positive], "right")
    starts = np.flatnonzero(np.diff(code[positive], prepend=-1))
    groups = code[positive][starts].astype(np.int64)
    first, end = np.searchsorted(ordered, groups * step), np.searchsorted(ordered, (groups + 1) * step)
    own_first = np.repeat(first, np.diff(np.append(starts, len(positive))))

    def weigh(W: Array) -> Array:
        running = np.zeros((len(W), len(negative) + 1))
        np.cumsum(W[:, negative], axis=1, out=running[:, 1:])
        wins = (running[:, below] + running[:, up_to]) / 2
        if group is not None:
            wins -= running[:, own_first]
        wins_weight = W[:, positive]
        wins *= wins_weight
        pairs, p_total = (np.add.reduceat(a, starts, axis=1) for a in (wins, wins_weight))
        n_total = running[:, end] - running[:, first]
        area = _ratio(pairs, p_total * n_total)
        there = ~np.isnan(area)
        rows = np.where(there, p_total + n_total, 0)
        return _ratio((np.where(there, area, 0) * rows).sum(1), rows.sum(1))

    return weigh


def auc_by_class(y: Array, p: Array) -> Parts:
    """The ROC AUC of each class against the rest."""
    classes = range(p.shape[1])
    found = [auc(y == c, p[:, c]) for c in classes]
    return Parts(classes, lambda W: np.stack([f(W) for f in found]), *_numbers(y, classes))


auc_ovr = mean_over(auc_by_class)
"""The mean over classes of the ROC AUC of each against the rest."""


def average_precision(y: Array, p: Array) -> Weigh:
    """The sum of precision times the step of recall over the thresholds, ties taken together."""
    order = np.argsort(-p, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    positive = (y[order] == 1).astype(float)

    def weigh(W: Array) -> Array:
        ordered = W[:, order]
        hits, total = (ordered * positive).cumsum(1)[:, ends], ordered.cumsum(1)[:, ends]
        precision = np.nan_to_num(_ratio(hits, total))
        return _ratio((np.diff(hits, prepend=0, axis=1) * precision).sum(1), hits[:, -1])

    return weigh


# ---- classes


def accuracy(y: Array, p: Array) -> Weigh:
    """The share of right rows."""
    return _mean((y == p).astype(float))


def _by_class(codes: Array, n_classes: int) -> Weigh:
    """Weights (draws, n) -> their sums per class (draws, C)."""
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)

    def sums(W: Array) -> Array:
        out = np.zeros((len(W), n_classes))
        if len(present):
            out[:, present] = np.add.reduceat(W[:, order], starts, axis=1)
        return out

    return sums


def _numbers(y: Array, classes: Sequence[Any]) -> tuple[Array, Array]:
    """The rows that each class rests on, and those that are of it."""
    return np.full(len(classes), len(y)), np.array([(y == c).sum() for c in classes])


def _classes(y: Array, p: Array) -> list[Any]:
    return np.unique(np.concatenate([y, p])).tolist()


def _tables(y: Array, p: Array) -> Callable[[Array], tuple[Array, Array, Array]]:
    """Weights -> the weight that is right, labelled and predicted, per class: each (draws, C)."""
    classes, codes = np.unique(np.concatenate([y, p]), return_inverse=True)
    labelled, predicted = codes[: len(y)], codes[len(y) :]
    right = np.flatnonzero(labelled == predicted)
    of_right, of_label, of_prediction = (_by_class(c, len(classes)) for c in (labelled[right], labelled, predicted))
    return lambda W: (of_right(W[:, right]), of_label(W), of_prediction(W))


def recall_by_class(y: Array, p: Array) -> Parts:
    """The share of each class's rows that are found."""
    tables, classes = _tables(y, p), _classes(y, p)

    def weigh(W: Array) -> Array:
        right, labelled, _ = tables(W)
        return _ratio(right, labelled).T

    return Parts(classes, weigh, *_numbers(y, classes))


balanced_accuracy = mean_over(recall_by_class)
"""The mean of the classes' recalls."""


def f1(y: Array, p: Array) -> Weigh:
    """2 |true and said| / (|true| + |said|) of the class 1."""
    true, said = (y == 1).astype(float), (p == 1).astype(float)
    both = true * said
    return lambda W: _ratio(2 * (W @ both), W @ true + W @ said)


def precision(y: Array, p: Array) -> Weigh:
    """The share of the rows predicted 1 that are."""
    said = (p == 1).astype(float)
    both = said * (y == 1)
    return lambda W: _ratio(W @ both, W @ said)


def recall(y: Array, p: Array) -> Weigh:
    """The share of the rows that are 1 and predicted so."""
    return precision(p, y)


def f1_by_class(y: Array, p: Array) -> Parts:
    """Each class's F1."""
    tables, classes = _tables(y, p), _classes(y, p)

    def weigh(W: Array) -> Array:
        right, labelled, predicted = tables(W)
        return _ratio(2 * right, labelled + predicted).T

    return Parts(classes, weigh, *_numbers(y, classes))


f1_macro = mean_over(f1_by_class)
"""The mean of the classes' F1."""


def f1_weighted(y: Array, p: Array) -> Weigh:
    """The mean of the classes' F1 by their labelled rows; 0 where a class has none."""
    tables = _tables(y, p)

    def weigh(W: Array) -> Array:
        right, labelled, predicted = tables(W)
        f1 = np.nan_to_num(_ratio(2 * right, labelled + predicted))
        return _ratio((f1 * labelled).sum(1), labelled.sum(1))

    return weigh


def matthews(y: Array, p: Array) -> Weigh:
    """0 for a prediction of a single class, as for every constant; undefined only where the labels have one class."""
    tables = _tables(y, p)

    def weigh(W: Array) -> Array:
        right, labelled, predicted = tables(W)
        total = W.sum(1)
        covariance = right.sum(1) * total - (labelled * predicted).sum(1)
        of_label, of_prediction = ((total**2 - (side**2).sum(1)) for side in (labelled, predicted))
        several = (labelled > 0).sum(1) > 1
        constant = (predicted > 0).sum(1) < 2
        value = _ratio(covariance, np.sqrt(np.maximum(of_label, 0)) * np.sqrt(np.maximum(of_prediction, 0)))
        return np.where(several, np.where(constant, 0.0, value), np.nan)

    return weigh


def kappa(y: Array, p: Array) -> Weigh:
    r"""1 - E (i - j)^2 / E' (i - j)^2, where E' has the same levels i, j drawn independently of each other.

    The denominator needs no table: :math:`E i^2 + E j^2 - 2 E i E j`.
    """
    i, j = y.astype(float), p.astype(float)
    observed, square, centred = (i - j) ** 2, i * i + j * j, _centred(i)

    def weigh(W: Array) -> Array:
        total = W.sum(1)
        expected = _ratio(W @ square, total) - 2 * _ratio(W @ i, total) * _ratio(W @ j, total)
        value = 1 - _ratio(_ratio(W @ observed, total), expected)
        return np.where(_spread(W, centred) > 0, value, np.nan)

    return weigh


# ---- several labels a row: sets


def _sets(y: Array, p: Array, known: Array) -> tuple[Array, Array, Array]:
    true, said = (y == 1) & known, (p == 1) & known
    return (true & said).sum(1).astype(float), true.sum(1).astype(float), said.sum(1).astype(float)


def subset(y: Array, p: Array, known: Array) -> Weigh:
    """The share of rows whose known labels are all right."""
    return _mean(((y == p) | ~known).all(1).astype(float))


def f1_micro(y: Array, p: Array, known: Array) -> Weigh:
    """F1 over all known labels together."""
    both, true, said = _sets(y, p, known)
    return lambda W: _ratio(2 * (W @ both), W @ (true + said))


def f1_samples(y: Array, p: Array, known: Array) -> Weigh:
    """A row without a true and without a predicted label is right: 1."""
    both, true, said = _sets(y, p, known)
    return _mean(np.where(true + said > 0, 2 * both / np.maximum(true + said, 1), 1.0))


def jaccard_samples(y: Array, p: Array, known: Array) -> Weigh:
    """A row without a true and without a predicted label is right: 1."""
    both, true, said = _sets(y, p, known)
    return _mean(np.where(true + said > 0, both / np.maximum(true + said - both, 1), 1.0))
