"""Rows of several kinds of input: a text, a picture and numbers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..blocks import Named, vector
from ..catalog import find, hint, index, make
from ..ranges import Range, between, whole, whole_log
from . import Encoder, Layout
from .tabular import ACTIVATIONS, Block, Embed


class Sides(nn.Module):
    """Stage 0 of one table: every rich input through an encoder of its own, numbers and categories through one more.

    Each gives a vector (the mean over places or tokens), brought to mean 0 and variance 1 and by a linear map to
    `d_part` numbers; numbers and categories are as they are. All stand side by side.

    Shape:
        inputs of the layout -> (batch, width).

    Args:
        layout: of the table.
        parts: kind -> settings of its encoder.
        d_part: width of each kind's vector.
    """

    def __init__(self, layout: Layout, parts: Mapping[str, Mapping[str, Any]], d_part: int) -> None:
        super().__init__()
        known = index(Encoder)
        encoders: dict[str, Encoder] = {}
        for key in (k for k in layout if ":" in k):
            kind = key.partition(":")[0]
            if kind not in known:
                raise ValueError(f"An encoder should read the kind `{kind}`. {hint(kind, known)}")
            own = {"t": {"numeric": 0, "categorical": [], "bins": [], key: layout[key]}}
            encoders[key] = make(Encoder, kind, parts.get(kind, {}), own)
        self.encoders = Named(encoders)
        self.bring = Named({k: nn.Sequential(nn.LayerNorm(e.widths[-1]), nn.Linear(e.widths[-1], d_part))
                            for k, e in encoders.items()})  # fmt: skip
        plain = bool(layout.get("numeric") or layout.get("categorical"))
        self.embed = Embed(layout, "none", 16) if plain else None
        self.width = len(encoders) * d_part + (self.embed.width if self.embed is not None else 0)

    def forward(self, x: Mapping[str, Any]) -> Tensor:
        parts = []
        for key, encoder in self.encoders.items():
            z: Any = x
            for stage in encoder.path():  # type: ignore[operator]
                z = stage(z)
            parts.append(self.bring[key](vector(z)))
        if self.embed is not None:
            parts.append(self.embed(x))
        return torch.cat(parts, -1)


class Fused(Encoder):
    """An MLP over vectors of several encoders, one per rich input, beside the numbers and categories of the row.

    Stage 0 gives the vectors side by side; each later stage is h = dropout(act(W h)). What is shared is therefore the
    whole reading of text, sound and picture, and heads see vectors: tasks whose labels have a place in a text or a
    picture need that kind's own encoder, alone.

    With several tables, each has a stage 0 of its own, which ends in a linear map to `d_hidden` numbers.

    Args:
        layouts: table -> {"numeric": n, "categorical": [...], "<kind>:<column>": ...}.
        parts: kind -> settings of its encoder: ``{image: {width: 32}}``.
        d_part: width of each kind's vector.
        d_hidden: width of a hidden stage.
        n_layers: hidden stages.
        activation: relu, gelu, silu, tanh or selu.
        dropout: share of hidden units left out in training.

    Raises:
        ValueError: a setting out of its range, or of a kind that no table has.
    """

    search: ClassVar[Mapping[str, Range]] = {
        "d_part": whole_log(32, 128),
        "d_hidden": whole_log(64, 256),
        "n_layers": whole(1, 3),
        "dropout": between(0, 0.5),
    }

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        *,
        parts: dict[str, dict[str, Any]] | None = None,
        d_part: int = 64,
        d_hidden: int = 128,
        n_layers: int = 1,
        activation: str = "silu",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"`activation` should be one of {', '.join(ACTIVATIONS)}. Found `{activation}`.")
        if d_part < 1 or d_hidden < 1 or n_layers < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "`d_part` and `d_hidden` should be at least 1, `n_layers` at least 0 and `dropout` in [0, 1). "
                f"Found {d_part}, {d_hidden}, {n_layers}, {dropout}."
            )
        kinds = _kinds(layouts)
        for kind in parts or {}:
            if kind not in kinds:
                raise ValueError(
                    f"`parts` should name kinds of input that a table has. Found `{kind}`. {hint(kind, kinds)}"
                )
        sides = {table: Sides(layout, parts or {}, d_part) for table, layout in layouts.items()}
        for table, side in sides.items():
            if not side.width:
                raise ValueError(f"Table `{table}` should have a feature. Found none.")
        entrances: dict[str, Any] = dict(sides)
        width = next(iter(sides.values())).width
        if len(sides) > 1:
            width = d_hidden
            entrances = {table: nn.Sequential(side, nn.Linear(side.width, width)) for table, side in sides.items()}
        first = Named(entrances) if len(entrances) > 1 else next(iter(entrances.values()))
        blocks = [
            Block(width if i == 0 else d_hidden, d_hidden, 0, activation, dropout, False) for i in range(n_layers)
        ]
        self.stages = nn.ModuleList([first, *blocks])
        self.widths = [width, *[d_hidden] * n_layers]

    @classmethod
    def single(cls, layouts: Mapping[str, Layout]) -> str:
        reasons = [find(Encoder, kind).single(layouts) for kind in _kinds(layouts)]
        return "; ".join(dict.fromkeys(why for why in reasons if why))

    @classmethod
    def kept(cls, settings: Mapping[str, Any], layouts: Mapping[str, Layout]) -> dict[str, Any]:
        parts = dict(settings.get("parts") or {})
        for kind in _kinds(layouts):
            own = {t: {k: v for k, v in one.items() if k.startswith(f"{kind}:")} for t, one in layouts.items()}
            parts[kind] = find(Encoder, kind).kept(parts.get(kind, {}), {t: one for t, one in own.items() if one})
        return {**settings, "parts": parts}


def _kinds(layouts: Mapping[str, Layout]) -> list[str]:
    """The kinds of rich inputs that some table has."""
    return list(dict.fromkeys(key.partition(":")[0] for layout in layouts.values() for key in layout if ":" in key))
