"""What is above the cut: gradients at the activations that tasks share, and those of the heads' own parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .graph import PRODUCTS, Walk, unscaled, uses_of
from .layers import flat, wide

LOOKED_AT = 16
"""So many of an activation's numbers are looked at first to tell whether a row has a gradient."""


@dataclass(frozen=True, eq=False)
class Product:
    """Linear heads of one shape that read one activation z, with outputs z W' + b.

    Attributes:
        tasks: whose heads they are, in the order of the outputs.
        shared: z (batch, d).
        outputs: (batch, units) of one head or (batch, tasks, units) of several; a loss reads its own task's alone.
        weight: W (tasks * units, d), without a graph.
        leaves: per task its weight (units, d) and its bias (units,); None for what does not learn.
    """

    tasks: tuple[str, ...]
    shared: Tensor
    outputs: Sequence[Tensor | GradientEdge]
    weight: Tensor
    leaves: Sequence[Sequence[Tensor | None]]

    @property
    def units(self) -> int:
        """Of each head."""
        return len(self.weight) // len(self.tasks)

    def errors(self, found: Sequence[Tensor | None]) -> Tensor:
        """The residuals E (batch, tasks * units), from the gradients at `outputs`."""
        parts, rows = [], len(self.shared)
        for output, g in zip(self.outputs, found, strict=True):
            width = output[0].numel() if isinstance(output, Tensor) else self.units
            parts.append(self.shared.new_zeros(rows, width) if g is None else wide(g).reshape(rows, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def down(self, errors: Tensor) -> Tensor:
        """The gradients at z (tasks, batch, d)."""
        n, units = len(self.tasks), self.units
        weight = self.weight.to(errors.dtype).view(n, units, -1)
        return (errors.view(-1, n, units).transpose(0, 1) @ weight).to(self.shared.dtype)

    def own_gradients(self, errors: Tensor) -> dict[str, dict[Tensor, Tensor]]:
        """task -> parameter -> gradient."""
        n, units = len(self.tasks), self.units
        weights = (errors.T @ self.shared.detach().to(errors.dtype)).view(n, units, -1).unbind()
        biases = errors.sum(0).view(n, units).unbind()
        found: dict[str, dict[Tensor, Tensor]] = {}
        for task, (weight, bias), of_weight, of_bias in zip(self.tasks, self.leaves, weights, biases, strict=True):
            found[task] = {} if weight is None else {weight: of_weight}
            if bias is not None:
                found[task][bias] = of_bias
        return found


def joined(products: Sequence[Product]) -> list[Product]:
    """The same heads; those of one shape that read one activation as one product."""
    groups: dict[tuple[int, int], list[Product]] = {}
    for product in products:
        groups.setdefault((id(product.shared), product.units), []).append(product)
    return [
        group[0]
        if len(group) == 1
        else Product(
            tuple(task for p in group for task in p.tasks),
            group[0].shared,
            [output for p in group for output in p.outputs],
            torch.cat([p.weight for p in group]),
            [leaves for p in group for leaves in p.leaves],
        )
        for group in groups.values()
    ]


class Heads:
    """What is above the cut: gradients there and those of the tasks' own parameters, in one pass through the heads.

    Args:
        losses: a scalar per task.
        walks: what is above the cut, of the tasks whose losses have a graph each.
        pairs: of those tasks, (shared activation, the task's own view of it).
        products: the heads of all other tasks.
        scale: the factor of a GradScaler.
        together: no task reads another's view.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        walks: Mapping[str, Walk],
        pairs: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
        products: Sequence[Product],
        scale: float,
        together: bool = True,
    ) -> None:
        self.losses, self.pairs, self.products = losses, pairs, joined(products)
        self.scale, self.together = scale, together
        self.own = {task: list(walks[task].leaves) if task in walks else [] for task in losses}
        read: dict[str, dict[int, Tensor]] = {task: {} for task in losses}
        for task, walk in walks.items():
            read[task] = {id(z): z for z, v in pairs[task] if (v.grad_fn, v.output_nr) in walk.entries}
        for product in self.products:
            for task, leaves in zip(product.tasks, product.leaves, strict=True):
                if task in losses:
                    self.own[task] = [leaf for leaf in leaves if leaf is not None]
                    read[task] = {id(product.shared): product.shared} if product.shared.requires_grad else {}
        self._read = {task: frozenset(own) for task, own in read.items()}
        self._activations = {task: [own[key] for key in sorted(own)] for task, own in read.items()}
        self._found: tuple[dict[str, dict[int, Tensor]], dict[str, list[Tensor | None]]] | None = None
        self._stacks: dict[tuple[tuple[str, ...], int], Tensor] = {}

    def read(self, task: str) -> frozenset[int]:
        """Which shared activations a loss reaches."""
        return self._read[task]

    def activations(self, task: str) -> list[Tensor]:
        """The shared activations that a loss reaches, in one order for all tasks."""
        return self._activations[task]

    def own_gradients(self, task: str) -> list[Tensor | None]:
        """Of the task's own parameters above the cut, in the order of `own`."""
        return self._solve()[1][task]

    def gradients(self, tasks: Sequence[str]) -> list[Tensor]:
        """At each of the activations, which these tasks have in common: (tasks, ...)."""
        return [self._stack(tuple(tasks), id(z)) for z in self._activations[tasks[0]]]

    def _stack(self, tasks: tuple[str, ...], key: int) -> Tensor:
        found = self._solve()[0]
        if (tasks, key) not in self._stacks:
            self._stacks[tasks, key] = torch.stack([found[task][key] for task in tasks])
        return self._stacks[tasks, key]

    def _solve(self) -> tuple[dict[str, dict[int, Tensor]], dict[str, list[Tensor | None]]]:
        if self._found is None:
            inputs = {t: [*(v for z, v in self.pairs[t] if id(z) in self._read[t]), *self.own[t]] for t in self.pairs}
            each: dict[str, Sequence[Tensor | None]] = {}
            at: dict[str, dict[int, Tensor]] = {t: {} for t in self.losses}
            own: dict[str, list[Tensor | None]] = {}
            if self.together:
                found = self._gradients([x for t in inputs for x in inputs[t]])
                for product, errors in zip(self.products, self._errors(found), strict=True):
                    down = product.down(errors).unbind() if product.shared.requires_grad else ()
                    at |= {t: {id(product.shared): g} for t, g in zip(product.tasks, down, strict=False)}
                    own |= {t: list(of.values()) for t, of in product.own_gradients(errors).items()}
                for task, asked in inputs.items():
                    each[task], found = found[: len(asked)], found[len(asked) :]
            else:
                for task, loss in self.losses.items():
                    each[task] = (
                        torch.autograd.grad(
                            loss, inputs[task], torch.full_like(loss, self.scale), retain_graph=True, allow_unused=True
                        )
                        if inputs[task]
                        else ()
                    )
            for task, gradients in each.items():
                read = [z for z, _ in self.pairs[task] if id(z) in self._read[task]]
                for z, g in zip(read, gradients, strict=False):
                    g = torch.zeros_like(z) if g is None else g
                    at[task][id(z)] = at[task][id(z)] + g if id(z) in at[task] else g
                own[task] = cloned(gradients[len(read) :])
            self._found = at, own
        return self._found

    def _gradients(self, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """Of the sum of the losses: at these, and after them at the outputs of the products."""
        moving = [loss for loss in self.losses.values() if loss.requires_grad]
        outputs: list[Any] = [output for product in self.products for output in product.outputs]
        return list(
            torch.autograd.grad(
                moving,
                [*inputs, *outputs],
                [torch.full_like(loss, self.scale) for loss in moving],
                retain_graph=True,
                allow_unused=True,
            )
        )

    def _errors(self, found: list[Tensor | None]) -> list[Tensor]:
        """The residuals of each product, from the last of the gradients that `_gradients` gave."""
        parts = []
        for product in reversed(self.products):
            n = len(product.outputs)
            parts.append(product.errors(found[-n:]))
            del found[-n:]
        return parts[::-1]

    def gram(self) -> Tensor:
        """Of the gradients at the activations (tasks, tasks)."""
        rows = [flat(g) for g in self.gradients(tuple(self.losses))]
        return torch.stack([(r @ r.T).double() for r in rows]).sum(0)

    def overlap(self) -> float:
        """The least part of rows that two tasks have in common, of the one that has more."""
        found = []
        for g in self.gradients(tuple(self.losses)):
            rows = g.reshape(*g.shape[:2], -1) if g.dim() > 1 else g[:, None, None]
            step = max(rows.shape[-1] // LOOKED_AT, 1)
            known = (rows[..., ::step] != 0).any(-1)
            if step > 1 and not bool(known.all()):
                known[~known] = (rows[~known] != 0).any(-1)
            found.append(known)
        return _least(torch.cat(found, 1))

    def combined(self, tasks: Sequence[str], weights: Mapping[str, float]) -> tuple[list[Tensor], list[Tensor]]:
        """(activations, sum_k w_k times their gradients), over these tasks."""
        everywhere: dict[int, Tensor] = {id(z): z for task in tasks for z in self._activations[task]}
        directions = []
        for key in everywhere:
            names = tuple(t for t in tasks if key in self._read[t])
            w = [weights[t] for t in names]
            if (stack := self._stacks.get((names, key))) is not None:
                directions.append(torch.tensordot(stack.new_tensor(w), stack, 1))
                continue
            found = self._solve()[0]
            total = found[names[0]][key] * w[0]
            for name, factor in zip(names[1:], w[1:], strict=True):
                total = total.add(found[name][key], alpha=factor)
            directions.append(total)
        return list(everywhere.values()), directions


def cloned(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Each in memory of its own: autograd may return one tensor for two parameters, or an expanded number."""
    return [None if g is None else g.clone() for g in gradients]


def _least(known: Tensor) -> float:
    """Of rows that tasks know (tasks, rows): min over pairs of |both| / max(|one|, |other|), 1 where one has none."""
    known = known.float()
    both = known @ known.T
    size = both.diagonal()
    some = torch.minimum(size[:, None], size[None]) > 0
    return float(torch.where(some, both / torch.maximum(size[:, None], size[None]).clamp(min=1), 1.0).min())


def linear_head(task: str, walk: Walk, pairs: Sequence[tuple[Tensor, Tensor]]) -> Product | None:
    """The linear layer that a head begins with, if that is all that reads the cut."""
    if len(pairs) != 1 or pairs[0][0].dim() != 2 or len(walk.entries) != 1:
        return None
    readers = walk.parents[next(iter(walk.entries))[0]]
    if len(readers) != 1:
        return None
    node, i = readers[0]
    if node.name() not in PRODUCTS or i != PRODUCTS[node.name()][0] or not unscaled(node):
        return None
    leaves: list[Tensor | None] = [None, None]
    for leaf in walk.leaves:
        uses = None if walk.leaves[leaf] is None else uses_of(walk, leaf)
        if uses is not None and uses[0][0] is node:
            if len(uses) > 1 or leaf.dtype != pairs[0][0].dtype:
                return None
            leaves[uses[0][1]] = leaf
    weight = PRODUCTS[node.name()][1]
    for j, (below, _) in enumerate(node.next_functions):  # whatever the product reads is the view or such a leaf
        if j != i and below is not None and leaves[j != weight] is None:
            return None
    kept = getattr(node, PRODUCTS[node.name()][3])
    if kept is None:
        return None
    return Product((task,), pairs[0][0], [GradientEdge(node, 0)], kept.detach().T, [(leaves[0], leaves[1])])


class LinearHeads(Heads):
    """Heads that all begin with a linear layer on one activation: residuals E_k are all that is asked of autograd.

    Args:
        rest: per task its parameters that are in no product.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        products: Sequence[Product],
        rest: Mapping[str, Sequence[Tensor]],
        scale: float,
    ) -> None:
        super().__init__(losses, {}, {}, products, scale)
        self.z = products[0].shared
        found = self._gradients([leaf for leaves in rest.values() for leaf in leaves])
        self.errors = self._errors(found)
        each: dict[str, dict[Tensor, Tensor]] = {}
        for product, errors in zip(self.products, self.errors, strict=True):
            each |= product.own_gradients(errors)
        self._own: dict[str, list[Tensor | None]] = {task: list(each[task].values()) for task in losses}
        more = iter(cloned(found))
        for task, leaves in rest.items():
            self.own[task] += leaves
            self._own[task] += [next(more) for _ in leaves]

    def own_gradients(self, task: str) -> list[Tensor | None]:
        return self._own[task]

    def _solve(self) -> tuple[dict[str, dict[int, Tensor]], dict[str, list[Tensor | None]]]:
        if self._found is None:
            at: dict[str, dict[int, Tensor]] = {}
            for product, errors in zip(self.products, self.errors, strict=True):
                down = product.down(errors)
                self._stacks[product.tasks, id(self.z)] = down
                at |= {t: {id(self.z): g} for t, g in zip(product.tasks, down.unbind(), strict=True)}
            self._found = at, self._own
        return self._found

    def gram(self) -> Tensor:
        sizes = [product.units for product in self.products for _ in product.tasks]
        (rows, d), n = self.z.shape, sum(sizes)
        if n * (rows + d) > rows * d:  # wide layers: the gradients E_k W_k themselves are cheaper
            return super().gram()
        errors = torch.cat(self.errors, 1)
        weight = torch.cat([product.weight for product in self.products]).to(errors.dtype)
        entries = (errors.T @ errors).double() * (weight @ weight.T).double()
        if n > len(sizes):
            of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(entries.device)
            inside = entries.new_zeros(len(sizes), n).index_add(0, of, entries)
            entries = inside.new_zeros(len(sizes), len(sizes)).index_add(1, of, inside)
        order = self._order(entries.device)
        return entries[order[:, None], order]

    def overlap(self) -> float:
        if all(bool((errors != 0).all()) for errors in self.errors):
            return 1.0
        known = [
            (errors.view(len(errors), len(product.tasks), -1) != 0).any(-1).T
            for product, errors in zip(self.products, self.errors, strict=True)
        ]
        return _least(torch.cat(known)[self._order(known[0].device)])

    def _order(self, device: torch.device) -> Tensor:
        """Where the tasks stand among those of the products."""
        place = {task: i for i, task in enumerate(task for product in self.products for task in product.tasks)}
        return torch.tensor([place[task] for task in self.losses], device=device)

    def combined(self, tasks: Sequence[str], weights: Mapping[str, float]) -> tuple[list[Tensor], list[Tensor]]:
        every = [task for product in self.products for task in product.tasks]
        if self._found is not None or len(tasks) < len(every):  # what is left out may not be finite
            return super().combined(tasks, weights)
        total: Tensor | None = None
        for product, errors in zip(self.products, self.errors, strict=True):
            factors = errors.new_tensor([weights[task] for task in product.tasks for _ in range(product.units)])
            part = (errors * factors) @ product.weight.to(errors.dtype)
            total = part if total is None else total + part
        assert total is not None
        return [self.z], [total.to(self.z.dtype)]


def in_places(tasks: Sequence[str], values: Sequence[Tensor], whole: Sequence[str | None], dim: int = 0) -> Tensor:
    """The weights of these tasks' heads side by side, each in its own of all the places; zeros in the others."""
    if tuple(whole) == tuple(tasks):
        return torch.stack(list(values), dim)
    of = dict(zip(tasks, values, strict=True))
    return torch.stack([of[t] if t in of else torch.zeros_like(values[0]) for t in whole], dim)


def out_of_places(tasks: Sequence[str], output: Tensor, whole: Sequence[str | None]) -> Tensor:
    """What these tasks get from the product of all places (..., places, units)."""
    if tuple(whole) == tuple(tasks):
        return output
    return output[..., [list(whole).index(t) for t in tasks], :]
