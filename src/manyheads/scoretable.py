"""Verdicts on anyone's scores: a table with a row per task, method, split and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .metrics import find
from .results import Method
from .verdicts import Direction, Verdicts, compare, counted, mean_of

ASSUMED_RATIO = 0.25
"""Rows of test per row of training where a score table does not tell: an 80/20 split."""
_COLUMNS = ("task", "method", "split", "seed", "value")


def compare_scores(frame: Any, baseline: str = "single", ratio: float | None = None) -> Verdicts:
    """The verdicts on a table of scores from any library.

    Seeds are averaged within a split, and splits are the repeats. With one split only, seeds are the repeats, and the
    protocol says that other rows are not part of the claim. An empty value is a metric that was undefined.

    Args:
        frame: a pandas DataFrame with the columns ``task, method, split, seed, value``, and optionally ``metric`` or
            ``greater_is_better`` (without either, greater is taken to be better, and the summary says so) and
            ``n_train, n_test``, the rows of each split.
        baseline: the method that the others are compared with.
        ratio: test rows per training row of the splits; 0 for splits that share no rows. `None` takes it from
            ``n_test`` and ``n_train``, or assumes an 80/20 split and says so.

    Raises:
        ValueError: a column is missing, a row is wrong (it is named, counted from 1 below the header), a pair of rows
            says the same thing twice, or the baseline is missing.
    """
    rows = _read(frame)
    tasks = {task: _direction(task, [r for r in rows if r["task"] == task]) for task in _unique(rows, "task")}
    names, splits, seeds = (_unique(rows, column) for column in ("method", "split", "seed"))
    several = len(splits) > 1
    repeats = splits if several else seeds
    cells: dict[tuple[str, str, str], list[float]] = {}
    for r in rows:
        if r["value"] is not None:
            cells.setdefault((r["method"], r["task"], r["split" if several else "seed"]), []).append(r["value"])
    methods = [
        Method(
            name=name,
            values={
                task: tuple(mean_of(cells.get((name, task, repeat), ())) for repeat in repeats)
                for task in tasks
                if any((name, task, repeat) in cells for repeat in repeats)
            },
        )
        for name in names
    ]
    ratios: float | dict[str, float | None] | None
    if not several:
        ratios = None
        protocol = (
            f"All scores come from one split: the intervals cover {counted(len(seeds), 'seed')} and nothing else. They "
            "say nothing about other training or test rows; re-draw the split for that."
        )
    else:
        protocol = f"{len(splits)} splits"
        protocol += f", {len(seeds)} seeds averaged within each" if len(seeds) > 1 else ""
        if ratio is not None:
            ratios = ratio
            protocol += f"; {ratio:.3g} test rows per training row, as given."
        elif {"n_train", "n_test"} <= set(rows[0]):
            ratios = {t: float(np.mean([r["n_test"] / r["n_train"] for r in rows if r["task"] == t])) for t in tasks}
            protocol += "; test rows per training row from `n_test` and `n_train`."
        else:
            ratios = ASSUMED_RATIO
            protocol += (
                f"; {ASSUMED_RATIO} test rows per training row assumed (no columns `n_train` and `n_test`): right for "
                "re-drawn 80/20 splits, cautious for splits that share no rows."
            )
        protocol += " Intervals by the corrected resampled t (plain 95 %); verdicts by Holm's adjustment."
    result = compare(methods, tasks, baseline, ratios, protocol=protocol, unit="split" if several else "seed")
    remark = ""
    if not {"metric", "greater_is_better"} & set(rows[0]):
        remark = " Greater was taken to be better on every task: a column `metric` or `greater_is_better` would say."
    if not several:
        remark += " This is about seeds on one split, not about other rows."
    if not remark:
        return result
    return result.model_copy(
        update={
            "summary": result.summary + remark,
            "comparisons": {
                n: c.model_copy(update={"summary": c.summary + remark}) for n, c in result.comparisons.items()
            },
        }
    )


def _unique(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    return list(dict.fromkeys(r[column] for r in rows))


def _missing(value: Any) -> bool:
    return value is None or value != value or type(value).__name__ in ("NAType", "NaTType") or value == ""


def _read(frame: Any) -> list[dict[str, Any]]:
    """The table's rows as plain values, checked."""
    columns = [str(c) for c in frame.columns]
    for column in _COLUMNS:
        if column not in columns:
            raise ValueError(
                f"A score table should have the columns {', '.join(_COLUMNS)}. Column `{column}` is missing; "
                f"found {', '.join(columns) or 'none'}."
            )
    for one, other in (("n_train", "n_test"), ("n_test", "n_train")):
        if one in columns and other not in columns:
            raise ValueError(f"`n_train` and `n_test` go together. Column `{other}` is missing.")
    wanted = [*_COLUMNS, *(c for c in ("metric", "greater_is_better", "n_train", "n_test") if c in columns)]
    lists = {c: frame.iloc[:, columns.index(c)].tolist() for c in wanted}
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], int] = {}
    for i in range(len(frame)):
        row = {c: lists[c][i] for c in wanted}
        for column in ("task", "method", "split", "seed"):
            if _missing(row[column]):
                raise ValueError(f"Every score should have a {column}. Row {i + 1} has none.")
            row[column] = str(row[column])
        row["value"] = None if _missing(row["value"]) else _number(row["value"], "value", i)
        for column in ("n_train", "n_test"):
            if column in row:
                row[column] = 0.0 if _missing(row[column]) else _number(row[column], column, i)
                if row[column] <= 0:
                    raise ValueError(
                        f"`{column}` should be a positive number of rows. Row {i + 1} has {lists[column][i]!r}."
                    )
        key = tuple(row[c] for c in ("task", "method", "split", "seed"))
        if key in seen:
            raise ValueError(
                f"Each task, method, split and seed should have one score. Rows {seen[key]} and {i + 1} are both for "
                f"{', '.join(key)}."
            )
        seen[key] = i + 1
        rows.append(row)
    if not rows:
        raise ValueError("A score table should have rows. Found none.")
    return rows


def _number(value: Any, column: str, i: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{column}` should be a finite number, or empty. Row {i + 1} has {value!r}.")
    return number


_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}


def _direction(task: str, rows: Sequence[Mapping[str, Any]]) -> Direction:
    names = list(dict.fromkeys(str(r["metric"]) for r in rows if "metric" in r and not _missing(r["metric"])))
    if len(names) > 1:
        raise ValueError(f"Each task should have one metric. Task `{task}` has {', '.join(names)}.")
    name = names[0] if names else "value"
    if "greater_is_better" in rows[0]:
        said = list(dict.fromkeys(str(r["greater_is_better"]).strip().lower() for r in rows))
        if len({_TRUTH.get(s) for s in said}) > 1 or said[0] not in _TRUTH:
            raise ValueError(
                f"`greater_is_better` should be true or false, the same throughout a task. Task `{task}` has "
                f"{', '.join(said)}."
            )
        return Direction(name, _TRUTH[said[0]])
    if "metric" not in rows[0]:
        return Direction(name, True)
    if not names:
        raise ValueError(f"Each task should name its metric. Task `{task}` has none in the column `metric`.")
    try:
        return Direction(name, find(name).greater_is_better)
    except ValueError as unknown:
        raise ValueError(
            f"{unknown} Task `{task}` names it; for a metric of your own add a column `greater_is_better`."
        ) from None
