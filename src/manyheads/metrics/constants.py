"""The best prediction that does not look at its row."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .contract import Metric, Predicted


def constant_prediction(
    metric: Metric, y: ArrayLike, rows: int, classes: int | None = None, known: ArrayLike | None = None
) -> Predicted:
    """The best constant for a metric, fitted on labels: the metric's own centre of them, and the share of each class.

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
    elif metric.centre == "mean_log1p":
        value = np.expm1(np.log1p(labels.astype(float)).mean())
    else:
        value = np.mean(labels) if metric.centre == "mean" else np.median(labels)
    proba = None
    if classes is not None:
        shares = np.bincount(labels.astype(int), minlength=classes) / len(labels)
        proba = np.tile(shares, (rows, 1))
    elif labels.dtype.kind in "bifu" and np.isin(labels, (0, 1)).all():
        proba = np.full(rows, float(np.mean(labels)))
    return Predicted(np.full(rows, value), proba)
