"""Does a feature give a target away? Exact relations alone are reported: a good predictor is no leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .where import space

if TYPE_CHECKING:
    import pandas as pd

    from ..tasks import Task

CHANCE = np.log(1e9)
"""A relation counts when fewer than one in a thousand million random orders of the rows would show it."""
SAMPLE = 500


@dataclass(frozen=True)
class Finding:
    """One feature that gives one task's target away."""

    task: str
    column: str
    kind: str
    """target, copy, one-to-one or rank."""
    sentence: str


def check(frame: pd.DataFrame, features: Sequence[str], tasks: Sequence[Task]) -> list[Finding]:
    """All features that are a target, a copy or a one-to-one function of one, over the rows where both are known.

    copy: y = a x + b for numbers (equal and negated included); one-to-one: each value of x goes with one value of y and
    the other way round; rank: the same or the opposite order with the same ties. Constants, row ids and coincidences of
    rare values are not reported: with block sizes c_i and m_j blocks of each size, log n! - sum log c_i! - sum log m_j!
    must exceed log 1e9 for one-to-one, log n! - sum log c_i! for the others.

    Args:
        frame: the training rows.
        features: the columns that a model would read.
        tasks: the tasks whose targets the frame holds; rows outside a task's `where` do not count.
    """
    inside = [c for c in features if c in frame.columns]
    X, numeric = _matrix(frame[inside])
    holes = np.isnan(X).any(axis=0)
    findings = []
    for task in tasks:
        for target in task.targets:
            if target in features:
                findings.append(_finding(task, target, target, "target"))
            if target not in frame.columns:
                continue
            y, y_number = _as_numbers(frame[target])
            rows = np.flatnonzero(~np.isnan(y) & space(frame, task.where))
            whole = [i for i in np.flatnonzero(~holes).tolist() if inside[i] != target]
            broken = [i for i in np.flatnonzero(holes).tolist() if inside[i] != target]
            for i in _same_ties(X, y, rows, whole):
                kind = _relation(X[rows, i], y[rows], numeric[i] and y_number)
                findings += [_finding(task, target, inside[i], kind)] if kind else []
            for i in broken:
                both = rows[~np.isnan(X[rows, i])]
                if _same_ties(X, y, both, [i]) and (kind := _relation(X[both, i], y[both], numeric[i] and y_number)):
                    findings.append(_finding(task, target, inside[i], kind))
    return findings


def _matrix(frame: pd.DataFrame) -> tuple[np.ndarray, list[bool]]:
    """All columns as `_as_numbers` gives them, at once where all are numbers."""
    if all(dtype.kind in "iufb" for dtype in frame.dtypes):
        return frame.to_numpy(dtype=np.float64, na_value=np.nan), [True] * frame.shape[1]
    columns = [_as_numbers(frame[c]) for c in frame.columns]
    return np.stack([values for values, _ in columns], axis=1), [is_number for _, is_number in columns]


def _as_numbers(series: pd.Series) -> tuple[np.ndarray, bool]:
    """A column as float64 (NaN where missing), and whether the numbers mean something (codes of texts do not)."""
    import pandas as pd

    if series.dtype.kind in "iufb":
        return series.to_numpy(dtype=np.float64, na_value=np.nan), True
    try:
        codes, values = pd.factorize(series)
    except TypeError:  # lists
        return np.full(len(series), np.nan), False
    if all(isinstance(v, (bool, int, float, np.number, np.bool_)) for v in values):
        numbers = np.array([*(float(v) for v in values), np.nan])
        return numbers[codes], True
    return np.where(codes < 0, np.nan, codes.astype(np.float64)), False


def _same_ties(X: np.ndarray, y: np.ndarray, rows: np.ndarray, columns: Sequence[int]) -> list[int]:
    """The columns that, sorted by y, change exactly where y changes: necessary for every relation we look for."""
    left = list(columns)
    step = max(1, len(rows) // SAMPLE)
    single = len(np.unique(y[rows])) == len(rows)  # then only a monotone relation means anything
    for chosen in (rows[::step], rows) if step > 1 else (rows,):
        if not left or len(chosen) < 2:
            return []
        order = chosen[np.argsort(y[chosen], kind="stable")]
        changes = np.diff(y[order]) != 0
        if not changes.any():
            return []
        steps = np.diff(X[np.ix_(order, np.array(left))], axis=0)
        same = ((steps != 0) == changes[:, None]).all(axis=0)
        if single:
            same &= (steps >= 0).all(axis=0) | (steps <= 0).all(axis=0)
        left = [c for c, s in zip(left, same, strict=True) if s]
    return left


def _relation(x: np.ndarray, y: np.ndarray, numbers: bool) -> str | None:
    from scipy.special import gammaln

    values, counts = np.unique(y, return_counts=True)
    if len(np.unique(x)) != len(values):
        return None
    orders = gammaln(len(y) + 1) - gammaln(counts + 1).sum()
    partitions = orders - gammaln(np.unique(counts, return_counts=True)[1] + 1).sum()
    if numbers and orders > CHANCE:
        a, b = np.polynomial.polynomial.polyfit(x - x.mean(), y - y.mean(), 1)[::-1]
        if np.abs(y - y.mean() - a * (x - x.mean()) - b).max() <= 1e-6 * (y.max() - y.min()):
            return "copy"
    if partitions > CHANCE:
        return "one-to-one"
    steps = np.diff(x[np.argsort(y, kind="stable")])
    return "rank" if numbers and orders > CHANCE and ((steps >= 0).all() or (steps <= 0).all()) else None


def _finding(task: Task, target: str, column: str, kind: str) -> Finding:
    what = {
        "target": "is its target",
        "copy": f"is a copy of its target `{target}` (equal, negated or a linear function)",
        "one-to-one": f"is a one-to-one function of its target `{target}`",
        "rank": f"puts the rows in exactly the order of its target `{target}`",
    }[kind]
    return Finding(
        task.name,
        column,
        kind,
        f"Task `{task.name}` should be predicted from features that do not contain the answer. Found that feature "
        f"`{column}` {what}; list it under `drop`.",
    )
