"""Encoder -> sharing -> heads, as one module: rows in, one output per task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .blocks import Named, initialise, pool, seed_of
from .catalog import hint
from .data import Inputs
from .faults import ConfigError
from .gradients.heads import Product, in_places, out_of_places
from .sharing import Beside, Features, Sharing, Trace
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
        self.order = _order(self.tasks)
        heads: dict[str, nn.Module] = {}
        for name in self.order:
            seen = [_units(heads[other], other) for other in self.tasks[name].sees]
            heads[name] = self.tasks[name].head([*sharing.widths(name), *seen])
        self.heads = Named({t: heads[t] for t in self.tasks})
        self.linked = {t for task in tasks if task.sees for t in (task.name, *task.sees)}
        """Tasks whose outputs depend on one another's: they are computed one after the other."""
        self.linked |= {t for task, others in sharing.links.items() for t in (task, *others)}
        self._families: dict[str, Any] = {
            t.name: None if t.family() is None else (t.family(), t.eats, tuple(sharing.widths(t.name)), t.attach)
            for t in tasks
        }
        self.places: tuple[tuple[str | None, ...], ...] = ()
        initialise(self, seed)

    def arrange(self, places: Sequence[Sequence[str | None]]) -> None:
        """Say which linear heads are computed in one product, so that what a task gives is the same to the bit whatever
        tasks came or went since: None stands for one that left (the size of a product changes its rounding)."""
        self.places = tuple(map(tuple, places))
        for i, task in ((i, t) for i, own in enumerate(self.places) for t in own if t is not None):
            self._families[task] = self._families[task] and (self._families[task], i)

    def whole(self, group: tuple[str, ...], read: Sequence[Any]) -> tuple[str | None, ...]:
        """All the places of a product that these tasks are computed in, where they all read the same."""
        return next((own for own in self.places if group[0] in own), group) if len(read) == 1 else group

    def forward(
        self, x: Inputs, tasks: Sequence[str] | None = None, table: str | None = None, trace: Trace | None = None
    ) -> Outputs:
        """Outputs of these tasks (all of them by default) for rows of one table."""
        wanted = tuple(self.tasks) if tasks is None else tuple(tasks)
        before = None if trace is None else dict(trace.aux)
        features = self.sharing(x, self.needed(wanted), table, trace)
        linked = self.linked_outputs(wanted, features, lambda task, z: self.heads[task](z), trace)
        if trace is not None and self.linked:
            trace.aux = asked(wanted, trace.aux, before)
        outputs = self._beside(wanted, features, trace)
        rest = [task for task in wanted if not any(task in tasks for tasks, _, _ in outputs)] if outputs else wanted
        return Outputs([*outputs, *(self._outputs(group, features, linked) for group in self.groups(rest, trace))])

    def needed(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """These tasks and all those whose outputs theirs are made from."""
        if not self.linked:
            return tuple(tasks)
        found, todo = dict.fromkeys(tasks), list(tasks)
        while todo:
            task = todo.pop()
            for other in (*self.tasks[task].sees, *self.sharing.links.get(task, ())):
                if other not in found:
                    found[other] = None
                    todo.append(other)
        return tuple(found)

    def linked_outputs(
        self,
        tasks: Sequence[str],
        features: Mapping[str, Features],
        head: Callable[[str, Any], Tensor],
        trace: Trace | None = None,
    ) -> dict[str, Tensor]:
        """The outputs of those of these tasks that depend on others', and of those others.

        Args:
            head: (task, what its head reads) -> its output.
        """
        if not self.linked:
            return {}
        needed = set(self.needed(tasks)) & self.linked
        outputs: dict[str, Tensor] = {}
        for name in self.order:
            if name in needed:
                task = self.tasks[name]
                seen = [self.tasks[other].shown(outputs[other]) for other in task.sees]
                outputs[name] = head(name, _with(_read(task, features[name]), seen))
        if outputs and trace is not None:
            trace.uncut()  # one task's loss reaches another's head
        tied = {t for task, others in self.sharing.links.items() for t in (task, *others)}
        if tied & outputs.keys():
            outputs |= self.sharing.join({t: o for t, o in outputs.items() if t in tied}, trace)
        return outputs

    def groups(self, tasks: Sequence[str], trace: Trace | None = None) -> list[tuple[str, ...]]:
        """These tasks by family: those whose outputs are computed together; each alone where a trace wants it so."""
        if trace is not None and trace.apart:
            return [(task,) for task in tasks]
        families: dict[Any, list[str]] = {}
        for task in tasks:
            families.setdefault(self._families.get(task) or ("", task), []).append(task)
        groups: list[tuple[str, ...]] = []
        for family in families.values():
            groups += [tuple(free)] if (free := [t for t in family if t not in self.linked]) else []
            groups += [(t,) for t in family if t in self.linked]
        return groups

    def linear(self, group: Sequence[str]) -> bool:
        """Whether the heads of a family are linear layers (however they start), whose outputs are one product."""
        plain, family = nn.Linear.forward, self._families.get(group[0])
        free = family is not None and group[0] not in self.linked
        return free and all(type(self.heads[t]).forward is plain for t in group)

    def read(self, group: Sequence[str], features: Mapping[str, Features]) -> Any:
        """What each head of a family reads, one after the other (or as one tensor); one where all read the same."""
        if isinstance(features, Beside) and len(group) > 1 and (whole := features.part(group)) is not None:
            return whole
        first = features[group[0]]
        if all(features[t] is first for t in group):
            return [_read(self.tasks[group[0]], first)]
        return [_read(self.tasks[t], features[t]) for t in group]

    def _outputs(
        self, tasks: tuple[str, ...], features: Mapping[str, Features], linked: Mapping[str, Tensor]
    ) -> tuple[tuple[str, ...], Any, bool]:
        if tasks[0] in linked:
            return tasks, linked[tasks[0]], False
        read = self.read(tasks, features)
        heads = [self.heads[t] for t in tasks]
        if self.linear(tasks):
            whole = tasks if self.training else self.whole(tasks, read)
            weight, bias = (in_places(tasks, [h._parameters[n] for h in heads], whole) for n in ("weight", "bias"))  # type: ignore[misc]
            return tasks, out_of_places(tasks, linear_heads(weight, bias, read), whole), True
        outputs = [h(z) for h, z in zip(heads, read if len(read) == len(heads) else read * len(heads), strict=True)]
        return tasks, outputs[0] if len(tasks) == 1 else torch.stack(outputs, -2), len(tasks) > 1

    def _beside(
        self, tasks: Sequence[str], features: Mapping[str, Features], trace: Trace | None
    ) -> list[tuple[tuple[str, ...], Any, bool]]:
        """The outputs of linear heads that may be computed in one product where losses are kept apart.

        They are those of a family that read nothing but views of one activation, which they read itself instead.
        """
        if trace is None or trace.cut is None:
            return []
        outputs: list[tuple[tuple[str, ...], Any, bool]] = []
        for family in self.groups([task for task in tasks if task in trace.beside]):
            groups: dict[int, list[str]] = {}
            for task in family if self.linear(family) else ():
                for z, view in trace.cut.get(task, ())[-1:]:
                    if view is features[task] and z.dim() == 2:
                        groups.setdefault(id(z), []).append(task)
            for group in groups.values():
                z = trace.cut[group[0]][-1][0]
                heads: list[Any] = [self.heads[task] for task in group]
                weight, bias = (torch.stack([h._parameters[n] for h in heads]) for n in ("weight", "bias"))
                output = linear_heads(weight, bias, [z])
                leaves: list[Any] = [[p if p.requires_grad else None for p in (h.weight, h.bias)] for h in heads]
                if output.requires_grad and all(p is None or p.is_leaf for own in leaves for p in own):
                    product = Product(tuple(group), z, [output], weight.detach().flatten(0, 1), leaves)
                    trace.products |= dict.fromkeys(group, product)
                    outputs.append((tuple(group), output, True))
        return outputs

    def inside(
        self,
        groups: Sequence[tuple[str, ...]],
        tasks: Sequence[str],
        features: Mapping[str, Features],
        head: Callable[[str, Any], Tensor],
        trace: Trace | None,
    ) -> list[list[Any]]:
        """For a pass under `vmap`, per family: what its heads read where they are linear, else their outputs."""
        linked = self.linked_outputs(tasks, features, head, trace)
        results = []
        for group in groups:
            if group[0] in linked:
                results.append([linked[group[0]]])
                continue
            read = self.read(group, features)
            if not self.linear(group):
                every = read if len(read) == len(group) else read * len(group)
                read = [head(task, z) for task, z in zip(group, every, strict=True)]
            results.append(read)
        return results

    def extra_repr(self) -> str:
        """Which tasks see which, by their places: a model that differs in this has another architecture."""
        place = {t: i for i, t in enumerate(self.tasks)}
        sees = {place[t.name]: [(place[o], self.tasks[o].kind) for o in t.sees] for t in self.tasks.values() if t.sees}
        return f"sees={sees}" if sees else ""

    def transform(self, x: Inputs, table: str | None = None, task: str | None = None) -> Tensor:
        """The features that a task (the first one by default) reads: the shared representation."""
        name = task if task is not None else next(iter(self.tasks))
        return _read(self.tasks[name], self.sharing(x, (name,), table)[name])


def asked(
    tasks: Sequence[str], aux: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Auxiliary losses without those that were added for tasks that are only needed by others."""
    kept = {t: loss for t, loss in aux.items() if not t or t in tasks}
    return {t: loss for t, loss in (before or {}).items() if t not in kept} | kept


def linear_heads(weight: Tensor, bias: Tensor, read: Tensor | Sequence[Tensor]) -> Tensor:
    """The outputs of several linear heads of one shape, in one product.

    Shape:
        weight (members..., tasks, units, width), bias (members..., tasks, units); read (members..., batch, width), one
        for all heads or one for each (or those as one tensor (members..., tasks, batch, width))
        -> (members..., batch, tasks, units), with 0 or 1 dimension of members.
    """
    if not isinstance(read, Tensor) and len(read) == 1:
        z, flat, offset = read[0], weight.flatten(-3, -2), bias.flatten(-2)
        if weight.dim() == 3:
            output = nn.functional.linear(z, flat, offset)
        else:
            output = torch.baddbmm(offset.unsqueeze(1), z.flatten(1, -2), flat.mT).unflatten(1, z.shape[1:-1])
        return output.unflatten(-1, bias.shape[-2:])
    z = read if isinstance(read, Tensor) else torch.stack(list(read), -3)
    return torch.einsum("...tbd,...tud->...btu", z, weight) + bias.unsqueeze(-3)


def _order(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """The tasks, each after those that it sees.

    Raises:
        ConfigError: a task sees one that does not exist, or tasks see each other in a circle.
    """
    known: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise ConfigError(f"Tasks should not see each other in a circle. Found {circle}.")
        for other in tasks[name].sees:
            if other not in tasks:
                raise ConfigError(f"Task `{name}` sees a task `{other}` that there is not. {hint(other, tasks)}")
            if other not in known:
                visit(other, (*path, name))
        known[name] = None

    for name in tasks:
        visit(name, ())
    return tuple(known)


def _units(head: nn.Module, task: str) -> int:
    """The units of a head's output, where they are a vector."""
    if isinstance(head, nn.Linear):
        return head.out_features
    if not hasattr(head, "start"):
        raise ConfigError(f"Task `{task}` cannot be seen by others: its output is not a vector.")
    return len(head.start)  # type: ignore[arg-type]


def _with(read: Any, seen: Sequence[Tensor]) -> Any:
    """Features with other tasks' predictions beside them; a linear head's weights on those are label embeddings.

    Reference:
        Hashimoto, Xiong, Tsuruoka, Socher: A joint many-task model: growing a neural network for multiple NLP tasks,
        2017.
    """
    if not seen:
        return read
    if isinstance(read, tuple):
        return (torch.cat([read[0], *seen], -1), *read[1:])
    return torch.cat([read, *seen], -1)


def _read(task: Task, features: Features) -> Any:
    if isinstance(features, list):
        parts: list[Any] = [pool(z, task.eats) for z in features]
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
        params, buffers = stack_module_state(list(members))
        self.names = list(params)
        self.weights = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in params.values()])
        self.buffer_names = list(buffers)
        for i, buffer in enumerate(buffers.values()):
            self.register_buffer(f"b{i}", buffer)
        object.__setattr__(self, "base", deepcopy(base).to("meta"))  # not a submodule: it only knows the architecture
        place = {name: i for i, name in enumerate([*self.names, *self.buffer_names])}
        self._of_sharing = {n.removeprefix("sharing."): i for n, i in place.items() if n.startswith("sharing.")}
        self._of_head: dict[str, dict[str, int]] = {}
        for task, key in base.heads.keys_of.items():
            start = f"heads.{key}."
            self._of_head[task] = {n.removeprefix(start): i for n, i in place.items() if n.startswith(start)}

    @classmethod
    def of(cls, make: Any, n_members: int, seed: int) -> Ensemble:
        """From `make(seed) -> Model`; member m starts from (seed, m)."""
        return cls([make(seed_of(seed, "member", m) if m else seed) for m in range(n_members)])

    base: Model

    def stacked(self, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The `state_dict` of an ensemble of members with these state dicts."""
        weights = {f"weights.{i}": torch.stack([s[n] for s in states]) for i, n in enumerate(self.names)}
        return weights | {f"b{i}": torch.stack([s[n] for s in states]) for i, n in enumerate(self.buffer_names)}

    def state(self) -> dict[str, Tensor]:
        """Stacked weights and buffers by the member's own names."""
        return dict(zip([*self.names, *self.buffer_names], self._values(), strict=True))

    def forward(
        self, x: Inputs, tasks: Sequence[str] | None = None, table: str | None = None, trace: Trace | None = None
    ) -> Outputs:
        wanted = tuple(self.tasks) if tasks is None else tuple(tasks)
        base, groups = self.base, self.base.groups(wanted, trace)
        needed = base.needed(wanted)
        if base.training != self.training:
            base.train(self.training)
        values = self._values()
        linear = [base.linear(group) for group in groups]
        others = {t: None for group, yes in zip(groups, linear, strict=True) if not yes for t in group}
        others |= {t: None for t in needed if t in base.linked}

        def one(
            sharing: dict[str, Tensor], heads: dict[str, dict[str, Tensor]], _: Tensor
        ) -> tuple[list[Any], Any, Any]:
            inner = Trace()  # what is made inside `vmap` may leave it as a result only
            inner.apart = trace is not None and trace.apart
            features = functional_call(base.sharing, sharing, (x, needed, table, inner))
            head = partial(_call, base.heads, heads)
            results = base.inside(groups, wanted, features, head, inner)
            return results, asked(wanted, inner.aux), inner.use

        sharing = {name: values[i] for name, i in self._of_sharing.items()}
        heads = {t: {name: values[i] for name, i in self._of_head[t].items()} for t in others}
        each = torch.arange(self.n_members)  # where nothing below the heads learns, there is no weight to map over
        results, aux, use = vmap(one, randomness="different")(sharing, heads, each)
        if trace is not None:
            trace.cut = None  # members have no activations of their own outside `vmap`
            trace.aux |= {task: value.mean(0) for task, value in aux.items()}
            trace.use |= {task: {k: v.mean(0) for k, v in own.items()} for task, own in use.items()}
        outputs: list[tuple[tuple[str, ...], Any, bool]] = []
        for group, yes, result in zip(groups, linear, results, strict=True):
            if yes:  # many linear heads outside vmap: one product, and no swapping of hundreds of weights
                own = [self._of_head[t] for t in group]
                whole = group if self.training else base.whole(group, result)
                weight, bias = (in_places(group, [values[o[n]] for o in own], whole, 1) for n in ("weight", "bias"))
                outputs.append((group, out_of_places(group, linear_heads(weight, bias, result), whole), True))
            elif len(group) == 1:
                outputs.append((group, result[0], False))
            else:
                outputs.append((group, torch.stack(result, -2), True))
        return Outputs(outputs, members=1)

    def _values(self) -> list[Tensor]:
        """Stacked weights and buffers in the order of their names."""
        return [*self.weights._parameters.values(), *(getattr(self, f"b{i}") for i in range(len(self.buffer_names)))]

    def transform(self, x: Inputs, table: str | None = None, task: str | None = None) -> Tensor:
        """The features that a task reads, members side by side (batch, members * width)."""

        def one(state: dict[str, Tensor]) -> Tensor:
            return functional_call(_Transform(self.base), {f"model.{k}": v for k, v in state.items()}, (x, table, task))

        return vmap(one)(self.state()).movedim(0, 1).flatten(1)


def _call(heads: Named, weights: Mapping[str, dict[str, Tensor]], task: str, read: Any) -> Tensor:
    """A head with other weights."""
    return functional_call(heads[task], weights[task], (read,))


class _Transform(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Inputs, table: str | None, task: str | None) -> Tensor:
        return self.model.transform(x, table, task)


AnyModel = Model | Ensemble
