"""Texts as bags of short runs of characters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ... import results
from ...faults import ConfigError
from . import Column

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Ngrams(Column):
    """A text (a chemical formula, a name) as the runs of 1 to `longest` characters that it holds: TF-IDF.

    With c the count of a run in the text, n the training texts and f those that hold it, the run's number is
    (1 + log c) (1 + log((1 + n) / (1 + f))), 0 where c is 0; then the row is brought to length `scale`. Runs are those
    that the most training texts hold, each text counted once however often it comes. A missing text is 0 throughout.

    Args:
        longest: characters of the longest run.
        most: at most so many runs.
        scale: the length of a row; default: the root of the mean number of runs in a text, so that what is there is
            about 1, as in a standardised column.

    Reference:
        Spärck Jones: A statistical interpretation of term specificity and its application in retrieval, 1972.
    """

    runs: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    longest: int = 4
    scale: float = 1.0

    kind: ClassVar = "numeric"
    min_count: ClassVar[int] = 3

    @classmethod
    def fit(
        cls, name: str, series: pd.Series, *, longest: int = 4, most: int = 1024, scale: float | None = None
    ) -> Ngrams:
        for word, value in (("longest", longest), ("most", most)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"Column `{name}`: `{word}` should be a whole number from 1 on. Found {value!r}.")
        texts = [str(t) for t in series.dropna().unique()]
        found = Counter(run for text in texts for run in set(_runs(text, longest)))
        chosen = sorted(((-f, run) for run, f in found.items() if f >= cls.min_count))[:most]
        runs = tuple(sorted(run for _, run in chosen)) or ("",)
        weights = tuple(float(1 + np.log((1 + len(texts)) / (1 + found[run]))) for run in runs)
        if scale is None:
            kept = set(runs)
            held = [len(kept.intersection(_runs(text, longest))) for text in texts]
            scale = float(np.sqrt(max(np.mean(held) if held else 1.0, 1.0)))
        return cls(name, runs, weights, longest, scale)

    def transform(self, series: pd.Series) -> np.ndarray:
        place = {run: i for i, run in enumerate(self.runs)}
        answer = np.zeros((len(series), len(self.runs)), dtype=np.float32)
        weights, seen = np.asarray(self.weights), {}
        for row, (text, gone) in enumerate(zip(series, series.isna(), strict=True)):
            if gone:
                continue
            if text not in seen:
                seen[text] = row
                counts = Counter(place[r] for r in _runs(str(text), self.longest) if r in place)
                at = np.fromiter(counts.keys(), np.int64, len(counts))
                values = (1 + np.log(np.fromiter(counts.values(), np.float64, len(counts)))) * weights[at]
                length = np.sqrt((values**2).sum())
                answer[row, at] = values * (self.scale / length if length else 0.0)
            else:
                answer[row] = answer[seen[text]]
        return answer

    def show(self, cell: Any) -> results.Text | None:
        return results.Text(text=cell) if isinstance(cell, str) else None

    @property
    def layout(self) -> int:
        return len(self.runs)


def _runs(text: str, longest: int) -> list[str]:
    return [text[i : i + n] for n in range(1, longest + 1) for i in range(len(text) - n + 1)]
