"""A delivered model: who was chosen to teach, what became of it, and whether the promise is kept."""

from __future__ import annotations

from typing import Any

from .values import Interval, Number, Value


class DeliveredTask(Value):
    """One task of a delivered model."""

    metric: str
    greater_is_better: bool
    candidates: dict[str, Number]
    """Candidate -> primary metric on rows that it had not seen: all learning rows, each once."""
    single: str
    """The best of the single-task candidates there."""
    chosen: str
    """The candidate that teaches."""
    weights: dict[str, float]
    """Of a blend, the share of each candidate."""
    branch: str
    """``shared``; ``own`` where the task has a branch of the model to itself."""
    single_value: Number
    """The best single model's metric on the rows of the rehearsal, and so on."""
    teacher_value: Number
    student_value: Number
    delta: Number
    """Student against the best single model, positive = better."""
    absolute: bool
    """Whether deltas are differences of the metric (R2, and near 0) instead of relative changes."""
    interval: Interval
    p: Number
    """Holm-adjusted over tasks."""
    behind: Number
    """Student against its teacher, as `delta`."""
    behind_interval: Interval
    behind_p: Number
    kept: bool | None
    """Not worse than the best single model beyond noise; None where no row of the rehearsal could tell."""
    behind_teacher: bool
    """Worse than the teacher beyond noise."""

    @property
    def teacher(self) -> str:
        """Who teaches, with the shares of a blend."""
        if not self.weights:
            return self.chosen
        shares = sorted(self.weights.items(), key=lambda item: -item[1])
        return f"{self.chosen}: " + ", ".join(f"{name} {100 * w:.0f} %" for name, w in shares)


class Delivery(Value):
    """A delivered model: per task who taught it, and how it compares."""

    tasks: dict[str, DeliveredTask]
    folds: int
    rows: int
    """Rows of the rehearsal."""
    student: str
    """``plain``: the joint model's architecture; ``richer``: with more in its encoder; ``branches``: with branches."""
    behind: dict[str, tuple[str, ...]]
    """What was tried -> the tasks that were behind with it."""
    settings: dict[str, Any] = {}
    """How it was delivered."""
    protocol: str

    @property
    def kept(self) -> bool:
        """Whether the promise is broken for no task."""
        return all(t.kept is not False for t in self.tasks.values())

    @property
    def summary(self) -> str:
        """What became of the promise, in a sentence or two."""
        by = {kept: [t for t, own in self.tasks.items() if own.kept is kept] for kept in (True, False, None)}
        if broken := by[False]:
            said = f"The promise is not kept for {', '.join(broken)}: worse than the best single model beyond noise."
        elif len(by[True]) == 1:
            said = f"{by[True][0]} is not worse than its best single model beyond noise."
        else:
            said = f"None of {len(by[True])} tasks is worse than its best single model beyond noise." * bool(by[True])
        return f"{said} Not judged: {', '.join(by[None])}.".strip() if by[None] else said
