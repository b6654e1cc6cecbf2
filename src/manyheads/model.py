"""Encoder -> sharing -> heads, as one module: rows in, one output per task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .blocks import Named, initialise, pool, seed_of
from .data import Inputs
from .sharing import Features, Sharing, Trace
from .tasks import Task


class Outputs(Mapping[str, Any]):
    """One output per task; tasks of a family lie side by side in one tensor.

    Attributes:
        groups: (tasks, output, stacked) per family; output (members..., batch, tasks, units) where stacked, else
            (members..., batch, units).
        members: leading dimensions that are members of an ensemble: 0 or 1.
    """

    def __init__(self, groups: Sequence[tuple[tuple[str, ...], Any, bool]], members: int = 0) -> None:
        self.groups, self.members = list(groups), members

    def __getitem__(self, task: str) -> Any:
        for tasks, output, stacked in self.groups:
            if task in tasks:
                return output[..., tasks.index(task), :] if stacked else output
        raise KeyError(task)

    def __iter__(self) -> Iterator[str]:
        return (task for tasks, _, _ in self.groups for task in tasks)

    def __len__(self) -> int:
        return sum(len(tasks) for tasks, _, _ in self.groups)


class Model(nn.Module):
    """One model for many tasks.

    Args:
        sharing: gives each task its features.
        tasks: fitted tasks, in order.
        seed: every module starts from (seed, its own name), so neither the order of the tasks nor a further task
            changes how the others start.
    """

    def __init__(self, sharing: Sharing, tasks: Sequence[Task], seed: int = 0) -> None:
        super().__init__()
        self.tasks = {t.name: t for t in tasks}
        self.sharing = sharing
        self.heads = Named({t.name: t.head(sharing.widths(t.name)) for t in tasks})
        self._families: dict[str, Any] = {
            t.name: None if t.family() is None else (t.family(), t.eats, tuple(sharing.widths(t.name)), t.attach)
            for t in tasks
            if not t.sees
        }
        initialise(self, seed)

    def forward(
        self, x: Inputs, tasks: Sequence[str] | None = None, table: str | None = None, trace: Trace | None = None
    ) -> Outputs:
        """Outputs of these tasks (all of them by default) for rows of one table."""
        wanted = tuple(self.tasks) if tasks is None else tuple(tasks)
        features = self.sharing(x, wanted, table, trace)
        return Outputs([self._outputs(group, features) for group in self.groups(wanted)])

    def groups(self, tasks: Sequence[str]) -> list[tuple[str, ...]]:
        """These tasks by family: those whose outputs are computed together."""
        families: dict[Any, list[str]] = {}
        for task in tasks:
            families.setdefault(self._families.get(task) or ("", task), []).append(task)
        return [tuple(group) for group in families.values()]

    def _outputs(self, tasks: tuple[str, ...], features: Mapping[str, Features]) -> tuple[tuple[str, ...], Any, bool]:
        heads = [self.heads[t] for t in tasks]
        read = [_read(self.tasks[t], features[t]) for t in tasks]
        if self._families.get(tasks[0]) is None or not all(type(h) is nn.Linear for h in heads):
            if len(tasks) == 1:
                return tasks, heads[0](read[0]), False
            return tasks, torch.stack([h(z) for h, z in zip(heads, read, strict=True)], -2), True
        if len(tasks) == 1:
            return tasks, heads[0](read[0]).unsqueeze(-2), True
        weight = torch.stack([h.weight for h in heads])  # type: ignore[misc]  # (tasks, units, width)
        bias = torch.stack([h.bias for h in heads])  # type: ignore[misc]
        if all(z is read[0] for z in read):
            flat = nn.functional.linear(read[0], weight.flatten(0, 1), bias.flatten())
            return tasks, flat.unflatten(-1, bias.shape), True
        return tasks, torch.einsum("tbd,tud->btu", torch.stack(read), weight) + bias, True

    def transform(self, x: Inputs, table: str | None = None, task: str | None = None) -> Tensor:
        """The features that a task (the first one by default) reads: the shared representation."""
        name = task if task is not None else next(iter(self.tasks))
        return _read(self.tasks[name], self.sharing(x, (name,), table)[name])


def _read(task: Task, features: Features) -> Any:
    if isinstance(features, list):
        parts = [pool(z, task.eats) for z in features]
        return torch.cat(parts, -1) if task.eats == "vector" else parts
    return pool(features, task.eats)


class Ensemble(nn.Module):
    """Several members of one architecture, trained and run as one: their weights are stacked, their passes are one.

    Each parameter is a leaf (members, ...), so a task's own parameters stay its own. Members differ by their start (and
    their dropout); predictions are averaged by each task in its own way (`Task.ensemble`).

    Args:
        members: models of one architecture.
    """

    def __init__(self, members: Sequence[Model]) -> None:
        super().__init__()
        base = members[0]
        self.tasks = base.tasks
        self.n_members = len(members)
        params, buffers = stack_module_state(list(members))  # type: ignore[arg-type]
        self.names = list(params)
        self.weights = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in params.values()])
        self.buffer_names = list(buffers)
        for i, buffer in enumerate(buffers.values()):
            self.register_buffer(f"b{i}", buffer)
        object.__setattr__(self, "base", deepcopy(base).to("meta"))  # not a submodule: it only knows the architecture

    @classmethod
    def of(cls, make: Any, n_members: int, seed: int) -> Ensemble:
        """From `make(seed) -> Model`; member m starts from (seed, m)."""
        return cls([make(seed_of(seed, "member", m) if m else seed) for m in range(n_members)])

    base: Model

    def state(self) -> dict[str, Tensor]:
        """Stacked weights and buffers by the member's own names."""
        weights = dict(zip(self.names, self.weights, strict=True))
        return weights | {n: getattr(self, f"b{i}") for i, n in enumerate(self.buffer_names)}

    def forward(
        self, x: Inputs, tasks: Sequence[str] | None = None, table: str | None = None, trace: Trace | None = None
    ) -> Outputs:
        shape: list[tuple[tuple[str, ...], bool]] = []

        def one(state: dict[str, Tensor]) -> list[Any]:
            outputs = functional_call(self.base, state, (x, tasks, table, trace))
            shape[:] = [(names, stacked) for names, _, stacked in outputs.groups]
            return [output for _, output, _ in outputs.groups]

        self.base.train(self.training)
        stacked = vmap(one, randomness="different")(self.state())
        return Outputs([(n, o, s) for (n, s), o in zip(shape, stacked, strict=True)], members=1)

    def transform(self, x: Inputs, table: str | None = None, task: str | None = None) -> Tensor:
        """The features that a task reads, members side by side (batch, members * width)."""

        def one(state: dict[str, Tensor]) -> Tensor:
            return functional_call(_Transform(self.base), {f"model.{k}": v for k, v in state.items()}, (x, table, task))

        return vmap(one)(self.state()).movedim(0, 1).flatten(1)


class _Transform(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Inputs, table: str | None, task: str | None) -> Tensor:
        return self.model.transform(x, table, task)


AnyModel = Model | Ensemble
