"""Soft sharing: one model per task, pulled together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..catalog import make
from ..data import Inputs
from ..encoders import Encoder
from ..penalties import Penalty
from ..ranges import Range, log
from ..tasks import Task
from . import Features, Sharing, Trace, climb, parted, run


class Soft(Sharing):
    """One model per task, pulled together: min over Theta_1..K of sum_k L_k(f(x; Theta_k), y^k) + strength R(Theta).

    All copies start alike and run as one batched computation. With strength 0 they are independent models, with an
    infinite one they stay one common model.

    Three ways to take the penalty's step: ``prox``, after the optimiser's step, all tasks move (the default: an
    adaptive optimiser rescales what is added to a loss); ``loss``, R is added to the loss; ``literal``, as the
    textbook's update Theta_k -= eta (grad L_k + strength grad_k R) has it: only the tasks of the step move.

    Cost:
        K trunks, one batched pass.

    Args:
        penalty: R, a word of the penalties (``mean``, ``pairwise``, ``l1``, ``l21``, ``trace``, ...) or a word with
            its settings, ``{name: l21, groups: task}``.
        strength: the factor in front of R.
        step: ``prox``, ``loss`` or ``literal``.
        from_stage: the stage at which copies begin; stages below are shared.
        heads: pull heads of one shape together as well (their weights, not their biases); by default only where the
            encoder has no hidden stage, so that the heads are the model.

    Reference:
        Evgeniou, Pontil: Regularized multi-task learning, 2004. Duong, Cohn, Bird, Cook: Low resource dependency
        parsing: cross-lingual parameter sharing in a neural network parser, 2015.
    """

    search: ClassVar[Mapping[str, Range]] = {"strength": log(0.01, 100)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        penalty: str | Mapping[str, Any] = "mean",
        strength: float = 1.0,
        step: str = "prox",
        from_stage: int = 0,
        heads: bool | None = None,
    ) -> None:
        super().__init__(encoder, tasks)
        if step not in ("prox", "loss", "literal"):
            raise ValueError(f"`step` should be prox, loss or literal. Found `{step}`.")
        self.lower, copies = parted(encoder, self.tasks, from_stage)
        self.copies = nn.ModuleList(copies)
        named = {"name": penalty} if isinstance(penalty, str) else dict(penalty)
        if "name" not in named or {"strength", "step", "on"} & set(named):
            raise ValueError(
                "`penalty` should be a word or {name: word, ...} with settings beside `strength`, `step` and `on`, "
                f"which stand next to it. Found {penalty}."
            )
        settings = {k: v for k, v in named.items() if k != "name"} | {"strength": strength}
        how = {"step": "prox" if step == "literal" else step}
        pull = make(Penalty, named["name"], {"on": "copies", "biases": True} | settings | how)  # type: ignore[type-abstract]
        if step == "literal" and pull.of == "start":
            raise ValueError(f"`step: literal` is for pulls between tasks. Found `{named['name']}`; use prox or loss.")
        self.literal = pull if step == "literal" else None
        self.penalties = [] if self.literal else [pull]
        if heads if heads is not None else len(self.lower.widths) == 1:
            self.penalties.append(make(Penalty, named["name"], {"on": "heads"} | settings | how))  # type: ignore[type-abstract]

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        if self.literal is not None and trace is not None:
            self._pull(tasks, trace)
        return climb(self.copies, run(self.lower, x, table), tasks, trace)

    def _pull(self, tasks: Sequence[str], trace: Trace) -> None:
        """R of each of these tasks with all others held where they are."""
        trace.uncut()
        pull = self.literal.among(self.tasks, self.tasks)  # type: ignore[union-attr]
        for weights in (w for copies in self.copies for w in copies.weights().values()):  # type: ignore[operator]
            for task in tasks:
                k = self.tasks.index(task)
                alone = torch.cat([weights[:k].detach(), weights[k : k + 1], weights[k + 1 :].detach()])
                trace.add(pull.loss(alone), task)

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        lines = [(0, "shared stages")] if len(self.lower.stages) else []
        return [*lines, *((len(lines), f"stages of its own: {t}") for t in self.tasks)]
