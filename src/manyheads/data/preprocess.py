"""From frames to the inputs of a network, learned from the training rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..catalog import hint
from ..faults import ConfigError, DataError
from ..ragged import Ragged
from .columns import Column, TypeOf, fitted
from .infer import infer

if TYPE_CHECKING:
    import pandas as pd

N_EDGES = 48
"""At most so many quantile edges per numeric column."""


@dataclass(frozen=True)
class Preprocess:
    """The typed, fitted columns of every *source*: user tables with the same feature columns are one source.

    Args:
        columns: {source: its columns, in order}; a source has the name of its first table.
        sources: {table: source}.
        bins: {source: training quantile edges of each numeric input}, for piecewise-linear embeddings.
    """

    columns: Mapping[str, tuple[Column, ...]]
    sources: Mapping[str, str]
    bins: Mapping[str, list[list[float]]]

    @staticmethod
    def fit(
        tables: Mapping[str, pd.DataFrame],
        types: Mapping[str, TypeOf] | None = None,
        train: Mapping[str, Any] | None = None,
    ) -> Preprocess:
        """Learn from the training rows of frames that hold feature columns only.

        Args:
            tables: {table: its feature columns}.
            types: {column: type} where the user declared one; with settings, {"type": type, ...}.
            train: {table: positions of its training rows}; all rows by default.

        Raises:
            ConfigError: an unknown type, or a declared column that no table has.
            DataError: a source without any usable feature; an infinite value.
        """
        known = list(dict.fromkeys(c for frame in tables.values() for c in frame.columns))
        for name in types or {}:
            if name not in known:
                raise ConfigError(
                    f"A declared type should belong to a feature column. Found `{name}`. {hint(name, known)}"
                )
        rows = {t: f if train is None or t not in train else f.take(train[t]) for t, f in _numbered(tables).items()}
        columns: dict[str, tuple[Column, ...]] = {}
        sources: dict[str, str] = {}
        bins: dict[str, list[list[float]]] = {}
        for group in _groups(rows):
            source = group[0]
            joined = _join({t: rows[t] for t in group}, list(tables[source].columns))
            settings = {c: {"type": t} if isinstance(t, str) else t for c, t in (types or {}).items()}
            found = infer(joined, {c: str(own.get("type")) for c, own in settings.items()})
            if not len(joined):
                raise DataError(f"Table `{source}` should have a row in its training part. Found none.")
            if not found:
                raise DataError(f"Table `{source}` should have a usable feature column. Found none.")
            columns[source] = tuple(fitted(kind, joined[c], settings.get(c, {})) for c, kind in found.items())
            sources |= dict.fromkeys(group, source)
            plain = [c for c in columns[source] if c.kind == "numeric"]
            bins[source] = _edges(_inputs(joined, plain)["numeric"].numpy())
        return Preprocess(columns, {t: sources[t] for t in tables}, bins)

    @property
    def layouts(self) -> dict[str, dict[str, Any]]:
        """The inputs of each source: ``{"numeric": width, "categorical": [size, ...], "bins": [...]}``."""
        return {
            source: {
                "numeric": sum(c.layout for c in columns if c.kind == "numeric"),
                "categorical": [c.layout for c in columns if c.kind == "categorical"],
                "bins": self.bins[source],
            }
            | {f"{c.kind}:{c.name}": c.layout for c in columns if c.kind not in ("numeric", "categorical")}
            for source, columns in self.columns.items()
        }

    def described(self, tables: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The feature columns of these tables -> ``kind``, and all that each knows (`Column.to_json`)."""
        sources = dict.fromkeys(self.sources[table] for table in tables)
        return {c.name: {"kind": c.kind, **c.to_json()} for source in sources for c in self.columns[source]}

    def features(self, source: str) -> list[str]:
        """The names of the columns that a source reads."""
        return [c.name for c in self.columns[source]]

    def source_of(self, table: str | pd.DataFrame) -> str:
        """The source of a table, by its name, or by the columns of a frame (the source that reads most of them).

        Raises:
            DataError: the name is unknown; no source, or more than one, fits the frame.
        """
        if isinstance(table, str):
            if table not in self.sources:
                raise DataError(
                    f"A table should be one that the model was trained on. Found `{table}`. {hint(table, self.sources)}"
                )
            return self.sources[table]
        if len(self.columns) == 1:
            return next(iter(self.columns))
        fits = {s: len(c) for s in self.columns if set(c := self.features(s)) <= set(table.columns)}
        best = [s for s, n in fits.items() if n == max(fits.values())]
        if len(best) != 1:
            found = (
                f"the columns of {len(best)} ({', '.join(best)}); name the table"
                if best
                else ", ".join(map(str, table.columns))
            )
            raise DataError(
                f"A table should have the feature columns of one source ({', '.join(self.columns)}). Found {found}."
            )
        return best[0]

    def join(self, tables: Mapping[str, pd.DataFrame], source: str) -> pd.DataFrame:
        """The feature columns of several tables of one source, one after another; their index is (table, row).

        Raises:
            DataError: a table lacks a column.
        """
        features = self.features(source)
        for table, frame in tables.items():
            for name in features:
                if name not in frame.columns:
                    raise DataError(
                        f"Table `{table}` should have the feature column `{name}`. Found no such column. "
                        f"{hint(name, [str(c) for c in frame.columns])}"
                    )
        return _join(_numbered(tables), features)

    def inputs(self, frame: pd.DataFrame, source: str | None = None) -> dict[str, Tensor]:
        """What an encoder reads. Further columns and the order of columns do not matter.

        Shape:
            ``numeric`` (rows, width) float32, ``categorical`` (rows, columns) int64; both always present.

        Args:
            source: by default the one that fits the frame's columns.

        Raises:
            DataError: a column is missing or holds what it should not; the message names it.
        """
        source = self.source_of(frame) if source is None else source
        if list(frame.index.names) != ["table", "row"]:
            frame = self.join({source: frame}, source)
        return _inputs(frame, self.columns[source])

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them, and every transform is bit-equal."""
        return {
            "columns": {s: [c.to_json() for c in columns] for s, columns in self.columns.items()},
            "sources": dict(self.sources),
            "bins": dict(self.bins),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Preprocess:
        """What `to_json` wrote."""
        columns = {s: tuple(map(Column.from_json, found)) for s, found in value["columns"].items()}
        return Preprocess(columns, dict(value["sources"]), dict(value["bins"]))


def _numbered(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {t: frame.reset_index(drop=True) for t, frame in tables.items()}


def _join(tables: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """One frame of several, indexed by (table, row)."""
    import pandas as pd

    columns = list(columns)
    frames = [frame[columns] for frame in tables.values()]
    joined = concat(frames)
    longest = max((int(f.index.max()) + 1 for f in frames if len(f)), default=0)
    codes: Any = [np.repeat(np.arange(len(frames)), [len(f) for f in frames]), joined.index.to_numpy()]
    levels: Any = [pd.Index(list(tables), dtype=object), pd.RangeIndex(longest)]
    joined.index = pd.MultiIndex(levels=levels, codes=codes, names=["table", "row"], verify_integrity=False)
    return joined


def concat(frames: Sequence[Any]) -> Any:
    """`pandas.concat` without its warning about columns that are empty in one frame: they count as missing."""
    import warnings

    import pandas as pd

    if len(frames) == 1:
        return frames[0].copy(deep=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return pd.concat(frames)


def _coarse(series: pd.Series) -> str:
    import pandas as pd

    api = pd.api.types
    if not series.notna().any():
        return "nothing"
    if series.dtype.kind in "iufb":
        return "number"
    if api.is_datetime64_any_dtype(series.dtype):
        return "date"
    kind = api.infer_dtype(series, skipna=True)
    return "number" if kind in ("integer", "floating", "boolean", "mixed-integer-float", "decimal") else "text"


def _groups(tables: Mapping[str, pd.DataFrame]) -> list[list[str]]:
    """Tables with the same column names, and numbers, dates or texts in the same ones; an empty column fits any."""
    alike: dict[frozenset[str], list[str]] = {}
    for table, frame in tables.items():
        alike.setdefault(frozenset(frame.columns), []).append(table)
    groups = []
    for names, members in alike.items():
        kinds = [dict(zip(tables[t].columns, (d.kind for d in tables[t].dtypes), strict=True)) for t in members]
        doubtful = [c for c in sorted(names) if len(members) > 1 and any(k[c] not in "iufb" for k in kinds)]
        coarse = {t: {c: _coarse(tables[t][c]) for c in doubtful} for t in members}
        mixed = [c for c in doubtful if len({found[c] for found in coarse.values()} - {"nothing"}) > 1]
        apart: dict[tuple[str, ...], list[str]] = {}
        for table in members:
            apart.setdefault(tuple(coarse[table][c] for c in mixed), []).append(table)
        groups += list(apart.values())
    order = {table: i for i, table in enumerate(tables)}
    return sorted(groups, key=lambda group: order[group[0]])


def _inputs(frame: pd.DataFrame, columns: Sequence[Column]) -> dict[str, Any]:
    made = [(c, c.transform(frame[c.name])) for c in columns]
    numeric = [values for c, values in made if c.kind == "numeric"]
    categorical = [values for c, values in made if c.kind == "categorical"]
    n = len(frame)
    return {
        "numeric": torch.from_numpy(np.concatenate(numeric, axis=1) if numeric else np.empty((n, 0), dtype=np.float32)),
        "categorical": torch.from_numpy(
            np.stack(categorical, axis=1) if categorical else np.empty((n, 0), dtype=np.int64)
        ),
    } | {
        f"{c.kind}:{c.name}": v if isinstance(v, Ragged) else torch.from_numpy(v)
        for c, v in made
        if c.kind not in ("numeric", "categorical")
    }


def _edges(numeric: np.ndarray) -> list[list[float]]:
    """Per column, increasing quantile edges; at least two, so that a constant column has a bin as well."""
    if not len(numeric):
        return [[0.0, 1.0] for _ in range(numeric.shape[1])]
    quantiles = np.quantile(numeric, np.linspace(0, 1, N_EDGES), axis=0).astype(np.float32)
    edges = [np.unique(column) for column in quantiles.T]
    return [[float(e) for e in (found if len(found) > 1 else (found[0], found[0] + 1))] for found in edges]
