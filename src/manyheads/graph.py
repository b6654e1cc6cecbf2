"""Which parameters does a loss depend on? Ask autograd's graph, once per set of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def reached(loss: Tensor) -> set[Tensor]:
    """The leaf tensors that require a gradient and that a loss depends on."""
    if loss.grad_fn is None:
        return {loss} if loss.requires_grad else set()
    seen: set[Any] = set()
    todo: list[Any] = [loss.grad_fn]
    leaves: set[Tensor] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(node.variable)
        todo += [following for following, _ in node.next_functions]
    return leaves


class Reach:
    """Remembers, per set of tasks, which parameters are shared by two losses or more and which belong to one.

    The walk costs about a millisecond for a hundred tensors, so it is made once for each set of tasks; `forget` it when
    parameters were frozen, unfrozen or replaced.
    """

    def __init__(self) -> None:
        self._known: dict[frozenset[str], tuple[list[Tensor], dict[str, list[Tensor]]]] = {}

    def split(self, losses: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """(shared, own): the parameters that two losses or more reach, and per task those that it alone reaches."""
        key = frozenset(losses)
        if key not in self._known:
            reach = {task: reached(loss) for task, loss in losses.items()}
            count: dict[Tensor, int] = {}
            for leaves in reach.values():
                for leaf in leaves:
                    count[leaf] = count.get(leaf, 0) + 1
            shared = [leaf for leaf, n in count.items() if n > 1]
            own = {task: [leaf for leaf in leaves if count[leaf] == 1] for task, leaves in reach.items()}
            self._known[key] = (shared, own)
        return self._known[key]

    def forget(self) -> None:
        """Ask the graph again next time."""
        self._known.clear()
