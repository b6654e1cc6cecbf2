"""A model and rows -> predictions and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from . import metrics
from .data import Taskset
from .faults import DataError
from .metrics import Predicted
from .model import Outputs
from .ragged import Ragged, joined
from .results import Part, Score, Scores
from .sharing import Trace
from .tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from .data.assemble import Dataset


@dataclass(frozen=True)
class Result:
    """One task's outputs for rows, members of an ensemble already averaged, beside the labels."""

    output: Any
    target: Any
    known: Any
    extra: Mapping[str, np.ndarray]

    @staticmethod
    def join(parts: Sequence[Result]) -> Result:
        """The rows of several results, one after the other."""
        if len(parts) == 1:
            return parts[0]
        shared = [k for k in parts[0].extra if all(k in p.extra for p in parts)]
        extra = {k: np.concatenate([p.extra[k] for p in parts]) for k in shared}
        return Result(
            joined([p.output for p in parts]),
            joined([p.target for p in parts]),
            joined([p.known for p in parts]),
            extra,
        )

    def labelled(self) -> tuple[Any, Any, Any, Tensor]:
        """(output, target, known, rows) of the rows with a label."""
        known = self.known
        rows = (known.flatten(1).any(1) if known.dim() > 1 else known).nonzero().flatten()
        return self.output[rows], self.target[rows], known[rows], rows


