"""What is above the cut: gradients at the activations that tasks share, and those of the heads' own parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .graph import PRODUCTS, Walk, unscaled, uses_of
from .layers import flat, wide

LOOKED_AT = 16
"""So many of an activation's numbers are looked at first to tell whether a row has a gradient."""


class Heads:
    """What is above the cut: gradients there and those of the tasks' own parameters, in one pass through the heads."""

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        walks: Mapping[str, Walk],
        pairs: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
        scale: float,
        together: bool = True,
    ) -> None:
        self.losses, self.pairs, self.scale, self.together = losses, pairs, scale, together
        self.own = {task: list(walk.leaves) for task, walk in walks.items()}
        self._read = {
            t: frozenset(id(z) for z, v in pairs[t] if (v.grad_fn, v.output_nr) in walks[t].entries) for t in losses
        }
        self._activations: dict[str, list[Tensor]] = {}
        for task, read in self._read.items():
            unique = {id(z): z for z, _ in pairs[task] if id(z) in read}
            self._activations[task] = [unique[key] for key in sorted(unique)]
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
            inputs = {t: [*(v for z, v in self.pairs[t] if id(z) in self._read[t]), *self.own[t]] for t in self.losses}
            each: dict[str, Sequence[Tensor | None]] = {}
            if self.together:
                flat = torch.autograd.grad(
                    [loss for loss in self.losses.values() if loss.requires_grad],
                    [x for t in self.losses for x in inputs[t]],
                    [torch.full_like(loss, self.scale) for loss in self.losses.values() if loss.requires_grad],
                    retain_graph=True,
                    allow_unused=True,
                )
                start = 0
                for task in self.losses:
                    each[task] = flat[start : start + len(inputs[task])]
                    start += len(inputs[task])
            else:
                for task, loss in self.losses.items():
                    each[task] = (
                        torch.autograd.grad(
                            loss, inputs[task], torch.full_like(loss, self.scale), retain_graph=True, allow_unused=True
                        )
                        if inputs[task]
                        else ()
                    )
            at: dict[str, dict[int, Tensor]] = {t: {} for t in self.losses}
            own: dict[str, list[Tensor | None]] = {}
            for task, gradients in each.items():
                read = [z for z, _ in self.pairs[task] if id(z) in self._read[task]]
                for z, g in zip(read, gradients, strict=False):
                    g = torch.zeros_like(z) if g is None else g
                    at[task][id(z)] = at[task][id(z)] + g if id(z) in at[task] else g
                own[task] = cloned(gradients[len(read) :])
            self._found = at, own
        return self._found

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


@dataclass
class Linear:
    """A head that is one linear layer: its product, weight (outputs, d), and own parameters."""

    node: Node
    weight: Tensor
    weight_leaf: Tensor | None
    bias_leaf: Tensor | None


def linear_head(walk: Walk, pairs: Sequence[tuple[Tensor, Tensor]]) -> Linear | None:
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
    return None if kept is None else Linear(node, kept.detach().T, *leaves)


class LinearHeads(Heads):
    """Heads that begin with a linear layer each: its residuals E_k are all that is asked of autograd."""

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        walks: Mapping[str, Walk],
        pairs: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
        scale: float,
        heads: Sequence[Linear],
    ) -> None:
        super().__init__(losses, walks, pairs, scale)
        self.heads = dict(zip(losses, heads, strict=True))
        self.z = pairs[next(iter(losses))][0][0]
        self.weight = torch.cat([head.weight for head in heads])
        self.sizes = [len(head.weight) for head in heads]
        self._rest = {
            t: [leaf for leaf in self.own[t] if leaf is not h.weight_leaf and leaf is not h.bias_leaf]
            for t, h in self.heads.items()
        }
        asked: list[Any] = [GradientEdge(head.node, 0) for head in heads]
        found = torch.autograd.grad(
            list(losses.values()),
            [*asked, *(leaf for rest in self._rest.values() for leaf in rest)],
            [torch.full_like(loss, scale) for loss in losses.values()],
            retain_graph=True,
            allow_unused=True,
        )
        errors = [
            g if g is not None else self.z.new_zeros(len(self.z), n) for g, n in zip(found, self.sizes, strict=False)
        ]
        self.errors = torch.cat(errors, 1)
        self._own = self._own_of(cloned(found[len(heads) :]))

    def _own_of(self, rest: Sequence[Tensor | None]) -> dict[str, list[Tensor | None]]:
        of_weights = (self.errors.T @ self.z.detach()).split(self.sizes)
        of_biases = self.errors.sum(0).split(self.sizes)
        found: dict[str, list[Tensor | None]] = {}
        others = iter(rest)
        for i, (task, head) in enumerate(self.heads.items()):
            more = {leaf: next(others) for leaf in self._rest[task]}
            more |= {head.weight_leaf: of_weights[i], head.bias_leaf: of_biases[i]}  # type: ignore[dict-item]
            found[task] = [more[leaf] for leaf in self.own[task]]
        return found

    def own_gradients(self, task: str) -> list[Tensor | None]:
        return self._own[task]

    def _solve(self) -> tuple[dict[str, dict[int, Tensor]], dict[str, list[Tensor | None]]]:
        if self._found is None:
            n, d = len(self.sizes), self.weight.shape[1]
            if len(set(self.sizes)) == 1:  # all in one product
                errors = self.errors.view(len(self.errors), n, -1).transpose(0, 1)
                stack = errors @ self.weight.view(n, -1, d)
                self._stacks[tuple(self.heads), id(self.z)] = stack
                each: Sequence[Tensor] = stack.unbind()
            else:
                parts = zip(self.heads.values(), self.errors.split(self.sizes, 1), strict=True)
                each = [e @ head.weight for head, e in parts]
            self._found = {t: {id(self.z): g} for t, g in zip(self.heads, each, strict=True)}, self._own
        return self._found

    def gram(self) -> Tensor:
        (rows, n), d = self.errors.shape, self.weight.shape[1]
        if n * (rows + d) > rows * d:  # wide layers: the gradients E_k W_k themselves are cheaper
            return super().gram()
        errors, weight = wide(self.errors), wide(self.weight)
        entries = (errors.T @ errors).double() * (weight @ weight.T).double()
        if n == len(self.sizes):
            return entries
        of = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes)).to(entries.device)
        inside = entries.new_zeros(len(self.sizes), len(entries)).index_add(0, of, entries)
        return inside.new_zeros(len(self.sizes), len(self.sizes)).index_add(1, of, inside)

    def overlap(self) -> float:
        if bool((self.errors != 0).all()):
            return 1.0
        if len(set(self.sizes)) == 1:
            return _least((self.errors.view(len(self.errors), len(self.sizes), -1) != 0).any(-1).T)
        return _least(torch.stack([(e != 0).any(1) for e in self.errors.split(self.sizes, 1)]))

    def combined(self, tasks: Sequence[str], weights: Mapping[str, float]) -> tuple[list[Tensor], list[Tensor]]:
        each = [weights.get(task, 0.0) for task in self.heads]
        if self._found is not None or len(tasks) < len(each):  # what is left out may not be finite
            return super().combined(tasks, weights)
        factors = self.errors.new_tensor([w for w, n in zip(each, self.sizes, strict=True) for _ in range(n)])
        return [self.z], [(self.errors * factors) @ self.weight]
