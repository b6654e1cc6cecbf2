"""Spans in a sentence, and what they have to do with one another."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import metrics, results
from ..blocks import Dropout
from ..catalog import hint
from ..faults import ConfigError, DataError
from ..metrics import Metric, Predicted
from ..metrics.spans import spans
from ..ragged import Ragged, Rows, objects
from . import Task, _constants, rows_with
from ._pairs import WIDTH, pair_scores, pair_scores_in_parts
from ._words import refuse_uneven
from .text import _Tagged, cells, inventory, numbered, sequence, shares, token_errors

if TYPE_CHECKING:
    import pandas as pd

LEAST = 0.05
"""Pairs of a lower probability are never relations where the threshold is chosen."""

Triple = tuple[int, int, str]
"""(number of the head's span, of the tail's, type of the relation)."""


def triples(series: pd.Series, task: Task) -> list[list[Triple] | None]:
    """A column of relations: each cell a list of {"head": 0, "tail": 1, "type": "Kill"}, or that as JSON.

    Raises:
        DataError: a cell that does not read so.
    """
    found: list[list[Triple] | None] = []
    for row, value in enumerate(series.array):
        if not isinstance(value, (str, list, tuple, np.ndarray)):
            found.append(None)
            continue
        try:
            listed = json.loads(value) if isinstance(value, str) else value
            found.append([(int(r["head"]), int(r["tail"]), str(r["type"])) for r in listed])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"Task `{task.name}`: column `{series.name}` should hold lists of head, tail and type, as "
                f'[{{"head": 0, "tail": 1, "type": "Kill"}}]. Found {str(value)[:60]!r} in row {row} '
                f"({type(error).__name__}: {error}).",
                row,
            ) from None
    return found


class _Scores(nn.Module):
    """Per token its mask, the scores of its tags, and what it says about relations.

    h = act(W [x, p]) with p the softmax of the tags' scores; then a linear map.

    Shape:
        a sequence of width `d_in` -> (batch, length, 1 + tags + relations * WIDTH).
    """

    def __init__(self, d_in: int, d_hidden: int, start: Sequence[float], relations: int, task: str) -> None:
        super().__init__()
        self.start, self.task = tuple(start), task
        self.linear = nn.Linear(d_in, len(start))
        self.hidden = nn.Linear(d_in + len(start), d_hidden)
        self.dropout = Dropout(0.2)
        self.pairs = nn.Linear(d_hidden, relations * WIDTH)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            nn.init.normal_(self.linear.weight, std=0.02)
            self.linear.bias.copy_(torch.tensor(self.start))

    def forward(self, read: Any) -> Tensor:
        values, mask = sequence(read, self.task)
        scores = self.linear(values)
        hidden = F.silu(self.hidden(torch.cat([values, scores.softmax(-1)], -1)))
        return torch.cat([mask.unsqueeze(-1).to(values.dtype), scores, self.pairs(self.dropout(hidden))], -1)


@dataclass(frozen=True)
class Relation(_Tagged):
    """Spans and the relations between them, found together: who works for whom, what lies where.

    Error: the cross-entropies of the tokens' tags, and the binary cross-entropies of every relation type between all
    ordered pairs of the labelled spans (those that have no relation are the negative examples); a label is a token or a
    pair. Prediction: legal tags first, then the relations between the spans that were found, where their probability
    is at the threshold or above and training showed the relation between spans of these two types.

    The target is two columns, ``[tags, relations]``: tags as `Tagging` has them, and per row a list of ``{"head": 0,
    "tail": 1, "type": "Kill"}`` (or that as JSON), where head and tail count the row's spans from 0. A row is labelled
    if both cells are there. Output: see `_Scores`.

    Args:
        tags: the tags; default: all of the training part.
        types: the types of relations; default: all of the training part.
        text, split: as of `Tagging`.
        threshold: probability from which a relation is predicted, or ``relation_f1``, for the one by which that is
            highest on validation; 0.5 before there is any.
        cut: the threshold that was chosen.
        d_hidden: width of the layer that scores pairs.
    """

    types: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    threshold: float | str = "relation_f1"
    cut: float | None = None
    d_hidden: int = 128

    default_metrics: ClassVar = ("relation_f1", "entity_f1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme != "bio":
            raise ConfigError(f"Task `{self.name}`: relations are between spans, so `scheme` should be bio.")
        if len(self.targets) != 2:
            raise ConfigError(
                f"Task `{self.name}` should have two target columns, tags and relations: `target: [tags, relations]`. "
                f"Found {', '.join(self.targets)}."
            )
        chosen = self.threshold == "relation_f1"
        if not chosen and (isinstance(self.threshold, str) or not 0 < self.threshold < 1):
            raise ConfigError(
                f"Task `{self.name}`: `threshold` should be between 0 and 1, or relation_f1. Found {self.threshold}."
            )

    @property
    def _level(self) -> float:
        """The probability from which a relation is predicted."""
        if not isinstance(self.threshold, str):
            return self.threshold
        return 0.5 if self.cut is None else self.cut

    def _read(self, labels: pd.DataFrame) -> tuple[list[list[str] | None], list[list[Triple] | None]]:
        """Tags and relations of each row, both or neither.

        Raises:
            DataError: a relation of a span that there is not, or of a span with itself.
        """
        tags = cells(labels[self.targets[0]], self, self.scheme)
        relations = triples(labels[self.targets[1]], self)
        for i, (own, links) in enumerate(zip(tags, relations, strict=True)):
            if own is None or links is None:
                tags[i] = relations[i] = None
                continue
            n = len(spans(own))
            for h, t, kind in links:
                if not (0 <= h < n and 0 <= t < n and h != t):
                    raise DataError(
                        f"Task `{self.name}`: column `{self.targets[1]}`, row {i}: a relation should be between two of "
                        f"the row's {n} spans, counted from 0. Found `{kind}` between {h} and {t}.",
                        i,
                    )
        return tags, relations

    def fitted(self, labels: pd.DataFrame) -> Relation:
        rows, relations = self._read(labels)
        tags = self.tags or inventory(rows, self.scheme)
        self._check(tags)
        seen = set()
        for row, links in zip(rows, relations, strict=True):
            found = spans(row or [])
            seen |= {(kind, found[h][2], found[t][2]) for h, t, kind in links or ()}
        types = self.types or tuple(sorted({kind for kind, _, _ in seen}))
        if not types:
            raise DataError(
                f"Task `{self.name}`: column `{self.targets[1]}` should have a relation in the training part. "
                "Found none."
            )
        allowed = tuple(sorted(" ".join(found) for found in seen))
        return self._replace(tags=tags, priors=shares(rows, tags), types=types, allowed=allowed)

    def encode(self, labels: pd.DataFrame) -> tuple[Ragged, Tensor]:
        """Labels -> (target, known).

        Shape:
            target: per row (tokens + relations, 3): (tag, -1, -1) of each token, (head, tail, type) of each relation.
        """
        rows, relations = self._read(labels)
        refuse_uneven(labels, rows, self)
        tags = numbered(rows, self.tags, labels[self.targets[0]], self)
        place = {kind: i for i, kind in enumerate(self.types)}
        found = []
        for i, (own, links) in enumerate(zip(tags, relations, strict=True)):
            for _, _, kind in links or ():
                if kind not in place:
                    raise DataError(
                        f"Task `{self.name}`: column `{self.targets[1]}` has the relation `{kind}` in row {i}, which "
                        f"was never seen in training. {hint(kind, self.types)}",
                        i,
                    )
            lines = [(tag, -1, -1) for tag in own.tolist()] + [(h, t, place[kind]) for h, t, kind in links or ()]
            found.append(np.array(lines, dtype=np.int64).reshape(-1, 3))
        known = torch.tensor([row is not None for row in rows], dtype=torch.bool)
        return Ragged.of(found, like=torch.empty(0, 3, dtype=torch.long)), known

    def head(self, widths: Sequence[int]) -> nn.Module:
        return _Scores(sum(widths), self.d_hidden, self._start, len(self.types), self.name)

    def _groups(self, output: Tensor) -> Tensor:
        """What tokens say about relations (..., length, relations, groups, WIDTH)."""
        return output[..., 1 + len(self.tags) :].unflatten(-1, (len(self.types), -1, WIDTH))

    def errors(self, output: Tensor, target: Ragged) -> Tensor:
        parts = [_apart(row) for row in target]
        lengths = torch.tensor([len(tags) for tags, _ in parts], dtype=torch.long, device=output.device)
        tags = torch.cat([tags for tags, _ in parts]) if parts else target.values[:, 0]
        scores = output[..., 1 : 1 + len(self.tags)]
        total = token_errors(scores, tags, lengths, self.name, output[..., 0])
        found = [spans(self.names(own.tolist())) for own, _ in parts]
        places: dict[tuple[int, int, int], list[int]] = {}
        for i, (_, links) in enumerate(parts):
            for h, t, kind in links.tolist():
                places.setdefault((i, h, t), []).append(kind)
        whole = output.reshape(-1, *output.shape[-3:])
        summed = []
        for one in whole:  # members of an ensemble
            odds, pairs = pair_scores(self._groups(one), found)
            wanted = torch.zeros_like(odds)
            for p, pair in enumerate(map(tuple, pairs.tolist())):
                wanted[p, places.get(pair, [])] = 1.0
            errors = F.binary_cross_entropy_with_logits(odds, wanted, reduction="none").sum(-1)
            summed.append(errors.new_zeros(len(parts)).index_add(0, pairs[:, 0].to(output.device), errors))
        return total + torch.stack(summed).reshape(total.shape)

    def sizes(self, target: Ragged) -> Tensor:
        counts = []
        for row in target:
            tags, _ = _apart(row)
            n = len(spans(self.names(tags.tolist())))
            counts.append(len(tags) + n * (n - 1))
        return torch.tensor(counts, dtype=torch.long, device=target.lengths.device)

    def ensemble(self, outputs: Tensor) -> Tensor:
        n = 1 + len(self.tags)
        tags = outputs[..., 1:n].log_softmax(-1).logsumexp(0)
        groups = outputs[..., n:].unflatten(-1, (len(self.types), WIDTH)).movedim(0, -2)
        return torch.cat([outputs[0, ..., :1], tags, groups.flatten(-3)], -1)

    def shown(self, output: Tensor) -> Tensor:
        return output[..., 1 : 1 + len(self.tags)].softmax(-1)

    def tuned(self, output: Any, target: Any, known: Tensor) -> Relation:
        if not isinstance(self.threshold, str) or not bool(known.any()):
            return self
        rows = known.nonzero().flatten()
        truth, own = self.truth(target[rows]), output[rows]
        metric = metrics.find(self.threshold)
        levels = [round(c, 2) for c in np.arange(LEAST, 1, 0.05).tolist()]
        values = [metric(truth, self._replace(cut=c).predict(own)).value or 0.0 for c in levels]
        return self._replace(cut=max(zip(values, (-abs(c - 0.5) for c in levels), levels, strict=True))[2])

    def rows(self, output: Tensor) -> Rows:
        tags = self.decoded(output)
        found = [spans(self.names(own.tolist())) for own in tags]
        links: list[list[tuple[int, int, int, float]]] = [[] for _ in tags]
        least = min(self._level, LEAST) if isinstance(self.threshold, str) else self._level
        for odds, pairs in pair_scores_in_parts(self._groups(output), found):
            proba = odds.double().sigmoid().cpu().numpy()
            for p, kind in zip(*np.nonzero(proba >= least), strict=True):
                i, h, t = pairs[p].tolist()
                if f"{self.types[kind]} {found[i][h][2]} {found[i][t][2]}" in self.allowed:
                    links[i].append((h, t, int(kind), float(proba[p, kind])))
        return Rows([(own.astype(np.int32), own_links) for own, own_links in zip(tags, links, strict=True)])

    def predict(self, output: Rows) -> Predicted:
        """Per row {"tags": [...], "relations": [(head, tail, type), ...], "probabilities": [...]}."""
        found = [(tags, [link for link in links if link[3] >= self._level]) for tags, links in output]
        values = [
            {
                "tags": self.names(tags),
                "relations": [(h, t, self.types[kind]) for h, t, kind, _ in links],
                "probabilities": [p for *_, p in links],
            }
            for tags, links in found
        ]
        return Predicted(objects(values))

    def truth(self, target: Ragged) -> np.ndarray:
        return objects(
            [
                {"tags": self.names(tags.tolist()), "relations": [(h, t, self.types[r]) for h, t, r in links.tolist()]}
                for tags, links in map(_apart, target)
            ]
        )

    def classes_in(self, labels: pd.DataFrame) -> Mapping[Hashable, np.ndarray]:
        tags, relations = self._read(labels)
        types = {} if self.types else rows_with((i, {(t[2],) for t in row or ()}) for i, row in enumerate(relations))
        return (self._tags_in(tags) if not self.tags else {}) | types

    def constant(self, metric: Metric, target: Ragged, known: Tensor, rows: Ragged) -> Predicted | None:
        tag = _constants.tag(target.values[target.values[:, 1] < 0, 0], self.tags)
        lengths = [len(tags) for tags, _ in map(_apart, rows)]
        return Predicted(objects([{"tags": [tag] * n, "relations": [], "probabilities": []} for n in lengths]))

    def decode(self, values: np.ndarray) -> np.ndarray:
        tags = objects([" ".join(row["tags"]) for row in values])
        relations = objects([json.dumps(_listed(row)) for row in values])
        return np.stack([tags, relations], axis=1)

    def columns(self, predicted: Predicted) -> dict[str, np.ndarray]:
        """``<name>``: the relations as JSON, each with its probability; ``<name>__tags``: the tags."""
        decoded = self.decode(np.asarray(predicted.value))
        return {self.name: decoded[:, 1], f"{self.name}__tags": decoded[:, 0]}

    def files(self, predicted: Predicted, names: Sequence[str], frame: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """``relations.json``: per row its words, their tags, and the relations between the spans they mark."""
        rows = list(np.asarray(predicted.value))
        words = self.words([row["tags"] for row in rows], frame)
        listed = [
            {"orig_id": name, "tokens": own, "tags": row["tags"], "relations": _listed(row)}
            for name, own, row in zip(names, words, rows, strict=True)
        ]
        yield "relations.json", (json.dumps(listed, ensure_ascii=False, indent=1) + "\n").encode("utf-8")

    def show(self, values: Predicted) -> list[results.Tags]:
        rows = list(np.asarray(values.value))
        return [
            results.Tags(length=len(r["tags"]), spans=tuple(spans(r["tags"])), relations=tuple(r["relations"]))
            for r in rows
        ]


def _apart(row: Tensor) -> tuple[Tensor, Tensor]:
    """The tags and the relations (n, 3) of an encoded row."""
    tokens = row[:, 1] < 0
    return row[tokens, 0], row[~tokens]


def _listed(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = [{"head": h, "tail": t, "type": kind} for h, t, kind in row["relations"]]
    for relation, proba in zip(listed, row.get("probabilities", ()), strict=False):
        relation["probability"] = round(proba, 4)
    return listed
