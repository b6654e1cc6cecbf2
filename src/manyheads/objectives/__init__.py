"""What is minimised. The contract of an objective: from a model and a batch to one loss per task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..balance import Losses
from ..data import Batch, Block, Taskset
from ..evaluate import Result, Seen, results
from ..ranges import Range
from ..sharing import Trace
from ..tasks import Task

if TYPE_CHECKING:
    from ..data.episodes import Shape
    from .supervised import Supervised as Supervised


class Objective(ABC):
    """From a batch to one loss for each task that it labels."""

    stackable: bool = False
    """Whether it is the plain mean error, so that many models can be trained as one (`manyheads.stacking.stacked`)."""
    alone: ClassVar[str] = ""
    """Why a model of several members cannot be trained with it; empty where one can."""
    shape: Shape | None = None
    """What the episodes of a step look like, for an objective that learns from episodes; None where a step is rows."""
    redraw: str | None = None
    """The column whose groups an interval draws whole, where `held_out` gives its rows one."""
    search: ClassVar[Mapping[str, Range]] = {}
    """What is tuned unless a config says otherwise: setting -> where it is looked for; the default lies within."""

    @abstractmethod
    def __call__(
        self, model: nn.Module, batch: Batch, trace: Trace | None = None, totals: Mapping[str, float] | None = None
    ) -> Losses:
        """The losses of one (part of a) step.

        Args:
            model: a manyheads model, or any module that maps inputs to {task: output}.
            batch: rows and labels.
            trace: what the forward pass is asked to tell.
            totals: per task the label weight of the whole step, where this batch is only a part of it.
        """

    def attach(self, model: nn.Module) -> None:
        """Give the model what else is to be learned, before its optimiser is made: learning rates of its own, say."""
        return

    def held_out(self, model: nn.Module, valid: Mapping[str, Taskset], seen: Seen | None = None) -> dict[str, Result]:
        """Outputs and labels of validation rows, as this objective wants the model to be judged.

        Args:
            valid: table -> rows.
            seen: takes in what the sharing scheme wants to be seen.
        """
        return results(model, valid, seen=seen)

    def following(self, model: nn.Module, rows: Mapping[str, Taskset]) -> Iterator[tuple[str, Tensor, nn.Module]]:
        """Which model says what of labelled rows: (table, positions, the model), one after the other.

        Args:
            model: trained; it stays as it is.
            rows: table -> rows.
        """
        for table, part in rows.items():
            yield table, torch.arange(len(part)), model

    def conclude(self, model: nn.Module, train: Mapping[str, Taskset]) -> None:
        """Leave in a trained model what follows from its training rows at once; nothing, mostly.

        Args:
            model: trained.
            train: table -> rows.
        """
        return


def at_full_width(output: Any, target: Any) -> tuple[Any, Any]:
    """(output, target) where errors are computed: never in halves, and numbers of one type.

    Outputs and targets that are no tensors but made of such go as they are, halves aside.
    """
    if isinstance(output, tuple):
        return tuple(at_full_width(part, None)[0] for part in output), target
    if not isinstance(output, Tensor):
        return output, target
    output = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
    if isinstance(target, Tensor) and target.is_floating_point():
        target = target.to(output.dtype)
    return output, target


def label_totals(batches: Sequence[Batch], tasks: Mapping[str, Task] | None = None) -> dict[str, float]:
    """Per task the summed label weight of several batches: the divisor of a step that is done in parts.

    Args:
        tasks: by name; they know how many labels a row has.
    """
    totals: dict[str, float] = {}
    for batch in batches:
        for part in batch.values():
            for task in part.tasks:
                target, known, weight = part.labels(task)
                each = known if weight is None else known * weight
                sizes = None if tasks is None else tasks[task].sizes(target)
                count = float((each if sizes is None else each * sizes).sum())
                if count > 0:
                    totals[task] = totals.get(task, 0.0) + count
    return totals


def present(part: Taskset) -> list[Block]:
    """The labels of the tasks that have any among these rows."""
    kept = []
    for block in part.blocks:
        known = block.known if block.weight is None else block.known & (block.weight > 0)
        if not block.stacked:
            if bool(known.any()):
                kept.append(block)
            continue
        any_known = known.flatten(2).any(2).any(0) if known.dim() > 2 else known.any(0)
        if bool(any_known.all()):
            kept.append(block)
        elif (few := block.only([t for t, k in zip(block.tasks, any_known.tolist(), strict=True) if k])) is not None:
            kept.append(few)
    return kept


def matching(blocks: Sequence[Block], tasks: tuple[str, ...], stacked: bool) -> Block:
    """The labels of these tasks in this order, side by side or alone as the output is."""
    for block in blocks:
        if block.tasks == tasks and block.stacked == stacked:
            return block
    part = Taskset({}, tuple(blocks))
    found = [part.labels(t) for t in tasks]
    if not stacked:
        return Block(tasks, *found[0])
    weights = None
    if any(w is not None for _, _, w in found):
        weights = torch.stack([torch.ones_like(y, dtype=torch.float32) if w is None else w for y, _, w in found], 1)
    target, known = torch.stack([y for y, _, _ in found], 1), torch.stack([k for _, k, _ in found], 1)
    return Block(tasks, target, known, weights, True)


def __getattr__(name: str) -> Any:
    """The answers of this folder by their class name: ``objectives.Supervised``."""
    from ..catalog import find, index

    if name.lower() in index(Objective):
        cls = find(Objective, name)  # type: ignore[type-abstract]
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
