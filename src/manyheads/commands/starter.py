"""A first config, guessed from a table."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from .. import yaml12
from ..catalog import find, hint, index
from ..faults import ConfigError, DataError
from ..files import write_atomically
from ..intake import of_file
from ..spec import Part, RunSpec, dumped
from .door import Door

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
_MOST_TAGS = 100
_SPAN = re.compile(r"O|[BILOUES]-.+")
_WORDS = ("tokens", "words", "text", "sentence")


def init(table: Path, output: Path, door: Door, targets: Sequence[str] | None = None) -> dict[str, Any]:
    """Write a config that names a table, tasks with guessed types, and every other setting as a comment.

    Args:
        table: the file with the rows, or a folder whose form is known (`Format.sketch`).
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
        words, tagged = sentences(frame)
        if targets:
            tagged = {column: own for column, own in tagged.items() if column in targets}
            chosen = [column for column in targets if column not in tagged]
        else:
            chosen = guessed(frame.drop(columns=[words]), bool(tagged)) if words else guessed(frame)
        tasks = tagged | {column: {"type": kind_of(frame[column])} for column in chosen}
        sections = {"data": {}, "tasks": tasks}
        rest = [c for c in frame.columns if c not in tasks]
        ids = [c for c in rest if _ID.search(c) and _plain(frame[c]) and frame[c].is_unique]
        sections["data"] |= {"ids": ids} if ids else {}
        texts = [words] if words else [c for c in rest if c not in ids and is_text(frame[c])]
        if texts:
            sections["features"] = {"types": dict.fromkeys(texts, "text")} | ({"only": texts} if words else {})
    write_atomically(output, text(table, output, frame, sections).encode("utf-8"))
    kinds = {name: own["type"] for name, own in sections["tasks"].items()}
    door.screen.say(
        f"Written: {output}, with {len(kinds)} task(s): {', '.join(f'{c} ({k})' for c, k in kinds.items())}."
    )
    door.screen.end([], [f"manyheads check -c {output}", f"manyheads train -c {output} -o run"])
    return {"config": str(output), "tasks": kinds, "ids": sections["data"].get("ids", []), "guessed": not targets}


def sketch(folder: Path) -> dict[str, Any]:
    """Sections of a config for a folder, from the first form that knows it.

    Raises:
        DataError: none does, or there is nothing in it to predict.
    """
    from ..data.formats import Format

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
        f"`{folder}` should be a table, a folder of pictures, or one of sentences with tags as it is known (slots, "
        "conll04). Found none of these; name the file, or write a config by hand with `data.format` (`manyheads doctor "
        "--list formats`)."
    )


def sentences(frame: pd.DataFrame) -> tuple[str | None, dict[str, dict[str, str]]]:
    """(the column whose cells are lists of words, None without one; tasks for those with a tag per word)."""
    lists = {c: [cell for cell in frame[c] if isinstance(cell, list)] for c in frame.columns}
    lists = {c: own for c, own in lists.items() if own and all(isinstance(word, str) for cell in own for word in cell)}
    if not lists:
        return None, {}
    seen = {c: {word for cell in own for word in cell} for c, own in lists.items()}
    words = next((c for c in _WORDS if c in lists), max(lists, key=lambda c: len(seen[c])))
    tagged: dict[str, dict[str, str]] = {}
    for column, own in seen.items():
        rows = [(a, b) for a, b in zip(frame[column], frame[words], strict=True) if isinstance(a, list)]
        beside = all(isinstance(b, list) and len(a) == len(b) for a, b in rows)
        if column == words or not beside or not 1 < len(own) <= _MOST_TAGS or any(tag.isdigit() for tag in own):
            continue
        spans = all(_SPAN.fullmatch(tag) for tag in own)
        tagged[column] = {"type": "tagging"} | ({} if spans else {"scheme": "none"})
    return words, tagged


def is_text(series: pd.Series) -> bool:
    """Whether most cells are texts of their own, of three words or more on average."""
    known = series.dropna()
    if not len(known) or not known.map(lambda value: isinstance(value, str)).all():
        return False
    return bool(known.nunique() > len(known) / 2 and known.str.count(r"\S+").mean() >= 3)


def guessed(frame: pd.DataFrame, others: bool = False) -> list[str]:
    """The columns that are most likely to be predicted: by their names, else the last one.

    Args:
        others: whether there is something else to predict: then there may be none.
    """
    usable = [c for c in frame.columns if _plain(frame[c]) and frame[c].nunique() > 1 and kind_of(frame[c])]
    if others:
        return [c for c in usable if not _ID.search(c)]
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
    if "only" not in sections.get("features", {}):
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
