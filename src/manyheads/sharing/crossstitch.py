"""Cross-stitch units: a net per task, whose stages read a learnt mixture of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..blocks import Named
from ..copies import Copies, part, stack
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, between
from ..tasks import Task
from . import Features, Sharing, Trace, by_task, hand, parted, run

MANY = 12
"""With more tasks than this a run reports each task's weight on its own features only, not one per pair of tasks."""


class CrossStitch(Sharing):
    """One net per task, and after each stage a mixture: x~_i = sum_j alpha_ij * x_j.

    x_j is what the stage gives in task j's net, x~_i what task i's next stage reads, or its head after the last one,
    and alpha_ij a learnt weight per stage, one number or one per channel. At the start alpha_ii is `own` and the other
    tasks share the rest equally, so that each row sums to 1. All nets start from the same weights, since only features
    in the same order can be mixed.

    What is learnt of alpha is its distance from that start, so that weight decay pulls it there and not to 0.

    Cost:
        K trunks, one batched pass, and K^2 weights per stage; a task that is asked alone needs all trunks as well.

    Args:
        own: weight of a task's own features at the start, between 0 and 1.
        per: ``stage``: one number per pair of tasks and stage; ``channel``: one for each channel.
        from_stage: the stage at which copies begin; stages below are shared.

    Raises:
        ValueError: a weight outside [0, 1], an unknown word, no stage left to copy.

    Reference:
        Misra, Shrivastava, Gupta, Hebert: Cross-stitch networks for multi-task learning, 2016.

    Differs from the paper:
        The nets start from common random weights; there, from nets trained on one task each.
    """

    min_stages: ClassVar[int] = 2
    entangled: ClassVar[bool] = True
    search: ClassVar[Mapping[str, Range]] = {"own": between(0.5, 1)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        own: float = 0.9,
        per: str = "stage",
        from_stage: int = 1,
    ) -> None:
        super().__init__(encoder, tasks)
        if per not in ("stage", "channel"):
            raise ValueError(f"`per` should be stage or channel. Found `{per}`.")
        self.everyone = tuple(sorted(self.tasks))  # sums depend on the order, and nothing may depend on that of tasks
        self.lower, copies, widths = columns(encoder, self.everyone, from_stage)
        self.copies = nn.ModuleList(copies)
        self.mixes = nn.ModuleList(Mix(self.everyone, own, channels=w if per == "channel" else 1) for w in widths)

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)
        if not self.copies:
            return {task: hand(trace, task, z) for task in tasks}
        given, _ = stitched(self.copies, self.mixes, z, self.everyone)
        tell(self.mixes, tasks, trace)
        return last_mix(self.mixes[-1], given[-1], tasks, trace)

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        lines = [(0, "shared stages")] if len(self.lower.stages) else []
        return [*lines, *((len(lines), f"stages of its own, mixed with the others': {t}") for t in self.tasks)]


class Mix(nn.Module):
    """What copies gave, mixed: x~_is = sum_jt alpha_is,jt * x_jt, where x_jt is subspace t of the channels of copy j.

    At the start a subspace is mixed with the same subspace of the other copies only, `own` of itself and the rest in
    equal parts. Subspaces are of one width; where it does not divide the channels, the last one is filled with zeros.

    Shape:
        features of all copies (copies, batch, ...) -> of the tasks that are asked (tasks, batch, ...).

    Args:
        tasks: the names of the copies.
        own: weight of a copy's own features at the start.
        n_subspaces: parts of the channels.
        channels: weights per pair of subspaces: 1, or one for each of their channels.

    Raises:
        ValueError: a weight outside [0, 1].
    """

    def __init__(self, tasks: Sequence[str], own: float, n_subspaces: int = 1, channels: int = 1) -> None:
        super().__init__()
        if not 0 <= own <= 1:
            raise ValueError(f"`own` should be between 0 and 1. Found {own}.")
        self.tasks, self.n_subspaces = tuple(tasks), n_subspaces
        self.other = (1 - own) / (len(tasks) - 1) if len(tasks) > 1 else 0.0
        self.moved = Named({task: Moved((n_subspaces, len(tasks), n_subspaces, channels)) for task in tasks})

    def alpha(self, tasks: Sequence[str]) -> Tensor:
        """The rows of these tasks (tasks, subspaces, copies, subspaces, channels)."""
        moved = torch.stack([self.moved[task].by for task in tasks])  # type: ignore[misc]
        return self._start(moved, tasks) + moved

    def shares(self, tasks: Sequence[str]) -> Tensor:
        """How much these tasks read from each copy (tasks, copies), the mean over their channels."""
        return self.alpha(tasks).sum(3).mean((1, -1))

    def forward(self, x: Features, tasks: Sequence[str]) -> Features:
        values = x[0] if isinstance(x, tuple) else x
        is_map = not isinstance(x, tuple) and values.dim() == 5
        mixed = self._mixed(values.movedim(2, -1) if is_map else values, tasks)
        if isinstance(x, tuple):
            return (mixed, *(rest[: len(tasks)] for rest in x[1:]))  # masks are alike
        return mixed.movedim(-1, 2) if is_map else mixed

    def _mixed(self, x: Tensor, tasks: Sequence[str]) -> Tensor:
        alpha = self.alpha(tasks)
        if alpha[0, :, 0].numel() == 1:  # one number per pair of tasks: a product of matrices
            return (alpha.flatten(1) @ x.flatten(1)).view(-1, *x.shape[1:])
        parts = in_parts(x, self.n_subspaces)
        return torch.einsum("isjtc,jb...tc->ib...sc", alpha, parts).flatten(-2)[..., : x.shape[-1]]

    def _start(self, like: Tensor, tasks: Sequence[str]) -> Tensor:
        between = torch.eye(len(self.tasks), dtype=like.dtype, device=like.device)
        between = between[[self.tasks.index(task) for task in tasks]]
        between = between * (1 - len(self.tasks) * self.other) + self.other  # each row sums to 1
        within = torch.eye(self.n_subspaces, dtype=like.dtype, device=like.device)
        return torch.einsum("ij,st->isjt", between, within).unsqueeze(-1)


