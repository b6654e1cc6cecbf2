"""Who gives way: what a run's balance did, told from the history alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..results import TaskInfo
from . import figures, notes
from .words import MINUS, NONE, number, percent

Series = Mapping[tuple[str, str | None, str | None], Sequence[tuple[int, float | None]]]
"""(metric, split, task) -> (epoch, value)."""

Everywhere = Mapping[str, Sequence[tuple[int, float]]]
"""Metric -> (epoch, value), of what was recorded of all tasks together."""

MODES = ("features", "exact")
"""How a step's Gramian was made, as its records say."""
STATIONARY = "Pareto-stationary"
ALONE = "nothing shared"
"""In so many steps there was one task alone, or no weight that two tasks reach."""
NOT_FINITE = "steps, not finite"
"""Of a task: in how many steps it was left out because its loss or gradient was not finite."""
AGREED = 0.05
"""Up to this share of conflicting pairs, tasks are said to agree."""
AGAINST = -0.05
"""A pair with a mean cosine below this is named."""
LARGEST = 12
"""Tasks of a matrix of cosines at most."""


@dataclass(frozen=True)
class Cosine:
    """A cell of the matrix of cosines: its mean over the run, where it began and ended, and how it is shaded."""

    text: str = NONE
    moved: str = ""
    share: float = 0.0
    kind: str = ""


@dataclass(frozen=True)
class Giving:
    """The section, ready for the template; what is empty or None is left out."""

    verdict: str
    weights: notes.Note | None
    norms: notes.Note | None
    longest: str
    names: tuple[str, ...]
    cosines: tuple[tuple[str, tuple[Cosine, ...]], ...]
    chart: Markup | None
    solver: str


def giving(
    series: Series, tasks: Sequence[TaskInfo], level: int = 3, settings: Mapping[str, Any] | None = None
) -> Giving | None:
    """What the balance of a run did, None where its weights never moved and it recorded nothing.

    Args:
        series: the history by number.
        tasks: the tasks of the run.
        level: the rank of the headings inside.
        settings: of the run; a remedy may be among them.
    """
    weights = _by_task(series, "train", "weight", tasks)
    norms = _by_task(series, "balance", "gradient norm", tasks)
    everywhere = _everywhere(series)
    moved = any(_moves(course) for course in weights.values())
    if not everywhere and not moved:
        return None
    steps = _steps(everywhere)
    never = bool(steps.get(ALONE)) and not any(steps.get(mode) for mode in MODES)
    pairs = _pairs(series)
    names = tuple(name for name in norms if any(name in pair for pair in pairs))
    return Giving(
        verdict=" ".join(
            filter(None, [undecided(series, settings), _verdict(everywhere, pairs, weights, tasks, never)])
        ),
        weights=notes.courses("Task weights over the epochs", weights) if weights and (moved or not never) else None,
        norms=notes.courses("Length of each task's gradient", norms) if norms else None,
        longest=_longest(norms, everywhere),
        names=names if 1 < len(names) <= LARGEST else (),
        cosines=_matrix(names, pairs) if 1 < len(names) <= LARGEST else (),
        chart=_chart(everywhere, level),
        solver="" if never else _solver(everywhere, series, tasks),
    )


def undecided(series: Series, settings: Mapping[str, Any] | None = None) -> str:
    """What to say where in all or most steps nobody had to give way, with the remedy where there is one; else "".

    Args:
        series: the history by number.
        settings: of the run.
    """
    steps = _steps(_everywhere(series))
    alone, others = steps.get(ALONE, 0.0), sum(steps.get(mode, 0.0) for mode in MODES)
    if not alone > others:
        return ""
    where, what = "only one task had labels, or no weight was shared", "the balance had nothing to decide"
    if others:
        found = f"In {_count(alone)} of {_count(alone + others)} steps {where}: there {what}."
    else:
        found = f"In all {_count(alone)} steps {where}: {what}."
    schedule = ((settings or {}).get("sampling") or {}).get("schedule", "joint")
    if schedule != "joint":
        found += f" `sampling.schedule` is {schedule}; with joint, a step has every task."
    return found


def _everywhere(series: Series) -> Everywhere:
    return {
        metric: [(epoch, value) for epoch, value in course if value is not None]
        for (metric, split, task), course in series.items()
        if split == "balance" and task is None
    }


