"""The trace norm: tasks that share a subspace."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Penalty


def matrix(w: Tensor) -> Tensor:
    """(tasks, entries); (outputs, inputs) of a single task, whose own matrix it is."""
    return w.flatten(1) if len(w) > 1 or w.dim() < 3 else w[0].flatten(1)


def guarded(m: Tensor) -> Tensor:
    """Zeros in place of a matrix with an entry that is not finite, which has no singular values."""
    return torch.where(m.isfinite().all(), m, 0.0)


class Trace(Penalty):
    """The sum of singular values, R(W) = ||W||_*, of the matrix (tasks x entries) of each place; also: nuclear norm.

    It makes tasks combinations of few common ones. Weights that tasks share (and those of a single task) are taken as
    the matrix (outputs x inputs). The proximal step takes t off every singular value, down to 0.

    With the encoder ``linear`` and on heads it is low-rank regression: min over W of
    sum_k (1/n_k) ||y_k - X_k w_k||^2 + strength ||W||_*.

    Reference:
        Argyriou, Evgeniou, Pontil: Convex multi-task feature learning, 2008. Cai, Candes, Shen: A singular value
        thresholding algorithm for matrix completion, 2010.
    """

    def value(self, w: Tensor) -> Tensor:
        return torch.linalg.svdvals(guarded(matrix(w))).sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        m = matrix(w)
        u, s, v = torch.linalg.svd(guarded(m), full_matrices=False)
        shrunk = (u * (s - t).clamp(min=0)) @ v
        return torch.where(m.isfinite().all(), shrunk, m).reshape(w.shape)
