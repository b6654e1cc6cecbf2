"""Experts that all tasks share, of which each task selects a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..blocks import vector
from ..copies import Copies
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, log, whole
from ..tasks import Task
from . import Features, Sharing, Trace, run
from .experts import above, at_least, climbed, each_or_all, mix, tell


class DSelectK(Sharing):
    """Several trunks, the experts, of which each task comes to select at most k, by gradient descent alone.

    f_k(x) = sum_i q_i f_i(x), with q = sum_l softmax(a)_l r(t^l) over k selectors. A selector spells the number of an
    expert in m = ceil(log2 n) bits, bit j being 1 with weight S(t_j): r(t)_i = prod over the bits of i that are 1 of
    S(t_j) times prod over the others of 1 - S(t_j). The smooth step S(t) = -2 (t / gamma)^3 + 3/2 (t / gamma) + 1/2 is
    0 below -gamma / 2 and 1 above gamma / 2, so selectors end as exactly one expert each; entropy * sum_l H(r(t^l)) is
    added to the loss, to get them there. a and t are a task's parameters (by default), or linear in what the stage
    below the experts gives, row by row.

    Cost:
        `n_experts` trunks above `from_stage`, one batched pass, however many tasks.

    Args:
        n_experts: trunks, n; best a power of two.
        k: experts that a task may select.
        gamma: width of the smooth step.
        entropy: strength of the entropy that keeps selectors from staying undecided.
        per_row: select row by row instead of once for all rows.
        from_stage: the stage at which experts begin; stages below are shared.

    Raises:
        ValueError: no stage is left below the experts, or none above it.

    Reference:
        Hazimeh, Zhao, Chowdhery, Sathiamoorthy, Chen, Mazumder, Hong, Chi: DSelect-k: differentiable selection in the
        mixture of experts with applications to multi-task learning, 2021.

    Differs from the paper:
        Where n is no power of two, the paper adds a loss against the codes that stand for no expert, and weights do not
        sum to 1 until it is minimised. Here those codes stand for the first experts again: weights always sum to 1, and
        the first 2^m - n experts start with twice the weight of the others.
    """

    min_stages: ClassVar[int] = 2
    search: ClassVar[Mapping[str, Range]] = {
        "n_experts": whole(2, 8),
        "gamma": log(0.1, 10),
        "entropy": log(1e-7, 1e-2),
    }

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        n_experts: int = 4,
        k: int = 2,
        gamma: float = 1.0,
        entropy: float = 1e-6,
        per_row: bool = False,
        from_stage: int = 1,
    ) -> None:
        super().__init__(encoder, tasks)
        at_least(1, n_experts=n_experts, k=k)
        if gamma <= 0 or entropy < 0:
            raise ValueError(f"`gamma` should be positive and `entropy` not negative. Found {gamma}, {entropy}.")
        self.entropy, self.per_row = entropy, per_row
        self.labels = [f"expert {i}" for i in range(1, n_experts + 1)]
        self.lower, experts = above(encoder, self.labels, from_stage)
        self.experts = nn.ModuleList(experts)
        width = self.lower.widths[len(self.lower.stages) - 1] if per_row else None
        self.gates = Copies({t: Selectors(n_experts, k, gamma, width) for t in self.tasks}, alike=False, trunk=False)

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)

        def mixture(tasks: Sequence[str], outputs: Features, z: Features = None) -> Features:
            shares, entropies = self.gates(z, tasks)
            tell(trace, tasks, tasks, shares, self.labels)
            if trace is not None and self.entropy:
                for task, value in zip(tasks, entropies, strict=True):
                    trace.add(self.entropy * value, task)
            return mix(shares, outputs)

        return each_or_all(tasks, trace, mixture, climbed(self.experts, z), *([z] if self.per_row else []))

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        k = f"selects {self.gates[self.tasks[0]].k}"
        return [(0, "shared stages"), *((1, label) for label in self.labels), *((2, f"{k}: {t}") for t in self.tasks)]


class Selectors(nn.Module):
    """The k selectors of one task: (weights of the experts, sum of the selectors' entropies).

    Shape:
        z (batch, width) or None -> (batch, n_experts) or (n_experts,), and a scalar: the mean over rows.

    Args:
        width: of what the selection depends on; None where it is one for all rows.
    """

    def __init__(self, n_experts: int, k: int, gamma: float, width: int | None = None) -> None:
        super().__init__()
        self.n_experts, self.k, self.gamma = n_experts, k, gamma
        self.n_bits = (n_experts - 1).bit_length()
        n = k * (1 + self.n_bits)
        self.weight = None if width is None else nn.Parameter(torch.empty(n, width))
        self.bias = nn.Parameter(torch.empty(n))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for p in self.parameters():
            nn.init.uniform_(p, -self.gamma / 100, self.gamma / 100)

    def forward(self, z: Features = None) -> tuple[Tensor, Tensor]:
        numbers = self.bias if self.weight is None else nn.functional.linear(vector(z), self.weight, self.bias)
        numbers = numbers.unflatten(-1, (self.k, 1 + self.n_bits))
        ones = smooth_step(numbers[..., 1:], self.gamma)
        r = torch.ones_like(numbers[..., :1])
        for j in range(self.n_bits):
            bit = ones[..., j : j + 1]  # code i, then code i + 2^j
            r = torch.cat([r * (1 - bit), r * bit], -1)
        n = self.n_experts
        r = r[..., :n] + nn.functional.pad(r[..., n:], (0, 2 * n - r.shape[-1]))
        entropy = -(r * r.clamp(min=1e-6).log()).sum((-2, -1))
        return (numbers[..., 0].softmax(-1).unsqueeze(-1) * r).sum(-2), entropy.mean()


def smooth_step(t: Tensor, gamma: float) -> Tensor:
    """0 below -gamma / 2, 1 above gamma / 2, a cubic between, without a kink."""
    u = (t / gamma).clamp(-0.5, 0.5)
    return -2 * u**3 + 1.5 * u + 0.5
