"""Rows of words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..blocks import Dropout, Named
from ..ragged import Ragged
from ..ranges import Range, between, choice
from . import Encoder, Layout
from .tabular import Embed

Sequence = tuple[Tensor, Tensor]
"""Values (batch, length, d) and a mask (batch, length), True where there is a token."""
UNKNOWN = 1


class _Lookup(nn.Embedding):
    """An embedding that starts small, so that what a model learns soon outgrows it; number 0 stays 0."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__(n, width, padding_idx=0)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.normal_(0, 0.1)
            self.weight[0] = 0


class Words(nn.Module):
    """Stage 0 of one table: the tokens of its text columns, one column after the other.

    A token is [e(word), mean of e(parts), e(case)], and with several columns a learned vector of its column is added.
    Numbers and categories of the row, where there are any, are added to each of its tokens through a linear map.

    Shape:
        {"text:<column>": Ragged (batch, tokens, 2 + parts)} -> (batch, length, width) and its mask.
    """

    def __init__(
        self, layout: Layout, d_word: int, d_parts: int, d_case: int, dropout: float, word_dropout: float, place: bool
    ) -> None:
        super().__init__()
        self.columns = [key for key in layout if key.startswith("text:")]
        own = [layout[key] for key in self.columns]
        self.words = nn.ModuleList(_Lookup(int(x["words"]), d_word) for x in own)
        self.parts = nn.ModuleList(_Lookup(int(x["buckets"]), d_parts) for x in own if d_parts)
        self.cases = nn.ModuleList(_Lookup(int(x["cases"]), d_case) for x in own if d_case)
        self.width = d_word + d_parts + d_case
        self.which = nn.Parameter(torch.zeros(len(own), self.width)) if len(own) > 1 else None
        self.others = Embed(layout, "none", 16) if layout.get("numeric") or layout.get("categorical") else None
        self.linear = nn.Linear(self.others.width, self.width) if self.others is not None else None
        self.dropout = Dropout(dropout) if dropout else None
        self.word_dropout, self.place = word_dropout, place

    def forward(self, x: Mapping[str, Any]) -> Sequence:
        found = [self._column(i, x[key]) for i, key in enumerate(self.columns)]
        if len(found) == 1:
            values, mask = found[0]
        else:
            values, mask = _one_after_the_other(found)
        if self.others is not None and self.linear is not None:
            values = values + self.linear(self.others(x)).unsqueeze(1)
        if self.place:
            values = values + _waves(values.shape[1], self.width, values)
        values = values * mask.unsqueeze(-1)
        return (values if self.dropout is None else self.dropout(values)), mask

    def _column(self, i: int, rows: Ragged) -> Sequence:
        tokens, mask = rows.padded()
        word = tokens[..., 0]
        if self.training and self.word_dropout:
            word = torch.where(
                torch.rand(word.shape, device=word.device) < self.word_dropout, word.clamp(max=UNKNOWN), word
            )
        values = [self.words[i](word)]
        if len(self.parts):
            parts = tokens[..., 2:]
            weight: Any = self.parts[i].weight
            embedded = F.embedding_bag(parts.flatten(0, 1), weight, mode="mean", padding_idx=0)
            values.append(embedded.unflatten(0, word.shape) * math.sqrt(parts.shape[-1]))
        if len(self.cases):
            values.append(self.cases[i](tokens[..., 1]))
        joined = torch.cat(values, -1)
        return (joined if self.which is None else joined + self.which[i]), mask


def _one_after_the_other(parts: list[Sequence]) -> Sequence:
    """Sequences of one row joined without gaps, in order."""
    values, mask = torch.cat([v for v, _ in parts], 1), torch.cat([m for _, m in parts], 1)
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
    longest = max(int(mask.sum(1).max()), 1)
    order = order[:, :longest]
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1])), mask.gather(1, order)


