"""A first config, guessed from a table."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from . import yaml12
from .catalog import find, hint, index
from .door import Door
from .faults import ConfigError, DataError
from .files import write_atomically
from .intake import of_file
from .spec import Part, RunSpec, dumped

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
        table: the file with the rows, or a folder of pictures (`Format.sketch`).
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
    sections = sketch(table) if table.is_dir() else {}
    with door.hearing():
        frame = of_file(table, Part.of(sections["data"]["format"]) if sections else None, "skip")
    known = list(sections["tasks"]) if sections else list(frame.columns)
    for column in targets or ():
        if column not in known:
            what = "tasks that" if sections else "columns of"
            raise ConfigError(
                f"--targets should name {what} `{table}`{' is good for' if sections else ''}. Found `{column}`. "
                f"{hint(column, known)}"
            )
    if sections:
        sections["tasks"] = {t: own for t, own in sections["tasks"].items() if not targets or t in targets}
    else:
        chosen = list(targets) if targets else guessed(frame)
        sections = {"data": {}, "tasks": {column: {"type": kind_of(frame[column])} for column in chosen}}
        ids = [c for c in frame.columns if c not in chosen and _ID.search(c) and frame[c].is_unique]
        sections["data"] |= {"ids": ids} if ids else {}
    write_atomically(output, text(table, output, frame, sections).encode("utf-8"))
    tasks = {name: own["type"] for name, own in sections["tasks"].items()}
    door.screen.say(
        f"Written: {output}, with {len(tasks)} task(s): {', '.join(f'{c} ({k})' for c, k in tasks.items())}."
    )
    door.screen.end([], [f"manyheads check -c {output}", f"manyheads train -c {output} -o run"])
    return {"config": str(output), "tasks": tasks, "ids": sections["data"].get("ids", []), "guessed": not targets}


def sketch(folder: Path) -> dict[str, Any]:
    """Sections of a config for a folder, from the first form that knows it.

    Raises:
        DataError: none does, or there is nothing in it to predict.
    """
    from .data.formats import Format

    for word in index(Format):
        found = find(Format, word).sketch(folder)  # type: ignore[type-abstract]
        if found is not None and found["tasks"]:
            return found
        if found is not None:
            raise DataError(
                f"`{folder}` should have something to predict beside its {word}: a folder per class, masks or boxes in "
                "a folder of their own under the same names, or files named by their class and a number. Found none "
                "of these; write a table with the paths and what is known, or a config by hand "
                f"(`data.format: {word}`)."
            )
    raise DataError(
        f"`{folder}` should be a table, or a folder of pictures. Found a folder without any; name the file, or write "
        "a config by hand with `data.format` (`manyheads doctor --list formats`)."
    )


def guessed(frame: pd.DataFrame) -> list[str]:
    """The columns that are most likely to be predicted: by their names, else the last one."""
    usable = [c for c in frame.columns if _plain(frame[c]) and frame[c].nunique() > 1 and kind_of(frame[c])]
    if not usable:
        raise DataError("A table should have a column with two values or more. Found none.")
    named = [c for c in usable if LIKELY.search(c) and not _ID.search(c)]
    return named if named and len(named) < len(usable) else usable[-1:]


def _plain(series: pd.Series) -> bool:
    """Whether the cells are numbers, texts or moments rather than lists, arrays or bytes."""
    return not series.dropna().map(lambda value: isinstance(value, Collection) and not isinstance(value, str)).any()


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


def text(table: Path, output: Path, frame: pd.DataFrame, sections: Mapping[str, Any]) -> str:
    """The config, with comments.

    Args:
        table: the file that it names, relative to `output`.
        frame: its rows.
        sections: what is known, by section.
    """
    data, tasks = sections["data"], sections["tasks"]
    ids = data.get("ids", [])
    near = os.path.relpath(table.resolve(), output.resolve().parent)
    lines = [
        f"# {len(frame):,} rows, {len(frame.columns)} columns. Lines with # are defaults; remove the # to change one."
    ]
    lines += ["schema_version: 1", "", *_block({"data": {"train": near, **data}})]
    lines += _defaults("data", skip={"train", "root", *data})
    lines += [
        "",
        "# Guessed: see that these are what you want to predict, and that nothing else gives them away.",
        "tasks:",
    ]
    for column, own in tasks.items():
        known = frame[column].notna().mean()
        remark = f"  # {100 * known:.0f} % of the rows have this label" if known < 1 else ""
        first, *rest = _block({column: {**own, "type": own["type"] or "regression"}})
        lines += [f"  {first}{remark}", *(f"  {line}" for line in rest)]
    if "features" not in sections:
        others = [c for c in frame.columns if c not in tasks and c not in ids]
        shown = ", ".join(others[:12]) + (f", ... ({len(others)} in all)" if len(others) > 12 else "")
        lines += ["", "# All other columns are features: " + " ".join(shown.split())]
    for section in ("features", "model", "optim", "sampling", "trainer"):
        own = sections.get(section, {})
        lines += ["", *(_block({section: own}) if own else [f"# {section}:"]), *_defaults(section, skip=own)]
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
