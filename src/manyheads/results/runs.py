"""What a run says of itself: its tasks, its course, its scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .values import Interval, Number, Value


class TaskInfo(Value):
    """One task as a run saw it: what it is, and how many labels each split has."""

    name: str
    kind: str
    """The word of its type, such as ``binary``."""
    metric: str
    """Its primary metric."""
    greater_is_better: bool
    tables: tuple[str, ...] = ()
    weight: float = 1.0
    where: str | None = None
    rows: dict[str, int] = {}
    """Rows per split."""
    labels: dict[str, int] = {}
    """Known labels per split."""
    per_row: int = 1
    """Labels that a row may have: as many as a multilabel task has columns."""
    probability: Number = None
    """Share of the draws of an epoch that go to this task (or its table)."""
    passes: Number = None
    """How often an epoch sees each of its rows."""
    detail: dict[str, Any] = {}
    """Classes, mean and sd, threshold: whatever the fitted task knows."""

    def places(self, split: str) -> int:
        """How many labels a split would have, were none missing."""
        return self.per_row * self.rows.get(split, 0)

    def coverage(self, split: str) -> float | None:
        """The share of them that is known; None where the split has no row."""
        places = self.places(split)
        return self.labels.get(split, 0) / places if places else None


class Record(Value):
    """One measured number, a row of metrics.csv; its key is ``{split}/{task}/{metric}``, or ``{split}/{metric}``."""

    epoch: int
    step: int
    split: str
    task: str | None = None
    metric: str
    value: Number


class History(Value):
    """The course of a run, in order."""

    records: tuple[Record, ...] = ()

    def __iter__(self) -> Iterator[Record]:  # type: ignore[override]
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def series(self, metric: str, split: str = "valid", task: str | None = None) -> list[tuple[int, float | None]]:
        """(epoch, value) of one number over the run."""
        return [(r.epoch, r.value) for r in self if (r.metric, r.split, r.task) == (metric, split, task)]

    def courses(self) -> dict[tuple[str, str | None, str | None], list[tuple[int, float | None]]]:
        """(metric, split, task) -> (epoch, counted from 1, and value) of every number over the run."""
        found: dict[tuple[str, str | None, str | None], list[tuple[int, float | None]]] = {}
        for record in self:
            found.setdefault((record.metric, record.split, record.task), []).append((record.epoch + 1, record.value))
        return found


class Part(Value):
    """A metric on a part of what it is about: a label, a class, a type of span."""

    name: str
    value: Number
    labels: int
    """Labels that the value rests on."""
    cases: int
    """How many of these are of this part; cases / labels is its prevalence."""
    word: str
    """What the value is called: a part of `mean_iou` is an iou."""


class Score(Value):
    """One metric of one task on one split."""

    task: str
    metric: str
    value: Number
    labels: int
    interval: Interval | None = None
    """95 % bootstrap interval over rows (over groups where the split is grouped)."""
    greater_is_better: bool = True
    primary: bool = True
    why: str | None = None
    """Why the value is undefined, where it is."""
    parts: tuple[Part, ...] = ()
    """The same by label or class, where there are several."""


class Scores(Value):
    """The scores of one model on one split."""

    split: str
    scores: tuple[Score, ...]

    def primary(self) -> dict[str, Score]:
        """The primary score of each task."""
        return {s.task: s for s in self.scores if s.primary}
