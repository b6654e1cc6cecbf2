"""What was chosen, what became of it, and whether the promise is kept: frozen values, JSON and back."""

from __future__ import annotations

from ..results import Interval, Number, Value


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
    protocol: str

    @property
    def kept(self) -> bool:
        """Whether the promise is broken for no task."""
        return all(t.kept is not False for t in self.tasks.values())