class Seen:
    """What a sharing scheme wants to be seen, as a mean over all rows that it was asked about."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, list[float]]] = {}

    def add(self, trace: Trace, rows: int) -> None:
        """What a pass over so many rows has told."""
        for task, own in trace.use.items():
            for label, value in own.items():
                entry = self._sums.setdefault(task, {}).setdefault(label, [0.0, 0.0])
                entry[0] += float(value.mean()) * rows
                entry[1] += rows

    def means(self) -> dict[str, dict[str, float]]:
        """Task -> label -> mean."""
        return {task: {k: total / n for k, (total, n) in own.items()} for task, own in self._sums.items()}


MOST_ROWS, MOST_NUMBERS = 4096, 2**21
"""Rows that pass a model at a time, and the numbers of a picture, a text or a recording that they may have together:
what a net makes of those is many times as large."""
SHARE = 16
"""Where lengths differ, about a sixteenth of all rows pass at a time."""


def at_a_time(taskset: Taskset) -> int:
    """How many rows may pass a model at a time."""
    widest = 1
    for kind, values in taskset.inputs.items():
        if kind in ("numeric", "categorical") or not len(values):
            continue
        longest = int(values.lengths.max()) if isinstance(values, Ragged) else 1
        shape = getattr(values.values if isinstance(values, Ragged) else values, "shape", (1,))
        widest = max(widest, longest * math.prod(shape[1:]))
    return max(min(MOST_ROWS, MOST_NUMBERS // widest), 1)


def by_length(taskset: Taskset) -> Tensor | None:
    """All rows from the shortest to the longest; None where they are of one length."""
    found = [values.lengths for values in taskset.inputs.values() if isinstance(values, Ragged)]
    lengths = torch.stack(found).sum(0).cpu() if found else torch.zeros(0)
    return lengths.argsort(stable=True) if len(lengths) and bool((lengths != lengths[0]).any()) else None


@torch.no_grad()
def run(
    model: nn.Module,
    taskset: Taskset,
    tasks: Sequence[str] | None = None,
    table: str | None = None,
    rows: int | None = None,
    seen: Seen | None = None,
) -> dict[str, Any]:
    """Outputs of these tasks for all rows of a table, as `Task.rows` keeps them, in evaluation mode, batch by batch.

    Rows of like length pass the model together, so that little of a batch is padding.

    Args:
        rows: rows at a time; by default as many as `at_a_time` says, and a `SHARE` of them where lengths differ.
        seen: takes in what the sharing scheme wants to be seen.
    """
    training = model.training
    model.eval()
    described: Mapping[str, Task] | None = getattr(model, "tasks", None)  # other people's modules have none
    wanted = tuple(described or ()) if tasks is None else tuple(tasks)
    parts: dict[str, list[Any]] = {t: [] for t in wanted}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    order = by_length(taskset)
    if rows is None:
        rows = at_a_time(taskset)
        rows = rows if order is None else min(rows, max(64, len(taskset) // SHARE))
    try:
        for start in range(0, len(taskset), rows):
            stop = min(start + rows, len(taskset))
            index = torch.arange(start, stop) if order is None else order[start:stop]
            x = {k: v[index].to(device) if hasattr(v, "to") else v[index] for k, v in taskset.inputs.items()}
            trace = None if seen is None else Trace(pairing=False)
            outputs = model(x, wanted, table, trace) if described is not None else model(x)
            if seen is not None and trace is not None:
                seen.add(trace, len(index))
            if not isinstance(outputs, Outputs):
                outputs = Outputs([((task,), outputs[task], False) for task in wanted])
            for names, output, stacked in outputs.groups:
                one = described[names[0]].ensemble(output) if described and outputs.members else output
                for i, name in enumerate(names):
                    own = one[:, i] if stacked else one
                    own = described[name].rows(own) if described else own
                    parts[name].append(own.cpu() if isinstance(own, Tensor) else own)
    finally:
        model.train(training)
    whole = {t: joined(p) for t, p in parts.items() if p}
    return whole if order is None else {t: found[order.argsort()] for t, found in whole.items()}


def results(
    model: nn.Module,
    tasksets: Mapping[str, Taskset],
    tasks: Sequence[str] | None = None,
    seen: Seen | None = None,
) -> dict[str, Result]:
    """Outputs and labels of each task over all tables that may label it; rows in the order of the tables."""
    found: dict[str, list[Result]] = {}
    for table, rows in tasksets.items():
        wanted = [t for t in rows.tasks if tasks is None or t in tasks]
        if not wanted or not len(rows):
            continue
        for task, output in run(model, rows, wanted, table, seen=seen).items():
            target, known, _ = rows.labels(task)
            found.setdefault(task, []).append(Result(output, target, known, rows.extra))
    return {task: Result.join(parts) for task, parts in found.items()}


def measure(
    task: Task,
    result: Result,
    names: Sequence[str] | None = None,
    draws: int = 0,
    redraw: str | None = None,
    split: str = "",
    parts: bool = False,
) -> list[Score]:
    """The scores of one task on its known labels.

    Args:
        names: metrics; the task's own by default.
        draws: bootstrap draws for the interval; 0 for none.
        redraw: a column whose groups are drawn whole.
        parts: by label or class as well, where a metric can tell them apart and there are several.
    """
    output, target, known, rows = result.labelled()
    index = rows.numpy()
    scores = []
    predicted = task.predict(output) if len(output) else None
    truth = task.truth(target) if len(output) else None
    several = known.numpy() if known.dim() > 1 else None
    for i, name in enumerate(names if names is not None else task.metrics):
        metric = metrics.find(name)
        groups = None if metric.column is None else result.extra[metric.column][index]
        value, interval = None, None
        own: tuple[Part, ...] = ()
        why: str | None = f"No label in {split or 'these rows'}."
        if predicted is not None and truth is not None:
            value, why = metric(truth, predicted, groups=groups, known=several)
            if draws and value is not None:
                whole = None if redraw is None else result.extra[redraw][index]
                interval = metrics.bootstrap(metric, truth, predicted, groups, draws, known=several, redraw=whole)
            if parts and metric.column is None:
                found = metric.by_part(truth, predicted, task.parts, several)
                word = metric.of_part or metric.name
                own = tuple(Part(word=word, **part._asdict()) for part in found) if len(found) > 1 else ()
        scores.append(
            Score(
                task=task.name, metric=name, value=value, labels=int(known.sum()), interval=interval,
                greater_is_better=metric.greater_is_better, primary=i == 0, why=why, parts=own,
            )
        )  # fmt: skip
    return scores


def score(
    model: nn.Module,
    tasksets: Mapping[str, Taskset],
    split: str,
    draws: int = 1000,
    redraw: str | None = None,
    tasks: Sequence[str] | None = None,
    judged: Mapping[str, Result] | None = None,
) -> Scores:
    """The scores of a model on a split: every metric of every task, with 95 % bootstrap intervals.

    Args:
        model: a manyheads model.
        tasksets: source -> rows.
        split: their name.
        draws, redraw: as `measure` has them.
        tasks: only these.
        judged: outputs and labels, where they are not simply the model's for these rows.

    Raises:
        DataError: tables, and no row in any.
    """
    described: Mapping[str, Task] = model.tasks  # type: ignore[assignment]
    if tasksets and not any(map(len, tasksets.values())):
        raise DataError("A table to evaluate on should have a row. Found none.")
    found = results(model, tasksets, tasks) if judged is None else judged
    scores = [
        s
        for name, result in found.items()
        for s in measure(described[name], result, draws=draws, redraw=redraw, split=split, parts=True)
    ]
    return Scores(split=split, scores=tuple(scores))


class Skill:
    """How far a metric of each task is from a constant predictor's towards the best there is.

    skill = (M - M_constant) / (M_best - M_constant) on these rows, with the constant fitted on the training labels.
    A task whose labels on these rows are all alike has none, as long as another one's are not: to say always the same
    is best there, which tells nothing of other rows.

    Args:
        names: task -> metric.
        tasks: fitted tasks.
        train: training rows per table; the constants come from their labels.
        tasksets: the rows to score (validation).
    """

    def __init__(
        self,
        names: Mapping[str, str],
        tasks: Sequence[Task],
        train: Mapping[str, Taskset],
        tasksets: Mapping[str, Taskset],
    ) -> None:
        self.metrics = {task: metrics.find(name) for task, name in names.items()}
        self.constants: dict[str, float | None] = {}
        same = {t.name: alike(*own) for t in tasks if (own := _labels(t, tasksets)) is not None}
        self.silent = set() if all(same.values()) else {name for name, own in same.items() if own}
        """Tasks whose labels on these rows say nothing, beside others whose do."""
        for task in tasks:
            metric = self.metrics[task.name]
            self.constants[task.name] = metric.constant
            if metric.constant is not None:
                continue
            fitted, scored = _labels(task, train), _labels(task, tasksets)
            constant = None if fitted is None or scored is None else task.constant(metric, *fitted, scored[0])
            if constant is not None and scored is not None:
                several = scored[1].numpy() if scored[1].dim() > 1 else None
                self.constants[task.name] = metric(task.truth(scored[0]), constant, known=several).value

    def __call__(self, task: str, value: float | None) -> float | None:
        """The skill of a value of the task's metric; None where it is undefined."""
        if task in self.silent:
            return None
        return self.metrics[task].skill(value, self.constants[task])


