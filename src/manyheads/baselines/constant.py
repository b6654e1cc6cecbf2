"""The best constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .. import metrics
from ..metrics import Predicted
from ..tasks import Task
from .learner import Inputs, Predict


def fit(
    task: Task,
    x: Inputs,
    layout: Mapping[str, Any],
    target: Tensor,
    known: Tensor,
    weight: Tensor | None = None,
    seed: int = 0,
) -> Predict:
    """The best constant for the primary metric, from the unweighted training labels, as skill has it.

    Args:
        task: fitted.
        x: inputs of the rows (not read).
        layout: of the inputs (not read).
        target: encoded labels, (rows,) or (rows, L).
        known: which of them count.
        weight: not read.
        seed: not read.

    Raises:
        ValueError: no label is known.
    """
    metric = metrics.find(task.metrics[0])
    rows = known.flatten(1).any(1) if known.dim() > 1 else known
    y, there, lost = task.truth(target[rows]), known[rows].numpy(), np.zeros(0, bool)
    if there.ndim > 1 and len(there):  # a label without a known row is as likely as not
        there, y, lost = there.copy(), y.copy(), ~there.any(0)
        y[:, lost], there[:, lost] = 0, True
    classes = len(getattr(task, "classes", ())) if task.kind in ("multiclass", "ordinal") else None

    def predict(inputs: Inputs) -> Predicted:
        found = metrics.constant_prediction(metric, y, len(inputs["numeric"]), classes, there)
        if not lost.any():
            return found
        return Predicted(found.value, np.where(lost, 0.5, np.asarray(found.proba)))

    return predict
