"""From settings and rows to a run that is ready to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .balance import Balance
from .catalog import make
from .data import Taskset
from .data.sampler import Sampler
from .objectives import Objective
from .spec import Part, RunSpec, build_model
from .tasks import Task
from .train import Callback, Training


def make_balance(part: Part, tasks: Sequence[str]) -> Balance:
    """The balance that a config names.

    Raises:
        ConfigError: an unknown word, setting or task.
    """
    balance = make(Balance, part.name, part.settings)  # type: ignore[type-abstract]
    balance.check(tasks)
    return balance


def make_training(
    spec: RunSpec,
    layouts: Mapping[str, Any],
    tasks: Sequence[Task],
    train: Mapping[str, Taskset],
    valid: Mapping[str, Taskset],
    *,
    seed: int | None = None,
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Training:
    """A run of these tasks on these rows; tables that label none of them are left out.

    Args:
        layouts: table -> what its inputs look like.
        train, valid: table -> rows.
        seed: of initial weights, batches and dropout; the spec's by default.
    """
    seed = spec.seed if seed is None else seed
    names = [t.name for t in tasks]
    train = {table: rows.only(names) for table, rows in train.items()}
    train = {table: rows for table, rows in train.items() if len(rows) and rows.blocks}
    valid = {table: rows.only(names) for table, rows in valid.items() if table in train}
    model = build_model(spec.model, {table: layouts[table] for table in layouts if table in train}, tasks, seed)
    sampler = Sampler(
        train,
        spec.sampling.batch_size,
        mode=spec.sampling.mode,
        schedule=spec.sampling.schedule,
        temperature=spec.sampling.temperature,
        weights=spec.sampling.weights,
        max_epochs=spec.trainer.max_epochs,
        seed=seed,
    )
    objective = make(Objective, spec.optim.objective.name, spec.optim.objective.settings)  # type: ignore[type-abstract]
    balance = make_balance(spec.optim.balance, names)
    return Training(
        model, sampler, valid, tasks, objective, balance, spec.optim, spec.trainer,
        seed=seed, folder=folder, callbacks=callbacks,
    )  # fmt: skip
