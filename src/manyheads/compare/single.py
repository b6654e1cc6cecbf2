"""The run of one task alone: what it has in common with the joint model's, and the rows that it learns from."""

from __future__ import annotations

from collections.abc import Mapping

from ..catalog import make
from ..data import Taskset
from ..penalties import Penalty
from ..spec import Part, RunSpec


def alone(spec: RunSpec, batch_size: int) -> RunSpec:
    """The run of a single task: the joint model's batch size, nothing that speaks of other tasks."""
    made = [make(Penalty, p.name, p.settings) for p in spec.optim.penalties]  # type: ignore[type-abstract]
    own = tuple(p for p, one in zip(spec.optim.penalties, made, strict=True) if one.on in ("shared", "heads", "all"))
    plain = {"weights": {}, "mode": "proportional", "schedule": "joint", "batch_size": batch_size}
    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"sharing": Part(name="hard")}),
            "sampling": spec.sampling.model_copy(update=plain),
            "optim": spec.optim.model_copy(update={"balance": Part(name="equal"), "penalties": own}),
        }
    )


def labelled_part(rows: Taskset, task: str) -> Taskset | None:
    """The rows that a single-task model of this task learns from: all of them where at least half have a label.

    With half the labels or more, batches stay those of the joint model (the same updates, unknown labels left out);
    with fewer, as in disjoint tables, rows without a label would only make epochs longer.
    """
    if task not in rows.tasks:
        return None
    known = rows.known_rows(task)
    if not len(known):
        return None
    return rows.only([task]) if 2 * len(known) >= len(rows) else rows.only([task]).take(known)


def only(tasksets: Mapping[str, Taskset], task: str) -> dict[str, Taskset]:
    """The same of several tables."""
    return {t: part for t, rows in tasksets.items() if (part := labelled_part(rows, task)) is not None}
