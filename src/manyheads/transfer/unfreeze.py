"""From the top down, one stage more in each epoch."""

from __future__ import annotations

import re

from torch import nn

from ..callback import Callback
from ..train import Training
from . import Case, Way, freeze


class Unfreeze(Way):
    """The head learns first; with each epoch the next stage below joins in, each slower than the one above it.

    Epoch e (from 0) trains the head, what lies between the stages and the head, and the top e * `every` stages. Stage i
    of n learns at the head's rate times decay^(n - i).

    Args:
        decay: learning rate of a stage, relative to that of the stage above it.
        every: stages that join in with each epoch.

    Raises:
        ValueError: a decay that is not above 0, or fewer than one stage.

    Reference:
        Howard, Ruder: Universal language model fine-tuning for text classification, 2018.
    """

    def __init__(self, *, decay: float = 1 / 2.6, every: int = 1) -> None:
        if not decay > 0 or every < 1:
            raise ValueError(f"`decay` should be above 0 and `every` at least 1. Found {decay} and {every}.")
        self.decay, self.every = decay, every

    def prepare(self, case: Case) -> None:
        parts = stages(case.model)
        for i, modules in enumerate(parts):
            for module in modules:
                module.pace = self.decay ** (len(parts) - i)  # type: ignore[assignment]

    def callbacks(self, case: Case) -> list[Callback]:
        return [Thaw(self.every)]


class Thaw(Callback):
    """Says at the start of each epoch which parameters learn.

    Args:
        every: stages that join in with each epoch.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def on_start(self, training: Training) -> None:
        """Open what the epoch that is about to begin may move."""
        freeze(training.model, thawed(training.model, training.epoch * self.every))

    def on_epoch(self, training: Training) -> None:
        """The same for the next one."""
        self.on_start(training)


def stages(model: nn.Module) -> list[list[nn.Module]]:
    """The stages of a model's encoders from the bottom; encoders side by side have theirs at one depth."""
    found: dict[int, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if match := re.search(r"(?:^|\.)stages\.(\d+)$", path):
            found.setdefault(int(match[1]), []).append(module)
    return [found[i] for i in sorted(found)]


def thawed(model: nn.Module, n: int) -> set[str]:
    """The parameters that learn with the top n stages open: theirs, and all that are in no stage."""
    shut = {id(p) for own in stages(model)[: max(len(stages(model)) - n, 0)] for m in own for p in m.parameters()}
    return {name for name, p in model.named_parameters() if id(p) not in shut}
