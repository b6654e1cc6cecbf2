"""A linear head in closed form: the best one on features as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..blocks import seed_of
from ..data import Taskset
from ..evaluate import at_a_time
from ..members import folds
from ..model import Model
from ..ragged import joined
from ..tasks import Task

if TYPE_CHECKING:
    from . import Case

FOLDS = 4
STRENGTHS = tuple(np.logspace(2, -4, 7).tolist())
"""What is tried, in shares of the features' mean variance."""

Labels = tuple[Any, Any, Any]


def solvable(case: Case) -> bool:
    """Whether the task's head is new, and a linear one on trained features that are one vector per row."""
    task, heads = case.task, case.model.heads
    new = own_names(case) <= case.fresh < {name for name, _ in case.model.named_parameters()}
    return new and isinstance(heads[task.name], nn.Linear) and task.eats == "vector" and not task.sees


def own_names(case: Case) -> frozenset[str]:
    """The parameters of the new task's head."""
    start = f"heads.{case.model.heads.keys_of[case.task.name]}."
    return frozenset(name for name, _ in case.model.named_parameters() if name.startswith(start))


def solve_head(case: Case, strength: float | None = None) -> None:
    """Leave the best head on the model's features in `case.model`, which has to be `solvable`.

    It is the minimum of mean error + strength v ||W||^2 (v is the mean variance of the features; the bias is free).

    Args:
        strength: None chooses among 1e-4, 1e-3, ..., 1e2 by the mean error over 4 folds of the training rows.
    """
    task, head = case.task, case.model.heads[case.task.name]
    assert isinstance(head, nn.Linear)
    z, labels = features(case.model, case.train, task)
    if strength is None:
        strength = chosen(task, z, labels, head, case.seed)
    weight, bias = solve(task, z, labels, head, strength)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def features(model: Model, tasksets: Mapping[str, Taskset], task: Task) -> tuple[Tensor, Labels]:
    """What a task's head reads of the rows that label it (rows, width) in float64, and (target, known, weight)."""
    model.eval()
    read: list[Tensor] = []
    labels: list[Labels] = []
    with torch.no_grad():
        for source, whole in tasksets.items():
            rows = whole.take(whole.known_rows(task.name)).only([task.name])
            step = at_a_time(rows)
            for start in range(0, len(rows), step):
                part = rows.batch(torch.arange(start, min(start + step, len(rows))))
                read.append(model.transform(part.inputs, source, task.name).double())
            labels.append(rows.labels(task.name))
    weights = None if all(w is None for _, _, w in labels) else joined(
        [torch.ones_like(y, dtype=torch.float32) if w is None else w for y, _, w in labels]
    )  # fmt: skip
    return torch.cat(read), (joined([y for y, _, _ in labels]), joined([k for _, k, _ in labels]), weights)


def take(labels: Labels, rows: Tensor) -> Labels:
    """Labels of these rows."""
    target, known, weight = labels
    return target[rows], known[rows], None if weight is None else weight[rows]


def chosen(task: Task, z: Tensor, labels: Labels, head: nn.Linear, seed: int = 0) -> float:
    """The strength with the least mean error over folds."""
    if len(z) < 2:
        return STRENGTHS[0]
    parts = folds(len(z), min(FOLDS, len(z)), seed_of(seed, "probe") % 2**62)
    total = dict.fromkeys(STRENGTHS, 0.0)
    for i, held in enumerate(parts):
        rest = torch.cat([p for j, p in enumerate(parts) if j != i])
        path = Path(task, z[rest], take(labels, rest), head)
        for strength in STRENGTHS:
            weight, bias = path(strength)
            loss = _error(task, z[held] @ weight.T + bias, take(labels, held))
            total[strength] += float(loss) if bool(torch.isfinite(loss)) else float("inf")
    return min(total, key=lambda s: total[s])


def solve(task: Task, z: Tensor, labels: Labels, head: nn.Linear, strength: float) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the head that minimises mean error + strength v ||W||^2.

    Shape:
        z (rows, width) -> (units, width), (units,).
    """
    return Path(task, z, labels, head)(strength)


class Path:
    """The minima for several strengths on one set of rows.

    The features are turned to their principal axes and scaled so that the curvature of squared errors is 1 in each
    direction: there L-BFGS needs two steps, and few for other errors.

    Args:
        z: (rows, width).
        labels: (target, known, weight).
        head: gives the number of units and the bias to begin with.
    """

    def __init__(self, task: Task, z: Tensor, labels: Labels, head: nn.Linear) -> None:
        self.task, self.labels, self.head = task, _doubled(labels), head
        self.mean = z.mean(0)
        self.centred = z - self.mean
        variances, self.axes = torch.linalg.eigh(self.centred.T @ self.centred / max(len(z), 1))
        self.variances = variances.clamp(min=0)
        self.unit = max(float(self.variances.mean()), 1e-12)

    def __call__(self, strength: float) -> tuple[Tensor, Tensor]:
        """(weight, bias) at this strength."""
        pull = strength * self.unit
        scale = (self.variances + max(pull, 1e-10 * self.unit)).sqrt()
        x = self.centred @ self.axes / scale
        weight = torch.zeros(self.head.out_features, x.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.tensor(getattr(self.head, "start", [0.0] * self.head.out_features), dtype=torch.float64)
        bias.requires_grad_(True)

        def loss() -> Tensor:
            return _error(self.task, x @ weight.T + bias, self.labels) + pull * (weight / scale).square().sum()

        _minimise(loss, [weight, bias])
        turned = (weight.detach() / scale) @ self.axes.T
        return turned, bias.detach() - turned @ self.mean


def _doubled(labels: Labels) -> Labels:
    target, known, weight = labels
    floating = isinstance(target, Tensor) and target.is_floating_point()
    return target.double() if floating else target, known, None if weight is None else weight.double()


def _error(task: Task, output: Tensor, labels: Labels) -> Tensor:
    found = task.mean_loss(output, *labels)
    return output.new_zeros(()) if found is None else found


def _minimise(loss: Callable[[], Tensor], weights: list[Tensor]) -> None:
    solver = torch.optim.LBFGS(weights, max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12, history_size=20,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)
