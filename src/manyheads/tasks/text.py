"""Labels inside a sentence: a tag per token, and relations between spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .. import results
from ..catalog import hint
from ..faults import ConfigError, DataError
from ..metrics import Metric, Predicted
from ..metrics.spans import bio, spans
from ..ragged import Ragged, Rows, objects
from . import Self, Task, _constants, rows_with
from ._words import of_words, refuse_uneven

if TYPE_CHECKING:
    import pandas as pd

SCHEMES = ("bio", "none")


def _missing(value: Any) -> bool:
    return value is None or not isinstance(value, (str, list, tuple, np.ndarray, Mapping))


def cells(series: pd.Series, task: Task, scheme: str) -> list[list[str] | None]:
    """A column of tags, each cell a list or a text with spaces between tags; None where it is missing.

    Raises:
        DataError: a tag that is no text, or of no scheme that is known.
    """
    found: list[list[str] | None] = []
    for row, value in enumerate(series.array):
        if _missing(value):
            found.append(None)
            continue
        tags = value.split() if isinstance(value, str) else list(value)
        if any(tag is None for tag in tags):
            found.append(None)
            continue
        try:
            if not all(isinstance(tag, str) for tag in tags):
                raise ValueError(f"A tag should be a text. Found {next(t for t in tags if not isinstance(t, str))!r}.")
            found.append(bio(tags) if scheme == "bio" else tags)
        except ValueError as error:
            raise DataError(f"Task `{task.name}`: column `{series.name}`, row {row}: {error}", row) from None
    return found


def inventory(rows: Sequence[list[str] | None], scheme: str) -> tuple[str, ...]:
    """All tags that may be predicted: O first and, for each type, its B and its I; or the tags as they are."""
    seen = {tag for row in rows if row is not None for tag in row}
    if scheme == "none":
        return tuple(sorted(seen))
    return ("O", *(f"{letter}-{kind}" for kind in sorted({t[2:] for t in seen if t != "O"}) for letter in "BI"))


def shares(rows: Sequence[list[str] | None], tags: Sequence[str]) -> tuple[float, ...]:
    """The share of each tag among all tokens, a half added to each count."""
    counts = Counter(tag for row in rows if row is not None for tag in row)
    total = sum(counts.values()) + 0.5 * len(tags)
    return tuple((counts[tag] + 0.5) / total for tag in tags)


def viterbi(scores: Tensor, mask: Tensor, tags: Sequence[str], scheme: str) -> list[np.ndarray]:
    """The best tags of each sentence in which an ``I-`` only follows a ``B-`` or ``I-`` of its type.

    max over legal t_1 ... t_n of sum_i scores[i, t_i]. Only an ``I-X`` minds what is before it, so a step costs as much
    as there are tags, not their square.

    Shape:
        scores (rows, length, tags), mask (rows, length) -> per row (its tokens,).

    Args:
        tags: the names, as `inventory` orders them.
    """
    length = scores.shape[1]
    sizes = mask.sum(1).tolist()
    if scheme == "none" or not length:
        best = scores.argmax(-1).cpu().numpy()
        return [best[i, :k] for i, k in enumerate(sizes)]
    scores, mask = scores.double(), mask.bool()
    inside = torch.tensor([i for i, t in enumerate(tags) if t.startswith("I-")], dtype=torch.long, device=scores.device)
    total = scores[:, 0].clone()
    total[:, inside] = -torch.inf
    came = []
    for i in range(1, length):
        top, where = total.max(1)
        before = top.unsqueeze(1).expand_as(total).clone()
        origin = where.unsqueeze(1).expand_as(total).clone()
        begin, go_on = total[:, inside - 1], total[:, inside]
        before[:, inside] = torch.maximum(begin, go_on)
        origin[:, inside] = torch.where(go_on > begin, inside, inside - 1)
        there = mask[:, i].unsqueeze(1)
        total = torch.where(there, before + scores[:, i], total)
        came.append(torch.where(there, origin, torch.arange(len(tags), device=scores.device)))
    path = [total.argmax(1)]
    for origin in reversed(came):
        path.append(origin.gather(1, path[-1].unsqueeze(1)).squeeze(1))
    best = torch.stack(path[::-1], 1).cpu().numpy()
    return [best[i, :k] for i, k in enumerate(sizes)]


class _Tokens(nn.Module):
    """Per token its mask and the scores of its tags: a sequence of width `d_in` -> (batch, length, 1 + tags)."""

    def __init__(self, d_in: int, start: Sequence[float], task: str) -> None:
        super().__init__()
        self.start, self.task = tuple(start), task
        self.linear = nn.Linear(d_in, len(start))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            nn.init.normal_(self.linear.weight, std=0.02)
            self.linear.bias.copy_(torch.tensor(self.start))

    def forward(self, read: Any) -> Tensor:
        values, mask = sequence(read, self.task)
        return torch.cat([mask.unsqueeze(-1).to(values.dtype), self.linear(values)], -1)


def sequence(read: Any, task: str) -> tuple[Tensor, Tensor]:
    """What a head reads, from one stage or several, as values (batch, length, d) and a mask (batch, length).

    Raises:
        ConfigError: it is no sequence.
    """
    parts = read if isinstance(read, list) else [read]
    if not all(isinstance(part, tuple) for part in parts):
        raise ConfigError(
            f"Task `{task}` should read a sequence of tokens. Found features without tokens; choose an encoder such "
            "as `text`, and a sharing scheme and stage that keep them."
        )
    return torch.cat([part[0] for part in parts], -1), parts[0][1]


def token_errors(scores: Tensor, tags: Tensor, lengths: Tensor, task: str, mask: Tensor) -> Tensor:
    """The cross-entropies of each row's tokens, summed.

    Shape:
        scores (..., rows, length, tags), tags (total,), lengths (rows,) -> (..., rows).

    Raises:
        DataError: a labelled row has more or fewer tags than tokens.
    """
    counted = mask.reshape(-1, *mask.shape[-2:])[0].sum(-1).round().long()
    wrong = (lengths > 0) & (lengths != counted)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise DataError(
            f"Task `{task}`: a row should have as many tags as tokens. Found {int(lengths[i])} tags and "
            f"{int(counted[i])} tokens; give the tokens as a list, or declare the column "
            "{type: text, split: spaces}. Several columns of text are read one after the other: leave out those whose "
            "words have no tags."
        )
    there = torch.arange(scores.shape[-2], device=scores.device) < lengths.unsqueeze(1)
    logp = scores[..., there, :].log_softmax(-1)
    errors = -logp.gather(-1, tags.expand(logp.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    row = torch.arange(len(lengths), device=scores.device).repeat_interleave(lengths)
    return errors.new_zeros(*errors.shape[:-1], len(lengths)).index_add(-1, row, errors)


def numbered(rows: Sequence[list[str] | None], tags: Sequence[str], series: pd.Series, task: Task) -> list[np.ndarray]:
    """Tags as numbers; a missing row has none.

    Raises:
        DataError: a tag never seen in training.
    """
    place = {tag: i for i, tag in enumerate(tags)}
    for i, row in enumerate(rows):
        for tag in row or ():
            if tag not in place:
                raise DataError(
                    f"Task `{task.name}`: column `{series.name}` has the tag `{tag}` in row {i}, which was never seen "
                    f"in training. {hint(tag, tags)}",
                    i,
                )
    return [np.array([place[tag] for tag in row or ()], dtype=np.int64) for row in rows]


@dataclass(frozen=True)
class _Tagged(Task):
    """What tasks with a tag per token have in common."""

    tags: tuple[str, ...] = ()
    priors: tuple[float, ...] = ()
    scheme: str = "bio"
    text: str | None = None
    split: str | None = None

    losses: ClassVar = ("log_loss",)
    eats: ClassVar = "sequence"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(
                f"Task `{self.name}`: `scheme` should be bio or none. Found `{self.scheme}`; tags of BILOU and BIOES "
                "are read under bio."
            )
        super().__post_init__()

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.text is None else (self.text,)

    def beside(self: Self, inputs: Mapping[str, Mapping[str, Any]]) -> Self:
        return self._replace(**of_words(self, inputs))

    def _check(self, tags: Sequence[str]) -> None:
        if len(tags) < 2:
            raise DataError(
                f"Task `{self.name}`: column `{self.targets[0]}` should have two tags or more in the training part. "
                f"Found {'only ' + repr(tags[0]) if tags else 'no tag'}."
            )

    @property
    def _start(self) -> list[float]:
        n = max(len(self.tags), 1)
        return np.log(self.priors or [1 / n] * n).tolist()

    def blanked(self, output: Tensor, known: Tensor) -> Tensor:
        return output  # `errors` reads the tokens of labelled rows alone

    def _tags_in(self, rows: Sequence[list[str] | None]) -> dict[Hashable, np.ndarray]:
        """Type of span, or tag -> the rows that have it."""
        if self.scheme == "none":
            return rows_with((i, row or ()) for i, row in enumerate(rows))
        return rows_with((i, [t[2:] for t in row or () if t != "O"]) for i, row in enumerate(rows))

    def decoded(self, output: Tensor) -> list[np.ndarray]:
        """The tags of each row, as numbers."""
        scores = output[..., 1 : 1 + len(self.tags)]
        return viterbi(scores.log_softmax(-1), output[..., 0] > 0.5, self.tags, self.scheme)

    def names(self, found: Sequence[int]) -> list[str]:
        """Tags by name."""
        return [self.tags[i] for i in found]

    def words(self, rows: Sequence[Sequence[str]], frame: pd.DataFrame) -> list[list[str]]:
        """The words that rows of tags belong to: those of the first column with as many.

        Args:
            frame: texts are lists of words.

        Raises:
            DataError: there is no such column.
        """
        for name in frame.columns:
            cells = list(frame[name])
            if all(isinstance(cell, list) and len(cell) == len(row) for cell, row in zip(cells, rows, strict=True)):
                return cells
        raise DataError(
            f"Task `{self.name}`: tags should belong to the words of a column. Found no column of texts with as many."
        )


@dataclass(frozen=True)
class Tagging(_Tagged):
    """A tag for every token: names of people and places, slots of a command, parts of speech.

    Error: -log p of each token's tag, softmax over tags. Prediction: the likeliest sequence of tags that is legal.

    A label is a list of tags, or a text with spaces between them; a cell that is missing, or a list with a null in it,
    is no label. Output (batch, length, 1 + tags): 1 where there is a token, and the tags' scores.

    Args:
        scheme: ``bio`` where tags mark spans (BILOU and BIOES are turned into it): predictions are legal, and the score
            is entity F1; ``none`` where each stands for itself: the score is token accuracy.
        tags: the tags; default: all of the training part and, under bio, both B and I of each type.
        text: the column with the words, the only one of texts by default: a row that has not as many is refused.
        split: how a text is cut into words; by default as that column is.
    """

    default_metrics: ClassVar = ("entity_f1", "token_accuracy")

    def __post_init__(self) -> None:
        if self.scheme == "none" and not self.metrics:
            object.__setattr__(self, "metrics", ("token_accuracy",))
        super().__post_init__()

    def _column(self, labels: pd.DataFrame) -> pd.Series:
        if len(self.targets) != 1:
            raise ConfigError(f"Task `{self.name}` should have one target column. Found {', '.join(self.targets)}.")
        return labels[self.targets[0]]

    def fitted(self, labels: pd.DataFrame) -> Tagging:
        rows = cells(self._column(labels), self, self.scheme)
        tags = self.tags or inventory(rows, self.scheme)
        self._check(tags)
        return self._replace(tags=tags, priors=shares(rows, tags))

    def encode(self, labels: pd.DataFrame) -> tuple[Ragged, Tensor]:
        series = self._column(labels)
        rows = cells(series, self, self.scheme)
        refuse_uneven(labels, rows, self)
        like = torch.empty(0, dtype=torch.long)
        return (
            Ragged.of(numbered(rows, self.tags, series, self), like=like),
            torch.tensor([row is not None for row in rows], dtype=torch.bool),
        )

    def head(self, widths: Sequence[int]) -> nn.Module:
        return _Tokens(sum(widths), self._start, self.name)

    def errors(self, output: Tensor, target: Ragged) -> Tensor:
        return token_errors(output[..., 1:], target.values, target.lengths, self.name, output[..., 0])

    def sizes(self, target: Ragged) -> Tensor:
        return target.lengths

    def ensemble(self, outputs: Tensor) -> Tensor:
        return torch.cat([outputs[0, ..., :1], outputs[..., 1:].log_softmax(-1).logsumexp(0)], -1)

    def shown(self, output: Tensor) -> Tensor:
        return output[..., 1:].softmax(-1)

    def rows(self, output: Tensor) -> Rows:
        return Rows([found.astype(np.int32) for found in self.decoded(output)])

    def predict(self, output: Rows) -> Predicted:
        return Predicted(objects([self.names(row) for row in output]))

    def truth(self, target: Ragged) -> np.ndarray:
        return objects([self.names(row.tolist()) for row in target])

    def classes_in(self, labels: pd.DataFrame) -> Mapping[Hashable, np.ndarray]:
        return {} if self.tags else self._tags_in(cells(self._column(labels), self, self.scheme))

    def constant(self, metric: Metric, target: Ragged, known: Tensor, rows: Ragged) -> Predicted | None:
        tag = _constants.tag(target.values, self.tags)
        return Predicted(objects([[tag] * n for n in rows.lengths.tolist()]))

    def decode(self, values: np.ndarray) -> np.ndarray:
        return objects([" ".join(row) for row in values])

    def files(self, predicted: Predicted, names: Sequence[str], frame: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """``tagged.conll``: a line per word, with its tag after a tab, and ``# sent_id = name`` before each row."""
        rows = list(np.asarray(predicted.value))
        blocks = [
            [
                f"# sent_id = {name}",
                *(f"{' '.join(word.split())}\t{tag}" for word, tag in zip(words, tags, strict=True)),
            ]
            for name, words, tags in zip(names, self.words(rows, frame), rows, strict=True)
        ]
        yield "tagged.conll", "".join("\n".join(block) + "\n\n" for block in blocks).encode("utf-8")

    def show(self, values: Predicted) -> list[results.Tags]:
        rows = list(np.asarray(values.value))
        every = self.scheme == "none"
        found = [[(i, i + 1, tag) for i, tag in enumerate(row)] if every else spans(row) for row in rows]
        return [results.Tags(length=len(row), spans=tuple(own)) for row, own in zip(rows, found, strict=True)]
