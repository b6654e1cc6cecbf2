"""From label columns to targets: which table labels which task, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalog import hint
from ..faults import ConfigError, DataError
from ..ragged import Ragged
from ..tasks import Task
from .preprocess import concat
from .where import Where, space

if TYPE_CHECKING:
    import pandas as pd


def labelled(
    tables: Mapping[str, pd.DataFrame], tasks: Sequence[Task], targets: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """{table: the tasks it labels}: as declared, or those whose target columns it has.

    Raises:
        ConfigError: an unknown table or task is declared, or a task is declared nowhere.
        DataError: no table has a task's target column.
    """
    names = [t.name for t in tasks]
    if targets is None:
        columns = {t: set(frame.columns) for t, frame in tables.items()}
        found = {table: tuple(t.name for t in tasks if set(t.targets) <= have) for table, have in columns.items()}
    else:
        for table, declared in targets.items():
            if table not in tables:
                raise ConfigError(f"`targets` should name tables. Found `{table}`. {hint(table, tables)}")
            for name in declared:
                if name not in names:
                    raise ConfigError(f"Table `{table}` should label known tasks. Found `{name}`. {hint(name, names)}")
        found = {table: tuple(n for n in names if n in targets.get(table, ())) for table in tables}
    for task in tasks:
        if not any(task.name in labelled for labelled in found.values()):
            if targets is not None:
                raise ConfigError(
                    f"Task `{task.name}` should be labelled by a table. Found it nowhere under `targets`."
                )
            known = list(dict.fromkeys(str(c) for frame in tables.values() for c in frame.columns))
            lost = next((c for c in task.targets if c not in known), ", ".join(task.targets))
            where = f"table `{next(iter(tables))}`" if len(tables) == 1 else f"any of {len(tables)} tables"
            raise DataError(
                f"Task `{task.name}` should have its target column `{lost}` in {where}. Found no such column. "
                f"{hint(lost, known)}"
            )
    return found


def require(frame: pd.DataFrame, table: str, task: Task) -> None:
    """See that a table has all columns that the labels of a task need.

    Raises:
        DataError: a column is missing.
    """
    wanted = {"target": task.targets, "where": Where(task.where).columns if task.where else ()}
    wanted |= {"sample_weight": (task.sample_weight,) if task.sample_weight else ()}
    wanted |= {"metric": tuple(m.partition(":")[2] for m in task.metrics if m.startswith("gauc:"))}
    for role, columns in wanted.items():
        for column in columns:
            if column not in frame.columns:
                raise DataError(
                    f"Table `{table}` should have the {role} column `{column}` of task `{task.name}`. Found no such "
                    f"column. {hint(column, [str(c) for c in frame.columns])}"
                )


def inside(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The labels of a task within its sample space, and what else it reads with them."""
    labels = frame[[*task.targets, *(c for c in task.reads if c in frame.columns)]]
    return labels if task.where is None else labels[space(frame, task.where)]


def encode(
    task: Task, labelling: Sequence[str], frames: Mapping[str, pd.DataFrame], unlabelled: bool
) -> tuple[Any, Any, Tensor | None]:
    """(target, known, weight) of one task over the rows of all frames; what a table does not label is unknown."""
    import pandas as pd

    starts = dict(zip(frames, np.cumsum([0, *(len(f) for f in frames.values())])[:-1], strict=True))
    n = sum(len(f) for f in frames.values())
    rows: np.ndarray = np.empty(0, dtype=np.int64)
    labels = pd.DataFrame({c: pd.Series(dtype="float64") for c in task.targets})
    own: dict[str, np.ndarray] = {}
    if labelling and not unlabelled:
        own = {t: np.flatnonzero(space(frames[t], task.where)) for t in labelling}
        labels = concat([inside(frames[t], task) for t in labelling])
        rows = np.concatenate([starts[t] + found for t, found in own.items()])
    try:
        target, known = task.encode(labels)
    except DataError as error:
        for table, found in own.items():  # say which table it is, and count its own rows
            try:
                task.encode(inside(frames[table], task))
            except DataError as theirs:
                raise _placed(theirs, found, f"Table `{table}`: " if len(own) > 1 else "") from error
        raise
    weight = _sample_weight(task, labelling, frames, rows, known)
    by_label = task.label_weight(target)
    if by_label is not None:
        weight = by_label if weight is None else by_label * weight
    if len(rows) == n:
        return target, known, weight

    def spread(values: Any, fill: float) -> Any:
        if isinstance(values, Ragged):
            return Ragged(values.values, spread(values.lengths, 0))
        whole = torch.full((n, *values.shape[1:]), fill, dtype=values.dtype)
        whole[torch.from_numpy(rows)] = values
        return whole

    return spread(target, 0), spread(known, False), None if weight is None else spread(weight, 1)


def _placed(error: DataError, rows: np.ndarray, table: str) -> DataError:
    """An error about the labels within a sample space, with the row of the table.

    Args:
        rows: of the table, within the space.
        table: how the sentence begins.
    """
    if error.row is None:
        return DataError(f"{table}{error}")
    row = int(rows[error.row])
    return DataError(f"{table}{str(error).replace(f'row {error.row}', f'row {row}')}", row)


def _sample_weight(
    task: Task, labelling: Sequence[str], frames: Mapping[str, pd.DataFrame], rows: np.ndarray, known: Tensor
) -> Tensor | None:
    if task.sample_weight is None or not len(rows):
        return None
    import pandas as pd

    column = concat([_weights_inside(frames[t], task) for t in labelling])
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    used = known.flatten(1).any(1).numpy() if known.dim() > 1 else known.numpy()
    wrong = used & ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise DataError(
            f"Task `{task.name}`: sample weight column `{task.sample_weight}` should hold numbers of 0 or more "
            f"wherever there is a label. Found {values[wrong][0]}."
        )
    weight = torch.from_numpy(np.where(used, values, 0.0).astype(np.float32))
    return weight.reshape(-1, *[1] * (known.dim() - 1)).expand(known.shape).clone()


def _weights_inside(frame: pd.DataFrame, task: Task) -> pd.Series:
    series = frame[str(task.sample_weight)]
    return series if task.where is None else series[space(frame, task.where)]
