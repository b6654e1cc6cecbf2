"""Which way to train a model of all tasks: what a study of several of them found."""

from __future__ import annotations

from .comparisons import Comparison
from .values import Number, Value


class Cost(Value):
    """What a method costs."""

    seconds: Number = None
    """Of training, per repeat, all its models together, members counted in; as many at a time as there are cores."""
    updates: Number = None
    """Steps per repeat, of all its models and members together."""
    backward: Number = None
    """Calls of the backward pass per repeat: those of a first update, times the updates."""
    memory: int | None = None
    """Bytes that one update of one member holds at most, beside its rows: weights, gradients, the optimiser's state and
    what is kept for the way back; of several models, which can be trained in turn, the largest."""
    parameters: int | None = None
    """Of all its models."""


class Efficiency(Value):
    """One model against one per task, at equal quality: what both need to come as far on validation."""

    skill: Number
    """The quality: what the worse of the two reaches at its best, less one per cent; the mean skill over tasks, the
    mean over repeats."""
    updates: Number
    """Steps of the one model until it is as good, the mean over repeats."""
    updates_single: Number
    """Those of the models of each task together."""
    seconds: Number
    seconds_single: Number
    parameters: int | None = None
    parameters_single: int | None = None


class MethodStudy(Value):
    """Several methods beside single-task networks; `choice` was made on validation."""

    choice: str
    """The method to take; ``single`` is one."""
    reason: str
    recommendation: str
    """What to share, in words."""
    tasks: dict[str, str]
    """Task -> the verdict in words, over all methods."""
    comparisons: dict[str, Comparison]
    """Method -> it against single-task networks, on the test parts."""
    ranks: dict[str, float] = {}
    """Mean rank over tasks of every method, 1 for the best; simple models among them."""
    valid: dict[str, Number] = {}
    """Method -> delta-m against single-task networks on validation."""
    costs: dict[str, Cost] = {}
    efficiency: dict[str, Efficiency] = {}
    """Method -> it against single-task networks."""
    repeats: int = 0
    summary: str = ""
    protocol: str = ""
