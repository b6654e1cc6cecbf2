"""An ordinary table with columns that are derived from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...catalog import hint
from ...faults import ConfigError
from ..delimited import rows, typed
from ..where import Where
from . import Format

if TYPE_CHECKING:
    import pandas as pd


class Derived(Format):
    """A file of separated values (csv, tsv, each also .gz), and yes/no columns made of its own by conditions.

    ``columns: {bounced: "BounceRates > 0"}`` adds a column of 1 and 0; it is missing where a column that the condition
    reads is. Conditions are those of a task's `where`.

    Args:
        columns: new column -> condition.
        missing: texts that mean that a value is missing, beside the empty field.

    Raises:
        ConfigError: a condition that cannot be read.
    """

    def __init__(
        self, on_error: str = "raise", *, columns: Mapping[str, str] | None = None, missing: Sequence[str] = ()
    ) -> None:
        super().__init__(on_error)
        self.columns = {name: Where(text) for name, text in (columns or {}).items()}
        self.missing = tuple(missing)

    def frame(self, path: Path) -> pd.DataFrame:
        table = typed(rows(path, self.refuse, missing=self.missing))
        made = {}
        for name, condition in self.columns.items():
            if name in table.columns:
                raise ConfigError(f"A derived column should have a name of its own. Found `{name}` in `{path}`.")
            for column in condition.columns:
                if column not in table.columns:
                    raise ConfigError(
                        f"`{condition.text}` should read columns of `{path}`. Found `{column}`. "
                        f"{hint(column, table.columns)}"
                    )
            known = table[list(condition.columns)].notna().all(axis=1)
            made[name] = np.where(known, condition(table), np.nan)
        return table.assign(**made).reset_index(drop=True)
