"""A model's life after training, as its page shows it: every task before and after, and scores with few labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from markupsafe import Markup

from ..results import Evidence
from ..results.added import Kept, TransferCurve
from . import charts
from .charts import Course
from .words import NONE, number, signed, span

MOST = 4
"""Starts that a drawing can tell apart; the table has them all."""


@dataclass(frozen=True)
class Life:
    """What became of a trained model, section by section.

    Attributes:
        lead: the finding in a sentence.
        facts: (name, value) of the change.
        kept: (task, of which model, metric, before, after, by how much it got better, labels, note) of each task.
        better, worse: how many of those got better, and worse.
        unchecked: tasks that could not be scored again.
        curves: (drawing, heading, protocol, (labels, ...), rows of (start, cells), summary).
    """

    lead: str
    facts: tuple[tuple[str, str], ...]
    kept: tuple[tuple[str, ...], ...]
    better: int
    worse: int
    unchecked: tuple[str, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Curve:
    """Scores of one task over numbers of labels: a drawing, and the same in a table."""

    drawing: Markup
    counts: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    summary: str
    protocol: str
    left_out: str


def life(evidence: Evidence) -> Life | None:
    """The sections of some evidence; None where it is not about a model's later life.

    Args:
        evidence: what was found.
    """
    added, adapted, merged = evidence.added, evidence.adapted, evidence.merged
    found = added or adapted or merged
    if found is None:
        return None
    kept = found.kept
    better, worse = (sum(1 for k in kept if (k.fell < 0 if sign < 0 else k.fell > 0)) for sign in (-1, 1))
    facts: list[tuple[str, str]] = []
    if added is not None:
        score = added.score
        told = NONE if score is None else f"{score.metric} {number(score.value)} on rows that members held out"
        facts = [("way", added.way), ("labels", number(added.labels)), ("the new task", told)]
        alike = "the same, to the bit" if added.identical else "not the same"
        facts.append(("outputs of the other tasks on the new rows", alike))
        same = "; the others say what they said" if added.identical else ""
        lead = f"{added.task} was added, by {added.way}{same}."
    elif adapted is not None:
        facts = [("by", adapted.objective), ("rows", number(adapted.rows)), ("parts", number(adapted.folds))]
        lead = f"The model followed {number(adapted.rows)} rows of a new domain: {_counted(kept, better, worse)}."
    else:
        assert merged is not None
        facts = [
            ("way", merged.how),
            ("models", ", ".join(map(_named, merged.models))),
            ("start", _named(merged.start)),
        ]
        facts += [
            (f"cosine of {_named(name)} with the start", number(near, 3)) for name, near in merged.nearness.items()
        ]
        lead = f"{len(merged.models)} models became one: {_counted(kept, better, worse)}."
    facts += [(name, number(value)) for name, value in found.settings.items() if value is not None]
    unchecked = () if adapted is not None else (added or merged).unchecked  # type: ignore[union-attr]
    return Life(
        lead, tuple(facts), tuple(map(_row, kept)), better, worse, tuple(unchecked), tuple(map(_curve, evidence.curves))
    )


def _counted(kept: Sequence[Kept], better: int, worse: int) -> str:
    """How many of the scores rose and fell, in words; of a single one, from where to where."""
    if len(kept) == 1:
        (k,) = kept
        return f"{k.metric} of {k.task} went from {number(k.before)} to {number(k.after)}"
    return f"of {len(kept)} scores {better} got better and {worse} worse"


def _row(k: Kept) -> tuple[str, ...]:
    gain = None if k.before is None or k.after is None else -k.fell
    arrow = "↑" if k.greater_is_better else "↓"
    return (
        k.task, _named(k.model), f"{k.metric} {arrow}", number(k.before), number(k.after), signed(gain, 4),
        number(k.labels), k.note,
    )  # fmt: skip


def _named(folder: str | None) -> str:
    """A folder without those that it lies in, which are somebody's own."""
    return NONE if folder is None else PurePath(folder).name or folder


def _drawn(found: TransferCurve) -> list[Course]:
    """The courses within a frame that the means fill at least a third of; an R2 below -1 is drawn at -1."""
    least, most = (-1.0, 1.0) if found.metric == "r2" else (-math.inf, math.inf)
    means = [max(p.mean, least) for points in found.starts.values() for p in points if p.mean is not None]
    low, high = min(means, default=0.0), max(means, default=0.0)
    bottom, top = max(low - (high - low), least), min(high + (high - low), most)

    def within(value: float | None) -> float | None:
        return value if value is None or high == low else min(max(value, bottom), top)

    return [
        Course(
            start,
            tuple(
                (n, within(p.mean), within(p.low), within(p.high)) for n, p in zip(found.counts, points, strict=True)
            ),
        )
        for start, points in found.starts.items()
    ]


def _curve(found: TransferCurve) -> Curve:
    courses = _drawn(found)
    said = "; ".join(f"{s} from {number(p[0].mean)} to {number(p[-1].mean)}" for s, p in found.starts.items())
    drawing = charts.bands(
        found.task, courses[:MOST], x_name="labels", y_name=found.metric, rank=3, counts=True,
        words=f"{found.task}, {found.metric}, from {found.counts[0]} to {found.counts[-1]} labels: {said}.",
    )  # fmt: skip
    rows = []
    for start, points in found.starts.items():
        gains = found.gains.get(start, (None,) * len(points))
        cells = []
        for point, gain in zip(points, gains, strict=True):
            low, high = (None, None) if gain is None else (gain.low, gain.high)
            sure = low is not None and high is not None and (low > 0 or high < 0)
            cells.append(f"{number(point.mean)}{'*' if sure else ''} {span((point.low, point.high))}".strip())
        rows.append((start, tuple(cells)))
    left = f"Drawn: the first {MOST} starts; the table has all {len(courses)}." if len(courses) > MOST else ""
    return Curve(
        drawing, tuple(map(number, found.counts)), tuple(rows), found.summary.replace("`", ""), found.protocol, left
    )
