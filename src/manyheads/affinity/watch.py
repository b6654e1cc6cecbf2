"""Looks at a joint run while it goes on, and leaves it as it would have been."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..blocks import seed_of
from ..callback import Callback
from ..data import Batch
from ..data.sampler import Sampler
from ..faults import ConfigError
from ..train import Training
from . import Estimator, Pair, Reading
from .probe import Probe, untouched

LEAST, PER_TASK = 10, 1.5
"""Steps between two looks: so many, and so many per task, since a look costs passes per task."""
ENOUGH = 10
"""Looks that a short run has, if it has so many steps."""


def interval(n_tasks: int, n_steps: int) -> int:
    """Steps between two looks: so many that a run with looks costs at most half as much again as one without.

    Args:
        n_steps: steps of the run at most.
    """
    return max(min(max(LEAST, round(PER_TASK * n_tasks)), n_steps // ENOUGH), 1)


class Watch(Callback):
    """Shows a joint run to estimators, every few steps.

    Batches are of its own drawing, of the run's rows and size, with the labels of all tasks (also where a step of the
    run learns one task alone), so that the run's draws stay as they are. A look is a function of the run's step and
    weights: what comes after a resumed run is what would have come.

    Args:
        estimators: by the word that their readings go under; those that look at ``joint``.
        every: steps between two looks; by default what `interval` says.
        batch_size: rows of a look; the run's own by default.

    Attributes:
        readings: word -> (step, reading), in order.
        seconds: word -> what its looks took, with what it has in common with others.

    Raises:
        ConfigError: `every` or `batch_size` is not positive.
    """

    def __init__(
        self, estimators: Mapping[str, Estimator[Probe]], every: int | None = None, batch_size: int | None = None
    ) -> None:
        for name, value in (("every", every), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` should be at least 1. Found {value}.")
        self.estimators, self.every, self.batch_size = dict(estimators), every, batch_size
        self.readings: dict[str, list[tuple[int, Reading]]] = {word: [] for word in self.estimators}
        self.seconds = dict.fromkeys(self.estimators, 0.0)
        self._sampler: Sampler | None = None
        self._epoch: tuple[int, list[Any]] = (-1, [])

    def on_start(self, training: Training) -> None:
        """Draw batches from the rows of this run."""
        own = training.sampler
        self._sampler = Sampler(
            own.tasksets,
            self.batch_size or own.batch_size,
            seed=seed_of(own.seed, "looks"),
            within=own.within,
            bucket=own.lengths is not None,
        )
        if self.every is None:
            self.every = interval(len(training.tasks), training.n_epochs * own.n_steps)

    def on_step(self, training: Training) -> None:
        """Look, where it is time."""
        assert self.every is not None
        if training.step % self.every == 0:
            self.look(training)

    def forget(self) -> None:
        """Let go of the run's rows: what was read stays."""
        self._sampler, self._epoch = None, (-1, [])

    def told(self) -> dict[str, Any]:
        """What was read, and what it took, as plain values."""
        return {
            word: {"seconds": self.seconds[word], "looks": [[step, _plain(reading)] for step, reading in looks]}
            for word, looks in self.readings.items()
        }

    def recall(self, told: Mapping[str, Any]) -> None:
        """Take in what `told` gave: this watch has read it.

        Args:
            told: of a watch of the same estimators.
        """
        for word, own in told.items():
            self.seconds[word] = own["seconds"]
            self.readings[word] = [(step, _reading(values)) for step, values in own["looks"]]

    def look(self, training: Training) -> None:
        """Show the run as it is now."""
        started = time.perf_counter()
        batch = self._batch(training)
        rates = {p: float(g["lr"]) for g in training.optimizer.param_groups for p in g["params"]}
        with untouched(training.model):
            probe = Probe(training.model, training.tasks, batch, rates)
            common = time.perf_counter() - started
            for word, estimator in self.estimators.items():
                began = time.perf_counter()
                self.readings[word].append((training.step, estimator.measure(probe)))
                self.seconds[word] += common + time.perf_counter() - began

    def _batch(self, training: Training) -> Batch:
        assert self._sampler is not None
        assert self.every is not None
        epoch, i = divmod(training.step // self.every, max(self._sampler.n_steps, 1))
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._sampler.plan(epoch)
        batch = self._sampler.batch(self._epoch[1][i])
        if training.device == torch.device("cpu"):
            return batch
        return Batch({table: part.to(training.device) for table, part in batch.items()})


def _plain(reading: Reading) -> list[Any]:
    def listed(cells: Mapping[Pair, Any]) -> list[list[Any]]:
        return [[a, b, value] for (a, b), value in cells.items()]

    return [listed(reading.cells), listed(reading.missing), {p: listed(own) for p, own in reading.parts.items()}]


def _reading(values: Sequence[Any]) -> Reading:
    def cells(listed: Sequence[Any]) -> dict[Pair, Any]:
        return {(a, b): value for a, b, value in listed}

    return Reading(cells(values[0]), cells(values[1]), {part: cells(own) for part, own in values[2].items()})
