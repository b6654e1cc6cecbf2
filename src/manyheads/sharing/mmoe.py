"""Experts that all tasks share, mixed for each task by a gate of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import nn

from ..copies import Copies
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, whole
from ..tasks import Task
from . import Features, Sharing, Trace, run
from .experts import Gate, above, at_least, climbed, each_or_all, mix, tell


class MMoE(Sharing):
    """Several trunks, the experts, and per task a gate that mixes what they give, row by row.

    f_k(x) = sum_i softmax(G_k z)_i f_i(z), with f_i the n experts (each a copy of the stages from `from_stage` on, of
    its own start), G_k the gate of task k (n numbers per row), and z what the stage below the experts gives. Gates read
    z as one vector per row; a sequence or a map is pooled for them.

    Cost:
        `n_experts` trunks above `from_stage`, one batched pass, however many tasks.

    Args:
        n_experts: trunks.
        from_stage: the stage at which experts begin; stages below are shared.

    Raises:
        ValueError: no stage is left below the experts, or none above it.

    Reference:
        Ma, Zhao, Yi, Chen, Hong, Chi: Modeling task relationships in multi-task learning with multi-gate
        mixture-of-experts, 2018.
    """

    min_stages: ClassVar[int] = 2
    search: ClassVar[Mapping[str, Range]] = {"n_experts": whole(2, 8)}

    def __init__(
        self, encoder: Callable[[], Encoder], tasks: Sequence[Task], *, n_experts: int = 4, from_stage: int = 1
    ) -> None:
        super().__init__(encoder, tasks)
        at_least(1, n_experts=n_experts)
        self.labels = [f"expert {i}" for i in range(1, n_experts + 1)]
        self.lower, experts = above(encoder, self.labels, from_stage)
        self.experts = nn.ModuleList(experts)
        width = self.lower.widths[len(self.lower.stages) - 1]
        self.gates = Copies({t: Gate(width, n_experts) for t in self.tasks}, alike=False, trunk=False)

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)

        def mixture(tasks: Sequence[str], z: Features, outputs: Features) -> Features:
            shares = self.gates(z, tasks).softmax(-1)
            tell(trace, tasks, tasks, shares, self.labels)
            return mix(shares, outputs)

        return each_or_all(tasks, trace, mixture, z, climbed(self.experts, z))

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        return [(0, "shared stages"), *((1, label) for label in self.labels), *((2, f"gate: {t}") for t in self.tasks)]
