"""What wants to be told how a run goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .train import Training


class Callback:
    """What wants to be told about a run; every method may be left as it is."""

    def on_start(self, training: Training) -> None:
        """Before the first step, and again after a resume."""

    def on_step(self, training: Training) -> None:
        """After each step."""

    def on_epoch(self, training: Training) -> None:
        """After each epoch, when its checkpoint is written."""

    def on_end(self, training: Training) -> None:
        """After the last step."""
