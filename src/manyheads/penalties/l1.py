"""Absolute values: of entries, of differences between tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from . import BETWEEN, Penalty


class L1(Penalty):
    """The sum of absolute values, R(W) = sum |W|, which makes entries 0; the proximal step is sign(W) max(|W| - t, 0).

    With the encoder ``linear``, on heads and beside (1/n) ||y - X w||^2 (the loss ``mse``), a strength of 2 alpha gives
    the Lasso (1/2n) ||y - X w||^2 + alpha |w| of each task.

    Reference:
        Tibshirani: Regression shrinkage and selection via the lasso, 1996.
    """

    keeps_mean = False

    def value(self, w: Tensor) -> Tensor:
        return w.abs().sum()

    def prox(self, w: Tensor, t: float) -> Tensor:
        return w.sign() * (w.abs() - t).clamp(min=0)


class PairwiseL1(Penalty):
    """Sparse differences between tasks: R(W) = sum over i < j of |W_i - W_j|, entry by entry.

    Tasks come to agree exactly in an entry, all of them or in groups, and differ in few.

    The proximal step is exact: with the K values of an entry in ascending order s_0 <= ... <= s_{K-1}, R is
    sum_i (2 i - K + 1) s_i, so the step is the isotonic regression of s_i - t (2 i - K + 1); in O(K^2 P) time and
    O(K P) memory for P entries.

    Reference:
        Hocking, Joulin, Bach, Vert: Clusterpath: an algorithm for clustering using convex fusion penalties, 2011.
    """

    places = BETWEEN

    def value(self, w: Tensor) -> Tensor:
        here = w.detach()
        slope = torch.stack([(own - here).sign().sum(0) for own in here])
        return (slope * (w - here.mean(0))).sum()  # sum(slope) is 0; without the mean it would cancel in float32

    def prox(self, w: Tensor, t: float) -> Tensor:
        n = len(w)
        centre = w.mean(0)
        values, order = (w - centre).sort(0)
        ends = torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
        first = torch.arange(n, dtype=w.dtype, device=w.device).view(-1, *[1] * (w.dim() - 1))
        least = torch.full_like(values, torch.inf)
        fitted = []
        for last in reversed(range(n)):  # min over the ends of a run, then max over its beginnings
            of_runs = (ends[last + 1] - ends[: last + 1]) / (last + 1 - first[: last + 1])
            least = torch.minimum(least[: last + 1], of_runs - t * (first[: last + 1] + last - n + 1))
            fitted.append(least.amax(0))
        return centre + torch.zeros_like(w).scatter(0, order, torch.stack(fitted[::-1]))
