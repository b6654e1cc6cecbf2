"""What is minimised. The contract of an objective: from a model and a batch to one loss per task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .balance import Losses
from .data import Batch, Block, Taskset
from .gramian import Cut
from .model import Outputs
from .ranges import Range
from .sharing import Trace
from .tasks import Task


class Objective(ABC):
    """From a batch to one loss for each task that it labels."""

    stackable: bool = False
    """Whether it is the plain mean error, so that many models can be trained as one (`manyheads.stacked`)."""
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


class Supervised(Objective):
    """The mean error over each task's known labels: L_k = sum(m w e) / sum(m w), with m 1 where the label is known.

    The mean is taken within the task, so that a task with few labels keeps its full weight.

    Args:
        tasks: what the outputs mean; default: the model's own `tasks`.
        pooled: divide by all labels of all tasks instead: a task with 10 % of the labels gets 10 % of the weight.
    """

    def __init__(self, tasks: Sequence[Task] | None = None, pooled: bool = False) -> None:
        self.tasks = None if tasks is None else {t.name: t for t in tasks}
        self.pooled = pooled
        self.stackable = not pooled

    def __call__(
        self, model: nn.Module, batch: Batch, trace: Trace | None = None, totals: Mapping[str, float] | None = None
    ) -> Losses:
        tasks: Mapping[str, Task] = self.tasks if self.tasks is not None else model.tasks  # type: ignore[assignment]
        summed: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
        blocks_of = {table: present(part) for table, part in batch.items()}
        if trace is not None and trace.apart:
            each = Counter(t for blocks in blocks_of.values() for b in blocks for t in b.tasks)
            trace.beside = frozenset(t for t, tables in each.items() if tables == 1)
        for table, part in batch.items():
            blocks = blocks_of[table]
            wanted = [t for b in blocks for t in b.tasks]
            if not wanted:
                continue
            outputs = self.outputs(model, part.inputs, wanted, table, trace)
            for names, output, stacked in outputs.groups:
                block = matching(blocks, names, stacked)
                keep = (1,) if stacked else ()
                task = tasks[names[0]]
                output, target = at_full_width(output, block.target)
                total, weight = task.summed(output, target, block.known, block.weight, keep)
                summed.append((names, total.reshape(-1), weight.reshape(-1)))
        if not summed:
            return Losses((), torch.empty(0))
        names, vector, counts = _merged(summed)
        if totals is not None:
            every = sum(totals.values())
            divisor = vector.new_tensor([every if self.pooled else totals[t] for t in names])
        else:
            divisor = counts.sum().expand_as(counts) if self.pooled else counts
        vector, apart = vector / divisor, None
        cut: Cut | None = None
        if trace is not None and trace.apart:
            place = {t: i for i, t in enumerate(names)}
            parts: dict[str, list[Tensor]] = {}
            for group, sums, _ in summed:  # a product's losses have one graph, all others one each
                for t, value in zip(group, (sums / divisor[[place[t] for t in group]]).unbind(), strict=True):
                    parts.setdefault(t, []).append(value)
            apart = {t: parts[t][0] if len(parts[t]) == 1 else torch.stack(parts[t]).sum() for t in names}
            cut = trace.cut if not trace.products else {**(trace.cut or {}), **trace.products}
        return Losses(
            names,
            vector,
            weight={t: tasks[t].weight for t in names},
            counts=dict(zip(names, counts.tolist(), strict=True)),
            aux=None if trace is None else trace.aux,
            cut=cut,
            apart=apart,
        )

    def outputs(self, model: nn.Module, x: Any, tasks: Sequence[str], table: str, trace: Trace | None) -> Outputs:
        """The outputs of a manyheads model as they are, those of any other module one by one."""
        if not hasattr(model, "tasks"):
            result = model(x)
        else:
            result = model(x, tasks, table, trace)
        if isinstance(result, Outputs):
            return result
        return Outputs([((t,), result[t], False) for t in tasks])


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


def _merged(summed: Sequence[tuple[tuple[str, ...], Tensor, Tensor]]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Sums and counts with each task once, added up over tables."""
    names = tuple(t for part, _, _ in summed for t in part)
    totals, counts = torch.cat([s for _, s, _ in summed]), torch.cat([c for _, _, c in summed])
    unique = tuple(dict.fromkeys(names))
    if len(unique) == len(names):
        return names, totals, counts
    position = torch.tensor([unique.index(t) for t in names], device=totals.device)
    zeros = torch.zeros(len(unique), dtype=totals.dtype, device=totals.device)
    return unique, zeros.index_add(0, position, totals), zeros.index_add(0, position, counts.to(zeros.dtype))
