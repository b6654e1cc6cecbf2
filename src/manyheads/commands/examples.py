"""A handful of rows with what a model made of them, for a page to show."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..blocks import seed_of
from ..data import Taskset
from ..data.assemble import Dataset
from ..evaluate import Result, results
from ..metrics import Predicted
from ..results import Example, Examples, Pair, Shown
from ..tasks import Task

if TYPE_CHECKING:
    import pandas as pd

DRAWN = 32
"""Rows that are drawn at random; of these the ones with the most labels are shown."""
MOST, PER_TABLE = 12, 4
"""Rows that are shown, of all tables and of one."""
LARGEST = 1_500_000
"""Bytes of examples.json; what is beyond is left out."""


def gather(
    model: Any,
    dataset: Dataset,
    tables: Mapping[str, pd.DataFrame],
    parts: Mapping[str, np.ndarray],
    seed: int,
    tasks: Sequence[str] | None = None,
) -> Examples | None:
    """Rows of the test part (of the validation part, where there is none), the same for all tasks.

    Tables in which all is numbers and classes have none.

    Args:
        tables: of the run.
        parts: table -> the part of each row.
        seed: of the run.
        tasks: whose labels are read; by default all that a table labels.

    Returns:
        None where there is nothing to be looked at.
    """
    there = {str(part) for own in parts.values() for part in np.unique(own)}
    split = "test" if "test" in there else "valid"
    count = max(min(PER_TABLE, MOST // len(tables)), 1)
    found: list[Example] = []
    for name, frame in list(tables.items())[:MOST]:
        own = np.flatnonzero(parts[name] == split)
        drawn = np.random.default_rng(seed_of(seed, "examples", name)).permutation(own)[:DRAWN]
        if len(drawn):
            examples = _of_table(model, dataset, name, frame.iloc[drawn], drawn, count, tasks)
            found += [e.model_copy(update={"table": name}) for e in examples] if len(tables) > 1 else examples
    while found and sum(len(e.model_dump_json()) for e in found) > LARGEST:
        found.pop()
    return Examples(split=split, rows=tuple(found)) if found else None


def of_split(
    model: Any, dataset: Dataset, seen: tuple[str, Mapping[str, pd.DataFrame]] | None, seed: int
) -> Examples | None:
    """Rows of tables that are one split, with the labels that they have.

    Args:
        seen: the name of the split, and its tables; None for none.
        seed: of the draw.
    """
    if seen is None:
        return None
    split, tables = seen
    columns = {str(c) for frame in tables.values() for c in frame.columns}
    tasks = [t.name for t in dataset.tasks if set(t.targets) <= columns]
    parts = {name: np.full(len(frame), "test") for name, frame in tables.items()}
    found = gather(model, dataset, tables, parts, seed, tasks)
    return None if found is None else found.model_copy(update={"split": split})


def _of_table(
    model: Any,
    dataset: Dataset,
    name: str,
    frame: pd.DataFrame,
    rows: np.ndarray,
    count: int,
    wanted: Sequence[str] | None,
) -> list[Example]:
    """Examples of one table; none where there is nothing but numbers and classes.

    Args:
        rows: numbers of the frame's rows in the table.
        wanted: tasks; None for all that the table labels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of it was said when the tables were read
        ((source, taskset),) = dataset.tasksets({name: frame}, tasks=wanted).items()
    labelled = dataset.targets.get(name, wanted or ())
    tasks = [t for t in labelled if t in taskset.tasks and t not in dataset.unlabelled]
    known = np.zeros(len(frame), np.int64)
    for task in tasks:
        known += _all_known(taskset, task)
    chosen = np.sort(np.argsort(-known, kind="stable")[:count])
    few = taskset.take(torch.from_numpy(chosen)).to(next(model.parameters()).dtype)
    pairs = {task: _pairs(model.tasks[task], result) for task, result in results(model, {source: few}, tasks).items()}
    columns = dataset.preprocess.columns[source]
    examples = []
    for i, row in enumerate(chosen):
        shown = {c.name: c.show(frame[c.name].iloc[row]) for c in columns}
        inputs = {column: value for column, value in shown.items() if value is not None}
        own = {task: found[i] for task, found in pairs.items()}
        if inputs or any(pair.said.kind != "text" for pair in own.values()):
            examples.append(Example(row=int(rows[row]), inputs=inputs, tasks=own))
    return examples


def _all_known(taskset: Taskset, task: str) -> np.ndarray:
    known = taskset.labels(task)[1]
    return (known.flatten(1).all(1) if known.dim() > 1 else known).numpy()


def _pairs(task: Task, result: Result) -> list[Pair]:
    """Label and prediction of every row; a label that is not wholly known is none."""
    known = result.known.flatten(1).all(1) if result.known.dim() > 1 else result.known
    said = task.show(task.predict(result.output))
    labels: list[Shown | None] = [None] * len(said)
    if there := known.nonzero().flatten().tolist():
        for row, label in zip(there, task.show(Predicted(task.truth(result.target[known.nonzero().flatten()]))),
                              strict=True):  # fmt: skip
            labels[row] = label
    return [Pair(true=label, said=own) for label, own in zip(labels, said, strict=True)]
