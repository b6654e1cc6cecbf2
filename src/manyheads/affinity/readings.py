"""From what estimators read, look by look and seed by seed, to one value: means, intervals, windows, a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..results import Matrix, Relatedness, Window
from ..statistics import resampled_t
from . import Cells, Estimator, Reading

WINDOWS = 5
"""Parts of the training time: the first sixteenth of the longest run, up to its eighth, its quarter, its half, its end.
Early looks say more than late ones, and come first."""

Array = np.ndarray[Any, Any]
Readings = Sequence[tuple[int, Reading]]


def gathered(
    method: str,
    estimator: Estimator[Any],
    tasks: Sequence[str],
    by_seed: Sequence[Readings],
    seconds: float | None,
    until: Sequence[int] | None = None,
) -> Relatedness:
    """One estimator's answer from all its readings.

    A cell is the mean over a seed's looks, then over seeds; its interval is Student's t over seeds.

    Args:
        method: its word.
        by_seed: per seed, (step, reading) in order.
        seconds: what it took.
        until: per seed, the step whose weights were kept: later looks are told in windows alone.
    """
    all_looks = by_seed
    if until is not None:
        by_seed = [[(s, r) for s, r in looks if s <= last] or looks for looks, last in zip(by_seed, until, strict=True)]
    wholes = [_mean(_arrays(tasks, looks, lambda r: r.cells)) for looks in by_seed]
    shape = (len(tasks), len(tasks))
    each = np.stack(wholes) if wholes else np.full((1, *shape), np.nan)
    mean = _mean(each)
    off = ~np.eye(len(tasks), dtype=bool)
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, j in zip(*np.nonzero(off), strict=True):
        change = resampled_t(each[:, i, j])
        if change.low is not None and change.high is not None:
            low[i, j], high[i, j] = change.low, change.high
    names = dict.fromkeys(part for looks in by_seed for _, r in looks for part in r.parts)
    parts = {
        name: _mean([_mean(_arrays(tasks, looks, lambda r, name=name: r.parts.get(name, {}))) for looks in by_seed])  # type: ignore[misc]
        for name in names
    }
    missing: dict[tuple[str, str], str] = {}
    for looks in by_seed:
        for _, reading in looks:
            missing |= {pair: why for pair, why in reading.missing.items() if pair not in missing}
    told = {
        (a, b): missing.get((a, b), "No look saw both tasks.")
        for i, a in enumerate(tasks)
        for j, b in enumerate(tasks)
        if i != j and np.isnan(mean[i, j])
    }
    answer = Relatedness(
        method=method, tasks=tuple(tasks), matrix=_matrix(mean, off), low=_matrix(low, off), high=_matrix(high, off),
        own=tuple(float(v) if np.isfinite(v) else None for v in np.diag(mean)),
        unit=estimator.unit, gain=estimator.gain, lasting=estimator.lasting, directed=estimator.directed,
        seeds=len(by_seed), seconds=seconds,
        by_seed=tuple(_matrix(one, off) for one in each), windows=_windows(tasks, all_looks, off),
        parts={name: _matrix(values, off) for name, values in parts.items()},
        missing=tuple((a, b, why) for (a, b), why in told.items()),
    )  # fmt: skip
    return answer.model_copy(update={"summary": summary(answer)})


def _arrays(tasks: Sequence[str], looks: Readings, cells: Callable[[Reading], Cells]) -> Array:
    """(looks, tasks, tasks), NaN where a look has no number."""
    place = {task: i for i, task in enumerate(tasks)}
    found = np.full((max(len(looks), 1), len(tasks), len(tasks)), np.nan)
    for n, (_, reading) in enumerate(looks):
        for (source, target), value in cells(reading).items():
            if source in place and target in place:
                found[n, place[source], place[target]] = value
    return found


def _mean(values: Array | Sequence[Array]) -> Array:
    """The mean of finite numbers over the first dimension, NaN where there is none."""
    array = np.asarray(values)
    there = np.isfinite(array)
    count = there.sum(0)
    return np.where(count > 0, np.where(there, array, 0.0).sum(0) / np.maximum(count, 1), np.nan)


def _matrix(values: Array, off: Array) -> Matrix:
    return tuple(
        tuple(float(v) if use and np.isfinite(v) else None for v, use in zip(row, here, strict=True))
        for row, here in zip(values, off, strict=True)
    )


def _windows(tasks: Sequence[str], by_seed: Sequence[Readings], off: Array) -> tuple[Window, ...]:
    """Windows that double in length; those without a look are left out."""
    steps = sorted({step for looks in by_seed for step, _ in looks})
    if len(steps) < 2:
        return ()
    edges = [0.0, *(steps[-1] / 2 ** (WINDOWS - 1 - i) for i in range(WINDOWS))]
    found = []
    for after, until in pairwise(edges):
        here = [[(s, r) for s, r in looks if after < s <= until] for looks in by_seed]
        seen = [s for s in steps if after < s <= until]
        if seen:
            values = _mean([_mean(_arrays(tasks, looks, lambda r: r.cells)) for looks in here if looks])
            found.append(Window(first=seen[0], last=seen[-1], matrix=_matrix(values, off)))
    return tuple(found)


# ---- in words


def summary(found: Relatedness) -> str:
    """What an answer says, in one sentence or two.

    Args:
        found: its numbers.
    """
    cells = [
        (value, source, target, found.low[i][j], found.high[i][j])
        for i, source in enumerate(found.tasks)
        for j, target in enumerate(found.tasks)
        if (value := found.matrix[i][j]) is not None and (found.directed or i < j)
    ]
    if not cells:
        return f"{found.method} could compare no two of these tasks."
    said = _of_gain(found, cells) if found.gain else _of_likeness(found, cells)
    absent = len(found.missing) // (1 if found.directed else 2)
    return said + (f" {absent} of {absent + len(cells)} pairs could not be measured." if absent else "")


def _of_gain(found: Relatedness, cells: Sequence[tuple[Any, ...]]) -> str:
    best, worst = max(cells, key=lambda c: c[0]), min(cells, key=lambda c: c[0])
    sure = _count(cells)
    most = f"{best[1]} {'helps' if best[0] > 0 else 'harms'} {best[2]} {'most' if best[0] > 0 else 'least'}"
    least = f"{worst[1]} {'harms' if worst[0] < 0 else 'helps'} {worst[2]} {'most' if worst[0] < 0 else 'least'}"
    text = f"{most} ({_signed(best[0])}), {least} ({_signed(worst[0])})" if len(cells) > 1 else f"{most}"
    return f"{found.method}: {text}; {sure}."


def _count(cells: Iterable[tuple[Any, ...]]) -> str:
    cells = list(cells)
    if all(low is None for *_, low, _ in cells):
        return "with one seed there is no telling what is noise"
    up = sum(low is not None and low > 0 for *_, low, _ in cells)
    down = sum(high is not None and high < 0 for *_, high in cells)
    n = len(cells)
    return f"{up} of {n} directions help and {down} harm beyond the noise of seeds"


def _of_likeness(found: Relatedness, cells: Sequence[tuple[Any, ...]]) -> str:
    ordered = sorted(cells, key=lambda c: -c[0])
    most, least = ordered[0], ordered[-1]
    join = "for" if found.directed else "and"
    if len(cells) == 1:
        return f"{found.method}: {most[1]} {join} {most[2]}: {_signed(most[0])}, with no other pair to compare it with."
    text = f"{most[1]} {join} {most[2]} fit best ({_signed(most[0])})"
    text += f", {least[1]} {join} {least[2]} least ({_signed(least[0])})"
    if most[3] is not None and least[4] is not None:
        apart = most[3] > least[4]
        text += "; " + ("their intervals are apart" if apart else "their intervals overlap: no pair stands out")
    return f"{found.method}: {text}."


def _signed(value: float) -> str:
    return f"{value:+.3g}"
