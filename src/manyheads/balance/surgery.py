"""Balances that need the tasks' gradients themselves: the rows of the Jacobian, not only their inner products."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from torch import Tensor

from ..gradients.jacobian import Jacobian, squared
from ..gradients.layers import accumulate
from . import Balance, Losses
from .aggregation import UNSOLVED, Solution, Watch


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
    def fill(self, losses: Losses, scale: float, rows: Jacobian | None) -> bool:
        aux = list(losses.aux.values())
        if rows is None:
            rows = Jacobian(scale)
            rows.add(dict(losses), losses.cut, losses.features)
        tasks = sorted(rows.finite())
        for task in (task for task in losses.tasks if task not in tasks):
            self.dropped[task] = self.dropped.get(task, 0) + 1
        if len(tasks) < len(losses) and scale != 1.0:
            rows.backward(dict.fromkeys(losses.tasks, 1.0), aux)  # the scaler is to see it
            return False
        if not tasks:
            return False
        rows.keep(tasks)
        self.last_weights = {}
        if shared := rows.shared:
            jacobian = rows.stacked(tasks, shared)
            self.note = ""
            kept = losses.only([losses.tasks.index(task) for task in tasks])
            update = self.combine(jacobian, tasks, kept.preferences().to(jacobian)) * scale
            self._watch.add(tasks, squared(jacobian), Solution(np.array([]), UNSOLVED, self.note), "exact")
            self._age += 1
            for leaf, part in zip(shared, update.split([leaf.numel() for leaf in shared]), strict=True):
                accumulate(leaf, part.view_as(leaf))
        else:
            self._watch.alone()
            self.last_weights = dict.fromkeys(tasks, 1.0)  # nobody has to give way
        rows.backward(dict.fromkeys(tasks, 1.0), aux)  # what is a task's own
        return True

    def report(self) -> dict[str | None, dict[str, float]]:
        found, self._watch = self._watch.report(), Watch()
        for task, own in super().report().items():
            found[task] = found.get(task, {}) | own
        return found

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"age": self._age, "watch": self._watch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._age, self._watch = state["age"], Watch()
        self._watch.load_state_dict(state["watch"])
