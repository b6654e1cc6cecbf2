"""Who teaches a task: the simplest candidate that is not clearly worse than the best, on rows that none has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..metrics import Metric, Predicted
from ..ragged import joined
from ..statistics import Change, from_draws, paired_draws
from ..tasks import Task
from .blend import mixed, weights
from .candidates import CONSTANT, SINGLE, Says, Source
from .parts import Fold, Rows, fold_of
from .spaces import output_of

BLEND = "blend"
DRAWS = 200
"""Bootstrap draws for a standard error."""
CHUNKS = 5
"""Parts of the rows that a mixture's weights are tried on, where there is one fold."""


@dataclass(frozen=True)
class Evidence:
    """What candidates say of one task's rows, over all tables, beside the labels.

    Attributes:
        task: fitted, its threshold not chosen.
        said: candidate -> natural outputs (rows, units).
        target, known, weight: labels.
        fold: the fold that holds a row out (rows,); -1 where nobody was asked.
        extra: columns kept by name.
    """

    task: Task
    said: dict[str, Tensor]
    target: Any
    known: Tensor
    weight: Tensor | None
    fold: Tensor
    extra: Mapping[str, np.ndarray]

    @property
    def labelled(self) -> Tensor:
        """Rows with a label that candidates were asked about."""
        there = self.known.flatten(1).any(1) if self.known.dim() > 1 else self.known
        return (there & (self.fold >= 0)).nonzero().flatten()

    def of(self, rows: Tensor) -> Evidence:
        """These rows alone."""
        w = None if self.weight is None else self.weight[rows]
        extra = {k: v[rows.numpy()] for k, v in self.extra.items()}
        said = {name: values[rows] for name, values in self.said.items()}
        return Evidence(self.task, said, self.target[rows], self.known[rows], w, self.fold[rows], extra)


def evidence(source: Source, says: Mapping[str, Says], found: Sequence[Fold], name: str) -> Evidence:
    """What candidates say of a task's rows. A candidate that has nothing to say of some of them is left out.

    Args:
        says: candidate -> what it says.
        found: the folds that it was asked about.
        name: the task.
    """
    task, tables = source.tasks[name], [t for t, rows in source.rows.items() if name in rows.tasks]
    labels = [source.rows[t].labels(name) for t in tables]
    fold = torch.cat([fold_of(found, t, len(source.rows[t])) for t in tables])
    said = {c: torch.cat([own[name][t] for t in tables]) for c, own in says.items() if name in own}
    said = {c: values for c, values in said.items() if bool(values[fold >= 0].isfinite().all())}
    heavy = any(w is not None for _, _, w in labels)
    extra = [source.rows[t].extra for t in tables]
    return Evidence(
        task, said, joined([y for y, _, _ in labels]), torch.cat([k for _, k, _ in labels]),
        torch.cat([torch.ones_like(k, dtype=torch.float32) if w is None else w for _, k, w in labels])
        if heavy else None,
        fold, {k: np.concatenate([e[k] for e in extra]) for k in extra[0] if all(k in e for e in extra)},
    )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Who teaches a task.

    Attributes:
        name: the candidate.
        weights: of a blend: candidate -> its share; of any other {name: 1}.
        single: the best of the single-task candidates.
        values: candidate -> primary metric on rows that it had not seen.
        teacher: what it says, natural outputs (rows, units), NaN where nobody was asked; a row's own label has no part
            in it.
    """

    name: str
    weights: dict[str, float]
    single: str
    values: dict[str, float | None]
    teacher: Tensor


def choose(e: Evidence, blend: bool = True, by: str | None = None) -> Choice:
    """The first candidate, from the simplest on, that is within a standard error of the best one.

    The standard error is of the paired difference of the primary metric, by bootstrap over rows (over groups where rows
    are split by group). What a mixture is worth is seen where its weights were not fitted: those for a fold come from
    the other folds.

    Args:
        e: what candidates say.
        blend: whether a mixture of them is a candidate.
        by: the column of the groups that rows are split by.

    Reference:
        Classification and Regression Trees, Breiman, Friedman, Olshen, Stone, 1984 (the one-standard-error rule).
    """
    said = dict(e.said)
    shares: dict[str, dict[str, float]] = {c: {c: 1.0} for c in said}
    mixable = replace(e, said={c: values for c, values in e.said.items() if c != CONSTANT})
    if blend and len(mixable.said) > 1 and len(e.labelled):
        said[BLEND], shares[BLEND] = blended(mixable)
    rows = e.labelled
    some = Evidence(e.task, said, e.target, e.known, e.weight, e.fold, e.extra).of(rows)
    values = {c: value_of(some, c) for c in said}
    best = best_of(values, metrics.find(e.task.metrics[0]).greater_is_better)
    name = best
    for c in said:
        if c == best:
            break
        change = difference(some, best, c, by, DRAWS)
        if change.mean is None or change.mean <= spread(change):
            name = c
            break
    single = best_of({c: v for c, v in values.items() if c in SINGLE} or values, some_metric(e).greater_is_better)
    return Choice(name, shares[name], single, values, said[name])


def spread(change: Change) -> float:
    """The standard error of a change, from its 95 % interval."""
    if change.low is None or change.high is None:
        return 0.0
    return (change.high - change.low) / 3.92


def some_metric(e: Evidence) -> Metric:
    """The task's primary metric."""
    return metrics.find(e.task.metrics[0])


