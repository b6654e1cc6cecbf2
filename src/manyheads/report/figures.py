"""The charts of a page: inline SVG that takes its colours from the page, so that dark mode and print are one rule.

Two ways of scaling keep letters at reading size on every screen. Strips (intervals, bars) use per cent across and
pixels down and leave their words to HTML; cards (curves) have a fixed small frame that a grid repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from .words import number

Points = Sequence[tuple[float, float | None]]

_WIDE, _LEFT, _RIGHT = 320.0, 46.0, 12.0
_LETTER, _ROOM = 6.0, 205.0
"""How wide a letter of a title is, about, and where a title has to end."""


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
    parts = [_title(title, top - 8)]
    for value, y in ((high, top), (low, top + depth)):
        parts.append(
            f'<line class="gridline" x1="{_LEFT:g}" x2="{_WIDE - _RIGHT:g}" y1="{y:g}" y2="{y:g}"/>'
            f'<text x="{_LEFT - 5:g}" y="{y + 4:g}" text-anchor="end">{number(value)}</text>'
        )
    parts.append(_lines(scaled, kind))
    return "".join(parts)


def _title(text: str, y: float) -> str:
    """A panel's title; a long one begins further left, and is drawn narrower, to end before what stands right."""
    wide = _LETTER * len(text)
    x = _LEFT if _LEFT + wide <= _ROOM else 2.0
    squeezed = f' textLength="{_ROOM - x:g}" lengthAdjust="spacingAndGlyphs"' if x + wide > _ROOM else ""
    return f'<text class="title" x="{x:g}" y="{y:g}"{squeezed}>{escape(text)}</text>'


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
