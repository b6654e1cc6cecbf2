"""Which rows train, which choose, which judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..blocks import seed_of
from ..catalog import hint
from ..faults import ConfigError, DataError
from .where import space

if TYPE_CHECKING:
    import pandas as pd

    from ..tasks import Task

PARTS = ("train", "valid", "test")
KINDS = ("random", "stratified", "group", "time", "column")


@dataclass(frozen=True)
class Split:
    """How rows are divided into train, valid and test.

    Args:
        kind: ``random``; ``stratified`` over the labels of all tasks at once, missing ones included (numbers with more
            than 10 values in 5 quantile bins); ``group``, no group in two parts; ``time``, the earliest rows train and
            rows of one moment stay together; ``column``, a column holds the words train, valid, test.
        by: the column (or, for groups, columns) that the last three kinds read.
        sizes: shares of train, valid and test; they are scaled to sum to 1.
        seed: the same seed and the same rows in the same order give the same split.

    Raises:
        ConfigError: an unknown kind, sizes that are no shares, `by` missing or superfluous.
    """

    kind: str = "random"
    by: str | tuple[str, ...] | None = None
    sizes: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"No split is called `{self.kind}`. {hint(self.kind, KINDS)}")
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if isinstance(self.by, (list, tuple)):
            object.__setattr__(self, "by", tuple(self.by))
        if len(self.sizes) != 3 or not all(s >= 0 for s in self.sizes) or not self.sizes[0] > 0:
            raise ConfigError(
                f"`sizes` should be three shares (train, valid, test), the first above 0. Found {list(self.sizes)}."
            )
        least, most = {"group": (1, 99), "time": (1, 1), "column": (1, 1)}.get(self.kind, (0, 0))
        if not least <= len(self.columns) <= most:
            wanted = "no column" if not most else "one column" if most == 1 else "a column or more"
            raise ConfigError(f"`by` of a split of kind `{self.kind}` should name {wanted}. Found {self.by!r}.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads; they are no features."""
        return () if self.by is None else (self.by,) if isinstance(self.by, str) else self.by


def split(
    frame: pd.DataFrame, spec: Split | Mapping[str, Any] | None = None, tasks: Sequence[Task] = (), name: str = "table"
) -> np.ndarray:
    """The part of every row of one table.

    Shape:
        (rows,) of ``train``, ``valid``, ``test``.

    Args:
        spec: a `Split`, or its settings.
        tasks: the tasks this table labels: what `stratified` balances, and each must keep a label in train.
        name: the table's name in messages.

    Raises:
        DataError: a column is missing or holds something else than it should; a part stays empty; a task has labels
            but none in train.
    """
    return split_tables({name: frame}, spec, {name: tasks})[name]


def split_tables(
    tables: Mapping[str, pd.DataFrame],
    spec: Split | Mapping[str, Any] | None = None,
    tasks: Mapping[str, Sequence[Task]] | None = None,
) -> dict[str, np.ndarray]:
    """The parts of several tables: `random` and `stratified` divide each by itself, groups and moments are common.

    Args:
        tasks: {table: the tasks it labels}.

    Raises:
        DataError: see `split`.
    """
    import pandas as pd

    spec = spec if isinstance(spec, Split) else Split(**(spec or {}))
    tasks = tasks or {}
    for name, frame in tables.items():
        for column in spec.columns:
            if column not in frame.columns:
                raise DataError(
                    f"Table `{name}` should have the column `{column}`, by which rows are split. Found no such column. "
                    f"{hint(column, map(str, frame.columns))}"
                )
            if frame[column].isna().any():
                row = int(frame[column].isna().to_numpy().argmax())
                raise DataError(
                    f"Column `{column}` of table `{name}` should have a value in every row. Found none in row {row}.",
                    row,
                )
    if spec.kind in ("group", "time", "column"):
        keys = pd.concat([frame[list(spec.columns)] for frame in tables.values()], ignore_index=True)
        joined = {"group": _groups, "time": _moments, "column": _words}[spec.kind](keys, spec)
        stops = np.cumsum([len(frame) for frame in tables.values()])
        found = dict(zip(tables, np.split(joined, stops[:-1]), strict=True))
    else:
        found = {
            name: _rows(frame, spec, name, tasks.get(name, ()) if spec.kind == "stratified" else ())
            for name, frame in tables.items()
        }
    answer = {name: np.array(PARTS)[parts] for name, parts in found.items()}
    _check_labels(tables, tasks, answer)
    return answer


