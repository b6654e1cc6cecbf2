"""The charts of a page: inline SVG that takes its colours from the page, so that dark mode and print are one rule.

Two ways of scaling keep letters at reading size on every screen. Strips (intervals, bars) use per cent across and
pixels down and leave their words to HTML; cards (curves) have a fixed small frame that a grid repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from manyheads.report.words import SIGNS, change, change_span, number, tally
from manyheads.results import Comparison, TaskComparison

Points = Sequence[tuple[float, float | None]]

_WIDE, _LEFT, _RIGHT = 320.0, 46.0, 12.0


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers across a range, 1, 2 or 5 times a power of ten apart.

    Args:
        low: the lower end.
        high: the upper end.
        about: how many are wished for.
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= raw * (1 - 1e-9)), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def forest(comparison: Comparison, anchor: str = "") -> Markup:
    """What sharing did to each task: a point and its 95 % interval, the best task first, delta-m last.

    Args:
        comparison: the evidence.
        anchor: a prefix of the ids inside, where a page has several of these.
    """
    tasks = sorted(
        comparison.tasks.items(), key=lambda item: -math.inf if item[1].delta is None else item[1].delta, reverse=True
    )
    low, high = _bounds(comparison)
    marks = ticks(low, high)
    crowd = len(tasks) > 30
    height = 17 if crowd else 30

    def place(value: float) -> float:
        return 100 * (min(max(value, low), high) - low) / (high - low)

    grid = "".join(
        f'<line class="{"zeroline" if abs(mark) < 1e-12 else "gridline"}" x1="{place(mark):.2f}%" '
        f'x2="{place(mark):.2f}%" y1="0" y2="100%"/>'
        for mark in marks
    )

    def strip(delta: float | None, interval: tuple[float | None, float | None], kind: str) -> str:
        middle = height / 2
        parts = [f'<use href="#{escape(anchor)}grid"/>']
        a, b = interval
        if a is not None and b is not None:
            parts.append(
                f'<line class="span {kind}" x1="{place(a):.2f}%" x2="{place(b):.2f}%" y1="{middle}" y2="{middle}"/>'
            )
            for end, sign in ((a, -1), (b, 1)):
                if low <= end <= high:
                    parts.append(
                        f'<line class="span {kind}" x1="{place(end):.2f}%" x2="{place(end):.2f}%" '
                        f'y1="{middle - 4}" y2="{middle + 4}"/>'
                    )
                else:
                    parts.append(_mark(place(end), middle, f"M{sign * -6} -4L0 0L{sign * -6} 4", f"cut {kind}"))
        if delta is not None:
            size = 4.5 if crowd else 5.5
            parts.append(_mark(place(delta), middle, _shape(kind, size), f"dot {kind}"))
        return f'<svg class="strip" height="{height}" aria-hidden="true">{"".join(parts)}</svg>'

    rows = []
    for name, task in tasks:
        kind = task.verdict if task.verdict in SIGNS else "undecided"
        dagger = "†" if task.absolute else ""
        rows.append(
            _row(
                name,
                strip(task.delta, task.interval, kind),
                change(task.delta, task.absolute) + dagger,
                change_span(task.interval, task.absolute),
            )
        )
    total = ""
    if comparison.delta_m is not None:
        total = _row(
            "Δm, the mean",
            strip(comparison.delta_m, comparison.interval, "mean"),
            change(comparison.delta_m),
            change_span(comparison.interval),
            "total",
        )
    labels = "".join(
        f'<text x="{place(mark):.2f}%" y="14" text-anchor="middle">{_percent_tick(mark, marks)}</text>'
        for mark in marks
    )
    axis = (
        f'<div class="row axis"><span class="name">← joint worse · joint better →</span>'
        f'<svg class="strip" height="18" aria-hidden="true">{labels}</svg><span class="value"></span></div>'
    )
    crowded = " crowd" if crowd else ""
    shared = f'<svg class="off" aria-hidden="true"><defs><g id="{escape(anchor)}grid">{grid}</g></defs></svg>'
    return Markup(
        f'<div class="forest{crowded}" role="img" aria-label="{escape(forest_words(comparison))}">{shared}'
        f"{axis if crowd else ''}{''.join(rows)}{total}{axis}</div>"
    )


def forest_words(comparison: Comparison) -> str:
    """The finding of the forest plot in words.

    Args:
        comparison: the evidence.
    """
    counts = ", ".join(f"{verdict} {count}" for verdict, count in tally(comparison.tasks).items())
    text = f"Change of the joint model against single-task models over {len(comparison.tasks)} tasks: {counts}."
    if comparison.delta_m is not None:
        text += f" Mean change {change(comparison.delta_m)}, 95 % interval {change_span(comparison.interval)}."
    known = {name: task for name, task in comparison.tasks.items() if task.delta is not None}
    if known:
        order = sorted(known.items(), key=lambda item: item[1].delta or 0.0)
        (worst, w), (best, b) = order[0], order[-1]
        text += f" Best: {best}, {change(b.delta, b.absolute)}; worst: {worst}, {change(w.delta, w.absolute)}."
    return text


def coverage(labels: int, rows: int) -> Markup:
    """A bar of how many rows carry a label; the missing part is hatched.

    Args:
        labels: known labels.
        rows: all rows.
    """
    share = labels / rows if rows else 0.0
    return Markup(f'<svg class="bar hatched" aria-hidden="true"><rect width="{100 * share:.1f}%" height="8"/></svg>')


def bar(value: float, top: float) -> Markup:
    """A bar from zero, its length a share of the longest.

    Args:
        value: the number drawn.
        top: the largest absolute number beside it.
    """
    share = abs(value) / top if top else 0.0
    kind = "" if value >= 0 else ' class="negative"'
    return Markup(f'<svg class="bar" aria-hidden="true"><rect{kind} width="{100 * share:.1f}%" height="8"/></svg>')


def card(
    name: str,
    upper: Points,
    lower: Points = (),
    *,
    upper_name: str,
    lower_name: str = "train loss",
    greater_is_better: bool = True,
    chosen: float | None = None,
    level: int = 3,
    ring: bool = True,
) -> Markup:
    """One small multiple: a validated number above, the train loss below, over the same epochs.

    Args:
        name: the heading.
        upper: (epoch, value) of the upper panel.
        lower: (epoch, value) of the lower panel; none leaves the panel out.
        upper_name: what the upper panel shows.
        lower_name: what the lower panel shows.
        greater_is_better: which way the upper number is better.
        chosen: the epoch whose weights were kept, drawn through both panels.
        level: the rank of the heading, 1 to 6.
        ring: whether the best point of the upper panel is marked.
    """
    both = [x for x, value in (*upper, *lower) if value is not None]
    if not both:
        return Markup("")
    first, last = min(both), max(both)
    last = last if last > first else first + 1
    panels = [part for part in (upper, lower) if any(value is not None for _, value in part)]
    depth = 162.0 if len(panels) == 1 else 68.0

    def across(x: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * (x - first) / (last - first)

    parts = []
    top = 22.0
    for part, title, kind in ((upper, upper_name, "metric"), (lower, lower_name, "loss")):
        if any(value is not None for _, value in part):
            parts.append(_panel(part, title, kind, top, depth, across))
            top += depth + 26
    bottom = top - 26
    if chosen is not None and first <= chosen <= last:
        x = f"{across(chosen):.1f}"
        parts.append(f'<line class="chosen" x1="{x}" x2="{x}" y1="20" y2="{bottom:.1f}"/>')
    found = best(upper, greater_is_better) if ring else None
    if found:
        low, high = _extent(upper)
        y = 22 + depth * (1 - (found[1] - low) / (high - low))
        parts.append(f'<circle class="best" cx="{across(found[0]):.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(
            f'<text class="title" x="{_WIDE - _RIGHT:g}" y="14" text-anchor="end">best '
            f'<tspan class="figure">{number(found[1])}</tspan> at {found[0]:g}</text>'
        )
    for mark in ticks(first, last, 4):
        if mark == int(mark):
            parts.append(f'<text x="{across(mark):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{mark:g}</text>')
    parts.append(f'<text x="2" y="{bottom + 16:.1f}">epoch</text>')
    words = (
        card_words(name, upper, lower, upper_name, lower_name, greater_is_better)
        if ring
        else f"{name}: {_from_to(upper, upper_name)} {_from_to(lower, lower_name)}".strip()
    )
    return Markup(
        f'<div class="card"><h{level} title="{escape(name)}"><bdi>{escape(name)}</bdi></h{level}>'
        f'<svg viewBox="0 0 {_WIDE:g} {bottom + 22:g}" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}</svg></div>"
    )


def card_words(
    name: str, upper: Points, lower: Points, upper_name: str, lower_name: str, greater_is_better: bool
) -> str:
    """The finding of a small multiple in words.

    Args:
        name: the task.
        upper: (epoch, value) of the upper panel.
        lower: (epoch, value) of the lower panel.
        upper_name: what the upper panel shows.
        lower_name: what the lower panel shows.
        greater_is_better: which way the upper number is better.
    """
    words = f"{name}: "
    found = best(upper, greater_is_better)
    if found:
        words += f"{upper_name} is best, {number(found[1])}, at epoch {found[0]:g}. "
    return (words + _from_to(lower, lower_name)).strip()


def _from_to(points: Points, name: str) -> str:
    known = [value for _, value in points if value is not None]
    return f"{name} goes from {number(known[0])} to {number(known[-1])}." if known else ""


def spark(values: Sequence[float | None], low: float, high: float) -> Markup:
    """A line without axes, to stand in a table.

    Args:
        values: one number per epoch or step.
        low: the number at the bottom.
        high: the number at the top.
    """
    high = high if high > low else low + 1
    width = max(1, len(values) - 1)
    scaled = [
        (160 * index / width, None if value is None else 3 + 22 * (1 - (value - low) / (high - low)))
        for index, value in enumerate(values)
    ]
    return Markup(
        f'<svg class="spark" viewBox="0 0 160 28" width="160" height="28" aria-hidden="true">'
        f"{_lines(scaled, 'metric')}</svg>"
    )


def best(points: Points, greater_is_better: bool = True) -> tuple[float, float] | None:
    """The best point of a course, the earliest of equals; None where there is none.

    Args:
        points: (epoch, value).
        greater_is_better: which way is better.
    """
    known = [(x, value) for x, value in points if value is not None]
    if not known:
        return None
    return max(known, key=lambda point: point[1]) if greater_is_better else min(known, key=lambda point: point[1])


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


def _bounds(comparison: Comparison) -> tuple[float, float]:
    """The range of the axis: all of the deltas' bulk and zero; a stray interval is cut and gets an arrow."""
    points = [task.delta for task in comparison.tasks.values() if task.delta is not None]
    everything: list[TaskComparison | Comparison] = [*comparison.tasks.values(), comparison]
    ends = [end for item in everything for end in item.interval if end is not None]
    if comparison.delta_m is not None:
        points.append(comparison.delta_m)
    sizes = sorted(abs(value) for value in points + ends)
    if not sizes:
        return -0.01, 0.01
    limit = 3 * sizes[int(0.8 * (len(sizes) - 1))] or sizes[-1]
    kept = [min(max(value, -limit), limit) for value in points + ends] + [0.0]
    low, high = min(kept), max(kept)
    pad = 0.06 * (high - low) or 0.01
    return low - pad, high + pad


