"""AITM: towers in an order, each of which is told what the one before found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..blocks import Named, channels_last, in_form_of
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, between
from ..tasks import Task
from . import Features, Sharing, Trace, climb, parted, run


class AITM(Sharing):
    """Tasks in an order; each reads its own tower and, as far as attention wants it, what the task before passes on.

    q_t = tower_t(shared(x)), z_1 = q_1, and for t > 1: u_1 = g_t(z_{t-1}), u_2 = q_t,
    z_t = w_1 h1_t(u_1) + w_2 h1_t(u_2), w = softmax_i(<h2_t(u_i), h3_t(u_i)> / sqrt(d)); g, h1, h2, h3 are linear maps
    of width d. The head of task t reads z_t. With a `calibrator` c > 0, where the binary task s comes before the binary
    task t, c mean_x max(p_t(x) - p_s(x), 0) is added to the losses: what comes later is not more probable than what
    came before.

    Cost:
        K towers, one batched pass; then K - 1 small steps one after the other. A task needs all those before it.

    Args:
        order: the tasks in the order in which information flows; those that it leaves out stand beside it, with a tower
            alone. Default: all, as they are listed.
        calibrator: the factor c, 0.6 in the paper. The default, 0, suits tasks that are no funnel: only if every later
            event includes the earlier one is p_t <= p_s true.
        from_stage: the stage at which each task's tower begins, below which all is shared; negative counts from the
            end.

    Raises:
        ValueError: an order that names a task twice, or one that does not exist.

    Reference:
        Xi, Chen, Yan, Zhang, Zhu, Zhuang, Chen: Modeling the sequential dependence among audience multi-step
        conversions with multi-task learning in targeted display advertising, 2021.

    Differs from the paper:
        g is a linear map; the calibrator is a mean over rows, and off by default. Sequences and maps are attended
        position by position.
    """

    min_stages: ClassVar[int] = 2
    ordered: ClassVar[str | None] = "order"
    """The setting by which the order of tasks, where it has a meaning, does not depend on how they are listed."""
    search: ClassVar[Mapping[str, Range]] = {"calibrator": between(0, 1)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        order: Sequence[str] | None = None,
        calibrator: float = 0.0,
        from_stage: int = 1,
    ) -> None:
        super().__init__(encoder, tasks)
        self.order = self.tasks if order is None else tuple(order)
        for task in self.order:
            if task not in self.tasks or self.order.count(task) > 1:
                raise ValueError(f"`order` should name tasks ({', '.join(self.tasks)}), each once. Found `{task}`.")
        if not calibrator >= 0:
            raise ValueError(f"`calibrator` should be 0 or more. Found {calibrator}.")
        self.calibrator = calibrator
        yes_no = [name for name in self.order if any(t.name == name and t.kind == "binary" for t in tasks)]
        if calibrator:
            self.links: Mapping[str, tuple[str, ...]] = {t: (s,) for s, t in pairwise(yes_no)}
        self.lower, towers = parted(encoder, self.tasks, from_stage, alike=False)
        self.towers = nn.ModuleList(towers)
        self.transfers = Named({task: _Transfer(self.lower.widths[-1]) for task in self.order[1:]})

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        last = max((self.order.index(t) for t in tasks if t in self.order), default=-1)
        chain = self.order[: last + 1]
        if len(chain) > 1 and trace is not None:
            trace.uncut()  # the tower of a task serves all that come after it
        alone = [t for t in tasks if t not in chain]
        features = climb(self.towers, run(self.lower, x, table), [*chain, *alone], trace)
        for before, task in pairwise(chain):
            features[task], share = self.transfers[task](features[before], features[task])
            if trace is not None and task in tasks:
                trace.note(task, "transferred", share)
        return {task: features[task] for task in tasks}

    def join(self, outputs: Mapping[str, Tensor], trace: Trace | None = None) -> dict[str, Tensor]:
        for task, (before,) in self.links.items():
            if trace is not None and task in outputs:
                excess = torch.sigmoid(outputs[task]) - torch.sigmoid(outputs[before])
                trace.add(self.calibrator * excess.clamp(min=0).mean(), task)
        return dict(outputs)

    def after(self, task: str) -> tuple[str, ...]:
        return self.order[: self.order.index(task)] if task in self.order else ()

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        lines = [(0, "shared stages")] if len(self.lower.stages) else []
        lines += [(len(lines), f"tower: {t}") for t in self.tasks]
        return [*lines, (0, " -> ".join(self.order))]

    def extra_repr(self) -> str:
        return f"order={self.order}, calibrator={self.calibrator}"


class _Transfer(nn.Module):
    """Attention over what the task before passes on and the task's own tower."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)
        self.value, self.query, self.key = (nn.Linear(width, width) for _ in range(3))

    def forward(self, before: Features, own: Features) -> tuple[Features, Tensor]:
        """(features of one position or more, the weight of what was passed on per row)."""
        u = torch.stack([self.gate(channels_last(before)), channels_last(own)])
        scores = (self.query(u) * self.key(u)).sum(-1, keepdim=True) / math.sqrt(u.shape[-1])
        weights = scores.softmax(0)
        share = weights[0].flatten(1).mean(1)
        return in_form_of(own, (weights * self.value(u)).sum(0)), share
