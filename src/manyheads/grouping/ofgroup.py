"""The run of some of the tasks: its settings, and the rows that it learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..compare import labelled_part
from ..data import Taskset
from ..spec import Part, RunSpec


def of_group(spec: RunSpec, group: Iterable[str], names: Iterable[str], batch_size: int) -> RunSpec:
    """The run of some of the tasks: all settings as they are, less what speaks of other tasks.

    Args:
        spec: the run of all.
        group: the tasks that stay.
        names: all tasks.
        batch_size: the joint model's.
    """
    gone = set(names) - set(group)

    def part(one: Part) -> Part:
        return Part.of({"name": one.name} | _without(one.settings, gone))

    sampling = {"weights": _without(spec.sampling.weights, gone), "batch_size": batch_size}
    optim = {"balance": part(spec.optim.balance), "penalties": tuple(map(part, spec.optim.penalties))}
    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"sharing": part(spec.model.sharing)}),
            "sampling": spec.sampling.model_copy(update=sampling),
            "optim": spec.optim.model_copy(update=optim),
        }
    )


def _without(value: Any, gone: set[str]) -> Any:
    """A setting without some tasks: as keys, and as members of lists; lists that are left empty go as well."""
    if isinstance(value, Mapping):
        return {k: _without(v, gone) for k, v in value.items() if k not in gone}
    if isinstance(value, list | tuple):
        kept = [(_without(v, gone), v) for v in value if not (isinstance(v, str) and v in gone)]
        return type(value)(v for v, before in kept if not (isinstance(v, list | tuple) and before and not v))
    return value


def labelled_rows(tasksets: Mapping[str, Taskset], names: Sequence[str]) -> dict[str, Taskset]:
    """The rows of each table that label one of these tasks at least; all of them where that is half."""
    if len(names) == 1:
        return {t: part for t, rows in tasksets.items() if (part := labelled_part(rows, names[0])) is not None}
    found = {}
    for table, rows in tasksets.items():
        part = rows.only(names)
        known = [part.known_rows(t) for t in part.tasks]
        some = torch.cat(known).unique() if known else torch.empty(0, dtype=torch.long)
        if len(some):
            found[table] = part if 2 * len(some) >= len(rows) else part.take(some)
    return found
