"""The rows that a config names: files read, and the part that each row belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .catalog import hint, make
from .faults import ConfigError, DataError
from .spec import FILES, DataSpec, Part, RunSpec, TableSpec

if TYPE_CHECKING:
    import pandas as pd

    from .data.formats import Format
    from .tasks import Task

TABLE = "table"
"""The name of the table of a run that has one."""


@dataclass(frozen=True)
class Intake:
    """Tables and their split.

    Attributes:
        tables: {name: frame}; separate files of one table's parts are one frame, in the order train, valid, test.
        targets: {table: tasks it labels}; None leaves it to the columns.
        parts: {table: the part of each row}.
        given: whether the user drew the split, so that repeats must not draw it anew.
    """

    tables: dict[str, pd.DataFrame]
    targets: dict[str, tuple[str, ...]] | None
    parts: dict[str, np.ndarray]
    given: bool

    def splits(self) -> pd.DataFrame:
        """One line per row: table, row (counted within the table), part."""
        import pandas as pd

        return pd.DataFrame(
            {
                "table": np.concatenate([np.repeat(name, len(p)) for name, p in self.parts.items()]),
                "row": np.concatenate([np.arange(len(p)) for p in self.parts.values()]),
                "part": np.concatenate([p.astype(str) for p in self.parts.values()]),
            }
        )


def take_in(spec: RunSpec, tasks: Sequence[Task]) -> Intake:
    """Read the files of a config and split their rows.

    Args:
        spec: a config whose paths are absolute, or relative to the working folder.
        tasks: not fitted.

    Raises:
        ConfigError: no file is named, or one table's files beside several tables.
        DataError: a file or column is missing, empty or damaged.
    """
    from .build import split_parts

    data = spec.data
    files = {part: path for part in FILES if (path := getattr(data, part)) is not None}
    if files and data.tables:
        raise ConfigError(
            "`data` should name one table (`data.train`) or several (`data.tables`). Found both; move the one into the "
            "other."
        )
    if data.tables:
        tables, targets = _several(data, data.tables, tasks)
        tables = _readable(spec, tasks, tables, targets)
        parts = split_parts(data.split, tables, tasks)
        return _learnable(spec, tasks, Intake(tables, targets, parts, data.split.kind == "column"))
    if "train" not in files:
        raise ConfigError("`data.train` should name the file with the training rows. Found nothing under that name.")
    if len(files) > 1 and data.split.kind == "column":
        raise ConfigError(
            "`data.split.kind: column` splits the rows of one file. Found several files "
            f"({', '.join(f'data.{part}' for part in files)}); remove one of both."
        )
    return _learnable(spec, tasks, _parts_of(spec, files, tasks))


def _readable(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: dict[str, pd.DataFrame],
    targets: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, pd.DataFrame]:
    """The rows that can be read, where the others are to be left out."""
    from .sieve import sift

    return tables if spec.data.on_error == "raise" else sift(spec.features.types, tasks, tables, targets)


def _learnable(spec: RunSpec, tasks: Sequence[Task], intake: Intake) -> Intake:
    """The rows whose labels training knows, where the others are to be left out."""
    from .sieve import learnable

    if spec.data.on_error == "raise":
        return intake
    found = learnable(spec.features.types, tasks, intake.tables, intake.targets, intake.parts)
    return replace(intake, tables=found[0], parts=found[1])


def form(word: Part | None, on_error: str) -> Format | None:
    """The format that a config names.

    Raises:
        ConfigError: an unknown word or setting.
    """
    from .data.formats import Format

    return None if word is None else make(Format, word.name, {"on_error": on_error} | word.settings)  # type: ignore[type-abstract]


def _several(
    spec: DataSpec, described: Mapping[str, TableSpec | str], tasks: Sequence[Task]
) -> tuple[dict[str, pd.DataFrame], dict[str, tuple[str, ...]] | None]:
    from .data.readers import read

    specs = {name: TableSpec(path=t) if isinstance(t, str) else t for name, t in described.items()}
    tables = {name: read(t.path, form(t.format or spec.format, spec.on_error)) for name, t in specs.items()}
    if all(t.targets is None for t in specs.values()):
        return tables, None
    targets = {
        name: t.targets
        if t.targets is not None
        else tuple(task.name for task in tasks if set(task.targets) <= set(tables[name].columns))
        for name, t in specs.items()
    }
    return tables, targets


def _parts_of(spec: RunSpec, files: Mapping[str, str], tasks: Sequence[Task]) -> Intake:

    from .build import split_parts
    from .data.readers import read

    frames = {part: read(path, form(spec.data.format, spec.data.on_error)) for part, path in files.items()}
    named = _readable(spec, tasks, {str(files[part]): frame for part, frame in frames.items()})
    frames = {part: named[str(files[part])] for part in frames}
    train = frames["train"]
    sizes = tuple(
        0.0 if part in files and part != "train" else s for part, s in zip(FILES, spec.data.split.sizes, strict=True)
    )
    if any(sizes[1:]):
        split = spec.data.split.model_copy(update={"sizes": sizes})
        parts = split_parts(split, {TABLE: train}, tasks)[TABLE]
    else:
        parts = np.full(len(train), "train")
    if len(frames) == 1:
        return Intake({TABLE: train}, None, {TABLE: parts}, spec.data.split.kind == "column")
    labels = {c for t in tasks for c in (*t.targets, t.sample_weight)} | set(spec.features.drop)
    rest = {part: frame for part, frame in frames.items() if part != "train"}
    for part, frame in rest.items():
        for column in train.columns:
            if column not in frame.columns and column not in labels:
                raise DataError(
                    f"`{files[part]}` should have the column `{column}` of `{files['train']}`. Found no such column. "
                    f"{hint(column, map(str, frame.columns))}"
                )
        rest[part] = frame.reindex(columns=train.columns)
    whole = _concat([train, *rest.values()])
    parts = np.concatenate([parts, *(np.full(len(frame), part) for part, frame in rest.items())])
    return Intake({TABLE: whole}, None, {TABLE: parts}, True)


def _concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    from .data.preprocess import concat

    return concat(frames).reset_index(drop=True)


def equal_rows(intake: Intake, features: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Per table, how many rows outside train have exactly the features of a row inside; tables without are left out.

    Args:
        intake: tables and parts.
        features: table -> the columns that a model reads.
    """
    from .data.splits import equal_rows as count

    found = {
        name: count(frame, features[name], intake.parts[name])
        for name, frame in intake.tables.items()
        if features.get(name)
    }
    return {name: n for name, n in found.items() if n}


def of_file(path: str | Path, word: Part | None = None, on_error: str = "raise", labels: bool = True) -> pd.DataFrame:
    """The table in one file, or in a file or folder of a field's own form.

    Args:
        word: the form and its settings, where the ending does not say it.
        on_error: ``raise`` or ``skip``, for rows that the form cannot read.
        labels: whether what holds the labels must be there (`Format.bare`).

    Raises:
        ConfigError: no form has this name, or it has no such setting.
        DataError: it is missing, empty or damaged.
    """
    from .data.readers import read

    made = form(word, on_error)
    return read(path, made if labels or made is None else made.bare(Path(path)))
