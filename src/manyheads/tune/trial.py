"""One trial: train the model that a config describes on the training part, and say how it does on validation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..build import Prepared, make_training, prepare
from ..compare import alone, labelled_part
from ..config import tasks_of
from ..data import Taskset
from ..faults import Fault
from ..members import Members
from ..spec import RunSpec, TuneSpec, dumped
from ..train import Training

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PREPARED = 2
"""So many ways to read the tables are remembered by a process."""


@dataclass
class Rows:
    """The tables that trials may see.

    Attributes:
        tables: {name: frame}, without the rows of the test part.
        parts: {name: the part of each row}.
        targets: {table: tasks it labels}.
        batch_size: of the joint model, where a config leaves it open.
    """

    tables: Mapping[str, pd.DataFrame]
    parts: Mapping[str, np.ndarray]
    targets: Mapping[str, Sequence[str]] | None
    batch_size: int

    @staticmethod
    def of(
        tables: Mapping[str, pd.DataFrame],
        parts: Mapping[str, np.ndarray],
        targets: Mapping[str, Sequence[str]] | None,
        batch_size: int = 0,
    ) -> Rows:
        """The rows of training and validation; those of the test part are left behind."""
        kept = {name: part != "test" for name, part in parts.items()}
        return Rows(
            {name: frame[kept[name]].reset_index(drop=True) for name, frame in tables.items()},
            {name: part[kept[name]] for name, part in parts.items()},
            targets,
            batch_size,
        )


@dataclass(frozen=True)
class Past:
    """What a former trial showed, as far as a pruner asks: its courses by epoch, and its value at the end."""

    state: str
    course: Mapping[int, float]
    value: float | None
    rungs: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a trial showed.

    Attributes:
        state: done, pruned or failed.
        values: task -> skill on validation, at the epoch with the best mean skill; None where it is undefined.
        value: their mean.
        course: epoch, counted from 1 -> the best mean skill so far.
        rungs: what a pruner notes of it.
        why: why it failed.
    """

    state: str
    values: Mapping[str, float | None]
    value: float | None
    course: Mapping[int, float]
    rungs: Mapping[str, float]
    seconds: float
    why: str | None = None


def carried(rows: Rows | str, spec: RunSpec, task: str | None, past: Sequence[Past]) -> Outcome:
    """Train one trial, and end it early where the pruner says so.

    Args:
        rows: the tables, or the file that holds them.
        spec: its config.
        task: the task that is alone; None for the joint model.
        past: former trials of the same side, in their order.
    """
    started = time.perf_counter()
    try:
        there = _read(rows) if isinstance(rows, str) else rows
        training = training_of(made_ready(there, spec), spec, task, there.batch_size)
        pruner = Pruner(spec.tune, past)
        course: dict[int, float] = {}
        state = "done"
        while not training.finished:
            training.advance()
            best = mean([run.best.value for run in runs_of(training)])
            if best is not None:
                course[training.epoch] = best
                if not training.finished and pruner.ends(training.epoch, best):
                    state = "pruned"
                    break
        values = skills(training)
        value = mean(list(values.values()))
        if value is None:
            why = "No metric is defined on validation: outputs are not finite, or labels are all of one kind."
            return Outcome("failed", values, None, course, {}, time.perf_counter() - started, why)
        return Outcome(state, values, value, course, pruner.rungs(), time.perf_counter() - started)
    except (Fault, ValueError, RuntimeError) as error:  # settings that do not go together, or no finite loss
        return Outcome("failed", {}, None, {}, {}, time.perf_counter() - started, " ".join(str(error).split()))


def training_of(prepared: Prepared, spec: RunSpec, task: str | None, batch_size: int) -> Training | Members:
    """A run of the joint model, or of one task alone on the rows that `compare` would give it."""
    layouts, tasks = prepared.dataset.preprocess.layouts, weighted(prepared, spec)
    train, valid = prepared.tasksets["train"], prepared.tasksets["valid"]
    if task is None:
        training = make_training(spec, layouts, tasks, train, valid)
    else:
        size = batch_size if spec.sampling.batch_size == "auto" else int(spec.sampling.batch_size)
        own = [replace(t, sees=(), weight=1.0) for t in tasks if t.name == task]
        training = make_training(alone(spec, size), layouts, own, only(train, task), only(valid, task))
    for run in runs_of(training):
        run.primary_only = True
    return training


