"""The loss part of impartial multi-task learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

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


class IMTLL(Weighting):
    """Impartial multi-task learning, the loss part: scales are learnt under which all losses are 1.

    Minimises sum_k p_k (exp(s_k) L_k - s_k) over the net and over s_k, with p_k the user's preference: w_k = p_k
    exp(s_k), which is 1 / L_k where s_k is at rest; s_k starts at 0, which is `Equal`.

    Cost: one backward pass.
    State: per task s_k and the moments of its Adam.
    Safe range: losses above 0; s_k ends at -30 and 30. The preference p_k multiplies w_k and leaves s_k as it is.

    Args:
        lr: step of the Adam that moves s_k, in units of s.

    Raises:
        ValueError: `lr` is not positive.

    Reference:
        Liu et al.: Towards impartial multi-task learning, 2021.

    Differs from the paper: NOTE[DIFF] s_k is moved by its own Adam, so that a bare `balance.backward` in anyone's loop
    learns it. With s_k in the place of -s_k it is then `Uncertainty`, number for number.
    """

    separable = True

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"`lr` should be positive. Found {lr}.")
        self.lr = lr

    def weights(self, losses: Losses) -> Tensor:
        scales = [math.exp(self.state.get(task, {}).get("s", 0.0)) for task in losses.tasks]
        return losses.preferences() * losses.vector.new_tensor(scales)

    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        for task, loss in losses.items():
            old = self.state.get(task)
            s = old["s"] if old else 0.0
            step, moments = adam(old, math.exp(s) * loss - 1.0, self.lr)
            self.state[task] = {"s": min(max(s - step, -LIMIT), LIMIT), **moments}
