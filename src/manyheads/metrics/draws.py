"""Metrics on bootstrap draws of the rows, and the intervals that follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .contract import Metric, Predicted, codes, weights

_CELLS = 250_000
"""Weights held at a time by the bootstrap: 2 MB, about a cache; 16 MB took two to five times as long."""


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
        weigh, rows, _ = metric.prepared(y_true, prediction, groups, known)
        if weigh is None:
            return np.full(draws, np.nan)
        base = None if sample_weight is None else weights(sample_weight, n)[rows]
        unit = groups if redraw is None else redraw
        code = None if unit is None else codes(unit, n)
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
    if (int(there.sum()) if unit is None else len(np.unique(codes(unit, n)[there]))) < 2:
        return None
    values = redraws(metric, y_true, prediction, sample_weight, groups, known, redraw, draws, seed)
    values = values[~np.isnan(values)]
    if 2 * len(values) < draws:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
