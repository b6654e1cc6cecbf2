"""Fine-tuning that is held near where it began."""

from __future__ import annotations

from ..penalised import corresponding
from ..penalties import Penalty
from ..penalties.l2 import L2
from . import TRUNK_PACE, Case
from .finetune import FineTune


class L2SP(FineTune):
    """Fine-tuning with alpha / 2 ||w - w0||^2, where w0 are the trunk's weights as they were.

    It is applied as a proximal step after each update, w <- w0 + (w - w0) / (1 + lr alpha): alpha = 0 is fine-tuning,
    and with alpha towards infinity the trunk stays where it was.

    Args:
        alpha: strength, at least 0. After a step of an adaptive optimiser it counts against 1, not against the loss.
        pace: learning rate of the trunk, relative to that of the head.

    Raises:
        ValueError: a negative strength.

    Reference:
        Li, Grandvalet, Davoine: Explicit inductive bias for transfer learning with convolutional networks, 2018.

    Differs from the paper:
        A proximal step instead of a term of the loss, and no decay of the head beside the optimiser's own.
    """

    def __init__(self, *, alpha: float = 10.0, pace: float = TRUNK_PACE) -> None:
        super().__init__(pace=pace)
        if not alpha >= 0:
            raise ValueError(f"`alpha` should be 0 or more. Found {alpha}.")
        self.alpha = alpha

    def penalties(self, case: Case) -> list[Penalty]:
        places = [on for on in ("shared", "copies") if any(True for _ in corresponding(case.model, on))]
        return [L2(self.alpha / 2, on=on, of="start", step="prox", biases=True) for on in places] if self.alpha else []