def _percent_tick(mark: float, marks: Sequence[float]) -> str:
    step = 100 * (marks[1] - marks[0]) if len(marks) > 1 else 1.0
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if abs(mark) < 1e-12:
        return "0"
    return f"{100 * mark:+.{places}f} %".replace("-", "\u2212")


def _extent(points: Points) -> tuple[float, float]:
    known = [value for _, value in points if value is not None]
    low, high = min(known), max(known)
    if not high > low:
        low, high = (low - abs(low) * 0.5, high + abs(high) * 0.5) if low else (0.0, 1.0)
    return low, high


def _panel(points: Points, title: str, kind: str, top: float, depth: float, across: Callable[[float], float]) -> str:
    low, high = _extent(points)
    scaled = [
        (across(x), None if value is None else top + depth * (1 - (value - low) / (high - low))) for x, value in points
    ]
    parts = [f'<text class="title" x="{_LEFT:g}" y="{top - 8:g}">{escape(title)}</text>']
    for value, y in ((high, top), (low, top + depth)):
        parts.append(
            f'<line class="gridline" x1="{_LEFT:g}" x2="{_WIDE - _RIGHT:g}" y1="{y:g}" y2="{y:g}"/>'
            f'<text x="{_LEFT - 5:g}" y="{y + 4:g}" text-anchor="end">{number(value)}</text>'
        )
    parts.append(_lines(scaled, kind))
    return "".join(parts)


def _lines(points: Points, kind: str) -> str:
    """Polylines through the points that exist; a lone point becomes a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    parts = []
    for run in runs:
        if len(run) == 1:
            parts.append(f'<circle class="lone {kind}" cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="2"/>')
        elif run:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            parts.append(f'<polyline class="line {kind}" points="{path}"/>')
    return "".join(parts)
