"""Words, in the pieces that a pretrained model reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ... import results
from ...faults import ConfigError, MissingExtra
from ...ragged import Ragged
from ...words import tokens_of
from ..values import refuse
from . import Column, DataWarning
from .text import CASES, case_of

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("model", "spaces", "words")
UNREAD = -1
"""Stands for a word of which the model reads nothing."""


@dataclass(frozen=True)
class Subwords(Column):
    """A text, or a list of words, in the sub-words of a pretrained model; read by the encoder `pretrained`.

    A list of words stays the list of words that it is: labels per word find theirs. A row that has more than
    `max_length` sub-words is cut between two words, with a warning; the words behind the cut are still there, but the
    model sees nothing of them.

    The fitted column holds the tokenizer itself (as the text of its ``tokenizer.json``), so a saved model reads texts
    as it did, wherever it is.

    Shape:
        `Ragged` rows (sub-words, 2): the sub-word's number, and which of the row's words it is of, -1 for a special
        one. A word of which nothing is read has the number -1. With `case` rows (sub-words, 3): see `case_of`, 0 for a
        special one.

    Args:
        model: a folder or a hub's name.
        max_length: sub-words, special ones included; by default as many as the model reads, 512 at most.
        split: how a text becomes words: ``model`` (as the tokenizer does), ``spaces``, or ``words`` (runs of letters
            and digits, any other sign by itself).
        case: whether the encoder is told how each word is written, which a model of small letters alone would not see,
            and by which names are known.
    """

    model: str = ""
    max_length: int = 512
    split: str = "model"
    tokenizer: str = ""
    case: bool = False

    kind: ClassVar = "pretrained"

    @classmethod
    def fit(
        cls,
        name: str,
        series: pd.Series,
        *,
        model: str = "",
        max_length: int | None = None,
        split: str = "model",
        case: bool = False,
    ) -> Subwords:
        if not model:
            raise ConfigError(
                f"Column `{name}` should name its `model`, a folder or a hub's name, such as {{type: subwords, model: "
                "microsoft/MiniLM-L12-H384-uncased}. Found none."
            )
        if split not in SPLITS:
            raise ConfigError(f"`split` of column `{name}` should be one of {', '.join(SPLITS)}. Found `{split}`.")
        text, most = _tokenizer_of(model, name)
        length = min(most, 512) if max_length is None else max_length
        if not 3 <= length <= most:
            raise ConfigError(
                f"`max_length` of column `{name}` should be between 3 and {most}, as much as `{model}` reads. Found "
                f"{length}."
            )
        return cls(name, str(model), length, split, text, bool(case))

    @cached_property
    def _readers(self) -> tuple[Any, Any]:
        """Tokenizers for texts and for lists of words, which may begin after a space."""
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtra("The column type `subwords`", "text") from None
        described = json.loads(self.tokenizer)
        described |= {"truncation": None, "padding": None}
        whole = Tokenizer.from_str(json.dumps(described))
        if not _spaced(described.get("pre_tokenizer")):
            return whole, whole
        return whole, Tokenizer.from_str(json.dumps(described))

    def transform(self, series: pd.Series) -> Ragged:
        import pandas as pd

        texts: list[tuple[int, str]] = []
        lists: list[tuple[int, list[str]]] = []
        for i, value in enumerate(series.array):
            if isinstance(value, str):
                if self.split == "model":
                    texts.append((i, value))
                else:
                    lists.append((i, tokens_of(value, self.split)))
            elif isinstance(value, (list, tuple, np.ndarray)):
                if not all(isinstance(word, str) for word in value):
                    refuse(series, self.name, i, "texts or lists of texts")
                lists.append((i, list(value)))
            elif value is None or value is pd.NA or value != value:  # NaN
                lists.append((i, []))
            else:
                refuse(series, self.name, i, "texts or lists of texts")
        whole, apart = self._readers
        empty = np.empty((0, 3 if self.case else 2), dtype=np.int64)
        rows: list[np.ndarray] = [empty] * len(series)
        cut = 0
        for found, reader, listed in ((texts, whole, False), (lists, apart, True)):
            encodings = reader.encode_batch([v for _, v in found], is_pretokenized=listed) if found else []
            for (i, value), encoding in zip(found, encodings, strict=True):
                rows[i], shorter = self._row(encoding, value)
                cut += shorter
        if cut:
            warnings.warn(
                f"Column `{self.name}` should have rows of at most {self.max_length} sub-words. Found {cut} of "
                f"{len(series)} that are longer: the words behind the cut are not read.",
                DataWarning,
                stacklevel=2,
            )
        return Ragged.of(rows, torch.from_numpy(empty))

    def _row(self, encoding: Any, value: Sequence[str]) -> tuple[np.ndarray, bool]:
        """(sub-words of one row (n, 2 or 3), whether it was cut)."""
        words = np.array([UNREAD if w is None else w for w in encoding.word_ids], dtype=np.int64)
        ids = np.array(encoding.ids, dtype=np.int64)
        n_words = len(value)
        if isinstance(value, str):  # a tokenizer may count what it leaves out as a word
            _, inverse = np.unique(words[words >= 0], return_inverse=True)
            words[words >= 0] = inverse
            n_words = int(inverse.max(initial=-1)) + 1
        keep = np.ones(len(ids), dtype=bool)
        if cut := len(ids) > self.max_length:
            special = words < 0
            room = self.max_length - int(special.sum())
            own = np.flatnonzero(~special)
            last = words[own[room]]  # the first word that does not fit as a whole
            if last == words[own[0]]:  # one word longer than all that is read
                keep[own[room:]] = False
            else:
                keep[own[words[own] >= last]] = False
        columns = [ids, words]
        if self.case:
            written = value if not isinstance(value, str) else _written(value, words, encoding.offsets)
            cases = np.array([case_of(word) if word else 0 for word in written] + [0], dtype=np.int64)
            columns.append(cases[words])  # a special one's word is -1, which reads the 0
        kept = np.stack([column[keep] for column in columns], axis=1)
        missing = np.setdiff1d(np.arange(n_words), kept[:, 1])
        if not len(missing):
            return kept, cut
        return _ordered(kept, missing), cut

    def tokens(self, series: pd.Series) -> Iterable[list[str]]:
        return map(self._words, series.array)

    def _words(self, cell: Any) -> list[str]:
        if isinstance(cell, (list, tuple, np.ndarray)):
            return list(cell)
        if not isinstance(cell, str):
            return []
        if self.split != "model":
            return tokens_of(cell, self.split)
        encoding = self._readers[0].encode(cell)
        ends: dict[int, tuple[int, int]] = {}
        for word, (start, stop) in zip(encoding.word_ids, encoding.offsets, strict=True):
            if word is not None:
                first, last = ends.get(word, (start, stop))
                ends[word] = (min(first, start), max(last, stop))
        return [cell[a:b].strip() for _, (a, b) in sorted(ends.items())]

    def show(self, cell: Any) -> results.Text | None:
        words = tuple(self._words(cell))
        return results.Text(text=cell if isinstance(cell, str) else " ".join(words), words=words) if words else None

    @property
    def layout(self) -> dict[str, Any]:
        size = self._readers[0].get_vocab_size()
        told = {"model": self.model, "subwords": size, "longest": self.max_length}
        return told | ({"cases": CASES} if self.case else {})


def _ordered(kept: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Words of which nothing is read put where they belong among the others; those at the end come last of all."""
    lines, width = kept.tolist(), kept.shape[1]
    for word in missing.tolist():
        later = [i for i, line in enumerate(lines) if line[1] > word]
        lines.insert(later[0] if later else len(lines), [UNREAD, word, 0][:width])
    return np.array(lines, dtype=np.int64).reshape(-1, width)


