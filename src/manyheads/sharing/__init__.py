"""What is shared. The contract of a sharing scheme: from the rows of one table to the features that each task reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..data import Inputs
from ..encoders import Encoder
from ..tasks import Task

Features = Any
"""What a head reads: a tensor, a sequence with its mask, or a list of those where it is attached to several stages."""


class Trace:
    """What a forward pass can tell beside its result.

    Attributes:
        cut: task -> pairs (shared activation, the task's own view of it). A loss reaches the shared part of the net
            only through its own views, so one backward pass through the heads yields every task's gradient there.
        aux: auxiliary losses that a scheme wants to be minimised (the entropy of gates, ...).
        use: what a scheme would like to be seen in the report: gate values, mixing coefficients.
        apart: heads are computed one by one and no loss reaches another's, so that the graph tells whose is whose.
    """

    def __init__(self, cut: bool = False) -> None:
        self.cut: dict[str, list[tuple[Tensor, Tensor]]] | None = {} if cut else None
        self.apart = cut
        self.aux: dict[str, Tensor] = {}
        self.use: dict[str, Tensor] = {}

    def hand(self, task: str, shared: Features) -> Features:
        """The task's own view of a shared activation, remembered in `cut`."""
        if self.cut is None:
            return shared
        if isinstance(shared, tuple):
            return (self.hand(task, shared[0]), *shared[1:])
        view = shared.view_as(shared)
        self.cut.setdefault(task, []).append((shared, view))
        return view


class Sharing(nn.Module, ABC):
    """Which parameters tasks have in common.

    It does not declare what is shared: autograd's graph tells (`manyheads.graph`). What belongs to one task sits in
    parameters of its own (under `blocks.Named`), never in a slice of a common one.

    Args:
        encoder: makes a fresh encoder at each call.
        tasks: the tasks that will ask for features.
    """

    def __init__(self, encoder: Callable[[], Encoder], tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = tuple(t.name for t in tasks)

    @abstractmethod
    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        """Features of these tasks for rows of one table; only what these tasks need is computed.

        Wherever a shared activation is handed over to one task alone, `hand(trace, task, activation)` marks the cut.
        """

    @abstractmethod
    def widths(self, task: str) -> list[int]:
        """The widths of the features that this task's head reads."""


def hand(trace: Trace | None, task: str, shared: Features) -> Features:
    """The task's view of a shared activation; itself where nobody traces."""
    return shared if trace is None else trace.hand(task, shared)


def depth_of(attach: int | str | None, n_stages: int, task: str) -> int:
    """The index of the stage that a head reads; the last by default, negative counts from the end.

    Raises:
        ValueError: there is no such stage.
    """
    if attach is None:
        return n_stages - 1
    try:
        depth = int(attach)
    except ValueError:
        raise ValueError(f"Task `{task}`: `attach` should be the number of a stage. Found `{attach}`.") from None
    if not -n_stages <= depth < n_stages:
        raise ValueError(f"Task `{task}`: `attach` should be between {-n_stages} and {n_stages - 1}. Found {attach}.")
    return depth % n_stages
