"""From files and from other libraries' data frames to pandas, and back to files.

pandas' own defaults hold: an empty cell and words such as ``NA`` or ``null`` are missing, and ``007`` in a CSV is the
number 7, quoted or not (write such ids to parquet or JSON lines, where a text stays a text). Two defaults are changed
because they lose something silently: integers beyond 2^53 beside missing values stay exact, and a row with more fields
than the header has is an error instead of an index.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog import find, index
from ..faults import DataError
from .columns import DataWarning
from .formats import Format

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
EXACT = 2**53
"""Up to here a float64 holds every integer."""


def read(path: str | os.PathLike[str], format: Format | None = None) -> pd.DataFrame:
    """The table in a file, by its suffix: csv, tsv (each also .gz), parquet, arrow, feather, jsonl, ndjson; or in a
    file or folder of a field's own form.

    Args:
        format: the form, where the suffix does not say it.

    Raises:
        DataError: the file is missing, empty or damaged, its suffix is unknown, or two columns have one name; the
            message names the file.
    """
    file = Path(path)
    format = _of_suffix(file) if format is None else format
    if format is not None:
        if not file.exists():
            raise DataError(f"`{file}` should be a file or a folder. Found nothing there; check the path.")
        frame = format.frame(file)
        if format.skipped:
            warnings.warn(_told(file, format.skipped), DataWarning, stacklevel=2)
        if not len(frame):
            raise DataError(f"`{file}` should have at least one row. Found none that can be read.")
        return frame
    kind = _kind(file, " Name the form of any other: a word of `manyheads doctor --list formats`.")
    if not file.is_file():
        raise DataError(
            f"`{file}` should be a file. Found {'a folder' if file.is_dir() else 'nothing there'}; check the path."
        )
    if file.stat().st_size == 0:
        raise DataError(f"`{file}` should hold a table. Found an empty file.")
    try:
        frame = {"csv": _csv, "tsv": _csv, "parquet": _parquet, "arrow": _arrow, "jsonl": _jsonl}[kind](file)
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zlib.error) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"`{file}` should be a readable {kind} file. Found it damaged: {reason.rstrip('.')}."
        ) from error
    _unique(list(frame.columns), f"`{file}`")
    if not len(frame):
        raise DataError(f"`{file}` should have at least one row. Found the header only.")
    return frame


def write(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """A table into a file, by its suffix: csv, tsv (each also .gz), parquet, arrow, feather, jsonl, ndjson.

    The file is written under a temporary name and renamed; numbers come back exactly.

    Raises:
        DataError: unknown suffix, or the folder does not exist.
    """
    file = Path(path)
    kind = _kind(file)
    if not file.parent.is_dir():
        raise DataError(f"The folder of `{file}` should exist. Found no folder `{file.parent}`; create it first.")
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        if kind in ("csv", "tsv"):
            frame.to_csv(temporary, index=False, sep="\t" if kind == "tsv" else ",")
        elif kind == "parquet":
            frame.to_parquet(temporary, index=False)
        elif kind == "arrow":
            frame.reset_index(drop=True).to_feather(temporary)
        else:
            missing = frame.isna().to_numpy()
            with temporary.open("w", encoding="utf-8") as out:
                for record, gone in zip(frame.to_dict("records"), missing, strict=True):
                    values = {str(k): None if g else v for (k, v), g in zip(record.items(), gone, strict=True)}
                    out.write(json.dumps(values, ensure_ascii=False, default=_plain) + "\n")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def frame_of(obj: Any) -> pd.DataFrame:
    """Any data frame as pandas: pandas, polars, pyarrow and what else narwhals knows, a dict of columns, a path.

    Column names become text.

    Raises:
        DataError: something else was given, or two columns have one name.
    """
    import pandas as pd

    if isinstance(obj, (str, os.PathLike)):
        return read(obj)
    if isinstance(obj, Mapping):
        try:
            frame = pd.DataFrame(dict(obj))
        except ValueError as error:
            raise DataError(f"A dict of columns should hold columns of one length. Found: {error}.") from error
    elif isinstance(obj, pd.DataFrame):
        frame = obj
    else:
        import narwhals as nw

        try:
            native: Any = nw.from_native(obj)
        except TypeError as error:
            found = type(obj).__name__
            raise DataError(f"A table should be a data frame, a dict of columns or a path. Found {found}.") from error
        frame = _from_arrow((native.collect() if isinstance(native, nw.LazyFrame) else native).to_arrow())
    names = [str(c) for c in frame.columns]
    _unique(names, "A table")
    return frame if names == list(frame.columns) else frame.set_axis(names, axis=1)


def _of_suffix(file: Path) -> Format | None:
    """The form of a field that claims this ending."""
    for word in index(Format):
        cls = find(Format, word)  # type: ignore[type-abstract]
        if cls.suffixes and file.name.lower().endswith(cls.suffixes):
            return cls()
    return None


def _told(file: Path, skipped: list[str]) -> str:
    rows = "1 row was" if len(skipped) == 1 else f"{len(skipped)} rows were"
    return f"{rows} left out of `{file}`. The first: {skipped[0]}"


def _kind(file: Path, remedy: str = "") -> str:
    name = file.name.lower()
    for suffix in sorted(KINDS, key=len, reverse=True):
        if name.endswith(suffix):
            return KINDS[suffix]
    raise DataError(f"`{file}` should end in one of {', '.join(KINDS)}. Found `{file.suffix or 'no suffix'}`.{remedy}")


def _unique(names: list[Any], what: str) -> None:
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise DataError(f"{what} should have one column per name. Found `{twice}` more than once; rename one of them.")


def _csv(file: Path) -> pd.DataFrame:
    import pandas as pd

    sep = "\t" if _kind(file) == "tsv" else ","
    header = pd.read_csv(file, sep=sep, header=None, nrows=1, dtype=str, keep_default_na=False)
    _unique([name for name in header.iloc[0] if name], f"`{file}`")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(file, sep=sep, low_memory=False, index_col=False)
    except pd.errors.ParserWarning:
        raise DataError(
            f"`{file}` should have as many fields in a row as in the header ({len(header.columns)}). Found rows with "
            "more; quote the fields that contain the separator."
        ) from None
    blunt = [c for c in frame.columns if _blunt(frame[c])]
    if blunt:
        with contextlib.suppress(ValueError, TypeError, OverflowError):  # not integers after all
            frame[blunt] = pd.read_csv(file, sep=sep, usecols=blunt, dtype=dict.fromkeys(blunt, "Int64"))[blunt]
    return frame


def _blunt(series: pd.Series) -> bool:
    """Whether these floats may be integers that lost their last digits."""
    return series.dtype == "float64" and bool(series.hasnans) and bool(series.abs().max() >= EXACT)


def _parquet(file: Path) -> pd.DataFrame:
    import pyarrow.parquet

    return _from_arrow(pyarrow.parquet.read_table(file, partitioning=None))


def _arrow(file: Path) -> pd.DataFrame:
    import pyarrow.feather

    return _from_arrow(pyarrow.feather.read_table(file))


def _from_arrow(table: Any) -> pd.DataFrame:
    """An arrow table as pandas; integers with missing values become Int64, named indices columns."""
    import pandas as pd
    import pyarrow.types

    names = list(table.column_names)
    _unique(names, "A table")
    frame = table.to_pandas(ignore_metadata=True)
    for field, column in zip(table.schema, table.columns, strict=True):
        if pyarrow.types.is_integer(field.type) and column.null_count:
            frame[field.name] = pd.array(
                column.to_pylist(), dtype="UInt64" if str(field.type).startswith("u") else "Int64"
            )
    return frame.drop(columns=[n for n in names if n.startswith("__index_level_")])


def _jsonl(file: Path) -> pd.DataFrame:
    import pandas as pd

    records = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"`{file}` should hold one JSON object per line. Found in line {number}: {error.msg}."
                ) from error
            if not isinstance(record, dict):
                raise DataError(
                    f"`{file}` should hold one JSON object per line. Found {record!r:.40} in line {number}."
                )
            records.append(record)
    frame = pd.DataFrame(records)
    for name in [c for c in frame.columns if _blunt(frame[c])]:
        values = [record.get(name) for record in records]
        if all(v is None or isinstance(v, int) for v in values):
            frame[name] = pd.array(values, dtype="Int64")
    return frame


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
