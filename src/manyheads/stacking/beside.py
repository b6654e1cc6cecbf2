"""What several runs have side by side, as `stacked` needs it: rows, labels, the weights of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import Block, Taskset
from ..gradients.graph import reached
from ..model import Model
from ..objectives import matching
from ..optim import parameter_groups
from ..sharing import Trace
from ..tasks import Task
from ..train import Training


def rows_of(training: Training) -> Taskset:
    """The table that a run of one table draws from."""
    return next(iter(training.sampler.tasksets.values()))


def blocks_of(training: Training) -> list[Block]:
    """Its labels, by the families whose outputs are computed together."""
    model, blocks = training.model, rows_of(training).blocks
    assert isinstance(model, Model)
    groups = model.groups(tuple(model.tasks))
    same = {b.tasks: b for b in blocks if not b.stacked or not model.linked & set(b.tasks)}
    return [same[g] if g in same else matching(blocks, g, len(g) > 1) for g in groups]


def reached_by(model: Model, columns: Mapping[str, int], rows: Taskset, table: str) -> dict[str, list[int]]:
    """Per weight, the columns of the tasks whose losses reach it, by themselves or through an auxiliary one."""
    trace, was = Trace(), model.training
    trace.apart = True
    outputs = model.eval()({k: v[:2] for k, v in rows.inputs.items()}, None, table, trace)
    model.train(was)
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    found: dict[str, list[int]] = {n: [] for n in names.values()}
    for task, column in columns.items():
        extra = [trace.aux[key] for key in (task, "") if key in trace.aux]
        for leaf in set().union(*(reached(value.sum()) for value in (outputs[task], *extra))):
            found[names[leaf]].append(column)
    return found


class Taken(NamedTuple):
    """Labels of one step: (runs, batch, ...) each, and which runs have which error function."""

    target: Tensor
    known: Tensor
    weight: Tensor | None
    families: list[tuple[Kind, Tensor]]

    def beside(self) -> Taken:
        """One task's labels as those of a family of one."""
        weight = None if self.weight is None else self.weight.unsqueeze(2)
        return self._replace(target=self.target.unsqueeze(2), known=self.known.unsqueeze(2), weight=weight)


class Kind:
    """A task that stands for all of its family, and whether its targets are numbers."""

    def __init__(self, task: Task, is_floating: bool) -> None:
        self.task, self.is_floating = task, is_floating


def families(runs: Sequence[Training], block: int) -> list[tuple[Kind, Tensor]]:
    """(a task, the runs whose block has its error function) for one block of every run."""
    groups: dict[Any, tuple[Kind, list[int]]] = {}
    for i, run in enumerate(runs):
        own = blocks_of(run)[block]
        task = run.tasks[own.tasks[0]]
        key = task.family() if task.family() is not None else (type(task), task.loss)
        groups.setdefault(key, (Kind(task, own.target.is_floating_point()), []))[1].append(i)
    return [(kind, torch.tensor(where)) for kind, where in groups.values()]


def losses_of(output: Tensor, stacked: bool, labels: Taken) -> tuple[Tensor, Tensor]:
    """(losses, which of them there are) of one family in every run, each (runs, tasks)."""
    target, known, weight, kinds = labels
    n = len(output)
    shape = (n, target.shape[2] if stacked else 1)
    losses, present = output.new_zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for kind, where in kinds:
        whole = len(where) == n
        y, m = (target, known) if whole else (target[where], known[where])
        w = weight if weight is None or whole else weight[where]
        o = output if whole else output[where]
        y = y.to(o.dtype) if kind.is_floating else y.long()
        summed, count = kind.task.summed(o, y, m, w, (0, 2) if stacked else (0,))
        loss, there = (summed / count.clamp(min=1e-30)).reshape(len(where), -1), (count > 0).reshape(len(where), -1)
        losses = loss if whole else losses.index_put((where,), loss)
        present = there if whole else present.index_put((where,), there)
    return losses, present


