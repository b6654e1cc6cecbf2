"""A further task on a trained model. The contract of a way to add one: what learns, from which rows, towards what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..balance import Balance
from ..callback import Callback
from ..catalog import make
from ..data import Taskset
from ..data.sampler import Sampler
from ..model import Model
from ..objectives import Objective, Supervised
from ..penalties import Penalty
from ..spec import ModelSpec, OptimSpec, TrainerSpec
from ..tasks import Task
from ..train import Training
from ._head import solvable, solve_head

TRUNK_PACE = 0.1
"""How fast a trained trunk learns, relative to a new head."""


@dataclass
class Case:
    """One member of a model that a task is added to.

    Attributes:
        old: the model as it was.
        model: the model as it is to be: the same weights, and new ones for the new task.
        task: the new task, fitted.
        fresh: the parameters that only the new task uses, by name.
        train, valid: source -> rows; `valid` is not learned from.
        tasks: those whose skill on `valid` tells when to stop.
        batch_size: rows of a step.
    """

    old: Model
    model: Model
    task: Task
    fresh: frozenset[str]
    train: Mapping[str, Taskset]
    valid: Mapping[str, Taskset]
    tasks: Sequence[Task]
    optim: OptimSpec
    trainer: TrainerSpec
    batch_size: int
    seed: int = 0


class Way(ABC):
    """How a trained model learns a further task."""

    frozen: ClassVar[bool] = False
    """Whether all that the other tasks are computed from stays as it is, so that their outputs do, to the bit."""
    replays: ClassVar[bool] = False
    """Whether it learns from rows that label the other tasks as well."""
    blind: ClassVar[bool] = False
    """Whether it takes care of the other tasks without any row that labels them."""
    whole: ClassVar[bool] = False
    """Whether it needs no held-out rows: these judge it first, and it learns from all rows after that."""

    def spec(self, spec: ModelSpec, task: str) -> ModelSpec:
        """The architecture of the model with the new task; the same by default.

        Args:
            task: its name.

        Raises:
            ConfigError: it cannot be had from this one.
        """
        return spec

    @abstractmethod
    def prepare(self, case: Case) -> None:
        """Say which weights learn (`requires_grad`), how fast (`pace`), and which modules stay `still`."""

    def penalties(self, case: Case) -> list[Penalty]:
        """What weights should be like meanwhile."""
        return []

    def callbacks(self, case: Case) -> list[Callback]:
        """Who is told of the training."""
        return []

    def objective(self, case: Case) -> Objective:
        """What is minimised."""
        return Supervised()

    def fit(self, case: Case) -> None:
        """Leave the weights that were found in `case.model`; by default they are trained step by step.

        A new linear head begins at the best one on trained features as they are: a random one would first spoil the
        features that it is to learn from (Kumar et al.: Fine-tuning can distort pretrained features and underperform
        out-of-distribution, 2022).
        """
        if solvable(case):
            solve_head(case)
        self.prepare(case)
        self.training(case).run()
        for parameter in case.model.parameters():
            parameter.requires_grad_(True)

    def training(self, case: Case) -> Training:
        """The run that `fit` carries to its end."""
        sampler = Sampler(case.train, case.batch_size, max_epochs=case.trainer.max_epochs, seed=case.seed)
        made = Training(
            case.model, sampler, case.valid, case.tasks, self.objective(case), make(Balance, "equal", {}),  # type: ignore[type-abstract]
            case.optim, case.trainer, penalties=self.penalties(case), seed=case.seed, callbacks=self.callbacks(case),
        )  # fmt: skip
        if self.frozen:
            made.penalties = None  # a sharing scheme's own would move what is frozen
        made.primary_only = True
        return made


def freeze(model: nn.Module, learn: Collection[str]) -> None:
    """These parameters learn and no others; modules without any of them stay `still`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learn)
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        module.still = not any(name.startswith(start) for name in learn)
