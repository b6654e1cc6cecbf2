"""What benchmarks of learning to learn share: a net of any body, a step of training, mean squared errors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from manyheads.balance import Equal
from manyheads.data import Batch
from manyheads.objectives import Objective


class Net(nn.Module):
    """{"x": ...} -> {"y": ...} by any body."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": self.body(x["x"])}


def step(model: nn.Module, objective: Objective, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    """One step of training; the loss."""
    optimizer.zero_grad(set_to_none=True)
    losses = objective(model, batch)
    Equal().backward(losses)
    optimizer.step()
    return float(losses.vector.detach()[0])


def outputs(model: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What a net says with these weights (rows, units)."""
    found: Tensor = functional_call(model, dict(weights), ({"x": x},))["y"]
    return found


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A net's weights as they are now."""
    return {n: p.detach().clone() for n, p in model.named_parameters()}
