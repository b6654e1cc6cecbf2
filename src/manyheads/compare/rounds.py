"""Splits that are drawn again: the rows of each, what a model is worth on them, and tests over the rows of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics
from ..blocks import seed_of
from ..build import Prepared, prepare, split_parts
from ..evaluate import Result, measure
from ..members import Members
from ..spec import RunSpec
from ..statistics import Change, from_draws, paired_draws
from ..tasks import Task
from ..train import Training
from ..verdicts import Direction

if TYPE_CHECKING:
    import pandas as pd

Thin = Callable[
    [Mapping[str, "pd.DataFrame"], Mapping[str, np.ndarray], int],
    "tuple[Mapping[str, pd.DataFrame], Mapping[str, np.ndarray]]",
]
"""(tables, their parts, number of the repeat) -> both with fewer labels to learn from."""
Side = tuple[Task, Result]
"""A task, with what held-out rows taught it, and a model's outputs on the test rows."""


def is_fixed(spec: RunSpec, parts: Mapping[str, np.ndarray] | None) -> bool:
    """Whether there is but one such split: one of the user's own, by a column, or by time.

    Args:
        spec: the run.
        parts: a split of the user's own.
    """
    return parts is not None or spec.data.split.kind in ("column", "time")


def redrawn(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    thin: Thin | None = None,
) -> list[tuple[Prepared, int]]:
    """(rows that are ready, seed of the models) of each repeat; a fixed split is made ready once.

    Args:
        spec: the run; its split is re-drawn with seeds ``split.seed + repeat``.
        tasks: not fitted.
        tables: {name: frame}.
        targets: {table: tasks it labels}.
        parts: a split of the user's own; then it is kept, and repeats differ by their seed alone.
        repeats: splits (or seeds).
        thin: takes labels away before anything is learned.
    """
    fixed, split = is_fixed(spec, parts), spec.data.split
    found: list[tuple[Prepared, int]] = []
    for r in range(repeats):
        seed = seed_of(spec.seed, "repeat", r)
        if fixed and thin is None and found:
            found.append((found[0][0], seed))
            continue
        here = parts if parts is not None else split_parts(split, tables, tasks, split.seed + (0 if fixed else r))
        mine, here = (tables, here) if thin is None else thin(tables, here, r)
        found.append((prepare(spec, tasks, mine, here, targets=targets), seed))
    return found


def directions_of(tasks: Sequence[Task]) -> dict[str, Direction]:
    """Task -> its first metric and which way is up."""
    return {t.name: Direction(t.metrics[0], metrics.find(t.metrics[0]).greater_is_better) for t in tasks}


def ratios(data: Prepared) -> dict[str, float | None]:
    """Task -> test rows per row of training and validation, of the tables that label it."""
    found: dict[str, float | None] = {}
    coverage = {part: data.dataset.coverage(own) for part, own in data.tasksets.items()}
    for task in (t.name for t in data.tasks):
        rows = {part: own.get(task, {}).get("rows", 0) for part, own in coverage.items()}
        learnt = rows.get("train", 0) + rows.get("valid", 0)
        found[task] = rows.get("test", 0) / learnt if learnt else None
    return found


# ---- what a model is worth


def tuned(task: Task, held: Mapping[str, Result]) -> Task:
    """The task with what held-out rows teach it (a threshold)."""
    own = held.get(task.name)
    return task if own is None else task.tuned(own.output, own.target, own.known)


def measured(tasks: Mapping[str, Task], found: Mapping[str, Result]) -> dict[str, float | None]:
    """Task -> its first metric; None where there is no output, or it is undefined."""
    return {n: measure(t, found[n], t.metrics[:1])[0].value if n in found else None for n, t in tasks.items()}


def row_tests(
    spec: RunSpec, tasks: Sequence[str], repeats: int, sides: Callable[[int, str], tuple[Side, Side] | None]
) -> dict[str, Change]:
    """Paired bootstrap over the test rows of a fixed split, means over seeds; the same draws for every task.

    Args:
        spec: the run, whose split says in which groups rows are drawn.
        tasks: in any order.
        repeats: seeds.
        sides: (repeat, task) -> the model under test and the baseline; None where one of them has no output.

    Returns:
        Task -> its change, and under ``""`` the mean of all.
    """
    by = spec.data.split.by if spec.data.split.kind == "group" else None

    def drawn(r: int, name: str) -> tuple[float | None, np.ndarray] | None:
        pair = sides(r, name)
        if pair is None:
            return None
        (task, mine), (base, other) = pair
        output, target, known, rows = mine.labelled()
        if not len(rows):
            return None
        metric = metrics.find(task.metrics[0])
        groups = None if metric.column is None else mine.extra[metric.column][rows.numpy()]
        more: dict[str, Any] = {"known": known.numpy()} if known.dim() > 1 else {}
        if isinstance(by, str):
            more["redraw"] = mine.extra[by][rows.numpy()]
        said, apart = task.predict(output), base.predict(other.labelled()[0])
        return paired_draws(metric, task.truth(target), said, apart, groups, **more)

    return tests_of(tasks, repeats, drawn)


def tests_of(
    tasks: Sequence[str], repeats: int, drawn: Callable[[int, str], tuple[float | None, np.ndarray] | None]
) -> dict[str, Change]:
    """Tests of changes that are means over seeds, and of the mean of all: its draws are means of the tasks' own.

    Args:
        tasks: in any order.
        repeats: seeds.
        drawn: (repeat, task) -> the change and what it was in each bootstrap draw; None where there is nothing.

    Returns:
        Task -> its change, and under ``""`` the mean of all, where they have as many draws.
    """
    changes: dict[str, float] = {}
    draws: dict[str, np.ndarray] = {}
    for name in tasks:
        found = [one for r in range(repeats) if (one := drawn(r, name)) is not None]
        values = [(c, d) for c, d in found if c is not None]
        if values:
            changes[name] = float(np.mean([c for c, _ in values]))
            draws[name] = np.mean([d for _, d in values], axis=0)
    tests = {t: from_draws(changes[t], draws[t]) for t in changes}
    if len({len(d) for d in draws.values()}) == 1:
        tests[""] = from_draws(float(np.mean(list(changes.values()))), np.mean(list(draws.values()), axis=0))
    return tests


# ---- runs


def each(run: Training | Members) -> list[Training]:
    """The runs of a model, member by member."""
    return run.runs if isinstance(run, Members) else [run]


def lead(run: Training | Members) -> Training:
    """The first of them."""
    return each(run)[0]


def closed(run: Training | Members) -> None:
    """Take in that all members have ended."""
    if isinstance(run, Members):
        run.close()


def updates(run: Training | Members) -> int:
    """Steps of a run; of the member that took most."""
    return max(r.step for r in each(run))