class Moved(nn.Module):
    """How far weights have been moved from their start; 0 at first.

    Args:
        shape: of the weights.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.empty(*shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.by)


def in_parts(x: Tensor, n: int) -> Tensor:
    """(..., channels) -> (..., n, width): the channels in n parts of one width, the last one filled with zeros."""
    width = -(-x.shape[-1] // n)
    return nn.functional.pad(x, (0, n * width - x.shape[-1])).unflatten(-1, (n, width))


def columns(
    encoder: Callable[[], Encoder], tasks: Sequence[str], from_stage: int
) -> tuple[Encoder, list[Copies], list[int]]:
    """(the shared stages, a copy of each later one per task, the widths of those).

    A stage without weights gives all tasks the same: copies begin above it.
    """
    lower, copies = parted(encoder, tasks, from_stage)
    while copies and not copies[0].weights(tasks[:1]):
        lower.stages.append(copies.pop(0)[tasks[0]])
    return lower, copies, lower.widths[len(lower.stages) :]


def stitched(
    copies: Iterable[nn.Module], mixes: Iterable[nn.Module], x: Features, tasks: Sequence[str]
) -> tuple[list[Features], list[Features]]:
    """(what each stage's copies give, what they give when mixed), for all tasks at once.

    The last stage is not mixed yet: up to there all tasks depend on everything, above it each has its own.
    """
    given: list[Features] = []
    mixed: list[Features] = []
    for stage, mix in zip(copies, [*list(mixes)[:-1], None], strict=True):
        given.append(stage(mixed[-1] if mixed else x, tasks, bool(mixed)))
        if mix is not None:
            mixed.append(mix(given[-1], tasks))
    return given, mixed


def last_mix(mix: nn.Module, x: Features, tasks: Sequence[str], trace: Trace | None) -> dict[str, Features]:
    """Each task's own mixture of what the last copies give.

    Args:
        x: of all copies (copies, batch, ...).
    """
    if trace is None or not trace.apart:
        return by_task(tasks, mix(x, tasks))
    every = [part(x, j) for j in range(len(mix.tasks))]  # type: ignore[arg-type]
    return {task: part(mix(stack([trace.hand(task, z) for z in every]), (task,)), 0) for task in tasks}


def tell(mixes: Iterable[nn.Module], tasks: Sequence[str], trace: Trace | None) -> None:
    """Let it be seen how much these tasks read from whom, the mean over stages."""
    if trace is None or not trace.noting:
        return
    every = list(mixes)
    with torch.no_grad():
        shares = torch.stack([mix.shares(tasks) for mix in every]).mean(0)  # type: ignore[operator]
    names = every[0].tasks
    for task, row in zip(tasks, shares, strict=True):
        for j, other in enumerate(names):  # type: ignore[arg-type]
            if len(names) <= MANY or other == task:  # type: ignore[arg-type]
                trace.note(task, f"from {other}", row[j])
