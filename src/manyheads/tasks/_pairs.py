"""How likely a relation is between two spans of a sentence: every pair, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..metrics.spans import Span

RANK = 16
"""Factors of the product of head and tail, per relation type."""
CLUES = 4
"""Clues between two spans per relation type: for and against it, with the head first and with the tail first."""
WIDTH = 2 * RANK + 2 + CLUES
"""Numbers per token and relation type: factors as head and as tail, a score as each, clues."""
MOST = 10_000
"""Pairs whose scores are worked out at a time where no gradient is asked for: a long document has millions of them."""


def pair_scores(values: Tensor, found: Sequence[Sequence[Span]]) -> tuple[Tensor, Tensor]:
    r"""The log odds of every relation type between all ordered pairs of spans of each sentence.

    .. math:: s_r(h, t) = <H_r(h), T_r(t)> / \sqrt{rank} + a_r(h) + b_r(t) + \max_i c_r(i) - \max_i d_r(i) - 2

    where the numbers of a span are the largest over its tokens and i are the tokens between both; the clues c for and d
    against the relation are others where the tail comes first. Most pairs have no relation, hence -2.

    Shape:
        values (rows, length, relations, groups, WIDTH) -> (pairs, relations), and (row, head, tail) of each pair
        (pairs, 3), in this order. Several groups are members of an ensemble, whose mean counts.

    Args:
        found: the spans of each row.

    Reference:
        Eberts, Ulges: Span-based joint entity and relation extraction with transformer pre-training (SpERT), 2020: the
        largest values over spans and over what is between them, linear scores of head, tail and context.
        Dozat, Manning: Deep biaffine attention for neural dependency parsing, 2017: the product.
    """
    parts = list(pair_scores_in_parts(values, found, None))
    odds = torch.cat([odds for odds, _ in parts]) if parts else values.new_zeros(0, values.shape[2])
    return odds, torch.cat([torch.zeros(0, 3, dtype=torch.long), *(pairs for _, pairs in parts)])


def pair_scores_in_parts(
    values: Tensor, found: Sequence[Sequence[Span]], most: int | None = MOST
) -> Iterator[tuple[Tensor, Tensor]]:
    """What `pair_scores` gives, a part of the pairs at a time.

    Args:
        most: pairs at a time, and more only where one head has more; None for all.
    """
    length, device = values.shape[1], values.device
    flat = values.flatten(0, 1)
    starts = torch.tensor([i * length + s[0] for i, row in enumerate(found) for s in row], dtype=torch.long)
    stops = torch.tensor([i * length + s[1] for i, row in enumerate(found) for s in row], dtype=torch.long)
    of_span = pooled(flat[..., : 2 * RANK + 2], starts.to(device), stops.to(device))
    clues = Largest(flat[..., -CLUES:], length)
    for heads, tails, where in _pairs(found, most):
        low = torch.minimum(stops[heads], stops[tails])
        high = torch.maximum(torch.maximum(starts[heads], starts[tails]), low)
        forward = (starts[heads] < starts[tails]).to(device)
        h, t = of_span[heads.to(device)], of_span[tails.to(device)]
        between = clues.within(low.to(device), high.to(device))
        product = (h[..., :RANK] * t[..., RANK : 2 * RANK]).sum(-1) / RANK**0.5
        clue = torch.where(forward[:, None, None], between[..., 0] - between[..., 1], between[..., 2] - between[..., 3])
        yield (product + h[..., -2] + t[..., -1] + clue).mean(-1) - 2, where


def _pairs(found: Sequence[Sequence[Span]], most: int | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ordered pairs of different spans of one row: the head and the tail among all spans (pairs,), and (row, head,
    tail) of each (pairs, 3)."""
    sizes = torch.tensor([len(row) for row in found], dtype=torch.long)
    row = torch.arange(len(sizes)).repeat_interleave(sizes)  # of each span
    if not len(row):
        return
    first = (sizes.cumsum(0) - sizes)[row]  # span of its row
    partners = sizes[row]
    total = partners.cumsum(0)
    start = 0
    while start < len(row):
        stop = len(row)
        if most is not None:
            before = int(total[start - 1]) if start else 0
            stop = max(int(torch.searchsorted(total, before + most, right=True)), start + 1)
        counts = partners[start:stop]
        heads = torch.arange(start, stop).repeat_interleave(counts)
        tails = first[heads] + torch.arange(len(heads)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        other = heads != tails
        heads, tails = heads[other], tails[other]
        if len(heads):
            yield heads, tails, torch.stack([row[heads], heads - first[heads], tails - first[heads]], 1)
        start = stop


def pooled(values: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """The largest of each number over ranges of rows; 0 over an empty one.

    Shape:
        values (tokens, ...), start and stop (ranges,) -> (ranges, ...).
    """
    lengths = stop - start
    which = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    tokens = (start - first).repeat_interleave(lengths) + torch.arange(int(lengths.sum()), device=values.device)
    picked = values[tokens]
    index = which.reshape(-1, *[1] * (values.dim() - 1)).expand_as(picked)
    empty = values.new_zeros(len(lengths), *values.shape[1:])
    return empty.scatter_reduce(0, index, picked, "amax", include_self=False)


class Largest:
    """The largest of each number over many ranges of rows, as `pooled` has it, in a memory that does not grow with
    their lengths: level k holds the largest of every 2^k rows in a line, and two of them cover any range.

    Args:
        values: (tokens, ...).
        longest: no range is longer.
    """

    def __init__(self, values: Tensor, longest: int) -> None:
        self.levels = [values]
        while 2 ** len(self.levels) <= min(longest, len(values)):
            last, half = self.levels[-1], 2 ** (len(self.levels) - 1)
            self.levels.append(torch.maximum(last[:-half], last[half:]))

    def within(self, start: Tensor, stop: Tensor) -> Tensor:
        """(ranges,), (ranges,) -> (ranges, ...); 0 over an empty one."""
        lengths = stop - start
        found = self.levels[0].new_zeros(len(lengths), *self.levels[0].shape[1:])
        for k, level in enumerate(self.levels):
            own = ((lengths >= 2**k) & (lengths < 2 ** (k + 1))).nonzero().flatten()
            if len(own):
                largest = torch.maximum(level[start[own]], level[stop[own] - 2**k])
                found = found.index_copy(0, own, largest)
        return found
