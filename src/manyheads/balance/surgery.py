"""Balances that need the tasks' gradients themselves: the rows of the Jacobian, not only their inner products."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..gramian import Gradients
from ..graph import Walk
from . import Balance, Look, Losses
from .aggregation import Solution, Watch

BLOCK = 2**20
"""So many columns at a time are turned into float64 for the inner products."""


class Surgery(Balance):
    """A balance that makes the update from the rows of the Jacobian J (tasks, n), entry by entry if it likes.

    The n parameters are those that two tasks or more share; what belongs to one task gets its own gradient. Where all
    tasks agree (equal rows) the update is that of `Equal`, the sum of the rows.

    The rows are kept until the step is over: K times the memory of one gradient of the shared parameters, and while J
    is put together K times once more. Methods that can do with inner products are an `Aggregation`.
    """

    cut = True

    def __init__(self) -> None:
        super().__init__()
        self._age = 0
        self._rows: dict[str, dict[Tensor, Tensor]] = {}
        self._order: dict[Tensor, None] = {}
        self._preference: dict[str, float] = {}
        self._scale = 1.0
        self._watch = Watch()
        self.note = ""
        """Why the last update is not what the method promises; "" where it is."""

    @abstractmethod
    def combine(self, rows: Tensor, tasks: Sequence[str], preference: Tensor) -> Tensor:
        """The update (n,) of a step, and the state renewed.

        Args:
            rows: J (tasks, n), finite; float32 or wider. Columns come in an order that the graph of the losses gives,
                whatever the order in which the tasks were handed over.
            tasks: names, sorted, of the rows.
            preference: the user's `weight` of each task (tasks,), 1 where unsaid.
        """

    @final
    def fill(self, losses: Losses, look: Look | None, scale: float, last: bool) -> bool:
        gradients = Gradients({t: losses[t] for t in losses.tasks}, losses.cut, losses.features, scale)
        self._order |= dict.fromkeys(Walk([losses[t] for t in sorted(losses.tasks)]).leaves)
        for task, row in gradients.rows().items():
            mine = self._rows.setdefault(task, {})
            for leaf, g in row.items():
                mine[leaf] = mine[leaf] + g if leaf in mine else g
        self._preference |= {task: losses.weight.get(task, 1.0) for task in losses.tasks}
        self._scale = scale
        aux = [value for value in losses.aux.values() if value.requires_grad]
        if aux:
            torch.autograd.backward(aux, [torch.full_like(value, scale) for value in aux])
        return self._finish() if last else True

    def settle(self) -> None:
        if self._rows:
            self._finish()

    def _finish(self) -> bool:
        """End a step, whose parts have been added up."""
        rows, order, preference, scale = self._rows, list(self._order), self._preference, self._scale
        self._rows, self._order, self._preference = {}, {}, {}
        tasks = [task for task in sorted(rows) if all(bool(torch.isfinite(g).all()) for g in rows[task].values())]
        for task in (task for task in rows if task not in tasks):
            self.dropped[task] = self.dropped.get(task, 0) + 1
        if len(tasks) < len(rows) and scale != 1.0:
            for row in rows.values():  # the scaler is to see it
                _add(row)
            return False
        if not tasks:
            return False
        count: dict[Tensor, int] = {}
        for task in tasks:
            for leaf in rows[task]:
                count[leaf] = count.get(leaf, 0) + 1
        shared = [leaf for leaf in order if count.get(leaf, 0) > 1]
        self.last_weights = {}
        if shared:
            jacobian = _stacked([rows[task] for task in tasks], shared, scale)
            wanted = jacobian.new_tensor([preference[task] for task in tasks])
            self.note = ""
            update = self.combine(jacobian, tasks, wanted) * scale
            solution = Solution(np.array([]), 0.0, self.note)
            self._watch.add(tasks, _gram(jacobian), solution, "exact")
            self._age += 1
            for leaf, part in zip(shared, update.split([leaf.numel() for leaf in shared]), strict=True):
                _add({leaf: part.view_as(leaf).to(leaf.dtype)})
        else:
            self.last_weights = dict.fromkeys(tasks, 1.0)  # nobody has to give way
        for task in tasks:
            _add(rows[task])
        return True

    def report(self) -> dict[str | None, dict[str, float]]:
        found, self._watch = self._watch.report(), Watch()
        if None in found:
            del found[None]["solver residual, largest"]
        for task, own in super().report().items():
            found[task] = found.get(task, {}) | own
        return found

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"age": self._age, "watch": self._watch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._age, self._watch = state["age"], Watch()
        self._watch.load_state_dict(state["watch"])


def _add(row: Mapping[Tensor, Tensor]) -> None:
    for leaf, g in row.items():
        leaf.grad = g if leaf.grad is None else leaf.grad + g


def _stacked(rows: Sequence[dict[Tensor, Tensor]], shared: Sequence[Tensor], scale: float) -> Tensor:
    """J (tasks, n); what it takes up is taken out of `rows`."""
    flat = []
    for row in rows:
        found = torch.cat([row.pop(leaf).flatten() if leaf in row else leaf.new_zeros(leaf.numel()) for leaf in shared])
        flat.append(found.float() if found.dtype in (torch.bfloat16, torch.float16) else found)
    jacobian = torch.stack(flat)
    return jacobian if scale == 1.0 else jacobian.div_(scale)


def _gram(jacobian: Tensor) -> np.ndarray:
    blocks = [block.double() for block in jacobian.split(BLOCK, 1)]
    return torch.stack([block @ block.T for block in blocks]).sum(0).cpu().numpy()