def alike(target: Any, known: Tensor) -> bool:
    """Whether labels are the same number or class in every row: of each column, where there are several.

    Labels that are no numbers or classes (tags, masks, boxes, sound) are not looked at.

    Shape:
        target, known (rows,) or (rows, labels).
    """
    if not isinstance(target, Tensor) or target.dim() > 2 or target.shape != known.shape:
        return False
    columns = target.reshape(len(target), -1).T, known.reshape(len(known), -1).T
    return all(len(own[there].unique()) < 2 for own, there in zip(*columns, strict=True))


def _labels(task: Task, tasksets: Mapping[str, Taskset]) -> tuple[Any, Tensor] | None:
    """(target, known) of the rows with a label, over all tables."""
    parts = []
    for rows in tasksets.values():
        if task.name in rows.tasks and len(index := rows.known_rows(task.name)):
            target, known, _ = rows.labels(task.name)
            parts.append((target[index], known[index]))
    return (joined([t for t, _ in parts]), joined([k for _, k in parts])) if parts else None


def predict(
    model: nn.Module, dataset: Dataset, name: str, frame: pd.DataFrame, tasks: Sequence[str] | None = None
) -> dict[str, Predicted]:
    """What a model says of the rows of one table, in their order; label columns are not read.

    Args:
        name: the table's name; an unknown one belongs to the source that fits its columns.
        tasks: only these; by default those that the table, or one of its source, labels. A task that never had a label
            is left out.

    Raises:
        DataError: a feature column is missing, or holds what it should not; there is no row.
    """
    described: Mapping[str, Task] = model.tasks  # type: ignore[assignment]
    if not len(frame):
        raise DataError(f"Table `{name}` should have a row to predict. Found none.")
    ((source, rows),) = dataset.tasksets({name: frame}, labels=False).items()
    if tasks is None:
        sources = dataset.preprocess.sources
        tables = [name] if name in dataset.targets else [t for t, s in sources.items() if s == source]
        own = {task for table in tables for task in dataset.targets.get(table, ())}
        tasks = [t for t in described if t in own] or list(described)
    wanted = [t for t in tasks if t not in dataset.unlabelled]
    found = run(model, rows.to(next(model.parameters()).dtype), wanted, source)
    return {t: described[t].placed(described[t].predict(found[t]), frame) for t in wanted if t in found}


def predict_frame(
    model: nn.Module, dataset: Dataset, name: str, frame: pd.DataFrame, tasks: Sequence[str] | None = None
) -> pd.DataFrame:
    """The same as named columns (``buy``, ``buy__prob``), with the table's own index."""
    import pandas as pd

    described: Mapping[str, Task] = model.tasks  # type: ignore[assignment]
    columns: dict[str, Any] = {}
    for task, predicted in predict(model, dataset, name, frame, tasks).items():
        columns |= described[task].columns(predicted)
    return pd.DataFrame(columns, index=frame.index)
