"""A first config, guessed from a table."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from . import yaml12
from .catalog import hint
from .door import Door
from .faults import ConfigError, DataError
from .files import write_atomically
from .intake import of_file
from .spec import RunSpec, dumped

if TYPE_CHECKING:
    import pandas as pd

LIKELY = re.compile(
    r"(?:^|[_\W])(?:target|label|y|class|outcome|response|is_?\w*fraud|churn(?:ed)?|click(?:ed)?|clk|bought|buy|purchase[ds]?|"
    r"convert(?:ed)?|conversion|default(?:ed)?|survived|rating|score|price|sales|revenue|amount|income|wage|lwage|salary|"
    r"enroll|married|diagnosis|quality)s?\d*(?:$|[_\W])",
    re.IGNORECASE,
)
"""Column names that people give to what they predict."""
_ID = re.compile(r"(?:^|[_\W])(?:id|uuid|guid|key|index)$", re.IGNORECASE)
_MOST_CLASSES = 50


def init(table: Path, output: Path, door: Door, targets: Sequence[str] | None = None) -> dict[str, Any]:
    """Write a config that names a table, tasks with guessed types, and every other setting as a comment.

    Args:
        table: the file with the rows.
        output: the config to write.
        targets: columns to predict; guessed by default.

    Raises:
        ConfigError: the config exists, or a target is no column.
        DataError: the table is missing or damaged.
    """
    door.claim(output)
    if not output.resolve().parent.is_dir():
        raise DataError(
            f"`{output}` should be in a folder that exists. Found no folder `{output.parent}`; create it first."
        )
    frame = of_file(table)
    for column in targets or ():
        if column not in frame.columns:
            raise ConfigError(
                f"--targets should name columns of `{table}`. Found `{column}`. {hint(column, frame.columns)}"
            )
    chosen = list(targets) if targets else guessed(frame)
    tasks = {column: kind_of(frame[column]) for column in chosen}
    ids = [c for c in frame.columns if c not in tasks and _ID.search(c) and frame[c].is_unique]
    write_atomically(output, text(table, output, frame, tasks, ids).encode("utf-8"))
    door.screen.say(
        f"Written: {output}, with {len(tasks)} task(s): {', '.join(f'{c} ({k})' for c, k in tasks.items())}."
    )
    door.screen.end([], [f"manyheads check -c {output}", f"manyheads train -c {output} -o run"])
    return {"config": str(output), "tasks": tasks, "ids": ids, "guessed": not targets}


def guessed(frame: pd.DataFrame) -> list[str]:
    """The columns that are most likely to be predicted: by their names, else the last one."""
    usable = [c for c in frame.columns if frame[c].nunique() > 1 and kind_of(frame[c]) is not None]
    if not usable:
        raise DataError("A table should have a column with two values or more. Found none.")
    named = [c for c in usable if LIKELY.search(c) and not _ID.search(c)]
    return named if named and len(named) < len(usable) else usable[-1:]


def kind_of(series: pd.Series) -> str | None:
    """The word of the task type that fits a column; None for dates, ids and free text."""
    import pandas as pd

    known = series.dropna()
    distinct = known.nunique()
    if distinct == 2:
        return "binary"
    if pd.api.types.is_bool_dtype(series.dtype):
        return "binary"
    if pd.api.types.is_numeric_dtype(series.dtype):
        whole = bool((known % 1 == 0).all())
        return "multiclass" if whole and distinct <= 10 else "regression"
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return None
    texts = known.astype(str)
    return "multiclass" if 2 < texts.nunique() <= min(_MOST_CLASSES, max(len(texts) // 2, 3)) else None


def text(table: Path, output: Path, frame: pd.DataFrame, tasks: dict[str, str | None], ids: Sequence[str]) -> str:
    """The config, with comments.

    Args:
        table: the file that it names, relative to `output`.
        tasks: column -> type.
        ids: columns that name a row.
    """
    near = os.path.relpath(table.resolve(), output.resolve().parent)
    lines = [
        f"# {len(frame):,} rows, {len(frame.columns)} columns. Lines with # are defaults; remove the # to change one."
    ]
    lines += ["schema_version: 1", "", *_block({"data": {"train": near} | ({"ids": list(ids)} if ids else {})})]
    lines += _defaults("data", skip={"train", "root"} | ({"ids"} if ids else set()))
    lines += [
        "",
        "# Guessed: see that these are what you want to predict, and that nothing else gives them away.",
        "tasks:",
    ]
    for column, kind in tasks.items():
        known = frame[column].notna().mean()
        remark = f"  # {100 * known:.0f} % of the rows have this label" if known < 1 else ""
        first, *rest = _block({column: {"type": kind or "regression"}})
        lines += [f"  {first}{remark}", *(f"  {line}" for line in rest)]
    others = [c for c in frame.columns if c not in tasks and c not in ids]
    shown = ", ".join(others[:12]) + (f", ... ({len(others)} in all)" if len(others) > 12 else "")
    lines += ["", "# All other columns are features: " + " ".join(shown.split())]
    for section in ("features", "model", "optim", "sampling", "trainer"):
        lines += ["", f"# {section}:", *_defaults(section)]
    return "\n".join(lines) + "\n"


def _block(value: Any) -> list[str]:
    return yaml12.write(value).splitlines()


def _defaults(section: str, skip: Collection[str] = ()) -> Iterator[str]:
    """The settings of a section as comments, with what their docstrings say."""
    default: BaseModel = RunSpec.model_fields[section].default
    for key, value in dumped(default).items():
        if key not in skip:
            if isinstance(value, dict) and set(value) == {"name"}:
                value = value["name"]
            yield from (f"#   {line}" for line in _block({key: value}))
