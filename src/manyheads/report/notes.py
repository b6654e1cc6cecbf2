"""Whatever architectures and balances recorded, drawn by its shape: a number, bars, courses, a matrix, or text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from . import figures
from .words import block, decimals, number

_COLUMNS, _ROWS, _SHORT = 40, 60, 12
_COURSES = 240


@dataclass(frozen=True)
class Row:
    """One line of a drawn note: its name, a drawing, and cells of (text, share of the largest)."""

    name: str
    cells: tuple[tuple[str, float], ...] = ()
    drawing: Markup | None = None


@dataclass(frozen=True)
class Note:
    """A recorded value ready for the page; `text` is set instead of `rows` where no drawing fits."""

    name: str
    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    text: str = ""
    left_out: str = ""


@dataclass(frozen=True)
class Use:
    """What tasks take from where, and how that came about: task -> a small line per column, from `low` to `high`."""

    note: Note
    sparks: Mapping[str, Sequence[Markup | None]]
    low: str
    high: str


def note(name: str, value: Any) -> list[Note]:
    """A recorded value as one table, or as several where it is a dict of matrices.

    Args:
        name: its heading.
        value: a number, a text, or dicts and lists of them.
    """
    if _numbers(value):
        value = {name: value} if len(value) > _SHORT else dict(enumerate(value))
    if _is_number(value) or not isinstance(value, (Mapping, list, tuple)):
        return [Note(name, text=number(value) if _is_number(value) else str(value))]
    if not value:
        return []
    table = value if isinstance(value, Mapping) else dict(enumerate(value))
    inner = list(table.values())
    if all(_is_number(item) for item in inner):
        return [_bars(name, table)]
    if all(isinstance(item, Mapping) and item and all(_is_number(x) for x in item.values()) for item in inner):
        columns = list(dict.fromkeys(str(key) for item in inner for key in item))
        rows = {
            key: [{str(k): v for k, v in item.items()}.get(column) for column in columns] for key, item in table.items()
        }
        return [_matrix(name, columns, rows)]
    if all(_numbers(item) for item in inner):
        widths = {len(item) for item in inner}
        if len(widths) == 1 and (max(widths) <= _SHORT or max(widths) == len(inner)):
            width = widths.pop()
            columns = [str(key) for key in table] if width == len(inner) else [str(i) for i in range(width)]
            return [_matrix(name, columns, table)]
        return [courses(name, table)]
    if isinstance(value, Mapping) and all(isinstance(item, (Mapping, list, tuple)) for item in inner):
        parts = [part for key, item in table.items() for part in note(f"{name} · {key}", item)]
        if len(parts) <= 24 and all(part.rows for part in parts):
            return parts
    return [Note(name, text=block(value, 200))]


def use(courses: Mapping[str, Mapping[str, Sequence[tuple[float, float | None]]]], epoch: float | None) -> Use | None:
    """Who uses what: the numbers of one epoch as a heat map, each with its course where there is one.

    Args:
        courses: task -> label -> (epoch, value).
        epoch: which one; a label without a number there, and None, takes the last it has.
    """
    labels = list(dict.fromkeys(label for own in courses.values() for label in own))
    if not labels:
        return None
    table = {task: [_at(own.get(label, ()), epoch) for label in labels] for task, own in courses.items()}
    known = [v for own in courses.values() for course in own.values() for _, v in course if v is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    several = any(len(course) > 1 for own in courses.values() for course in own.values())
    drawn = several and len(table) * len(labels) <= _COURSES
    sparks = (
        {
            task: [
                figures.spark([v for _, v in own.get(label, ())], low, high) if own.get(label) else None
                for label in labels
            ]
            for task, own in courses.items()
        }
        if drawn
        else {}
    )
    drawing = _matrix("Who uses what", labels, table, max(2, decimals(known)))
    return Use(drawing, sparks, number(low), number(high))


def _at(course: Sequence[tuple[float, float | None]], epoch: float | None) -> float | None:
    last = next((v for _, v in reversed(course) if v is not None), None)
    return next((v for e, v in course if e == epoch and v is not None), last)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _numbers(value: Any) -> bool:
    flat = isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_number(item) for item in value)
    return flat and any(item is not None for item in value)


def _top(values: Sequence[Any]) -> float:
    return max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)


def _bars(name: str, table: Mapping[Any, Any]) -> Note:
    top = _top(list(table.values()))
    rows = tuple(Row(str(key), ((number(value), 0.0),), figures.bar(value or 0.0, top)) for key, value in table.items())
    return Note(name, ("value",), rows)


def courses(name: str, table: Mapping[Any, Sequence[Any]]) -> Note:
    """Numbers over epochs or steps: a small line for each name, all of one scale, and where it began and ended.

    Args:
        name: the heading.
        table: name -> its numbers in order, None where there is none; some number must be known.
    """
    known = [value for item in table.values() for value in item if value is not None]
    low, high = min(known), max(known)
    rows = []
    for key, item in list(table.items())[:_ROWS]:
        real = [value for value in item if value is not None] or [None]
        cells = tuple((number(value), 0.0) for value in (real[0], min(real), max(real), real[-1]))
        rows.append(Row(str(key), cells, figures.spark(item, low, high)))
    return Note(name, ("first", "lowest", "highest", "last"), tuple(rows), left_out=_left_out(len(table), 0))


def _matrix(name: str, columns: Sequence[str], table: Mapping[Any, Sequence[Any]], places: int | None = None) -> Note:
    kept = {key: item[:_COLUMNS] for key, item in list(table.items())[:_ROWS]}
    top = _top([value for item in kept.values() for value in item]) or 1.0
    rows = tuple(
        Row(str(key), tuple((number(value, places), abs(value or 0.0) / top) for value in item))
        for key, item in kept.items()
    )
    return Note(name, tuple(columns[:_COLUMNS]), rows, left_out=_left_out(len(table), len(columns)))


def _left_out(rows: int, columns: int) -> str:
    parts = [
        f"{most} of {count} {word}"
        for count, most, word in ((rows, _ROWS, "rows"), (columns, _COLUMNS, "columns"))
        if count > most
    ]
    return f"Shown: {' and '.join(parts)}; all of it is in report.json." if parts else ""
