"""Spans in tagged sentences, and how well they are found.

A sentence's tags are a list of texts. In the scheme BIO, ``B-PER`` begins a span of the type PER, ``I-PER`` goes on
with it and ``O`` is outside; where an ``I-`` follows nothing that it could go on with, it begins a span as well, as
conlleval and seqeval (in its default mode) read it. BILOU and BIOES say the same with more letters.

Reference:
    Ramshaw, Marcus: Text chunking using transformation-based learning, 1995.
    Tjong Kim Sang, De Meulder: Introduction to the CoNLL-2003 shared task, 2003 (conlleval).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .formulas import Array, Parts, Weigh

_LETTERS = {"U": "B", "S": "B", "L": "I", "E": "I", "B": "B", "I": "I"}
Span = tuple[int, int, str]
"""(first token, the one after the last, type)."""


def bio(tags: Sequence[str]) -> list[str]:
    """Tags of BIO, BILOU or BIOES as BIO.

    Raises:
        ValueError: a tag is of none of them.

    Example:
        >>> bio(["U-PER", "O", "B-LOC", "L-LOC"])
        ['B-PER', 'O', 'B-LOC', 'I-LOC']
    """
    found = []
    for tag in tags:
        letter, dash, kind = tag.partition("-")
        if tag == "O":
            found.append(tag)
        elif dash and kind and letter in _LETTERS:
            found.append(f"{_LETTERS[letter]}-{kind}")
        else:
            raise ValueError(
                f"A tag should be `O` or a letter of BIO, BILOU or BIOES and a type, as `B-PER`. Found `{tag}`."
            )
    return found


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of a sentence in order, from BIO tags.

    Example:
        >>> spans(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
        [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    found: list[Span] = []
    start, open_type = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        if open_type and (letter != "I" or kind != open_type):
            found.append((start, i, open_type))
            open_type = ""
        if letter in ("B", "I") and not open_type:
            start, open_type = i, kind
    return found


def tags_of(row: Any) -> Sequence[str]:
    """The tags of a row as metrics see it: a list of tags, or {"tags": ..., "relations": ...}."""
    return row["tags"] if isinstance(row, Mapping) else row


def triples(row: Mapping[str, Any]) -> set[Hashable]:
    """The relations of a row, each with both spans, both types and its own type.

    Args:
        row: {"tags": BIO tags, "relations": [(number of the head's span, of the tail's, type), ...]}.
    """
    found = spans(row["tags"])
    return {(found[h], found[t], kind) for h, t, kind in row["relations"] if h < len(found) and t < len(found)}


def _f1(things: Callable[[Any], set[Any]]) -> Callable[[Array, Array], Weigh]:
    """Micro F1 = 2 tp / (2 tp + fp + fn) over all rows; NaN where there is nothing, neither said nor found."""

    def function(y: Array, p: Array) -> Weigh:
        pairs = [(things(a), things(b)) for a, b in zip(y, p, strict=True)]
        both = np.array([len(a & b) for a, b in pairs], float)
        total = np.array([len(a) + len(b) for a, b in pairs], float)
        return lambda W: _ratio(2 * (W @ both), W @ total)

    return function


def _f1_by_type(things: Callable[[Any], set[Any]]) -> Callable[[Array, Array], Parts]:
    """The same of each type, which stands last in what is found."""

    def parts(y: Array, p: Array) -> Parts:
        pairs = [(things(a), things(b)) for a, b in zip(y, p, strict=True)]
        types = sorted({one[-1] for pair in pairs for some in pair for one in some})
        place = {kind: i for i, kind in enumerate(types)}
        both, said, found = (np.zeros((len(pairs), len(types))) for _ in range(3))
        for row, (a, b) in enumerate(pairs):
            for counts, some in ((both, a & b), (said, a), (found, b)):
                for one in some:
                    counts[row, place[one[-1]]] += 1
        n = said.sum(0).astype(int)
        return Parts(types, lambda W: _ratio(2 * (W @ both), W @ (said + found)).T, np.full(len(types), n.sum()), n)

    return parts


def _ratio(a: Array, b: Array) -> Array:
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def _spans(row: Any) -> set[Any]:
    return set(spans(tags_of(row)))


entity_f1, entity_f1_by_type = _f1(_spans), _f1_by_type(_spans)
"""A span counts where both its ends and its type are right."""
relation_f1, relation_f1_by_type = _f1(triples), _f1_by_type(triples)
"""A relation counts where both spans, both their types and its own type are right (Eberts, Ulges: SpERT, 2020)."""


def token_accuracy(y: Array, p: Array) -> Weigh:
    """The share of all tokens whose tag is right; a token without a prediction is wrong."""
    rows = [(tags_of(a), tags_of(b)) for a, b in zip(y, p, strict=True)]
    right = np.array([sum(s == t for s, t in zip(a, b, strict=False)) for a, b in rows], float)
    total = np.array([len(a) for a, _ in rows], float)
    return lambda W: _ratio(W @ right, W @ total)


def accuracy_by_tag(y: Array, p: Array) -> Parts:
    """The share of each tag's tokens that are found."""
    rows = [(list(tags_of(a)), list(tags_of(b))) for a, b in zip(y, p, strict=True)]
    tags = sorted({tag for a, _ in rows for tag in a})
    place = {tag: i for i, tag in enumerate(tags)}
    right, total = (np.zeros((len(rows), len(tags))) for _ in range(2))
    for row, (a, b) in enumerate(rows):
        for i, tag in enumerate(a):
            total[row, place[tag]] += 1
            right[row, place[tag]] += i < len(b) and b[i] == tag
    n = total.sum(0).astype(int)
    return Parts(tags, lambda W: _ratio(W @ right, W @ total).T, np.full(len(tags), n.sum()), n)
