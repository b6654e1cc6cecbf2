"""How weights move: parameter groups, optimisers and schedulers, by name from torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .catalog import hint
from .faults import ConfigError
from .spec import OptimSpec

_LENGTHS = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps", "PolynomialLR": "total_iters"}
"""The setting of a scheduler that is the length of the run."""


UNFIT = ("Optimizer", "LBFGS", "SparseAdam", "Muon")
"""What the loop cannot serve: a closure per step, sparse gradients, matrices alone."""


def parameter_groups(model: nn.Module, optim: OptimSpec, like: Mapping[str, Tensor] | None = None) -> list[Any]:
    """The parameters that move, in groups: vectors (biases, norms) are not decayed, and a module that has a `pace`
    learns that many times as fast as others. Those that learn at `optim.lr` itself come first.

    A module may also bring groups of its own: `parameter_groups(lr, weight_decay)`.

    Args:
        like: other tensors under the parameters' names, to be grouped as those are.
    """
    own = getattr(model, "parameter_groups", None)
    if own is not None and like is None:
        return list(own(optim.lr, optim.decay))
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    chosen = {n: p if like is None else like[n] for n, p in named.items()}
    paces = _paces(model)
    groups: list[dict[str, Any]] = []
    for pace in sorted({paces.get(n, 1.0) for n in named}, key=lambda pace: (pace != 1.0, -pace)):
        mine = {n: p for n, p in named.items() if paces.get(n, 1.0) == pace}
        lr = {} if pace == 1.0 else {"lr": pace * optim.lr}
        if not optim.decay:
            groups.append({"params": [chosen[n] for n in mine]} | lr)
            continue
        groups.append({"params": [chosen[n] for n, p in mine.items() if p.dim() > 1]} | lr)
        groups.append({"params": [chosen[n] for n, p in mine.items() if p.dim() <= 1], "weight_decay": 0.0} | lr)
    return [g for g in groups if g["params"]]


def _paces(model: nn.Module) -> dict[str, float]:
    """How fast a parameter learns, relative to others, by its name: what the nearest module above it says."""
    paces: dict[str, float] = {}
    for path, module in model.named_modules():
        if (pace := getattr(module, "pace", None)) is not None:
            start = f"{path}." if path else ""
            paces |= {f"{start}{name}": float(pace) for name, _ in module.named_parameters()}
    return paces


def make_optimizer(params: Sequence[Any], optim: OptimSpec) -> torch.optim.Optimizer:
    """Any optimiser of torch.optim by name, over parameters or groups of them.

    Raises:
        ConfigError: an unknown optimiser or setting.
    """
    known = [n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)]
    by_lower = {n.lower(): n for n in known if n not in UNFIT}
    word = optim.optimizer.name
    if word.lower() not in by_lower:
        raise ConfigError(f"No optimizer is called `{word}`. {hint(word, by_lower.values())}")
    cls = getattr(torch.optim, by_lower[word.lower()])
    settings: dict[str, Any] = {"lr": optim.lr} | optim.optimizer.settings
    if optim.decay is not None:
        settings["weight_decay"] = optim.decay
    if cls in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD) and "foreach" not in settings:
        settings.setdefault("fused", True)
    try:
        return cls(list(params), **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim.optimizer `{cls.__name__}` does not take these settings: {error}.") from error


def make_scheduler(optimizer: torch.optim.Optimizer, optim: OptimSpec, n_epochs: int, n_steps: int) -> tuple[Any, str]:
    """(scheduler, ``epoch`` or ``step``): any of torch.optim.lr_scheduler by name.

    Raises:
        ConfigError: an unknown scheduler or setting.
    """
    if optim.scheduler is None:
        return None, "epoch"
    module = torch.optim.lr_scheduler
    classes = [n for n in dir(module) if isinstance(getattr(module, n), type)]
    known = {n.lower(): n for n in classes if n.endswith(("LR", "Plateau", "Restarts"))}
    word = optim.scheduler.name
    if word.lower() not in known:
        raise ConfigError(f"No scheduler is called `{word}`. {hint(word, known.values())}")
    settings = optim.scheduler.settings
    name = known[word.lower()]
    length = n_epochs if optim.scheduler.interval == "epoch" else n_epochs * n_steps
    if name in _LENGTHS:
        settings.setdefault(_LENGTHS[name], max(length, 1))
    if name == "OneCycleLR":
        settings.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])
    if name == "ReduceLROnPlateau":
        settings.setdefault("mode", "max")
    try:
        return getattr(module, name)(optimizer, **settings), optim.scheduler.interval
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim.scheduler `{name}` does not take these settings: {error}.") from error


def device_of(accelerator: str) -> torch.device:
    """The device that a word means; auto takes a GPU where there is one."""
    if accelerator == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("`trainer.accelerator: cuda` needs a GPU. This machine shows none; use auto or cpu.")
    return torch.device(accelerator)
