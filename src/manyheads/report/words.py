"""Numbers, verdicts and settings in the words and signs that a page prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup, escape

from ..results import TaskComparison

NONE = "–"
MINUS = "\u2212"
SIGNS = {"helps": "▲", "hurts": "▼", "undecided": "○"}


def decimals(values: Iterable[float | None]) -> int:
    """The decimals that show about three figures of the largest of some numbers.

    Args:
        values: numbers that stand in one row; None is passed over.
    """
    top = max((abs(value) for value in values if value is not None), default=0.0)
    if top >= 1000:
        return 0
    if top >= 100:
        return 1
    if top >= 10 or top == 0:
        return 2
    if top >= 0.01:
        return 3
    return min(12, 2 - math.floor(math.log10(top)))


def number(value: Any, places: int | None = None) -> str:
    """A number as a page prints it: a true minus sign, thousands apart, a dash where there is none.

    Args:
        value: the number, or None.
        places: decimals; by default those of `decimals`, and none for an integer.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if places is None and (isinstance(value, int) or value == 0):
        text = f"{int(value):,}"
    elif abs(value) >= 1e7 or 0 < abs(value) < 1e-5:
        text = f"{value:.2e}"
    else:
        text = f"{value:,.{decimals([value]) if places is None else places}f}"
    return text.replace("-", MINUS).replace(",", "\u2009")


def signed(value: float | None, places: int = 1, unit: str = "") -> str:
    """A number that always carries its sign, zero apart.

    Args:
        value: the number, or None.
        places: decimals.
        unit: what follows the number.
    """
    if value is None:
        return NONE
    text = f"{value:+,.{places}f}"
    if not text.strip("+-0."):
        text = text[1:]
    return text.replace("-", MINUS).replace(",", "\u2009") + unit


def change(value: float | None, absolute: bool = False) -> str:
    """A delta: per cent, or in the metric's own units where it is absolute.

    Args:
        value: the delta as a fraction or difference.
        absolute: whether it is a difference.
    """
    if absolute:
        return signed(value, 3)
    return signed(None if value is None else 100 * value, 1, " %")


def span(interval: tuple[float | None, float | None] | None, places: int | None = None) -> str:
    """An interval of scores, as ``[0.61, 0.66]``.

    Args:
        interval: (low, high), or None.
        places: decimals of both ends.
    """
    if interval is None or interval == (None, None):
        return ""
    places = decimals(interval) if places is None else places
    return f"[{number(interval[0], places)}, {number(interval[1], places)}]"


def change_span(interval: tuple[float | None, float | None] | None, absolute: bool = False) -> str:
    """An interval of deltas, as ``[−0.4 %, +2.1 %]``.

    Args:
        interval: (low, high), or None.
        absolute: whether the ends are differences of the metric.
    """
    if interval is None or interval == (None, None):
        return ""
    return f"[{change(interval[0], absolute)}, {change(interval[1], absolute)}]"


def p_value(value: float | None) -> str:
    """A p value: three decimals, or below which bound it lies.

    Args:
        value: the p value, or None.
    """
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float | None, places: int = 1) -> str:
    """A share in per cent.

    Args:
        value: a fraction, or None.
        places: decimals.
    """
    return NONE if value is None else f"{100 * value:.{places}f} %"


def tally(tasks: Mapping[str, TaskComparison]) -> dict[str, int]:
    """How many tasks each verdict has, the usual three first.

    Args:
        tasks: the comparison of each task.
    """
    counts = dict.fromkeys(SIGNS, 0)
    for task in tasks.values():
        counts[task.verdict] = counts.get(task.verdict, 0) + 1
    return {verdict: count for verdict, count in counts.items() if count}


def lines(value: Any, indent: int = 0) -> list[str]:
    """A nested value as indented ``key: value`` lines, for reading only.

    Args:
        value: dicts, lists and plain values.
        indent: the level it stands at.
    """
    pad = "  " * indent
    if isinstance(value, Mapping):
        found = []
        for key, item in value.items():
            if isinstance(item, (Mapping, list, tuple)) and item and not _short(item):
                found += [f"{pad}{key}:", *lines(item, indent + 1)]
            else:
                found.append(f"{pad}{key}: {_inline(item)}")
        return found
    if isinstance(value, (list, tuple)) and not _short(value):
        found = []
        for item in value:
            inner = lines(item, indent + 1)
            found += [f"{pad}- {inner[0].lstrip()}", *inner[1:]] if inner else [f"{pad}- {_inline(item)}"]
        return found
    return [f"{pad}{_inline(value)}"]


def coded(text: str) -> Markup:
    """A sentence with its `words in back quotes` as code, everything else as it is.

    Args:
        text: no markup.
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a quote that nobody closes
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def block(value: Any, most: int = 600) -> str:
    """The text of `lines`, cut after so many lines with a word about it.

    Args:
        value: dicts, lists and plain values.
        most: lines to keep.
    """
    found = lines(value)
    rest = len(found) - most
    if rest > 0:
        found = [*found[:most], f"... {rest} further lines: see report.json"]
    return "\n".join(found)


def _short(value: Any) -> bool:
    flat = isinstance(value, (list, tuple)) and not any(isinstance(item, (Mapping, list, tuple)) for item in value)
    return flat and len(_inline(value)) <= 80


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
