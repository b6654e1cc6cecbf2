"""The plain mean error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..balance import Losses
from ..data import Batch
from ..gradients.gramian import Cut
from ..model import Outputs
from ..sharing import Trace
from ..tasks import Task
from . import Objective, at_full_width, matching, present


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
