"""Which way several runs side by side go: from the losses (runs, tasks) of a step to every `.grad`.

Each run's own balance decides, from numbers of that run alone; what is computed to tell them is computed for all runs
at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..balance import Losses, Weighting
from ..balance.aggregation import Aggregation
from ..data import Inputs
from ..faults import ConfigError
from ..gradients.gramian import OVERLAP, Gradients
from ..gradients.graph import Walk
from ..model import Model
from ..sharing import Trace
from ..train import Training
from .beside import Group, leaf_name
from .gradients import StackedGradients, Views, over


@dataclass(frozen=True)
class Step:
    """What a pass of all runs gave.

    Attributes:
        losses: (runs, tasks).
        counted: which of them there are (runs, tasks), in the runs that take the step.
        outputs: what they were made from, (runs, batch, ..., tasks, units) or (runs, batch, ..., units) of one task;
            made anew where `Directions.anew` asks for it, so that the graph of the losses ends there.
        roots: the same as the net gave them.
        views: where `Directions.cut` asked for them.
        beside: which losses are counted -> auxiliary losses and penalties.
        look: the losses of the same rows again, with the weights as they are then (runs, tasks).
    """

    losses: Tensor
    counted: Tensor
    outputs: Sequence[tuple[Tensor, bool]]
    roots: Sequence[Tensor]
    views: Views | None
    beside: Callable[[Tensor], Tensor]
    look: Callable[[], Tensor]


class Directions(ABC):
    """From the losses of a step to every `.grad`, of runs that go side by side.

    Args:
        runs: those that go on.
        names: per run its tasks, in the order of the losses' columns.
    """

    cut = False
    """Whether it reads `Step.views`."""
    anew = False
    """Whether it wants losses whose graph ends at the outputs."""

    def __init__(self, runs: Sequence[Training], names: Sequence[Sequence[str]]) -> None:
        self.runs, self.names = list(runs), list(names)

    @abstractmethod
    def backward(self, step: Step) -> Tensor:
        """Fill every `.grad`, and tell which losses had a part in it (runs, tasks)."""

    def stepped(self) -> None:  # noqa: B027
        """Take note that the optimiser has moved."""

    def keep(self, runs: Sequence[Training], names: Sequence[Sequence[str]]) -> None:
        """Go on with these runs alone."""
        self.runs, self.names = list(runs), list(names)

    def losses_of(self, i: int, columns: Sequence[int], losses: Tensor) -> Losses:
        """Numbers of one run, for its balance."""
        run, own = self.runs[i], [self.names[i][k] for k in columns]
        return Losses(own, losses[i, list(columns)].detach(), weight={t: run.tasks[t].weight for t in own})


class Weighted(Directions):
    """Balances that only weight the losses: one backward pass of the sum over runs and tasks of w_rk L_rk."""

    def __init__(self, runs: Sequence[Training], names: Sequence[Sequence[str]]) -> None:
        super().__init__(runs, names)
        self._constant: Tensor | None = None

    def backward(self, step: Step) -> Tensor:
        weights = self._weights(step)
        total = (torch.where(step.counted, step.losses, 0.0) * weights).sum()
        (total + step.beside(step.counted)).backward()
        return step.counted

    def _weights(self, step: Step) -> Tensor:
        """Each run's own balance weighs its own losses (runs, tasks); absent ones weigh nothing."""
        if self._constant is not None:
            return self._constant * step.counted
        weights = torch.zeros(step.losses.shape, dtype=step.losses.dtype)
        for i, (run, names) in enumerate(zip(self.runs, self.names, strict=True)):
            balance = run.balance
            assert isinstance(balance, Weighting)
            there = list(range(len(names))) if balance.constant else step.counted[i].nonzero().flatten().tolist()
            if there:
                look = self._look_of(i, step.look) if balance.looks else None
                weights[i, there] = balance.weigh(self.losses_of(i, there, step.losses), look)
        if all(run.balance.constant for run in self.runs):
            self._constant = weights
        return weights * step.counted

    def _look_of(self, i: int, look: Callable[[], Tensor]) -> Callable[..., Mapping[str, Tensor]]:
        return lambda: dict(zip(self.names[i], look()[i].detach(), strict=True))

    def stepped(self) -> None:
        for run in self.runs:
            if run.balance.looks:
                run.balance.stepped()

    def keep(self, runs: Sequence[Training], names: Sequence[Sequence[str]]) -> None:
        super().keep(runs, names)
        self._constant = None


