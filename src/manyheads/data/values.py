"""What columns share: raw values read exactly, and complained about with their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from ..faults import DataError
from ..tasks import plain

if TYPE_CHECKING:
    import pandas as pd


def place(series: pd.Series, position: int) -> str:
    """Where the user finds a value: its row, and its table where rows of several were joined."""
    table = f" of table `{series.index[position][0]}`" if _joined(series) else ""
    return f"row {row_of(series, position)}{table}"


def row_of(series: pd.Series, position: int) -> int:
    """The row of a value in its own table."""
    return int(series.index[position][1]) if _joined(series) else position


def _joined(series: pd.Series) -> bool:
    return list(series.index.names) == ["table", "row"]


def refuse(series: pd.Series, name: str, position: int, wanted: str, remedy: str = "") -> NoReturn:
    """Complain about one value of a column.

    Raises:
        DataError: always.
    """
    found = series.iloc[position]
    found = found.item() if isinstance(found, np.generic) else found
    raise DataError(
        f"Column `{name}` should hold {wanted}. Found {found!r} in {place(series, position)}{remedy}.",
        row_of(series, position),
    )


def floats(series: pd.Series, name: str) -> np.ndarray:
    """A column as float64, NaN where missing.

    Raises:
        DataError: a text or an infinite number.
    """
    import pandas as pd

    plain = series.astype(object) if isinstance(series.dtype, pd.CategoricalDtype) else series
    values = pd.to_numeric(plain, errors="coerce")
    array = values.to_numpy(dtype=np.float64, na_value=np.nan)
    gone = np.isnan(array)
    if plain.dtype.kind not in "iufb" and (broken := gone & plain.notna().to_numpy()).any():
        refuse(series, name, int(broken.argmax()), "numbers")
    if np.isinf(array).any():
        refuse(series, name, int(np.isinf(array).argmax()), "finite numbers", "; leave the cell empty if it is missing")
    return array


def moments(known: np.ndarray) -> tuple[float, float]:
    """Mean and sd after clipping to [q25 - 10 IQR, q75 + 10 IQR]; the sd of a constant is 1."""
    if not len(known):
        return 0.0, 1.0
    low, high = np.quantile(known, [0.25, 0.75])
    if high > low:
        known = known.clip(low - 10 * (high - low), high + 10 * (high - low))
    mean, sd = float(known.mean()), float(known.std())
    return mean, sd if sd > 1e-12 * max(1.0, abs(mean)) else 1.0


def tame(z: np.ndarray) -> np.ndarray:
    """z where |z| <= 8; beyond, sign(z) (8 + log(1 + |z| - 8))."""
    over = np.abs(z) - 8
    return np.where(over > 0, np.sign(z) * (8 + np.log1p(np.maximum(over, 0))), z)


def with_indicator(parts: np.ndarray, gone: np.ndarray, indicator: bool) -> np.ndarray:
    """Numbers (rows, parts) as float32, 0 where they are NaN; with a further column of `gone` where asked."""
    parts = np.where(np.isnan(parts), 0.0, parts)
    return np.concatenate([parts, gone[:, None]], axis=1).astype(np.float32) if indicator else parts.astype(np.float32)


def texts_of(series: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Codes, -1 where missing, and the text of each code."""
    import pandas as pd

    codes, values = pd.factorize(series)
    return codes, [str(plain(v)) for v in values]


def stamps_of(series: pd.Series, format: str) -> pd.Series:
    """A column as moments in UTC, NaT where missing or unreadable."""
    import pandas as pd

    if not pd.api.types.is_datetime64_any_dtype(series.dtype):
        values = series.astype(object)
        return pd.to_datetime(values, format=format, errors="coerce", utc=True).dt.tz_localize(None)
    return series.dt.tz_convert("UTC").dt.tz_localize(None) if getattr(series.dtype, "tz", None) else series


def seconds_of(stamps: pd.Series) -> np.ndarray:
    """Seconds since 1970, NaN where missing."""
    micro = stamps.to_numpy(dtype="datetime64[us]")
    return np.where(np.isnat(micro), np.nan, micro.astype(np.int64) / 1e6)
