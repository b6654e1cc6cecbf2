"""What objectives that learn from episodes have in common: rows by episode, all episodes of one shape at once."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count, islice
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..adaptation import adapt, running, settled
from ..balance import Losses
from ..data import Batch, Taskset, pick
from ..data.episodes import EpisodeSampler, Shape, by_domain
from ..evaluate import Result, Seen, results
from ..faults import ConfigError
from ..ranges import Range, log
from ..sharing import Trace
from ..tasks import Task
from . import Objective, at_full_width

Rows = tuple[dict[str, Any], dict[str, tuple[Any, ...]]]
"""(inputs by kind, {task: (target,) where every label is known, (target, known) or (target, known, weight)})."""


@dataclass(frozen=True)
class Group:
    """Episodes of one table that label the same tasks and have as many rows.

    Attributes:
        part: the rows of the step.
        support, query: positions in `part` (episodes, rows).
    """

    table: str
    tasks: tuple[str, ...]
    part: Taskset
    support: Tensor
    query: Tensor

    @property
    def even(self) -> bool:
        """Whether all there is are tensors, so that the episodes can lie side by side."""
        parts = [*self.part.inputs.values(), *(v for b in self.part.blocks for v in (b.target, b.known))]
        return all(isinstance(v, Tensor) for v in parts)

    def rows(self, which: Tensor) -> Rows:
        """These rows; positions (episodes, n) give tensors (episodes, n, ...)."""

        def laid(values: Any) -> Any:
            found = pick(values, which.flatten())
            return found.unflatten(0, which.shape) if which.dim() > 1 else found

        labels = {}
        for task in self.tasks:
            target, known, weight = self.part.labels(task)
            every = weight is None and isinstance(known, Tensor) and bool(known.all())
            labels[task] = tuple(laid(v) for v in ((target,) if every else (target, known, weight)) if v is not None)
        return {k: laid(v) for k, v in self.part.inputs.items()}, labels

    def each(self) -> Iterator[Group]:
        """Its episodes, one by one."""
        for i in range(len(self.support)):
            yield Group(self.table, self.tasks, self.part, self.support[i], self.query[i])


def groups_of(table: str, part: Taskset) -> list[Group]:
    """The episodes of one table's rows, those of one shape and of the same tasks together.

    Raises:
        ConfigError: the rows are no episodes.
    """
    if part.domain is None or part.support is None:
        raise ConfigError(
            "A batch of episodes should say which episode each row is of (`Taskset.domain`) and which rows are there "
            "to adapt to (`Taskset.support`). Found neither; draw it with `data.episodes.EpisodeSampler`."
        )
    found: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
    order = part.domain.argsort(stable=True)
    sizes = torch.unique_consecutive(part.domain[order], return_counts=True)[1].tolist()
    known = {}
    if len(part.tasks) > 1:
        for task in part.tasks:
            own = part.labels(task)[1]
            known[task] = own.flatten(1).any(1) if own.dim() > 1 else own
    if not known and part.tasks and len(set(sizes)) == 1:  # as episodes mostly are: of one shape
        rows = order.unflatten(0, (-1, sizes[0]))
        first = part.support[rows]
        counts = first.sum(1)
        if bool((counts == counts[0]).all()) and int(counts[0]) < sizes[0]:
            each = (len(rows), -1)
            return [Group(table, part.tasks, part, rows[first].unflatten(0, each), rows[~first].unflatten(0, each))]
    for rows in order.split(sizes):
        first = part.support[rows]
        halves = rows[first], rows[~first]
        tasks = tuple(t for t in part.tasks if not known or bool(known[t][rows].any()))
        if tasks and len(halves[1]):
            found.setdefault((tasks, len(halves[0]), len(halves[1])), []).append(halves)
    return [
        Group(table, key[0], part, torch.stack([s for s, _ in own]), torch.stack([q for _, q in own]))
        for key, own in found.items()
    ]


class Episodic(Objective):
    """From the episodes of a step to {task: the mean over its episodes}.

    Episodes of one shape are computed side by side (`torch.func.vmap`); where that cannot be (rows of unequal length,
    an LSTM or a GRU), one after the other, which is said once.
    """

    search: ClassVar[Mapping[str, Range]] = {"inner_lr": log(1e-3, 0.5)}
    alone: ClassVar[str] = "one net adapts to an episode"
    shape: Shape
    first_order: ClassVar[bool] = True
    """Whether the gradient leaves out how inner steps change with the start."""
    entangled: ClassVar[bool] = False
    """Whether a task's loss reaches other tasks' heads: an inner step of all tasks of an episode moves what they share,
    by way of all their heads, and the gradient goes through that step."""
    reaching: ClassVar[bool] = False
    """Whether it asks which parameters a task's error reaches."""

    def __init__(
        self,
        tasks: Sequence[Task] | None,
        shape: Shape,
        inner_steps: int,
        inner_lr: float,
        adapt: str,
        norm: str | None,
        vectorised: bool,
    ) -> None:
        if inner_steps < 0 or not inner_lr >= 0:
            raise ConfigError(f"`inner_steps` and `inner_lr` should be 0 or more. Found {inner_steps} and {inner_lr}.")
        self.tasks = None if tasks is None else {t.name: t for t in tasks}
        self.shape, self.norm, self.vectorised = shape, norm, vectorised
        self.inner_steps, self.inner_lr, self.adapt = inner_steps, inner_lr, adapt
        self.redraw = None if shape.ways is None else EPISODE
        self._reach: dict[tuple[str, str], frozenset[str]] = {}

    def attach(self, model: nn.Module) -> None:
        """See, before the first step, that there is something to adapt, and that it is known how the net norms.

        Raises:
            ConfigError: there is not, or it is not.
        """
        self.moving(model)
        with settled(model, self.norm):
            return

    @abstractmethod
    def of_episode(
        self, net: Net, weights: Mapping[str, Tensor], support: Rows, query: Rows
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """{task: (mean error, label weight)} of one episode, as functions of the weights; runs under `vmap`."""

    @final
    def __call__(
        self, model: nn.Module, batch: Batch, trace: Trace | None = None, totals: Mapping[str, float] | None = None
    ) -> Losses:
        if totals is not None:
            raise ConfigError(
                "`trainer.accumulate_grad_batches` should be 1 with an objective that learns from episodes. Found "
                "more; set its `episodes` instead."
            )
        tasks: Mapping[str, Task] = self.tasks if self.tasks is not None else model.tasks  # type: ignore[assignment]
        means: dict[str, list[Tensor]] = {}
        counts: dict[str, list[Tensor]] = {}
        with settled(model, self.norm, not self.first_order):
            for table, part in batch.items():
                for group in groups_of(table, part):
                    for task, (mean, count) in self._group(Net(model, tasks, group, self.shape.ways), group).items():
                        means.setdefault(task, []).append(mean)
                        counts.setdefault(task, []).append(count)
        losses: dict[str, Tensor] = {}
        labels: dict[str, float] = {}
        for task, found in means.items():
            count = torch.cat(counts[task]).detach()
            if bool((count > 0).any()):
                losses[task] = torch.cat(found)[count > 0].mean()
                labels[task] = float(count.sum())
        answer = Losses.of(losses, {t: tasks[t].weight for t in losses})
        answer.counts = labels
        return answer

    def _group(self, net: Net, group: Group) -> dict[str, tuple[Tensor, Tensor]]:
        weights = net.weights()
        if self.reaching:
            first = next(group.each())
            net.reach = {t: self._reached(net.only(t), first) for t in group.tasks}

        def one(support: Rows, query: Rows) -> dict[str, tuple[Tensor, Tensor]]:
            return self.of_episode(net, weights, support, query)

        if self.vectorised and group.even:
            try:
                return vmap(one, randomness="different")(group.rows(group.support), group.rows(group.query))
            except (RuntimeError, NotImplementedError) as error:
                self._alone(str(error).splitlines()[0])
        elif self.vectorised:
            self._alone("rows are of unequal length")
        each = [one(own.rows(own.support), own.rows(own.query)) for own in group.each()]
        return {t: (torch.stack([o[t][0] for o in each]), torch.stack([o[t][1] for o in each])) for t in group.tasks}

    def _reached(self, net: Net, group: Group) -> frozenset[str]:
        """The parameters that the error of a net's one task reaches, asked from the graph once."""
        key = (net.table, net.names[0])
        if key not in self._reach:
            own = net.weights()
            named = {n: p for n, p in own.items() if p.requires_grad}
            found = torch.autograd.grad(
                net.total(own, group.rows(group.query)), list(named.values()), allow_unused=True
            )
            self._reach[key] = frozenset(n for n, g in zip(named, found, strict=True) if g is not None)
        return self._reach[key]

    def _alone(self, why: str) -> None:
        """Say once that episodes go one after the other from here on."""
        self.vectorised = False
        warnings.warn(f"Episodes are computed one after the other, not side by side: {why}", stacklevel=2)

    def moving(self, model: nn.Module) -> list[str]:
        """The names of the parameters that adapt.

        Raises:
            ConfigError: `adapt` fits none.
        """
        names = [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith(RATES)]
        if self.adapt == "all":
            return names
        pattern = "heads.*" if self.adapt == "heads" else self.adapt
        found = [n for n in names if fnmatchcase(n, pattern)]
        if not found:
            raise ConfigError(
                f"`adapt` should be `all`, `heads`, or a pattern of parameter names such as `{names[-1]}`. Found "
                f"`{self.adapt}`, which fits none."
            )
        return found

    def rates(self, weights: Mapping[str, Tensor]) -> float | Mapping[str, Tensor]:
        """The rate of the inner steps: one, or one per parameter."""
        return self.inner_lr

    def adapted(
        self, net: Net, weights: Mapping[str, Tensor], support: Rows, steps: int | None = None, first_order: bool = True
    ) -> dict[str, Tensor]:
        """The weights after inner steps on the support rows."""
        return adapt(
            net.total,
            weights,
            support,
            self.inner_steps if steps is None else steps,
            self.rates(weights),
            first_order,
            self.moving(net.model),
        )

    def fit(self, model: nn.Module, rows: Taskset, table: str | None = None, steps: int | None = None) -> nn.Module:
        """A copy of the model, adapted to these rows; the model stays as it is.

        Args:
            rows: with labels.
            table: whose columns they have.
            steps: of descent; `inner_steps` by default.
        """
        tasks: Mapping[str, Task] = self.tasks if self.tasks is not None else model.tasks  # type: ignore[assignment]
        own = deepcopy(model).eval()
        if self.norm == "batch":  # it goes on by the statistics of its own rows
            for layer in running(own):
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
                layer.track_running_stats = False
        every = torch.arange(len(rows))
        names = tuple(t for t in rows.tasks if bool(rows.labels(t)[1].any()))
        group = Group(table or "", names, rows, every, every)
        net = Net(own, tasks, group, self.shape.ways)
        with settled(own, self.norm), torch.no_grad():
            found = self.adapted(net, net.weights(), group.rows(every), steps)
            for name, parameter in own.named_parameters():
                parameter.copy_(found[name])
        return own

    def answers(self, net: Net, weights: Mapping[str, Tensor], support: Rows, query: Rows) -> dict[str, Tensor]:
        """{task: output} for query rows, after adapting to support rows; runs under `vmap`."""
        outputs = net.outputs(self.adapted(net, weights, support), query[0])
        return {t: net.cut(outputs[t]) for t in net.names}

    def _few_shot(self, model: nn.Module, valid: Mapping[str, Taskset]) -> dict[str, Result]:
        """Episodes of few classes from validation rows, the same at each call."""
        tasks: Mapping[str, Task] = self.tasks if self.tasks is not None else model.tasks  # type: ignore[assignment]
        sampler, own = EpisodeSampler(valid, self.shape), deepcopy(model).eval()
        parts: dict[str, list[Result]] = {}
        steps = max(1, -(-EPISODES // self.shape.episodes))
        draws = list(islice((draw for epoch in count() for draw in sampler.plan(epoch)), steps))
        number = 0
        with settled(own, self.norm), torch.no_grad():
            for table, part in (pair for draw in draws for pair in sampler.batch(draw).items()):
                for one in (one for group in groups_of(table, part) for one in group.each()):
                    net, query = Net(own, tasks, one, self.shape.ways), one.rows(one.query)
                    found = self.answers(net, net.weights(), one.rows(one.support), query)
                    number += 1
                    for task, output in found.items():
                        target = query[1][task][0]  # classes are drawn from rows that have one
                        known = torch.ones_like(target, dtype=torch.bool)
                        missing = max(len(tasks[task].parts) - output.shape[-1], 0)
                        padded = nn.functional.pad(output, (0, missing), value=-1e4)
                        extra = {EPISODE: np.full(len(target), number)}
                        parts.setdefault(task, []).append(Result(padded, target, known, extra))
        return {task: Result.join(found) for task, found in parts.items()}

    def following(self, model: nn.Module, rows: Mapping[str, Taskset]) -> Iterator[tuple[str, Tensor, nn.Module]]:
        """Some rows of each domain are followed, the others are foretold by the copy that followed them.

        Where classes are numbered anew in each episode the rows are the model's own, as it is. A table without the
        column of the domains is one domain.
        """
        if self.shape.ways is not None:
            yield from super().following(model, rows)
            return
        by = self.shape.by if any(self.shape.by in part.extra for part in rows.values()) else None
        for table, part in by_domain(rows, by).items():
            for support, rest in shots(part, self.shape.sizes[1]):
                yield table, rest, self.fit(model, part.take(support), table)

    def held_out(self, model: nn.Module, valid: Mapping[str, Taskset], seen: Seen | None = None) -> dict[str, Result]:
        """Each held-out domain: the model is adapted to some of its rows, and judged by the rest."""
        if self.shape.ways is not None:
            return self._few_shot(model, valid)
        parts: dict[str, list[Result]] = {}
        for table, rest, own in self.following(model, valid):
            for task, found in results(own, {table: valid[table].take(rest)}, seen=seen).items():
                if bool(found.known.any()):  # a domain may label few of the tasks
                    parts.setdefault(task, []).append(found)
        return {task: Result.join(found) for task, found in parts.items()}


EPISODES = 40
"""Episodes of few classes that validation is made of."""
EPISODE = "episode"
"""The column of their numbers: an interval draws episodes whole."""
RATES = "_rates."
"""How the names of learned rates begin, which are no weights of the net."""


def shots(rows: Taskset, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Per domain (rows to adapt to, rows to be judged by): n and the rest, or half and half where there are few.

    The same rows at each call: they are drawn by the number of the domain.
    """
    domain = torch.zeros(len(rows), dtype=torch.long) if rows.domain is None else rows.domain
    for d in domain.unique().tolist():
        own = (domain == d).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(d))]
        first = min(n, len(own) // 2)
        yield own[:first], own[first:]


class Net:
    """A model as functions of its weights, for the episodes of one group.

    Args:
        model: any module that the tasks understand.
        tasks: by name.
        group: whose table and tasks these are.
        ways: the units of the output that count, where classes are numbered within an episode.
    """

    def __init__(self, model: nn.Module, tasks: Mapping[str, Task], group: Group, ways: int | None) -> None:
        self.model, self.ways = model, ways
        self.table, self.names = group.table, group.tasks
        self.tasks = {t: tasks[t] for t in group.tasks}
        self.buffers = {n: b.clone() for n, b in model.named_buffers()}
        self.reach: dict[str, frozenset[str]] = {}
        """Task -> the parameters that its error reaches, where that was asked."""

    def only(self, task: str) -> Net:
        """The same for one task."""
        net = copy(self)
        net.names, net.tasks = (task,), {task: self.tasks[task]}
        return net

    def weights(self) -> dict[str, Tensor]:
        """Its parameters, as they are."""
        return dict(self.model.named_parameters())

    def outputs(self, weights: Mapping[str, Tensor], x: Mapping[str, Any]) -> Any:
        """{task: output} with these weights."""
        arguments = (x, self.names, self.table or None) if hasattr(self.model, "tasks") else (x,)
        return functional_call(self.model, {**self.buffers, **weights}, arguments)

    def features(self, weights: Mapping[str, Tensor], x: Mapping[str, Any]) -> Tensor:
        """What the head of the one task reads with these weights (rows, d); of a net that is not ours, its output."""
        (task,) = self.names
        if not hasattr(self.model, "transform"):
            return self.outputs(weights, x)[task]
        named = {f"model.{n}": w for n, w in {**self.buffers, **weights}.items()}
        return functional_call(_Features(self.model), named, (x, self.table or None, task))

    def errors(self, weights: Mapping[str, Tensor], rows: Rows) -> dict[str, tuple[Tensor, Tensor]]:
        """{task: (mean error of the known labels, their weight)}; no value is asked for, so that it can be mapped."""
        x, labels = rows
        outputs = self.outputs(weights, x)
        return {t: mean_error(task, self.cut(outputs[t]), *labels[t]) for t, task in self.tasks.items()}

    def cut(self, output: Any) -> Any:
        """The units of an output that count."""
        return output if self.ways is None else output[..., : self.ways]

    def total(self, weights: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """What the inner steps descend on: the sum of the tasks' mean errors, by preference."""
        return torch.stack([self.tasks[t].weight * mean for t, (mean, _) in self.errors(weights, rows).items()]).sum()


class _Features(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Mapping[str, Any], table: str | None, task: str) -> Tensor:
        return self.model.transform(x, table, task)  # type: ignore[operator]


def mean_error(
    task: Task, output: Any, target: Any, known: Tensor | None = None, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(sum(w e) / sum(w), sum(w)) over the known labels, as `Task.mean_loss` has it; 0 where none is known.

    Args:
        known: None where every label is.
    """
    output, target = at_full_width(output, target)
    if known is None:
        errors, sizes = task.errors(output, target), task.sizes(target)
        total = errors.new_tensor(errors.numel()) if sizes is None else sizes.to(errors.dtype).sum()
        return (errors.mean(), total) if sizes is None else (errors.sum() / total, total)
    errors = task.errors(task.blanked(output, known), target)
    full = known.to(errors.dtype) if weight is None else known * weight.to(errors.dtype)
    sizes = task.sizes(target)
    errors = errors.masked_fill(~known, 0.0) * full
    total = (full if sizes is None else full * sizes.to(errors.dtype)).sum()
    return errors.sum() / torch.where(total > 0, total, torch.ones_like(total)), total
