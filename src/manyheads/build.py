"""From settings and rows to a run that is ready to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .augment import Augmentation
from .balance import Balance
from .blocks import seed_of
from .callback import Callback
from .catalog import hint, make
from .data import Taskset
from .data.assemble import Dataset
from .data.episodes import EpisodeSampler
from .data.sampler import Sampler
from .data.splits import PARTS, Split, split, split_tables
from .faults import ConfigError
from .members import Members, folds
from .objectives import Objective
from .penalties import Penalty
from .results import TaskInfo
from .spec import Part, RunSpec, SplitSpec, build_model, settled
from .tasks import Task
from .train import Training

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = 5
"""A single member without a validation part holds out one row in so many."""


@dataclass(frozen=True)
class Prepared:
    """Tables made ready: what was learned from the training rows, and the rows of each part.

    Attributes:
        dataset: fitted tasks and columns.
        tasksets: part -> table (source) -> rows.
        parts: user's table -> the part of each of its rows.
    """

    dataset: Dataset
    tasksets: Mapping[str, Mapping[str, Taskset]]
    parts: Mapping[str, np.ndarray]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The fitted tasks."""
        return self.dataset.tasks

    def describe(self, sampler: Sampler | None = None) -> list[TaskInfo]:
        """Each task as the run sees it: rows and labels per part, and how it is sampled."""
        coverage = {part: self.dataset.coverage(rows) for part, rows in self.tasksets.items() if rows}
        infos = []
        for task in self.tasks:
            metric = metrics.find(task.metrics[0])
            tables = tuple(table for table, names in self.dataset.targets.items() if task.name in names)
            probability = passes = None
            if sampler is not None:
                units = [u for u in sampler.units if u == task.name] or [u for u in sampler.units if u in tables]
                chance, seen = sampler.probabilities(), sampler.passes()
                probability = sum(chance[u] for u in units) if units else None
                passes = sum(seen[u] for u in units) / len(units) if units else None
            json = task.to_json()
            infos.append(
                TaskInfo(
                    name=task.name, kind=task.kind, metric=metric.name, greater_is_better=metric.greater_is_better,
                    tables=tables, weight=task.weight, where=task.where,
                    rows={part: found[task.name]["rows"] for part, found in coverage.items()},
                    labels={part: found[task.name]["labels"] for part, found in coverage.items()},
                    per_row=len(task.targets) if task.kind == "multilabel" else 1,
                    probability=probability, passes=passes,
                    detail={k: v for k, v in json.items() if k not in ("type", "name", "weight", "where", "metrics")},
                )
            )  # fmt: skip
        return infos


def split_parts(
    spec: SplitSpec, tables: Mapping[str, pd.DataFrame], tasks: Sequence[Task], seed: int | None = None
) -> dict[str, np.ndarray]:
    """The part of every row of every table, as the config splits them."""
    how = Split(spec.kind, spec.by, spec.sizes, spec.seed if seed is None else seed)
    labels = {name: [t for t in tasks if set(t.targets) <= set(frame.columns)] for name, frame in tables.items()}
    parts = split_tables(tables, how, labels)
    return _with_every_class(tables, labels, parts) if spec.kind in ("random", "stratified") else parts