def blended(e: Evidence) -> tuple[Tensor, dict[str, float]]:
    """(what a mixture says of rows on which its weights were not fitted, its weights on all rows)."""
    names, rows = list(e.said), e.labelled
    part = e.fold if len(e.fold[e.fold >= 0].unique()) > 1 else torch.arange(len(e.fold)) % CHUNKS
    answer = torch.full_like(next(iter(e.said.values())), torch.nan)

    def fitted(here: Tensor) -> Tensor:
        own = e.of(here)
        return weights(e.task, list(own.said.values()), own.target, own.known, own.weight)

    for number in part[e.fold >= 0].unique().tolist():
        asked = ((part == number) & (e.fold >= 0)).nonzero().flatten()
        w = fitted(rows[part[rows] != number])
        answer[asked] = mixed([e.said[c][asked] for c in names], w)
    whole = fitted(rows).tolist()
    return answer, {c: w for c, w in zip(names, whole, strict=True) if w > 0}


def predicted(task: Task, values: Tensor) -> Predicted:
    """Natural outputs as predictions."""
    return task.predict(output_of(task, values))


def value_of(e: Evidence, name: str) -> float | None:
    """The primary metric of a candidate on these rows; a threshold, where it is to be chosen, is chosen on them."""
    metric = some_metric(e)
    task = e.task.tuned(output_of(e.task, e.said[name]), e.target, e.known) if len(e.target) else e.task
    groups = None if metric.column is None else e.extra[metric.column]
    known = e.known.numpy() if e.known.dim() > 1 else None
    if not len(e.target):
        return None
    return metric(e.task.truth(e.target), predicted(task, e.said[name]), groups=groups, known=known).value


def difference(e: Evidence, name: str, other: str, by: str | None = None, draws: int = 1000) -> Change:
    """How much better (positive) a candidate is than another on these rows, with its interval over rows.

    Args:
        e: labelled rows alone.
        by: the column of groups that are drawn whole.
    """
    metric = some_metric(e)
    sides = [predicted(e.task.tuned(output_of(e.task, e.said[c]), e.target, e.known), e.said[c]) for c in (name, other)]
    more: dict[str, Any] = {"draws": draws}
    if e.known.dim() > 1:
        more["known"] = e.known.numpy()
    if by is not None and by in e.extra:
        more["redraw"] = e.extra[by]
    groups = None if metric.column is None else e.extra[metric.column]
    change, drawn = paired_draws(metric, e.task.truth(e.target), sides[0], sides[1], groups, **more)
    return from_draws(change, drawn)


def best_of(values: Mapping[str, float | None], greater_is_better: bool) -> str:
    """The name of the best value; the first where there is none."""
    there = {c: v if greater_is_better else -v for c, v in values.items() if v is not None}
    return max(there, key=lambda c: there[c]) if there else next(iter(values))


def part_of(source: Source, name: str, which: Rows) -> Tensor:
    """Which of a task's rows, all tables one after the other, these are."""
    found, start = [], 0
    for table, rows in source.rows.items():
        if name in rows.tasks:
            found.append(start + which[table])
            start += len(rows)
    return torch.cat(found)
