"""Shared experts and experts of each task's own, level upon level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import nn

from ..copies import Copies
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, whole
from ..tasks import Task
from . import Features, Sharing, Trace, hand, run
from .experts import Level, above, alone, at_least, each, names, tell

Own = Callable[[Sequence[str], Trace | None], Features | None]
"""(tasks, trace for their own views) -> what they have at some level, stacked; None where they have what is common."""


class PLE(Sharing):
    """Levels of shared and own experts: from level to level, what is common and what is a task's own part further.

    With z_k^l what task k has after level l, and z_s^l what is common:
    z_k^l = sum_i softmax(G_k^l z_k^{l-1})_i f_ki, over the shared experts of level l (which read z_s^{l-1}) and those
    of task k (which read z_k^{l-1}); z_s^l = sum_i softmax(G_s^l z_s^{l-1})_i f_i, over all experts of level l, all
    tasks' own included. At the start both are z, what the stage below the experts gives; heads read the last z_k. An
    expert is a copy of the stages of its level, of its own start; gates G read one vector per row. One level is `cgc`.

    Cost:
        n_shared + K n_own trunks above `from_stage`, one batched pass per level; asked alone, a task needs all of them
        below the last level (what is common is made from every task's experts), and n_shared + n_own there.

    Args:
        n_shared: shared experts per level.
        n_own: experts of each task's own, per level.
        from_stage: the stage at which experts begin; stages below are shared.
        levels: the stages from `from_stage` on are divided into so many levels; by default each is a level.

    Raises:
        ValueError: a level without shared or without own experts, more levels than stages, or no stage is left below
            the experts or none above it.

    Reference:
        Tang, Liu, Zhao, Gong: Progressive layered extraction (PLE): a novel multi-task learning (MTL) model for
        personalized recommendations, 2020.
    """

    min_stages: ClassVar[int] = 2
    entangled: ClassVar[bool] = True  # what is common is mixed from all tasks' experts
    search: ClassVar[Mapping[str, Range]] = {"n_shared": whole(1, 4), "n_own": whole(1, 3)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        n_shared: int = 2,
        n_own: int = 1,
        from_stage: int = 1,
        levels: int | None = None,
    ) -> None:
        super().__init__(encoder, tasks)
        at_least(1, n_shared=n_shared, n_own=n_own)
        self.everyone = tuple(sorted(self.tasks))  # sums depend on the order, and nothing may depend on that of tasks
        self.lower, stages = above(encoder, names(self.everyone, n_shared, n_own), from_stage)
        n = len(self.lower.stages)
        self.levels = nn.ModuleList()
        for part in _divided(stages, levels):
            last = n + len(part) == len(self.lower.widths)
            self.levels.append(Level(part, self.everyone, n_shared, n_own, self.lower.widths[n - 1], last))
            n += len(part)

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        common: Features = run(self.lower, x, table)

        own: Own = partial(_as_common, common)
        lower: list[Level] = [*self.levels][:-1]
        for number, level in enumerate(lower, 1):
            own, common = self._onward(level, common, own(self.everyone, None), tasks, trace, f"level {number} ")
        top = f"level {len(self.levels)} " if lower else ""
        last: Level = self.levels[-1]  # type: ignore[assignment]
        return last.features(tasks, common, lambda tasks: own(tasks, trace), trace, top)

    def _onward(
        self,
        level: Level,
        common: Features,
        own: Features | None,
        asked: Sequence[str],
        trace: Trace | None,
        prefix: str,
    ) -> tuple[Own, Features]:
        """Through one level: (what tasks have above it, from their own views; what is common above it).

        Args:
            own: what each of all tasks has below it; None where they have what is common.
        """
        shared_outputs, own_outputs = level.outputs(self.everyone, common, own)

        def above_it(tasks: Sequence[str], views: Trace | None) -> Features:
            these = [self.everyone.index(t) for t in tasks]
            read = common if own is None else each(lambda z: z[these], own)
            shares = level.shares(tasks, hand(views, tasks[0], read), own is not None)
            tell(trace, asked, tasks, shares, [prefix + label for label in level.labels])
            mine = each(lambda z: z[:, these], own_outputs)
            return level.mixed(shares, hand(views, tasks[0], shared_outputs), hand(views, tasks[0], mine))

        return above_it, level.common(self.everyone, common, shared_outputs, own_outputs)

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        lines = [(0, "shared stages")]
        for i, level in enumerate(self.levels, 1):
            own = [f"own experts: {level.n_own} each for {', '.join(self.tasks)}"]
            lines += [(i, f"level {i}: {level.n_shared} shared experts"), *((i, line) for line in own)]
        return lines


def _as_common(common: Features, tasks: Sequence[str], views: Trace | None) -> Features | None:
    return alone(views, tasks[0], common) if views is not None and views.apart else None


def _divided(stages: Sequence[Copies], levels: int | None) -> list[list[Copies]]:
    """The stages in so many runs, the first ones longer where they cannot be equal.

    Raises:
        ValueError: there are not so many stages.
    """
    n = len(stages) if levels is None else levels
    if not 1 <= n <= len(stages):
        raise ValueError(
            f"`levels` should be between 1 and the {len(stages)} stages from `from_stage` on. Found {levels}."
        )
    ends = [-(-len(stages) * i // n) for i in range(n + 1)]
    return [list(stages[a:b]) for a, b in pairwise(ends)]