class Reach(NamedTuple):
    """Which parameters the tasks of a step reach, by name.

    Attributes:
        shared: those that two tasks or more reach.
        own: those that one task alone reaches.
        alike: whether all tasks reach the shared ones through views of their own of the same activations.
        linear: whether they do so in linear heads, which read one activation.
    """

    shared: frozenset[str]
    own: frozenset[str]
    alike: bool
    linear: bool


KEPT = 64
"""So many combinations of labels missing in the runs of a stack are remembered."""
NOTHING = Reach(frozenset(), frozenset(), False, False)


class Measured(Directions):
    """Balances that read the Gramian of each run's gradients: what tasks share gets sum_k w_k g_k, the rest its own.

    The losses are followed down to the outputs once. From there on a pass goes down for all runs at once: one to the
    views of shared activations (`features`; none where linear heads read one), or one per task to what tasks share
    (`exact`; these gradients are kept until they are multiplied, K times the shared parameters of all runs); then one
    with the weights to what is shared, and one without to what belongs to one task. Where one of several tasks has a
    gradient that is not finite, the others go on without it.

    Args:
        model: stands for the models of all runs.
        weights: leaves (runs, ...), or (runs, tasks, ...) for the heads of a family.
        heads: which leaves those are.
        x, table: some rows; what is shared by whom is asked from the graph of their pass.
    """

    anew = True

    def __init__(
        self,
        runs: Sequence[Training],
        names: Sequence[Sequence[str]],
        model: Model,
        columns: Mapping[str, int],
        weights: Callable[[], Mapping[str, Tensor]],
        heads: Mapping[str, Group],
        x: Inputs,
        table: str,
    ) -> None:
        super().__init__(runs, names)
        self.model, self.weights, self.x, self.table = model, weights, x, table
        self.tasks = sorted(columns, key=columns.__getitem__)
        self.inside = {leaf: heads[leaf].names if leaf in heads else [leaf] for leaf in weights()}
        self._reach: dict[tuple[int, ...], Reach] = {}
        self._masks_of: dict[tuple[Reach, ...], dict[str, Tensor | bool]] = {}
        groups = model.groups(self.tasks)
        self.linear = [leaf_name(group, "weight") if model.linear(group) else None for group in groups]
        asked = any(run.balance.gramian != "exact" for run in runs if isinstance(run.balance, Aggregation))
        pairs = (self.reach((j, i)) for i in range(len(self.tasks)) for j in range(i))
        self.cut = asked and any(reach.alike and not reach.linear for reach in pairs)

    def reach(self, columns: Sequence[int]) -> Reach:
        """What these tasks reach when no others have a label."""
        key = tuple(columns)
        if key not in self._reach:
            self._reach[key] = self._asked([self.tasks[k] for k in key]) if len(key) > 1 else NOTHING
        return self._reach[key]

    def _asked(self, tasks: Sequence[str]) -> Reach:
        trace, was = Trace(cut=True, noting=False, pairing=False), self.model.training
        outputs = self.model.eval()(self.x, tasks, self.table, trace)
        self.model.train(was)
        losses = {task: outputs[task].sum() for task in tasks}
        gradients = Gradients(losses, trace.cut)
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        own = {leaf for leaves in gradients.own.values() for leaf in leaves}
        below = set(Walk(list(losses.values())).leaves) - own
        shared = below if gradients.shared is None else set(gradients.shared)
        alike = gradients.shared is None
        return Reach(
            frozenset(names[p] for p in shared), frozenset(names[p] for p in own), alike, alike and self._linear(tasks)
        )

    def _linear(self, tasks: Sequence[str]) -> bool:
        """Whether what these heads read is their view of one activation, and they are linear."""
        trace = Trace(cut=True, noting=False, pairing=False)
        features = self.model.sharing(self.x, tasks, self.table, trace)
        pairs = {task: (trace.cut or {}).get(task, [])[-1:] for task in tasks}
        if not all(own and own[0][1] is features[task] and self.model.linear((task,)) for task, own in pairs.items()):
            return False
        first = pairs[tasks[0]][0][0]
        return first.dim() == 2 and all(own[0][0] is first for own in pairs.values())

    def backward(self, step: Step) -> Tensor:
        weights_of = self.weights()
        down = StackedGradients(
            step.losses,
            step.counted,
            step.outputs,
            step.roots,
            step.views,
            [None if name is None else weights_of[name].detach() for name in self.linear],
        )
        unweighted, weights = step.counted.to(step.losses.dtype), torch.ones_like(step.losses)
        kept = step.counted.clone()
        reaches, due = [NOTHING] * len(self.runs), []
        for i, run in enumerate(self.runs):
            columns = step.counted[i].nonzero().flatten().tolist()
            if not columns or run.finished:
                continue
            balance, reach = run.balance, self.reach(columns)
            assert isinstance(balance, Aggregation)
            losses = self.losses_of(i, columns, step.losses)
            known = balance.settled(losses, shared=bool(reach.shared))
            if len(columns) == 1:
                unweighted[i, columns[0]] = losses.preferences()[0]
            elif known is None:
                reaches[i] = reach
                due.append(Due(i, columns, balance, losses, reach))
            elif reach.shared:
                reaches[i] = reach
                weights[i, columns] = weights.new_tensor([known[t] for t in losses])
        if due:
            self._measure(due, down)
        for each in due:
            losses, gram = each.balance.finite(each.losses, each.gram)
            found = each.balance.weigh(losses, gram, each.mode) if losses else {}
            for k, task in zip(each.columns, each.losses, strict=True):
                weights[each.run, k] = found.get(task, 0.0)
                kept[each.run, k] = task in found
        self._fill(down, torch.where(kept, unweighted, 0.0), weights, reaches)
        beside = step.beside(kept)
        if beside.requires_grad:
            beside.backward()
        return kept

    def _measure(self, due: Sequence[Due], down: StackedGradients) -> None:
        exact = []
        for each in due:
            mode = each.balance.gramian
            looked_at = mode != "exact" and each.reach.alike
            least = down.overlap(each.run, each.columns, each.reach.linear) if looked_at else 0.0
            if mode == "features" and not least:
                raise ConfigError(
                    "`gramian: features` should have activations that all tasks read through views of their own, and "
                    "tasks that label the same rows. Found a step without; use auto or exact."
                )
            if mode == "features" or (mode == "auto" and least >= OVERLAP):
                each.gram, each.mode = down.features(each.run, each.columns, each.reach.linear), "features"
            else:
                exact.append(each)
        if exact:
            weights = self.weights()
            masks = self._masks([each.reach for each in exact])
            leaves = [leaf for leaf, mask in masks.items() if mask is not False]
            found = down.exact(
                [weights[leaf] for leaf in leaves], [each.run for each in exact], [masks[n] for n in leaves]
            )
            for each, gram in zip(exact, found, strict=True):
                each.gram = gram[np.ix_(each.columns, each.columns)]

    def _masks(self, reaches: Sequence[Reach]) -> dict[str, Tensor | bool]:
        """Per leaf whether it is shared: True or False where all runs agree, else (runs, parameters in it)."""
        key = tuple(reaches)
        if key not in self._masks_of:
            if len(self._masks_of) >= KEPT:
                self._masks_of.clear()
            masks: dict[str, Tensor | bool] = {}
            for leaf, inside in self.inside.items():
                shared = any(not reach.shared.isdisjoint(inside) for reach in key)
                own = any(not reach.own.isdisjoint(inside) for reach in key)
                masks[leaf] = shared
                if shared and own:
                    masks[leaf] = torch.tensor([[name in reach.shared for name in inside] for reach in key])
            self._masks_of[key] = masks
        return self._masks_of[key]

    def _fill(self, down: StackedGradients, unweighted: Tensor, weights: Tensor, reaches: Sequence[Reach]) -> None:
        """The gradients: unweighted for what belongs to one task, weighted for what is shared."""
        leaves, masks = self.weights(), self._masks(reaches)
        own = [leaf for leaf, mask in masks.items() if mask is not True]
        shared = [leaf for leaf, mask in masks.items() if mask is not False]
        plain = dict(zip(own, down.gradients([leaves[n] for n in own], unweighted), strict=True))
        given = dict(zip(shared, down.gradients([leaves[n] for n in shared], unweighted * weights), strict=True))
        for name, mask in masks.items():
            one, other = given.get(name), plain.get(name)
            if one is not None and other is not None:
                assert isinstance(mask, Tensor)
                one = torch.where(over(mask, one, len(self.inside[name])), one, other)
            if (found := other if one is None else one) is not None:
                # in memory of its own, laid out as the weight: an optimiser and a further pass go through it in place
                leaves[name].grad = torch.empty_like(leaves[name]).copy_(found)


@dataclass
class Due:
    """A run whose balance asks for a Gramian in this step."""

    run: int
    columns: list[int]
    balance: Aggregation
    losses: Losses
    reach: Reach
    gram: np.ndarray = None  # type: ignore[assignment]
    mode: str = "exact"
