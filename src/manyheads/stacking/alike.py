"""Which runs are so much alike that they can be trained as one."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ..balance import Balance, Weighting
from ..balance.aggregation import Aggregation
from ..model import Model
from ..train import Training
from .beside import blocks_of

ELEMENTWISE = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad,
               torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax)  # fmt: skip
"""Optimisers that move each weight by itself, so that stacked weights move as single ones do."""


def signature(training: Training) -> Hashable | None:
    """Equal for runs that can be trained as one; None where a run must go alone."""
    model, settings = training.model, training.settings
    plain = (
        _kind(training.balance) is not None
        and training.objective.stackable
        and training.sampler.schedule == "joint"
        and len(training.sampler.tasksets) == 1
        and isinstance(training.optimizer, ELEMENTWISE)
        and not isinstance(training.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        and settings.accumulate_grad_batches == 1
        and settings.precision != "bf16"
        and not settings.freeze_stopped
        and training.device.type == "cpu"
        and training.sampler.change is None
        and _of_tables(training)
    )
    if not plain or not isinstance(model, Model):
        return None
    shapes = tuple((n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in model.state_dict(keep_vars=True).items())
    layout = tuple((len(b.tasks), b.stacked) for b in blocks_of(training))
    groups = [{k: v for k, v in g.items() if k != "params"} for g in training.optimizer.param_groups]
    scheduler = None if training.scheduler is None else repr(sorted(map(str, training.scheduler.state_dict().items())))
    kinds = repr(model).replace("\n", "") + repr([_numbers(m) for m in model.modules()])
    by_step = training.schedule_each == "step" or settings.max_steps is not None
    size = (training.sampler.batch_size, training.sampler.n_steps if by_step else None)
    moves = (type(training.optimizer), repr(groups), scheduler, repr(training.penalties))
    return (_kind(training.balance), shapes, kinds, layout, *moves, size, settings.model_dump_json())


def _kind(balance: Balance) -> tuple[type[Balance], bool] | None:
    """What a balance asks of a step; None where it asks for more than a stack gives."""
    for contract in (Weighting, Aggregation):
        if isinstance(balance, contract):
            return contract, balance.looks
    return None


def _of_tables(training: Training) -> bool:
    """Whether inputs are numbers and categories, and every label is one number or a few: plain tensors throughout."""
    (rows,) = training.sampler.tasksets.values()
    return all(
        key in ("numeric", "categorical") and isinstance(values, Tensor) for key, values in rows.inputs.items()
    ) and all(
        isinstance(block.target, Tensor) and all(training.tasks[t].eats == "vector" for t in block.tasks)
        for block in rows.blocks
    )


def _numbers(module: torch.nn.Module) -> dict[str, float]:
    """The settings of a module that are numbers: they may change what it computes without a change of shape."""
    hidden = {"training", "call_super_init", "dump_patches"}
    return {k: v for k, v in vars(module).items() if isinstance(v, int | float) and k not in hidden}
