"""Rows that cannot be read, found and left out: what `data.on_error: skip` asks for beyond what a format refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .data.assemble import Dataset
from .data.columns import Column, DataWarning, TypeOf, fitted
from .data.labels import inside, labelled
from .data.preprocess import concat
from .data.where import space
from .faults import DataError
from .tasks import Task

if TYPE_CHECKING:
    import pandas as pd

Bad = dict[int, str]
"""Row -> why it cannot be read."""
Described = dict[str, dict[str, Any]]
"""Column -> what it says of itself to a task whose labels lie on it."""


def sift(
    types: Mapping[str, TypeOf],
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    targets: Mapping[str, Sequence[str]] | None,
) -> dict[str, pd.DataFrame]:
    """The rows whose inputs and labels are what they should be; the others are counted in a warning per table.

    Only inputs of a declared type are looked at, and labels where they do not pass all together: each row by itself,
    so that pictures are read once more.

    Args:
        types: column -> its type, where the user declared one.
        tasks: not fitted.
        targets: {table: tasks it labels}; None leaves it to the columns.
    """
    bad: dict[str, Bad] = {name: {} for name in tables}
    described: dict[str, Described] = {}
    for name, frame in tables.items():
        for column in (c for c in frame.columns if c in types):
            bad[name] |= _each(np.arange(len(frame)), partial(_taught, types[column], frame[column]))
        good = np.setdiff1d(np.arange(len(frame)), list(bad[name]))
        described[name] = _described(types, frame, good)
    for task, rows in _labelling(tasks, tables, targets, bad):
        learns = {name: np.ones(len(own), dtype=bool) for name, own in rows.items()}
        for (table, row), why in _unreadable(_beside(task, described, rows), tables, rows, learns).items():
            bad[table].setdefault(row, why)
    return {name: _without(frame, bad[name], name)[0] for name, frame in tables.items()}


def learnable(
    types: Mapping[str, TypeOf],
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    targets: Mapping[str, Sequence[str]] | None,
    parts: Mapping[str, np.ndarray],
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """The rows, and the part of each, whose labels are such as the training part has; the others are counted.

    Args:
        types, tasks, targets: as for `sift`.
        parts: {table: the part of each row}.
    """
    bad: dict[str, Bad] = {name: {} for name in tables}
    train = {name: np.flatnonzero(own == "train") for name, own in parts.items()}
    described = {name: _described(types, frame, train[name]) for name, frame in tables.items()}
    for task, rows in _labelling(tasks, tables, targets, bad):
        learns = {name: parts[name][own] == "train" for name, own in rows.items()}
        for (table, row), why in _unreadable(_beside(task, described, rows), tables, rows, learns).items():
            bad[table].setdefault(row, why)
    kept = {name: _without(frame, bad[name], name) for name, frame in tables.items()}
    return {name: frame for name, (frame, _) in kept.items()}, {name: parts[name][k] for name, (_, k) in kept.items()}


def sifted(dataset: Dataset, name: str, frame: pd.DataFrame, labels: bool) -> pd.DataFrame:
    """The rows that a trained model can read; the others are counted in a warning.

    Args:
        dataset: of the model.
        name: of the table.
        labels: whether labels are to be read as well.
    """
    preprocess = dataset.preprocess
    source = preprocess.source_of(name if name in preprocess.sources else frame)
    everything = np.arange(len(frame))
    bad: Bad = {}
    for column in preprocess.columns[source]:
        if column.name in frame.columns and column.kind not in ("numeric", "categorical"):
            bad |= _each(everything, partial(_transformed, column, frame[column.name]))
    for task in dataset.tasks if labels else ():
        if task.name not in dataset.unlabelled and set(task.targets) <= set(frame.columns):
            there = np.flatnonzero(space(frame, task.where))
            bad |= _each(there, partial(_encoded, task, frame))
    return _without(frame, bad, name)[0]


def _settings(own: TypeOf) -> Mapping[str, Any]:
    return {"type": own} if isinstance(own, str) else own


def _taught(own: TypeOf, series: pd.Series, rows: np.ndarray) -> None:
    """Let a column type learn from these rows, and read them.

    Raises:
        DataError: a row cannot be read.
    """
    chosen = series.iloc[rows]
    fitted(str(_settings(own)["type"]), chosen, _settings(own)).transform(chosen)


def _described(types: Mapping[str, TypeOf], frame: pd.DataFrame, rows: np.ndarray) -> Described:
    """What the columns of declared types know, learned from these rows."""
    found: Described = {}
    for name in (c for c in frame.columns if c in types and len(rows)):
        column = fitted(str(_settings(types[name])["type"]), frame[name].iloc[rows], _settings(types[name]))
        found[name] = {"kind": column.kind, **column.to_json()}
    return found


def _beside(task: Task, described: Mapping[str, Described], tables: Iterable[str]) -> Task:
    return task.beside({c: v for table in tables for c, v in described[table].items()})


def _transformed(column: Column, series: pd.Series, rows: np.ndarray) -> Any:
    return column.transform(series.iloc[rows])


def _encoded(task: Task, frame: pd.DataFrame, rows: np.ndarray) -> Any:
    return task.encode(inside(frame.iloc[rows], task))


def _each(rows: np.ndarray, read: Callable[[np.ndarray], Any]) -> Bad:
    """The rows that cannot be read; those that pass together are not looked at one by one.

    An error that names no row is no row's fault: the run itself will say what it is.
    """
    if not len(rows):
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is to be said is said when the rows are read for good
            read(rows)
    except DataError as error:
        if error.row is None:
            return {}
        if len(rows) == 1:  # the message counts from the row that was given
            return {int(rows[0]): str(error).replace("row 0", f"row {rows[0]}")}
        middle = len(rows) // 2
        return _each(rows[:middle], read) | _each(rows[middle:], read)
    return {}


def _labelling(
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    targets: Mapping[str, Sequence[str]] | None,
    bad: Mapping[str, Bad],
) -> Iterator[tuple[Task, dict[str, np.ndarray]]]:
    """Each task, and table -> its rows that may have a label, without those that are left out already."""
    of_tables = labelled(tables, tasks, targets)
    for task in tasks:
        rows = {}
        for name, frame in tables.items():
            if task.name in of_tables[name] and set(task.targets) <= set(frame.columns):
                there = space(frame, task.where) & frame[list(task.targets)].notna().any(axis=1).to_numpy()
                rows[name] = np.setdiff1d(np.flatnonzero(there), list(bad[name]))
        yield task, rows


def _unreadable(
    task: Task, tables: Mapping[str, pd.DataFrame], rows: Mapping[str, np.ndarray], learns: Mapping[str, np.ndarray]
) -> dict[tuple[str, int], str]:
    """(table, row) -> why its label cannot be read: it is wrong in itself, or training has nothing like it.

    Args:
        rows: table -> rows that may have a label.
        learns: table -> whether each of them is one to learn from.
    """
    places = [(table, int(row)) for table, own in rows.items() for row in own]
    teaches = np.concatenate([learns[table] for table in rows]) if rows else np.zeros(0, dtype=bool)

    def labels(chosen: np.ndarray) -> pd.DataFrame:
        own: dict[str, list[int]] = {}
        for i in chosen:
            own.setdefault(places[i][0], []).append(places[i][1])
        return concat([inside(tables[table].iloc[found], task) for table, found in own.items()])

    def learnt(chosen: np.ndarray) -> Task:
        taught = task.fitted(labels(chosen))
        taught.encode(labels(chosen))
        return taught

    train, rest = np.flatnonzero(teaches), np.flatnonzero(~teaches)
    bad = _each(train, learnt)
    kept = np.setdiff1d(train, list(bad))
    if len(kept) and len(rest):
        with suppress(DataError):  # what is wrong with all of them the run itself will say
            taught = task.fitted(labels(kept))
            bad |= _each(rest, lambda chosen: taught.encode(labels(chosen)))
    return {places[i]: why.replace(f"row {i}", f"row {places[i][1]}") for i, why in bad.items()}


def _without(frame: pd.DataFrame, bad: Bad, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The other rows, and which they are.

    Raises:
        DataError: there is none.
    """
    keep = ~np.isin(np.arange(len(frame)), list(bad))
    if not bad:
        return frame, keep
    first = bad[min(bad)]
    if not keep.any():
        raise DataError(f"`{name}` should have a row that can be read. Found none: {first}")
    told = "1 row was" if len(bad) == 1 else f"{len(bad)} rows were"
    warnings.warn(f"{told} left out of `{name}`. The first: {first}", DataWarning, stacklevel=3)
    return frame[keep].reset_index(drop=True), keep
