"""The space in which models of any kind can be mixed: probabilities for classes, means for numbers.

Per row, a task's natural output has

==========  ==============================================  ==============
task        natural output                                  units
==========  ==============================================  ==============
regression  the mean of the (transformed) number            1
count       the rate, over the mean training count          1
binary      P(positive)                                     1
multiclass  P(class)                                        classes
ordinal     P(y > level), falling                           levels - 1
multilabel  P(label)                                        labels
==========  ==============================================  ==============

A weighted mean of natural outputs is one again; a net's logits, or a booster's, are not of one scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..faults import ConfigError
from ..metrics import Predicted
from ..tasks import Task

SUPPORTED = ("regression", "count", "binary", "multiclass", "ordinal", "multilabel")
"""Task types whose outputs can be mixed."""
TINY = 1e-6
"""The least probability or rate that a net is asked to say."""


def check(tasks: Iterable[Task]) -> None:
    """Refuse tasks whose outputs cannot be mixed.

    Raises:
        ConfigError: a task of another type, or one that sees another.
    """
    for task in tasks:
        if task.kind not in SUPPORTED:
            raise ConfigError(
                f"`deliver` should be given tasks of numbers and classes ({', '.join(SUPPORTED)}). Found `{task.name}` "
                f"of type {task.kind}, whose outputs cannot be blended; `manyheads train` trains it with the others."
            )
        if task.sees:
            raise ConfigError(
                f"`deliver` should be given tasks that stand by themselves. Found `{task.name}`, which sees "
                f"{', '.join(f'`{t}`' for t in task.sees)}: alone it is another task. Remove `sees`."
            )


def natural(task: Task, output: Tensor) -> Tensor:
    """What a net says, in the natural space; float64.

    Shape:
        output (rows, units) -> (rows, units).
    """
    output = output.detach().cpu().double()
    if task.kind == "regression":
        return output
    if task.kind == "count":
        return output.exp()
    if task.kind == "multiclass":
        return output.softmax(-1)
    if task.kind == "ordinal":
        return output.sigmoid().cummin(-1).values
    return output.sigmoid()


def output_of(task: Task, values: Tensor) -> Tensor:
    """What a net would have to say for these natural values; probabilities and rates are kept `TINY` off their ends.

    Shape:
        values (..., units) -> (..., units).
    """
    if task.kind == "regression":
        return values
    if task.kind in ("count", "multiclass"):
        return values.clamp(min=TINY).log()
    return values.clamp(TINY, 1 - TINY).logit()


def of_predicted(task: Task, predicted: Predicted) -> Tensor:
    """What a simple model says (in the target's own units), in the natural space; float64, (rows, units)."""
    if task.kind in ("regression", "count"):
        values = np.asarray(predicted.value, dtype=np.float64)
        if getattr(task, "transform", "") == "log1p":
            values = np.log1p(values)
        mean, sd = float(getattr(task, "mean", 0.0)), float(getattr(task, "sd", 1.0))
        scaled = values / mean if task.kind == "count" else (values - mean) / sd
        return torch.from_numpy(scaled).unsqueeze(1)
    proba = torch.from_numpy(np.asarray(predicted.proba, dtype=np.float64))
    if task.kind == "ordinal":
        return 1 - proba.cumsum(-1)[:, :-1]
    return proba.unsqueeze(1) if proba.dim() == 1 else proba


def label(task: Task, target: Tensor) -> Tensor:
    """Labels in the natural space, as sure as can be: (rows, units), float64.

    Args:
        target: encoded labels.
    """
    if task.kind == "multiclass":
        return torch.nn.functional.one_hot(target.long(), len(task.parts)).double()
    if task.kind == "ordinal":
        return (target.unsqueeze(-1) > torch.arange(len(task.parts) - 1)).double()
    target = target.double()
    return target if target.dim() > 1 else target.unsqueeze(1)


def taught(task: Task, values: Tensor) -> Tensor:
    """Natural values as a target that `Task.errors` takes.

    For squared errors, log losses and the Poisson loss the error is linear in the target (up to what does not depend on
    the output), so that a mean of targets has the mean of their errors.

    Shape:
        values (rows, units) -> (rows,) for one number or probability a row, else (rows, units).
    """
    values = values.float()
    return values if task.kind in ("multiclass", "ordinal", "multilabel") else values.squeeze(1)


def errors(task: Task, values: Tensor, target: Any) -> Tensor:
    """The task's own error of natural values, per label: (rows,), or (rows, labels) for several labels a row."""
    return task.errors(output_of(task, values), target)
