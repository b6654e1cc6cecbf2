"""The simple models that a comparison always shows beside the net, one per task: constant, linear, boosting.

Every one works in the space of the task's own output (the transformed number, log rate, log odds), and comes back
through `Task.predict`, as the net does. Training and validation rows are one: folds of them choose what has to be
chosen. A task splits into problems of one column each: one for most, one per label for several labels a row, and one
per threshold, [y > j], for ordered levels (Frank and Hall 2001).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..catalog import hint
from ..data import Taskset
from ..faults import ConfigError
from ..metrics import Predicted
from ..parallel import workers
from ..ragged import joined
from ..results import Score
from ..tasks import Task
from . import boosting, constant, linear
from .learner import Predict
from .problem import Array, alike, problems

BASELINES: dict[str, Callable[..., Predict]] = {
    "constant": constant.fit,
    "linear": linear.fit,
    "boosting": boosting.fit,
}
"""Word -> ``fit(task, x, layout, target, known, weight, seed)``, a function of inputs that gives the predictions."""


@dataclass(frozen=True)
class Baseline:
    """What one simple model got on one task."""

    method: str
    score: Score
    """The primary metric on the test rows, with the reason where it has no value."""
    predicted: Predicted | None
    """Row by row for the test rows with a label, in the order of the tables."""
    truth: Array | None
    """The labels of the same rows, as `Task.truth` has them."""
    seconds: float
    """Tuning, fitting and predicting."""
    rows: int
    """Labelled training rows."""
    note: str = ""
    """Why it is not what its name says, where a constant had to stand in."""


class _Table(NamedTuple):
    """The labelled rows of one source for one task."""

    x: dict[str, Tensor]
    target: Tensor
    known: Tensor
    weight: Tensor | None
    extra: dict[str, Array]


def _table(rows: Taskset, task: str) -> _Table | None:
    if task not in rows.tasks:
        return None
    target, known, weight = rows.labels(task)
    index = rows.known_rows(task)
    if not len(index):
        return None
    x = {k: v[index] for k, v in rows.inputs.items() if k in ("numeric", "categorical")}
    extra = {k: v[index.numpy()] for k, v in rows.extra.items()}
    return _Table(x, target[index], known[index], None if weight is None else weight[index], extra)


def _joined(parts: Sequence[_Table]) -> _Table:
    if len(parts) == 1:
        return parts[0]
    weights = [torch.ones_like(p.known, dtype=torch.float32) if p.weight is None else p.weight for p in parts]
    return _Table(
        {k: torch.cat([p.x[k] for p in parts]) for k in parts[0].x},
        joined([p.target for p in parts]),
        joined([p.known for p in parts]),
        None if all(p.weight is None for p in parts) else torch.cat(weights),
        {k: np.concatenate([p.extra[k] for p in parts]) for k in parts[0].extra if all(k in p.extra for p in parts)},
    )


def _gather(tasksets: Sequence[Mapping[str, Taskset]], task: str) -> dict[str, _Table]:
    parts: dict[str, list[_Table]] = {}
    for split in tasksets:
        for source, rows in split.items():
            found = _table(rows, task)
            if found is not None:
                parts.setdefault(source, []).append(found)
    return {source: _joined(found) for source, found in parts.items()}


def run(
    methods: Sequence[str],
    task: Task,
    train: Sequence[Mapping[str, Taskset]],
    test: Mapping[str, Taskset],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
) -> dict[str, Baseline]:
    """Simple models of one task, fitted and scored.

    Tables with the same feature columns are one source already, and share a model. A task that sources of different
    columns label has a model per source, which knows nothing of the others; their predictions are scored together.
    Where a source has no training label, the constant of the other sources stands in. Simple models read numbers and
    categories, and say numbers and classes: where a table has no such column, and for tags, masks, boxes, texts and
    sound, there is the constant alone.

    Args:
        methods: words of `BASELINES`.
        task: fitted on the training labels.
        train: the splits to learn from, such as (training, validation); each {source: rows}.
        test: {source: rows} to score.
        layouts: {source: what its inputs look like}, as `Preprocess.layouts` has them.
        seed: of folds and trees.

    Raises:
        ConfigError: an unknown word.
    """
    check(methods)
    return _run(methods, task, _gather(train, task.name), _gather([test], task.name), layouts, seed)


def check(methods: Sequence[str]) -> None:
    """Refuse words that no baseline has (ConfigError)."""
    for method in methods:
        if method not in BASELINES:
            raise ConfigError(f"No baseline is called `{method}`. {hint(method, BASELINES)}")


def _run(
    methods: Sequence[str],
    task: Task,
    train: Mapping[str, _Table],
    test: Mapping[str, _Table],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> dict[str, Baseline]:
    columns = sum(x.shape[1] for rows in train.values() for x in rows.x.values())
    simple = task.eats == "vector" and (columns or not train)
    return {
        method: _one(method, task, train, test, layouts, seed) for method in methods if simple or method == "constant"
    }


def _one(
    method: str,
    task: Task,
    train: Mapping[str, _Table],
    test: Mapping[str, _Table],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> Baseline:
    start, notes = time.perf_counter(), []
    parts: list[Predicted | None] = []
    for source, rows in test.items() if train else ():
        where = f"Source `{source}`: " if len(test) > 1 else ""
        own, word = train.get(source), method
        if own is None:
            own, word = _labels_only(list(train.values())), "constant"
            if method != "constant":
                notes.append(f"{where}no training label; the constant of the other sources stands in.")
        if word != "constant":
            columns = problems(task, own.target, own.known, own.weight)
            whys = [why for why in map(alike, columns) if why]
            if whys and len(whys) == len(columns):
                word = "constant"
                notes.append(where + whys[0])
            elif whys and task.kind == "multilabel":
                notes.append(f"{where}{len(whys)} of {len(columns)} labels: {whys[0]}")
        if word == "constant":
            parts.append(constant.says(task, own.target, own.known, rows.target))
            continue
        fit = BASELINES[word]
        parts.append(fit(task, own.x, layouts.get(source, {}), own.target, own.known, own.weight, seed)(rows.x))
    return _scored(method, task, test, train, parts, time.perf_counter() - start, " ".join(notes))


def _labels_only(parts: Sequence[_Table]) -> _Table:
    """The labels of several sources together, without their inputs."""
    return _joined([p._replace(x={}, extra={}) for p in parts])


def _scored(
    method: str,
    task: Task,
    test: Mapping[str, _Table],
    train: Mapping[str, _Table],
    parts: Sequence[Predicted | None],
    seconds: float,
    note: str,
) -> Baseline:
    metric = metrics.find(task.metrics[0])
    rows, labels = sum(len(t.target) for t in train.values()), sum(int(t.known.sum()) for t in test.values())
    predicted = truth = value = None
    why: str | None = "No label in the training rows." if not train else "No label in the test rows."
    said = [p for p in parts if p is not None]
    if len(said) < len(parts):  # nothing that can be said, but known what it would get
        value, why = metric.constant, None if metric.constant is not None else "There is no constant prediction."
    elif said:
        whole = _joined(list({k: t._replace(x={}) for k, t in test.items()}.values()))
        truth = task.truth(whole.target)
        probas = [p.proba for p in said]
        predicted = Predicted(
            np.concatenate([np.asarray(p.value) for p in said]),
            None if any(p is None for p in probas) else np.concatenate([np.asarray(p) for p in probas]),
        )
        groups = None if metric.column is None else whole.extra[metric.column]
        several = whole.known.numpy() if whole.known.dim() > 1 else None
        value, why = metric(truth, predicted, groups=groups, known=several)
    up = metric.greater_is_better
    score = Score(task=task.name, metric=metric.name, value=value, labels=labels, greater_is_better=up, why=why)
    return Baseline(method, score, predicted, truth, seconds, rows, note)


def run_all(
    methods: Sequence[str],
    tasks: Sequence[Task],
    train: Sequence[Mapping[str, Taskset]],
    test: Mapping[str, Taskset],
    layouts: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
    n_jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Baseline]]:
    """Simple models of every task: {task: {method: what it got}}, the same for any number of processes.

    Args:
        methods: words of `BASELINES`.
        tasks: fitted on the training labels.
        train: the splits to learn from, such as (training, validation); each {source: rows}.
        test: {source: rows} to score.
        layouts: {source: what its inputs look like}.
        seed: of folds and trees.
        n_jobs: processes, of one thread each; 1 stays in this one, -1 takes one per core.
        progress: called with the name of each task that is done, in order.

    Raises:
        ConfigError: an unknown word.
    """
    check(methods)
    work = ((methods, task, _gather(train, task.name), _gather([test], task.name), layouts, seed) for task in tasks)
    answer = {}
    with nullcontext() if n_jobs == 1 else workers("loky", n_jobs):
        found: Any = (_run(*arguments) for arguments in work)
        if n_jobs != 1:
            from joblib import Parallel, delayed

            found = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_run)(*a) for a in work)
        for task, result in zip(tasks, found, strict=True):
            answer[task.name] = result
            if progress is not None:
                progress(task.name)
    return answer
