"""Sluice networks: cross-stitch units between subspaces, and heads that read every stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap

from ..blocks import Named, pool
from ..copies import part, stack
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, between
from ..tasks import Task
from . import Features, Sharing, Trace, by_task, hand, run
from .crossstitch import Mix, columns, in_parts, last_mix, stitched, tell
from .mtan import shaped_like


class Sluice(Sharing):
    """One net per task; after each stage subspaces are mixed between tasks, and each head mixes the stages.

    x~_is = sum_jt alpha_is,jt x_jt: x_jt is subspace t (of S) of what a stage gives in task j's net, and task i's next
    stage reads x~_i, its subspaces side by side. Task i's head reads h_i = sum_l beta_il x~_i^l over the stages l. Each
    alpha and beta is a learnt number. At the start a subspace reads `own` of itself and the rest, in equal parts, from
    the same subspace of the other tasks; beta is `last` for the last stage and shares the rest equally. With S = 1 and
    `last` = 1 it starts as a cross-stitch net does.

    Subspaces may learn to differ (what is shared in one, what is a task's own in the other): the penalty ``orthogonal``
    keeps what they hold of the same rows orthogonal.

    What is learnt of alpha is its distance from that start, so that weight decay pulls it there and not to 0.

    Cost:
        K trunks, one batched pass, and (K S)^2 weights per stage; a task that is asked alone needs all trunks as well.

    Args:
        n_subspaces: S.
        own: weight of a task's own subspace at the start, between 0 and 1.
        last: weight of the last stage at the start.
        from_stage: the stage at which copies begin; stages below are shared.

    Raises:
        ValueError: no subspace, a weight outside [0, 1], no stage left to copy.

    Reference:
        Ruder, Bingel, Augenstein, Søgaard: Latent multi-task architecture learning, 2019.

    Differs from the paper:
        A head mixes the stages as wide as the last one, maps of another size averaged to its size. Where S does not
        divide a width, the last subspace is filled with zeros. Weights between different subspaces start at 0. The
        penalty on subspaces, ||X_1^T X_2||_F^2, is of activations X; there, of the weights that give them.
    """

    min_stages: ClassVar[int] = 2
    entangled: ClassVar[bool] = True
    search: ClassVar[Mapping[str, Range]] = {"own": between(0.5, 1), "last": between(0.5, 1)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        n_subspaces: int = 2,
        own: float = 0.9,
        last: float = 0.9,
        from_stage: int = 1,
    ) -> None:
        super().__init__(encoder, tasks)
        if n_subspaces < 1 or not 0 <= last <= 1:
            raise ValueError(
                f"`n_subspaces` should be at least 1 and `last` between 0 and 1. Found {n_subspaces}, {last}."
            )
        if n_subspaces > min(encoder().widths[1:] or [1]):
            raise ValueError(f"`n_subspaces` should be at most the width of a stage. Found {n_subspaces}.")
        self.everyone = tuple(sorted(self.tasks))  # sums depend on the order, and nothing may depend on that of tasks
        self.lower, copies, widths = columns(encoder, self.everyone, from_stage)
        self.n_subspaces = n_subspaces
        self.copies = nn.ModuleList(copies)
        self.mixes = nn.ModuleList(Mix(self.everyone, own, n_subspaces) for _ in widths)
        self.read = [i for i, w in enumerate(widths) if w == widths[-1]]
        self.beta = Named({task: Beta(len(self.read), last) for task in self.tasks if len(self.read) > 1})

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)
        if not self.copies:
            return {task: hand(trace, task, z) for task in tasks}
        given, mixed = stitched(self.copies, self.mixes, z, self.everyone)
        self._tell(given, tasks, trace)
        top = last_mix(self.mixes[-1], given[-1], tasks, trace)
        if not self.beta:
            return top
        earlier = [mixed[i] for i in self.read[:-1]]
        beta = [self.beta[task].weight for task in tasks]
        if trace is None or not trace.apart:
            rows = [self.everyone.index(task) for task in tasks]
            below = [stack([part(z, i) for i in rows]) for z in earlier]
            stages = (*below, stack([top[task] for task in tasks]))
            return by_task(tasks, vmap(_read)(torch.stack(beta), stages))  # type: ignore[arg-type]
        return {
            task: _read(b, (*(trace.hand(task, part(z, self.everyone.index(task))) for z in earlier), top[task]))  # type: ignore[arg-type]
            for task, b in zip(tasks, beta, strict=True)
        }

    def _tell(self, given: Sequence[Features], tasks: Sequence[str], trace: Trace | None) -> None:
        if trace is None:
            return
        tell(self.mixes, tasks, trace)
        for task in tasks:
            for at, i in enumerate(self.read if self.beta and trace.noting else ()):
                stage = len(self.lower.stages) + i
                trace.note(task, f"stage {stage}", self.beta[task].weight[at])  # type: ignore[index]
            for z in given if trace.pairing else ():
                own: Any = pool(part(z, self.everyone.index(task)), "vector")
                trace.pairs += combinations(in_parts(own, self.n_subspaces).unbind(-2), 2)

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        lines = [(0, "shared stages")] if len(self.lower.stages) else []
        return [*lines, *((len(lines), f"stages of its own, mixed with the others': {t}") for t in self.tasks)]


class Beta(nn.Module):
    """One task's weights of the stages.

    Args:
        n: stages.
        last: weight of the last one at the start; the others share the rest.
    """

    def __init__(self, n: int, last: float) -> None:
        super().__init__()
        self.last = last
        self.weight = nn.Parameter(torch.empty(n))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        n = len(self.weight)
        with torch.no_grad():
            self.weight.fill_((1 - self.last) / (n - 1))
            self.weight[-1] = self.last


def _read(beta: Tensor, stages: Sequence[Features]) -> Features:
    """sum_l beta_l x^l, with the positions of the last one."""
    top = stages[-1]
    every = [shaped_like(z, top) for z in stages]
    if isinstance(top, tuple):
        return (_weighted(beta, [z[0] for z in every]), *top[1:])
    return _weighted(beta, every)


def _weighted(beta: Tensor, values: Sequence[Tensor]) -> Tensor:
    return torch.einsum("l,l...->...", beta, torch.stack(list(values)))
