"""Is a difference more than noise? Corrected tests over re-drawn splits, deltas, and intervals over test rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import METRICS, Metric, Predicted, redraws

ALPHA = 0.05
SMALL = 0.05
"""Below this size of the baseline's mean a relative change means little, and delta is an absolute one."""
ABSOLUTE = frozenset({"r2", "r2_log1p"})
"""Metrics whose delta is always absolute."""
MOST_REPEATS = 1000
"""Where `repeats_needed` stops looking."""


class Change(NamedTuple):
    """A mean difference with its plain 95 % interval and two-sided p; `None` where there is nothing to judge by."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    """Repeats (or bootstrap draws) that it rests on."""


# ---- tests


def resampled_t(differences: ArrayLike, ratio: float | None = None) -> Change:
    r"""Student's t of paired differences over n repeats, corrected for splits that are re-drawn from the same rows.

    Training sets of re-drawn splits overlap, so that their differences are correlated and the plain variance of the
    mean is too small. With mean :math:`\bar d` and sample variance :math:`s^2`,

    .. math:: t = \bar d / \sqrt{(1/n + q (1 + q)) s^2}, \qquad q = n_{test}/n_{train},
        \qquad n - 1 \text{ degrees of freedom.}

    The interval is for the expected change over data sets of this size, of models that learn from :math:`n_{train}`
    rows of them. In simulated studies of linear tasks (``python -m benchmarks.truth --studies 2000``) it has that
    inside in 95 to 97 % where the two methods can express different things, and in 98 % and more where one is the
    other shrunken: what chance does to such a fit on the training rows it undoes on the test rows, re-drawn splits
    average that out, and the interval is wider than it need be.

    Differences that are all the same number, and not 0, have no spread to judge by: there is no interval and no p.
    Differences that are all 0 give the interval [0, 0] and p = 1.

    Shape:
        differences: (n,); NaN are left out.

    Args:
        differences: one number per repeat.
        ratio: n_test / n_train; `None` or 0 for the plain paired t, which repeats on independent rows deserve.

    Raises:
        ValueError: the ratio is negative.

    Example:
        >>> test = resampled_t([1.0, 2.0, 3.0, 4.0], ratio=0.25)
        >>> round(test.mean, 3), round(test.p, 3)
        (2.5, 0.082)

    Reference:
        Inference for the Generalization Error. Nadeau, Bengio, 2003.

    Differs from the paper:
        There the share is q. That is exact while a row counts on the test side alone; a row that one method finds hard
        counts against it where it is learned from as well, the more so the fewer rows there are. With q itself, 6.2 %
        of 2,000 simulated studies of 100 rows had a false claim after Holm's adjustment, with q (1 + q) 4.6 % of 6,000.
    """
    from scipy.special import stdtr, stdtrit

    if ratio is not None and not ratio >= 0:
        raise ValueError(f"`ratio` should be test rows per training row, not negative. Found {ratio}.")
    d = floats(differences)
    d = d[~np.isnan(d)]
    n = len(d)
    if not n:
        return Change(None)
    mean = float(d.mean())
    if not d.any():
        return Change(0.0, 0.0, 0.0, 1.0, n) if n > 1 else Change(0.0, n=1)
    if n < 2 or float(np.ptp(d)) <= 1e-12 * float(np.abs(d).max()):
        return Change(mean, n=n)
    error = math.sqrt((1 / n + in_common(ratio)) * float(d.var(ddof=1)))
    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Change(mean, mean - half, mean + half, p, n)


def in_common(ratio: float | None) -> float:
    """What re-drawn splits have in common: the share of a difference's variance that more repeats do not average out.

    Args:
        ratio: q, test rows per training row; None: independent rows, nothing in common.
    """
    return 0.0 if ratio is None else ratio * (1 + ratio)


def holm(p: Sequence[float | None]) -> list[float | None]:
    r"""Adjusts p values for their number: of m, the i-th smallest becomes the running maximum of
    :math:`(m - i + 1) p_{(i)}`.

    Args:
        p: p values; `None` is no test, and does not count.

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]

    Reference:
        A Simple Sequentially Rejective Multiple Change Procedure. Holm, 1979.
    """
    there = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    running = 0.0
    for rank, (value, i) in enumerate(there):
        running = max(running, min(1.0, (len(there) - rank) * value))
        adjusted[i] = running
    return adjusted


def repeats_needed(
    differences: ArrayLike, ratio: float | None = None, alpha: float = ALPHA, power: float = 0.8
) -> int | None:
    r"""How many repeats would show a mean difference of the size seen, with the given power.

    The corrected t has non-centrality :math:`|\bar d| / (s \sqrt{1/n + q (1 + q)})`, which is bounded however
    many splits are drawn: rows, not repeats, may be what is missing.

    Args:
        differences: the repeats seen.
        ratio: as in `resampled_t`.
        alpha: the level that the p value has to reach.
        power: the probability of reaching it.

    Returns:
        The smallest number of repeats; `None` where there is no difference or no spread, or where 1,000 do not do.
    """
    from scipy.special import nctdtr, stdtrit

    d = floats(differences)
    d = d[~np.isnan(d)]
    if len(d) < 2 or not d.mean() or not d.std():
        return None
    effect = abs(float(d.mean())) / float(d.std(ddof=1))

    def reached(n: int) -> bool:
        shift = min(effect / math.sqrt(1 / n + in_common(ratio)), 30.0)
        return 1 - float(nctdtr(n - 1, shift, float(stdtrit(n - 1, 1 - alpha / 2)))) >= power

    low, high = 1, 2
    while not reached(high):
        if high >= MOST_REPEATS:
            return None
        low, high = high, min(2 * high, MOST_REPEATS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


# ---- deltas


def scale(metric: str) -> float:
    """What an absolute change of a metric is measured in: the best value where that is neither 0 nor 1 (30 decibels of
    gain), else 1."""
    known = METRICS.get(metric)
    return known.best if known is not None and known.best and math.isfinite(known.best) else 1.0


def is_absolute(single: ArrayLike, metric: str = "") -> bool:
    """Whether a task's delta is an absolute change: for R2, and where the baseline's mean over repeats is under 0.05
    (of its `scale`).

    Args:
        single: the baseline's value in each repeat; NaN are left out.
        metric: the metric's name.
    """
    values = floats(single)
    values = values[~np.isnan(values)]
    return metric in ABSOLUTE or not len(values) or abs(float(values.mean())) < SMALL * scale(metric)


def delta(
    joint: ArrayLike, single: ArrayLike, greater_is_better: bool, absolute: bool = False, metric: str = ""
) -> NDArray[np.float64]:
    r"""The signed change of the joint model against the single-task model in each repeat, positive = better.

    .. math:: \delta_r = \pm (J_r - S_r) / |\bar S|

    with + where greater is better, and :math:`\bar S` the mean of S over the repeats where it is defined;
    divided by the metric's `scale` where `absolute`. A negative baseline does not turn the sign round.

    Shape:
        joint, single: (n,); returns (n,), NaN where either is.

    Args:
        joint: J, the metric of the model under test.
        single: S, the metric of the baseline.
        greater_is_better: the metric's direction.
        absolute: from `is_absolute`, decided once per task.
        metric: the metric's name.

    Raises:
        ValueError: lengths differ, or a relative change is asked of a baseline whose mean is 0.
    """
    j, s = floats(joint), floats(single)
    if j.shape != s.shape:
        raise ValueError(f"`joint` and `single` should have one number per repeat each. Found {j.shape} and {s.shape}.")
    change = j - s if greater_is_better else s - j
    there = s[~np.isnan(s)]
    if absolute or not len(there):
        return change / scale(metric)
    size = abs(float(there.mean()))
    if size == 0:
        raise ValueError("A relative change needs a baseline that is not 0. Found a mean of 0: use `absolute=True`.")
    return change / size


def delta_m(deltas: Mapping[str, ArrayLike], ratio: float | None = None) -> Change:
    """The mean of the tasks' deltas: averaged over tasks within each repeat, then tested over repeats.

    A task that is undefined in every repeat is left out, and a repeat where another task is undefined too.

    Args:
        deltas: task -> one delta per repeat.
        ratio: as in `resampled_t`.
    """
    rows = [d for d in map(floats, deltas.values()) if not np.isnan(d).all()]
    return resampled_t(np.stack(rows).mean(0), ratio) if rows else Change(None)


def mean_ranks(
    means: Mapping[str, Mapping[str, float | None]], greater_is_better: Mapping[str, bool]
) -> dict[str, float]:
    """The mean over tasks of each method's rank, 1 for the best; ties share the mean of their ranks.

    Args:
        means: method -> task -> its mean value. A task that some method has no value for is left out.
        greater_is_better: task -> direction.
    """
    tasks = [t for t in greater_is_better if all(values.get(t) is not None for values in means.values())]
    total = dict.fromkeys(means, 0.0)
    for task in tasks:
        sign = -1 if greater_is_better[task] else 1
        keys = {method: sign * float(values[task] or 0.0) for method, values in means.items()}
        for method, key in keys.items():
            before = sum(k < key for k in keys.values())
            same = sum(k == key for k in keys.values())
            total[method] += before + (same + 1) / 2
    return {method: value / len(tasks) for method, value in total.items()} if tasks else {}


# ---- a fixed split: intervals over its test rows


def paired_draws(
    metric: Metric,
    y: ArrayLike,
    joint: Predicted,
    single: Predicted,
    groups: ArrayLike | None = None,
    **redraw: Any,
) -> tuple[float | None, NDArray[np.float64]]:
    """The delta of two models on a test set, and on bootstrap draws of its rows, the same rows for both.

    Shape:
        returns (delta, (draws,) deltas); NaN for the draws in which either is undefined.

    Args:
        metric, y, groups, redraw: as in `manyheads.metrics.redraws`.
        joint: what the model under test says.
        single: what the baseline says.
    """
    call = {k: v for k, v in redraw.items() if k in ("sample_weight", "known")}
    j, s = (metric(y, model, groups=groups, **call).value for model in (joint, single))
    a, b = (redraws(metric, y, model, groups=groups, **redraw) for model in (joint, single))
    if j is None or s is None:
        return None, np.full(len(a), np.nan)
    sign = 1 if metric.greater_is_better else -1
    size = scale(metric.name) if is_absolute([s], metric.name) else abs(s)
    return sign * (j - s) / size, sign * (a - b) / size


def from_draws(change: float | None, draws: ArrayLike) -> Change:
    """The 95 % percentile interval and two-sided p of a change, from its bootstrap draws.

    p is twice the smaller share of draws on either side of 0, each counted with one draw more, so that it is never 0.
    """
    values = floats(draws)
    there = values[~np.isnan(values)]
    if change is None or len(there) < 2 or 2 * len(there) < len(values):
        return Change(change, n=len(there))
    low, high = np.quantile(there, [ALPHA / 2, 1 - ALPHA / 2])
    side = 1 + min(int((there <= 0).sum()), int((there >= 0).sum()))
    return Change(change, float(low), float(high), min(1.0, 2 * side / (1 + len(there))), len(there))


def paired_bootstrap(
    metric: Metric,
    y: ArrayLike,
    joint: Predicted,
    single: Predicted,
    groups: ArrayLike | None = None,
    **redraw: Any,
) -> Change:
    """The delta of two models on one test set with its interval over rows (over groups where given).

    What it says holds for the two models as they were trained: another training set is not part of it. For delta-m
    over tasks, average the tasks' `paired_draws` draw by draw and hand them to `from_draws`.

    Args:
        metric, y, joint, single, groups, redraw: as in `paired_draws`.
    """
    return from_draws(*paired_draws(metric, y, joint, single, groups, **redraw))


# ---- small pieces


def floats(values: ArrayLike) -> NDArray[np.float64]:
    """Numbers as float64; `None` becomes NaN."""
    return np.asarray(values, dtype=np.float64)
