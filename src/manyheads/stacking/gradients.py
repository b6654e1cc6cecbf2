"""The gradients of several runs side by side: by run and task, at activations that tasks share or at parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..sharing import Trace


class Views(NamedTuple):
    """The tasks' views of shared activations, in a pass of all runs.

    Attributes:
        tensors: (runs, ...) each.
        places: per view, the column of its task and the number of the activation.
    """

    tensors: list[Tensor]
    places: list[tuple[int, int]]

    @classmethod
    def of(cls, cut: Mapping[str, Sequence[tuple[Tensor, Tensor]]], columns: Mapping[str, int]) -> Views:
        """What a trace of one run kept."""
        numbers: dict[int, int] = {}
        pairs = [(columns[task], z, view) for task, own in cut.items() for z, view in own]
        places = [(column, numbers.setdefault(id(z), len(numbers))) for column, z, _ in pairs]
        return cls([view for _, _, view in pairs], places)


class Glance(Trace):
    """A trace that keeps the views of tasks that stay apart, where others of the same pass do not."""

    def uncut(self) -> None:
        pass


class StackedGradients:
    """The ways down from the losses of a step, all runs at once.

    Args:
        losses: (runs, tasks), whose graph ends at the outputs.
        counted: which of them are looked at (runs, tasks).
        outputs: (runs, batch, ..., tasks, units) of the tasks of a family, or (runs, batch, ..., units) of one task.
        roots: the same as the net gave them.
        views: of shared activations, where there are any.
        heads: per output the weights (runs, tasks, units, width) of the linear heads that gave it, if they are such.
    """

    def __init__(
        self,
        losses: Tensor,
        counted: Tensor,
        outputs: Sequence[tuple[Tensor, bool]],
        roots: Sequence[Tensor],
        views: Views | None,
        heads: Sequence[Tensor | None],
    ) -> None:
        self.roots, self.views, self.heads = list(roots), views, heads
        (self.n_runs, self.n), self.dtype = losses.shape, losses.dtype
        found = torch.autograd.grad(torch.where(counted, losses, 0.0).sum(), [output for output, _ in outputs])
        self.errors: list[tuple[Tensor, slice]] = []
        """Per output its gradient (runs, batch, ..., tasks, units), and which columns those tasks are."""
        start = 0
        for (_, stacked), error in zip(outputs, found, strict=True):
            error = error if stacked else error.unsqueeze(-2)
            self.errors.append((error, slice(start, start + error.shape[-2])))
            start += error.shape[-2]
        self._found: dict[bool, tuple[np.ndarray, np.ndarray]] = {}

    def gradients(self, inputs: Sequence[Tensor], factors: Tensor) -> Sequence[Tensor | None]:
        """Of the sum over runs and tasks of factor L, at these inputs; 0 times anything is 0."""
        if not inputs:
            return ()
        directions = []
        for (error, columns), root in zip(self.errors, self.roots, strict=True):
            own = factors[:, columns].reshape(self.n_runs, *[1] * (error.dim() - 3), -1, 1)
            directions.append(torch.where(own == 0, 0.0, error * own).view(root.shape))
        return torch.autograd.grad(self.roots, inputs, directions, retain_graph=True, allow_unused=True)

    def overlap(self, run: int, columns: Sequence[int], linear: bool) -> float:
        """The least part of rows that two of these tasks have in common, of the one that has more."""
        both = self._shared(linear)[1][run][np.ix_(columns, columns)]
        size = both.diagonal()
        most = np.maximum(np.maximum.outer(size, size), 1)
        return float(np.where(np.minimum.outer(size, size) > 0, both / most, 1.0).min())

    def features(self, run: int, columns: Sequence[int], linear: bool) -> np.ndarray:
        """The Gramian of these tasks at the activations that they share."""
        return _even(self._shared(linear)[0][run][np.ix_(columns, columns)])

    def _shared(self, linear: bool) -> tuple[np.ndarray, np.ndarray]:
        """Inner products at shared activations, and of the rows that tasks know; (runs, tasks, tasks) each."""
        if linear not in self._found:
            grams, rows = self._of_linear() if linear else self._of_views()
            known = torch.cat(rows, 2).float()
            self._found[linear] = torch.stack(grams).sum(0).numpy(), (known @ known.mT).numpy()
        return self._found[linear]

    def _of_linear(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of linear heads: with errors E and weights W, dL_k/dz = E_k W_k, so <.,.> = sum (E_i' E_j) * (W_i W_j')."""
        errors, weights, of, known = [], [], [], []
        for (error, columns), weight in zip(self.errors, self.heads, strict=True):
            if weight is None or error.dim() > 4:
                known.append(torch.zeros(self.n_runs, columns.stop - columns.start, error.shape[1], dtype=torch.bool))
                continue
            known.append((error != 0).any(-1).mT)
            errors.append(error.flatten(2))
            weights.append(weight.flatten(1, 2))
            of += [k for k in range(columns.start, columns.stop) for _ in range(error.shape[-1])]
        e, w, index = torch.cat(errors, 2), torch.cat(weights, 1), torch.tensor(of)
        entries = (e.mT @ e).double() * (w @ w.mT).double()
        inside = entries.new_zeros(self.n_runs, self.n, len(of)).index_add(1, index, entries)
        gram = entries.new_zeros(self.n_runs, self.n, self.n).index_add(2, index, inside)
        return [gram], [torch.cat(known, 1)]

    def _of_views(self) -> tuple[list[Tensor], list[Tensor]]:
        assert self.views is not None
        learns = [i for i, view in enumerate(self.views.tensors) if view.requires_grad]
        ones = torch.ones(self.n_runs, self.n, dtype=self.dtype)
        at: dict[int, dict[int, Tensor]] = {}
        for i, g in zip(learns, self.gradients([self.views.tensors[i] for i in learns], ones), strict=True):
            column, place = self.views.places[i]
            if g is not None:
                own = at.setdefault(place, {})
                own[column] = own[column] + g if column in own else g
        grams, known = [], []
        for own in at.values():
            none = torch.zeros_like(next(iter(own.values())))
            each = torch.stack([own.get(k, none) for k in range(self.n)], 1)
            flat = each.flatten(2)
            grams.append((flat @ flat.mT).double())
            known.append((each.reshape(*each.shape[:3], -1) != 0).any(-1))
        return grams, known

    def exact(self, leaves: Sequence[Tensor], runs: Sequence[int], masks: Sequence[Tensor | bool]) -> np.ndarray:
        """The Gramians of some runs over the parameters that are shared (runs, tasks, tasks)."""
        every = list(runs) == list(range(self.n_runs))
        rows = [leaf.new_zeros(len(runs), self.n, *leaf.shape[1:]) for leaf in leaves]
        for k in range(self.n):
            one = torch.zeros(self.n_runs, self.n, dtype=self.dtype)
            one[runs, k] = 1.0
            for own, g in zip(rows, self.gradients(leaves, one), strict=True):
                if g is not None:
                    own[:, k] = g if every else g[runs]
        total = torch.zeros(len(runs), self.n, self.n, dtype=torch.float64)
        for own, mask in zip(rows, masks, strict=True):
            if isinstance(mask, Tensor):
                own = torch.where(over(mask, own[:, 0], mask.shape[1]).unsqueeze(1), own, 0.0)
            flat = own.flatten(2)
            total += (flat @ flat.mT).double()
        return _even(total.numpy())


def over(mask: Tensor, leaf: Tensor, n: int) -> Tensor:
    """A mask (runs, parameters) for a leaf (runs, ...), or (runs, parameters, ...) where it has several."""
    if n == 1:
        return mask.view(-1, *[1] * (leaf.dim() - 1))
    return mask.view(*mask.shape, *[1] * (leaf.dim() - 2))


def _even(gram: np.ndarray) -> np.ndarray:
    return (gram + gram.swapaxes(-1, -2)) / 2
