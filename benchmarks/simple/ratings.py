"""Who, and what: a bias each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from manyheads.metrics import Predicted
from manyheads.tasks import Task

from . import Fit, Labelled

SHRINK = (10.0, 5.0)
"""Labels that a bias of the first and of the second factor is worth before it has any."""
ROUNDS = 10


def model_of(task: Task) -> Fit | None:
    """Biases, for numbers and for yes or no."""
    return biases if task.kind in ("regression", "binary") else None


def biases(task: Task, learn: Labelled, seed: int) -> Callable[[Labelled], Predicted]:
    r"""mean + b_first + b_second, each bias a mean of what the other leaves, drawn to 0.

    .. math:: b_i = \sum_{j \in R_i} (y_{ij} - \mu - b_j) / (|R_i| + \lambda)

    The factors are the first two columns of codes that the encoder reads (who, what). A probability is what comes out,
    cut to between 0 and 1.

    Reference:
        Koren: Collaborative filtering with temporal dynamics, 2009 (baseline predictors).
    """
    codes, y = np.asarray(learn.inputs["categorical"])[:, :2], np.asarray(learn.truth, dtype=float)
    mean, n = float(y.mean()), int(codes.max()) + 1
    bias = np.zeros((2, n))
    counts = [np.bincount(codes[:, k], minlength=n) for k in range(2)]
    for _ in range(ROUNDS):
        for k in (1, 0):
            rest = y - mean - bias[1 - k][codes[:, 1 - k]]
            bias[k] = np.bincount(codes[:, k], rest, n) / (counts[k] + SHRINK[k])

    def predict(rows: Labelled) -> Predicted:
        own = np.asarray(rows.inputs["categorical"])[:, :2]
        own = np.where(own < n, own, 0)
        said = mean + bias[0][own[:, 0]] + bias[1][own[:, 1]]
        if task.kind == "regression":
            return Predicted(said)
        proba = said.clip(0, 1)
        return Predicted((proba > 0.5).astype(int), proba)

    return predict
