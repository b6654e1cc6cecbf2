"""Task attention: one trunk, and per task a mask over what each stage gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..blocks import Head, channels_last, in_form_of, vector
from ..copies import Copies, part
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, whole_log
from ..tasks import Task
from . import Features, Sharing, Trace, by_task


class MTAN(Sharing):
    """One trunk, which each task reads through masks of its own.

    a_kl = m_kl * u_l with m_kl = 2 sigmoid(g_kl([u_l, f_kl(a_k,l-1)])): u_l is what stage l of the trunk gives, a_kl
    what task k attends to of it, m_kl its mask, one number per channel and position; g_kl(z) = W2 relu(W1 z + b1) + b2
    and f_kl(z) = relu(W z + b) are layers over the channels, so 1 x 1 convolutions on maps, and position by position on
    sequences. The first mask is made from u_l alone. The head reads the last a_kl.

    Cost:
        1 trunk, K small nets per stage in one batched pass.

    Args:
        d_attention: the inner width of g and of f.
        from_stage: the first stage with masks.

    Raises:
        ValueError: a width below 1, no such stage.

    Reference:
        Liu, Johns, Davison: End-to-end multi-task learning with attention, 2019.

    Differs from the paper:
        There, masks are sigmoids, about 1/2 at the start, so that each block halves what passes. Here they are twice
        that, between 0 and 2, and exactly 1 at the start, W2 = 0 and b2 = 0: training begins at hard sharing. f is each
        task's own and of the inner width; there, tasks have it in common, and widths are the trunk's. A mask is made
        from the stage's own output, there from the middle of the block. There is no batch normalisation.
    """

    min_stages: ClassVar[int] = 2
    search: ClassVar[Mapping[str, Range]] = {"d_attention": whole_log(8, 128)}

    def __init__(
        self, encoder: Callable[[], Encoder], tasks: Sequence[Task], *, d_attention: int = 32, from_stage: int = 1
    ) -> None:
        super().__init__(encoder, tasks)
        if d_attention < 1:
            raise ValueError(f"`d_attention` should be at least 1. Found {d_attention}.")
        self.encoder = encoder()
        widths = self.encoder.widths
        n = len(widths)
        self.first = from_stage + n if from_stage < 0 else from_stage
        if not 0 <= self.first < n:
            raise ValueError(
                f"`from_stage` should be the number of one of the encoder's {n} stages, at which masks begin. "
                f"Found {from_stage}; give the encoder more stages (`n_layers`) or begin lower."
            )
        self.attention = nn.ModuleList(
            Copies(
                {t: Attention(widths[i], widths[i - 1] if i > self.first else 0, d_attention) for t in self.tasks},
                trunk=False,
            )
            for i in range(self.first, n)
        )

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z: Features = x
        shared: list[Features] = []
        for stage in self.encoder.path(table):
            z = stage(z)
            shared.append(z)
        shared = shared[self.first :]
        if trace is None or not trace.apart:
            return by_task(tasks, self._attended(shared, tasks, trace))
        return {task: part(self._attended([trace.hand(task, u) for u in shared], (task,), trace), 0) for task in tasks}

    def _attended(self, shared: Sequence[Features], tasks: Sequence[str], trace: Trace | None) -> Features:
        """What these tasks read of the last stage (tasks, batch, ...)."""
        attended: Features = None
        for i, (u, attention) in enumerate(zip(shared, self.attention, strict=True)):
            if i == 0:
                attended, shown = attention((u,), tasks)
            else:
                attended, shown = attention((_repeated(u, len(tasks)), attended), tasks, True)
            if trace is not None and trace.noting:
                for task, mask in zip(tasks, shown, strict=True):
                    trace.note(task, f"mask of stage {self.first + i}", mask)
        return attended

    def widths(self, task: str) -> list[int]:
        return [self.encoder.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        return [(0, "shared stages"), *((1, f"masks of its own: {t}") for t in self.tasks)]


class Attention(nn.Module):
    """One task's mask over one stage: m = 2 sigmoid(W2 relu(W1 [u, relu(W a)] + b1) + b2), where W2 and b2 start at 0.

    Shape:
        (u,) or (u, a), features of this stage and what the task attended to before -> (m * u, mean of m (batch,)).

    Args:
        width: of u.
        before: of a; 0 where there is none.
        d_attention: inner width.
    """

    def __init__(self, width: int, before: int, d_attention: int) -> None:
        super().__init__()
        self.carry = nn.Linear(before, d_attention) if before else None
        self.inner = nn.Linear(width + (d_attention if before else 0), d_attention)
        self.outer = Head(d_attention, [0.0] * width)

    def forward(self, read: tuple[Features, ...]) -> tuple[Features, Tensor]:
        u = read[0]
        values = channels_last(u)
        seen = values
        if self.carry is not None:
            before = channels_last(shaped_like(read[1], u))
            seen = torch.cat([values, torch.relu(self.carry(before))], -1)
        mask = 2 * torch.sigmoid(self.outer(torch.relu(self.inner(seen))))
        return in_form_of(u, mask * values), vector(in_form_of(u, mask)).mean(-1)


def shaped_like(z: Features, like: Features) -> Features:
    """Features of one stage with the positions of another's: maps are averaged to its size, else all positions are.

    Args:
        z: features with any number of channels.
        like: features of the same rows.
    """
    ours, theirs = channels_last(z), channels_last(like)
    if ours.shape[:-1] == theirs.shape[:-1]:
        return z
    if isinstance(z, Tensor) and ours.dim() == theirs.dim() == 4:
        return nn.functional.adaptive_avg_pool2d(z, like.shape[-2:])
    pooled = vector(z)
    between = (1,) * (theirs.dim() - 2)
    spread = pooled.reshape(pooled.shape[0], *between, -1).expand(*theirs.shape[:-1], -1)
    return in_form_of(like, spread)


def _repeated(z: Features, n: int) -> Features:
    """One for each of n tasks, without a copy."""
    if isinstance(z, tuple):
        return tuple(_repeated(v, n) for v in z)
    return z.expand(n, *z.shape)
