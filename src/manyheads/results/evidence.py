"""All that was found on whether tasks should share a model, or on a model's life after training, for one page."""

from __future__ import annotations

from typing import Any

from .added import Adapted, Added, Merged, TransferCurve
from .comparisons import Comparison
from .methods import MethodStudy
from .relations import Dendrogram, Grouping, GroupingStudy, Relatedness
from .runs import TaskInfo
from .tuned import Tuned
from .values import Value


class Fractions(Value):
    """The same comparison with ever more labels."""

    shares: tuple[float, ...]
    """Of the training labels that were known, ascending, 1 for all of them."""
    comparisons: tuple[Comparison, ...]
    """One per share; the test parts are whole in all of them."""
    method: str = "joint"
    """The way to share whose curves they are, where several are compared."""


class Evidence(Value):
    """Whether tasks should share, and what became of a model later: from every side that was looked at; else empty."""

    title: str
    created: str = ""
    tasks: tuple[TaskInfo, ...] = ()
    relatedness: tuple[Relatedness, ...] = ()
    trees: dict[str, Dendrogram] = {}
    """Estimator -> the tree of its answer."""
    advised: dict[str, Grouping] = {}
    """Estimator -> the groups that its answer speaks for."""
    study: GroupingStudy | None = None
    comparisons: dict[str, Comparison] = {}
    """Method -> it against single-task models; those of the study need not be repeated."""
    methods: MethodStudy | None = None
    """Ways to train a model of all tasks; its comparisons need not be repeated."""
    fractions: Fractions | None = None
    tuned: Tuned | None = None
    added: Added | None = None
    adapted: Adapted | None = None
    merged: Merged | None = None
    curves: tuple[TransferCurve, ...] = ()
    """What a trained model is worth to a task or a domain with few labels."""
    pair: tuple[str, str] | None = None
    """The two tasks of the Pareto view; by default those whose values go together least."""
    settings: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
