"""Sentences with a label each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import Format
from ._lines import lines
from .lines import Lines

if TYPE_CHECKING:
    import pandas as pd


class Sentences(Format):
    r"""A sentence, a tab and its label per line.

    The last tab of a line divides it, quotes mean nothing, and ``\n`` alone ends a line: what a reader of CSV would
    lose or cut stays whole. The first line is a header where no other line has its label.

    Args:
        on_error: see `Format`.
        columns: names of the sentence and of its label.
        sizes: shares of train, valid and test for a column ``split``, drawn at random; none by default.
        seed: of that draw.

    Reference:
        Kotzias, Denil, De Freitas, Smyth: From group to individual labels using deep features, 2015 (the form).
    """

    def __init__(
        self,
        on_error: str = "raise",
        columns: Sequence[str] = ("text", "label"),
        sizes: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(on_error)
        if len(columns) != 2:
            raise ValueError(f"`columns` should name the sentence and its label. Found {list(columns)}.")
        if sizes and (len(sizes) != 3 or not all(s >= 0 for s in sizes) or not sizes[0] > 0):
            raise ValueError(f"`sizes` should be three shares (train, valid, test), the first above 0. Found {sizes}.")
        self.columns, self.sizes, self.seed = tuple(columns), tuple(sizes), seed

    def bare(self, path: Path) -> Format:
        """Sentences alone, where no line has a tab."""
        labelled = path.is_dir() or any("\t" in line for _, line in lines(path))
        return self if labelled else Lines(self.on_error, self.columns[0])

    def frame(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        texts, labels = [], []
        for number, line in lines(path):
            text, tab, label = line.rpartition("\t")
            if not tab or not text.strip() or not label.strip():
                self.refuse(f"{path}, line {number}", "hold a sentence, a tab and a label", f"{line[:60]!r}")
                continue
            texts.append(text.strip())
            labels.append(label.strip())
        if labels and labels[0] not in labels[1:]:
            texts, labels = texts[1:], labels[1:]
        numbers = all(re.fullmatch(r"-?\d+", label) for label in labels)
        frame = pd.DataFrame({self.columns[0]: texts, self.columns[1]: [int(s) for s in labels] if numbers else labels})
        if self.sizes:
            shares = np.array(self.sizes) / sum(self.sizes)
            place = (np.random.default_rng(self.seed).permutation(len(frame)) + 0.5) / max(len(frame), 1)
            frame["split"] = np.array(["train", "valid", "test"])[np.searchsorted(shares.cumsum()[:2], place)]
        return frame
