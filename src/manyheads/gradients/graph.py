"""Autograd's graph: which parameters a loss depends on, and what they are used for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node


def reached(loss: Tensor) -> set[Tensor]:
    """The leaf tensors that require a gradient and that a loss depends on."""
    return set(Walk([loss]).leaves)


Edge = tuple[Any, int]
"""A node, and which of its outputs."""


class Walk:
    """The graph below some tensors, down to the gates and no further.

    Attributes:
        leaves: parameters -> their node.
        parents: node -> those that read it, and as which of their inputs.
        entries: gates that were met.
    """

    def __init__(self, roots: Sequence[Tensor], gates: Collection[Edge] = ()) -> None:
        self.leaves: dict[Tensor, Node | None] = {}
        self.parents: dict[Node, list[tuple[Node, int]]] = {}
        self.entries: set[Edge] = set()
        todo: list[Any] = []
        for root in roots:
            if (edge := (root.grad_fn, root.output_nr)) in gates:
                self.entries.add(edge)
            elif root.grad_fn is not None:
                todo.append(root.grad_fn)
            elif root.requires_grad:
                self.leaves[root] = None
        seen = set(todo)
        while todo:
            node = todo.pop()
            if type(node).__name__ == "AccumulateGrad":
                self.leaves[node.variable] = node
                continue
            for i, edge in enumerate(node.next_functions):
                below = edge[0]
                if below is None:
                    continue
                self.parents.setdefault(below, []).append((node, i))
                if edge in gates:
                    self.entries.add(edge)
                elif below not in seen:
                    seen.add(below)
                    todo.append(below)


_PASSED = ("TBackward0", "ToCopyBackward0")
"""What may stand between a weight and the product that it is used in."""
PRODUCTS = {
    "AddmmBackward0": (1, 2, "_saved_mat1", "_saved_mat2"),
    "MmBackward0": (0, 1, "_saved_self", "_saved_mat2"),
}
"""Products of matrices: (which input is x, which is the transposed weight, where each is kept)."""


def uses_of(walk: Walk, leaf: Tensor) -> list[tuple[Node, bool]] | None:
    """(product, is it its bias) of all products x W' + b that use a parameter; None where it is used otherwise."""
    found: list[tuple[Node, bool]] = []
    todo: list[tuple[Any, int]] = [(walk.leaves[leaf], 0)]
    while todo:
        node, turned = todo.pop()
        for parent, i in walk.parents.get(node, ()):
            name = parent.name()
            if name in _PASSED:
                todo.append((parent, turned + (name == "TBackward0")))
                continue
            if name not in PRODUCTS or not unscaled(parent):
                return None
            _, weight, _, _ = PRODUCTS[name]
            is_weight = i == weight and turned == 1 and leaf.dim() == 2
            is_bias = name == "AddmmBackward0" and i == 0 and turned == 0 and leaf.shape == _outputs_of(parent)
            if not (is_weight or is_bias):
                return None
            found.append((parent, is_bias))
    return found or None


def unscaled(node: Any) -> bool:
    """Whether a product is x W' + b and not alpha x W' + beta b."""
    return node.name() == "MmBackward0" or node._saved_alpha == node._saved_beta == 1


def _outputs_of(node: Any) -> tuple[int, ...]:
    return tuple(node._saved_mat2_sym_sizes[1:])


def input_of(node: Node) -> Tensor:
    """What a product read: x."""
    return getattr(node, PRODUCTS[node.name()][2]).detach()


def rows_of(node: Any) -> int:
    """How many rows the input of a product has."""
    return getattr(node, PRODUCTS[node.name()][2] + "_sym_sizes")[0]
