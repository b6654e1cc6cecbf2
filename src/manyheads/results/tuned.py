"""Which settings were tried, and what they gave."""

from __future__ import annotations

from typing import Any

from .runs import Scores
from .values import Number, Value


class Trial(Value):
    """Settings that were tried, and what came of them on validation."""

    number: int
    """From 0, in the order in which they were proposed."""
    state: str
    """done, pruned (ended early, without prospect) or failed."""
    settings: dict[str, Any]
    value: Number = None
    """The mean skill over tasks."""
    values: dict[str, Number] = {}
    """Task -> skill."""
    course: tuple[tuple[int, float], ...] = ()
    """(epoch, counted from 1, and the best mean skill so far)."""
    seconds: Number = None
    why: str | None = None
    """Why it failed."""


class TunedSide(Value):
    """One way to train, tuned by itself: ``joint``, ``weights`` (of the tasks, fixed), ``single:<task>``."""

    name: str
    task: str | None = None
    """The task that is alone."""
    space: dict[str, dict[str, list[Any]]]
    """Setting -> its range, as a config has it."""
    trials: tuple[Trial, ...] = ()
    best: int | None = None
    """The number of the chosen trial: the best mean skill, of the front where there is one."""
    overrides: tuple[str, ...] = ()
    """The chosen settings as ``a.b=value``, to be laid over the config."""
    front: tuple[int, ...] = ()
    """Numbers of the trials that no other is as good as on every task and better on one; of several objectives."""
    importance: dict[str, Number] = {}
    """Setting -> its share in the differences between trials; empty where there are too few of them."""
    test: Scores | None = None
    """The test part, read once, by the chosen settings."""

    def count(self, state: str) -> int:
        """How many trials ended so."""
        return sum(trial.state == state for trial in self.trials)


class Tuned(Value):
    """A search for settings, the same number of trials for every side."""

    objective: str
    """mean or pareto."""
    sides: tuple[TunedSide, ...]
    trials: int
    """That every side may have."""
    timeout: Number = None
    seconds: Number = None
    """All that was spent, interrupted calls included."""
    finished: bool = False
    protocol: str = ""
    """What was compared on what, in words."""

    def side(self, name: str) -> TunedSide:
        """The side of this name."""
        return next(side for side in self.sides if side.name == name)
