"""The tasks' gradients themselves, each the sum over the parts of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from .gramian import Cut, Gradients
from .graph import Walk
from .layers import accumulate

BLOCK = 2**20
"""So many columns at a time are turned into float64 for the inner products."""


class Jacobian:
    """Per task its gradient of every parameter that it reaches: K times the memory of one gradient.

    Products of sums are not sums of products, so a step that comes in parts needs the gradients themselves. Asked like
    `manyheads.gradients.gramian.Gradients`, whose `exact` it always measures.

    Args:
        scale: the factor of a GradScaler: gradients are that much larger, `gram` is not.
    """

    mode = "exact"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._rows: dict[str, dict[Tensor, Tensor]] = {}
        self._order: dict[Tensor, None] = {}

    def add(
        self, losses: Mapping[str, Tensor], cut: Cut | None = None, features: Sequence[Tensor] | None = None
    ) -> None:
        """One part more, as `Gradients` takes it."""
        self._order |= dict.fromkeys(Walk([losses[task] for task in sorted(losses)]).leaves)
        for task, row in Gradients(losses, cut, features, self.scale).rows().items():
            mine = self._rows.setdefault(task, {})
            for leaf, g in row.items():
                mine[leaf] = mine[leaf] + g if leaf in mine else g

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order in which they came."""
        return tuple(self._rows)

    @property
    def shared(self) -> list[Tensor]:
        """The parameters that two tasks or more reach, in an order that does not depend on that of the tasks."""
        count: dict[Tensor, int] = {}
        for row in self._rows.values():
            for leaf in row:
                count[leaf] = count.get(leaf, 0) + 1
        return [leaf for leaf in self._order if count.get(leaf, 0) > 1]

    def rows(self) -> dict[str, dict[Tensor, Tensor]]:
        """task -> parameter -> gradient, `scale` times as large."""
        return self._rows

    def finite(self) -> list[str]:
        """The tasks whose gradients are finite."""
        return [t for t, row in self._rows.items() if all(bool(torch.isfinite(g).all()) for g in row.values())]

    def keep(self, tasks: Sequence[str]) -> None:
        """Forget the others."""
        self._rows = {task: self._rows[task] for task in tasks}

    def measure(self, mode: str = "exact") -> np.ndarray:
        """G (tasks, tasks) float64; over all leaves that ask for gradients where none of them is an `nn.Parameter`."""
        gram = np.zeros((len(self._rows), len(self._rows)))
        every = not any(isinstance(leaf, Parameter) for leaf in self._order)
        for leaf in self.shared:
            if every or isinstance(leaf, Parameter):
                has = [i for i, row in enumerate(self._rows.values()) if leaf in row]
                flat = torch.stack([self._rows[self.tasks[i]][leaf].to_dense().flatten() for i in has])
                gram[np.ix_(has, has)] += squared(flat) / self.scale**2
        return gram

    def backward(self, weights: Mapping[str, float], aux: Sequence[Tensor] = (), everywhere: bool = False) -> None:
        """Add to every `.grad`: sum_k w_k g_k for shared parameters, its own gradient for a task's own.

        Args:
            weights: one per task; a task that is left out adds nothing, to its own parameters either.
            aux: further scalars, minimised as they are.
            everywhere: weights go for a task's own parameters as well.
        """
        shared = set(self.shared)
        for task, weight in weights.items():
            for leaf, g in self._rows[task].items():
                accumulate(leaf, g * weight if everywhere or leaf in shared else g)
        if rest := [value for value in aux if value.requires_grad]:
            torch.autograd.backward(rest, [torch.full_like(value, self.scale) for value in rest])

    def stacked(self, tasks: Sequence[str], leaves: Sequence[Tensor]) -> Tensor:
        """J (tasks, n), float32 or wider, over these parameters; what it takes up is taken out of `rows`."""
        flat = []
        for task in tasks:
            row = self._rows[task]
            parts = [row.pop(leaf).to_dense() if leaf in row else torch.zeros_like(leaf) for leaf in leaves]
            found = torch.cat([part.flatten() for part in parts])
            flat.append(found.float() if found.dtype in (torch.bfloat16, torch.float16) else found)
        jacobian = torch.stack(flat)
        return jacobian if self.scale == 1.0 else jacobian.div_(self.scale)


def squared(rows: Tensor) -> np.ndarray:
    """J J' (tasks, tasks) of J (tasks, n), in float64."""
    blocks = [block.double() for block in rows.split(BLOCK, 1)]
    return torch.stack([block @ block.T for block in blocks]).sum(0).cpu().numpy()
