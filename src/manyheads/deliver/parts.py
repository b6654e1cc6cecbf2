"""Which rows a model learns from, and which it is asked about without having seen them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..build import held_out
from ..data import Taskset
from ..spec import RunSpec

Rows = Mapping[str, Tensor]
"""Table -> indices of its rows."""


@dataclass(frozen=True)
class Fold:
    """Rows that a model learns from, and rows that it is asked about."""

    within: Rows
    held: Rows


def folds(spec: RunSpec, rows: Mapping[str, Taskset], k: int, seed: int, within: Rows | None = None) -> list[Fold]:
    """k folds of the rows; a row is held out once. Where rows are split by time there is one: the latest of them.

    Rows of one group stay together where the split is by group.

    Args:
        spec: the run; how it splits.
        rows: all learning rows, per table.
        within: fold these alone.
    """
    here = {t: torch.arange(len(own)) if within is None else within[t] for t, own in rows.items()}
    taken = rows if within is None else {t: own.take(here[t]) for t, own in rows.items()}
    found = held_out(spec, taken, 1 if spec.data.split.kind == "time" else k, seed)
    answer = []
    for rest, _ in found:
        inside = {t: here[t][index] for t, index in rest.items()}
        answer.append(Fold(inside, {t: without(here[t], inside[t]) for t in inside}))
    return answer


def without(rows: Tensor, others: Tensor) -> Tensor:
    """These rows less others, in their order."""
    return rows[~torch.isin(rows, others)]


def levels(
    spec: RunSpec, rows: Mapping[str, Taskset], k: int, seed: int, given: Rows | None = None
) -> tuple[list[Fold], list[Fold]]:
    """(folds of all rows, folds of all rows but those that the first fold holds out).

    With the second the whole procedure is rehearsed on rows that know nothing of the first fold, which then judges it.

    Args:
        given: a validation part of the user's own: it is what the first fold holds out.
    """
    if given is None:
        first = folds(spec, rows, k, seed)
        own = first[0]
    else:
        inside = {t: without(torch.arange(len(part)), given[t]) for t, part in rows.items()}
        own = Fold(inside, given)
        first = [own, *(_with(fold, given) for fold in folds(spec, rows, k, seed, inside))]
    if len(first) == 1:
        return first, folds(spec, rows, k, seed, own.within)
    return first, [_less(fold, own.held) for fold in first[1:]]


def _with(fold: Fold, more: Rows) -> Fold:
    return Fold({t: torch.cat([index, more[t]]) for t, index in fold.within.items()}, fold.held)


def _less(fold: Fold, gone: Rows) -> Fold:
    """Where a table has fewer groups than there are folds, several folds hold the same rows out."""
    within, held = ({t: without(index, gone[t]) for t, index in side.items()} for side in (fold.within, fold.held))
    return Fold(within, held)


def take(rows: Mapping[str, Taskset], which: Rows) -> dict[str, Taskset]:
    """These rows of each table; tables without any are left out."""
    return {t: own.take(which[t]) for t, own in rows.items() if len(which[t])}


def fold_of(found: Sequence[Fold], table: str, n: int) -> Tensor:
    """The number of the fold that holds out each of n rows; -1 for none."""
    number = torch.full((n,), -1)
    for i, fold in enumerate(found):
        number[fold.held[table]] = i
    return number
