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

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

Cut = Mapping[str, Sequence[tuple[Tensor, Tensor]]]
"""task -> pairs (shared activation, the task's own view of it)."""

MODES = ("auto", "features", "exact")
OVERLAP = 0.5
"""With ``auto``, `features` needs each pair of tasks to have this part of the rows of the smaller in common."""
LOOKED_AT = 16
"""So many of an activation's numbers tell whether a row has a gradient."""


class Gradients:
    """The gradients of one step: of each task's own parameters, and of the shared ones once weights are known.

    Args:
        losses: a scalar per task, each with a graph of its own.
        cut: where every loss reaches the shared part of the net through views of its own.
        features: shared activations through which all losses reach the shared part, where there are no views.
        scale: the factor of a GradScaler: gradients are that much larger, `gram` is not.
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
        self._heads = self._find_heads(cut, features)
        if self._heads is None:
            self._divide({task: list(_Walk([loss]).leaves) for task, loss in losses.items()})
        elif len({self._heads.read(task) for task in self.tasks}) > 1:  # what is below may be one task's alone
            below = {task: _Walk(self._heads.activations(task)).leaves for task in self.tasks}
            self._divide({task: [*self._heads.own[task], *leaves] for task, leaves in below.items()})
        else:
            self.own = {task: list(leaves) for task, leaves in self._heads.own.items()}

    def _divide(self, reach: Mapping[str, Iterable[Tensor]]) -> None:
        count: dict[Tensor, int] = {}
        for leaves in reach.values():
            for leaf in leaves:
                count[leaf] = count.get(leaf, 0) + 1
        self.shared = [leaf for leaf, n in count.items() if n > 1]
        self.own = {task: [leaf for leaf in leaves if count[leaf] == 1] for task, leaves in reach.items()}

    def _find_heads(self, cut: Cut | None, features: Sequence[Tensor] | None) -> _Heads | None:
        """What is above the cut, if every loss reaches the rest only through it."""
        pairs: dict[str, list[tuple[Tensor, Tensor]]]
        if features is not None:
            pairs = {task: [(z, z) for z in features] for task in self.tasks}
        elif cut is not None and all(task in cut for task in self.tasks):
            pairs = {task: list(cut[task]) for task in self.tasks}
        else:
            return None
        pairs = {task: [(z, v) for z, v in own if v.grad_fn is not None] for task, own in pairs.items()}
        gates = {view.grad_fn: task for task, own in pairs.items() for _, view in own}
        walks = {task: _Walk([loss], gates) for task, loss in self.losses.items()}
        owner: dict[Tensor, str] = {}
        for task, walk in walks.items():
            if features is None and any(gates[gate] != task for gate in walk.entries):
                return None  # it reads what is another's
            if any(owner.setdefault(leaf, task) != task for leaf in walk.leaves):
                return None  # two heads share a parameter
        if features is not None:
            return _Heads(self.losses, walks, pairs, self.scale, together=False)
        linear = [_linear_head(walks[task], pairs[task]) for task in self.tasks]
        if all(head is not None for head in linear) and len({id(pairs[task][0][0]) for task in self.tasks}) == 1:
            return _LinearHeads(self.losses, walks, pairs, self.scale, linear)  # type: ignore[arg-type]
        return _Heads(self.losses, walks, pairs, self.scale)

    # -- the Gramian

    def measure(self, mode: str = "auto") -> np.ndarray:
        """G (tasks, tasks) float64; not finite where a task's gradient is not.

        Args:
            mode: one of `MODES`.

        Raises:
            ValueError: `features` where the tasks have no activation, or no row, in common.
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
            raise ValueError(
                "`gramian: features` should have activations that all tasks read through views of their own. Found "
                "none in this step (tables of their own, a head that reads another task, weights that are mixed, or "
                "no `features=` with a bare dict of losses); use auto or exact."
            )
        if not least:
            raise ValueError(
                "`gramian: features` should have tasks that label the same rows. Found two that have no row in common "
                "in this step, which would look orthogonal whatever they want; use auto or exact."
            )
        return mode

    def _exact(self) -> Tensor:
        passes = self._passes()
        by_leaf: dict[Tensor, list[_Part]] = {}
        for each in passes:
            for leaf, part in each.run(self._own_gradients).items():
                by_leaf.setdefault(leaf, []).append(part)
        first = next(iter(self.losses.values()))
        gram = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64, device=first.device)
        for leaf in list(by_leaf):
            _add(gram, by_leaf.pop(leaf))
        return gram

    def _passes(self) -> list[_Pass]:
        """One for each group of tasks that go down from the same activations."""
        if self._heads is None:
            return [
                _Pass((i,), [loss], [[torch.full_like(loss, self.scale)]], self._asked((task,)), {task: self.own[task]})
                for i, (task, loss) in enumerate(self.losses.items())
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
            passes.append(_Pass(members, roots, self._heads.gradients(names), self._asked(names), below, len(groups)))
        return passes

    def _asked(self, tasks: Sequence[str]) -> set[Tensor] | None:
        return None if self.shared is None else set(self.shared)

    # -- the way back

    def backward(self, weights: Mapping[str, float], aux: Sequence[Tensor] = ()) -> None:
        """Add to every `.grad`: sum_k w_k g_k for shared parameters, its own gradient for a task's own.

        Args:
            weights: one per task; a task that is left out adds nothing, to its own parameters either.
            aux: further scalars, minimised as they are.
        """
        kept = [task for task in self.tasks if task in weights]
        self._add_own(kept)
        roots: list[Tensor] = []
        directions: list[Tensor] = []
        if self._heads is not None:
            roots, directions = self._heads.combined(kept, weights)
        elif self.shared:
            roots = [self.losses[task] for task in kept]
            directions = [torch.full_like(loss, self.scale * weights[t]) for t, loss in zip(kept, roots, strict=True)]
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
        for each in self._passes():
            leaves = list(_Walk(each.roots).leaves)
            gradients = each.gradients(leaves) if leaves else []
            for j, i in enumerate(each.places):
                found[self.tasks[i]] |= {x: None if g is None else g[j] for x, g in zip(leaves, gradients, strict=True)}
        if self._heads is not None:
            for task in self.tasks:
                found[task] |= dict(zip(self._heads.own[task], self._heads.own_gradients(task), strict=True))
        return {task: {x: g for x, g in own.items() if g is not None} for task, own in found.items()}

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
            found += list(zip(rest, self._own_gradients.get(task, ()), strict=True))
            for leaf, gradient in found:
                if gradient is not None:
                    leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


# -- the graph


class _Walk:
    """The graph below some tensors, down to the gates and no further.

    Attributes:
        leaves: parameters -> their node.
        parents: node -> those that read it, and as which of their inputs.
        entries: gates that were met.
    """

    def __init__(self, roots: Sequence[Tensor], gates: Collection[Any] = ()) -> None:
        self.leaves: dict[Tensor, Node | None] = {}
        self.parents: dict[Node, list[tuple[Node, int]]] = {}
        self.entries: set[Node] = set()
        todo = []
        for root in roots:
            if root.grad_fn is not None:
                todo.append(root.grad_fn)
                self.parents.setdefault(root.grad_fn, [])
            elif root.requires_grad:
                self.leaves[root] = None
        seen = set(todo)
        while todo:
            node = todo.pop()
            if node in gates:
                self.entries.add(node)
                continue
            if hasattr(node, "variable"):
                self.leaves[node.variable] = node
                continue
            for i, (below, _) in enumerate(node.next_functions):
                if below is None:
                    continue
                self.parents.setdefault(below, []).append((node, i))
                if below not in seen:
                    seen.add(below)
                    todo.append(below)


_PASSED = ("TBackward0", "ToCopyBackward0")
"""What may stand between a weight and the product that it is used in."""
_PRODUCTS = {
    "AddmmBackward0": (1, 2, "_saved_mat1", "_saved_mat2"),
    "MmBackward0": (0, 1, "_saved_self", "_saved_mat2"),
}
"""Products of matrices: (which input is x, which is the transposed weight, where each is kept)."""


def _uses(walk: _Walk, leaf: Tensor) -> list[tuple[Node, bool]] | None:
    """(product, is it its bias) of all products x W' + b that use a parameter; None where it is used otherwise."""
    found: list[tuple[Node, bool]] = []
    todo: list[tuple[Any, int]] = [(walk.leaves[leaf], 0)]
    while todo:
        node, turned = todo.pop()
        for parent, i in walk.parents.get(node, ()):
            name = parent.name()
            if name in _PASSED:
                todo.append((parent, turned + (name == "TBackward0")))
                continue
            if name not in _PRODUCTS or not _unscaled(parent):
                return None
            _, weight, _, _ = _PRODUCTS[name]
            is_weight = i == weight and turned == 1 and leaf.dim() == 2
            is_bias = name == "AddmmBackward0" and i == 0 and turned == 0 and leaf.dim() == 1
            if not (is_weight or is_bias):
                return None
            found.append((parent, is_bias))
    return found or None


def _unscaled(node: Any) -> bool:
    return node.name() == "MmBackward0" or node._saved_alpha == node._saved_beta == 1


def _input_of(node: Node) -> Tensor:
    return getattr(node, _PRODUCTS[node.name()][2]).detach()


# -- above the cut


class _Heads:
    """What is above the cut: gradients there and those of the tasks' own parameters, in one pass through the heads."""

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        walks: Mapping[str, _Walk],
        pairs: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
        scale: float,
        together: bool = True,
    ) -> None:
        self.losses, self.pairs, self.scale, self.together = losses, pairs, scale, together
        self.own = {task: list(walk.leaves) for task, walk in walks.items()}
        self._read = {t: frozenset(id(z) for z, v in pairs[t] if v.grad_fn in walks[t].entries) for t in losses}
        self._activations: dict[str, list[Tensor]] = {}
        for task, read in self._read.items():
            unique = {id(z): z for z, _ in pairs[task] if id(z) in read}
            self._activations[task] = [unique[key] for key in sorted(unique)]
        self._found: tuple[dict[str, dict[int, Tensor]], dict[str, list[Tensor | None]]] | None = None
        self._stacks: dict[tuple[tuple[str, ...], int], Tensor] = {}

    def read(self, task: str) -> frozenset[int]:
        """Which shared activations a loss reaches."""
        return self._read[task]

    def activations(self, task: str) -> list[Tensor]:
        """The shared activations that a loss reaches, in one order for all tasks."""
        return self._activations[task]

    def own_gradients(self, task: str) -> list[Tensor | None]:
        """Of the task's own parameters above the cut, in the order of `own`."""
        return self._solve()[1][task]

    def gradients(self, tasks: Sequence[str]) -> list[Tensor]:
        """At each of the activations, which these tasks have in common: (tasks, ...)."""
        return [self._stack(tuple(tasks), id(z)) for z in self._activations[tasks[0]]]

    def _stack(self, tasks: tuple[str, ...], key: int) -> Tensor:
        if (tasks, key) not in self._stacks:
            found = self._solve()[0]
            self._stacks[tasks, key] = torch.stack([found[task][key] for task in tasks])
        return self._stacks[tasks, key]

    def _solve(self) -> tuple[dict[str, dict[int, Tensor]], dict[str, list[Tensor | None]]]:
        if self._found is None:
            inputs = {t: [*(v for z, v in self.pairs[t] if id(z) in self._read[t]), *self.own[t]] for t in self.losses}
            each: dict[str, Sequence[Tensor | None]] = {}
            if self.together:
                flat = torch.autograd.grad(
                    list(self.losses.values()),
                    [x for t in self.losses for x in inputs[t]],
                    [torch.full_like(loss, self.scale) for loss in self.losses.values()],
                    retain_graph=True,
                    allow_unused=True,
                )
                start = 0
                for task in self.losses:
                    each[task] = flat[start : start + len(inputs[task])]
                    start += len(inputs[task])
            else:
                for task, loss in self.losses.items():
                    each[task] = (
                        torch.autograd.grad(
                            loss, inputs[task], torch.full_like(loss, self.scale), retain_graph=True, allow_unused=True
                        )
                        if inputs[task]
                        else ()
                    )
            at: dict[str, dict[int, Tensor]] = {t: {} for t in self.losses}
            own: dict[str, list[Tensor | None]] = {}
            for task, gradients in each.items():
                read = [z for z, _ in self.pairs[task] if id(z) in self._read[task]]
                for z, g in zip(read, gradients, strict=False):
                    if g is not None:
                        at[task][id(z)] = at[task][id(z)] + g if id(z) in at[task] else g
                own[task] = list(gradients[len(read) :])
            self._found = at, own
        return self._found

    def gram(self) -> Tensor:
        """Of the gradients at the activations (tasks, tasks)."""
        rows = [g.flatten(1) for g in self.gradients(tuple(self.losses))]
        rows = [r.float() if r.dtype in (torch.bfloat16, torch.float16) else r for r in rows]
        return torch.stack([(r @ r.T).double() for r in rows]).sum(0)

    def overlap(self) -> float:
        """The least part of rows that two tasks have in common, of the one that has fewer."""
        found = []
        for g in self.gradients(tuple(self.losses)):
            flat = g.flatten(2) if g.dim() > 2 else g.unsqueeze(-1)
            found.append((flat[..., :: max(flat.shape[-1] // LOOKED_AT, 1)] != 0).any(-1))
        return _least(torch.cat(found, 1))

    def combined(self, tasks: Sequence[str], weights: Mapping[str, float]) -> tuple[list[Tensor], list[Tensor]]:
        """(activations, sum_k w_k times their gradients), over these tasks."""
        everywhere: dict[int, Tensor] = {id(z): z for task in tasks for z in self._activations[task]}
        directions = []
        for key in everywhere:
            names = tuple(t for t in tasks if key in self._read[t])
            w = [weights[t] for t in names]
            if (stack := self._stacks.get((names, key))) is not None:
                directions.append(torch.tensordot(stack.new_tensor(w), stack, 1))
                continue
            found = self._solve()[0]
            total = found[names[0]][key] * w[0]
            for name, factor in zip(names[1:], w[1:], strict=True):
                total = total.add(found[name][key], alpha=factor)
            directions.append(total)
        return list(everywhere.values()), directions


def _least(known: Tensor) -> float:
    """Of rows that tasks know (tasks, rows): min over pairs of |both| / min(|one|, |other|)."""
    known = known.float()
    both = known @ known.T
    size = both.diagonal()
    return float((both / torch.minimum(size[:, None], size[None]).clamp(min=1)).min())


@dataclass
class _Linear:
    """A head that is one linear layer: its product, weight (outputs, d), and own parameters."""

    node: Node
    weight: Tensor
    weight_leaf: Tensor | None
    bias_leaf: Tensor | None


def _linear_head(walk: _Walk, pairs: Sequence[tuple[Tensor, Tensor]]) -> _Linear | None:
    if len(pairs) != 1 or pairs[0][0].dim() != 2 or len(walk.entries) != 1:
        return None
    readers = walk.parents[next(iter(walk.entries))]
    if len(readers) != 1:
        return None
    node, i = readers[0]
    if node.name() not in _PRODUCTS or i != _PRODUCTS[node.name()][0]:
        return None
    leaves: list[Tensor | None] = [None, None]
    for leaf in walk.leaves:
        uses = None if walk.leaves[leaf] is None else _uses(walk, leaf)
        if uses is not None and uses[0][0] is node:
            if len(uses) > 1 or leaf.dtype != pairs[0][0].dtype:
                return None
            leaves[uses[0][1]] = leaf
    for j, (below, _) in enumerate(node.next_functions):  # whatever the product reads is the view or such a leaf
        expected = [leaves[0]] if j == _PRODUCTS[node.name()][1] else [leaves[1]]
        if j != i and below is not None and expected == [None]:
            return None
    kept = getattr(node, _PRODUCTS[node.name()][3])
    return None if kept is None else _Linear(node, kept.detach().T, *leaves)


class _LinearHeads(_Heads):
    """Heads that begin with a linear layer each: its residuals E_k are all that is asked of autograd."""

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        walks: Mapping[str, _Walk],
        pairs: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
        scale: float,
        heads: Sequence[_Linear],
    ) -> None:
        super().__init__(losses, walks, pairs, scale)
        self.heads = dict(zip(losses, heads, strict=True))
        self.z = pairs[next(iter(losses))][0][0]
        self.weight = torch.cat([head.weight for head in heads])
        self.sizes = [len(head.weight) for head in heads]
        self._rest = {
            t: [leaf for leaf in self.own[t] if leaf is not h.weight_leaf and leaf is not h.bias_leaf]
            for t, h in self.heads.items()
        }
        asked: list[Any] = [GradientEdge(head.node, 0) for head in heads]
        found = torch.autograd.grad(
            list(losses.values()),
            [*asked, *(leaf for rest in self._rest.values() for leaf in rest)],
            [torch.full_like(loss, scale) for loss in losses.values()],
            retain_graph=True,
            allow_unused=True,
        )
        errors = [
            g if g is not None else self.z.new_zeros(len(self.z), n) for g, n in zip(found, self.sizes, strict=False)
        ]
        self.errors = torch.cat(errors, 1)
        self._own = self._own_of(found[len(heads) :])

    def _own_of(self, rest: Sequence[Tensor | None]) -> dict[str, list[Tensor | None]]:
        of_weights = (self.errors.T @ self.z.detach()).split(self.sizes)
        of_biases = self.errors.sum(0).split(self.sizes)
        found: dict[str, list[Tensor | None]] = {}
        others = iter(rest)
        for i, (task, head) in enumerate(self.heads.items()):
            more = {leaf: next(others) for leaf in self._rest[task]}
            more |= {head.weight_leaf: of_weights[i], head.bias_leaf: of_biases[i]}  # type: ignore[dict-item]
            found[task] = [more[leaf] for leaf in self.own[task]]
        return found

    def own_gradients(self, task: str) -> list[Tensor | None]:
        return self._own[task]

    def _solve(self) -> tuple[dict[str, dict[int, Tensor]], dict[str, list[Tensor | None]]]:
        if self._found is None:
            parts = zip(self.heads.items(), self.errors.split(self.sizes, 1), strict=True)
            self._found = {t: {id(self.z): e @ h.weight} for (t, h), e in parts}, self._own
        return self._found

    def gram(self) -> Tensor:
        (rows, n), d = self.errors.shape, self.weight.shape[1]
        if n * (rows + d) > rows * d:  # wide layers: the gradients E_k W_k themselves are cheaper
            return super().gram()
        errors, weight = (
            x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in (self.errors, self.weight)
        )
        entries = (errors.T @ errors).double() * (weight @ weight.T).double()
        of = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes)).to(entries.device)
        inside = entries.new_zeros(len(self.sizes), len(entries)).index_add(0, of, entries)
        return inside.new_zeros(len(self.sizes), len(self.sizes)).index_add(1, of, inside)

    def overlap(self) -> float:
        known = torch.stack([(e != 0).any(1) for e in self.errors.split(self.sizes, 1)])
        return _least(known)

    def combined(self, tasks: Sequence[str], weights: Mapping[str, float]) -> tuple[list[Tensor], list[Tensor]]:
        each = [weights.get(task, 0.0) for task in self.heads]
        if self._found is not None or len(tasks) < len(each):  # what is left out may not be finite
            return super().combined(tasks, weights)
        factors = self.errors.new_tensor([w for w, n in zip(each, self.sizes, strict=True) for _ in range(n)])
        return [self.z], [(self.errors * factors) @ self.weight]


# -- below the cut


@dataclass
class _Part:
    """What a pass says of one parameter: the gradients of its tasks (tasks, n), or the rows that they are made from."""

    places: Sequence[int]
    gradients: Tensor | None = None
    products: list[Node] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)

    def flat(self) -> Tensor:
        """The gradients (tasks, n)."""
        if self.gradients is None:
            inputs, errors = self._rows()
            self.gradients = (errors.mT @ inputs).flatten(1)
        return self.gradients

    def gram(self) -> Tensor:
        """(tasks, tasks), by the cheaper of two ways."""
        if self.gradients is None:
            inputs, errors = self._rows()
            n, rows, out = errors.shape
            d = inputs.shape[1]
            by_rows = rows * rows * (d + n * out) + n * n * rows * out
            if by_rows < n * rows * d * out + n * n * d * out:
                turned = (inputs @ inputs.T) @ errors
                return errors.flatten(1) @ turned.flatten(1).T
        flat = self.flat()
        return flat @ flat.T

    def _rows(self) -> tuple[Tensor, Tensor]:
        kept = [_input_of(node) for node in self.products]
        inputs = kept[0] if len(kept) == 1 else torch.cat(kept)
        errors = self.errors[0] if len(self.errors) == 1 else torch.cat(self.errors, 1)
        if errors.dtype in (torch.bfloat16, torch.float16):
            inputs, errors = inputs.float(), errors.float()
        return inputs.to(errors.dtype), errors


