"""fit, predict, evaluate, compare, save, load: the library in one object."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import modelfile
from .build import Prepared, make_training, objective_of, prepare
from .callback import Callback
from .commands.card import card
from .commands.examples import of_split
from .compare import SIMPLE, Progress, compare
from .data import Taskset
from .data.readers import frame_of
from .evaluate import predict, predict_frame, score
from .faults import ConfigError, DataError
from .later import Later
from .members import Members
from .results import Comparison, Delivery, History, Report, Scores, TaskInfo
from .spec import RunSpec, dumped, merged
from .tasks import Task
from .train import Training

if TYPE_CHECKING:
    import pandas as pd

    from .model import AnyModel

TABLE = "table"
"""The name of the only table."""

SECTIONS = {
    "encoder": ("model", "encoder"), "sharing": ("model", "sharing"), "members": ("model", "members"),
    "balance": ("optim", "balance"), "objective": ("optim", "objective"), "penalties": ("optim", "penalties"),
    "optimizer": ("optim", "optimizer"), "lr": ("optim", "lr"), "weight_decay": ("optim", "weight_decay"),
    "scheduler": ("optim", "scheduler"),
    "sampling": ("sampling", "mode"), "schedule": ("sampling", "schedule"), "batch_size": ("sampling", "batch_size"),
    "sampling_weights": ("sampling", "weights"), "temperature": ("sampling", "temperature"),
    "max_epochs": ("trainer", "max_epochs"), "max_steps": ("trainer", "max_steps"), "patience": ("trainer", "patience"),
    "accelerator": ("trainer", "accelerator"), "precision": ("trainer", "precision"),
    "gradient_clip_val": ("trainer", "gradient_clip_val"), "freeze_stopped": ("trainer", "freeze_stopped"),
    "accumulate_grad_batches": ("trainer", "accumulate_grad_batches"),
    "val_check_interval": ("trainer", "val_check_interval"),
    "split": ("data", "split"), "ids": ("data", "ids"), "types": ("features", "types"), "drop": ("features", "drop"),
}  # fmt: skip
"""Where a keyword of `Learner` stands in a config."""


class Learner(Later):
    """One model for several tasks, from a data frame to predictions.

    ```python
    learner = Learner([Regression("amount"), Binary("churn")], random_state=0)
    learner.fit(train)            # NaN in a target column: this label is missing
    learner.evaluate(test)
    learner.predict(test)
    ```

    A table is a data frame of any kind, a path, or several of them by name (disjoint tables: each labels the tasks
    whose target columns it has, and a task name in two tables is one head).

    Args:
        tasks: what to predict.
        random_state: seed of everything.
        callbacks: told about the training.
        **settings: any setting of a config under its own name: encoder, sharing, members, balance, objective,
            penalties, optimizer, lr, weight_decay, scheduler, sampling, schedule, batch_size, sampling_weights,
            temperature, max_epochs, max_steps, patience, accelerator, precision, gradient_clip_val, freeze_stopped,
            accumulate_grad_batches, val_check_interval, split, ids, types, drop. A word of a catalogue with settings is
            a dict: ``encoder={"name": "tabular", "d_hidden": 64}``; penalties are a list of words and dicts:
            ``sharing="soft", penalties=["l2", {"name": "l2", "on": "heads", "strength": 1e-2}]``.
            `manyheads doctor --list sharing` (or another catalogue) shows the words and their settings.

    Attributes:
        model_: the trained torch module.
        tasks_: the fitted tasks.
        history_: the course of the training.
        scores_: of the last `evaluate`.
        comparison_: of the last `compare`.
        delivery_: of the last `deliver`; None after `fit`.

    Raises:
        ConfigError: an unknown setting; the message proposes the nearest one.

    Reference:
        Caruana: Multitask learning, 1997.
    """

    def __init__(
        self, tasks: Sequence[Task], *, random_state: int = 0, callbacks: Sequence[Callback] = (), **settings: Any
    ) -> None:
        from .config import check

        for name in settings:
            if name not in SECTIONS:
                from .catalog import hint

                raise ConfigError(f"A Learner has no setting `{name}`. {hint(name, SECTIONS)}")
        names = [t.name for t in tasks]
        twice = [n for i, n in enumerate(names) if n in names[:i]]
        if twice:
            raise ConfigError(f"Tasks should have names of their own. Found `{twice[0]}` more than once.")
        self.tasks = list(tasks)
        self.settings, self.callbacks = dict(settings), list(callbacks)
        self.random_state = random_state
        kinds = {t.name: {k: v for k, v in t.to_json().items() if k in ("type", "target")} for t in tasks}
        values: dict[str, Any] = {"seed": random_state, "tasks": kinds}
        for name, value in settings.items():
            section, key = SECTIONS[name]
            values = merged(values, {section: {key: value}})
        self.spec: RunSpec = check(values, "the settings")
        self.comparison_: Comparison | None = None
        self.delivery_: Delivery | None = None
        self.scores_: Scores | None = None
        self.history_ = History()
        self.infos_: tuple[TaskInfo, ...] = ()
        self.warnings_: tuple[str, ...] = ()
        self._seen: tuple[str, dict[str, pd.DataFrame]] | None = None

    # -- training

    def fit(
        self,
        table: Any,
        valid: Any = None,
        *,
        targets: Mapping[str, Sequence[str]] | None = None,
        allow_unlabelled: bool = False,
    ) -> Learner:
        """Train on a table (or several by name).

        Args:
            table: rows with features and target columns; NaN or null in a target column means a missing label.
            valid: rows for early stopping. Without them, each member of the model holds out a fold of the rows.
            targets: {table: the tasks it labels}.
            allow_unlabelled: let a task pass that has no label at all.

        Raises:
            DataError: a column is missing, a task has no label, a feature is a copy of a target.
        """
        tables = tables_of(table)
        parts = {name: np.full(len(frame), "train", dtype=object) for name, frame in tables.items()}
        if valid is not None:
            tables, parts = _with_valid(tables, tables_of(valid))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepared = prepare(self.spec, self.tasks, tables, parts, targets=targets, allow_unlabelled=allow_unlabelled)
        self._repeat(caught)
        self._fit(prepared)
        return self

    def _repeat(self, caught: Sequence[warnings.WarningMessage]) -> None:
        self.warnings_ = tuple(dict.fromkeys(str(w.message) for w in caught))
        for w in caught:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)

    def _fit(self, prepared: Prepared) -> None:
        training = make_training(
            self.spec, prepared.dataset.preprocess.layouts, prepared.tasks, prepared.tasksets["train"],
            prepared.tasksets["valid"], callbacks=self.callbacks,
        )  # fmt: skip
        training.run()
        self._keep(prepared, training)

    def _keep(self, prepared: Prepared, training: Training | Members, delivery: Delivery | None = None) -> None:
        self.history_, self.delivery_ = History(records=tuple(training.history)), delivery
        self.training_, self.dataset_, self._seen = training, prepared.dataset, None
        self.model_: AnyModel = training.model  # type: ignore[assignment]
        self._tune(training.held_out())
        self.infos_ = tuple(prepared.describe(training.sampler))

    def _tune(self, held_out: Mapping[str, Any]) -> None:
        """What tasks learn from validation outputs: decision thresholds."""
        tuned = {
            name: task.tuned(held_out[name].output, held_out[name].target, held_out[name].known)
            if name in held_out
            else task
            for name, task in self.model_.tasks.items()
        }
        self.model_.tasks.update(tuned)
        self.dataset_ = self.dataset_.with_tasks(list(tuned.values()))

    @property
    def tasks_(self) -> list[Task]:
        """The fitted tasks."""
        self._check_fitted()
        return list(self.model_.tasks.values())

    # -- using the model

    def _tasksets(self, table: Any) -> dict[str, Taskset]:
        """Rows with the labels that the table has."""
        self._check_fitted()
        tables = tables_of(table)
        dtype = next(self.model_.parameters()).dtype
        columns = {str(c) for frame in tables.values() for c in frame.columns}
        tasks = [t.name for t in self.tasks_ if set(t.targets) <= columns and t.name not in self.dataset_.unlabelled]
        if not tasks:
            wanted = ", ".join(f"`{c}`" for t in self.tasks_ for c in t.targets)
            raise DataError(f"A table to evaluate on should have a target column ({wanted}). Found none of them.")
        return {name: rows.to(dtype) for name, rows in self.dataset_.tasksets(tables, tasks=tasks).items()}

    def predict(self, table: Any, tasks: Sequence[str] | None = None) -> Any:
        """Predictions as a data frame with the table's own index: `<name>`, `<name>__prob`, ...; no labels needed.

        With several tables by name, a dict of data frames. A table is given the tasks that it labelled in training, or
        `tasks`.
        """
        wanted = self._names(tasks)
        return self._each(table, lambda name, frame: predict_frame(self.model_, self.dataset_, name, frame, wanted))

    def predict_proba(self, table: Any, tasks: Sequence[str] | None = None) -> Any:
        """{task: probabilities}: (rows,) for binary, (rows, classes) for several classes; others are left out.

        With several tables by name, a dict of those.
        """
        wanted = self._names(tasks)

        def probabilities(name: str, frame: pd.DataFrame) -> dict[str, np.ndarray]:
            found = predict(self.model_, self.dataset_, name, frame, wanted)
            return {task: np.asarray(p.proba) for task, p in found.items() if p.proba is not None}

        return self._each(table, probabilities)

    def transform(self, table: Any) -> Any:
        """The shared representation of each row (rows, width); with several tables by name, a dict of those."""

        def features(name: str, frame: pd.DataFrame) -> np.ndarray:
            ((source, rows),) = self.dataset_.tasksets({name: frame}, labels=False).items()
            with torch.no_grad():
                dtype = next(self.model_.parameters()).dtype
                return np.asarray(self.model_.transform(rows.to(dtype).inputs, source))

        return self._each(table, features)

    def _each(self, table: Any, work: Callable[[str, pd.DataFrame], Any]) -> Any:
        """The result for a table; {name: result} where tables were given by name."""
        self._check_fitted()
        tables = tables_of(table)
        found = {name: work(name, frame) for name, frame in tables.items()}
        return found[TABLE] if list(found) == [TABLE] else found

    def _names(self, tasks: Sequence[str] | None) -> list[str] | None:
        from .catalog import hint

        self._check_fitted()
        for task in tasks or ():
            if task not in self.model_.tasks:
                raise ConfigError(f"The model has no task `{task}`. {hint(task, self.model_.tasks)}")
        return None if tasks is None else list(tasks)

    def evaluate(self, table: Any, split: str = "test", draws: int = 1000) -> pd.DataFrame:
        """One row per task: its primary metric, labels counted, 95 % bootstrap interval; all metrics are in `scores_`.

        A model that learned to follow new domains (objective `maml`, say) follows some rows of each and is judged by
        the others.

        Args:
            table: rows with target columns.
            split: the name of these rows in the report.
            draws: of the bootstrap.
        """
        import pandas as pd

        tasksets = self._tasksets(table)
        by = self.spec.data.split.by if self.spec.data.split.kind == "group" else None
        self._seen = split, tables_of(table)
        objective = objective_of(self.spec, len(self.dataset_.preprocess.sources))
        follows = objective.shape is not None and objective.shape.ways is None
        judged = objective.held_out(self.model_, tasksets) if follows else None
        redraw = by if isinstance(by, str) else None
        self.scores_ = score(self.model_, tasksets, split, draws, redraw=redraw, judged=judged)
        rows = [
            {
                "task": s.task, "metric": s.metric, "value": s.value, "labels": s.labels,
                "low": s.interval[0] if s.interval else None, "high": s.interval[1] if s.interval else None,
                "note": s.why or "",
            }
            for s in self.scores_.scores if s.primary
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("task")

    def score(self, table: Any) -> float:
        """The mean of the tasks' primary metrics, losses negated: for scikit-learn's tools."""
        self.evaluate(table, draws=0)
        assert self.scores_ is not None
        values = [
            (s.value if s.greater_is_better else -s.value)
            for s in self.scores_.scores
            if s.primary and s.value is not None
        ]
        if not values:
            raise DataError("A score needs a task whose primary metric is defined on these rows. Found none.")
        return float(np.mean(values))

    # -- evidence

    def compare(
        self,
        table: Any,
        repeats: int = 5,
        *,
        targets: Mapping[str, Sequence[str]] | None = None,
        methods: Sequence[str] = SIMPLE,
        n_jobs: int | None = None,
        progress: Progress | None = None,
    ) -> Comparison:
        """Should these tasks share a model? Same-budget single-task networks and simple baselines over re-drawn splits.

        Args:
            table: all rows; every repeat re-draws the split.
            repeats: splits.
            methods: simple baselines to show.
            n_jobs: processes; one per core by default.
            progress: called with (what, done, of how many).
        """
        self.comparison_ = compare(
            self.spec,
            self.tasks,
            tables_of(table),
            targets=targets,
            repeats=repeats,
            methods=methods,
            n_jobs=n_jobs,
            progress=progress,
        )
        return self.comparison_

    def deliver(
        self,
        table: Any,
        *,
        targets: Mapping[str, Sequence[str]] | None = None,
        n_jobs: int = 1,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Learner:
        """One model that has learned from the best there is for each task; who taught it is in `delivery_`.

        Args:
            table: rows to learn from; test rows are not among them.
            targets: {table: the tasks it labels}.
            n_jobs: processes.
            progress: called with (what, done, of how many).
            **settings: of `manyheads.deliver.Settings`: words, groups, folds, members, trust, capacity, branches.

        Raises:
            ConfigError: a task whose outputs cannot be mixed; an unknown setting.
        """
        from .deliver import Settings, deliver

        tables = tables_of(table)
        parts = {name: np.full(len(frame), "train", dtype=object) for name, frame in tables.items()}
        found = deliver(
            self.spec, self.tasks, tables, parts,
            targets=targets, settings=Settings(**settings), n_jobs=n_jobs, progress=progress,
        )  # fmt: skip
        self.spec = found.spec
        self._keep(found.prepared, found.training, found.delivery)
        return self

    def report(self, path: str | Path, title: str = "manyheads") -> Path:
        """Write all that is known as one HTML page (and its JSON beside it), with examples of what `evaluate` saw."""
        from . import report

        return report.write(self.as_report(title), path)

    def as_report(self, title: str = "manyheads") -> Report:
        """All that is known as one value."""
        return Report(
            title=title, tasks=self.infos_, history=self.history_,
            scores=() if self.scores_ is None else (self.scores_,),
            comparison=self.comparison_, delivery=self.delivery_,
            settings=dumped(self.spec),
            warnings=self.warnings_,
            examples=of_split(self.model_, self.dataset_, self._seen, self.random_state) if self._seen else None,
        )  # fmt: skip

    # -- keeping the model

    def save(self, folder: str | Path) -> Path:
        """Write a model folder (safetensors and JSON, no pickle)."""
        self._check_fitted()
        scores = () if self.scores_ is None else (self.scores_,)
        title = ", ".join(t.name for t in self.tasks_[:5]) + (", ..." if len(self.tasks_) > 5 else "")
        notes = {"spec": dumped(self.spec), "infos": [i.model_dump(mode="json") for i in self.infos_]}
        text = card(title, self.infos_, scores)
        return modelfile.save(folder, self.model_, self.spec.model, self.dataset_, card=text, notes=notes)

    @classmethod
    def load(cls, folder: str | Path, trust: Sequence[str] = ()) -> Learner:
        """A learner that predicts as the saved one did.

        Args:
            trust: modules whose classes the model may name.

        Raises:
            DataError: the folder is missing, damaged, newer than this version, or names a class that is not trusted.
        """
        model, spec, dataset, notes = modelfile.load(folder, trust)
        learner = cls(list(model.tasks.values()))
        learner.spec = learner.spec.model_copy(update={"model": spec})
        if "spec" in notes:
            learner.spec = RunSpec.model_validate(notes["spec"])
            learner.infos_ = tuple(TaskInfo.model_validate(i) for i in notes.get("infos", ()))
        learner.model_, learner.dataset_ = model, dataset
        return learner

    # -- scikit-learn

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"tasks": self.tasks, "random_state": self.random_state, "callbacks": self.callbacks} | self.settings

    def set_params(self, **params: Any) -> Learner:
        """Change constructor arguments."""
        self.__init__(**(self.get_params() | params))  # type: ignore[misc]
        return self

    def __repr__(self) -> str:
        settings = "".join(f", {k}={v!r}" for k, v in self.settings.items())
        return f"Learner([{', '.join(repr(t.name) for t in self.tasks)}]{settings}, random_state={self.random_state})"


def tables_of(table: Any) -> dict[str, pd.DataFrame]:
    """{name: frame} of a frame, a path, or several by name."""
    if isinstance(table, Mapping) and all(hasattr(v, "columns") or isinstance(v, str | Path) for v in table.values()):
        return {str(name): frame_of(one) for name, one in table.items()}
    return {TABLE: frame_of(table)}


def _with_valid(
    tables: Mapping[str, pd.DataFrame], valid: Mapping[str, pd.DataFrame]
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    import pandas as pd

    joined, parts = {}, {}
    for name, frame in tables.items():
        held = valid.get(name)
        joined[name] = frame if held is None else pd.concat([frame, held], ignore_index=True)
        words = ["train"] * len(frame) + ["valid"] * (0 if held is None else len(held))
        parts[name] = np.array(words, dtype=object)
    return joined, parts
