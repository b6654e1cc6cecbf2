"""Attention-based sharing: each task mixes shared weights with its own, by a coefficient that is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..copies import Copies, leaves, part, side_by_side, stack
from ..data import Inputs
from ..encoders import Encoder
from ..ranges import Range, log
from ..tasks import Task
from . import Features, Sharing, Trace, by_task, parted, run


class Mixing(Sharing):
    """Each task's weights lie between shared ones and its own: min over Theta, a of
    sum_k L_k(f(x; Theta_s, a_k Theta_s' + (1 - a_k) Theta_k), y^k) + strength * sum_k penalty(a_k), a_k in [0, 1].

    Theta_s: the stages below `from_stage`, shared by all tasks. Theta_s': the shared weights of the stages from there
    on; Theta_k: task k's own copy of these. a_k is the fraction of sharing. With a_k = 1 task k has nothing of its own
    but its head (hard sharing), with a_k = 0 its stages are its own (above a trunk that branches at `from_stage`;
    an independent model where that is 0); in both cases the other copy can be deleted, and outputs stay as they are.

    What a penalty does to a_k:

    ``l0``: shares unless that hurts. The task's use of its own weights is a gate z = 1 - a, drawn in training,
    z = clamp(1.2 sigmoid((logit u + log alpha) / (2/3)) - 0.1, 0, 1) with u uniform in (0, 1), which costs P(z > 0).
    What is learned is log alpha; otherwise u = 1/2 and the 2/3 are left out. a reaches 0 and 1 exactly.

    ``share``: (1 - a)^2, towards 1, sharing; the less the nearer, so that few tasks share entirely.

    ``binary``: a (1 - a), and ``entropy``: -a log a - (1 - a) log(1 - a), towards the nearer of 0 and 1: the side that
    fits the training labels better, for small tables most often a task's own weights.

    ``l2``: a^2, towards 0, which is *less* sharing. It does not make a binary, and shared weights go to waste.

    Except with ``l0``, a_k itself is the parameter. Beyond [0, 1] it counts as 0 or 1, and a gradient passes there only
    if its step leads back, so no gate dies at its border; the momentum of an optimiser may carry it further out.

    Own weights that cost nothing make a_k meaningless (any a < 1 allows any weights), so decay them: optimisers with
    weight decay do, and never decay a_k.

    Cost:
        K + 1 trunks of weights, K trunks in one batched pass.

    Args:
        from_stage: the stage at which weights are mixed from; stages below are shared. Negative counts from the end.
        per: a_k for each ``task``, for each ``stage`` of a task, or for each ``tensor``. The penalty is the mean of a
            task's.
        penalty: ``l0``, ``share``, ``binary``, ``entropy`` or ``l2``.
        strength: the factor in front of the penalty.
        start: a_k at the start.
        noise: own weights start as the shared ones plus normal noise of this size, relative to each tensor's root mean
            square; were they equal, a_k would have no gradient in the first step.

    Raises:
        ValueError: an unknown word, a number out of its range, or no weights from `from_stage` on.

    Reference:
        Deng, Kamani, Mahdavi: Adaptive personalized federated learning, 2020 (the mixture). Louizos, Welling, Kingma:
        Learning sparse neural networks through L0 regularization, 2018 (``l0``).

    Differs from the paper:
        Deng et al. detach the shared weights from a task's mixture and train them by themselves; here the loss of the
        mixture trains both. Louizos et al. gate weights; here the gate chooses between two sets of weights.
    """

    min_stages: ClassVar[int] = 2
    search: ClassVar[Mapping[str, Range]] = {"strength": log(0.001, 10)}

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        tasks: Sequence[Task],
        *,
        from_stage: int = 0,
        per: str = "task",
        penalty: str = "l0",
        strength: float = 0.1,
        start: float = 0.5,
        noise: float = 0.1,
    ) -> None:
        super().__init__(encoder, tasks)
        for name, value, known in (("per", per, PER), ("penalty", penalty, ("l0", *PENALTIES))):
            if value not in known:
                raise ValueError(f"`{name}` should be one of {', '.join(known)}. Found `{value}`.")
        if not (strength >= 0 and noise >= 0 and 0 <= start <= 1):
            raise ValueError(
                "`strength` and `noise` should be 0 or more, and `start` between 0 and 1. "
                f"Found {strength}, {noise}, {start}."
            )
        self.settings = {"per": per, "penalty": penalty, "strength": strength, "start": start, "noise": noise}
        self.strength, self.random = strength, penalty == "l0"
        self.lower, copies = parted(encoder, ("", *self.tasks), from_stage)  # no task has an empty name
        tops = {name: nn.Sequential(*(c[name] for c in copies)) for name in ("", *self.tasks)}
        self.shared = tops.pop("")
        self.own = Copies(tops)
        self.begin = _Begin(self.shared, list(tops.values()), noise)
        self._places = list(leaves(self.shared))
        if not self._places:
            raise ValueError(
                "`mixing` should have weights to mix from `from_stage` on. Found none in these stages; give the "
                "encoder hidden stages (`n_layers`), or begin lower."
            )
        stages = [f"stage {len(self.lower.stages) + int(name.split('.')[0])}" for name, _, _ in self._places]
        of = {
            "task": [""] * len(stages),
            "stage": [f", {s}" for s in stages],
            "tensor": [f", {s}: {n.split('.', 1)[1]}" for s, (n, _, _) in zip(stages, self._places, strict=True)],
        }[per]
        labels = list(dict.fromkeys(of))
        self.labels = [f"fraction shared{label}" for label in labels]
        self.groups = [[i for i, other in enumerate(of) if other == label] for label in labels]
        n = len(labels)
        self.gates = Copies(
            {t: _HardConcrete(n, start) if penalty == "l0" else _Fraction(n, start, penalty) for t in self.tasks},
            trunk=False,
        )

    def forward(
        self, x: Inputs, tasks: Sequence[str], table: str | None = None, trace: Trace | None = None
    ) -> dict[str, Features]:
        z = run(self.lower, x, table)
        if trace is not None:
            trace.uncut()  # the shared weights of a mixture have no activation of their own
            if trace.apart:
                return {task: part(self._mixed(z, (task,), trace), 0) for task in tasks}
        return by_task(tasks, self._mixed(z, tasks, trace))

    def _mixed(self, z: Features, tasks: Sequence[str], trace: Trace | None) -> Features:
        """What the mixed stages give these tasks, side by side."""
        gate: Any = self.gates[tasks[0]]  # it does the arithmetic of all
        (raw,) = self.gates.weights(tasks).values()
        share = gate.drawn(raw)
        if trace is not None:
            for task, cost in zip(tasks, (self.strength * gate.penalty(raw, share).mean(1)).unbind(), strict=True):
                trace.add(cost, task)
            if trace.noting:
                self._tell(tasks, gate.expected(raw), trace)
        own = self.own.weights(tasks)
        weights: dict[str, Tensor] = {}
        for a, group in zip(share.unbind(1), self.groups, strict=True):
            places = [self._places[i] for i in group]
            shared = [holder._parameters[key] for _, holder, key in places]
            names = [name for name, _, _ in places]
            weights |= zip(names, _Mixture.apply(a, *shared, *(own[name] for name in names)), strict=True)
        if self.own.batchable and len(tasks) > 1:
            return side_by_side(self.own[tasks[0]], weights, z, own_input=False)
        each = [{name: w[i] for name, w in weights.items()} for i in range(len(tasks))]
        return stack([functional_call(self.own[t], w, (z,)) for t, w in zip(tasks, each, strict=True)])

    def _tell(self, tasks: Sequence[str], expected: Tensor, trace: Trace) -> None:
        for task, fractions in zip(tasks, expected, strict=True):
            for label, value in zip(self.labels, fractions, strict=True):
                trace.note(task, label, value)

    def widths(self, task: str) -> list[int]:
        return [self.lower.widths[-1]]

    def plan(self) -> list[tuple[int, str]]:
        lines = [(0, "shared stages")] if len(self.lower.stages) else []
        return [*lines, *((len(lines), f"stages between shared and own: {t}") for t in self.tasks)]

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.settings.items())


PER = ("task", "stage", "tensor")


def _entropy(a: Tensor) -> Tensor:
    a = a.clamp(1e-6, 1 - 1e-6)  # at 0 and at 1 its slope is infinite
    return -(a * a.log() + (1 - a) * (1 - a).log())


PENALTIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "share": lambda a: (1 - a).square(),
    "binary": lambda a: a * (1 - a),
    "entropy": _entropy,
    "l2": torch.square,
}


class _Begin(nn.Module):
    """Own weights start as the shared ones plus noise, the same for all tasks. It has no weights, and comes last."""

    def __init__(self, shared: nn.Module, own: Sequence[nn.Module], noise: float) -> None:
        super().__init__()
        self.of = (shared, tuple(own))  # in a tuple they are not its children
        self.noise = noise
        self.reset_parameters()

    def reset_parameters(self) -> None:
        shared, own = self.of
        with torch.no_grad():
            for p, *copies in zip(shared.parameters(), *(o.parameters() for o in own), strict=True):
                begin = p + self.noise * p.square().mean().sqrt() * torch.randn_like(p)
                for copy in copies:
                    copy.copy_(begin)


class _Mixture(torch.autograd.Function):
    """a_k W + (1 - a_k) W_k of several weights, for a (tasks,), each W (...) and then each W_k (tasks, ...); exact at 0
    and 1, in few passes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.lerp(own, shared.expand_as(own), _beside(a, own)) for shared, own in _pairs(weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        a, *weights = ctx.saved_tensors
        slope, to_shared, to_own = torch.zeros_like(a), [], []
        for g, (shared, own) in zip(gradients, _pairs(weights), strict=True):
            slope = slope + torch.linalg.vecdot(g.flatten(1), (shared - own).flatten(1))
            to_shared.append(torch.tensordot(a, g, 1))
            to_own.append(g * _beside(1 - a, g))
        return slope, *to_shared, *to_own


def _pairs(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(weights[: len(weights) // 2], weights[len(weights) // 2 :], strict=True))


def _beside(a: Tensor, weights: Tensor) -> Tensor:
    """A number per task, for what has further dimensions."""
    return a.view(-1, *[1] * (weights.dim() - 1))


class _Within(torch.autograd.Function):
    """clamp(a, 0, 1); at the border and beyond a gradient passes if a step against it leads inwards."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return a.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return torch.where(((a <= 0) & (g > 0)) | ((a >= 1) & (g < 0)), 0.0, g)


class _Fraction(nn.Module):
    """The fractions of sharing of one task, as they are."""

    def __init__(self, n: int, start: float, penalty: str) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(n))
        self.start, self.of = start, PENALTIES[penalty]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.a, self.start)

    def forward(self) -> Tensor:
        return self.drawn(self.a)

    def drawn(self, raw: Tensor) -> Tensor:
        """The fractions that hold in a step, from the parameters."""
        return _Within.apply(raw)

    def penalty(self, raw: Tensor, drawn: Tensor) -> Tensor:
        """A number per fraction."""
        return self.of(drawn)

    def expected(self, raw: Tensor) -> Tensor:
        """The fractions without chance."""
        return raw.clamp(0, 1)


LOW, HIGH, BETA = -0.1, 1.1, 2 / 3


class _HardConcrete(nn.Module):
    """The fractions of sharing of one task, 1 - z with z a hard concrete gate: drawn in training."""

    def __init__(self, n: int, start: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.empty(n))
        self.start = start
        self.reset_parameters()

    def reset_parameters(self) -> None:
        s = (1 - self.start - LOW) / (HIGH - LOW)
        nn.init.constant_(self.log_alpha, math.log(s / (1 - s)))

    def forward(self) -> Tensor:
        return self.drawn(self.log_alpha)

    def drawn(self, raw: Tensor) -> Tensor:
        """The fractions that hold in a step, from the parameters."""
        if not self.training:
            return self.expected(raw)
        return self._shared(torch.sigmoid((torch.logit(torch.rand_like(raw)) + raw) / BETA))

    def penalty(self, raw: Tensor, drawn: Tensor) -> Tensor:
        """P(z > 0), the probability that the task uses weights of its own at all."""
        return torch.sigmoid(raw - BETA * math.log(-LOW / HIGH))

    def expected(self, raw: Tensor) -> Tensor:
        """The fractions without chance."""
        return self._shared(torch.sigmoid(raw))

    @staticmethod
    def _shared(s: Tensor) -> Tensor:
        return 1 - (s * (HIGH - LOW) + LOW).clamp(0, 1)
