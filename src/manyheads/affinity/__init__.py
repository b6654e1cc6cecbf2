"""How related tasks are. The contract of an estimator: from runs that were watched, or trained, to a number per pair.

No single estimator is safe (gradient-based ones follow the training, representation-based ones the inputs), so there
are several, and what they recommend is to be confirmed by training. `affinity.related` trains what they look at, once
for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar

Pair = tuple[str, str]
"""(source, target)."""
Cells = Mapping[Pair, float]
"""What learning the source does to the target, for as many pairs as are known; a task with itself is its own value."""

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Reading:
    """What one look tells.

    Attributes:
        cells: a number per pair; pairs of a task with itself may be among them.
        missing: why there is none, for pairs of two tasks.
        parts: the same for each part of what tasks share, by its name.
    """

    cells: Cells
    missing: Mapping[Pair, str] = field(default_factory=dict)
    parts: Mapping[str, Cells] = field(default_factory=dict)


class Estimator(ABC, Generic[Seen]):
    """Says how related tasks are from one look, which changes nothing of what it looks at.

    `looks_at` says what it is shown: at ``joint``, a `probe.Probe` of a joint run, again and again while that goes on;
    at ``single``, a `singles.Singles`, the single-task models of one seed; at ``pairs``, a `pairs.Together`, the scores
    of every pair trained jointly and of each task trained alone.
    """

    looks_at: ClassVar[Literal["joint", "single", "pairs"]]
    directed: ClassVar[bool]
    """Whether what i does to j may differ from what j does to i."""
    gain: ClassVar[bool]
    """Whether 0 means that learning the source leaves the target as it is, and more is better; else a similarity."""
    lasting: ClassVar[bool] = True
    """Of a gain: whether it is that of training together to the end; that of a step does not say who should share."""
    unit: ClassVar[str]
    """What a number is, in words."""

    @abstractmethod
    def measure(self, seen: Seen) -> Reading:
        """A number for every pair of tasks that it can tell, and why there is none for the others."""


def no_common(what: str) -> str:
    """Why a pair has no number: the sentence of estimators that need something in common.

    Args:
        what: what the two do not have in common.
    """
    return f"The two have no {what} in common."
