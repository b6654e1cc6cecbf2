"""Numbers, categories and moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..values import floats, moments, refuse, seconds_of, stamps_of, tame, texts_of, with_indicator
from . import Column

if TYPE_CHECKING:
    import pandas as pd


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
        mean, sd = moments(known)
        return cls(name, mean, sd, len(known) < len(values))

    def transform(self, series: pd.Series) -> np.ndarray:
        values = floats(series, self.name)
        return with_indicator(tame((values - self.mean) / self.sd)[:, None], np.isnan(values), self.missing)

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
            refuse(series, name, row, "0, 1, true, false or nothing", "; declare it numeric if it is a number")
        return values

    def transform(self, series: pd.Series) -> np.ndarray:
        values = self._read(series, self.name)
        gone = np.isnan(values)
        return with_indicator(np.where(gone, self.share, values)[:, None], gone, self.missing)

    @property
    def layout(self) -> int:
        return 1 + self.missing


@dataclass(frozen=True)
class Categorical(Column):
    """One of several values, as an index: 0 missing, 1 unknown or rare, from 2 on the training values.

    Values are compared as text, so that 12, 12.0 and "12" are one; True is 1. A value is known if the training rows
    have it at least `min_count` times.
    """

    classes: tuple[str, ...] = ()

    kind: ClassVar = "categorical"
    min_count: ClassVar[int] = 3

    @classmethod
    def fit(cls, name: str, series: pd.Series) -> Categorical:
        codes, texts = texts_of(series)
        counts: dict[str, int] = {}
        for text, count in zip(texts, np.bincount(codes[codes >= 0], minlength=len(texts)), strict=True):
            counts[text] = counts.get(text, 0) + int(count)
        return cls(name, tuple(sorted(text for text, count in counts.items() if count >= cls.min_count)))

    def transform(self, series: pd.Series) -> np.ndarray:
        codes, texts = texts_of(series)
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
        seconds = seconds_of(stamps)
        known = seconds[~np.isnan(seconds)]
        mean, sd = moments(known)
        return cls(name, mean, sd, bool((known % 86400 != 0).any()), len(known) < len(seconds), format)

    def _read(self, series: pd.Series) -> pd.Series:
        stamps = stamps_of(series, self.format)
        broken = (stamps.isna() & series.notna()).to_numpy()
        if broken.any():
            refuse(series, self.name, int(broken.argmax()), f"dates ({self.format})")
        return stamps

    def transform(self, series: pd.Series) -> np.ndarray:
        stamps = self._read(series)
        seconds = seconds_of(stamps)
        gone = np.isnan(seconds)
        turns = [(stamps.dt.month - 1) / 12, stamps.dt.day_of_week / 7]
        turns += [(stamps.dt.hour + stamps.dt.minute / 60) / 24] if self.hour else []
        angles = [2 * np.pi * turn.to_numpy(dtype=np.float64) for turn in turns]
        parts = [
            tame((seconds - self.mean) / self.sd),
            *(wave(angle) for angle in angles for wave in (np.sin, np.cos)),
        ]
        return with_indicator(np.stack(parts, axis=1), gone, self.missing)

    @property
    def layout(self) -> int:
        return 5 + 2 * self.hour + self.missing
