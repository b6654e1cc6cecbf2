"""Words."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ... import results
from ...faults import ConfigError
from ...ragged import Ragged
from ...words import tokens_of
from ..values import refuse
from . import Column

if TYPE_CHECKING:
    import pandas as pd

AFFIXES = 4
"""Beginnings and ends of a word of up to so many letters are parts of it."""
TRIGRAMS = 10
"""At most so many of a word's runs of three letters are parts of it."""
PARTS = 2 * AFFIXES + 1 + TRIGRAMS
UNKNOWN = 1


def case_of(token: str) -> int:
    """How a token is written: 1 small, 2 Capital, 3 ALL CAPITALS, 4 mIxed, 5 number, 6 with digits, 7 other signs."""
    if any(c.isdigit() for c in token):
        return 6 if any(c.isalpha() for c in token) else 5
    if not any(c.isalpha() for c in token):
        return 7
    if token.islower():
        return 1
    if token.isupper() and len(token) > 1:
        return 3
    return 2 if token[0].isupper() and token[1:] == token[1:].lower() else 4


CASES = 8


def parts_of(token: str, buckets: int) -> list[int]:
    """What a word is made of, as numbers from 1 to `buckets`, 0 for none (`PARTS` of them).

    Its first and last one to four letters, its shape (``Xxxx-9``, runs cut to two) and its runs of three letters, in
    small letters, each hashed; so a word that training never showed is known by its pieces.

    Reference:
        Bojanowski, Grave, Joulin, Mikolov: Enriching word vectors with subword information, 2017.
    """
    low = token.lower()
    pieces = [f"<{low[:n]}" if len(low) >= n else "" for n in range(1, AFFIXES + 1)]
    pieces += [f"{low[-n:]}>" if len(low) >= n else "" for n in range(1, AFFIXES + 1)]
    shape = "".join("9" if c.isdigit() else "X" if c.isupper() else "x" if c.isalpha() else c for c in token)
    pieces.append("#" + re.sub(r"(.)\1{2,}", r"\1\1", shape))
    padded = f"<{low}>"
    pieces += [padded[i : i + 3] for i in range(min(len(padded) - 2, TRIGRAMS))]
    numbers = [1 + zlib.crc32(piece.encode()) % buckets if piece else 0 for piece in pieces]
    return numbers + [0] * (PARTS - len(numbers))


@dataclass(frozen=True)
class Text(Column):
    """A text, or a list of its tokens, as rows of unequal length: per token its word, its case and its parts.

    A list keeps its tokens, so that labels per token stay with theirs. A missing or empty text has no token; heads then
    see zeros, and say what is most common. A word is looked up in small letters; 0 is none, 1 unknown or rare, 2, 3,
    ... the words that the training rows have at least `min_count` times, the most frequent first.

    Shape of a token: (word, case, parts...), see `case_of` and `parts_of`.

    Args:
        split: how a string falls into tokens: ``words`` (runs of letters and digits with apostrophes inside, and every
            other sign by itself) or ``spaces``.
        min_count: how often the training rows have a word that is told from unknown ones.
        buckets: how many numbers the parts of words are hashed to.
    """

    words: tuple[str, ...] = ()
    split: str = "words"
    buckets: int = 16384

    kind: ClassVar = "text"

    @classmethod
    def fit(
        cls, name: str, series: pd.Series, *, min_count: int = 2, split: str = "words", buckets: int = 16384
    ) -> Text:
        if split not in ("words", "spaces"):
            raise ConfigError(f"`split` of column `{name}` should be words or spaces. Found `{split}`.")
        if min_count < 1 or buckets < 1:
            raise ConfigError(
                f"`min_count` and `buckets` of column `{name}` should be 1 or more. Found {min_count} and {buckets}."
            )
        found = cls(name, (), split, buckets)
        counts = Counter(token.lower() for row in found.tokens(series) for token in row)
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(name, tuple(word for word, n in ordered if n >= min_count), split, buckets)

    def tokens(self, series: pd.Series) -> Iterable[list[str]]:
        """The tokens of each row.

        Raises:
            DataError: a cell that is neither a text, nor a list of texts, nor missing.
        """
        import pandas as pd

        for i, value in enumerate(series.array):
            if isinstance(value, str):
                yield tokens_of(value, self.split)
            elif isinstance(value, (list, tuple, np.ndarray)):
                if not all(isinstance(token, str) for token in value):
                    refuse(series, self.name, i, "texts or lists of texts")
                yield list(value)
            elif value is None or value is pd.NA or value != value:  # NaN
                yield []
            else:
                refuse(series, self.name, i, "texts or lists of texts")

    def show(self, cell: Any) -> results.Text | None:
        if not isinstance(cell, str | list | tuple | np.ndarray):
            return None
        words = tuple(tokens_of(cell, self.split) if isinstance(cell, str) else cell)
        return results.Text(text=cell if isinstance(cell, str) else " ".join(words), words=words)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {word: i + 2 for i, word in enumerate(self.words)}

    def transform(self, series: pd.Series) -> Ragged:
        known: dict[str, list[int]] = {}
        rows, lengths = [], []
        for row in self.tokens(series):
            lengths.append(len(row))
            for token in row:
                if token not in known:
                    place = self._places.get(token.lower(), UNKNOWN)
                    known[token] = [place, case_of(token), *parts_of(token, self.buckets)]
                rows.append(known[token])
        values = np.array(rows, dtype=np.int64).reshape(-1, 2 + PARTS)
        return Ragged(torch.from_numpy(values), torch.tensor(lengths, dtype=torch.long))

    @property
    def layout(self) -> dict[str, Any]:
        return {"words": len(self.words) + 2, "cases": CASES, "buckets": self.buckets + 1, "parts": PARTS}
