"""MAML that learns the rates of its inner steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..faults import ConfigError
from .episodic import RATES
from .maml import MAML


class MetaSGD(MAML):
    """As MAML, with a learned rate for every weight: phi = theta - alpha * grad L_support(theta), elementwise.

    The rates start at `inner_lr`, are learned with the weights, and are kept with them (flat, so that weight decay
    leaves them alone). They suit the number of steps they were learned for: more steps at such rates may diverge.
    What is added to a trained model, the head of a further task, follows at `inner_lr`.

    Args:
        tasks, inner_steps, inner_lr, adapt, by, support, query, episodes, ways, norm, vectorised: as MAML has them.

    Reference:
        Li, Zhou, Chen, Li: Meta-SGD: learning to learn quickly for few-shot learning, 2017.
    """

    def attach(self, model: nn.Module) -> None:
        """Give the model its rates, before its optimiser is made."""
        super().attach(model)
        own = dict(model.named_parameters())
        rates = {name: torch.full_like(own[name].detach(), self.inner_lr).flatten() for name in self.moving(model)}
        model.add_module(RATES.rstrip("."), Rates(rates))

    def rates(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not any(name.startswith(RATES) for name in weights):
            raise ConfigError(
                "A model for `metasgd` should have its rates before its optimiser is made. Found none; call "
                "`objective.attach(model)` first, or follow with a model that was trained by it and not merged since."
            )
        learned = {name: weights.get(rate_name(name)) for name in weights if not name.startswith(RATES)}
        return {
            name: torch.full_like(weights[name], self.inner_lr) if rate is None else rate.view_as(weights[name])
            for name, rate in learned.items()
        }


def rate_name(name: str) -> str:
    """What the rates of a parameter are called.

    Args:
        name: of the parameter.
    """
    return RATES + Rates.key(name)


def with_rates(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model that is to take up these weights the rates that are among them, if any are."""
    found = {
        name.removeprefix(RATES).replace("/", "."): w.clone() for name, w in weights.items() if name.startswith(RATES)
    }
    if found:
        model.add_module(RATES.rstrip("."), Rates(found))


class Rates(nn.Module):
    """One flat vector of rates per parameter.

    Args:
        start: name of a parameter -> its rates.
    """

    def __init__(self, start: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in start.items():
            self.register_parameter(self.key(name), nn.Parameter(value))

    @staticmethod
    def key(name: str) -> str:
        """The name of a parameter without dots, which names of parameters may not have."""
        return name.replace(".", "/")
