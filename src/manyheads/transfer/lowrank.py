"""A small change of each matrix, for the new task alone."""

from __future__ import annotations

from typing import ClassVar

from ..faults import ConfigError
from ..spec import ModelSpec, Part
from . import Case, Way, freeze


class LowRank(Way):
    """The trunk stays as it is; the new task gets a head and a low-rank change B A of each of the trunk's matrices.

    The other tasks go on reading the trunk itself. A model with hard sharing becomes one with the sharing scheme
    `lowrank` in which later tasks alone have changes (`changed`); in a model that has that scheme already, the new task
    gets a change as every other one has.

    Args:
        rank: of the changes, at least 1.
        alpha: the factor in front of a change, times rank.

    Raises:
        ValueError: a rank below 1.

    Reference:
        Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen: LoRA: low-rank adaptation of large language models, 2021.
    """

    frozen: ClassVar[bool] = True

    def __init__(self, *, rank: int = 4, alpha: float = 4.0) -> None:
        if rank < 1:
            raise ValueError(f"`rank` should be 1 or more. Found {rank}.")
        self.rank, self.alpha = rank, alpha

    def spec(self, spec: ModelSpec, task: str) -> ModelSpec:
        word, settings = spec.sharing.name.lower(), spec.sharing.settings
        if word == "hard":
            settings = {"rank": self.rank, "alpha": self.alpha, "changed": []}
        elif word != "lowrank":
            raise ConfigError(
                f"`lowrank` should be asked of a model with hard or low-rank sharing. Found `{word}`; use `probe`."
            )
        if settings.get("changed") is not None:
            settings = settings | {"changed": [*settings["changed"], task]}
        return spec.model_copy(update={"sharing": Part.of({"name": "lowrank"} | settings)})

    def prepare(self, case: Case) -> None:
        freeze(case.model, case.fresh)
