"""A new head on features that stay as they are."""

from __future__ import annotations

from typing import ClassVar

from . import Case, Way, freeze
from ._head import own_names, solvable, solve_head


class Probe(Way):
    """Nothing but what the new task needs for itself is learned: a head, and a gate where the scheme has gates.

    A linear head on features that are one vector per row is solved for, not trained: it is the minimum of
    mean error + strength v ||W||^2 (with v the mean variance of the features; the bias is free), which for squared
    errors is ridge regression and for log loss logistic regression. Any other head is trained step by step.

    Args:
        strength: None chooses among 1e-4, 1e-3, ..., 1e2 by the mean error over 4 folds of the training rows.

    Raises:
        ValueError: a negative strength.

    Reference:
        Alain, Bengio: Understanding intermediate layers using linear classifier probes, 2016.
    """

    frozen: ClassVar[bool] = True

    def __init__(self, *, strength: float | None = None) -> None:
        if strength is not None and not strength >= 0:
            raise ValueError(f"`strength` should be 0 or more. Found {strength}.")
        self.strength = strength

    def prepare(self, case: Case) -> None:
        freeze(case.model, case.fresh)

    def fit(self, case: Case) -> None:
        if not solvable(case) or case.fresh != own_names(case):
            super().fit(case)
            return
        solve_head(case, self.strength)
        case.model.eval()