def _by_task(series: Series, split: str, metric: str, tasks: Sequence[TaskInfo]) -> dict[str, list[float | None]]:
    found = {
        task: [value for _, value in course]
        for (name, part, task), course in series.items()
        if (name, part) == (metric, split) and task is not None and any(value is not None for _, value in course)
    }
    order = dict.fromkeys([*(task.name for task in tasks), *found])
    return {name: found[name] for name in order if name in found}


def _moves(course: Sequence[float | None]) -> bool:
    known = [value for value in course if value is not None]
    return max(known) - min(known) > 1e-9 * max(map(abs, known))


def _pairs(series: Series) -> dict[tuple[str, str], list[float]]:
    """(task, task) -> the cosines of the epochs in which both were there, in both orders."""
    word = "cosine with "
    found = {
        (task, metric.removeprefix(word)): [value for _, value in course if value is not None]
        for (metric, split, task), course in series.items()
        if split == "balance" and task is not None and metric.startswith(word)
    }
    return {pair: values for pair, values in found.items() if values}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _matrix(
    names: Sequence[str], pairs: Mapping[tuple[str, str], Sequence[float]]
) -> tuple[tuple[str, tuple[Cosine, ...]], ...]:
    return tuple((a, tuple(Cosine("") if a == b else _cosine(pairs.get((a, b), ())) for b in names)) for a in names)


def _cosine(values: Sequence[float]) -> Cosine:
    if not values:
        return Cosine()
    mean = _mean(values)
    moved = f"{_places(values[0])} → {_places(values[-1])}" if len(values) > 1 else ""
    return Cosine(_places(mean), moved, min(abs(mean), 1.0), "against" if mean < 0 else "")


def _places(cosine: float) -> str:
    text = f"{cosine:.2f}".replace("-", MINUS)
    return "0.00" if text == f"{MINUS}0.00" else text


def _chart(everywhere: Everywhere, level: int) -> Markup | None:
    against = [(epoch, 100 * value) for epoch, value in everywhere.get("conflicting pairs", ())]
    if len(against) < 2:
        return None
    return figures.card(
        "All pairs",
        against,
        everywhere.get("cosine, mean over pairs", ()),
        upper_name="conflicting pairs, %",
        lower_name="mean cosine",
        level=level,
        ring=False,
    )


# -- in words


def _steps(everywhere: Everywhere) -> dict[str, float]:
    """What was counted: how the Gramian was made, and why weights are not what the method promises."""
    return {
        metric.removeprefix("steps, "): math.fsum(value for _, value in course)
        for metric, course in everywhere.items()
        if metric.startswith("steps, ")
    }


def _same_rows(tasks: Sequence[TaskInfo]) -> bool:
    """Whether all tasks label all training rows of the same tables."""
    return len({task.tables for task in tasks}) == 1 and all(
        task.rows.get("train") and task.labels.get("train") == task.places("train") for task in tasks
    )


def _verdict(
    everywhere: Everywhere,
    pairs: Mapping[tuple[str, str], Sequence[float]],
    weights: Mapping[str, Sequence[float | None]],
    tasks: Sequence[TaskInfo],
    never: bool,
) -> str:
    """One sentence, no stronger than what was looked at; none where nothing ever was."""
    if never:
        return ""
    seen = [value for _, value in everywhere.get("conflicting pairs", ())]
    if not seen:
        return _uneven(weights)
    steps = _steps(everywhere)
    share, every = _mean(seen), sum(steps.get(mode, 0.0) for mode in MODES)
    sure = steps.get("features", 0.0) == 0 or _same_rows(tasks)
    stuck = steps.get(STATIONARY, 0.0)
    where = "" if sure else " at the shared features"
    worst = min(pairs, key=lambda pair: min(pairs[pair])) if pairs else None
    against = [worst] if worst is not None and min(pairs[worst]) < AGAINST else []
    if share <= AGREED and against:
        found = f"Few gradients{where} point against each other ({percent(share, 0)} of the pairs and steps), but "
        found += f"{_named(against[0][0])} and {_named(against[0][1])} do (mean cosine of an epoch down to "
        found += f"{_places(min(pairs[against[0]]))})"
    elif share <= AGREED:
        agreed = "all" if share == 0 else percent(min(1 - share, 0.999), 0 if share >= 0.005 else 1) + " of the"
        found = f"No conflict to speak of: gradients{where} agree in {agreed} pairs and steps"
        if sure and not stuck and (pairs or max(seen) == 0):
            found += ", so a balance that resolves conflicts cannot help here"
        elif not sure:
            found += ", though tasks label different rows, so at the weights below them it may be otherwise"
    else:
        cosines = [value for _, value in everywhere.get("cosine, mean over pairs", ())]
        found = f"Gradients{where} point against each other in {percent(share, 0)} of the pairs and steps"
        found += f" (mean cosine {_places(_mean(cosines))})" if cosines else ""
        worst = min(pairs, key=lambda pair: _mean(pairs[pair])) if pairs else None
        if worst is not None and len(pairs) > 2 and (low := _mean(pairs[worst])) < AGAINST:
            found += f", {_named(worst[0])} and {_named(worst[1])} the most ({_places(low)})"
    if stuck:
        found += f"; {STATIONARY} in {_count(stuck)} of {_count(every)} steps: no direction helped all tasks"
    return found + "."


