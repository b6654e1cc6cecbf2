"""The typed columns of a table: what turns a column into numbers, learned from the training rows alone.

Types: `numeric`, `categorical`, `boolean`, `datetime`, or ``package.module:Class`` for one of your own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, final

import numpy as np

from ..catalog import find, hint, index, word
from ..faults import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

Self = TypeVar("Self", bound="Column")


class DataWarning(UserWarning):
    """Something about the data that the user should know; the run goes on."""


@dataclass(frozen=True)
class Column(ABC):
    """One feature column: a frozen value that knows what its training rows taught it.

    Args:
        name: the column's name in the table.
    """

    name: str

    kind: ClassVar[str]
    """The kind of input it feeds: ``numeric`` (rows, width), ``categorical`` (rows,), or one of its own."""

    @classmethod
    @abstractmethod
    def fit(cls: type[Self], name: str, series: pd.Series) -> Self:
        """Learn from the training rows."""

    @abstractmethod
    def transform(self, series: pd.Series) -> np.ndarray:
        """Numbers for any rows.

        Raises:
            DataError: a value that cannot be read; the message names column and row.
        """

    @property
    @abstractmethod
    def layout(self) -> Any:
        """What an encoder must know: the width of a numeric column, the cardinality of a categorical one."""

    @final
    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them and transforms bit-equally."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"type": word(type(self))} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @staticmethod
    @final
    def from_json(value: Mapping[str, Any]) -> Column:
        """A fitted column from what `to_json` wrote."""
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k != "type"}
        return type_of(value["type"])(**settings)


def type_of(name: str) -> type[Column]:
    """The column class that a type word stands for.

    Raises:
        ConfigError: an unknown word; the message proposes the nearest one.
    """
    if ":" not in str(name) and str(name).lower() not in index(Column):
        raise ConfigError(f"No column type is called `{name}`. {hint(name, index(Column))}")
    return find(Column, name)  # type: ignore[type-abstract]


@dataclass(frozen=True)
class Numeric(Column):
    """A number, standardised: z = (x - mean) / sd.

    Tails are tamed and stay in order: mean and sd are taken after clipping to [q25 - 10 IQR, q75 + 10 IQR] of the
    training values (ordinary columns are not touched), and beyond |z| = 8 the answer grows like a logarithm. A missing
    value is 0, and where the training rows had missing ones a second column says 1.
    """

    mean: float = 0.0
    sd: float = 1.0
    missing: bool = False

    kind: ClassVar = "numeric"

    @classmethod
    def fit(cls, name: str, series: pd.Series) -> Numeric:
        values = floats(series, name)
        known = values[~np.isnan(values)]
        mean, sd = _moments(known)
        return cls(name, mean, sd, len(known) < len(values))

    def transform(self, series: pd.Series) -> np.ndarray:
        values = floats(series, self.name)
        return _with_indicator(_tame((values - self.mean) / self.sd)[:, None], np.isnan(values), self.missing)

    @property
    def layout(self) -> int:
        return 1 + self.missing


@dataclass(frozen=True)
class Boolean(Column):
    """Yes or no, as 1 and 0; a missing value is the training share of yes, with an indicator column as in `Numeric`."""

    share: float = 0.5
    missing: bool = False

    kind: ClassVar = "numeric"

    @classmethod
    def fit(cls, name: str, series: pd.Series) -> Boolean:
        values = cls._read(series, name)
        known = values[~np.isnan(values)]
        return cls(name, float(known.mean()) if len(known) else 0.5, len(known) < len(values))

    @staticmethod
    def _read(series: pd.Series, name: str) -> np.ndarray:
        values = floats(series, name)
        wrong = ~(np.isnan(values) | (values == 0) | (values == 1))
        if wrong.any():
            row = int(wrong.argmax())
            _refuse(series, name, row, "0, 1, true, false or nothing", "; declare it numeric if it is a number")
        return values

    def transform(self, series: pd.Series) -> np.ndarray:
        values = self._read(series, self.name)
        gone = np.isnan(values)
        return _with_indicator(np.where(gone, self.share, values)[:, None], gone, self.missing)

    @property
    def layout(self) -> int:
        return 1 + self.missing


@dataclass(frozen=True)
class Categorical(Column):
    """One of several values, as an index: 0 missing, 1 unknown or rare, 2, 3, ... the training values.

    Values are compared as text, so that 12, 12.0 and "12" are one; True is 1. A value is known if the training rows
    have it at least `min_count` times.
    """

    classes: tuple[str, ...] = ()

    kind: ClassVar = "categorical"
    min_count: ClassVar[int] = 3

    @classmethod
    def fit(cls, name: str, series: pd.Series) -> Categorical:
        codes, texts = _texts(series)
        counts: dict[str, int] = {}
        for text, count in zip(texts, np.bincount(codes[codes >= 0], minlength=len(texts)), strict=True):
            counts[text] = counts.get(text, 0) + int(count)
        return cls(name, tuple(sorted(text for text, count in counts.items() if count >= cls.min_count)))

    def transform(self, series: pd.Series) -> np.ndarray:
        codes, texts = _texts(series)
        place = {text: i + 2 for i, text in enumerate(self.classes)}
        return np.array([*(place.get(text, 1) for text in texts), 0], dtype=np.int64)[codes]

    @property
    def layout(self) -> int:
        return len(self.classes) + 2


@dataclass(frozen=True)
class Datetime(Column):
    """A moment, as numbers: time since the training mean in training sds (tails as in `Numeric`), sine and cosine of
    month and weekday, and of the hour where the training rows had one. Time zones are turned into UTC.

    A missing value is 0 throughout, with an indicator column as `Numeric` has it.
    """

    mean: float = 0.0
    sd: float = 1.0
    hour: bool = False
    missing: bool = False
    format: str = "ISO8601"

    kind: ClassVar = "numeric"
    formats: ClassVar = (
        "ISO8601",
        *(day + time for time in ("", " %H:%M", " %H:%M:%S") for day in ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y")),
    )
    """Texts are read by the first of these that reads all of them: 02/03/2020 alone is the third of February."""

    @classmethod
    def fit(cls, name: str, series: pd.Series) -> Datetime:
        format = next(
            (f for f in cls.formats if stamps_of(series, f).isna().sum() == series.isna().sum()), cls.formats[0]
        )
        stamps = cls(name, format=format)._read(series)
        seconds = _seconds(stamps)
        known = seconds[~np.isnan(seconds)]
        mean, sd = _moments(known)
        return cls(name, mean, sd, bool((known % 86400 != 0).any()), len(known) < len(seconds), format)

    def _read(self, series: pd.Series) -> pd.Series:
        stamps = stamps_of(series, self.format)
        broken = (stamps.isna() & series.notna()).to_numpy()
        if broken.any():
            _refuse(series, self.name, int(broken.argmax()), f"dates ({self.format})")
        return stamps

    def transform(self, series: pd.Series) -> np.ndarray:
        stamps = self._read(series)
        seconds = _seconds(stamps)
        gone = np.isnan(seconds)
        turns = [(stamps.dt.month - 1) / 12, stamps.dt.day_of_week / 7]
        turns += [(stamps.dt.hour + stamps.dt.minute / 60) / 24] if self.hour else []
        angles = [2 * np.pi * turn.to_numpy(dtype=np.float64) for turn in turns]
        parts = [
            _tame((seconds - self.mean) / self.sd),
            *(wave(angle) for angle in angles for wave in (np.sin, np.cos)),
        ]
        return _with_indicator(np.stack(parts, axis=1), gone, self.missing)

    @property
    def layout(self) -> int:
        return 5 + 2 * self.hour + self.missing


def place(series: pd.Series, position: int) -> str:
    """Where the user finds a value: its row, and its table where rows of several were joined."""
    if list(series.index.names) == ["table", "row"]:
        table, row = series.index[position]
        return f"row {row} of table `{table}`"
    return f"row {position}"


def _refuse(series: pd.Series, name: str, position: int, wanted: str, remedy: str = "") -> NoReturn:
    found = series.iloc[position]
    found = found.item() if isinstance(found, np.generic) else found
    raise DataError(f"Column `{name}` should hold {wanted}. Found {found!r} in {place(series, position)}{remedy}.")


def floats(series: pd.Series, name: str) -> np.ndarray:
    """A column as float64, NaN where missing."""
    import pandas as pd

    plain = series.astype(object) if isinstance(series.dtype, pd.CategoricalDtype) else series
    values = pd.to_numeric(plain, errors="coerce")
    array = values.to_numpy(dtype=np.float64, na_value=np.nan)
    gone = np.isnan(array)
    if plain.dtype.kind not in "iufb" and (broken := gone & plain.notna().to_numpy()).any():
        _refuse(series, name, int(broken.argmax()), "numbers")
    if np.isinf(array).any():
        _refuse(
            series, name, int(np.isinf(array).argmax()), "finite numbers", "; leave the cell empty if it is missing"
        )
    return array


def _moments(known: np.ndarray) -> tuple[float, float]:
    if not len(known):
        return 0.0, 1.0
    low, high = np.quantile(known, [0.25, 0.75])
    if high > low:
        known = known.clip(low - 10 * (high - low), high + 10 * (high - low))
    mean, sd = float(known.mean()), float(known.std())
    return mean, sd if sd > 1e-12 * max(1.0, abs(mean)) else 1.0


def _tame(z: np.ndarray) -> np.ndarray:
    over = np.abs(z) - 8
    return np.where(over > 0, np.sign(z) * (8 + np.log1p(np.maximum(over, 0))), z)


def _with_indicator(parts: np.ndarray, gone: np.ndarray, indicator: bool) -> np.ndarray:
    parts = np.where(np.isnan(parts), 0.0, parts)
    return np.concatenate([parts, gone[:, None]], axis=1).astype(np.float32) if indicator else parts.astype(np.float32)


def _texts(series: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Codes, -1 where missing, and the text of each code."""
    import pandas as pd

    codes, values = pd.factorize(series)
    return codes, [str(_plain(v)) for v in values]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value


def stamps_of(series: pd.Series, format: str) -> pd.Series:
    import pandas as pd

    if not pd.api.types.is_datetime64_any_dtype(series.dtype):
        values = series.astype(object)
        return pd.to_datetime(values, format=format, errors="coerce", utc=True).dt.tz_localize(None)
    return series.dt.tz_convert("UTC").dt.tz_localize(None) if getattr(series.dtype, "tz", None) else series


def _seconds(stamps: pd.Series) -> np.ndarray:
    micro = stamps.to_numpy(dtype="datetime64[us]")
    return np.where(np.isnat(micro), np.nan, micro.astype(np.int64) / 1e6)
