"""Own input stages under a shared top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Inputs
from ..encoders import Encoder
from ..tasks import Task
from . import Features, Sharing, Trace, climb, parted, run


class Hierarchical(Sharing):
    """Each task has input stages of its own, and all go through one shared top: the reverse of a branching trunk.

    With W_k the own stages of task k and V the shared ones, task k reads z_k = g(f(x; W_k); V). So tasks look at the
    inputs in ways of their own and agree on what is made of them. Own stages start alike and run as one batched
    computation; what they give goes through the top as one large batch.

    With several tables stage 0 belongs to the tables, and own stages begin at stage 1. No activation separates tasks in
    the shared top: balances that look at gradients of activations take those of weights instead.

    Cost:
        K times the own stages and K passes through the shared ones, all batched: about K trunks.

    Args:
        shared_from: the first stage that all tasks share; negative counts from the end.

    Raises:
        ValueError: no stage would be a task's own, or none shared.

    Reference:
        Kaiser, Gomez, Shazeer, Vaswani, Parmar, Jones, Uszkoreit: One model to learn them all, 2017.

    Differs from the paper:
        There, own input nets belong to kinds of input (text, images, sound); here to tasks, which may read the same
        rows.
    """

    min_stages = 2

    def __init__(self, encoder: Callable[[], Encoder], tasks: Sequence[Task], *, shared_from: int = -1) -> None:
        super().__init__(encoder, tasks)
        self.lower, copies = parted(encoder, self.tasks, 0)
        n = len(self.lower.stages) + len(copies)
        first = shared_from + n if shared_from < 0 else shared_from
        if not 0 < first < n:
            raise ValueError(
                f"`shared_from` should be one of the encoder's {n} stages, with one below it for each task to own. "
                f"Found {shared_from}; give the encoder more stages (`n_layers`), or use `hard` to share all."
            )
        n_own = first - len(self.lower.stages)
        self.own = nn.ModuleList(copies[:n_own])
        self.top = nn.ModuleList(next(iter(stage.values())) for stage in copies[n_own:])

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        if trace is not None:
            trace.uncut()
        own = climb(self.own, run(self.lower, x, table), tasks, trace)
        if not self.training or (trace is not None and trace.apart):  # a batch of all tasks is rounded by their number
            return {task: self._shared(z) for task, z in own.items()}
        return dict(zip(tasks, _split(self._shared(_joined(list(own.values()))), len(tasks)), strict=True))

    def _shared(self, z: Features) -> Features:
        for stage in self.top:
            z = stage(z)
        return z

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        first = len(self.lower.stages)
        shared = first + len(self.own)
        lines = [(0, f"{_stages(first, shared)}: {task}") for task in self.tasks]
        return [*lines, (1, f"{_stages(shared, shared + len(self.top))}: {', '.join(self.tasks)}")]


def _stages(first: int, end: int) -> str:
    return f"stage {first}" if end - first == 1 else f"stages {first} to {end - 1}"


def _joined(features: Sequence[Any]) -> Any:
    """Batches of several tasks as one; sequences with their masks."""
    if isinstance(features[0], Tensor):
        return torch.cat(list(features))
    return tuple(map(_joined, zip(*features, strict=True)))


def _split(features: Any, n: int) -> list[Any]:
    """One batch as n of a size."""
    if isinstance(features, Tensor):
        return list(features.tensor_split(n))
    return list(zip(*(_split(part, n) for part in features), strict=True))