def only(tasksets: Mapping[str, Taskset], task: str) -> dict[str, Taskset]:
    """The rows that a model of one task learns from, or is chosen by."""
    return {table: part for table, rows in tasksets.items() if (part := labelled_part(rows, task)) is not None}


def weighted(prepared: Prepared, spec: RunSpec) -> list[Any]:
    """The fitted tasks with the weights of a config."""
    weights = {name: settings.get("weight", 1.0) for name, settings in spec.tasks.items()}
    return [replace(t, weight=weights[t.name]) for t in prepared.tasks]


def runs_of(training: Training | Members) -> list[Training]:
    """The members of a run; itself where it has none."""
    return training.runs if isinstance(training, Members) else [training]


def skills(training: Training | Members) -> dict[str, float | None]:
    """Task -> skill on held-out rows at each run's best epoch, as early stopping reads it; the mean over members."""
    found: dict[str, list[float | None]] = {task: [] for task in training.tasks}
    for run in runs_of(training):
        for record in run.history:
            task = record.task
            if task is None or (record.epoch, record.split) != (run.best.epoch, "valid"):
                continue
            if record.metric == run.monitor[task]:
                found[task].append(run.skill(task, record.value))
    return {task: mean(values) for task, values in found.items()}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values there are; None where there are none."""
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


class Pruner:
    """Says when a trial has no prospect, by optuna's pruners, from the trials of former rounds alone.

    Trials of one round do not see each other, so that it does not matter how many processes carry them, and in which
    order they end. With several objectives it is the course of the mean skill that counts: optuna's pruners know one.

    Args:
        spec: which pruner, and from which epoch on.
        past: former trials, in their order.
    """

    def __init__(self, spec: TuneSpec, past: Sequence[Past]) -> None:
        self._trial: Any = None
        self._study: Any = None
        if spec.pruner == "none":
            return
        import optuna

        states = {"done": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
        pruner: Any = (
            optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=spec.warm_up)
            if spec.pruner == "median"
            else optuna.pruners.SuccessiveHalvingPruner(min_resource=spec.warm_up, reduction_factor=4)
        )
        quiet()
        self._study = optuna.create_study(direction="maximize", pruner=pruner)
        self._study.add_trials(
            [
                optuna.trial.create_trial(
                    state=states[one.state],
                    value=one.value if one.state == "done" else None,
                    intermediate_values=dict(one.course),
                    system_attrs=dict(one.rungs),
                )
                for one in past
                if one.state in states
            ]
        )
        self._trial = self._study.ask()

    def ends(self, epoch: int, value: float) -> bool:
        """Whether a trial should end after this epoch, counted from 1, with this best value so far."""
        if self._trial is None:
            return False
        self._trial.report(value, epoch)
        return bool(self._trial.should_prune())

    def rungs(self) -> dict[str, float]:
        """What it noted of this trial, for later ones."""
        if self._trial is None:
            return {}
        return {k: v for k, v in self._study.trials[-1].system_attrs.items() if isinstance(v, int | float)}


def quiet() -> None:
    """optuna tells of warnings alone."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


# ---- rows, read and encoded once per process

_FILES: dict[str, Rows] = {}
_READY: dict[tuple[int, str], tuple[Rows, Prepared]] = {}


def _read(path: str) -> Rows:
    import pickle

    if path not in _FILES:
        _FILES.clear()
        _FILES[path] = pickle.loads(Path(path).read_bytes())
    return _FILES[path]


def made_ready(rows: Rows, spec: RunSpec) -> Prepared:
    """Tables made ready as a config says; again only where a trial changes how they are read."""
    values = dumped(spec)
    tasks = {name: {k: v for k, v in own.items() if k != "weight"} for name, own in values["tasks"].items()}
    key = (id(rows), json.dumps([tasks, values["features"], values["data"]], sort_keys=True))
    if key not in _READY:
        while len(_READY) >= PREPARED:
            del _READY[next(iter(_READY))]
        _READY[key] = rows, prepare(spec, tasks_of(spec), rows.tables, rows.parts, targets=rows.targets)
    return _READY[key][1]


def forget() -> None:
    """Let go of what was made ready in this process."""
    _READY.clear()
    _FILES.clear()
