"""Scores by part: per label, class or type of span a row, in any of several orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..results import Part, Report, Score
from .words import decimals, number, percent

SHORT = 12
"""Rows of a table that is not folded."""
MOST = 300
"""Rows of a table at most: the worst and the best."""


@dataclass(frozen=True)
class Row:
    """One part: its cells, and its place in each of the table's orders."""

    name: str
    cells: tuple[str, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """The parts of one task on one split.

    Attributes:
        columns: headings, the name's first.
        orders: what the rows may be ordered by; the first is how they stand.
        summary: the table in a sentence.
        left_out: what it does not show, in words.
    """

    task: str
    split: str
    columns: tuple[str, ...]
    orders: tuple[str, ...]
    rows: tuple[Row, ...]
    summary: str
    left_out: str

    @property
    def short(self) -> bool:
        """Whether it is shown unfolded."""
        return len(self.rows) <= SHORT


def tables(report: Report) -> list[Table]:
    """One table per task with scores by part, on the test split where there is one, else on the last that has them.

    Args:
        report: the run.
    """
    found: dict[str, tuple[str, list[Score]]] = {}
    for scores in sorted(report.scores, key=lambda s: s.split == "test"):
        own: dict[str, list[Score]] = {}
        for score in scores.scores:
            if score.parts:
                own.setdefault(score.task, []).append(score)
        found |= {task: (scores.split, some) for task, some in own.items()}
    order = dict.fromkeys(s.task for scores in report.scores for s in scores.scores)
    return [_table(task, *found[task]) for task in order if task in found]


def _table(task: str, split: str, scores: Sequence[Score]) -> Table:
    parts = {score.metric: {part.name: part for part in score.parts} for score in scores}
    names = list(dict.fromkeys(name for own in parts.values() for name in own))
    any_of = {name: next(own[name] for own in parts.values() if name in own) for name in names}
    said = [score.parts[0].word for score in scores]
    words = [s.metric if said.count(word) > 1 else word for s, word in zip(scores, said, strict=True)]
    headings = [f"{word} {'↑' if s.greater_is_better else '↓'}" for s, word in zip(scores, words, strict=True)]
    worst: list[Callable[[str], tuple[bool, float]]] = [_by_value(parts[s.metric], s.greater_is_better) for s in scores]
    keys: dict[str, Callable[[str], tuple[bool, float]]] = {
        **{f"{word}, worst first": key for word, key in zip(words, worst, strict=True)},
        "most cases": lambda name: (False, -any_of[name].cases),
        "as given": lambda name: (False, names.index(name)),
    }
    orders = list(keys) if len(names) > SHORT else ["as given", *(k for k in keys if k != "as given")]
    kept, left_out = names, ""
    if len(names) > MOST:
        ranked = sorted(names, key=worst[0])
        chosen = {*ranked[: MOST // 2], *ranked[-(MOST // 2) :]}
        kept = [name for name in names if name in chosen]
        left_out = f"{len(names) - len(kept)} in the middle are left out; report.json has them all."
    place = {order: {name: i for i, name in enumerate(sorted(kept, key=keys[order]))} for order in orders}
    figures = [decimals(part.value for part in score.parts) for score in scores]
    rows = []
    for name in sorted(kept, key=lambda name: place[orders[0]][name]):
        values = [parts[s.metric][name].value if name in parts[s.metric] else None for s in scores]
        part = any_of[name]
        share = percent(part.cases / part.labels) if part.labels else number(None)
        cells = (
            *(number(v, n) for v, n in zip(values, figures, strict=True)),
            number(part.cases),
            number(part.labels),
            share,
        )
        rows.append(Row(name, cells, tuple(place[order][name] for order in orders)))
    columns = ("part", *headings, "cases", "of labels", "share")
    return Table(task, split, columns, tuple(orders), tuple(rows), _summary(scores[0], names, worst[0]), left_out)


def _by_value(own: dict[str, Part], up: bool) -> Callable[[str], tuple[bool, float]]:
    """From the worst value to the best; what has none comes last."""

    def key(name: str) -> tuple[bool, float]:
        value = own[name].value if name in own else None
        return value is None, 0.0 if value is None else value if up else -value

    return key


def _summary(score: Score, names: Sequence[str], key: Callable[[str], tuple[bool, float]]) -> str:
    there = sorted((part for part in score.parts if part.value is not None), key=lambda part: key(part.name))
    if not there:
        return f"{len(names)} parts, none with a value."
    worst, best = there[0], there[-1]
    without = len(names) - len(there)
    said = (
        f"{len(names)} parts: {worst.word} from {number(worst.value)} ({worst.name}) to {number(best.value)} "
        f"({best.name})"
    )
    return said + (f"; {without} without a value." if without else ".")
