"""What is below the cut: the tasks' gradients, carried down to the layers, and their inner products there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .graph import Walk, input_of, rows_of, uses_of


@dataclass
class Part:
    """What a pass says of one parameter: the gradients of its tasks (tasks, n), or the rows that they are made from."""

    places: Sequence[int]
    gradients: Tensor | None = None
    products: list[Node] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)

    def flat(self) -> Tensor:
        """The gradients (tasks, n)."""
        if self.gradients is None:
            inputs, errors = self._rows()
            self.gradients = (errors.mT @ inputs).flatten(1)
        return self.gradients

    def gram(self) -> Tensor:
        """(tasks, tasks)."""
        if self.gradients is None:
            inputs, errors = self._rows()
            return flat(errors) @ flat((inputs @ inputs.T) @ errors).T
        return self.gradients @ self.gradients.T

    def combined(self, weights: Mapping[int, float]) -> Tensor:
        """sum_k w_k g_k (n,) over the places that have a weight."""
        there = [j for j, place in enumerate(self.places) if place in weights]
        w = [weights[self.places[j]] for j in there]
        every = len(there) == len(self.places)  # what is left out may not be finite
        if self.gradients is not None:
            own = self.gradients if every else self.gradients[there]
            return own.new_tensor(w) @ own
        inputs, errors = self._rows()
        errors = errors if every else errors[there]
        return (torch.tensordot(errors.new_tensor(w), errors, 1).T @ inputs).flatten()

    def _rows(self) -> tuple[Tensor, Tensor]:
        kept = [input_of(node) for node in self.products]
        inputs = kept[0] if len(kept) == 1 else torch.cat(kept)
        errors = self.errors[0] if len(self.errors) == 1 else torch.cat(self.errors, 1)
        errors = wide(errors)
        return inputs.to(errors.dtype), errors


def _by_rows(weight: Tensor, products: Sequence[Node], n: int) -> bool:
    """Whether products of rows are cheaper than the gradients of a weight (out, d) themselves, for n tasks."""
    if not products:
        return False
    (out, d), rows = weight.shape, sum(rows_of(node) for node in products)
    by_rows = rows * rows * (d + n * out) + n * n * rows * out + rows * d * out  # the last: their weighted sum
    return by_rows < n * rows * d * out + n * n * d * out


def wide(x: Tensor) -> Tensor:
    """In a type that products of gradients fit into."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def flat(x: Tensor) -> Tensor:
    """Gradients (tasks, ...) -> (tasks, n), to be multiplied."""
    return wide(_dense(x).reshape(len(x), -1))


def joined(parts: Sequence[Part]) -> list[Part]:
    """The same parts, as one where they are made from the same rows."""
    if len(parts) == 1 or not parts[0].products or any(part.products != parts[0].products for part in parts):
        return list(parts)
    errors = [torch.cat(each) for each in zip(*(part.errors for part in parts), strict=True)]
    return [Part([i for part in parts for i in part.places], None, parts[0].products, errors)]


def add(gram: Tensor, parts: Sequence[Part]) -> None:
    """Add the products of one parameter's gradients."""
    if len(parts) == 1:
        found = parts[0].gram()
    else:
        rows = torch.cat([part.flat() for part in parts])
        found = rows @ rows.T
    index = torch.tensor([i for part in parts for i in part.places], device=gram.device)
    gram[index[:, None], index[None]] += found.to(gram.dtype)


def accumulate(leaf: Tensor, gradient: Tensor) -> None:
    """Add to `.grad`, which lies in memory as its leaf does: fused optimisers go through both side by side."""
    gradient = gradient.to(leaf.dtype)
    if leaf.grad is None:
        alike = gradient.is_sparse or gradient.stride() == leaf.stride()
        leaf.grad = gradient if alike else torch.empty_like(leaf).copy_(gradient)
    elif leaf.grad.is_sparse:
        leaf.grad = gradient + leaf.grad
    else:
        leaf.grad.add_(gradient)


TOGETHER = 8
"""So many tasks go down in one batch: more are not faster, and take more memory."""


