"""What schemes with experts have in common: experts run as one, gates, mixtures, levels of shared and own experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import vector
from ..copies import Copies, part, stack
from ..encoders import Encoder
from . import Features, Trace, by_task, parted


class Gate(nn.Linear):
    """One number per expert and row, linear in what the stage below the experts gives, as a vector per row."""

    def __init__(self, width: int, n_experts: int) -> None:
        super().__init__(width, n_experts, bias=False)

    def forward(self, z: Features) -> Tensor:
        return super().forward(vector(z))


def above(encoder: Callable[[], Encoder], names: Sequence[str], from_stage: int) -> tuple[Encoder, list[Copies]]:
    """(the shared stages, experts under these names: copies of each stage from `from_stage` on, of different starts).

    Raises:
        ValueError: no stage is left below the experts, or none above it.
    """
    lower, stages = parted(encoder, names, from_stage, alike=False)
    if not lower.stages or not stages:
        raise ValueError(
            "`from_stage` should leave a stage below the experts, which the gates read, and one to make experts of. "
            f"Found {from_stage} with {len(lower.stages) + len(stages)} stages; the first stage is number 0."
        )
    return lower, stages


def at_least(least: int, **settings: int) -> None:
    """Settings that count something.

    Raises:
        ValueError: one is smaller.
    """
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"`{name}` should be at least {least}. Found {value}.")


def climbed(
    stages: Iterable[nn.Module], x: Features, names: Sequence[str] | None = None, own: bool = False
) -> Features:
    """What these experts give, each tensor (experts, batch, ...); they read x, or with `own` each its part of x."""
    for stage in stages:
        x, own = stage(x, names, own), True
    return x


def each_or_all(
    tasks: Sequence[str], trace: Trace | None, mixture: Callable[..., Features], *shared: Features
) -> dict[str, Features]:
    """What `mixture(tasks, *shared)` gives for all tasks at once; for each alone, from its own views, where kept apart.

    Args:
        mixture: gives each tensor a first dimension of tasks.
        shared: activations that all tasks read.
    """
    if trace is None or not trace.apart:
        return by_task(tasks, mixture(tasks, *shared))
    return {task: part(mixture((task,), *(trace.hand(task, z) for z in shared)), 0) for task in tasks}


def mix(shares: Tensor, outputs: Features, own: bool = False) -> Features:
    """Sums over experts, weighted by task (and row).

    Shape:
        shares (tasks, batch, experts) or (tasks, experts); outputs (experts, batch, ...), or with `own`
        (experts, tasks, batch, ...) -> (tasks, batch, ...).
    """
    if isinstance(outputs, tuple):  # a sequence; experts agree on its mask and what follows
        values, *rest = outputs
        return (mix(shares, values, own), *(z[0] if own else z[0].expand(len(shares), *z.shape[1:]) for z in rest))
    shares = shares.to(outputs.dtype)
    if own:
        return torch.einsum("kbe,ekb...->kb...", shares, outputs)
    if shares.dim() == 2:
        shares = shares.unsqueeze(1).expand(-1, outputs.shape[1], -1)
    flat = outputs.flatten(2)
    total = _Weighted.apply(shares, flat) if torch.is_grad_enabled() else _weighted(shares, flat)
    return total.unflatten(-1, outputs.shape[2:])


def _weighted(shares: Tensor, outputs: Tensor) -> Tensor:
    """Expert by expert: the bits of a matrix product would depend on how many tasks there are, and in which order."""
    total = shares[..., :1] * outputs[0]
    for i in range(1, len(outputs)):
        total = torch.addcmul(total, shares[..., i : i + 1], outputs[i])
    return total


class _Weighted(torch.autograd.Function):
    """`_weighted`, whose gradients are two matrix products."""

    generate_vmap_rule = True

    @staticmethod
    def forward(shares: Tensor, outputs: Tensor) -> Tensor:
        return _weighted(shares, outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, down: Tensor) -> tuple[Tensor, Tensor]:
        shares, outputs = ctx.saved_tensors
        return torch.einsum("kbd,ebd->kbe", down, outputs), torch.einsum("kbe,kbd->ebd", shares, down)


def tell(
    trace: Trace | None, asked: Sequence[str], tasks: Sequence[str], shares: Tensor, labels: Sequence[str]
) -> None:
    """Note the share of each expert for those of these tasks that are asked; shares (tasks, ..., experts)."""
    if trace is not None and trace.noting:
        for task, own in zip(tasks, shares, strict=True):
            for i, label in enumerate(labels if task in asked else ()):
                trace.note(task, label, own[..., i])


class Level(nn.Module):
    """Shared experts and each task's own, and the gates that mix them.

    Args:
        stages: of each stage, a copy for each expert, under the names of `names`.
        tasks: all tasks.
        width: of what the gates read.
        last: no level above reads a mixture of all experts.
    """

    def __init__(
        self, stages: Sequence[Copies], tasks: Sequence[str], n_shared: int, n_own: int, width: int, last: bool = True
    ) -> None:
        super().__init__()
        self.n_shared, self.n_own = n_shared, n_own
        shared, own = names((), n_shared, 0), range(1, n_own + 1)
        self.shared = nn.ModuleList([Copies({n: s[n] for n in shared}, alike=False) for s in stages if n_shared])
        self.own = nn.ModuleList(
            nn.ModuleList(Copies({t: s[_own(i, t)] for t in tasks}, alike=False) for s in stages) for i in own
        )
        self.stages = list(stages)  # not submodules of this one: the same experts, to be run together
        self.labels = [*shared, *(f"own {i}" for i in own)]
        self.gates = Copies({t: Gate(width, len(self.labels)) for t in tasks}, alike=False, trunk=False)
        self.shared_gate: Copies | None = None
        if not last:
            self.shared_gate = Copies({n: Gate(width, 1) for n in names(tasks, n_shared, n_own)}, alike=False)

    def outputs(
        self, tasks: Sequence[str], shared: Features | None, own: Features | None = None
    ) -> tuple[Features, Features]:
        """What shared experts give (experts, batch, ...), and what these tasks' own give (experts, tasks, batch, ...).

        Args:
            shared: what the shared experts read; None where they are not asked.
            own: what each task's own experts read (tasks, batch, ...); None where they read the same.
        """
        n = 0 if shared is None else self.n_shared
        asked = names(tasks, n, self.n_own)
        if not asked:
            return None, None
        if own is None:
            found = climbed(self.stages, shared, asked)
        else:
            read = [each(lambda z: z.expand(n, *z.shape), shared)] if n else []
            found = climbed(self.stages, _cat([*read, *[own] * self.n_own]), asked, own=True)
        of_tasks = (self.n_own, len(tasks))
        return (
            each(lambda z: z[:n], found) if n else None,
            each(lambda z: z[n:].unflatten(0, of_tasks), found) if 0 not in of_tasks else None,
        )

    def shares(self, tasks: Sequence[str], read: Features, own: bool) -> Tensor:
        """How much of each expert these tasks take (tasks, batch, experts).

        Args:
            own: each task's gate has an input of its own.
        """
        return self.gates(read, tasks, own).softmax(-1)

    def mixed(self, shares: Tensor, shared: Features | None, own: Features | None) -> Features:
        """What tasks get (tasks, batch, ...): their shares of what `outputs` gave."""
        if own is None:
            return mix(shares, shared)
        private = mix(shares[..., self.n_shared :], own, own=True)
        if shared is None:
            return private
        common = mix(shares[..., : self.n_shared], shared)
        return (common[0] + private[0], *common[1:]) if isinstance(common, tuple) else common + private

    def common(self, tasks: Sequence[str], read: Features, shared: Features, own: Features) -> Features:
        """What the shared experts of the next level read: a mixture of all experts.

        Args:
            tasks: all tasks, always in the same order: sums of floating-point numbers depend on it.
            read: what the shared gate reads.
        """
        assert self.shared_gate is not None
        shares = self.shared_gate(read, names(tasks, self.n_shared, self.n_own)).softmax(0)  # (experts, batch, 1)
        found = _cat([shared, each(lambda z: z.flatten(0, 1), own)])
        return part(mix(shares.permute(2, 1, 0), found), 0)

    def features(
        self,
        tasks: Sequence[str],
        shared: Features,
        own: Callable[[Sequence[str]], Features | None],
        trace: Trace | None,
        prefix: str = "",
    ) -> dict[str, Features]:
        """What heads read, where this is the last level.

        Args:
            shared: what the shared experts read.
            own: what the gates and own experts of these tasks read (tasks, batch, ...), from their own views; None
                where they read the same as the shared ones.
            prefix: of what is noted.
        """
        if trace is None or not trace.apart:
            read = own(tasks)
            return by_task(tasks, self._finish(tasks, shared, read, *self.outputs(tasks, shared, read), trace, prefix))
        common, _ = self.outputs((), shared)
        found = {}
        for task in tasks:
            read = own((task,))
            view = None if common is None else trace.hand(task, common)
            private = self.outputs((task,), None, read)[1]
            found[task] = part(self._finish((task,), None, read, view, private, trace, prefix), 0)
        return found

    def _finish(
        self,
        tasks: Sequence[str],
        shared_read: Features | None,
        own_read: Features | None,
        shared: Features | None,
        own: Features | None,
        trace: Trace | None,
        prefix: str,
    ) -> Features:
        read = shared_read if own_read is None else own_read
        shares = self.shares(tasks, read, own_read is not None)
        tell(trace, tasks, tasks, shares, [prefix + label for label in self.labels])
        if trace is not None and trace.pairing and shared is not None and own is not None:
            common = vector(_mean(shared))
            trace.pairs += [(common, vector(part(_mean(own), k))) for k in range(len(tasks))]
        return self.mixed(shares, shared, own)


def names(tasks: Sequence[str], n_shared: int, n_own: int) -> list[str]:
    """The experts of a level by name: the shared ones, then by number the tasks' own."""
    shared = [f"shared {i}" for i in range(1, n_shared + 1)]
    return shared + [_own(i, task) for i in range(1, n_own + 1) for task in tasks]


def _own(i: int, task: str) -> str:
    return f"own {i}: {task}"


def each(function: Callable[[Tensor], Tensor], features: Features) -> Features:
    """A function of every tensor of some features."""
    if isinstance(features, tuple):
        return tuple(function(z) for z in features)
    return function(features)


def _cat(features: Sequence[Features]) -> Features:
    if isinstance(features[0], tuple):
        return tuple(torch.cat(z) for z in zip(*features, strict=True))
    return torch.cat(list(features))


def _mean(outputs: Features) -> Features:
    """Over the experts."""
    if isinstance(outputs, tuple):
        return (outputs[0].mean(0), *(z[0] for z in outputs[1:]))
    return outputs.mean(0)


def alone(trace: Trace | None, task: str, z: Features) -> Features:
    """The task's own view of a shared activation, with a first dimension of one task."""
    return stack([z if trace is None else trace.hand(task, z)])
