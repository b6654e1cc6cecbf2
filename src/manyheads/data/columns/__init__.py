"""What a column holds. The contract of a column type: what turns a column into numbers, learned from training rows.

A type is a word of this folder, or ``package.module:Class`` for one of your own.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, final

from ...catalog import find, hint, index, word
from ...faults import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from ...results import Shown

Self = TypeVar("Self", bound="Column")
TypeOf = str | Mapping[str, Any]
"""A column's type as a user declares it: a word, or {"type": word, and its settings}."""


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
        """Learn from the training rows; further arguments, by keyword, are the settings that a user may give."""

    @abstractmethod
    def transform(self, series: pd.Series) -> Any:
        """Numbers for any rows: an array (rows, ...), or `Ragged` rows of unequal length.

        Raises:
            DataError: a value that cannot be read; the message names column and row.
        """

    @property
    @abstractmethod
    def layout(self) -> Any:
        """What an encoder must know: the width of a numeric column, the cardinality of a categorical one."""

    def show(self, cell: Any) -> Shown | None:
        """A cell as a page can draw it; None where it is missing, or a number or a category as by default."""
        return None

    def tokens(self, series: pd.Series) -> Iterable[list[str]] | None:
        """The words of each row as an encoder sees them, which labels per word belong to; None where there are none."""
        return None

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


def fitted(kind: str, series: pd.Series, settings: Mapping[str, Any]) -> Column:
    """A column of this type that has learned from its training rows.

    Args:
        settings: the user's, with the word itself under ``type``.

    Raises:
        ConfigError: the type has no such setting.
    """
    cls, own = type_of(kind), {k: v for k, v in settings.items() if k != "type"}
    known = [k for k in inspect.signature(cls.fit).parameters if k not in ("name", "series")]
    for key in own:
        if key not in known:
            raise ConfigError(f"Column type `{kind}` has no setting `{key}`. {hint(key, known)}")
    return cls.fit(str(series.name), series, **own)
