"""Everything goes on learning, from the new rows alone."""

from __future__ import annotations

from . import TRUNK_PACE, Case, Way, freeze


class FineTune(Way):
    """All weights learn from the new rows, the trunk at a tenth of the head's rate.

    Nothing holds the other tasks: their heads stay, while the features that those read move away.

    Args:
        pace: learning rate of the trunk, relative to that of the head.

    Raises:
        ValueError: a negative pace.

    Reference:
        Girshick, Donahue, Darrell, Malik: Rich feature hierarchies for accurate object detection, 2014.
    """

    def __init__(self, *, pace: float = TRUNK_PACE) -> None:
        if not pace >= 0:
            raise ValueError(f"`pace` should be 0 or more. Found {pace}.")
        self.pace = pace

    def prepare(self, case: Case) -> None:
        freeze(case.model, set(dict(case.model.named_parameters())))
        case.model.sharing.pace = self.pace  # type: ignore[assignment]
