"""What comes next. The contract of data: rows, the tasks they label, and batches of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ragged import Ragged

Inputs = Mapping[str, Any]
"""What an encoder reads, by kind (``numeric``, ``categorical``, ``text:review``): tensors, or anything else that is
indexed by a tensor of rows and has a length."""


def pick(values: Any, rows: Tensor) -> Any:
    """These rows of a tensor (`index_select` is the fastest way), or of anything indexed by a tensor of rows."""
    return values.index_select(0, rows.to(values.device)) if isinstance(values, Tensor) else values[rows]


@dataclass(frozen=True)
class Block:
    """Labels of one task, or of several tasks of one family side by side.

    Shape:
        one task (`stacked` false): target, known, weight (rows, ...);
        a family: (rows, tasks, ...).
    """

    tasks: tuple[str, ...]
    target: Any
    """A tensor, or `manyheads.ragged.Ragged` where a row's label is of any length."""
    known: Any
    """True where the label is known; of the shape of the task's errors."""
    weight: Any = None
    """Weight per label (sample weight x class weight), of the target's shape; None for all ones."""
    stacked: bool = False

    def take(self, rows: Tensor) -> Block:
        """These rows."""
        weight = None if self.weight is None else pick(self.weight, rows)
        return Block(self.tasks, pick(self.target, rows), pick(self.known, rows), weight, self.stacked)

    def only(self, tasks: Sequence[str]) -> Block | None:
        """These tasks, None when there is none of them."""
        wanted = set(tasks)
        kept = [i for i, t in enumerate(self.tasks) if t in wanted]
        if len(kept) == len(self.tasks):
            return self
        if not kept:
            return None
        index = torch.tensor(kept, device=self.known.device)
        weight = None if self.weight is None else self.weight.index_select(1, index)
        target, known = self.target.index_select(1, index), self.known.index_select(1, index)
        return Block(tuple(self.tasks[i] for i in kept), target, known, weight, True)


@dataclass(frozen=True)
class Taskset:
    """Rows and the tasks they label.

    Rows may come from several of the user's tables where those have the same feature columns (`domain` tells which);
    a label that a row does not have is not `known`.
    """

    inputs: Inputs
    blocks: tuple[Block, ...]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns kept by name beside the features: ids, groups, the raw columns of `gauc:<column>`."""
    domain: Tensor | None = None
    """Index of the user's table that each row comes from (rows,)."""
    domains: tuple[str, ...] = ()
    support: Tensor | None = None
    """True where a row is one to adapt to, among the rows of an episode (`domain` is then the number of the episode);
    None where rows are no episodes."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that these rows may label."""
        return tuple(t for b in self.blocks for t in b.tasks)

    def take(self, rows: Tensor) -> Taskset:
        """These rows, by indexing whole tensors."""
        return replace(
            self,
            inputs={k: pick(v, rows) for k, v in self.inputs.items()},
            blocks=tuple(b.take(rows) for b in self.blocks),
            extra={k: v[rows.numpy()] for k, v in self.extra.items()},
            domain=None if self.domain is None else self.domain[rows],
            support=None if self.support is None else self.support[rows],
        )

    def batch(self, rows: Tensor) -> Taskset:
        """These rows without what training does not read (`extra`, `domain`)."""
        inputs = {k: pick(v, rows) for k, v in self.inputs.items()}
        return Taskset(inputs, tuple(b.take(rows) for b in self.blocks))

    def only(self, tasks: Sequence[str]) -> Taskset:
        """The same rows with the labels of these tasks alone."""
        return replace(self, blocks=tuple(kept for b in self.blocks if (kept := b.only(tasks)) is not None))

    def labels(self, task: str) -> tuple[Any, Any, Any]:
        """(target, known, weight or None) of one task, each (rows, ...)."""
        for block in self.blocks:
            if task in block.tasks:
                if not block.stacked:
                    return block.target, block.known, block.weight
                i = block.tasks.index(task)
                return block.target[:, i], block.known[:, i], None if block.weight is None else block.weight[:, i]
        raise KeyError(task)

    def known_rows(self, task: str) -> Tensor:
        """Indices of the rows with a label (at least one, for a task with several per row)."""
        known = self.labels(task)[1]
        return (known.flatten(1).any(1) if known.dim() > 1 else known).nonzero().flatten()

    def counts(self) -> dict[str, int]:
        """Known labels per task."""
        return {t: int(self.labels(t)[1].sum()) for t in self.tasks}

    def to(self, where: torch.dtype | torch.device) -> Taskset:
        """Floating tensors in this type, or all tensors on this device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Ragged):
                return value.to(where)
            if not isinstance(value, Tensor) or (isinstance(where, torch.dtype) and not value.is_floating_point()):
                return value
            return value.to(where)

        blocks = tuple(
            replace(b, target=moved(b.target), known=moved(b.known), weight=moved(b.weight)) for b in self.blocks
        )
        inputs = {k: moved(v) for k, v in self.inputs.items()}
        return replace(self, inputs=inputs, blocks=blocks, domain=moved(self.domain), support=moved(self.support))


@dataclass(frozen=True)
class Batch(Mapping[str, Taskset]):
    """What one step sees: per table, some rows and the tasks they label."""

    parts: Mapping[str, Taskset]

    def __getitem__(self, table: str) -> Taskset:
        return self.parts[table]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)
