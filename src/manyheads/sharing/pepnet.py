"""PEPNet: gates that fit the shared embedding to a table, and each task's tower to a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..blocks import Head, Named, vector
from ..copies import Copies, part, stack
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, whole_log
from ..tasks import Task
from . import Features, Sharing, Trace, by_task, hand, parted, run


class PEPNet(Sharing):
    """A shared embedding, and a tower per task whose hidden units are scaled by gates that know table and row.

    Gate(u) = 2 sigmoid(W' relu(W u + b) + b'), in (0, 2). With z = stage_0(x), e the learned embedding of the row's
    table (where there is more than one), and sg(.) for "no gradient passes":
    z' = Gate_ep([e ; sg(z)]) * z (only where there is more than one table);
    h_0 = z', h_i = Gate_{k,i}([e ; sg(z')]) * stage_{k,i}(h_{i-1}) for task k, each with weights of its own.
    W' and b' start at 0, so that every gate starts at 1: independent towers over a shared embedding.

    Cost:
        K towers and K small gates per hidden stage, one batched pass.

    Args:
        d_gate: hidden units of a gate.
        d_table: numbers in the embedding of a table.

    Reference:
        Chang, Zhang, Hui, Leng, Niu, Song, Gai: PEPNet: parameter and embedding personalized network for infusing with
        personalized prior information, 2023.

    Differs from the paper:
        the gates of the towers read the table and the embedding of the whole row, without embeddings of user, item and
        author of their own; a gate scales the channels of a sequence or a map, and reads its mean over positions.
    """

    min_stages: ClassVar[int] = 2
    search: ClassVar[Mapping[str, Range]] = {"d_gate": whole_log(8, 128), "d_table": whole_log(2, 32)}

    def __init__(
        self, encoder: Callable[[], Encoder], tasks: Sequence[Task], *, d_gate: int = 32, d_table: int = 8
    ) -> None:
        super().__init__(encoder, tasks)
        for name, value in (("d_gate", d_gate), ("d_table", d_table)):
            if value < 1:
                raise ValueError(f"`{name}` should be 1 or more. Found {value}.")
        self.lower, towers = parted(encoder, self.tasks, 1, alike=False)
        first, prior = self.lower.stages[0], self.lower.widths[0]
        self.tables = self.domain = None
        if isinstance(first, Named):
            self.tables = Named({table: _Vector(d_table) for table in first})
            prior += d_table
            self.domain = _Gate(prior, d_gate, self.lower.widths[0])
        self.towers = nn.ModuleList(
            Copies({t: _Gated(tower[t], _Gate(prior, d_gate, width)) for t in self.tasks}, alike=False)
            for tower, width in zip(towers, self.lower.widths[1:], strict=True)
        )

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)
        prior = _vector(z)
        if self.tables is not None and self.domain is not None:
            known = self.tables[table if table is not None else next(iter(self.tables))](prior)
            z = scaled(z, self.domain(torch.cat([known, prior], -1)))
            prior = torch.cat([known, _vector(z)], -1)
        if trace is None or not trace.apart:
            return by_task(tasks, self._climb(z, prior, tasks))
        features = {}
        for task in tasks:
            known = hand(trace, task, prior) if prior.requires_grad else prior
            features[task] = part(self._climb(hand(trace, task, z), known, (task,)), 0)
        return features

    def _climb(self, z: Features, prior: Tensor, tasks: Sequence[str]) -> Features:
        x: Any = (z, prior)
        for i, stage in enumerate(self.towers):
            x = stage(x, tasks, i > 0)
        return x[0] if self.towers else stack([z] * len(tasks))

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        first = "shared embedding" if self.tables is None else "shared embedding, gated by table"
        return [(0, first), *((1, f"gated tower: {t}") for t in self.tasks)]


class _Gate(nn.Module):
    """2 sigmoid(W' relu(W u + b) + b'), which starts as 1."""

    def __init__(self, d_in: int, d_hidden: int, d_out: int) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(d_in, d_hidden), Head(d_hidden, [0.0] * d_out)

    def forward(self, u: Tensor) -> Tensor:
        return 2 * torch.sigmoid(self.last(torch.relu(self.hidden(u))))


class _Gated(nn.Module):
    """A stage whose units are scaled: (z, prior) -> (gate(prior) * stage(z), prior)."""

    def __init__(self, stage: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.stage, self.gate = stage, gate

    def forward(self, x: tuple[Features, Tensor]) -> tuple[Features, Tensor]:
        z, prior = x
        return scaled(self.stage(z), self.gate(prior)), prior


class _Vector(nn.Module):
    """A learned vector, the same for all rows: (batch, ...) -> (batch, d)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, rows: Tensor) -> Tensor:
        return self.weight.expand(len(rows), -1)


def _vector(z: Features) -> Tensor:
    """One vector per row, through which no gradient passes."""
    return vector(z).detach()


def scaled(features: Features, gate: Tensor) -> Features:
    """Features with their channels scaled.

    Shape:
        gate (batch, d); features (batch, d), a sequence of values (batch, length, d) and its mask, or a map
        (batch, d, height, width).
    """
    if isinstance(features, tuple):
        return (features[0] * gate.unsqueeze(1), *features[1:])
    if features.dim() == 4:
        return features * gate[..., None, None]
    return features * (gate.unsqueeze(1) if features.dim() == 3 else gate)