def equal_rows(frame: pd.DataFrame, features: Sequence[str], parts: np.ndarray) -> int:
    """How many rows outside train have exactly the features of a row inside: what they measure is partly memory."""
    import pandas as pd

    read = frame[list(features)]
    rich = (list, np.ndarray)
    lists = [c for c in read if read[c].dtype == object and read[c].map(lambda cell: isinstance(cell, rich)).any()]
    read = read.assign(**{c: read[c].map(_as_text) for c in lists})
    keys = pd.util.hash_pandas_object(read, index=False).to_numpy()
    train = parts == "train"
    return int(np.isin(keys[~train], keys[train]).sum())


def _as_text(cell: object) -> str:
    return f"{cell.shape} {cell.dtype} {cell.tobytes().hex()}" if isinstance(cell, np.ndarray) else repr(cell)


def _shares(spec: Split) -> np.ndarray:
    sizes = np.array(spec.sizes, dtype=np.float64)
    return sizes / sizes.sum()


def _allot(n: int, demand: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """n whole rows in proportion to a demand: largest remainders first, then where `tie` is larger."""
    demand = np.maximum(demand, 0)
    if not demand.sum():
        demand = np.maximum(tie, 0) if (tie > 0).any() else np.ones(len(tie))
    exact = n * demand / demand.sum()
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((np.arange(len(tie)), -tie, -np.round(exact - counts, 9)))
    counts[order[: n - counts.sum()]] += 1
    return counts


def _rows(frame: pd.DataFrame, spec: Split, name: str, tasks: Sequence[Task]) -> np.ndarray:
    """Row by row: iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data,
    2011). The rarest label left is dealt out first, each part getting what it still lacks of it. Rows without any label
    (all rows, where no task is given) come last."""
    rng = np.random.default_rng(seed_of(spec.seed, name))
    n, shares = len(frame), _shares(spec)
    labels = _label_ids(frame, tasks)
    n_labels = int(labels.max(initial=-1)) + 1

    def count(rows: np.ndarray) -> np.ndarray:
        ids = labels[rows]
        return np.bincount(ids[ids >= 0], minlength=n_labels)

    left = count(np.arange(n))
    lacking = shares[:, None] * left
    room = shares * n
    parts = np.full(n, -1)
    while True:
        if (left > 0).any():
            rarest = int(np.where(left > 0, left, n + 1).argmin())
            rows, demand = np.flatnonzero((labels == rarest).any(axis=1) & (parts < 0)), lacking[:, rarest]
        else:
            rows, demand = np.flatnonzero(parts < 0), room
        if not len(rows):
            return parts
        dealt = np.split(rng.permutation(rows), np.cumsum(_allot(len(rows), demand, room))[:-1])
        for part, chosen in enumerate(dealt):
            parts[chosen] = part
            lacking[part] -= count(chosen)
            room[part] -= len(chosen)
        left = left - count(rows)


def _label_ids(frame: pd.DataFrame, tasks: Sequence[Task]) -> np.ndarray:
    """One number per (task column, class or quantile bin), -1 where the label is missing: (rows, columns).

    A label with places in it (tags of a sentence, a mask) is there, or it is not.
    """
    import pandas as pd

    columns, first = [], 0
    for task in tasks:
        inside = space(frame, task.where)
        for target in task.targets:
            series = frame[target].where(inside) if task.where else frame[target]
            if task.eats != "vector":  # tags, masks: no two rows have the same, but some have none
                columns.append(np.where(series.notna(), first, -1))
                first += 1
                continue
            codes, values = pd.factorize(series)
            if pd.api.types.is_numeric_dtype(series.dtype) and len(values) > 10:
                edges = np.unique(series.astype("float64").quantile([0.2, 0.4, 0.6, 0.8]).to_numpy())
                bins = np.searchsorted(edges, series.to_numpy(dtype=np.float64, na_value=np.nan), side="left")
                codes = np.where(series.isna().to_numpy(), -1, bins)
            columns.append(np.where(codes >= 0, codes + first, -1))
            first += int(codes.max(initial=-1)) + 1
    return np.stack(columns, axis=1) if columns else np.full((len(frame), 1), -1)


def _groups(keys: pd.DataFrame, spec: Split) -> np.ndarray:
    """Groups in random order, each to the part that lacks most rows."""
    group = keys.groupby(list(keys.columns), sort=False, observed=True).ngroup().to_numpy()
    sizes = np.bincount(group)
    shares = _shares(spec)
    if len(sizes) < (shares > 0).sum():
        raise DataError(
            f"A split by {_names(spec)} should have a group for every part. Found {len(sizes)} group(s) for "
            f"{(shares > 0).sum()} parts."
        )
    room = list(shares * len(group))
    part = np.zeros(len(sizes), dtype=np.int64)
    for g in np.random.default_rng(seed_of(spec.seed, "group")).permutation(len(sizes)):
        part[g] = max(range(3), key=room.__getitem__)
        room[part[g]] -= sizes[g]
    empty = [p for p in range(3) if shares[p] > 0 and not (part == p).any()]
    for p in empty:  # one giant group can starve a part: it gets the smallest group of the part with most groups
        donor = np.bincount(part, minlength=3).argmax()
        members = np.flatnonzero(part == donor)
        part[members[sizes[members].argmin()]] = p
    return part[group]


def _moments(keys: pd.DataFrame, spec: Split) -> np.ndarray:
    import pandas as pd

    series = keys[spec.columns[0]]
    if not pd.api.types.is_numeric_dtype(series.dtype):
        stamps = pd.to_datetime(series.astype(object), format="ISO8601", errors="coerce", utc=True)
        if stamps.isna().any():
            found = series[stamps.isna()].iloc[0]
            raise DataError(f"Column {_names(spec)} should hold numbers or dates such as 2024-01-31. Found {found!r}.")
        series = stamps
    order = series.rank(method="dense").to_numpy()
    n, shares = len(order), _shares(spec)
    last = np.sort(order)[np.maximum(np.ceil(np.cumsum(shares) * n - 1e-9).astype(np.int64), 1) - 1]
    parts = np.where(order <= last[0], 0, np.where(order <= last[1], 1, 2))
    for p in range(3):
        if shares[p] > 0 and not (parts == p).any():
            raise DataError(
                f"A split by {_names(spec)} should leave rows for {PARTS[p]}. Found too few distinct moments "
                f"({int(order.max())})."
            )
    return parts


def _words(keys: pd.DataFrame, spec: Split) -> np.ndarray:
    series = keys[spec.columns[0]].astype(str)
    for word in series.unique():
        if word not in PARTS:
            ours = f"Ours is `{_OTHERS[word.lower()]}`." if word.lower() in _OTHERS else hint(word, PARTS)
            raise DataError(
                f"Column {_names(spec)} should hold the words train, valid and test. Found `{word}`. {ours}"
            )
    if not (series == "train").any():
        raise DataError(f"Column {_names(spec)} should have rows for train. Found none.")
    return series.map({p: i for i, p in enumerate(PARTS)}).to_numpy(dtype=np.int64)


_OTHERS = {
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "eval": "valid",
    "training": "train",
    "testing": "test",
}


def _names(spec: Split) -> str:
    return ", ".join(f"`{c}`" for c in spec.columns)


def _check_labels(
    tables: Mapping[str, pd.DataFrame], tasks: Mapping[str, Sequence[Task]], parts: Mapping[str, np.ndarray]
) -> None:
    """Every task that has labels has one in train."""
    seen: dict[str, list[int]] = {}
    for name, frame in tables.items():
        for task in tasks.get(name, ()):
            known = frame[list(task.targets)].notna().any(axis=1).to_numpy() & space(frame, task.where)
            tally = seen.setdefault(task.name, [0, 0])
            tally[0] += int(known.sum())
            tally[1] += int((known & (parts[name] == "train")).sum())
    for name, (total, train) in seen.items():
        if total and not train:
            raise DataError(
                f"Task `{name}` should have a label in the training part. Found all {total} outside; split by kind "
                "`stratified`, or with another seed or larger train share."
            )
