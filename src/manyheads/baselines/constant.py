"""The best constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
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

    def predict(inputs: Inputs) -> Predicted:
        found = says(task, target, known, torch.empty(len(inputs["numeric"])))
        assert found is not None
        return found

    return predict


def says(task: Task, target: Any, known: Tensor, rows: Any) -> Predicted | None:
    """What the best constant says of these rows; None where there is nothing to say without the input.

    Args:
        task: fitted.
        target, known: training labels.
        rows: targets to predict, of which number and sizes are looked at.
    """
    there = (known.flatten(1).any(1) if known.dim() > 1 else known).nonzero().flatten()
    return task.constant(metrics.find(task.metrics[0]), target[there], known[there], rows)
