"""Should tasks share a model? What a comparison found."""

from __future__ import annotations

from typing import Any

from .values import Interval, Number, Value


class TaskComparison(Value):
    """One task: every method's primary metric, and what sharing did to it."""

    metric: str
    greater_is_better: bool = True
    joint: Number
    single: Number
    linear: Number = None
    boosting: Number = None
    constant: Number = None
    delta: Number
    """Signed change of the joint model against the single-task model, positive = better; a fraction, see `absolute`."""
    interval: Interval
    """95 % interval of delta (not adjusted for the number of tasks)."""
    p: Number
    """Two-sided p of the corrected resampled t, Holm-adjusted over the tasks."""
    verdict: str
    """helps, hurts or undecided."""
    absolute: bool = False
    """True where delta is an absolute difference of the metric: R2, and baselines under 0.05 (gains in decibels: in
    shares of the 30 that count)."""
    best: str | None = None
    """The method with the best mean, so that "use separate boosters" can be said."""
    skills: dict[str, Number] = {}
    """Method -> how far its mean is from the constant's (0) towards the best there is (1): one scale for all tasks."""
    why: str | None = None
    """A sentence that explains the verdict."""


class Method(Value):
    """One method of a comparison: its score on each task in each repeat, and what it cost."""

    name: str
    values: dict[str, tuple[Number, ...]]
    """Task -> one number per repeat (seeds averaged within a repeat)."""
    parameters: int | None = None
    seconds: Number = None


class Comparison(Value):
    """Should these tasks share a model? The evidence."""

    tasks: dict[str, TaskComparison]
    delta_m: Number
    interval: Interval
    repeats: int
    methods: tuple[Method, ...] = ()
    summary: str = ""
    """The verdict over all tasks, in words."""
    protocol: str = ""
    """What was re-drawn, what the intervals cover, what was tuned: in words."""
    budget: dict[str, Any] = {}


# -- what a page can draw
