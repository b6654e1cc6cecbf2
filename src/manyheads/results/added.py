"""What became of a trained model's tasks when it was changed."""

from __future__ import annotations

from .runs import Score
from .values import Number, Value


class Kept(Value):
    """A task of a trained model, before and after a change of the model."""

    task: str
    metric: str
    greater_is_better: bool
    before: Number
    after: Number
    labels: int = 0
    """Labels that both rest on."""
    model: str = ""
    """Where it came from, if there were several."""
    note: str = ""
    """What should be known of the rows."""

    @property
    def fell(self) -> float:
        """By how much it got worse, in units of its metric; negative where it got better."""
        if self.before is None or self.after is None:
            return 0.0 if self.after is not None or self.before is None else float("inf")
        return self.before - self.after if self.greater_is_better else self.after - self.before


class Added(Value):
    """A task that was added to a trained model."""

    task: str
    kind: str
    way: str
    settings: dict[str, object] = {}
    labels: int
    """Labels that it was learned from."""
    score: Score | None
    """Its primary metric on the rows that each member held out."""
    frozen: bool
    """Whether the way leaves alone what the other tasks are computed from."""
    identical: bool
    """Whether all outputs of the other tasks on the new rows are what they were, to the bit."""
    kept: tuple[Kept, ...] = ()
    """The other tasks, on their own validation rows."""
    unchecked: tuple[str, ...] = ()
    """Those that could not be scored, since no row with a label of theirs was there."""
    seconds: Number = None

    def fallen(self, tolerance: float = 0.0) -> tuple[Kept, ...]:
        """The tasks that got worse by more than this."""
        return tuple(k for k in self.kept if k.fell > tolerance)


class Adapted(Value):
    """A model that followed the rows of a new domain: a school, a patient, a shop."""

    objective: str
    """The word of what it learned to learn by."""
    settings: dict[str, object] = {}
    rows: int
    """Rows that it followed."""
    folds: int
    """What was foretold was never followed: the rows were divided so often."""
    kept: tuple[Kept, ...] = ()
    """Each task on those rows: by the model as it was, and by it after it followed the other rows."""
    seconds: Number = None


class Merged(Value):
    """Several models that became one."""

    how: str
    settings: dict[str, object] = {}
    models: tuple[str, ...]
    start: str | None = None
    """The model that all began as."""
    nearness: dict[str, float] = {}
    """Model -> the cosine of its trunk with the start's, or the first model's."""
    kept: tuple[Kept, ...] = ()
    """Each task of each model on its validation rows: by its own model, and by the merged one."""
    unchecked: tuple[str, ...] = ()

    def fallen(self, tolerance: float = 0.0) -> tuple[Kept, ...]:
        """The tasks that got worse by more than this."""
        return tuple(k for k in self.kept if k.fell > tolerance)


class CurvePoint(Value):
    """One number over seeds."""

    mean: Number
    low: Number = None
    """Ends of the 95 % t interval over seeds; None with a single seed."""
    high: Number = None
    values: tuple[Number, ...] = ()


class TransferCurve(Value):
    """How good a new task gets with so many labels, from several starts."""

    task: str
    metric: str
    greater_is_better: bool
    counts: tuple[int, ...]
    """Labels that are learned from."""
    starts: dict[str, tuple[CurvePoint, ...]]
    """``scratch``, the word of a way, or such a word of another model -> its primary metric on the test rows."""
    gains: dict[str, tuple[CurvePoint, ...]]
    """The word of a way -> what it gains on ``scratch``, paired by seed; positive = better."""
    seeds: int
    test_labels: int
    protocol: str = ""
    summary: str = ""
