"""Single-task models of one seed, and what they make of the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import pool, seed_of
from ..data import Taskset
from ..evaluate import at_a_time
from ..sharing.hard import Hard
from ..tasks import Task

MOST_ROWS = 1000
"""Rows on which representations are compared at most: their distances are as many as the square of it."""


class Singles:
    """The single-task models of one seed, with the rows that they learned from, and rows that none of them did.

    Two models can be compared on rows that both can read: those of the tables that both learned from, whichever of the
    tasks labels them. Tables of the same feature columns are one table here.

    Args:
        models: task -> its model.
        tasks: fitted tasks by name.
        train, held: table -> rows, with the labels of all tasks.
        tables: task -> the tables that its model reads.
        seed: of which rows are taken where there are too many.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        tasks: Mapping[str, Task],
        train: Mapping[str, Taskset],
        held: Mapping[str, Taskset],
        tables: Mapping[str, Sequence[str]],
        seed: int = 0,
    ) -> None:
        self.models, self.tasks = dict(models), dict(tasks)
        self.train, self.held, self.seed = dict(train), dict(held), seed
        self.tables = {task: tuple(t for t in own if t in held) for task, own in tables.items()}
        self._stages: dict[tuple[str, str], list[Tensor]] = {}
        self._features: dict[tuple[str, str, str], Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that there is a model of."""
        return tuple(self.models)

    def common(self, *tasks: str) -> tuple[str, ...]:
        """The tables that the models of all these tasks read."""
        return tuple(t for t in self.held if all(t in self.tables[task] for task in tasks))

    def stages(self, task: str, table: str) -> list[Tensor]:
        """What a task's model makes of held-out rows (`MOST_ROWS` at most, the same for all tasks), stage by stage.

        One matrix (rows, d) each; what its head reads comes last.
        """
        if (task, table) not in self._stages:
            rows = self.held[table]
            if len(rows) > MOST_ROWS:
                generator = torch.Generator().manual_seed(seed_of(self.seed, "rows", table))
                rows = rows.take(torch.randperm(len(rows), generator=generator)[:MOST_ROWS].sort().values)
            self._stages[task, table] = stages_of(self.models[task], rows, table)
        return self._stages[task, table]

    def features(self, task: str, table: str, part: str) -> Tensor:
        """What the head of a task's model reads for all rows of a table (rows, d), in units of their own spread.

        Args:
            part: ``train`` or ``held``; mean and sd are those of the training rows.
        """
        for name in ("train", "held"):
            if (task, table, name) not in self._features:
                rows: Taskset = getattr(self, name)[table]
                self._features[task, table, name] = stages_of(self.models[task], rows, table)[-1]
        learnt = self._features[task, table, "train"]
        sd = learnt.std(0, unbiased=False)
        return (self._features[task, table, part] - learnt.mean(0)) / torch.where(sd > 1e-8 * sd.max(), sd, 1.0)


@torch.no_grad()
def stages_of(model: Any, rows: Taskset, table: str) -> list[Tensor]:
    """What a model of one task makes of rows, stage by stage: matrices (rows, d), sequences and maps pooled.

    Where its sharing is not `hard` there is one matrix alone, what its head reads.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found: list[list[Tensor]] = []
    try:
        with torch.random.fork_rng(devices=[]):
            for index in torch.arange(len(rows)).split(at_a_time(rows)):
                part = rows.batch(index).to(device)
                found.append([z.cpu() for z in _stages(model, part.inputs, table)])
    finally:
        for module, mode in modes:
            module.training = mode
    return [torch.cat(parts).double() for parts in zip(*found, strict=True)]


def _stages(model: Any, x: Any, table: str) -> list[Tensor]:
    read = model.transform(x, table)
    if not isinstance(getattr(model, "sharing", None), Hard):
        return [_vector(read)]
    (depths,) = model.sharing.depths.values()
    found, z = [], x
    for stage in model.sharing.encoder.path(table)[: max(depths)]:
        z = stage(z)
        found.append(_vector(z))
    return [*found, _vector(read)]


def _vector(z: Any) -> Tensor:
    parts = z if isinstance(z, list) else [z]
    vectors: list[Any] = [pool(part, "vector") for part in parts]
    return torch.cat(vectors, -1) if len(vectors) > 1 else vectors[0]
