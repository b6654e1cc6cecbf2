"""Words: TF-IDF, and counting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

from manyheads.data.columns.text import tokens_of
from manyheads.metrics import Predicted
from manyheads.metrics.spans import spans
from manyheads.ragged import objects
from manyheads.tasks import Task

from . import Fit, Labelled, classify, of_kind

Kinds = tuple[str, str]
"""The types of a head and of a tail."""


def model_of(task: Task) -> Fit | None:
    """Counting for tags and relations, TF-IDF for classes."""
    if task.kind == "tagging":
        return frequent_tags
    if task.kind == "relation":
        return frequent_relations
    return tfidf if task.kind in ("binary", "multiclass", "multilabel") else None


def words(rows: Labelled) -> list[list[str]]:
    """The tokens of each row."""
    column, _ = of_kind(rows.inputs, "text", "pretrained")
    return [tokens_of(cell) if isinstance(cell, str) else list(cell) for cell in rows.frame[column]]


def _runs(tokens: Sequence[str]) -> list[str]:
    low = [t.lower() for t in tokens]
    return [*low, *map(" ".join, pairwise(low))]


def tfidf(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """TF-IDF of words and of pairs of words, logistic regression."""
    vectors = TfidfVectorizer(analyzer=_runs, sublinear_tf=True)
    predict = classify(task, learn, vectors.fit_transform(words(learn)), seed)
    return lambda rows: predict(vectors.transform(words(rows)))


def _tagger(sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> Callable[[Sequence[str]], list[str]]:
    """The most frequent tag of each word; of all words, for one that was never seen."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    total: Counter[str] = Counter()
    for tokens, own in zip(sentences, tags, strict=True):
        total.update(own)
        for token, tag in zip(tokens, own, strict=True):
            counts[token.lower()][tag] += 1
    usual = total.most_common(1)[0][0]
    best = {word: found.most_common(1)[0][0] for word, found in counts.items()}
    return lambda tokens: [best.get(token.lower(), usual) for token in tokens]


def frequent_tags(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """The most frequent tag of each word."""
    tag = _tagger(words(learn), list(learn.truth))
    return lambda rows: Predicted(objects([tag(tokens) for tokens in words(rows)]))


def frequent_relations(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    """Spans by the most frequent tag of each word; between two of them the relation that their types have most often,
    where its share among such pairs reaches the threshold with the best F1 on the labels."""
    tag = _tagger(words(learn), [row["tags"] for row in learn.truth])
    pairs: Counter[Kinds] = Counter()
    held: defaultdict[Kinds, Counter[str]] = defaultdict(Counter)
    for row in learn.truth:
        kinds = [kind for _, _, kind in spans(row["tags"])]
        pairs.update((a, b) for i, a in enumerate(kinds) for j, b in enumerate(kinds) if i != j)
        for head, tail, relation in row["relations"]:
            held[kinds[head], kinds[tail]][relation] += 1
    best = {pair: found.most_common(1)[0] for pair, found in held.items()}
    total = sum(n for found in held.values() for n in found.values())
    right = said = 0
    threshold, top = 1.0, -1.0
    for share, n, hits in sorted(((n / pairs[p], pairs[p], n) for p, (_, n) in best.items()), reverse=True):
        right, said = right + hits, said + n
        if (f1 := 2 * right / (said + total)) > top:
            threshold, top = share, f1
    kept = {pair: relation for pair, (relation, n) in best.items() if n / pairs[pair] >= threshold}

    def predict(rows: Labelled) -> Predicted:
        return Predicted(objects([_related(tag(tokens), kept) for tokens in words(rows)]))

    return predict


def _related(tags: list[str], kept: Mapping[Kinds, str]) -> dict[str, Any]:
    return {"tags": tags, "relations": list(_links([kind for _, _, kind in spans(tags)], kept))}


def _links(kinds: Sequence[str], kept: Mapping[Kinds, str]) -> Iterator[tuple[int, int, str]]:
    for i, a in enumerate(kinds):
        for j, b in enumerate(kinds):
            if i != j and (a, b) in kept:
                yield i, j, kept[a, b]
