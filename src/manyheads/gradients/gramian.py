"""Inner products of the tasks' gradients, G[i, j] = <g_i, g_j> over the parameters that tasks share.

Which parameters are shared is asked from autograd's graph, in each step. Two matrices can stand for G:

* ``features``: of the gradients at the activations that all tasks read (MGDA-UB): one pass through the heads, and no
  further one. It is right only where the tasks label the same rows: gradients of different rows look orthogonal there.
  Linear heads need nothing but their residuals E_k: dL_k/dz = E_k W_k, so <.,.> = sum (E_i' E_j) * (W_i W_j').
* ``exact``: of the gradients of the shared parameters themselves. They are not stored: a pass per task carries the
  gradients of activations D_k down to the layers, all tasks in one batch where torch can, and a linear layer with input
  A gives <D_i' A, D_j' A> as <D_i, (A A') D_j> (few rows) or from D_k' A (many), whichever is cheaper. Tasks whose rows
  went through the net separately (tables of their own) pass only through their own graphs.

References:
    Sener, Koltun: Multi-task learning as multi-objective optimization, 2018 (features). Goodfellow: Efficient
    per-example gradient computations, 2015 (products of rows for gradients of linear layers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from ..faults import ConfigError
from .graph import Walk
from .heads import Heads, LinearHeads, Product, cloned, linear_head
from .layers import Part, Pass, accumulate, add, joined

Cut = Mapping[str, Sequence[tuple[Tensor, Tensor]] | Product]
"""task -> pairs (shared activation, the task's own view of it), or the product that its head is computed in."""

MODES = ("auto", "features", "exact")
OVERLAP = 0.9
"""With ``auto``, `features` needs each pair of tasks to have this part of the rows of the larger in common."""


class Gradients:
    """The gradients of one step: of each task's own parameters, and of the shared ones once weights are known.

    Args:
        losses: a scalar per task, each with a graph of its own, or of those that `cut` has in one product, in common.
        cut: where every loss reaches the shared part of the net, through views or outputs of its own.
        features: shared activations through which all losses reach the shared part, where there are no views.
        scale: the factor of a GradScaler: gradients are that much larger, `gram` is not.

    Raises:
        ValueError: losses of heads in one product have a parameter of their own.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        cut: Cut | None = None,
        features: Sequence[Tensor] | None = None,
        scale: float = 1.0,
    ) -> None:
        self.tasks, self.losses, self.scale = tuple(losses), dict(losses), scale
        self.mode = "exact"
        """How `gram` was found."""
        self.own: dict[str, list[Tensor]] = {}
        """Per task the parameters that it alone reaches."""
        self.shared: list[Tensor] | None = None
        """The parameters that two tasks or more reach; None where that is everything below the cut."""
        self._own_gradients: dict[str, list[Tensor | None]] = {}
        self._parts: dict[Tensor, list[Part]] | None = None
        products = list({id(p): p for task in losses if isinstance(p := (cut or {}).get(task), Product)}.values())
        refuse_parameters(losses, products)
        if features is not None:
            self.losses |= separated(self.losses, products, scale)
            products = []
        self._heads = self._find_heads(cut, features, products)
        if self._heads is None:
            self.losses |= separated(self.losses, products, scale)
            self._divide({task: list(Walk([loss]).leaves) for task, loss in self.losses.items()})
        elif len({self._heads.read(task) for task in self.tasks}) > 1:  # what is below may be one task's alone
            below = {task: Walk(self._heads.activations(task)).leaves for task in self.tasks}
            self._divide({task: [*self._heads.own[task], *leaves] for task, leaves in below.items()})
        else:
            self.own = {task: list(leaves) for task, leaves in self._heads.own.items()}
            if not any(self._heads.read(task) for task in self.tasks):
                self.shared = []  # what is below does not learn

    def _divide(self, reach: Mapping[str, Iterable[Tensor]]) -> None:
        count: dict[Tensor, int] = {}
        for leaves in reach.values():
            for leaf in leaves:
                count[leaf] = count.get(leaf, 0) + 1
        self.shared = [leaf for leaf, n in count.items() if n > 1]
        self.own = {task: [leaf for leaf in leaves if count[leaf] == 1] for task, leaves in reach.items()}

    def _find_heads(
        self, cut: Cut | None, features: Sequence[Tensor] | None, products: Sequence[Product]
    ) -> Heads | None:
        """What is above the cut, if every loss reaches the rest only through it."""
        beside = {task for product in products for task in product.tasks}
        alone = [task for task in self.tasks if task not in beside]
        pairs: dict[str, list[tuple[Tensor, Tensor]]]
        if features is not None:
            pairs = {task: [(z, z) for z in features] for task in alone}
        elif cut is not None and all(task in cut for task in alone):
            pairs = {task: list(cut[task]) for task in alone}  # type: ignore[arg-type]
        else:
            return None
        pairs = {task: [(z, v) for z, v in own if v.grad_fn is not None] for task, own in pairs.items()}
        pairs = {task: list({id(v): (z, v) for z, v in own}.values()) for task, own in pairs.items()}
        gates = {(view.grad_fn, view.output_nr): task for task, own in pairs.items() for _, view in own}
        walks = {task: Walk([self.losses[task]], gates) for task in alone}
        owner: dict[Tensor, str] = {}
        for task, walk in walks.items():
            if features is None and any(gates[gate] != task for gate in walk.entries):
                return None  # it reads what is another's
            if any(owner.setdefault(leaf, task) != task for leaf in walk.leaves):
                return None  # two heads share a parameter
        for task, leaf in ((t, x) for p in products for t, own in zip(p.tasks, p.leaves, strict=True) for x in own):
            if leaf is not None and owner.setdefault(leaf, task) != task:
                return None
        below = Walk([z for own in pairs.values() for z, _ in own] + [product.shared for product in products])
        if not owner.keys().isdisjoint(below.leaves):
            return None  # a head uses what is below the cut: a tied weight, a connection past it
        if features is not None and any(z.grad_fn in below.parents for z in features):
            return None  # one is made from another, whose gradient would contain its own
        linear = [linear_head(task, walks[task], pairs[task]) for task in alone]
        every = [*products, *(head for head in linear if head is not None)]
        if None not in linear and len({id(p.shared) for p in every}) == 1 and every[0].shared.requires_grad:
            used = {leaf for product in every for own in product.leaves for leaf in own}
            rest = {task: [leaf for leaf in walk.leaves if leaf not in used] for task, walk in walks.items()}
            return LinearHeads(self.losses, every, rest, self.scale)
        return Heads(self.losses, walks, pairs, products, self.scale, together=features is None)

    # -- the Gramian

    def measure(self, mode: str = "auto") -> np.ndarray:
        """G (tasks, tasks) float64; not finite where a task's gradient is not.

        Args:
            mode: one of `MODES`.

        Raises:
            ConfigError: `features` where the tasks have no activation, or no row, in common.
        """
        self.mode = self._chosen(mode)
        if self.mode == "features":
            assert self._heads is not None
            gram = self._heads.gram()
        else:
            gram = self._exact()
        found = gram.detach().cpu().double().numpy() / self.scale**2
        return (found + found.T) / 2

    def _chosen(self, mode: str) -> str:
        if mode == "exact":
            return mode
        heads = self._heads
        alike = heads is not None and len({heads.read(task) for task in self.tasks}) == 1 and heads.read(self.tasks[0])
        least = heads.overlap() if alike and heads is not None else 0.0
        if mode == "auto":
            return "features" if least >= OVERLAP else "exact"
        if not alike:
            raise ConfigError(
                "`gramian: features` should have activations that all tasks read through views of their own. Found "
                "none in this step (tables of their own, heads that read another task, share a parameter or reach past "
                "the cut, mixed weights, no `features=` beside a dict of losses); use auto or exact."
            )
        if not least:
            raise ConfigError(
                "`gramian: features` should have tasks that label the same rows. Found two that have no row in common "
                "in this step, which would look orthogonal whatever they want; use auto or exact."
            )
        return mode

    def _exact(self) -> Tensor:
        """Over the parameters; over all leaves that ask for gradients where none of them is an `nn.Parameter`."""
        parts: dict[Tensor, list[Part]] = {}
        passes = self._passes()
        for each in passes:
            for leaf, part in each.run(self._own_gradients).items():
                parts.setdefault(leaf, []).append(part)
        self._parts = {leaf: joined(own) for leaf, own in parts.items()}
        first = next(iter(self.losses.values()))
        gram = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64, device=first.device)
        every = not any(isinstance(leaf, Parameter) for leaf in parts)
        for leaf, own in self._parts.items():
            if every or isinstance(leaf, Parameter):
                add(gram, own)
        if any(each.sparse for each in passes):  # such gradients are to stay sparse, as they are on the way back
            self._parts = None
        return gram

    def _passes(self) -> list[Pass]:
        """One for each group of tasks that go down from the same activations."""
        asked = None if self.shared is None else set(self.shared)
        if self._heads is None:
            n = len(self.tasks)
            return [
                Pass((i,), [loss], [[torch.full_like(loss, self.scale)]], asked, {task: self.own[task]}, n)
                for i, (task, loss) in enumerate(self.losses.items())
                if loss.requires_grad
            ]
        groups: dict[frozenset[int], list[int]] = {}
        for i, task in enumerate(self.tasks):
            groups.setdefault(self._heads.read(task), []).append(i)
        passes = []
        for read, members in groups.items():
            names = tuple(self.tasks[i] for i in members)
            if not read:
                continue
            roots = self._heads.activations(names[0])
            above = {task: set(self._heads.own[task]) for task in names}
            below = {t: [leaf for leaf in self.own[t] if leaf not in above[t]] for t in names}
            passes.append(Pass(members, roots, self._heads.gradients(names), asked, below, len(names)))
        return passes

    # -- the way back

    def backward(self, weights: Mapping[str, float], aux: Sequence[Tensor] = ()) -> None:
        """Add to every `.grad`: sum_k w_k g_k for shared parameters, its own gradient for a task's own.

        Args:
            weights: one per task; a task that is left out adds nothing, to its own parameters either.
            aux: further scalars, minimised as they are.
        """
        kept = [task for task in self.tasks if task in weights]
        self._add_own(kept)
        if self._parts is not None:
            self._add_parts({i: weights[task] for i, task in enumerate(self.tasks) if task in weights})
            if rest := [value for value in aux if value.requires_grad]:
                torch.autograd.backward(rest, [torch.full_like(value, self.scale) for value in rest])
            return
        roots: list[Tensor] = []
        directions: list[Tensor] = []
        if self._heads is not None:
            roots, directions = self._heads.combined(kept, weights)
        elif self.shared:
            moving = [task for task in kept if self.losses[task].requires_grad]
            roots = [self.losses[task] for task in moving]
            directions = [torch.full_like(self.losses[task], self.scale * weights[task]) for task in moving]
        rest = [value for value in aux if value.requires_grad]
        scales = [torch.full_like(value, self.scale) for value in rest]
        if self.shared is None:
            if roots or rest:
                torch.autograd.backward([*roots, *rest], [*directions, *scales])
            return
        if roots and self.shared:
            torch.autograd.backward(roots, directions, inputs=self.shared, retain_graph=bool(rest))
        if rest:
            torch.autograd.backward(rest, scales)

    def rows(self) -> dict[str, dict[Tensor, Tensor]]:
        """The gradients themselves, `scale` times as large: task -> parameter -> gradient, shared and own ones."""
        found: dict[str, dict[Tensor, Tensor | None]] = {task: {} for task in self.tasks}
        own = {leaf for leaves in self.own.values() for leaf in leaves}
        for each in self._passes():
            leaves = list(Walk(each.roots).leaves)
            gradients = each.gradients(leaves) if leaves else []
            for j, i in enumerate(each.places):
                mine = [None if g is None else g[j] for g in gradients]
                mine = [cloned([g])[0] if x in own else g for x, g in zip(leaves, mine, strict=True)]
                found[self.tasks[i]] |= dict(zip(leaves, mine, strict=True))
        if self._heads is not None:
            for task in self.tasks:
                found[task] |= dict(zip(self._heads.own[task], self._heads.own_gradients(task), strict=True))
        return {task: {x: g for x, g in row.items() if g is not None} for task, row in found.items()}

    @torch.no_grad()
    def _add_parts(self, weights: Mapping[int, float]) -> None:
        """The weighted sums of gradients that were carried down to be measured: no further pass is needed."""
        assert self._parts is not None
        for leaf, parts in self._parts.items():
            for part in parts:
                if not weights.keys().isdisjoint(part.places):
                    accumulate(leaf, part.combined(weights).view(leaf.shape))

    def _add_own(self, kept: Sequence[str]) -> None:
        for task in kept:
            found: list[tuple[Tensor, Tensor | None]] = []
            if self._heads is not None:
                found += list(zip(self._heads.own[task], self._heads.own_gradients(task), strict=True))
            above = set() if self._heads is None else set(self._heads.own[task])
            rest = [leaf for leaf in self.own[task] if leaf not in above]
            if rest and task not in self._own_gradients:
                roots, directions = [self.losses[task]], [torch.full_like(self.losses[task], self.scale)]
                if self._heads is not None:
                    roots = self._heads.activations(task)
                    directions = [d[0] for d in self._heads.gradients((task,))]
                self._own_gradients[task] = list(
                    torch.autograd.grad(roots, rest, directions, retain_graph=True, allow_unused=True)
                )
            found += list(zip(rest, cloned(self._own_gradients.get(task, ())), strict=True))
            for leaf, gradient in found:
                if gradient is not None:
                    accumulate(leaf, gradient)


def refuse_parameters(losses: Mapping[str, Tensor], products: Sequence[Product]) -> None:
    """Refuse losses of heads in one product that reach anything but its outputs: whose it is, nobody could tell."""
    for product in products:
        gates = {(output.grad_fn, output.output_nr) for output in product.outputs if isinstance(output, Tensor)}
        roots = {loss.grad_fn: loss for task, loss in losses.items() if task in product.tasks}
        if leaves := Walk(list(roots.values()), gates).leaves:
            raise ValueError(
                "Losses of heads that are computed in one product should depend on its outputs alone. Found a "
                f"parameter of shape {tuple(next(iter(leaves)).shape)} in those of {', '.join(product.tasks)}; give "
                "such tasks no `family()`."
            )


def separated(losses: Mapping[str, Tensor], products: Sequence[Product], scale: float) -> dict[str, Tensor]:
    """For tasks whose heads are in one product, scalars with the gradients of their losses and a graph for each.

    With E_k, the gradient of the loss at the outputs of head k: <E_k, z W_k' + b_k>, where E_k is constant.
    """
    found: dict[str, Tensor] = {}
    for product in products:
        own = [losses[task] for task in product.tasks if task in losses]
        scales = [torch.full_like(loss, scale) for loss in own]
        asked: Sequence[Any] = product.outputs
        errors = product.errors(torch.autograd.grad(own, asked, scales, retain_graph=True)) / scale
        z, weights = product.shared.to(errors.dtype), product.weight.to(errors.dtype).split(product.units)
        for task, e, w, (weight, bias) in zip(
            product.tasks, errors.split(product.units, 1), weights, product.leaves, strict=True
        ):
            if task in losses:
                output = z @ (w if weight is None else weight.to(e.dtype)).T
                found[task] = ((output if bias is None else output + bias.to(e.dtype)) * e).sum()
    return found
