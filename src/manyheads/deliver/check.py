"""Is the student worse than what it replaces? On rows of which nothing in the whole procedure knew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..statistics import ALPHA, Change, holm
from .choice import Evidence, difference, value_of

STUDENT, TEACHER, BEST = "student", "teacher", "single"


class Judged(NamedTuple):
    """One task: the student against the best single model and against its teacher."""

    values: dict[str, float | None]
    single: Change
    teacher: Change


def judge(found: Mapping[str, Evidence], by: str | None = None) -> dict[str, Judged]:
    """The student's changes on held-out rows, p values Holm-adjusted over tasks.

    Args:
        found: task -> what `STUDENT`, `TEACHER` and `BEST` say of the labelled held-out rows.
        by: the column of groups that bootstrap draws take whole.
    """
    values = {t: {c: value_of(e, c) for c in e.said} for t, e in found.items()}
    changes = {other: {t: difference(e, STUDENT, other, by) for t, e in found.items()} for other in (BEST, TEACHER)}
    for other, own in changes.items():
        adjusted = holm([c.p for c in own.values()])
        changes[other] = {t: c._replace(p=p) for (t, c), p in zip(own.items(), adjusted, strict=True)}
    return {t: Judged(values[t], changes[BEST][t], changes[TEACHER][t]) for t in found}


def worse(change: Change) -> bool:
    """Whether a change is one for the worse beyond noise."""
    return change.mean is not None and change.mean < 0 and change.p is not None and change.p < ALPHA
