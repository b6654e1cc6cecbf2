"""Experts that all tasks share, and experts of each task, mixed by the task's gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, whole
from ..tasks import Task
from . import Features, Sharing, Trace, run
from .experts import Level, above, alone, at_least, names


class CGC(Sharing):
    """Shared trunks and trunks of each task's own, and per task a gate that mixes the ones with the others.

    f_k(x) = sum_i softmax(G_k z)_i f_ki(z), with f_k1, f_k2, ... the shared experts followed by those of task k (each a
    copy of the stages from `from_stage` on, of its own start), G_k the gate of task k (a number per expert and row),
    and z what the stage below the experts gives, pooled for the gates where it is a sequence or a map. Without shared
    experts tasks are independent above `from_stage`; without own ones this is `mmoe`.

    Cost:
        n_shared + K n_own trunks above `from_stage`, one batched pass; asked alone, a task needs n_shared + n_own.

    Args:
        n_shared: experts that every task reads.
        n_own: experts that one task alone reads, per task.
        from_stage: the stage at which experts begin; stages below are shared.

    Raises:
        ValueError: there are no experts, or no stage is left below them or none above it.

    Reference:
        Tang, Liu, Zhao, Gong: Progressive layered extraction (PLE): a novel multi-task learning (MTL) model for
        personalized recommendations, 2020.
    """

    min_stages: ClassVar[int] = 2
    search: ClassVar[Mapping[str, Range]] = {"n_shared": whole(1, 4), "n_own": whole(1, 3)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        n_shared: int = 2,
        n_own: int = 1,
        from_stage: int = 1,
    ) -> None:
        super().__init__(encoder, tasks)
        at_least(0, n_shared=n_shared, n_own=n_own)
        at_least(1, **{"n_shared + n_own": n_shared + n_own})
        self.lower, stages = above(encoder, names(self.tasks, n_shared, n_own), from_stage)
        self.level = Level(stages, self.tasks, n_shared, n_own, self.lower.widths[len(self.lower.stages) - 1])

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)

        def own(tasks: Sequence[str]) -> Features | None:
            return alone(trace, tasks[0], z) if trace is not None and trace.apart else None

        return self.level.features(tasks, z, own, trace)

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        own = [f"own {i}: {t}" for i in range(1, self.level.n_own + 1) for t in self.tasks]
        shared = [f"shared {i}" for i in range(1, self.level.n_shared + 1)]
        return [(0, "shared stages"), *((1, e) for e in [*shared, *own]), *((2, f"gate: {t}") for t in self.tasks)]
