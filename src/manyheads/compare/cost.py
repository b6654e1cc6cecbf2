"""What a method costs, and what one model needs to be as good as one per task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from ..results import Cost, Efficiency
from ..train import Training
from .rounds import each, lead
from .study import SINGLE, Study

NEAR = 0.01
"""Less than the best of the worse by this share is as good."""


def costs(study: Study) -> dict[str, Cost]:
    """Network -> what it costs: one update of a fresh run is measured, and the study's own runs are counted.

    Args:
        study: trained.
    """
    found = {}
    for name in study.names:
        runs = [[own for run in one.runs[name].values() for own in each(run)] for one in study.rounds]
        passes, bytes_ = zip(*(measured(lead(run)) for run in study.made(study.rounds[0], name).values()), strict=True)
        per_task = [sum(own.step for own in each(run)) for run in study.rounds[0].runs[name].values()]
        updates = float(np.mean([sum(own.step for own in mine) for mine in runs]))
        share = float(np.dot(passes, per_task)) / max(sum(per_task), 1)
        found[name] = Cost(
            seconds=study.seconds.get(name),
            updates=updates,
            backward=updates * share,
            memory=max(bytes_),
            parameters=study.parameters(name),
        )
    return found


def measured(training: Training) -> tuple[int, int]:
    """(calls of the backward pass, bytes held at most) of one update of a fresh run, which is spent by it.

    Bytes are those of tensors: the weights, and whatever the update makes and holds at a time (gradients, the
    optimiser's state, what is kept for the way back).
    """
    weights = sum(t.untyped_storage().nbytes() for t in [*training.model.parameters(), *training.model.buffers()])
    each_step = training.settings.accumulate_grad_batches
    with torch.random.fork_rng(devices=[]), _passes() as calls, _Meter() as meter:
        training.model.train()
        training._step(training.sampler.plan(0)[:each_step])
    return calls[0], weights + meter.peak


@contextmanager
def _passes() -> Iterator[list[int]]:
    """Count the calls of autograd's engine."""
    calls = [0]
    before = torch.autograd._engine_run_backward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return before(*args, **kwargs)

    torch.autograd._engine_run_backward = counted
    try:
        yield calls
    finally:
        torch.autograd._engine_run_backward = before


class _Meter(TorchDispatchMode):
    """The most bytes that tensors made under it hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._sum = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and take note of what it made."""
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in _tensors(args)}
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._alive:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self._sum += storage.nbytes()
        if self._sum > self.peak:
            for key in [k for k, (ref, _) in self._alive.items() if ref.expired()]:
                self._sum -= self._alive.pop(key)[1]
            self.peak = max(self.peak, self._sum)
        return made


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for one in value for t in _tensors(one)]
    return []


# ---- at equal quality


def efficiency(study: Study, name: str) -> Efficiency:
    """A method against single-task networks: updates, seconds and weights until both are as good on validation.

    The course of several models (members, tasks) is that of the mean of their best skills so far, epoch by epoch, over
    the sum of their updates; a model that has ended stays as it is.

    Args:
        study: trained.
        name: a way of the study.
    """
    goals, counts, counts_single = [], [], []
    for one in study.rounds:
        sides = [[own for run in one.runs[key].values() for own in each(run)] for key in (name, SINGLE)]
        joint, single = (course(runs) for runs in sides)
        if not joint or not single:
            continue
        worse = min(joint[-1][1], single[-1][1])
        goal = worse - NEAR * abs(worse)
        goals.append(goal)
        counts.append(reached(joint, goal))
        counts_single.append(reached(single, goal))
    if not goals:
        return Efficiency(skill=None, updates=None, updates_single=None, seconds=None, seconds_single=None)
    updates, updates_single = float(np.mean(counts)), float(np.mean(counts_single))
    return Efficiency(
        skill=float(np.mean(goals)),
        updates=updates,
        updates_single=updates_single,
        seconds=updates * _pace(study, name),
        seconds_single=updates_single * _pace(study, SINGLE),
        parameters=study.parameters(name),
        parameters_single=study.parameters(SINGLE),
    )


def course(runs: Sequence[Training]) -> list[tuple[int, float]]:
    """(updates of all, mean over runs of the best skill so far) after each epoch in which every run has had a skill."""
    own = []
    for run in runs:
        best, points = None, {}
        for r in run.history:
            if (r.split, r.task, r.metric) == ("valid", None, "skill"):
                best = r.value if best is None else best if r.value is None else max(best, r.value)
                if best is not None:
                    points[r.epoch] = (r.step, best)
        if not points:
            return []
        own.append(points)
    found = []
    last: list[tuple[int, float] | None] = [None] * len(own)
    for epoch in range(1 + max(max(points) for points in own)):
        last = [points.get(epoch, before) for points, before in zip(own, last, strict=True)]
        there = [point for point in last if point is not None]
        if len(there) == len(own):
            found.append((sum(step for step, _ in there), float(np.mean([skill for _, skill in there]))))
    return found


def reached(points: Sequence[tuple[int, float]], goal: float) -> int:
    """The updates after which a course is as high as a goal, which it reaches."""
    return next(step for step, skill in points if skill >= goal)


def _pace(study: Study, name: str) -> float:
    """Seconds per update."""
    runs = [own for one in study.rounds for run in one.runs[name].values() for own in each(run)]
    return study.seconds.get(name, 0.0) * len(study.rounds) / max(sum(run.step for run in runs), 1)
