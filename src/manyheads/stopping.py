"""When to stop: the best value so far, and how long ago that was."""

from __future__ import annotations


class Best:
    """The best value so far and when it was reached; strict improvement, the earliest wins.

    Args:
        patience: epochs without improvement after which it says stop; None never.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.value: float | None = None
        self.epoch = -1

    def improved(self, value: float | None, epoch: int) -> bool:
        """Take note of a value; True when it is the best."""
        if value is None or (self.value is not None and not value > self.value):
            return False
        self.value, self.epoch = value, epoch
        return True

    def stopped(self, epoch: int) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.epoch >= 0 and epoch - self.epoch >= self.patience
