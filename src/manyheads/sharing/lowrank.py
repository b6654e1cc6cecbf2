"""Low-rank sharing: one trunk, and per task a low-rank change of each of its matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..copies import Copies, batchable, leaves, part, side_by_side, stack
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, log, whole_log
from ..tasks import Task
from . import Features, Sharing, Trace, by_task, hand, parted, run


class LowRank(Sharing):
    """One trunk, and per task a low-rank change of each matrix: W_k = W + (alpha / rank) B_k A_k.

    W (m, n) is shared; A_k (rank, n) and B_k (m, rank) are task k's own, with rank at most min(m, n). B_k = 0 at the
    start, so that all tasks begin at the shared trunk; A_k starts normal with variance 1 / n. Every tensor of two or
    more dimensions in the stages from `from_stage` on is changed, embeddings included; convolution kernels and the like
    count as matrices (first dimension, all others). Vectors (biases, norms) stay shared. With rank 0 it is hard
    sharing.

    Cost:
        1 trunk of weights and rank (m + n) more per task and matrix; K trunks in one batched pass.

    Args:
        rank: of a task's change of a matrix.
        alpha: the factor in front of the change, times rank.
        from_stage: the stage at which changes begin; stages below are the same for all tasks. Negative counts from the
            end.
        changed: the tasks that have changes, all by default; any other reads the trunk itself.

    Raises:
        ValueError: a negative rank, or no matrix from `from_stage` on.

    Reference:
        Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen: LoRA: low-rank adaptation of large language models, 2021.

    Differs from the paper:
        W is trained along with the changes, from the start and by all tasks, instead of being pretrained and frozen.
    """

    min_stages: ClassVar[int] = 2
    search: ClassVar[Mapping[str, Range]] = {"rank": whole_log(1, 16), "alpha": log(0.5, 32)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        rank: int = 4,
        alpha: float = 4.0,
        from_stage: int = 0,
        changed: Sequence[str] | None = None,
    ) -> None:
        super().__init__(encoder, tasks)
        if rank < 0:
            raise ValueError(f"`rank` should be 0 or more. Found {rank}.")
        self.rank, self.alpha = rank, alpha
        self.by_itself = changed is not None
        """Whether tasks are computed one by one outside training, so that a further one changes none of their bits."""
        self.changed = tuple(t for t in self.tasks if rank and (changed is None or t in changed))
        self.lower, copies = parted(encoder, ("",), from_stage)
        self.upper = nn.Sequential(*(c[""] for c in copies))
        self.batchable = batchable(self.upper)
        self._places = [place for place in leaves(self.upper) if place[1]._parameters[place[2]].dim() > 1]  # type: ignore[union-attr]
        if rank and not self._places:
            raise ValueError(
                "`lowrank` should have matrices to change from `from_stage` on. Found none in these stages; give the "
                "encoder hidden stages (`n_layers`), or begin lower."
            )
        shapes = [p.shape for p in self.upper.parameters() if p.dim() > 1]
        self.changes = Copies(
            {t: nn.ModuleList(_Change(s[0], s[1:].numel(), rank) for s in shapes) for t in self.changed},
            alike=False,
        )

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)
        own = [task for task in tasks if task in self.changed]
        if own and trace is not None:
            trace.uncut()  # W has no activation that is the same for all tasks
        found: dict[str, Features] = {}
        if len(own) < len(tasks):
            as_it_is = self.upper(z)
            found = {task: hand(trace, task, as_it_is) for task in tasks if task not in own}
        if not own:
            return found
        if trace is not None and trace.apart:
            return found | {task: part(self._changed(z, (task,)), 0) for task in own}
        return found | by_task(own, self._changed(z, own)) if found else by_task(own, self._changed(z, own))

    def weights(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """The changed matrices W_k of these tasks side by side: name within the upper stages -> (tasks, ...)."""
        own = self.changes.weights(tasks)
        found = {}
        for i, (name, module, key) in enumerate(self._places):
            w = module._parameters[key]
            assert w is not None
            change = own[f"{i}.b"] @ own[f"{i}.a"]
            found[name] = w + self.alpha / self.rank * change.view(-1, *w.shape)
        return found

    def _changed(self, z: Features, tasks: Sequence[str]) -> Features:
        weights = self.weights(tasks)
        if len(tasks) > 1 and self.batchable and (self.training or not self.by_itself):
            return side_by_side(self.upper, weights, z, own_input=False)
        each = [{name: w[i] for name, w in weights.items()} for i in range(len(tasks))]
        return stack([functional_call(self.upper, w, (z,)) for w in each])

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        return [(0, "shared stages"), *((1, f"changes of rank {self.rank}: {t}") for t in self.changed)]

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"


class _Change(nn.Module):
    """One task's change of one matrix (m, n), b @ a."""

    def __init__(self, m: int, n: int, rank: int) -> None:
        super().__init__()
        rank = min(rank, m, n)
        self.a, self.b = nn.Parameter(torch.empty(rank, n)), nn.Parameter(torch.empty(m, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.a, std=1 / math.sqrt(self.a.shape[1]))
        nn.init.zeros_(self.b)