class Labels:
    """One block of every run: targets (tables, rows, ...), padded with unknown rows; shared blocks are kept once."""

    def __init__(self, runs: Sequence[Training], block: int) -> None:
        self.block = block
        self.families = families(runs, block)
        own = [blocks_of(r)[block] for r in runs]
        self.stacked: bool = own[0].stacked
        unique = {id(b.target): b for b in own}
        order = {key: i for i, key in enumerate(unique)}
        self.which = torch.tensor([order[id(b.target)] for b in own])
        blocks = list(unique.values())
        n = max(len(b.target) for b in blocks)
        dtype = torch.float64 if any(b.target.dtype == torch.float64 for b in blocks) else torch.float32
        self.target = torch.stack([padded(b.target.to(dtype), n) for b in blocks])
        self.known = torch.stack([padded(b.known, n) for b in blocks])
        self.weight: Tensor | None = None
        if any(b.weight is not None for b in blocks):
            ones = [torch.ones_like(b.target, dtype=dtype) if b.weight is None else b.weight.to(dtype) for b in blocks]
            self.weight = torch.stack([padded(w, n) for w in ones])

    def take(self, index: Tensor, rows: Tensor, there: Tensor, stacked: bool) -> Taken:
        """The labels of these rows of each run (runs, batch, ...), tasks side by side where the outputs are `stacked`.

        Rows that are not there have none.
        """
        table = self.which[index]
        known = self.known[table, rows]
        known = known & there.view(*there.shape, *[1] * (known.dim() - 2))
        weight = None if self.weight is None else self.weight[table, rows]
        taken = Taken(self.target[table, rows], known, weight, self.families)
        return taken.beside() if stacked and not self.stacked else taken

    def keep(self, index: Tensor, runs: Sequence[Training]) -> None:
        """Go on with these runs alone."""
        self.which = self.which[index]
        self.families = families(runs, self.block)


def stacked_inputs(rows: Sequence[Taskset]) -> tuple[dict[str, Tensor], Tensor]:
    """({kind: (tables, rows, ...)}, which table each run reads): tables that several runs share are kept once."""
    unique: dict[tuple[int, ...], int] = {}
    which: list[int] = []
    kept: list[Taskset] = []
    for taskset in rows:
        key = tuple(id(v) for v in taskset.inputs.values())
        if key not in unique:
            unique[key] = len(kept)
            kept.append(taskset)
        which.append(unique[key])
    n = max(map(len, kept))
    inputs = {k: torch.stack([padded(t.inputs[k], n) for t in kept]) for k in kept[0].inputs}
    return inputs, torch.tensor(which)


def padded(values: Tensor, n: int) -> Tensor:
    """n rows, those after the last of zeros."""
    if len(values) == n:
        return values
    return torch.cat([values, values.new_zeros(n - len(values), *values.shape[1:])])


class Group(NamedTuple):
    """The parameters of one family's heads that are of one kind (weights, biases)."""

    lead: str
    """The family's first task."""
    names: list[str]
    columns: list[int]
    """Which columns of the losses their tasks are."""


def leaf_name(group: Sequence[str], parameter: str) -> str:
    """The name under which the heads of a family keep one kind of parameter."""
    return f"heads of {group[0]}: {parameter}"


def heads_of(model: Model) -> dict[str, Group]:
    """Heads of one family by kind of parameter: they are kept as one tensor."""
    found, column = {}, 0
    for tasks in model.groups(tuple(model.tasks)):
        columns = list(range(column, column + len(tasks)))
        column += len(tasks)
        for suffix in dict(model.heads[tasks[0]].named_parameters()):
            names = [f"heads.{model.heads.keys_of[t]}.{suffix}" for t in tasks]
            found[leaf_name(tasks, suffix)] = Group(tasks[0], names, columns)
    return found


def grouped(weights: Mapping[str, Tensor], heads: Mapping[str, Group]) -> dict[str, Tensor]:
    """Leaves of the optimiser: stacked weights (runs, ...), heads (runs, tasks, ...)."""
    inside = {n for group in heads.values() for n in group.names}
    leaves = {n: w.clone() for n, w in weights.items() if n not in inside}
    leaves |= {name: torch.stack([weights[n] for n in group.names], 1) for name, group in heads.items()}
    return {n: w.requires_grad_() for n, w in leaves.items()}


def in_groups(model: nn.Module, heads: Mapping[str, Group], lead: Training, leaves: Mapping[str, Tensor]) -> list[Any]:
    """The leaves in the groups that the single run's parameters have."""
    like: dict[str, Tensor] = dict(leaves)
    for name, group in heads.items():
        like |= dict.fromkeys(group.names, leaves[name])
    groups = parameter_groups(model, lead.optim, like)
    for g in groups:
        g["params"] = list({id(p): p for p in g["params"]}.values())
    return groups


def follow(optimizer: torch.optim.Optimizer, lead: torch.optim.Optimizer) -> None:
    """Take over what a scheduler has done to a single run's optimiser: rates, momenta."""
    for group, own in zip(optimizer.param_groups, lead.param_groups, strict=True):
        group.update({k: v for k, v in own.items() if k != "params"})


def clipped(gradients: Sequence[Tensor], most: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, run by run, in place; gradients (runs, ...)."""
    norms = torch.stack([g.flatten(1).norm(dim=1) if g.dim() > 1 else g.abs() for g in gradients]).norm(dim=0)
    factor = (most / (norms + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))
