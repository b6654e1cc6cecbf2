"""Balances on the logarithms of the losses, and what stands in for a logarithm that cannot be taken."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor

from . import Look, Losses, Weighting

NEXT_TO_NOTHING = 1e-3
"""A loss under this share of its running mean is as good as 0, where 1 / L means nothing."""
MEMORY = 0.99
"""What a running mean keeps of itself from step to step."""


def sizes(losses: Mapping[str, float], state: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """What the gradient of log L_k is divided by: L_k where that is well above 0, else its running mean |L_k|.

    So a loss of 0 in one batch, or one that goes below 0, neither starves the other tasks nor turns its own sign.

    Returns:
        (tasks,); 0 for a loss that has never been anything else.
    """
    means = [state.get(task, {}).get("mean", abs(loss)) for task, loss in losses.items()]
    return [
        loss if loss > NEXT_TO_NOTHING * mean else mean or abs(loss)
        for loss, mean in zip(losses.values(), means, strict=True)
    ]


def renewed_mean(old: Mapping[str, Any] | None, loss: float) -> float:
    """The running mean of |L_k|, after a step."""
    return abs(loss) if not old else MEMORY * old["mean"] + (1 - MEMORY) * abs(loss)


def over_sizes(log_shares: Sequence[float], divisors: Sequence[float]) -> list[float]:
    """z_k / D_k, brought to the sum K; 1 where D_k is 0."""
    logs = [z - math.log(d) if d else None for z, d in zip(log_shares, divisors, strict=True)]
    known = [x for x in logs if x is not None]
    masses = [None if x is None else math.exp(x - max(known)) for x in logs]
    total = math.fsum(m for m in masses if m is not None)
    return [1.0 if m is None else len(known) * m / total for m in masses]


def unsaid(losses: Mapping[str, float], divisors: Sequence[float]) -> str:
    """The note of a step in which a logarithm was not taken; "" where all were."""
    short = [f"`{t}`" for (t, loss), d in zip(losses.items(), divisors, strict=True) if loss <= 0 or d != loss]
    return f"A logarithm wants losses above 0; weighted by the mean size instead: {', '.join(short)}." if short else ""


class Logarithmic(Weighting):
    """A balance whose weights are p_k times a function of the logarithms of the present losses.

    State: per task the running mean of |L_k|, which stands in for a loss that has no logarithm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.note = ""
        """Whose logarithm could not be taken in the last step."""

    @abstractmethod
    def ratios(self, divisors: Sequence[float]) -> list[float]:
        """w_k / p_k (tasks,), from the losses D_k (tasks,), 0 for one that has never been anything else."""

    @final
    def weights(self, losses: Losses) -> Tensor:
        values = dict(zip(losses.tasks, losses.vector.detach().tolist(), strict=True))
        divisors = sizes(values, self.state)
        self.note = unsaid(values, divisors)
        return losses.preferences() * losses.vector.new_tensor(self.ratios(divisors))

    @final
    def update(self, losses: Mapping[str, float], look: Look | None) -> None:
        for task, loss in losses.items():
            self.state[task] = {"mean": renewed_mean(self.state.get(task), loss)}