class Pass:
    """The gradients of some tasks, carried from the activations that they all read down to the layers.

    Args:
        places: which tasks.
        roots: the activations.
        directions: of each activation, the gradients of the tasks there (tasks, ...).
        shared: the parameters whose products are asked; None for all.
        own: per task, parameters below that are its own: their gradients are wanted as well.
        n_alike: how many tasks go down through the same rows, in this pass and in others.
    """

    def __init__(
        self,
        places: Sequence[int],
        roots: Sequence[Tensor],
        directions: Sequence[Any],
        shared: set[Tensor] | None,
        own: Mapping[str, list[Tensor]],
        n_alike: int,
    ) -> None:
        self.places, self.roots, self.directions, self.own = places, roots, directions, own
        walk = Walk(roots)
        mine = {leaf for leaves in own.values() for leaf in leaves}
        self.nodes: dict[Node, None] = {}
        self.uses: dict[Tensor, list[tuple[Node, bool]]] = {}
        self.plain: list[Tensor] = []
        self.sparse = False
        """Whether a parameter gets a gradient of some rows only."""
        for leaf, node in sorted(walk.leaves.items(), key=lambda item: item[0].dim() < 2):  # biases after their weights
            if leaf in mine or (shared is not None and leaf not in shared):
                continue
            uses = None if node is None else uses_of(walk, leaf)
            if uses is None or (leaf.dim() > 1 and not _by_rows(leaf, [n for n, _ in uses], n_alike)):
                self.plain.append(leaf)
                if node is not None:
                    self.sparse |= any(getattr(n, "_saved_sparse", False) for n, _ in walk.parents.get(node, ()))
            else:
                self.uses[leaf] = uses
                self.nodes |= dict.fromkeys(n for n, _ in uses)

    def run(self, own_gradients: dict[str, list[Tensor | None]]) -> dict[Tensor, Part]:
        """What it finds, parameter by parameter; the gradients of own parameters are put into `own_gradients`."""
        nodes = list(self.nodes)
        mine = [leaf for leaves in self.own.values() for leaf in leaves]
        inputs: list[Any] = [*(GradientEdge(n, 0) for n in nodes), *self.plain, *mine]
        found = self.gradients(inputs) if inputs else []
        errors = dict(zip(nodes, found, strict=False))
        start = len(nodes) + len(self.plain)
        for i, (task, leaves) in enumerate(self.own.items()):
            if leaves:
                own = found[start : start + len(leaves)]
                own_gradients[task] = [None if g is None else g[i] for g in own]
                start += len(leaves)
        parts: dict[Tensor, Part] = {}
        for leaf, g in zip(self.plain, found[len(nodes) :], strict=False):
            if g is not None:
                parts[leaf] = Part(self.places, flat(g))
        for leaf, uses in self.uses.items():
            there = [(node, is_bias) for node, is_bias in uses if errors[node] is not None]
            if not there:
                continue
            if there[0][1]:
                total = torch.stack([wide(errors[n]).sum(1) for n, _ in there]).sum(0)  # type: ignore[arg-type]
                parts[leaf] = Part(self.places, total)
            else:
                each: list[Any] = [errors[n] for n, _ in there]
                parts[leaf] = Part(self.places, None, [n for n, _ in there], each)
        return parts

    def gradients(self, inputs: Sequence[Any]) -> list[Tensor | None]:
        """Per input (tasks, ...), None where no task reaches it.

        Together where there is little to compute for each: gradients of matrices are faster one task after the other.
        """
        n = len(self.places)
        if n > 1 and not any(isinstance(x, Tensor) and x.dim() > 1 for x in inputs):
            try:
                parts = [self._some(inputs, slice(i, i + TOGETHER)) for i in range(0, n, TOGETHER)]
            except (RuntimeError, NotImplementedError):  # what torch cannot do for several at once
                pass
            else:
                return [g[0] if len(g) == 1 or g[0] is None else torch.cat(g) for g in zip(*parts, strict=True)]
        found: list[Tensor | None] = []
        for i in range(n):
            directions = [d[i] for d in self.directions]
            one = torch.autograd.grad(self.roots, inputs, directions, retain_graph=True, allow_unused=True)
            if n == 1:
                return [None if g is None else g.unsqueeze(0) for g in one]
            if not found:
                found = [None if g is None else _dense(g).new_empty(n, *g.shape) for g in one]
            for all_of, g in zip(found, one, strict=True):
                if all_of is not None and g is not None:
                    all_of[i] = _dense(g)
            del one
        return found

    def _some(self, inputs: Sequence[Any], tasks: slice) -> tuple[Tensor | None, ...]:
        directions = [d[tasks] for d in self.directions]
        return torch.autograd.grad(
            self.roots, inputs, directions, retain_graph=True, allow_unused=True, is_grads_batched=True
        )


def _dense(x: Tensor) -> Tensor:
    return x.to_dense() if x.is_sparse else x
