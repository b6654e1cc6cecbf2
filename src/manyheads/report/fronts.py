"""Pareto views of two tasks: the trials of a search, and the methods of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import correlation

from markupsafe import Markup

from ..results import Comparison, Evidence, TunedSide
from . import charts
from .charts import Dot
from .words import change, number


@dataclass(frozen=True)
class Front:
    """A Pareto view of two tasks."""

    drawing: Markup
    rows: tuple[tuple[str, str, str, str], ...]
    heading: tuple[str, str, str]
    picked: bool = False
    """Whether the page picked these two of several tasks."""


def of_trials(evidence: Evidence) -> Front | None:
    """Trials of a search by their skills on two tasks, with the best that each task had alone."""
    tuned = evidence.tuned
    if tuned is None:
        return None
    trials = [(side, t) for side in tuned.sides if side.task is None for t in side.trials if len(t.values) > 1]
    pair = _pair(evidence, [t.values for _, t in trials])
    if pair is None:
        return None
    a, b = pair
    there = [
        (s, t, x, y) for s, t in trials if (x := t.values.get(a)) is not None and (y := t.values.get(b)) is not None
    ]
    best = _undominated([(x, y) for _, _, x, y in there])
    dots, rows = [], []
    many = len({s.name for s, _ in trials}) > 1
    for (side, trial, x, y), front in zip(there, best, strict=True):
        chosen = trial.number == side.best
        named = f"{side.name} {trial.number}" if many else f"trial {trial.number}"
        key = named.removeprefix("trial ") if front or chosen else ""
        dots.append(Dot(x, y, key, front, chosen))
        rows.append((named, number(x), number(y), _standing(front, chosen)))
    alone = {side.task: value for side in tuned.sides if side.task in (a, b) and (value := _best(side)) is not None}
    words = (
        f"Skill of {a} and of {b} in {len(dots)} trials; {sum(best)} of them are on the front, where no other trial is "
        "as good on both and better on one."
    )
    drawing = charts.scatter(
        "trials of the search", dots, x_name=f"skill of {a}", y_name=f"skill of {b}", words=words,
        uprights=[(alone[a], "alone")] if a in alone else (), levels=[(alone[b], "alone")] if b in alone else (),
    )  # fmt: skip
    return Front(drawing, tuple(rows), ("trial", a, b), _picked(evidence, [t.values for _, t in trials]))


def of_methods(evidence: Evidence, comparisons: dict[str, Comparison]) -> Front | None:
    """Methods by their delta on two tasks; single-task models stand at 0, 0."""
    deltas = {name: {t: d.delta for t, d in c.tasks.items()} for name, c in comparisons.items()}
    pair = _pair(evidence, list(deltas.values()))
    if pair is None:
        return None
    a, b = pair
    there = [(n, x, y) for n, d in deltas.items() if (x := d.get(a)) is not None and (y := d.get(b)) is not None]
    there.append(("single", 0.0, 0.0))
    best = _undominated([(x, y) for _, x, y in there])
    chosen = next((one.choice for one in (evidence.study, evidence.methods) if one is not None), None)
    absolute = {t: any(c.tasks[t].absolute for c in comparisons.values() if t in c.tasks) for t in pair}
    dots, rows = [], []
    for (name, x, y), front in zip(there, best, strict=True):
        dots.append(Dot(100 * x, 100 * y, name, front, name == chosen))
        rows.append((name, change(x, absolute[a]), change(y, absolute[b]), _standing(front, name == chosen)))
    on = ", ".join(name for (name, _, _), front in zip(there, best, strict=True) if front)
    words = f"Change of {a} and of {b} against single-task models by {len(there)} methods; on the front: {on}."
    x_name, y_name = (f"change of {t}, {'hundredths' if absolute[t] else '%'}" for t in pair)
    drawing = charts.scatter("methods", dots, x_name=x_name, y_name=y_name, words=words, zero=True)
    return Front(drawing, tuple(rows), ("method", a, b), _picked(evidence, list(deltas.values())))


def _standing(front: bool, chosen: bool) -> str:
    return ", ".join(word for word, there in (("on the front", front), ("chosen", chosen)) if there)


def _best(side: TunedSide) -> float | None:
    return next((t.values.get(side.task) for t in side.trials if side.task and t.number == side.best), None)


def _undominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    return [
        not any(u >= x and v >= y and (u > x or v > y) for u, v in points) for x, y in points
    ]  # fmt: skip


def _pair(evidence: Evidence, values: Sequence[dict[str, float | None]]) -> tuple[str, str] | None:
    """The two tasks to look at: those asked for, else those whose values go together least."""
    if not values:
        return None
    tasks = [t for t in values[0] if sum(own.get(t) is not None for own in values) > 0]
    if evidence.pair is not None:
        return evidence.pair if set(evidence.pair) <= set(tasks) else None
    if len(tasks) < 2:
        return None
    pairs = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    return min(pairs, key=lambda pair: _together(values, *pair))


def _picked(evidence: Evidence, values: Sequence[dict[str, float | None]]) -> bool:
    return evidence.pair is None and len(values[0]) > 2


def _together(values: Sequence[dict[str, float | None]], a: str, b: str) -> float:
    """The rank correlation of two tasks' values; 2 where there is none."""
    both = [(x, y) for own in values if (x := own.get(a)) is not None and (y := own.get(b)) is not None]
    if len(both) < 2:
        return 2.0
    from scipy.stats import rankdata

    xs, ys = (rankdata(column) for column in zip(*both, strict=True))
    if min(xs) == max(xs) or min(ys) == max(ys):
        return 2.0
    return correlation(xs.tolist(), ys.tolist())
