"""A learner's life after training: a task more, tasks fewer, a new domain."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, final

from .catalog import hint
from .data.readers import frame_of
from .faults import ConfigError
from .results import TaskInfo
from .tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self

    from .data.assemble import Dataset
    from .model import AnyModel
    from .spec import ModelSpec, RunSpec


class Later:
    """What a trained learner can become. Each method gives another learner and leaves this one as it is."""

    model_: AnyModel
    dataset_: Dataset
    spec: RunSpec
    random_state: int
    tasks: list[Task]
    infos_: tuple[TaskInfo, ...]

    @final
    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise ConfigError("This Learner should be fitted first. Call `fit(table)`, or `Learner.load(folder)`.")

    @final
    def add_task(self, task: Task, table: Any, way: Any = "probe", old: Any = None, tolerance: float = 0.0) -> Self:
        """A learner with a task more; what became of the others is in its `added_`.

        Args:
            task: not fitted.
            table: rows with the features and the task's target.
            way: a word of `manyheads.transfer`, a dict with settings, or an object.
            old: rows that label the other tasks, for ways that move what those are computed from.
            tolerance: by how much another task may fall on these old rows.

        Raises:
            ConfigError, DataError: the name is taken, a column is missing, a way needs old rows.
            GateError: another task fell by more.
        """
        self._check_fitted()
        from .growing.later import added

        return self._grown(*added(self, task, frame_of(table), way, None if old is None else frame_of(old), tolerance))

    @final
    def remove_task(self, *names: str) -> Self:
        """A learner without these tasks; what the others give stays the same, to the bit."""
        self._check_fitted()
        for name in names:
            if name not in self.model_.tasks:
                raise ConfigError(f"The model has no task `{name}`. {hint(name, self.model_.tasks)}")
        return self.subset(*(name for name in self.model_.tasks if name not in names))

    @final
    def subset(self, *names: str) -> Self:
        """A learner with these tasks alone; what they give stays the same, to the bit."""
        self._check_fitted()
        from .growing.later import kept

        return self._grown(*kept(self, names))

    @final
    def adapt(self, table: Any) -> Self:
        """A learner of a new domain, by the steps that its objective (`maml`, say) learned to take; see `adapted_`."""
        self._check_fitted()
        from .growing.later import adapted

        return self._grown(*adapted(self, frame_of(table)))

    @final
    def _grown(self, model: AnyModel, spec: ModelSpec, dataset: Dataset, found: dict[str, Any]) -> Self:
        other = copy(self)
        other.model_, other.dataset_, other.tasks = model, dataset, list(model.tasks.values())
        other.spec = self.spec.model_copy(update={"model": spec})
        other.infos_ = tuple(i for i in self.infos_ if i.name in model.tasks)
        vars(other).update({"scores_": None, "comparison_": None} | found)
        return other
