"""A simple model of one column, and how a task is learned by one per column."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..metrics import Predicted
from ..tasks import Task
from .problem import Array, Problem, alike, few, flat, folds, output_of, problems

Inputs = Mapping[str, Tensor]
Predict = Callable[[Inputs], Predicted]


class Learner(ABC):
    """A model of one column: what it reads, how its setting is chosen, how it is fitted."""

    @abstractmethod
    def __init__(self, x: Inputs, layout: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def matrix(self, x: Inputs) -> Any:
        """The rows as the model reads them."""

    @abstractmethod
    def choose(self, X: Any, problem: Problem, seed: int) -> Any:
        """The best setting on the problem's rows, which are the rows of X."""

    @abstractmethod
    def fit(self, X: Any, problem: Problem, setting: Any, seed: int) -> Callable[[Any], Array]:
        """X -> decision values (n,), or (n, K) for more than two classes."""


@contextmanager
def quiet() -> Iterator[None]:
    """One thread, and no word from the solvers: a setting at which one stops early is judged like the others."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def learn(
    kind: type[Learner],
    task: Task,
    x: Inputs,
    layout: Mapping[str, Any],
    target: Tensor,
    known: Tensor,
    weight: Tensor | None,
    seed: int,
) -> Predict:
    """A model of this kind for each column of the task, and all of them as one function of the inputs."""
    learner = kind(x, layout)
    X = learner.matrix(x)
    fits: list[tuple[Problem, Callable[[Any], Array] | None]] = []
    decided = task
    for problem in problems(task, target, known, weight):
        if alike(problem) or not X.shape[1]:
            fits.append((problem, None))
            continue
        tuning = few(problem, seed)
        setting = learner.choose(X[tuning.rows], tuning, seed)
        fits.append((problem, learner.fit(X[problem.rows], problem, setting, seed)))
        if isinstance(getattr(task, "threshold", None), str):
            decided = _decided(learner, task, X, tuning, setting, seed)

    def predict(inputs: Inputs) -> Predicted:
        with quiet():
            Z = learner.matrix(inputs)
            n = Z.shape[0]
            columns = [
                flat(task, problem, n) if model is None or not n else output_of(task, problem, model(Z))
                for problem, model in fits
            ]
        output = np.concatenate(columns, 1)
        if getattr(task, "transform", "") == "log1p" and len(fits[0][0].y):
            low, high = float(fits[0][0].y.min()), float(fits[0][0].y.max())
            output = output.clip(2 * low - high, 2 * high - low)  # an exponential of a line is no extrapolation
        return decided.predict(torch.from_numpy(output))

    return predict


def _decided(learner: Learner, task: Task, X: Any, problem: Problem, setting: Any, seed: int) -> Task:
    """The task with the threshold that suits this model's held-out rows."""
    outputs, targets = [], []
    for train, held, part in folds(problem, 3, seed):
        rows = problem.rows
        outputs.append(learner.fit(X[rows[train]], part, setting, seed)(X[rows[held]]))
        targets.append(problem.y[held])
    if not outputs:
        return task
    output, target = torch.from_numpy(np.concatenate(outputs)), torch.from_numpy(np.concatenate(targets))
    return task.tuned(output[:, None], target.float(), torch.ones_like(target, dtype=torch.bool))