def _uneven(weights: Mapping[str, Sequence[float | None]]) -> str:
    (most, top), (least, low) = _ends(weights)
    found = f"In the last epoch {_named(most)} weighed most ({number(top)}) and {_named(least)} least ({number(low)})"
    if not top > low:
        found = "In the last epoch all tasks weighed the same"
    return f"{found}; whether gradients conflict is not something that this balance records."


def _ends(courses: Mapping[str, Sequence[float | None]]) -> tuple[tuple[str, float], tuple[str, float]]:
    """The task with the largest last number, and that with the smallest."""
    last = {task: next(v for v in reversed(course) if v is not None) for task, course in courses.items()}
    return max(last.items(), key=lambda item: item[1]), min(last.items(), key=lambda item: item[1])


def _longest(norms: Mapping[str, Sequence[float | None]], everywhere: Everywhere) -> str:
    if len(norms) < 2:
        return ""
    (most, top), (least, low) = _ends(norms)
    found = f"In the last epoch the longest gradient ({_named(most)}, {number(top)}) was "
    if not low > 0:
        found += f"beside one of length 0 ({_named(least)})."
    elif (ratio := top / low) < 1.05:
        found = f"In the last epoch all gradients were about equally long ({number(top)})."
    else:
        times = number(ratio, 1 if ratio < 10 else 0)
        found += f"{times} times as long as the shortest ({_named(least)}, {number(low)})."
    modes = [mode for mode in MODES if _steps(everywhere).get(mode)]
    if "features" in modes:
        found += " Lengths are those at the shared features" + (
            "; where the Gramian was exact, over the shared weights." if len(modes) > 1 else "."
        )
    return found


def _named(task: str) -> str:
    return f"“{task}”"


def _count(value: float) -> str:
    """A count; where it is a mean over members, one decimal."""
    return number(value, 0 if abs(value - round(value)) < 0.05 else 1)


def _in_steps(counts: Mapping[str, float]) -> str:
    said = (f"{what} in {_count(n)} step{'' if _count(n) == '1' else 's'}" for what, n in counts.items() if n)
    return ", ".join(said)


def _solver(everywhere: Mapping[str, Sequence[tuple[int, float]]], series: Series, tasks: Sequence[TaskInfo]) -> str:
    """How the steps were looked at, the largest residual, fall-backs and what was left out, in one line."""
    steps = _steps(everywhere)
    if not steps:
        return ""
    residual = sorted(value for _, value in everywhere.get("solver residual, largest", ()))[-1:]
    fallen = {note: count for note, count in steps.items() if note not in MODES}
    lost = {
        _named(task.name): math.fsum(value or 0.0 for _, value in series.get((NOT_FINITE, "balance", task.name), ()))
        for task in tasks
    }
    parts = [
        f"Gramian: {_in_steps({mode: steps.get(mode, 0.0) for mode in MODES})}",
        *(f"largest residual of the solver {number(found)} (for gradients of length 1)" for found in residual),
        f"notes: {_in_steps(fallen)}" if any(fallen.values()) else "no fall-backs",
        *([f"left out because not finite: {_in_steps(lost)}"] if any(lost.values()) else []),
    ]
    return "; ".join(parts) + "."