def _with_every_class(
    tables: Mapping[str, pd.DataFrame], labels: Mapping[str, Sequence[Task]], parts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A row of each class in the training part: a class that no training row has would have no place in the model."""
    answer = {name: part.copy() for name, part in parts.items()}
    for name, tasks in labels.items():
        for task in tasks:
            if task.where is not None:
                continue
            for rows in task.classes_in(tables[name]).values():
                if not (answer[name][rows] == "train").any():
                    answer[name][rows[0]] = "train"
    return answer


def prepare(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    parts: Mapping[str, np.ndarray],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    allow_unlabelled: bool = False,
) -> Prepared:
    """Learn tasks and columns from the training rows, and encode all rows.

    Args:
        tables: {name: frame}.
        parts: {name: the part of each row}; a row of another word belongs to no part.
        targets: {table: tasks it labels}.

    Raises:
        ConfigError, DataError: see `Dataset.fit`.
    """
    _refuse_unknown(spec, tables)
    by = spec.data.split.by or ()
    episode = spec.optim.objective.settings.get("by")
    keep = [*spec.data.ids, *((by,) if isinstance(by, str) else by), *([episode] if isinstance(episode, str) else [])]
    keep = [c for c in dict.fromkeys(keep) if any(c in f.columns for f in tables.values())]
    drop = list(spec.features.drop)
    if spec.features.only is not None:
        known = {c for t in tasks for c in (*t.targets, t.sample_weight)} | set(keep) | set(spec.features.only)
        drop += [c for f in tables.values() for c in f.columns if c not in known and c not in drop]
    _refuse_collisions([t.name for t in tasks])
    if spec.optim.objective.settings.get("ways"):  # classes that are held out whole are classes all the same
        tasks = [_with_all_classes(t, tables) if {*t.targets} & {*keep} else t for t in tasks]
    dataset = Dataset.fit(
        tables, tasks, targets=targets, types=spec.features.types, drop=list(dict.fromkeys(drop)), keep=keep,
        train={name: np.flatnonzero(p == "train") for name, p in parts.items()}, allow_unlabelled=allow_unlabelled,
        allow_leaks=spec.features.allow_leaks,
    )  # fmt: skip
    everything, offsets = dataset.tasksets(tables), dataset.offsets(tables)
    tasksets: dict[str, dict[str, Taskset]] = {}
    for part in PARTS:
        rows: dict[str, list[np.ndarray]] = {}
        for name, (source, start, _) in offsets.items():
            rows.setdefault(source, []).append(start + np.flatnonzero(parts[name] == part))
        joined = {source: np.concatenate(found) for source, found in rows.items()}
        tasksets[part] = {s: everything[s].take(torch.from_numpy(index)) for s, index in joined.items() if len(index)}
    return Prepared(dataset, tasksets, parts)


def _refuse_unknown(spec: RunSpec, tables: Mapping[str, pd.DataFrame]) -> None:
    """A column misspelt would be left out of the features, or let in, without a word."""
    known = dict.fromkeys(str(c) for frame in tables.values() for c in frame.columns)
    for key, wanted in (("features.only", spec.features.only or ()), ("data.ids", spec.data.ids)):
        for column in wanted:
            if column not in known:
                raise ConfigError(f"`{key}` should name columns of the table. Found `{column}`. {hint(column, known)}")


def _with_all_classes(task: Task, tables: Mapping[str, pd.DataFrame]) -> Task:
    """The task with the classes of all rows, whichever part they are in, unless it has a list of its own."""
    import pandas as pd

    own = [f[list(task.targets)] for f in tables.values() if {*task.targets} <= {*f.columns}]
    if not own or getattr(task, "classes", None) != ():
        return task
    return replace(task, classes=task.fitted(pd.concat(own)).classes)  # type: ignore[call-arg, attr-defined]


def make_balance(part: Part, tasks: Sequence[str]) -> Balance:
    """The balance that a config names.

    Raises:
        ConfigError: an unknown word, setting or task.
    """
    balance = make(Balance, part.name, part.settings)  # type: ignore[type-abstract]
    balance.check(tasks)
    return balance


def _refuse_collisions(names: Sequence[str]) -> None:
    for one in names:
        for other in names:
            if other.startswith(f"{one}__"):
                raise ConfigError(
                    f"Tasks should give columns of their own: predictions of `{one}` are called `{one}`, `{one}__...`. "
                    f"Found a task `{other}`; give it another name (`target` may stay)."
                )


def make_training(
    spec: RunSpec,
    layouts: Mapping[str, Any],
    tasks: Sequence[Task],
    train: Mapping[str, Taskset],
    valid: Mapping[str, Taskset],
    *,
    seed: int | None = None,
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Training | Members:
    """A run of these tasks on these rows; tables that label none of them are left out.

    With validation rows, every member stops on those. Without, each member holds out its own fold of the training rows
    (a single member: one of five); rows of one group stay together where the split is by group, and where it is by time
    the latest rows are held out.

    Args:
        layouts: table -> what its inputs look like.
        train, valid: table -> rows.
        seed: of initial weights, batches and dropout; the spec's by default.
    """
    seed = spec.seed if seed is None else seed
    names = [t.name for t in tasks]
    train = {table: rows.only(names) for table, rows in train.items()}
    train = {table: rows for table, rows in train.items() if len(rows) and rows.blocks}
    valid = {table: rows.only(names) for table, rows in valid.items() if table in train}
    layouts = {table: layouts[table] for table in layouts if table in train}
    spec = spec.model_copy(update={"model": settled(spec.model, layouts)})
    n = int(spec.model.members)
    parts = [(None, valid)] * n if any(map(len, valid.values())) else held_out(spec, train, n, seed)
    one = spec.model_copy(update={"model": spec.model.model_copy(update={"members": 1})})
    runs = [
        _one(one, layouts, tasks, train, within, held, seed if m == 0 else seed_of(seed, "member", m))
        for m, (within, held) in enumerate(parts)
    ]
    if n > 1:
        return Members(runs, folder, callbacks)
    runs[0].folder, runs[0].callbacks = folder, list(callbacks)
    return runs[0]


def _one(
    spec: RunSpec,
    layouts: Mapping[str, Any],
    tasks: Sequence[Task],
    train: Mapping[str, Taskset],
    within: Mapping[str, Tensor] | None,
    valid: Mapping[str, Taskset],
    seed: int,
) -> Training:
    model = build_model(spec.model, layouts, tasks, seed)
    n_rows = sum(map(len, (within or train).values()))
    changes = [make(Augmentation, part.name, part.settings) for part in spec.sampling.augment]  # type: ignore[type-abstract]
    by_name = {t.name: t for t in tasks}

    def change(rows: Taskset, random: torch.Generator) -> Taskset:
        for one in changes:
            rows = one(rows, by_name, random)
        return rows

    objective = objective_of(spec, sum(max(len(rows.domains), 1) for rows in train.values()))
    drawn: dict[str, Any] = {"seed": seed, "within": within, "change": change if changes else None}
    drawn["max_epochs"] = spec.trainer.max_epochs
    if objective.shape is None:
        drawn |= {n: getattr(spec.sampling, n) for n in ("mode", "schedule", "temperature", "weights", "bucket")}
        size = batch_size(n_rows) if spec.sampling.batch_size == "auto" else spec.sampling.batch_size
        sampler = Sampler(train, size, **drawn)
    else:
        sampler = EpisodeSampler(train, objective.shape, **drawn)
    objective.attach(model)
    balance = make_balance(spec.optim.balance, [t.name for t in tasks])
    penalties = [make(Penalty, part.name, part.settings) for part in spec.optim.penalties]  # type: ignore[type-abstract]
    return Training(
        model, sampler, valid, tasks, objective, balance, spec.optim, spec.trainer, penalties=penalties, seed=seed
    )


def objective_of(spec: RunSpec, tables: int) -> Objective:
    """The objective of a run. Of one that learns from episodes, these are: by its own column, else tables, else groups.

    Args:
        spec: the run.
        tables: how many there are to learn from.
    """
    objective = make(Objective, spec.optim.objective.name, spec.optim.objective.settings)  # type: ignore[type-abstract]
    shape = objective.shape
    grouped = tables == 1 and spec.data.split.kind == "group"
    if shape is not None and shape.by is None and shape.ways is None and grouped:
        objective.shape = replace(shape, by=Split("group", spec.data.split.by).columns[0])
    return objective


def batch_size(n_rows: int) -> int:
    """The power of two next to n / 16, within 32 and 128; from 24,000 rows on next to n / 256, at most 1024."""
    small = min(max(2 ** round(math.log2(max(n_rows, 1) / 16)), 32), 128)
    return max(small, min(2 ** round(math.log2(max(n_rows, 1) / 256)), 1024)) if n_rows > 0 else small


def held_out(
    spec: RunSpec, train: Mapping[str, Taskset], members: int, seed: int
) -> list[tuple[dict[str, Tensor], dict[str, Taskset]]]:
    """Per member (rows to learn from, rows held out), per table."""
    divide = _by_time if spec.data.split.kind == "time" else _by_fold
    divided = {t: divide(spec, rows, members, seed_of(seed, "folds", t) % 2**62) for t, rows in train.items()}
    answer = []
    for m in range(members):
        own = {t: parts[m % len(parts)] for t, parts in divided.items()}
        held = {t: train[t].take(index) for t, (_, index) in own.items() if len(index)}
        answer.append(({t: rest for t, (rest, _) in own.items()}, held))
    return answer


def _by_time(spec: RunSpec, rows: Taskset, members: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """The latest rows held out, for every member."""
    import pandas as pd

    by = Split("time", spec.data.split.by).columns[0]
    parts = split(pd.DataFrame({by: rows.extra[by]}), Split("time", by, (HELD_OUT - 1, 1, 0)))
    return [(torch.from_numpy(np.flatnonzero(parts == "train")), torch.from_numpy(np.flatnonzero(parts == "valid")))]


def _by_fold(spec: RunSpec, rows: Taskset, members: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(the other folds, the fold) of each fold; rows of one group stay together where the split is by group."""
    k, n, codes = members if members > 1 else HELD_OUT, len(rows), None
    if spec.data.split.kind == "group":
        keys = [rows.extra[c].astype(str) for c in Split("group", spec.data.split.by).columns]
        joined = np.array(["\x1f".join(parts) for parts in zip(*keys, strict=True)])
        names, found = np.unique(joined, return_inverse=True)
        if len(names) > 1:  # one group alone cannot be kept together and held out
            n, codes = len(names), torch.from_numpy(found)
    if n < 2:
        return [(torch.arange(len(rows)), torch.empty(0, dtype=torch.long))]
    parts = folds(len(rows), min(k, n), seed, codes)
    return [(torch.cat([p for j, p in enumerate(parts) if j != i]), part) for i, part in enumerate(parts)]