def _add(gram: Tensor, parts: Sequence[_Part]) -> None:
    places = [i for part in parts for i in part.places]
    if parts[0].products and all(part.products == parts[0].products for part in parts):  # rows in common
        errors = [torch.cat(each) for each in zip(*(part.errors for part in parts), strict=True)]
        found = _Part(places, None, parts[0].products, errors).gram()
    else:
        flat = torch.cat([part.flat() for part in parts])
        found = flat @ flat.T
    index = torch.tensor(places, device=gram.device)
    gram[index[:, None], index[None]] += found.to(gram.dtype)


class _Pass:
    """The gradients of some tasks, carried from the activations that they all read down to the layers.

    Args:
        places: which tasks.
        roots: the activations.
        directions: of each activation, the gradients of the tasks there (tasks, ...).
        shared: the parameters whose products are asked; None for all.
        own: per task, parameters below that are its own: their gradients are wanted as well.
        n_groups: how many passes there are.
    """

    def __init__(
        self,
        places: Sequence[int],
        roots: Sequence[Tensor],
        directions: Sequence[Any],
        shared: set[Tensor] | None,
        own: Mapping[str, list[Tensor]],
        n_groups: int = 1,
    ) -> None:
        self.places, self.roots, self.directions, self.own = places, roots, directions, own
        walk = _Walk(roots)
        mine = {leaf for leaves in own.values() for leaf in leaves}
        self.nodes: dict[Node, None] = {}
        self.uses: dict[Tensor, list[tuple[Node, bool]]] = {}
        self.plain: list[Tensor] = []
        for leaf, node in walk.leaves.items():
            if leaf in mine or (shared is not None and leaf not in shared):
                continue
            uses = None if node is None else _uses(walk, leaf)
            if uses is None:
                self.plain.append(leaf)
            else:
                self.uses[leaf] = uses
                self.nodes |= dict.fromkeys(n for n, _ in uses)

    def run(self, own_gradients: dict[str, list[Tensor | None]]) -> dict[Tensor, _Part]:
        """What it finds, parameter by parameter; the gradients of own parameters are put into `own_gradients`."""
        nodes = list(self.nodes)
        mine = [leaf for leaves in self.own.values() for leaf in leaves]
        inputs: list[Any] = [*(GradientEdge(n, 0) for n in nodes), *self.plain, *mine]
        found = self.gradients(inputs) if inputs else []
        errors = dict(zip(nodes, found, strict=False))
        start = len(nodes) + len(self.plain)
        for i, (task, leaves) in enumerate(self.own.items()):
            if leaves:
                own = found[start : start + len(leaves)]
                own_gradients[task] = [None if g is None else g[i] for g in own]
                start += len(leaves)
        parts: dict[Tensor, _Part] = {}
        for leaf, g in zip(self.plain, found[len(nodes) :], strict=False):
            if g is not None:
                parts[leaf] = _Part(self.places, g.flatten(1))
        for leaf, uses in self.uses.items():
            there = [(node, is_bias) for node, is_bias in uses if errors[node] is not None]
            if not there:
                continue
            if there[0][1]:
                total = torch.stack([errors[n].sum(1) for n, _ in there]).sum(0)  # type: ignore[union-attr]
                parts[leaf] = _Part(self.places, total)
            else:
                each: list[Any] = [errors[n] for n, _ in there]
                parts[leaf] = _Part(self.places, None, [n for n, _ in there], each)
        return parts

    def gradients(self, inputs: Sequence[Any]) -> list[Tensor | None]:
        """Per input (tasks, ...), None where no task reaches it."""
        n = len(self.places)
        if n > 1:
            try:
                return list(
                    torch.autograd.grad(
                        self.roots,
                        inputs,
                        self.directions,
                        retain_graph=True,
                        allow_unused=True,
                        is_grads_batched=True,
                    )
                )
            except (RuntimeError, NotImplementedError):  # what torch cannot do for several at once it does one by one
                pass
        each = [
            torch.autograd.grad(
                self.roots, inputs, [d[i] for d in self.directions], retain_graph=True, allow_unused=True
            )
            for i in range(n)
        ]
        return [None if g[0] is None else torch.stack(g) for g in zip(*each, strict=True)]
