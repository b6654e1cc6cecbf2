"""The best mixture of several models' predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..tasks import Task
from .spaces import errors

NEGLIGIBLE = 1e-3
"""A weight below this is 0: a model that hardly speaks need not be kept."""


def weights(task: Task, said: Sequence[Tensor], target: Tensor, known: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Weights of a mixture, not negative and with sum 1, of least error on rows that no model learned from.

    .. math:: w = \arg\min_{w \ge 0, \sum_c w_c = 1} \; \sum_i m_i \, \mathrm{error}\Big(\sum_c w_c p_{ci}, y_i\Big)

    with :math:`p_{ci}` the natural output of model c in row i, and :math:`m_i` the label's weight. All errors are
    convex in the mixture, so that there is one minimum.

    Shape:
        said: (rows, units) each; target, known, weight (rows, ...) -> (models,), float64.

    Args:
        task: fitted; its own error is minimised.
        said: natural outputs, by model.
        target, known, weight: encoded labels, which of them are known, and their weights.

    Reference:
        Stacked generalization, Wolpert, 1992; stacked regressions (why weights should not be negative), Breiman, 1996.
    """
    from scipy.optimize import minimize

    n = len(said)
    there = known.flatten(1).any(1) if known.dim() > 1 else known
    stacked = torch.stack([p[there] for p in said]).double()
    y, m = target[there], known[there].double()
    m = m if weight is None else m * weight[there].double()
    if n == 1 or not len(y):
        return torch.full((n,), 1 / n, dtype=torch.float64)
    total = m.sum().clamp(min=1e-12)

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.tensor(w, dtype=torch.float64, requires_grad=True)
        loss = (errors(task, torch.einsum("c,cru->ru", free, stacked), y) * m).sum() / total
        loss.backward()
        return float(loss.detach()), free.grad.numpy()  # type: ignore[union-attr]

    begin = np.full(n, 1 / n)
    found = minimize(
        value, begin, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(n)},
        options={"maxiter": 200, "ftol": 1e-10},
    )  # fmt: skip
    w = np.where(found.x < NEGLIGIBLE, 0.0, found.x)
    best = min([begin, w / w.sum(), *np.eye(n)], key=lambda one: value(one)[0])
    return torch.from_numpy(np.array(best))


def mixed(said: Sequence[Tensor], w: Tensor) -> Tensor:
    """The mixture; rows of models without weight may be NaN.

    Shape:
        said: (rows, units) each; w (models,) -> (rows, units).
    """
    parts = [float(c) * p for c, p in zip(w.tolist(), said, strict=True) if c > 0]
    return torch.stack(parts).sum(0)