def _written(text: str, words: np.ndarray, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """Each word as it stands in the text."""
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    found = []
    for word in range(int(words.max(initial=-1)) + 1):
        own = places[words == word]
        found.append(text[own[:, 0].min() : own[:, 1].max()].strip())
    return found


def _spaced(part: Any) -> bool:
    """Let the tokenizer of a GPT or RoBERTa take each word of a list as one that follows a space."""
    if not isinstance(part, Mapping):
        return False
    if part.get("type") == "Sequence":
        return any(_spaced(one) for one in part["pretokenizers"])
    if part.get("type") == "ByteLevel" and not part.get("add_prefix_space"):
        part["add_prefix_space"] = True  # type: ignore[index]
        return True
    return False


def _tokenizer_of(model: str, name: str) -> tuple[str, int]:
    """(the text of its ``tokenizer.json``, how many sub-words the model reads).

    Raises:
        ConfigError: there is no such model, or it has no tokenizer that can be written down.
        MissingExtra: transformers is not installed.
    """
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError:
        raise MissingExtra("The column type `subwords`", "text") from None
    try:
        found = AutoTokenizer.from_pretrained(model)
        described = found.backend_tokenizer.to_str()
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"`model` of column `{name}` should be a folder or a hub's name with a fast tokenizer. Found `{model}`: "
            f"{str(error).splitlines()[0]}"
        ) from None
    config = AutoConfig.from_pretrained(model)
    places = getattr(config, "max_position_embeddings", None) or 10**6
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        places -= 2  # their places are counted from 2 on
    return described, int(min(places, found.model_max_length))