def _waves(length: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of each place (length, width) (Vaswani et al.: Attention is all you need, 2017)."""
    place = torch.arange(length, dtype=like.dtype, device=like.device).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=like.dtype, device=like.device) * (-math.log(1e4) / width))
    waves = torch.zeros(length, width, dtype=like.dtype, device=like.device)
    waves[:, 0::2], waves[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate[: width // 2])
    return 0.1 * waves


class Recurrent(nn.Module):
    """One hidden stage: a GRU from the left and one from the right, side by side; padding is not read.

    Reference:
        Cho et al.: Learning phrase representations using RNN encoder-decoder, 2014.
    """

    def __init__(self, d_in: int, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(d_in, d_hidden // 2, batch_first=True, bidirectional=True)
        self.dropout = Dropout(dropout) if dropout else None

    def forward(self, z: Sequence) -> Sequence:
        values, mask = z
        lengths = mask.sum(1).clamp(min=1).cpu()  # a row without a token is read as one of zeros, and blanked below
        packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        new, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=values.shape[1])
        new = new * mask.unsqueeze(-1)
        return (new if self.dropout is None else self.dropout(new)), mask


class Attention(nn.Module):
    """One hidden stage: attention between tokens and a small net, each added to its normalised input.

    Reference:
        Xiong et al.: On layer normalization in the transformer architecture, 2020 (normalisation first).
    """

    def __init__(self, d_in: int, d_hidden: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Linear(d_in, d_hidden) if d_in != d_hidden else nn.Identity()
        self.norms = nn.ModuleList([nn.LayerNorm(d_hidden), nn.LayerNorm(d_hidden)])
        self.mix, self.out = nn.Linear(d_hidden, 3 * d_hidden), nn.Linear(d_hidden, d_hidden)
        self.up, self.down = nn.Linear(d_hidden, 2 * d_hidden), nn.Linear(2 * d_hidden, d_hidden)
        self.n_heads, self.dropout = n_heads, Dropout(dropout)

    def forward(self, z: Sequence) -> Sequence:
        values, mask = z
        values = self.enter(values)
        parts = self.mix(self.norms[0](values)).unflatten(-1, (3, self.n_heads, -1)).movedim(-3, 0)
        q, k, v = (part.transpose(1, 2) for part in parts)
        seen = mask.clone()
        seen[:, 0] = True  # somebody must be seen where there is no token
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen[:, None, None, :], -torch.inf)
        mixed = scores.softmax(-1) @ v  # torch's own attention cannot be mapped over copies (`vmap`)
        values = values + self.dropout(self.out(mixed.transpose(1, 2).flatten(-2)))
        values = values + self.dropout(self.down(F.gelu(self.up(self.norms[1](values)))))
        return values * mask.unsqueeze(-1), mask


class Text(Encoder):
    """Sentences, read from scratch: words, what they are made of, and what stands around them.

    Stage 0 looks words up (`Words`); every later stage gives each token what it sees around it (`Recurrent` or
    `Attention`). All stages give sequences; heads that eat a vector see the mean over tokens, 0 where there is none.
    Several text columns of a row are read one after the other, and labels per token belong to the words of all.
    Numbers and categories of the row are added to every token, so that a row without one has none of them: where texts
    are missing, `fused` keeps them apart.

    With several tables, each has a stage 0, and so a vocabulary, of its own; tables whose columns have the same names
    have one in common.

    Args:
        layouts: table -> {"text:<column>": {"words": n, "buckets": n, "cases": n, "parts": n}, ...}.
        d_word, d_parts, d_case: widths of what a token is made of; 0 leaves parts or case out.
        d_hidden: width of a later stage.
        n_layers: later stages.
        cell: ``gru`` or ``attention``.
        n_heads: of attention.
        dropout: share of units left out in training, after every stage.
        word_dropout: share of words that training reads as unknown, so that their parts and neighbours must do.

    Raises:
        ValueError: a table without a text, or a width that does not fit.
    """

    alone: ClassVar[str] = "words are packed by the length of each row"
    search: ClassVar[Mapping[str, Range]] = {
        "d_hidden": choice(96, 192, 256, 384),
        "dropout": between(0, 0.5),
        "word_dropout": between(0, 0.3),
    }

    @classmethod
    def covers(cls, layout: Layout) -> bool:
        return all(key.startswith("text:") for key in layout if ":" in key)

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        *,
        d_word: int = 96,
        d_parts: int = 96,
        d_case: int = 8,
        d_hidden: int = 192,
        n_layers: int = 1,
        cell: str = "gru",
        n_heads: int = 4,
        dropout: float = 0.3,
        word_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if cell not in ("gru", "attention"):
            raise ValueError(f"`cell` should be gru or attention. Found `{cell}`.")
        if d_word < 1 or min(d_parts, d_case, n_layers) < 0 or not (0 <= dropout < 1 and 0 <= word_dropout < 1):
            raise ValueError(
                "`d_word` should be at least 1, `d_parts`, `d_case` and `n_layers` at least 0, `dropout` and "
                f"`word_dropout` in [0, 1). Found {d_word}, {d_parts}, {d_case}, {n_layers}, {dropout}, {word_dropout}."
            )
        share = 2 if cell == "gru" else n_heads
        if d_hidden < share or d_hidden % share:
            raise ValueError(f"`d_hidden` should be a multiple of {share} with {cell}. Found {d_hidden}.")
        for table, layout in layouts.items():
            if not any(key.startswith("text:") for key in layout):
                raise ValueError(
                    f"Table `{table}` should have a text column for this encoder. Found none; declare it under "
                    "`features.types`, as `{review: text}`."
                )
        entrances = {
            table: Words(layout, d_word, d_parts, d_case, dropout, word_dropout, cell == "attention")
            for table, layout in layouts.items()
        }
        first = next(iter(entrances.values()))
        widths = [first.width, *[d_hidden] * n_layers]
        later = [
            Recurrent(d_in, d_hidden, dropout) if cell == "gru" else Attention(d_in, d_hidden, n_heads, dropout)
            for d_in in widths[:-1]
        ]
        self.stages = nn.ModuleList([Named(entrances) if len(entrances) > 1 else first, *later])
        self.widths = widths
