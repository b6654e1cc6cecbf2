"""The old model as the teacher of the new one, where the old rows are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..balance import Losses
from ..data import Batch
from ..model import Model
from ..objectives import Objective, Supervised
from ..sharing import Trace
from ..tasks import Task
from . import TRUNK_PACE, Case
from .finetune import FineTune


class Distill(FineTune):
    """Fine-tuning that keeps what the old model says of the new rows: L = L_new + lambda / K sum_k D_k.

    D_k compares the output of task k with the old model's: for classes T^2 KL(p_old(T) || p_new(T)), with p(T) the
    probabilities at temperature T; for all else the mean squared difference of the outputs, in the units of the net.
    The factor T^2 keeps the gradient's size at any temperature. Labels of the other tasks are not needed.

    Args:
        strength: lambda; what it multiplies is the mean over the K old tasks, so that it does not grow with K.
        temperature: T.
        pace: learning rate of the trunk, relative to that of the new head.

    Raises:
        ValueError: a negative strength, or a temperature that is not above 0.

    Reference:
        Li, Hoiem: Learning without forgetting, 2016.
    """

    blind: ClassVar[bool] = True

    def __init__(self, *, strength: float = 4.0, temperature: float = 3.0, pace: float = TRUNK_PACE) -> None:
        super().__init__(pace=pace)
        if not strength >= 0 or not temperature > 0:
            raise ValueError(
                f"`strength` should be 0 or more and `temperature` above 0. Found {strength} and {temperature}."
            )
        self.strength, self.temperature = strength, temperature

    def objective(self, case: Case) -> Objective:
        return _Taught(case.old, self.strength, self.temperature)


class _Taught(Objective):
    """The supervised losses, and as an auxiliary one how far the old tasks' outputs are from the old model's."""

    def __init__(self, teacher: Model, strength: float, temperature: float) -> None:
        self.teacher, self.strength, self.temperature = teacher.eval(), strength, temperature
        self.supervised = Supervised()

    def __call__(
        self, model: nn.Module, batch: Batch, trace: Trace | None = None, totals: Mapping[str, float] | None = None
    ) -> Losses:
        losses = self.supervised(model, batch, trace, totals)
        names = tuple(self.teacher.tasks)
        parts = []
        for table, rows in batch.items():
            with torch.no_grad():
                said = self.teacher(rows.inputs, names, table)
            now = model(rows.inputs, names, table)
            parts += [apart(self.teacher.tasks[t], now[t], said[t], self.temperature) for t in names]
        if parts and self.strength:
            losses.add(self.strength * torch.stack(parts).mean())
        return losses


def apart(task: Task, output: Any, teacher: Any, temperature: float) -> Tensor:
    """How far an output is from a teacher's, a scalar that is 0 where they are equal.

    Args:
        task: whose outputs they are.
        temperature: of the probabilities, for classes.
    """
    if isinstance(output, tuple):
        pairs = zip(output, teacher, strict=True)
        found = [apart(task, a, b, temperature) for a, b in pairs if isinstance(a, Tensor) and a.is_floating_point()]
        return torch.stack(found).sum()
    if task.kind == "multiclass":
        log_p, log_q = ((o / temperature).log_softmax(-1) for o in (teacher, output))
        return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean()
    if task.kind in ("binary", "multilabel"):
        p, q = teacher / temperature, output / temperature
        own = p.sigmoid()
        divergence = own * (F.logsigmoid(p) - F.logsigmoid(q)) + (1 - own) * (F.logsigmoid(-p) - F.logsigmoid(-q))
        return temperature**2 * divergence.mean()
    return (output - teacher).square().mean()
