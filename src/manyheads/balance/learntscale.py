"""Balances whose weights are learnt scales of the losses, and the Adam that learns them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import Tensor

from ..ranges import Range, log
from . import Look, Losses, Weighting

LIMIT = 30.0
"""Where |s_k| ends, so that a task whose loss is 0 does not get an infinite weight."""
STEEPEST = 1e150
"""The largest gradient whose square is still finite."""


def adam(old: Mapping[str, Any] | None, gradient: float, lr: float) -> tuple[float, dict[str, Any]]:
    """(step, moments) of Adam for one number; the step is to be taken away.

    Args:
        old: the moments ``m`` and ``v`` and the count ``t`` of its steps; None at the first.
        gradient: of what is minimised.
        lr: length of a step.
    """
    m, v, t = (old["m"], old["v"], old["t"]) if old else (0.0, 0.0, 0)
    gradient = min(max(gradient, -STEEPEST), STEEPEST)
    m, v, t = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2, t + 1
    return lr * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8), {"m": m, "v": v, "t": t}


class LearntScale(Weighting):
    """A balance with a scale s_k per task: w_k = p_k exp(+-s_k), with s_k moved down w_k L_k - log w_k by its own Adam.

    At rest w_k = p_k / L_k. State: per task s_k and the moments of its Adam.

    Args:
        lr: step of the Adam that moves s_k, in units of s.

    Raises:
        ValueError: `lr` is not positive and finite.
    """

    separable = True
    search: ClassVar[Mapping[str, Range]] = {"lr": log(0.001, 0.1)}

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        if not 0 < lr < math.inf:
            raise ValueError(f"`lr` should be positive. Found {lr}.")
        self.lr = lr

    @property
    @abstractmethod
    def sign(self) -> int:
        """1 where w_k = p_k exp(s_k), -1 where w_k = p_k exp(-s_k)."""

    @final
    def weights(self, losses: Losses) -> Tensor:
        scales = [math.exp(self.sign * self.state.get(task, {}).get("s", 0.0)) for task in losses.tasks]
        return losses.preferences() * losses.vector.new_tensor(scales)

    @final
    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        for task, loss in losses.items():
            old = self.state.get(task)
            s = old["s"] if old else 0.0
            step, moments = adam(old, self.sign * (math.exp(self.sign * s) * loss - 1.0), self.lr)
            self.state[task] = {"s": min(max(s - step, -LIMIT), LIMIT), **moments}
