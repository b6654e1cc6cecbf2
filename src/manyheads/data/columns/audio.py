"""Recordings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ... import exhibits
from ...faults import ConfigError, DataError
from ...metrics.sound import resampled, samples_of
from ...ragged import Ragged
from ..values import place, row_of
from . import Column

if TYPE_CHECKING:
    import pandas as pd

    from ...results import Sound


@dataclass(frozen=True)
class Audio(Column):
    """A recording: the path of a wav file, the bytes of one, or an array of samples.

    Recordings become int16 samples at one rate, mono, each of its own length. Arrays are int16, or floats between -1
    and 1, and are taken to have that rate.

    Args:
        rate: samples per second; by default the first training file's. Files of another rate are resampled.
        root: the folder that paths which are not absolute begin at; by default the working folder.
    """

    rate: int = 16000
    root: str | None = None

    kind: ClassVar = "audio"

    @classmethod
    def fit(cls, name: str, series: pd.Series, rate: int | None = None, root: str | None = None) -> Audio:
        if rate is None:
            known = series[series.notna()]
            found = cls(name, root=root)._read(known.iloc[:1])[0][0]
            if found is None:
                raise ConfigError(
                    f"Column `{name}` should have a `rate`: arrays do not say how many samples make a second. Found "
                    "none; declare the column as {type: audio, rate: 16000}, say."
                )
            rate = found
        if not (isinstance(rate, int) and rate > 0):
            raise ConfigError(f"The `rate` of column `{name}` should be a whole number above 0. Found {rate!r}.")
        return cls(name, rate, root)

    def _read(self, series: pd.Series) -> list[tuple[int | None, np.ndarray]]:
        found = []
        for i, (cell, there) in enumerate(zip(series, series.notna(), strict=True)):
            try:
                if not there:
                    raise ValueError("nothing in the cell")
                found.append(samples_of(cell, self.root))
            except ValueError as error:
                what = f"`{cell}` of column `{self.name}`" if isinstance(cell, str) else f"Column `{self.name}`"
                raise DataError(
                    f"{what} should hold a recording: a wav file, or an array of samples. Found {error}, in "
                    f"{place(series, i)}; mend it, or leave such rows out with `data.on_error=skip`.",
                    row_of(series, i),
                ) from None
        return found

    def transform(self, series: pd.Series) -> Ragged:
        rows = [resampled(samples, rate or self.rate, self.rate) for rate, samples in self._read(series)]
        return Ragged.of(rows, torch.empty(0, dtype=torch.int16))

    def show(self, cell: Any) -> Sound | None:
        rate, samples = samples_of(cell, self.root)
        return exhibits.sound(samples, rate or self.rate)

    @property
    def layout(self) -> int:
        return self.rate
