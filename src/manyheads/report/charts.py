"""Charts of relatedness and of many methods: the tree of likeness, scatters, and courses with bands.

Cards have a small frame that a grid repeats (`figures`); the tree's words are HTML, its lines per cent across.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ..results import Dendrogram
from .figures import ticks
from .words import NONE, number

WIDE, LEFT, RIGHT = 320.0, 46.0, 14.0
STEP = 28
"""Pixels from one task of a tree to the next."""
_LETTER = 6.2
"""Width of a letter of a chart, about, in the units of a card."""
_BOLD = 7.2
"""The same of a bold one, rather wider than not: a name never lies on its own dot."""


# ---- the tree


def tree(found: Dendrogram, zero: bool) -> Markup:
    """The tree of average linkage: tasks from above to below, the sooner (further left) joined the more alike.

    Args:
        found: the tree.
        zero: whether 0 is a border, between gain and loss; then it is drawn.
    """
    n = len(found.tasks)
    heights = [merge.height for merge in found.merges]
    top, low = max(heights), min([*heights, 0.0] if zero else heights)
    if zero:
        top = max(top, 0.0)
    if not top > low:
        top, low = top + 0.5, low - 0.5

    def across(height: float) -> float:
        return 6 + 90 * (top - height) / (top - low)

    ends = {leaf: (0.0, STEP * (place + 0.5)) for place, leaf in enumerate(found.leaves)}
    parts = []
    if zero:
        parts.append(f'<line class="zero" x1="{across(0):.2f}%" x2="{across(0):.2f}%" y1="0" y2="{STEP * n}"/>')
    for i, merge in enumerate(found.merges):
        x = across(merge.height)
        (ax, ay), (bx, by) = ends[merge.left], ends[merge.right]
        for from_x, y in ((ax, ay), (bx, by)):
            parts.append(f'<line class="limb" x1="{from_x:.2f}%" x2="{x:.2f}%" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<line class="limb" x1="{x:.2f}%" x2="{x:.2f}%" y1="{ay:.1f}" y2="{by:.1f}"/>')
        ends[n + i] = (x, (ay + by) / 2)
    x, y = ends[n + len(found.merges) - 1]
    parts.append(f'<line class="limb" x1="{x:.2f}%" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
    names = "".join(
        f'<span title="{escape(found.tasks[i])}"><bdi>{escape(found.tasks[i])}</bdi></span>' for i in found.leaves
    )
    marks = ticks(low, top, 4)
    axis = "".join(
        f'<text x="{across(mark):.2f}%" y="14" text-anchor="middle">{_tick(mark, marks)}</text>' for mark in marks
    )
    return Markup(
        f'<div class="tree" role="img" aria-label="{escape(tree_words(found))}" style="--step:{STEP}px">'
        f'<div class="names">{names}</div><svg height="{STEP * n}" aria-hidden="true">{"".join(parts)}</svg>'
        f'<span class="name">more alike ← → less</span><svg height="18" aria-hidden="true">{axis}</svg></div>'
    )


def tree_words(found: Dendrogram) -> str:
    """The finding of a tree in words: who is joined first, and who last.

    Args:
        found: the tree.
    """
    joined = joins(found)
    (a, b, h), (y, z, last) = joined[0], joined[-1]
    text = f"Tree of {len(found.tasks)} tasks. Joined first, at {number(h)}: {a} and {b}."
    return text + (f" Joined last, at {number(last)}: {y}; and {z}." if len(joined) > 1 else "")


def joins(found: Dendrogram) -> list[tuple[str, str, float]]:
    """(tasks of the one cluster, of the other, height) of every merge, in their order.

    Args:
        found: the tree.
    """
    names = list(found.tasks)
    answer = []
    for merge in found.merges:
        answer.append((names[merge.left], names[merge.right], merge.height))
        names.append(f"{names[merge.left]}, {names[merge.right]}")
    return answer


# ---- dots


@dataclass(frozen=True)
class Dot:
    """A point of a scatter: its place, the letters beside it, whether it is on the front, and whether it was chosen."""

    x: float
    y: float
    key: str = ""
    front: bool = False
    chosen: bool = False


def scatter(
    name: str,
    dots: Sequence[Dot],
    *,
    x_name: str,
    y_name: str,
    words: str,
    zero: bool = False,
    uprights: Sequence[tuple[float, str]] = (),
    levels: Sequence[tuple[float, str]] = (),
    rank: int = 3,
) -> Markup:
    """Two numbers of many things, each a dot.

    Args:
        name: the heading.
        dots: the things.
        x_name: what is across.
        y_name: what is upwards.
        words: the finding, for those who do not see it.
        zero: whether both axes show 0 as a border.
        uprights: (value, words) of lines to set dots against, across.
        levels: (value, words) of such lines, upwards.
        rank: of the heading, 1 to 6.
    """
    tall, top, bottom = 250.0, 26.0, 206.0
    x_low, x_high = _range([*(d.x for d in dots), *(v for v, _ in uprights), *([0.0] if zero else [])])
    y_low, y_high = _range([*(d.y for d in dots), *(v for v, _ in levels), *([0.0] if zero else [])])

    def across(value: float) -> float:
        return LEFT + (WIDE - LEFT - RIGHT) * (value - x_low) / (x_high - x_low)

    def up(value: float) -> float:
        return bottom - (bottom - top) * (value - y_low) / (y_high - y_low)

    parts = [f'<text class="title" x="2" y="12">{escape(_cut(f"↑ {y_name}", WIDE))}</text>']
    x_marks, y_marks = ticks(x_low, x_high, 5), ticks(y_low, y_high, 6)
    for mark in x_marks:
        kind, x = ("zeroline" if zero and abs(mark) < 1e-12 else "gridline"), f"{across(mark):.1f}"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{top:g}" y2="{bottom:g}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 15:g}" text-anchor="middle">{_tick(mark, x_marks)}</text>')
    for mark in y_marks:
        kind, y = ("zeroline" if zero and abs(mark) < 1e-12 else "gridline"), up(mark)
        parts.append(f'<line class="{kind}" x1="{LEFT:g}" x2="{WIDE - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5:g}" y="{y + 4:.1f}" text-anchor="end">{_tick(mark, y_marks)}</text>')
    side = _cut(f"{x_name} →", WIDE)
    parts.append(
        f'<text class="title" x="{WIDE - RIGHT:g}" y="{bottom + 34:g}" text-anchor="end">{escape(side)}</text>'
    )
    for value, text in uprights:
        at = across(value)
        parts.append(f'<line class="against" x1="{at:.1f}" x2="{at:.1f}" y1="{top:g}" y2="{bottom:g}"/>')
        anchor = "end" if at > WIDE / 2 else "start"
        shift = -4 if anchor == "end" else 4
        parts.append(f'<text x="{at + shift:.1f}" y="{bottom - 5:g}" text-anchor="{anchor}">{escape(text)}</text>')
    for value, text in levels:
        y = up(value)
        parts.append(f'<line class="against" x1="{LEFT:g}" x2="{WIDE - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT + 4:g}" y="{y - 4:.1f}">{escape(text)}</text>')
    for dot in sorted(dots, key=lambda d: d.front + 2 * d.chosen):
        parts.append(_dot(across(dot.x), up(dot.y), dot))
    parts += _keys([(across(d.x), up(d.y), d.key, 9.0 if d.chosen else 4.0) for d in dots], top, bottom)
    return _card(name, "".join(parts), tall, words, rank)


def _dot(x: float, y: float, dot: Dot) -> str:
    ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8.5"/>' if dot.chosen else ""
    if dot.front:
        return f'{ring}<path class="dot front" d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>'
    return f'{ring}<circle class="dot plain" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'


def _keys(points: Sequence[tuple[float, float, str, float]], top: float, bottom: float) -> list[str]:
    """The letters beside dots (of half a width each), each where it meets the fewest other dots and letters."""
    taken = [(x - half, x + half, y - half, y + half) for x, y, _, half in points]
    parts = []
    for x, y, key, half in points:
        if not key:
            continue
        wide, far = _BOLD * len(key), half + 5
        places = [(x + far, y + 4), (x - far - wide, y + 4), (x - wide / 2, y - far), (x - wide / 2, y + far + 8),
                  (x + far - 2, y - far + 3), (x - far + 2 - wide, y - far + 3),
                  (x + far - 2, y + far + 5), (x - far + 2 - wide, y + far + 5)]  # fmt: skip

        def clash(place: tuple[float, float], wide: float = wide) -> float:
            left, base = place
            box = left, left + wide, base - 9, base + 1
            over = sum(_overlap(box, other) for other in taken)
            outside = max(0.0, LEFT - left) + max(0.0, left + wide - WIDE) + max(0.0, top - base + 9)
            return over + 20 * (outside + max(0.0, base - bottom))

        left, base = min(places, key=clash)
        taken.append((left, left + wide, base - 9, base + 1))
        parts.append(f'<text class="key" x="{left:.1f}" y="{base:.1f}">{escape(key)}</text>')
    return parts


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[2], b[2]))


# ---- courses with bands


@dataclass(frozen=True)
class Course:
    """A line: (x, value, lower and upper end of its band) at each of its points."""

    name: str
    points: tuple[tuple[float, float | None, float | None, float | None], ...]


def bands(
    name: str, courses: Sequence[Course], *, x_name: str, y_name: str, words: str, log: bool = False, rank: int = 3,
    counts: bool = False,
) -> Markup:  # fmt: skip
    """Several courses, each with a band, told apart by dashes and marks and named at their ends.

    Args:
        name: the heading.
        courses: four at most can be told apart.
        x_name: what is across.
        y_name: what is upwards.
        words: the finding, for those who do not see it.
        log: whether the axis across is logarithmic; its numbers are shares then, and each has a mark.
        rank: of the heading, 1 to 6.
        counts: whether the axis across is logarithmic and its numbers are counts, of which each has a mark.
    """
    tall, top, bottom = 232.0, 26.0, 188.0
    right = 10 + min(92.0, _LETTER * max(len(c.name) for c in courses))
    xs = sorted({x for c in courses for x, *_ in c.points})
    y_low, y_high = _range([v for c in courses for _, *rest in c.points for v in rest if v is not None])
    scale = math.log if log or counts else float
    first, last = scale(xs[0]), scale(xs[-1])
    last = last if last > first else first + 1

    def across(value: float) -> float:
        return LEFT + (WIDE - LEFT - right) * (scale(value) - first) / (last - first)

    def up(value: float) -> float:
        return bottom - (bottom - top) * (value - y_low) / (y_high - y_low)

    parts = [f'<text class="title" x="2" y="12">{escape(_cut(f"↑ {y_name}", WIDE))}</text>']
    y_marks = ticks(y_low, y_high, 4)
    for mark in y_marks:
        y = up(mark)
        parts.append(f'<line class="gridline" x1="{LEFT:g}" x2="{WIDE - right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5:g}" y="{y + 4:.1f}" text-anchor="end">{_tick(mark, y_marks)}</text>')
    edge = -math.inf
    for mark in xs if log or counts else [m for m in ticks(xs[0], xs[-1], 4) if m == int(m)]:
        text = f"{100 * mark:g} %" if log else f"{mark:,.0f}" if counts else f"{mark:g}"
        x, half = across(mark), _LETTER * len(text) / 2
        if x - half > edge:
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16:g}" text-anchor="middle">{text}</text>')
            edge = x + half + 2
    parts.append(
        f'<text class="title" x="{WIDE - right:g}" y="{bottom + 34:g}" text-anchor="end">{escape(x_name)} →</text>'
    )
    ends = []
    for i, course in enumerate(courses):
        kind = f"c{i % 4}"
        band = [(x, low, high) for x, _, low, high in course.points if low is not None and high is not None]
        if len(band) > 1:
            edges = [*((x, high) for x, _, high in band), *((x, low) for x, low, _ in reversed(band))]
            path = " ".join(f"{across(x):.1f},{up(v):.1f}" for x, v in edges)
            parts.append(f'<polygon class="band {kind}" points="{path}"/>')
        line = [(across(x), up(v)) for x, v, _, _ in course.points if v is not None]
        if not line:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline class="course {kind}" points="{path}"/>')
        if len(line) <= 20:
            parts += [_token(x, y, i % 4) for x, y in line]
        ends.append((line[-1][1], course.name))
    free = -math.inf
    for y, text in sorted(ends):
        free = max(y + 4, free + 13)
        short = _cut(text, right - 8)
        parts.append(f'<text class="key" x="{WIDE - right + 8:.1f}" y="{free:.1f}">{escape(short)}</text>')
    return _card(name, "".join(parts), tall, words, rank)


def _token(x: float, y: float, i: int) -> str:
    """A mark of a course: circle, square, triangle, cross."""
    paths = (
        f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
        f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        f"M{x:.1f} {y - 3.6:.1f}l3.6 6.4h-7.2z",
        f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6",
    )
    return f'<path class="token c{i}" d="{paths[i]}"/>'


# ---- what they share


def _card(name: str, inside: str, tall: float, words: str, rank: int) -> Markup:
    return Markup(
        f'<div class="card"><h{rank} title="{escape(name)}"><bdi>{escape(name)}</bdi></h{rank}>'
        f'<svg viewBox="0 0 {WIDE:g} {tall:g}" role="img" aria-label="{escape(words)}">{inside}</svg></div>'
    )


def _cut(text: str, wide: float) -> str:
    most = max(4, int(wide / _LETTER))
    return text if len(text) <= most else text[: most - 1] + "…"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.07 * (high - low) or 0.1 * abs(high) or 0.5
    return low - pad, high + pad


def _tick(mark: float, marks: Sequence[float]) -> str:
    if abs(mark) < 1e-12:
        return "0"
    step = abs(marks[1] - marks[0]) if len(marks) > 1 else abs(mark)
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return number(mark, places) if places < 6 and abs(mark) < 1e6 else f"{mark:.0e}" if math.isfinite(mark) else NONE
