"""Rows of ids: users, films, shops, and what is known about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..blocks import Dropout, Named
from ..ranges import Range, between, whole, whole_log
from . import Encoder, Layout
from .tabular import ACTIVATIONS, Block, First


class Fields(nn.Module):
    r"""Stage 0 of one table: [numbers, v_1, ..., v_m, p], where v_f is the vector of categorical column f's value and

    .. math:: p = \sum_{f < g} v_f * v_g = ((\sum_f v_f)^2 - \sum_f v_f^2) / 2

    (elementwise), over the categorical columns and the numbers alike; a number x has the vector x u, with a learned u.

    Shape:
        {"numeric": (batch, n), "categorical": (batch, m)} -> (batch, n + (m + 1) d).

    Args:
        layout: of the table.
        d: width of a vector.
        dropout: share of the entries of v that are left out in training, the same before and within the products.
        start: sd of the entries of v at the start.
    """

    starts: Tensor

    def __init__(self, layout: Layout, d: int, dropout: float, start: float) -> None:
        super().__init__()
        cards = [int(c) for c in layout.get("categorical", ())]
        n = int(layout.get("numeric", 0))
        self.sd, self.width = start, n + (len(cards) + 1) * d if n or cards else 0
        self.values = nn.Parameter(torch.empty(sum(cards), d)) if cards else None
        self.numbers = nn.Parameter(torch.empty(n, d)) if n else None
        self.register_buffer("starts", torch.tensor([0, *cards[:-1]]).cumsum(0))  # all columns share one table
        self.dropout = Dropout(dropout) if dropout else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.values, self.numbers):
            if weight is not None:
                nn.init.normal_(weight, 0, self.sd)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        parts: list[Tensor] = []
        total: Any = 0.0
        squares: Any = 0.0
        if self.numbers is not None:
            numeric = x["numeric"]
            parts.append(numeric)
            total = total + numeric @ self.numbers
            squares = squares + numeric.square() @ self.numbers.square()
        if self.values is not None:
            vectors = nn.functional.embedding(x["categorical"] + self.starts, self.values)
            if self.dropout is not None:
                vectors = self.dropout(vectors)
            parts.append(vectors.flatten(-2))
            total = total + vectors.sum(-2)
            squares = squares + vectors.square().sum(-2)
        return torch.cat([*parts, (total * total - squares) / 2], -1)


class Factorised(Encoder):
    """Products of ids beside an MLP: what a recommender reads.

    Stage 0 gives every value of every column a vector of its own and adds the products of all pairs; the heads read
    that stage as well as the last hidden one. A head is thus, for each task, a bias per user and per film, weighted
    products of user and film (a factorisation machine whose vectors all tasks share), and a network over all of it. Ids
    are columns of type ``categorical``; those that are rare in training share one vector.

    Args:
        layouts: as for `Tabular`.
        d_hidden, n_layers, activation, residual: as for `Tabular`.
        dropout: share of hidden units left out in training.
        d_embedding: width of the vector of a value.
        d_dropout: share of the vectors' entries left out in training.
        start: sd of the vectors' entries at the start.

    Reference:
        Rendle: Factorization machines, 2010. Guo, Tang, Ye, Li, He: DeepFM: a factorization-machine based neural
        network for CTR prediction, 2017.

    Differs from the paper:
        no scalar weight per value: the heads weigh the vectors themselves; several tasks weigh one set of vectors.
    """

    search: ClassVar[Mapping[str, Range]] = {
        "d_hidden": whole_log(16, 256),
        "n_layers": whole(0, 2),
        "d_embedding": whole_log(4, 32),
        "dropout": between(0, 0.5),
        "d_dropout": between(0, 0.6),
    }

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        *,
        d_hidden: int = 64,
        n_layers: int = 1,
        activation: str = "silu",
        dropout: float = 0.3,
        residual: bool = False,
        d_embedding: int = 16,
        d_dropout: float = 0.4,
        start: float = 0.1,
    ) -> None:
        if not 0 <= d_dropout < 1 or not 0 < start < math.inf or d_embedding < 1:
            raise ValueError(
                "`d_dropout` should be in [0, 1), `start` above 0 and `d_embedding` at least 1. "
                f"Found {d_dropout}, {start}, {d_embedding}."
            )
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"`activation` should be one of {', '.join(ACTIVATIONS)}. Found `{activation}`.")
        if d_hidden < 1 or n_layers < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "`d_hidden` should be at least 1, `n_layers` at least 0 and `dropout` in [0, 1). "
                f"Found {d_hidden}, {n_layers}, {dropout}."
            )
        entrances: dict[str, Any] = {t: Fields(own, d_embedding, d_dropout, start) for t, own in layouts.items()}
        if not all(e.width for e in entrances.values()):
            raise ValueError("An encoder needs at least one feature column per table. Found none.")
        width = next(iter(entrances.values())).width
        if len(entrances) > 1:
            width = d_hidden
            entrances = {t: nn.Sequential(e, nn.Linear(e.width, width)) for t, e in entrances.items()}
        first = Named(entrances) if len(entrances) > 1 else next(iter(entrances.values()))
        hidden = [
            First(width, d_hidden, width, activation, dropout)
            if i == 0
            else Block(d_hidden, d_hidden, width, activation, dropout, residual)
            for i in range(n_layers)
        ]
        self.stages = nn.ModuleList([first, *hidden])
        self.widths = [width, *[d_hidden + width] * n_layers]
