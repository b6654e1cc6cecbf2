"""A run of anyone's module: from its seed to its best weights on validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..balance import Balance, Losses
from ..blocks import seed_of
from ..catalog import make
from ..faults import ConfigError, DataError, Diverged
from ..spec import Part
from .goals import Data, Goal, Loader, known_rows

WASTED = 20
"""Steps in a row without a finite loss before a run is given up."""


@dataclass(frozen=True)
class Plan:
    """One run; `strict`: a task of it without a label is an error."""

    build: Callable[..., nn.Module]
    goals: Mapping[str, Goal]
    seed: int
    balance: Part
    task: str | None
    own: bool
    epochs: int
    patience: int | None
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    strict: bool = False

    def made(self) -> nn.Module:
        """The module as it begins."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.build(self.seed, self.task) if self.task is not None and self.own else self.build(self.seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that it learns."""
        return tuple(self.goals) if self.task is None else (self.task,)


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    state: Mapping[str, Tensor]
    valid: Mapping[str, float | None]
    labels: Mapping[str, int]
    """Task -> labels to learn from and to stop on."""
    updates: int
    parameters: int
    seconds: float


def train(plan: Plan, data: Data) -> Ended:
    """One run, from its seed to its best weights; the test rows are not looked at."""
    started = time.perf_counter()
    model = plan.made()
    train, valid, _ = data
    balance = make(Balance, plan.balance.name, plan.balance.settings)  # type: ignore[type-abstract]
    mover = plan.optimizer([p for p in model.parameters() if p.requires_grad])
    reached: set[int] = set()
    labels = dict.fromkeys(plan.names, 0)
    updates = wasted = 0
    with torch.random.fork_rng(devices=[]):
        start = _losses_on(model, plan, valid)
        _labelled(plan, start, "stop on")
        best, best_state, since = 1.0, _copied(model), 0
        for epoch in range(plan.epochs):
            model.train()
            torch.manual_seed(seed_of(plan.seed, "epoch", epoch) % 2**63)  # one order of rows for all runs
            for inputs, given in train:
                losses, counts = _losses(model, plan, inputs, given)
                for task, n in counts.items() if epoch == 0 else ():
                    labels[task] += n
                if not losses:
                    continue
                mover.zero_grad(set_to_none=True)
                state = torch.get_rng_state()

                def look(
                    tasks: Sequence[str] | None = None, inputs: Any = inputs, given: Any = given, state: Any = state
                ) -> Losses:
                    with torch.random.fork_rng(devices=[]):
                        torch.set_rng_state(state)
                        again = _losses(model, plan, inputs, given)[0]
                    return Losses.of({t: v for t, v in again.items() if tasks is None or t in tasks})

                if not balance.backward(losses, look):
                    wasted += 1
                    if wasted >= WASTED:
                        tasks = ", ".join(plan.names)
                        raise Diverged(
                            f"Training should have finite losses. Found none in {wasted} steps ({tasks}); lower `lr`."
                        )
                    continue
                wasted = 0
                reached |= {id(p) for p in model.parameters() if p.grad is not None}
                mover.step()
                balance.stepped()
                updates += 1
            _labelled(plan, [task for task, n in labels.items() if n], "learn from")
            balance.new_epoch()
            now = _relative(_losses_on(model, plan, valid), start)
            if now < best:
                best, best_state, since = now, _copied(model), 0
            else:
                since += 1
                if plan.patience is not None and since >= plan.patience:
                    break
        model.load_state_dict(best_state)
        said = said_of(model, plan, valid)
    for task, (_, label) in said.items():
        labels[task] += len(label)
    return Ended(
        best_state,
        {t: plan.goals[t].value(*said[t]) if t in said else None for t in plan.names},
        labels,
        updates,
        sum(p.numel() for p in model.parameters() if id(p) in reached),
        time.perf_counter() - started,
    )


def _labelled(plan: Plan, there: Collection[str], what: str) -> None:
    """See that every task of a run has a label."""
    missing = [task for task in plan.names if task not in there]
    if plan.strict and missing:
        found = f"Found labels of {', '.join(there)} alone." if there else "Found none at all."
        raise DataError(f"The rows to {what} should have labels of every task: {', '.join(missing)}. {found}")


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _relative(now: Mapping[str, float], start: Mapping[str, float]) -> float:
    """The mean of losses, each in shares of what it was at the start."""
    shares = [now[t] / start[t] if start[t] else 1.0 for t in now if t in start]
    mean = float(np.mean(shares)) if shares else 1.0
    return mean if np.isfinite(mean) else float("inf")


def _outputs(model: nn.Module, inputs: Any) -> tuple[Mapping[str, Tensor], torch.device]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return model(_moved(inputs, device)), device


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: _moved(v, device) for k, v in value.items()}
    return type(value)(_moved(v, device) for v in value) if type(value) in (list, tuple) else value


def _rows(model: nn.Module, plan: Plan, inputs: Any, given: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Task -> (outputs, labels) of the rows that have one."""
    outputs, device = _outputs(model, inputs)
    found = {}
    for task in plan.names:
        if task not in given:
            continue
        if not isinstance(outputs, Mapping) or task not in outputs:
            has = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ConfigError(f"The module should give an output of `{task}`, as {{task: tensor}}. Found {has}.")
        label = given[task].to(device)
        rows = known_rows(label)
        if bool(rows.any()):
            found[task] = outputs[task][rows], label[rows]
    return found


def _losses(
    model: nn.Module, plan: Plan, inputs: Any, given: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(the loss of each task that has a label, labels)."""
    rows = _rows(model, plan, inputs, given)
    return {t: plan.goals[t].loss(*own).mean() for t, own in rows.items()}, {t: len(y) for t, (_, y) in rows.items()}


@torch.no_grad()
def _losses_on(model: nn.Module, plan: Plan, loader: Loader) -> dict[str, float]:
    """Task -> mean loss over all rows; torch's generator stays as it is."""
    model.eval()
    sums: dict[str, list[float]] = {}
    with torch.random.fork_rng(devices=[]):
        for inputs, given in loader:
            losses, counts = _losses(model, plan, inputs, given)
            for task, loss in losses.items():
                entry = sums.setdefault(task, [0.0, 0.0])
                entry[0] += float(loss) * counts[task]
                entry[1] += counts[task]
    return {task: total / n for task, (total, n) in sums.items()}


@torch.no_grad()
def said_of(model: nn.Module, plan: Plan, loader: Loader) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Task -> (what its metric reads, labels) of all rows that have one."""
    model.eval()
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    with torch.random.fork_rng(devices=[]):
        for inputs, given in loader:
            for task, (output, label) in _rows(model, plan, inputs, given).items():
                said = plan.goals[task].says(output).cpu().numpy()
                parts.setdefault(task, []).append((said.squeeze(-1) if _column(said) else said, label.cpu().numpy()))
    return {t: (np.concatenate([a for a, _ in own]), np.concatenate([b for _, b in own])) for t, own in parts.items()}


def _column(said: np.ndarray) -> bool:
    return said.ndim == 2 and said.shape[1] == 1
