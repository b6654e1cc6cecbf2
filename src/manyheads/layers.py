"""What is below the cut: the tasks' gradients, carried down to the layers, and their inner products there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .graph import Walk, input_of, uses_of


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
        """(tasks, tasks), by the cheaper of two ways."""
        if self.gradients is None:
            inputs, errors = self._rows()
            n, rows, out = errors.shape
            d = inputs.shape[1]
            by_rows = rows * rows * (d + n * out) + n * n * rows * out
            if by_rows < n * rows * d * out + n * n * d * out:
                turned = (inputs @ inputs.T) @ errors
                return errors.flatten(1) @ turned.flatten(1).T
        flat = self.flat()
        return flat @ flat.T

    def _rows(self) -> tuple[Tensor, Tensor]:
        kept = [input_of(node) for node in self.products]
        inputs = kept[0] if len(kept) == 1 else torch.cat(kept)
        errors = self.errors[0] if len(self.errors) == 1 else torch.cat(self.errors, 1)
        errors = wide(errors)
        return inputs.to(errors.dtype), errors


def wide(x: Tensor) -> Tensor:
    """In a type that products of gradients fit into."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def flat(x: Tensor) -> Tensor:
    """Gradients (tasks, ...) -> (tasks, n), to be multiplied."""
    return wide((x.to_dense() if x.is_sparse else x).reshape(len(x), -1))


def add(gram: Tensor, parts: Sequence[Part]) -> None:
    places = [i for part in parts for i in part.places]
    if parts[0].products and all(part.products == parts[0].products for part in parts):  # rows in common
        errors = [torch.cat(each) for each in zip(*(part.errors for part in parts), strict=True)]
        found = Part(places, None, parts[0].products, errors).gram()
    else:
        flat = torch.cat([part.flat() for part in parts])
        found = flat @ flat.T
    index = torch.tensor(places, device=gram.device)
    gram[index[:, None], index[None]] += found.to(gram.dtype)


class Pass:
    """The gradients of some tasks, carried from the activations that they all read down to the layers.

    Args:
        places: which tasks.
        roots: the activations.
        directions: of each activation, the gradients of the tasks there (tasks, ...).
        shared: the parameters whose products are asked; None for all.
        own: per task, parameters below that are its own: their gradients are wanted as well.
        n_groups: how many passes there are.
    """

    def __init__(
        self,
        places: Sequence[int],
        roots: Sequence[Tensor],
        directions: Sequence[Any],
        shared: set[Tensor] | None,
        own: Mapping[str, list[Tensor]],
        n_groups: int = 1,
    ) -> None:
        self.places, self.roots, self.directions, self.own = places, roots, directions, own
        walk = Walk(roots)
        mine = {leaf for leaves in own.values() for leaf in leaves}
        self.nodes: dict[Node, None] = {}
        self.uses: dict[Tensor, list[tuple[Node, bool]]] = {}
        self.plain: list[Tensor] = []
        for leaf, node in walk.leaves.items():
            if leaf in mine or (shared is not None and leaf not in shared):
                continue
            uses = None if node is None else uses_of(walk, leaf)
            if uses is None:
                self.plain.append(leaf)
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
        """Per input (tasks, ...), None where no task reaches it."""
        n = len(self.places)
        if n > 1:
            try:
                return list(
                    torch.autograd.grad(
                        self.roots,
                        inputs,
                        self.directions,
                        retain_graph=True,
                        allow_unused=True,
                        is_grads_batched=True,
                    )
                )
            except (RuntimeError, NotImplementedError):  # what torch cannot do for several at once it does one by one
                pass
        each = [
            torch.autograd.grad(
                self.roots, inputs, [d[i] for d in self.directions], retain_graph=True, allow_unused=True
            )
            for i in range(n)
        ]
        if n == 1:
            return [None if g is None else g.unsqueeze(0) for g in each[0]]
        return [None if g[0] is None else torch.stack(g) for g in zip(*each, strict=True)]
