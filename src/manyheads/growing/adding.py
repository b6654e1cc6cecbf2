"""A further task on a trained model: it is learned in one of several ways, and every other task is scored again."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..blocks import seed_of
from ..build import batch_size
from ..catalog import hint, make, word
from ..data import Taskset
from ..data.assemble import Dataset
from ..evaluate import Result, measure, results, run
from ..faults import ConfigError, DataError
from ..model import AnyModel, Model
from ..results import Score
from ..results.added import Added
from ..results.added import Kept as KeptScore
from ..spec import ModelSpec, OptimSpec, Part, TrainerSpec
from ..tasks import Task
from ..transfer import Case, Way
from .grown import grow, joined, members_of, with_task
from .oldrows import Kept, beside, free_name, own_fold

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Grown:
    """A model with a task more.

    Attributes:
        model, spec, dataset: what a model file is made of.
        result: what was found.
    """

    model: AnyModel
    spec: ModelSpec
    dataset: Dataset
    result: Added


def add_task(
    model: AnyModel,
    spec: ModelSpec,
    dataset: Dataset,
    task: Task,
    frame: pd.DataFrame,
    way: Way | Part | str = "probe",
    *,
    kept: Kept | None = None,
    optim: OptimSpec | None = None,
    trainer: TrainerSpec | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Grown:
    """A trained model with a task more; the model that is given stays as it is.

    Columns are read as the model learned to read them: their scales, and the categories that it knows, stay. Each
    member holds out a fold of the new rows, which tell when to stop and how good the new task is.

    Args:
        model, spec, dataset: as `modelfile.load` gives them.
        task: not fitted.
        frame: the model's feature columns, and the task's target.
        way: a word of `manyheads.transfer`, a word with settings, or an object.
        kept: rows of the other tasks, to be learned from again or to be judged by.
        optim, trainer: how weights move; the library's defaults by default.
        batch: rows of a step; from the number of rows by default.
        seed: of what is new.

    Raises:
        ConfigError: the name is taken; the way needs old rows and there are none; the scheme takes no further task.
        DataError: a column is missing, or no row has a label.
    """
    started = time.perf_counter()
    way = way if isinstance(way, Way) else _way(Part.of(way))
    _refuse(dataset, task, frame)
    if not way.frozen and not way.blind and (kept is None or not kept.tasks or (way.replays and not kept.train)):
        raise ConfigError(
            f"`{word(type(way))}` moves what the other tasks are computed from, so that rows with their labels should "
            "be there. Found none; give them (--old-data), or use `probe` or `lowrank`, which move nothing, or "
            "`distill`, which does without."
        )
    task, grown_set, rows, cases = learned(
        model, spec, dataset, task, frame, way, kept=kept, optim=optim, trainer=trainer, batch=batch, seed=seed
    )
    old, members = [case.old for case in cases], [case.model for case in cases]
    spec = way.spec(spec, task.name)
    task, score = _judged(task, cases)
    if way.whole:
        members = [case.model for case in learned(
            model, spec, dataset, task, frame, way, kept=kept, optim=optim, trainer=trainer, batch=batch, seed=seed,
            hold=False,
        )[3]]  # fmt: skip
    for one in members:
        one.tasks[task.name] = task
    whole = joined(members)
    dataset = grown_set.with_tasks([*dataset.tasks, task])
    was = joined(old)
    result = Added(
        task=task.name, kind=task.kind, way=word(type(way)), settings=_settings(way),
        labels=sum(r.counts()[task.name] for r in rows.values()), score=score, frozen=way.frozen,
        identical=identical(was, whole, rows), kept=scored(kept, old, was, members, whole),
        unchecked=tuple(t for t in was.tasks if kept is None or t not in kept.tasks),
        seconds=time.perf_counter() - started,
    )  # fmt: skip
    return Grown(whole, spec, dataset, result)


def learned(
    model: AnyModel, spec: ModelSpec, dataset: Dataset, task: Task, frame: pd.DataFrame, way: Way, *,
    kept: Kept | None = None, optim: OptimSpec | None = None, trainer: TrainerSpec | None = None,
    batch: int | None = None, seed: int = 0, hold: bool = True,
) -> tuple[Task, Dataset, dict[str, Taskset], list[Case]]:  # fmt: skip
    """(the fitted task, the dataset with it, source -> the rows that label it, each member after it learned).

    Args:
        model, spec, dataset, task, frame, way, kept, optim, trainer, batch, seed: as for `add_task`.
        hold: whether each member keeps a fold of the rows out.
    """
    task, grown, rows = encoded(dataset, task, frame, next(model.parameters()).dtype)
    layouts = dataset.preprocess.layouts
    old = members_of(model, spec, layouts)
    members, fresh = grow(old, way.spec(spec, task.name), layouts, task, seed)
    cases = [
        case_of(old[m], members[m], task, fresh, rows, kept, way, m, len(old), seed, batch, optim, trainer, hold)
        for m in range(len(old))
    ]
    for case in cases:
        way.fit(case)
        case.model.cpu().eval()
    return task, grown, rows, cases


def _way(part: Part) -> Way:
    return make(Way, part.name, part.settings)  # type: ignore[type-abstract]


def _settings(way: Way) -> dict[str, Any]:
    return {k: v for k, v in vars(way).items() if not k.startswith("_")}


def _refuse(dataset: Dataset, task: Task, frame: pd.DataFrame) -> None:
    names = [t.name for t in dataset.tasks]
    if task.name in names:
        raise ConfigError(f"A new task should have a name of its own. The model has a task `{task.name}` already.")
    for name in names:
        if task.name.startswith(f"{name}__") or name.startswith(f"{task.name}__"):
            raise ConfigError(
                f"Tasks should give columns of their own. Found `{task.name}` beside `{name}`; rename it."
            )
    read = {c.name for columns in dataset.preprocess.columns.values() for c in columns}
    for column in task.targets:
        if column in read:
            raise DataError(f"A target should be no feature. Found that the model reads the column `{column}`.")
        if column not in frame.columns:
            raise DataError(
                f"The new rows should have the target column `{column}`. Found no such column. "
                f"{hint(column, map(str, frame.columns))}"
            )


def encoded(
    dataset: Dataset, task: Task, frame: pd.DataFrame, dtype: torch.dtype = torch.float32
) -> tuple[Task, Dataset, dict[str, Taskset]]:
    """(the task fitted on these rows, the dataset with it, source -> the rows that label it).

    Raises:
        DataError: a feature column is missing, or no row has a label.
    """
    from ..data.labels import inside

    source = dataset.preprocess.source_of(frame)
    inputs = dataset.preprocess.described(t for t, s in dataset.preprocess.sources.items() if s == source)
    task = task.beside(inputs)
    taught = inside(frame.reset_index(drop=True), task)
    taught = taught[taught[list(task.targets)].notna().any(axis=1)]
    if not len(taught):
        raise DataError(f"Task `{task.name}` should have a label. Found none in column `{', '.join(task.targets)}`.")
    task = task.fitted(taught)
    grown = with_task(dataset, task, source)
    rows = {s: r.to(dtype) for s, r in grown.tasksets({free_name(dataset): frame}, tasks=[task.name]).items()}
    return task, grown, {s: r.take(r.known_rows(task.name)) for s, r in rows.items()}


def case_of(
    old: Model, model: Model, task: Task, fresh: frozenset[str], rows: Mapping[str, Taskset], kept: Kept | None,
    way: Way, m: int, n: int, seed: int, batch: int | None, optim: OptimSpec | None, trainer: TrainerSpec | None,
    hold: bool = True,
) -> Case:  # fmt: skip
    """What member m of n is to learn: all new rows but its own fold, and old ones where the way replays them."""
    ((source, own),) = rows.items()
    every = torch.arange(len(own)), torch.empty(0, dtype=torch.long)
    learned, held = own_fold(len(own), n, seed)[m] if hold else every
    train: Mapping[str, Taskset] = {source: own.take(learned)}
    valid: Mapping[str, Taskset] = {source: own.take(held)} if len(held) else {}
    tasks = [task]
    if way.replays:
        assert kept is not None
        train, valid = beside(kept.of(kept.train, m), train), beside(kept.of(kept.valid, m), valid)
        tasks = [*old.tasks.values(), task]
    size = batch or batch_size(sum(map(len, train.values())))
    own_seed = seed_of(seed, "member", m) if m else seed
    return Case(
        old, model, task, fresh, train, valid, tasks, optim or OptimSpec(), trainer or TrainerSpec(), size, own_seed
    )


def _judged(task: Task, cases: Sequence[Case]) -> tuple[Task, Score | None]:
    """The task with what outputs on held-out rows teach, and its score there."""
    found = [
        own[task.name]
        for case in cases
        if (own := results(case.model, {s: r.only([task.name]) for s, r in case.valid.items()}, [task.name]))
    ]
    if not found:
        return task, None
    result = Result.join(found)
    task = task.tuned(result.output, result.target, result.known)
    return task, measure(task, result, task.metrics[:1], draws=1000, split="held-out rows")[0]


def scored(
    kept: Kept | None, old: Sequence[Model], was: AnyModel, members: Sequence[Model], whole: AnyModel
) -> tuple[KeptScore, ...]:
    """Each other task before and after, on its own validation rows.

    Args:
        kept: those rows.
        old, was: the members as they were, and the model of them.
        members, whole: as they are.
    """
    if kept is None:
        return ()
    before, after = kept.scores(old, was), kept.scores(members, whole)
    found = []
    for name, s in before.items():
        about: dict[str, Any] = {"metric": s.metric, "greater_is_better": s.greater_is_better, "labels": s.labels}
        note = kept.notes.get(name, "")
        found.append(KeptScore(task=name, before=s.value, after=after[name].value, note=note, **about))
    return tuple(found)


def identical(old: AnyModel, new: AnyModel, rows: Mapping[str, Taskset]) -> bool:
    """Whether the old model's outputs on some rows are the new one's as well, byte by byte, with all tasks asked."""
    names: Sequence[str] = tuple(t for t in old.tasks if t in new.tasks)
    for source, part in rows.items():
        a, b = run(old, part, tuple(old.tasks), source), run(new, part, tuple(new.tasks), source)
        if any(bytes_of(a[t]) != bytes_of(b[t]) for t in names):
            return False
    return True


def bytes_of(value: Any) -> bytes:
    """What an output is made of."""
    return value.contiguous().numpy().tobytes() if isinstance(value, Tensor) else pickle.dumps(value)
