"""Dynamic weight average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..ranges import Range, log
from . import Look, Losses, Weighting
from .given import whole

STEEPEST = 1e6
"""The largest rate r_k that is told apart: a loss that comes up from next to nothing has no rate."""


class DWA(Weighting):
    """Dynamic weight average: the more, the slower a task's loss falls.

    w_k = p_k K exp(r_k / T) / sum_j exp(r_j / T), with r_k = L_k(t-1) / L_k(t-2) the rate at which the mean loss of
    task k changed over its last two epochs (1 before it has had two), T the temperature, K the number of tasks in the
    step and p_k the user's preference.

    Cost: one backward pass.
    State: per task the mean losses of its last two epochs, and the sum of the present one.
    Safe range: losses above 0; a task whose mean loss was 0, or came to be under it, has the rate 1. The preference p_k
    multiplies w_k.

    An epoch ends where the loop calls `new_epoch`. A loop that does not says `steps_per_epoch`; without either, all
    rates stay 1, which is `Equal`.

    Args:
        temperature: T; the larger, the more equal the weights.
        steps_per_epoch: for a task, an epoch is so many of its own steps, whatever the loop says.

    Raises:
        ValueError: `temperature` is not positive, or an epoch has less than one step.

    Reference:
        Liu, Johns, Davison: End-to-end multi-task learning with attention, 2019.
    """

    search: ClassVar[Mapping[str, Range]] = {"temperature": log(0.5, 10)}

    def __init__(self, temperature: float = 2.0, steps_per_epoch: int | None = None) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"`temperature` should be positive. Found {temperature}.")
        self.temperature = temperature
        self.steps_per_epoch = None if steps_per_epoch is None else whole("steps_per_epoch", steps_per_epoch)

    def weights(self, losses: Losses) -> Tensor:
        rates = [self._rate(task) for task in losses.tasks]
        highest = max(rates)
        exponentials = [math.exp((rate - highest) / self.temperature) for rate in rates]
        total = math.fsum(exponentials)
        return losses.preferences() * losses.vector.new_tensor([len(rates) * e / total for e in exponentials])

    def _rate(self, task: str) -> float:
        state = self.state.get(task, {})
        last, before = state.get("last", 0.0), state.get("before", 0.0)
        return min(last / before, STEEPEST) if last >= 0 and before > 0 else 1.0

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        for task, loss in losses.items():
            state = self.state.setdefault(task, {"sum": 0.0, "n": 0})
            state["sum"] += loss
            state["n"] += 1
            if state["n"] == self.steps_per_epoch:
                self._close(task)

    def new_epoch(self) -> None:
        """The means of the epoch become the last ones; a task that did not come keeps its own."""
        if self.steps_per_epoch is None:
            for task in self.state:
                self._close(task)

    def _close(self, task: str) -> None:
        state = self.state[task]
        if state["n"]:
            if "last" in state:
                state["before"] = state["last"]
            state["last"] = state["sum"] / state["n"]
            state["sum"], state["n"] = 0.0, 0
