"""ESMM: events that follow one another, each judged over the whole sample space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data import Inputs
from ..encoders import Encoder
from ..tasks import Task
from . import Features, Sharing, Trace, climb, parted, run


class ESMM(Sharing):
    """A chain of yes/no events (seen, clicked, bought), the probability of each a product over those before.

    P_t(x) = P_{t-1}(x) p_t(x), P_1 = p_1, with p_t = sigmoid(head_t(tower_t(shared(x)))) the probability of event t
    given event t - 1, and P_t that of all events up to t, over all rows: p_ctcvr = p_ctr p_cvr. The loss of task t is
    that of P_t, over all rows; p_t has no loss of its own, and is not learned from the selected rows alone in which
    event t - 1 took place. In logits, a = logit P_{t-1} and b = logit p_t: logit P_t = -log(e^-a + e^-b + e^-(a+b)).

    This alone does not make p_t free of selection (Wang et al., ESCM2, 2022), and p_t learns slowly where event t - 1
    is rare: compare it with a task of its own on the selected rows (`where`) under `hard`.

    A task after the first thus means "and": its label should be known for all rows, 0 wherever the event before did
    not happen. A label that is missing in a row teaches nothing there; do not restrict the task to the rows of the
    event before (`where`). What is predicted is P_t; the report shows the mean of p_t as ``conditional``. A task that
    `sees` one of the chain reads p_t. All other tasks have a tower of their own and stand outside the chain.

    Cost:
        K towers, one batched pass; a task of the chain asked alone runs the towers of those before it.

    Args:
        chain: the binary tasks in the order in which their events happen; default: all of them, in their order.
        from_stage: the stage at which each task's tower begins, below which all is shared; negative counts from the
            end.

    Raises:
        ValueError: fewer than two binary tasks, or a chain that names others.

    Reference:
        Ma, Zhao, Huang, Wang, Hu, Zhu, Gai: Entire space multi-task model: an effective approach for estimating
        post-click conversion rate, 2018.

    Differs from the paper:
        any number of events, other tasks beside them.
    """

    min_stages: ClassVar[int] = 2
    ordered: ClassVar[str | None] = "chain"
    """The setting by which the order of tasks, where it has a meaning, does not depend on how they are listed."""

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        chain: Sequence[str] | None = None,
        from_stage: int = 1,
    ) -> None:
        super().__init__(encoder, tasks)
        self.order = _chain([t.name for t in tasks if t.kind == "binary"], self.tasks, chain)
        self.links: Mapping[str, tuple[str, ...]] = {t: self.order[:i] for i, t in enumerate(self.order) if i}
        self.lower, towers = parted(encoder, self.tasks, from_stage, alike=False)
        self.towers = nn.ModuleList(towers)

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        return climb(self.towers, run(self.lower, x, table), tasks, trace)

    def join(self, outputs: Mapping[str, Tensor], trace: Trace | None = None) -> dict[str, Tensor]:
        joined = dict(outputs)
        for before, task in pairwise(self.order):
            if task in outputs:
                joined[task] = both(joined[before], outputs[task])
                if trace is not None and trace.noting:
                    trace.note(task, "conditional", torch.sigmoid(outputs[task]).squeeze(-1))
        return joined

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        lines = [(0, "shared stages")] if len(self.lower.stages) else []
        lines += [(len(lines), f"tower: {t}") for t in self.tasks]
        return [*lines, (0, "all rows: " + " and then ".join(self.order))]

    def extra_repr(self) -> str:
        return f"chain={self.order}"


def both(a: Tensor, b: Tensor) -> Tensor:
    """The logit of a product of two probabilities, from their logits: never above either, and its slopes in [0, 1]."""
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), 0)


def _chain(binary: Sequence[str], every: Sequence[str], given: Sequence[str] | None) -> tuple[str, ...]:
    chain = tuple(binary if given is None else given)
    known = ", ".join(f"`{t}`" for t in binary) or "none"
    for task in chain:
        if task not in binary:
            why = "is not binary" if task in every else "does not exist"
            raise ValueError(f"`chain` should name binary tasks ({known}). Found `{task}`, which {why}.")
    if len(set(chain)) < len(chain):
        raise ValueError(f"`chain` should name each task once. Found {', '.join(chain)}.")
    if len(chain) < 2:
        raise ValueError(
            "A chain should have two binary tasks or more, in the order in which their events happen. "
            f"Found {', '.join(f'`{t}`' for t in chain) or 'none'}; add one, or use `hard`."
        )
    return chain
