"""The types of a table's columns, where the user did not declare them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..faults import DataError
from .columns import DataWarning, type_of
from .columns.plain import Datetime
from .values import floats, stamps_of

if TYPE_CHECKING:
    import pandas as pd


def infer(frame: pd.DataFrame, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """The type of every column, in the frame's order; columns that cannot be used are left out with a `DataWarning`.

    bool, or 0 and 1 alone -> boolean; other numbers -> numeric, integers with few values too; dates -> datetime; text
    -> categorical. Left out: columns without any value, texts where more than half of (at least 20) values are
    distinct (ids, free text), and anything else (lists, bytes).

    Args:
        overrides: {column: type} that the user declared.

    Raises:
        ConfigError: an unknown type; the message proposes the nearest one.
    """
    overrides = overrides or {}
    types = {}
    for name in frame.columns:
        declared = overrides.get(name)
        if declared is not None:
            type_of(declared)
        if not frame[name].notna().any():
            _warn(f"Feature `{name}` should have values in the training rows. Found none; it is dropped.")
        elif (found := declared or _guess(frame[name], name)) is not None:
            types[name] = found
    return types


def _guess(series: pd.Series, name: str) -> str | None:
    import pandas as pd

    api = pd.api.types
    if api.is_bool_dtype(series.dtype):
        return "boolean"
    if api.is_datetime64_any_dtype(series.dtype):
        return "datetime"
    seen = api.infer_dtype(series, skipna=True)
    if api.is_numeric_dtype(series.dtype) or seen in (
        "boolean",
        "integer",
        "floating",
        "mixed-integer-float",
        "decimal",
    ):
        try:
            values = floats(series, name)
        except DataError:  # an infinite value: the fit will name it
            return "numeric"
        return "boolean" if (np.isnan(values) | (values == 0) | (values == 1)).all() else "numeric"
    if seen in ("datetime", "date", "datetime64"):
        return "datetime"
    known = series.dropna()
    if seen not in ("string", "categorical", "mixed-integer"):
        _warn(
            f"Feature `{name}` should hold numbers, texts or dates. Found {type(known.iloc[0]).__name__}; "
            "it is dropped (declare it `text` if it holds the words of a sentence)."
        )
        return None
    texts = known.astype(str)
    if texts.iloc[:100].str.match(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}").all() and any(
        stamps_of(texts, format).notna().all() for format in Datetime.formats
    ):
        return "datetime"
    distinct = texts.nunique()
    if distinct > max(20, len(texts) / 2):
        _warn(
            f"Feature `{name}` should repeat its values to be a category. Found {distinct} distinct texts in "
            f"{len(texts)} rows; it is dropped (list it under `drop` or as an id to silence this, or declare it "
            "categorical, or `text` with the encoder `text` if it is to be read)."
        )
        return None
    return "categorical"


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=3)
