"""Rows of numbers and categories."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..blocks import BatchedLinear, Dropout, Named
from ..ranges import Range, between, whole, whole_log
from . import Encoder, Layout


class Embed(nn.Module):
    """Stage 0 of one table: every column as numbers, side by side.

    Numeric columns pass as they are, or through the numeric embedding; a categorical column of cardinality c is looked
    up in a table of min(c, `d_embedding`) columns, which starts as one-hot codes where c fits.

    Shape:
        {"numeric": (batch, n), "categorical": (batch, m)} -> (batch, width).
    """

    def __init__(self, layout: Layout, embedding: str, d_embedding: int) -> None:
        super().__init__()
        n = int(layout.get("numeric", 0))
        self.numbers: nn.Module | None = None
        self.width = n
        if embedding != "none" and n:
            self.numbers = _numeric_embedding(embedding, layout, d_embedding)
            self.width = n * d_embedding
        widths: dict[int, list[int]] = {}  # columns whose codes have one width share a lookup
        cards = [int(c) for c in layout.get("categorical", ())]
        for i, c in enumerate(cards):
            widths.setdefault(min(c, d_embedding), []).append(i)
        self.columns = list(widths.values())
        self.codes = nn.ModuleList(_Codes([cards[i] for i in own], d) for d, own in widths.items())
        self.width += sum(min(c, d_embedding) for c in cards)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        parts = []
        if "numeric" in x and x["numeric"].shape[-1]:
            numeric = x["numeric"]
            parts.append(numeric if self.numbers is None else self.numbers(numeric).flatten(-2))
        for own, codes in zip(self.columns, self.codes, strict=True):
            every = len(own) == x["categorical"].shape[-1]
            parts.append(codes(x["categorical"] if every else x["categorical"][..., own]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class _Codes(nn.Module):
    """Codes of several categorical columns, side by side: one-hot at the start where they fit, small random otherwise.

    Shape:
        (batch, columns) -> (batch, columns * width).
    """

    starts: Tensor

    def __init__(self, cardinalities: Sequence[int], width: int) -> None:
        super().__init__()
        self.cardinalities = list(cardinalities)
        self.weight = nn.Parameter(torch.empty(sum(cardinalities), width))
        starts = torch.tensor([0, *cardinalities[:-1]]).cumsum(0)
        self.register_buffer("starts", starts)  # all columns are looked up in one table
        self.reset_parameters()

    def reset_parameters(self) -> None:
        width = self.weight.shape[1]
        with torch.no_grad():
            for part in self.weight.split(self.cardinalities):
                if len(part) <= width:
                    part.copy_(torch.eye(len(part), width))
                else:
                    part.normal_(0, 1 / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding(x + self.starts, self.weight).flatten(-2)


def _numeric_embedding(word: str, layout: Layout, d_embedding: int) -> nn.Module:
    from rtdl_num_embeddings import PeriodicEmbeddings, PiecewiseLinearEmbeddings

    if word == "periodic":
        return PeriodicEmbeddings(int(layout["numeric"]), d_embedding, lite=False)
    bins = [torch.tensor(edges, dtype=torch.float32) for edges in layout["bins"]]
    bins = [b if len(b) >= 2 else torch.tensor([float(b[0]) - 0.5, float(b[0]) + 0.5]) for b in bins]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .* feature has just two bin edges")  # a 0/1 column has no more
        return PiecewiseLinearEmbeddings(bins, d_embedding, activation=False, version="B")


class Block(nn.Module):
    """One hidden stage: [h, x] -> [act(W [h]) (+ h), x], where x is the linear path, passed on untouched."""

    several = True

    def __init__(self, d_in: int, d_hidden: int, d_path: int, activation: str, dropout: float, residual: bool) -> None:
        super().__init__()
        self.linear = BatchedLinear(d_in, d_hidden)
        self.activation = getattr(nn, ACTIVATIONS[activation])()
        self.dropout = Dropout(dropout) if dropout else None
        self.d_path, self.residual = d_path, residual and d_in == d_hidden

    def forward(self, z: Tensor) -> Tensor:
        h, path = (z[..., : -self.d_path], z[..., -self.d_path :]) if self.d_path else (z, None)
        new = self.activation(self.linear(h))
        if self.dropout is not None:
            new = self.dropout(new)
        if self.residual:
            new = new + h
        return new if path is None else torch.cat([new, path], -1)


ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh", "selu": "SELU"}


class Tabular(Encoder):
    """An MLP over numbers and category codes.

    Stage 0 puts all columns side by side, x; stage i gives h_i = dropout(act(W_i h_{i-1} + b_i)), with h_0 = x. With
    `linear_path` stage i gives [h_i, x], so that heads see the inputs as well and every model contains the linear one.

    The defaults were chosen on small tables with missing labels (300 to 15,000 rows), together with members that hold
    out a fold each; wide, strongly regularised stages won, the linear path did not pay.

    With several tables, each has a stage 0 of its own, which ends in a linear map to `d_hidden` numbers.

    Args:
        layouts: table -> {"numeric": n, "categorical": [cardinalities], "bins": [edges per numeric column]}.
        d_hidden: width of a hidden stage.
        n_layers: hidden stages.
        activation: relu, gelu, silu, tanh or selu.
        dropout: share of hidden units left out in training.
        residual: add a stage's input to its output where the widths agree.
        embedding: ``none``, ``periodic`` (Gorishniy et al. 2022) or ``piecewise`` (piecewise-linear, the same paper).
        d_embedding: most columns of a category code; columns of a numeric embedding.
        linear_path: the heads see the inputs as well.

    Reference:
        Gorishniy, Rubachev, Babenko: On embeddings for numerical features in tabular deep learning, 2022.
    """

    search: ClassVar[Mapping[str, Range]] = {
        "d_hidden": whole_log(32, 256),
        "n_layers": whole(1, 3),
        "dropout": between(0, 0.5),
    }

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        *,
        d_hidden: int = 128,
        n_layers: int = 2,
        activation: str = "silu",
        dropout: float = 0.3,
        residual: bool = False,
        embedding: str = "none",
        d_embedding: int = 16,
        linear_path: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("activation", activation, tuple(ACTIVATIONS)),
            ("embedding", embedding, ("none", "periodic", "piecewise")),
        ):
            if value not in known:
                raise ValueError(f"`{name}` should be one of {', '.join(known)}. Found `{value}`.")
        if d_hidden < 1 or n_layers < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "`d_hidden` should be at least 1, `n_layers` at least 0 and `dropout` in [0, 1). "
                f"Found {d_hidden}, {n_layers}, {dropout}."
            )
        entrances: dict[str, Any] = {t: Embed(layout, embedding, d_embedding) for t, layout in layouts.items()}
        if not all(e.width for e in entrances.values()):
            raise ValueError("An encoder needs at least one feature column per table. Found none.")
        width = next(iter(entrances.values())).width
        if len(entrances) > 1:
            width = d_hidden
            entrances = {t: nn.Sequential(e, nn.Linear(e.width, width)) for t, e in entrances.items()}
        first = Named(entrances) if len(entrances) > 1 else next(iter(entrances.values()))
        d_path = width if linear_path and n_layers else 0
        blocks = [
            First(width, d_hidden, d_path, activation, dropout)
            if i == 0
            else Block(d_hidden, d_hidden, d_path, activation, dropout, residual)
            for i in range(n_layers)
        ]
        self.stages = nn.ModuleList([first, *blocks])
        self.widths = [width, *[d_hidden + d_path] * n_layers]


class First(Block):
    """The first hidden stage: its input x is also the linear path."""

    def __init__(self, d_in: int, d_hidden: int, d_path: int, activation: str, dropout: float) -> None:
        super().__init__(d_in, d_hidden, d_path, activation, dropout, residual=False)

    def forward(self, z: Tensor) -> Tensor:
        new = self.activation(self.linear(z))
        if self.dropout is not None:
            new = self.dropout(new)
        return torch.cat([new, z], -1) if self.d_path else new


class Linear(Tabular):
    """No hidden stage: the heads read the columns themselves, and the model is linear.

    Args:
        layouts: as for `Tabular`.
        d_embedding: most columns of a category code.
    """

    search: ClassVar[Mapping[str, Range]] = {}

    def __init__(self, layouts: Mapping[str, Layout], *, d_embedding: int = 64) -> None:
        super().__init__(layouts, n_layers=0, d_embedding=d_embedding)
