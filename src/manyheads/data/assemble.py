"""The door from data frames to tasksets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..catalog import hint
from ..faults import ConfigError, DataError
from ..tasks import Task
from . import Block, Taskset
from .columns import TypeOf
from .labels import encode, inside, labelled, require
from .leakage import check
from .preprocess import Preprocess, concat

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Dataset:
    """What was learned from the training tables: fitted tasks and columns; it turns any further tables into tasksets.

    Args:
        tasks: fitted, in the user's order.
        preprocess: the fitted feature columns.
        targets: {table: the tasks it labels}.
        keep: columns carried along beside the features (ids, groups).
        unlabelled: tasks without a label in the training part; nothing is known about them anywhere.
    """

    tasks: tuple[Task, ...]
    preprocess: Preprocess
    targets: Mapping[str, tuple[str, ...]]
    keep: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()

    @staticmethod
    def fit(
        tables: Mapping[str, pd.DataFrame],
        tasks: Sequence[Task],
        *,
        targets: Mapping[str, Sequence[str]] | None = None,
        types: Mapping[str, TypeOf] | None = None,
        drop: Sequence[str] = (),
        keep: Sequence[str] = (),
        train: Mapping[str, Any] | None = None,
        allow_unlabelled: bool = False,
        leakage: bool = True,
        allow_leaks: Sequence[str] = (),
    ) -> Dataset:
        """Learn from the training rows; features are all columns but targets, sample weights, `drop` and `keep`.

        Args:
            tables: {name: frame}.
            targets: {table: names of the tasks it labels}; by default the tasks whose target columns it has.
            types: {column: type} where the user declares one.
            drop: columns to leave out.
            keep: columns to carry along beside the features: ids, groups, the split column; one with a declared type
                is a feature as well.
            train: {table: positions of its training rows}; all rows by default.
            allow_unlabelled: let a task pass that has no label in the training part.
            leakage: refuse features that contain a target.
            allow_leaks: columns that may, because the user knows better.

        Raises:
            ConfigError: two tasks of one name, an unknown task, table or column type.
            DataError: a column is missing, a task has no label in the training part, a feature contains a target.
        """
        names = [t.name for t in tasks]
        if not tasks:
            raise ConfigError("A dataset should have a task. Found none.")
        if len(set(names)) < len(names):
            twice = next(n for i, n in enumerate(names) if n in names[:i])
            raise ConfigError(f"Tasks should have names of their own. Found `{twice}` more than once.")
        if not tables:
            raise DataError("A dataset should have a table. Found none.")
        labels = labelled(tables, tasks, targets)
        for column in (*drop, *keep):
            if not any(column in frame.columns for frame in tables.values()):
                known = [str(c) for frame in tables.values() for c in frame.columns]
                raise ConfigError(
                    f"`drop` and ids should name columns of the table. Found `{column}`. {hint(column, known)}"
                )
        rows = {
            t: np.arange(len(f)) if train is None or t not in train else np.asarray(train[t]) for t, f in tables.items()
        }
        for table, positions in rows.items():
            if positions.dtype == bool:
                rows[table] = np.flatnonzero(positions)
        out = {
            *drop,
            *(c for c in keep if c not in (types or {})),
            *(c for t in tasks for c in t.targets),
            *(t.sample_weight for t in tasks if t.sample_weight),
        }
        features = {t: [c for c in frame.columns if c not in out] for t, frame in tables.items()}
        by_name = {t.name: t for t in tasks}
        for table, found in labels.items():
            for task in map(by_name.__getitem__, found):
                require(tables[table], table, task)
        training = {
            t: tables[t] if len(rows[t]) == len(tables[t]) and train is None else tables[t].take(rows[t])
            for t in tables
        }
        if leakage:
            suspects = {t: [c for c in own if c not in allow_leaks] for t, own in features.items()}
            _refuse_leaks(training, suspects, labels, by_name)
        preprocess = Preprocess.fit({t: f[features[t]] for t, f in tables.items()}, types, rows)
        fitted, unlabelled = [], []
        for task in tasks:
            task = task.beside(preprocess.described(t for t, found in labels.items() if task.name in found))
            frames = [training[t] for t, found in labels.items() if task.name in found]
            taught = concat([inside(f, task) for f in frames])
            taught = taught[taught[list(task.targets)].notna().any(axis=1)]
            if len(taught):
                fitted.append(task.fitted(taught))
            elif allow_unlabelled:
                fitted.append(task)
                unlabelled.append(task.name)
            else:
                where = f" where {task.where}" if task.where else ""
                raise DataError(
                    f"Task `{task.name}` should have a label in the training part. Found none in column "
                    f"`{', '.join(task.targets)}`{where}; remove the task, or allow unlabelled tasks."
                )
        return Dataset(tuple(fitted), preprocess, labels, tuple(keep), tuple(unlabelled))

    def tasksets(
        self, tables: Mapping[str, pd.DataFrame], labels: bool = True, tasks: Sequence[str] | None = None
    ) -> dict[str, Taskset]:
        """The rows of any tables, per source; rows of several tables in one source keep the tables' order.

        Args:
            tables: {name: frame}; a table under a new name belongs to the source that fits its columns, and labels the
                tasks whose target columns it has.
            labels: false for prediction: no label, `where` or weight column is touched, and there are no blocks.
            tasks: only these tasks' labels.

        Raises:
            DataError: a column is missing or holds what it should not.
        """
        answer = {}
        for source, found in self._by_source(tables).items():
            frames = {t: tables[t] for t in found}
            blocks = self._blocks(source, frames, tasks) if labels else ()
            known = [t for t, s in self.preprocess.sources.items() if s == source]
            domains = tuple(dict.fromkeys([*known, *frames]))
            domain = np.repeat([domains.index(t) for t in frames], [len(f) for f in frames.values()])
            inputs = self.preprocess.inputs(self.preprocess.join(frames, source), source)
            answer[source] = Taskset(inputs, blocks, self._extra(frames, labels), torch.from_numpy(domain), domains)
        return answer

    def with_tasks(self, tasks: Sequence[Task]) -> Dataset:
        """The same, with tasks that have learned more."""
        return replace(self, tasks=tuple(tasks))

    def offsets(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, tuple[str, int, int]]:
        """{table: (source, start, stop)}: where the rows of each table are in `tasksets`."""
        found = {}
        for source, names in self._by_source(tables).items():
            stop = 0
            for table in names:
                start, stop = stop, stop + len(tables[table])
                found[table] = (source, start, stop)
        return {t: found[t] for t in tables}

    def coverage(self, tasksets: Mapping[str, Taskset]) -> dict[str, dict[str, int]]:
        """{task: {"rows": rows of the tables that label it, "labels": known labels}}."""
        answer = {t.name: {"rows": 0, "labels": 0} for t in self.tasks}
        for taskset in tasksets.values():
            per_table = np.bincount(
                [] if taskset.domain is None else taskset.domain.numpy(), minlength=len(taskset.domains)
            )
            for task, count in taskset.counts().items():
                own = [i for i, t in enumerate(taskset.domains) if task in self.targets.get(t, (task,))]
                answer[task]["rows"] += int(per_table[own].sum())
                answer[task]["labels"] += count
        return answer

    def to_json(self) -> dict[str, Any]:
        """Everything but the tasks, which have a `to_json` of their own."""
        return {
            "preprocess": self.preprocess.to_json(),
            "targets": {t: list(found) for t, found in self.targets.items()},
            "keep": list(self.keep),
            "unlabelled": list(self.unlabelled),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], tasks: Sequence[Task]) -> Dataset:
        """What `to_json` wrote, with the fitted tasks."""
        targets = {t: tuple(found) for t, found in value["targets"].items()}
        preprocess = Preprocess.from_json(value["preprocess"])
        return Dataset(tuple(tasks), preprocess, targets, tuple(value["keep"]), tuple(value["unlabelled"]))

    def _by_source(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for table, frame in tables.items():
            known = table in self.preprocess.sources
            found.setdefault(self.preprocess.source_of(table if known else frame), []).append(table)
        return found

    def _blocks(self, source: str, frames: Mapping[str, pd.DataFrame], only: Sequence[str] | None) -> tuple[Block, ...]:
        own = {n for t, s in self.preprocess.sources.items() if s == source for n in self.targets.get(t, ())}
        families: dict[Hashable, list[Task]] = {}
        for task in self.tasks:
            if task.name in own and (only is None or task.name in only):
                family = task.family()
                families.setdefault(("alone", task.name) if family is None else ("family", family), []).append(task)
        blocks = []
        for members in families.values():
            parts = [
                encode(task, self._labelling(task, frames), frames, task.name in self.unlabelled) for task in members
            ]
            if members[0].family() is None:
                blocks.append(Block((members[0].name,), *parts[0]))
                continue
            target = torch.stack([t for t, _, _ in parts], dim=1)
            known = torch.stack([k for _, k, _ in parts], dim=1)
            weight = None
            if any(w is not None for _, _, w in parts):
                ones = torch.ones_like(known[:, 0], dtype=torch.float32)
                weight = torch.stack([ones if w is None else w for _, _, w in parts], dim=1)
            blocks.append(Block(tuple(t.name for t in members), target, known, weight, stacked=True))
        return tuple(blocks)

    def _labelling(self, task: Task, frames: Mapping[str, pd.DataFrame]) -> list[str]:
        """The tables among these that label a task."""
        found = []
        for table, frame in frames.items():
            if table in self.targets:
                if task.name in self.targets[table]:
                    require(frame, table, task)
                    found.append(table)
            elif set(task.targets) <= set(frame.columns):
                found.append(table)
        return found

    def _extra(self, frames: Mapping[str, pd.DataFrame], labels: bool) -> dict[str, np.ndarray]:
        columns = list(self.keep)
        if labels:
            columns += [m.partition(":")[2] for t in self.tasks for m in t.metrics if m.startswith("gauc:")]
        extra = {}
        for name in dict.fromkeys(columns):
            if any(name in frame.columns for frame in frames.values()):
                extra[name] = concat([f.reindex(columns=[name])[name] for f in frames.values()]).to_numpy()
        return extra


def _refuse_leaks(
    tables: Mapping[str, pd.DataFrame],
    features: Mapping[str, Sequence[str]],
    labels: Mapping[str, Sequence[str]],
    tasks: Mapping[str, Task],
) -> None:
    for table, frame in tables.items():
        findings = check(frame, features[table], [tasks[n] for n in labels[table]])
        if findings:
            raise DataError("\n".join(f.sentence for f in findings))
