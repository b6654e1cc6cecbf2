"""A learner's life after training: what becomes of its model, its architecture and its dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..catalog import make
from ..data.assemble import Dataset
from ..faults import GateError
from ..model import AnyModel
from ..objectives import Objective
from ..spec import ModelSpec, Part, RunSpec, settled
from ..tasks import Task
from ..transfer import Way
from .adapted import adapt
from .adding import add_task
from .grown import joined, members_of, shrink, with_only
from .oldrows import of_frame

if TYPE_CHECKING:
    from typing import Protocol

    import pandas as pd

    class Trained(Protocol):
        """What there is after training."""

        model_: AnyModel
        dataset_: Dataset
        spec: RunSpec
        random_state: int


Found = tuple[AnyModel, ModelSpec, Dataset, dict[str, Any]]
"""(model, architecture, dataset, what else is known of the learner)."""


def added(
    learner: Trained, task: Task, frame: pd.DataFrame, way: Any, old: pd.DataFrame | None, tolerance: float
) -> Found:
    """A task more; `added_` tells what was found.

    Args:
        learner: trained; it stays as it is.
        task: not fitted.
        frame: rows that label it.
        way: a word of `manyheads.transfer`, a dict, or an object.
        old: rows that label the other tasks.
        tolerance: by how much one of those may fall.

    Raises:
        ConfigError, DataError: see `add_task`.
        GateError: one fell by more.
    """
    spec, dataset = _spec(learner), learner.dataset_
    made = way if isinstance(way, Way) else _made(Part.of(way))
    dtype = next(learner.model_.parameters()).dtype
    kept = None if old is None else of_frame(old, dataset, dtype, made.replays, learner.random_state)
    found = add_task(
        learner.model_, spec, dataset, task, frame, made, kept=kept, optim=learner.spec.optim,
        trainer=learner.spec.trainer, seed=learner.random_state,
    )  # fmt: skip
    if fallen := found.result.fallen(tolerance):
        raise GateError(
            f"No other task should fall by more than {tolerance:g}. Found that `{fallen[0].task}` fell from "
            f"{fallen[0].before} to {fallen[0].after} ({fallen[0].metric}); use a way that moves nothing (`probe`, "
            "`lowrank`), or raise `tolerance`."
        )
    return found.model, found.spec, found.dataset, {"added_": found.result}


def kept(learner: Trained, names: Sequence[str]) -> Found:
    """These tasks alone.

    Args:
        learner: trained; it stays as it is.
        names: of tasks.

    Raises:
        ConfigError: see `shrink`.
    """
    spec, layouts = _spec(learner), learner.dataset_.preprocess.layouts
    members, smaller = shrink(members_of(learner.model_, spec, layouts), spec, layouts, names)
    return joined(members), smaller, with_only(learner.dataset_, names), {}


def adapted(learner: Trained, frame: pd.DataFrame) -> Found:
    """The same tasks on a new domain; `adapted_` tells what that was worth.

    Args:
        learner: trained by an objective that learns from episodes; it stays as it is.
        frame: rows of the domain.

    Raises:
        ConfigError, DataError: see `adapt`.
    """
    part = learner.spec.optim.objective
    objective: Any = make(Objective, part.name, part.settings)  # type: ignore[type-abstract]
    model, found = adapt(learner.model_, learner.dataset_, frame, objective, learner.random_state)
    return model, _spec(learner), learner.dataset_, {"adapted_": found}


def _spec(learner: Trained) -> ModelSpec:
    """The architecture with every `auto` decided."""
    return settled(learner.spec.model, learner.dataset_.preprocess.layouts)


def _made(part: Part) -> Way:
    return make(Way, part.name, part.settings)  # type: ignore[type-abstract]
