"""Forest plots: what sharing did to each task, by one method or by many, on one axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ..results import Comparison, Interval, Number, TaskComparison
from .figures import ticks
from .words import SIGNS, change, change_span, tally


@dataclass(frozen=True)
class Axis:
    """The axis that all strips of a plot share, as fractions from `low` to `high`; `anchor` goes before its id."""

    low: float
    high: float
    anchor: str = ""

    def place(self, value: float) -> float:
        """Where a value stands, in per cent of the width."""
        return 100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)

    @property
    def marks(self) -> list[float]:
        """Round numbers along it."""
        return ticks(self.low, self.high)

    def grid(self) -> str:
        """The uprights that every strip refers to."""
        lines = "".join(
            f'<line class="{"zeroline" if abs(mark) < 1e-12 else "gridline"}" x1="{self.place(mark):.2f}%" '
            f'x2="{self.place(mark):.2f}%" y1="0" y2="100%"/>'
            for mark in self.marks
        )
        return f'<svg class="off" aria-hidden="true"><defs><g id="{escape(self.anchor)}grid">{lines}</g></defs></svg>'

    def labels(self, words: str) -> str:
        """The row of numbers under (or above) the strips."""
        texts = "".join(
            f'<text x="{self.place(mark):.2f}%" y="14" text-anchor="middle">{_percent_tick(mark, self.marks)}</text>'
            for mark in self.marks
        )
        return (
            f'<div class="row axis"><span class="name">{words}</span>'
            f'<svg class="strip" height="18" aria-hidden="true">{texts}</svg><span class="value"></span></div>'
        )

    def strip(self, delta: Number, interval: Interval, kind: str, height: float = 30, size: float = 5.5) -> str:
        """A point and its interval; what leaves the axis ends in an arrowhead.

        Args:
            delta: the point.
            interval: its ends.
            kind: helps, hurts, undecided or mean.
            height: pixels.
            size: of the point, pixels.
        """
        middle = height / 2
        parts = [f'<use href="#{escape(self.anchor)}grid"/>']
        a, b = interval
        if a is not None and b is not None:
            parts.append(
                f'<line class="span {kind}" x1="{self.place(a):.2f}%" x2="{self.place(b):.2f}%" '
                f'y1="{middle}" y2="{middle}"/>'
            )
            for end, sign in ((a, -1), (b, 1)):
                x = self.place(end)
                if self.low <= end <= self.high:
                    parts.append(
                        f'<line class="span {kind}" x1="{x:.2f}%" x2="{x:.2f}%" y1="{middle - 4}" y2="{middle + 4}"/>'
                    )
                else:
                    parts.append(_mark(x, middle, f"M{sign * -6} -4L0 0L{sign * -6} 4", f"cut {kind}"))
        if delta is not None:
            parts.append(_mark(self.place(delta), middle, _shape(kind, size), f"dot {kind}"))
        return f'<svg class="strip" height="{height}" aria-hidden="true">{"".join(parts)}</svg>'


def forest(comparison: Comparison, anchor: str = "") -> Markup:
    """What sharing did to each task: a point and its 95 % interval, the best task first, delta-m last.

    Args:
        comparison: the evidence.
        anchor: a prefix of the ids inside, where a page has several of these.
    """
    tasks = sorted(
        comparison.tasks.items(), key=lambda item: -math.inf if item[1].delta is None else item[1].delta, reverse=True
    )
    axis = _axis([comparison], anchor)
    crowd = len(tasks) > 30
    rows = [_of_task(name, task, axis, 17 if crowd else 30, 4.5 if crowd else 5.5) for name, task in tasks]
    total = _of_mean("Δm, the mean", comparison, axis, 17 if crowd else 30)
    labels = axis.labels("← joint worse · joint better →")
    crowded = " crowd" if crowd else ""
    return Markup(
        f'<div class="forest{crowded}" role="img" aria-label="{escape(forest_words(comparison))}">{axis.grid()}'
        f"{labels if crowd else ''}{''.join(rows)}{total}{labels}</div>"
    )


def forest_of_many(comparisons: Mapping[str, Comparison], anchor: str = "") -> Markup:
    """What each of several methods did to each task, against the same baseline, on one axis: method under method.

    Args:
        comparisons: method -> it against the baseline; all of the same tasks.
        anchor: a prefix of the ids inside.
    """
    axis = _axis(list(comparisons.values()), f"{anchor}many")
    tasks = list(dict.fromkeys(task for c in comparisons.values() for task in c.tasks))
    crowd = len(tasks) * len(comparisons) > 60
    labels = axis.labels("← worse · better →")
    height, size = (17, 4.5) if crowd else (26, 5.5)
    parts = [axis.grid(), labels if crowd or len(tasks) * len(comparisons) > 15 else ""]
    for task in tasks:
        parts.append(f'<div class="of"><bdi>{escape(task)}</bdi></div>')
        parts += [
            _of_task(method, c.tasks[task], axis, height, size) for method, c in comparisons.items() if task in c.tasks
        ]
    means = [_of_mean(method, c, axis, height, "") for method, c in comparisons.items()]
    if any(means):
        parts += ['<div class="of all">Δm, the mean over tasks</div>', *means]
    words = " ".join(f"{method}: {forest_words(c, method)}" for method, c in comparisons.items())
    return Markup(
        f'<div class="forest many{" crowd" if crowd else ""}" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}{labels}</div>"
    )


def forest_words(comparison: Comparison, method: str = "the joint model") -> str:
    """The finding of the forest plot in words.

    Args:
        comparison: the evidence.
        method: what was compared.
    """
    counts = ", ".join(f"{verdict} {count}" for verdict, count in tally(comparison.tasks).items())
    text = f"Change of {method} against single-task models over {len(comparison.tasks)} tasks: {counts}."
    if comparison.delta_m is not None:
        text += f" Mean change {change(comparison.delta_m)}, 95 % interval {change_span(comparison.interval)}."
    known = {name: task for name, task in comparison.tasks.items() if task.delta is not None}
    if known:
        order = sorted(known.items(), key=lambda item: item[1].delta or 0.0)
        (worst, w), (best, b) = order[0], order[-1]
        text += f" Best: {best}, {change(b.delta, b.absolute)}; worst: {worst}, {change(w.delta, w.absolute)}."
    return text


def _of_task(name: str, task: TaskComparison, axis: Axis, height: float, size: float) -> str:
    kind = task.verdict if task.verdict in SIGNS else "undecided"
    return _row(
        name,
        axis.strip(task.delta, task.interval, kind, height, size),
        change(task.delta, task.absolute) + ("†" if task.absolute else ""),
        change_span(task.interval, task.absolute),
    )


def _of_mean(name: str, comparison: Comparison, axis: Axis, height: float, kind: str = "total") -> str:
    if comparison.delta_m is None:
        return ""
    strip = axis.strip(comparison.delta_m, comparison.interval, "mean", height)
    return _row(name, strip, change(comparison.delta_m), change_span(comparison.interval), kind)


def _row(name: str, strip: str, value: str, interval: str, kind: str = "") -> str:
    return (
        f'<div class="row {kind}"><span class="name" title="{escape(name)}"><bdi>{escape(name)}</bdi></span>{strip}'
        f'<span class="value"><b>{value}</b> <span class="ci">{interval}</span></span></div>'
    )


def _mark(x: float, y: float, path: str, kind: str) -> str:
    return f'<svg x="{x:.2f}%" y="{y}" overflow="visible"><path class="{kind}" d="{path}"/></svg>'


def _shape(kind: str, r: float) -> str:
    if kind == "helps":
        return f"M0 {-r}L{r} {r * 0.8:g}L{-r} {r * 0.8:g}Z"
    if kind == "hurts":
        return f"M0 {r}L{r} {-r * 0.8:g}L{-r} {-r * 0.8:g}Z"
    if kind == "mean":
        return f"M0 {-1.3 * r:g}L{1.3 * r:g} 0L0 {1.3 * r:g}L{-1.3 * r:g} 0Z"
    return f"M{-r} 0A{r} {r} 0 1 0 {r} 0A{r} {r} 0 1 0 {-r} 0Z"


def _axis(comparisons: Sequence[Comparison], anchor: str) -> Axis:
    everything: list[TaskComparison | Comparison] = [*(t for c in comparisons for t in c.tasks.values()), *comparisons]
    points = [item.delta if isinstance(item, TaskComparison) else item.delta_m for item in everything]
    return Axis(*_bounds((p for p in points if p is not None), (item.interval for item in everything)), anchor)


def _bounds(deltas: Iterable[float], intervals: Iterable[Interval]) -> tuple[float, float]:
    """The range of the axis: all of the deltas' bulk and zero; a stray interval is cut and gets an arrow."""
    values = [*deltas, *(end for interval in intervals for end in interval if end is not None)]
    sizes = sorted(abs(value) for value in values)
    if not sizes:
        return -0.01, 0.01
    limit = 3 * sizes[int(0.8 * (len(sizes) - 1))] or sizes[-1]
    kept = [min(max(value, -limit), limit) for value in values] + [0.0]
    low, high = min(kept), max(kept)
    pad = 0.06 * (high - low) or 0.01
    return low - pad, high + pad


def _percent_tick(mark: float, marks: Sequence[float]) -> str:
    step = 100 * (marks[1] - marks[0]) if len(marks) > 1 else 1.0
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if abs(mark) < 1e-12:
        return "0"
    return f"{100 * mark:+.{places}f} %".replace("-", "\u2212")
