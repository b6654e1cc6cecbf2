"""Lines of separated fields, read as texts with their line numbers, so that a complaint can name the line."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np

from ..faults import DataError

if TYPE_CHECKING:
    import pandas as pd

Refuse = Callable[[str, str, str], None]
"""(place, what it should, what was found): raises, or returns, and the row is left out. `Format.refuse` is one."""


def rows(
    path: Path,
    refuse: Refuse,
    *,
    names: Sequence[str] | None = None,
    needs: Collection[str] = (),
    missing: Collection[str] = ("",),
    member: str | None = None,
) -> pd.DataFrame:
    """A table of texts, None where missing, whose index are the line numbers.

    A file that ends in ``.tsv`` (``.tsv.gz``) is separated by tabs, any other by commas.

    Args:
        path: the file; ``.gz`` is unpacked.
        refuse: is told about each row with more or fewer fields than the header.
        names: the columns of a file without a header; where its first line holds just as many other names, that line
            is a header and is left out. Default: the first line names the columns.
        needs: columns that there must be.
        missing: texts that mean that a value is missing.
        member: the end of a name inside a ``.zip`` file.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    import pandas as pd

    place = str(path) if member is None else f"{path}:{member}"
    where = {"", *missing}
    found: list[list[str | None]] = []
    lines: list[int] = []
    try:
        with _text(path, member) as handle:
            reader = csv.reader(handle, delimiter="\t" if ".tsv" in path.name.lower() else ",", strict=True)
            header = list(names) if names is not None else [c.strip() for c in next(reader, [])]
            if len(set(header)) < len(header):
                raise DataError(f"`{place}, line 1` should name each column once. Found {', '.join(header)}.")
            for column in needs:
                if column not in header:
                    raise DataError(f"`{place}, line 1` should name the column `{column}`. Found {', '.join(header)}.")
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    refuse(f"{place}, line {reader.line_num}", f"have {len(header)} fields", str(len(fields)))
                    continue
                found.append([None if f in where else f for f in fields])
                lines.append(reader.line_num)
    except (OSError, EOFError, UnicodeDecodeError, BadZipFile, zlib.error, csv.Error) as error:
        raise DataError(f"`{place}` should be a readable file. Found it damaged: {error}.") from error
    if names is not None and found and not any(_is_number(f) for f in found[0]):
        found, lines = found[1:], lines[1:]
    return pd.DataFrame(found, columns=header, index=lines, dtype=object)


@contextmanager
def _text(path: Path, member: str | None) -> Iterator[io.TextIOBase]:
    if member is not None:
        with ZipFile(path) as archive:
            inside = [n for n in archive.namelist() if n.endswith(member) and not n.startswith("__MACOSX")]
            if not inside:
                raise DataError(f"`{path}` should hold `{member}`. Found {', '.join(archive.namelist()[:5])}.")
            with archive.open(inside[0]) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as handle:
                yield handle
    elif path.name.lower().endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as packed:
            yield packed
    else:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            yield handle


def _is_number(field: str | None) -> bool:
    try:
        float(field or "")
    except ValueError:
        return False
    return True


def with_numbers(frame: pd.DataFrame, columns: Sequence[str], place: str | Path, refuse: Refuse) -> pd.DataFrame:
    """The table with these columns as numbers, without the rows where one is neither a number nor missing.

    Args:
        frame: as `rows` gave it.
        columns: what should be numbers; whole numbers become integers where none is missing.
        place: the file, for the message.
        refuse: is told about each row that holds something else.
    """
    import pandas as pd

    values = {c: pd.to_numeric(frame[c], errors="coerce") for c in columns}
    good, lines = np.ones(len(frame), bool), frame.index.to_numpy()
    for column, numbers in values.items():
        broken = (numbers.isna() & frame[column].notna()).to_numpy() | np.isinf(numbers.to_numpy(dtype=np.float64))
        for i in np.flatnonzero(broken & good):
            refuse(f"{place}, line {lines[i]}", f"hold a number under `{column}`", f"`{frame[column].iloc[i]}`")
        good &= ~broken
    kept = frame[good].copy()
    for column, numbers in values.items():
        own = numbers[good].astype(np.float64)
        whole = own.notna().all() and (own % 1 == 0).all() and own.abs().max() < 2**53
        kept[column] = own.astype(np.int64) if whole else own
    return kept


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Texts as numbers, or as true and false, where a column holds nothing else."""
    import pandas as pd

    answer = {}
    for name, series in frame.items():
        known = series.dropna()
        lowered = known.str.lower()
        numbers = pd.to_numeric(series, errors="coerce")
        if len(known) and lowered.isin(("true", "false")).all():
            flags = series.str.lower().map({"true": True, "false": False})
            answer[name] = flags.astype(bool) if len(known) == len(series) else flags.astype(object)
        elif len(known) and numbers[known.index].notna().all():
            answer[name] = numbers
        else:
            answer[name] = series
    return pd.DataFrame(answer, index=frame.index)
