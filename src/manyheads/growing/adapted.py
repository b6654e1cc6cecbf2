"""A model that learned to learn follows a few rows of a new domain, and what each task gained by it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..blocks import seed_of
from ..build import batch_size
from ..catalog import word
from ..data import Taskset
from ..data.assemble import Dataset
from ..evaluate import Result, measure, results
from ..faults import ConfigError, DataError
from ..members import folds
from ..model import AnyModel, Model
from ..objectives.episodic import Episodic
from ..objectives.proto import Proto
from ..results.added import Adapted, Kept, TransferCurve
from ..spec import ModelSpec, OptimSpec, TrainerSpec
from ..tasks import Task
from ..transfer import Case
from ..transfer.finetune import FineTune
from .curve import SCRATCH, Begin, Learned, Model3, Progress, over_counts, scratch
from .grown import joined, members_of, with_only
from .merge import renew
from .oldrows import free_name, own_fold

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5
"""Parts of the new rows, each foretold after the others were followed."""
ADAPTED = "adapted"


def adapt(
    model: AnyModel, dataset: Dataset, frame: pd.DataFrame, objective: Episodic, seed: int = 0
) -> tuple[AnyModel, Adapted]:
    """A copy of a model that followed the rows of a new domain, as it learned to; the model stays as it is.

    How much that is worth is asked of rows that were not followed: each of 5 parts of them is foretold by the model
    after it followed the other four, and by the model as it was.

    Args:
        model, dataset: as `modelfile.load` gives them.
        frame: rows of one new domain, with features and targets.
        objective: by which the model was trained.
        seed: of the parts.

    Raises:
        ConfigError: the objective numbers classes anew in each episode.
        DataError: a column is missing, or no row has a label.
    """
    started = time.perf_counter()
    refuse(objective)
    source, rows = labelled(dataset, frame, next(model.parameters()).dtype)
    parts = folds(len(rows), min(FOLDS, len(rows)), seed_of(seed, "domain") % 2**62) if len(rows) > 1 else []
    found: dict[str, list[Result]] = {}
    for held in parts:
        rest = torch.cat([p for p in parts if p is not held])
        own = followed(objective, model, rows.take(rest), source)
        for task, result in results(own, {source: rows.take(held)}).items():
            found.setdefault(task, []).append(result)
    order = torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.long)
    before = results(model, {source: rows.take(order)}) if parts else {}
    kept = tuple(_kept(model.tasks[t], before[t], Result.join(after)) for t, after in found.items())
    whole = followed(objective, model, rows, source)
    settings = {k: getattr(objective, k) for k in ("inner_steps", "inner_lr", "adapt", "norm")}
    return whole, Adapted(
        objective=word(type(objective)), settings=settings, rows=len(rows), folds=len(parts), kept=kept,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def followed(objective: Episodic, model: AnyModel, rows: Taskset, source: str) -> Model:
    """A copy of a model that followed some rows, in evaluation mode; a model like any other, to be kept and served.

    Where every batch was normed by its own rows (`norm: batch`), the copy norms by the statistics of the rows that it
    followed: a single row that is to be foretold has none. After a single row those of the training rows stay.

    Args:
        objective: by which the model was trained.
        model: stays as it is.
        rows: of the domain, from the table `source`.
    """
    own = objective.fit(model, rows, source)
    assert isinstance(own, Model)
    pairs: list[tuple[Any, Any]] = list(zip(model.modules(), own.modules(), strict=True))
    kept = [(old, new) for old, new in pairs if getattr(old, "track_running_stats", False)]
    kept = [(old, new) for old, new in kept if not new.track_running_stats]
    for old, new in kept:
        new.track_running_stats = True
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(new, name, getattr(old, name).clone())
    if kept and len(rows) > 1:
        renew(own, [new for _, new in kept], {source: rows})
    return own.eval()


def refuse(objective: Any) -> None:
    """See that a model of this objective can follow a new domain.

    Raises:
        ConfigError: it learned no such thing, or its classes mean something else in each episode.
    """
    if not isinstance(objective, Episodic):
        raise ConfigError(
            "A model that is to follow a new domain should have learned to (`optim.objective: maml`, say). Found "
            f"`{word(type(objective))}`; name a new task (--task, --type), or train with such an objective."
        )
    if objective.shape.ways is not None and not isinstance(objective, Proto):
        raise ConfigError(
            "A model that is to follow a new domain should know its classes. Found that it learned from classes that "
            "are numbered anew in each episode; name a new task for them (--task, --type multiclass, --way adapt)."
        )


def labelled(dataset: Dataset, frame: pd.DataFrame, dtype: torch.dtype) -> tuple[str, Taskset]:
    """(source, the rows with a label of some task of the model).

    Raises:
        DataError: there is none.
    """
    names = [t.name for t in dataset.tasks if set(t.targets) <= set(frame.columns)]
    wanted = ", ".join(dict.fromkeys(c for t in dataset.tasks for c in t.targets))
    if not names:
        raise DataError(f"Rows to follow should have a target column of the model ({wanted}). Found none of them.")
    ((source, rows),) = dataset.tasksets({free_name(dataset): frame}, tasks=names).items()
    some = torch.cat([rows.known_rows(t) for t in names]).unique()
    if not len(some):
        raise DataError(f"Rows to follow should have labels. Found none in the columns ({wanted}).")
    return source, rows.take(some).to(dtype)


def _kept(task: Task, before: Result, after: Result) -> Kept:
    was, now = (measure(task, r, task.metrics[:1], split="the new rows")[0] for r in (before, after))
    about: dict[str, Any] = {"metric": was.metric, "greater_is_better": was.greater_is_better, "labels": was.labels}
    return Kept(task=task.name, before=was.value, after=now.value, **about)


def domain_curve(
    model: AnyModel,
    spec: ModelSpec,
    dataset: Dataset,
    task: Task,
    frame: pd.DataFrame,
    counts: Sequence[int],
    objective: Episodic,
    *,
    optim: OptimSpec | None = None,
    trainer: TrainerSpec | None = None,
    seeds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
    beside: Mapping[str, Model3] | None = None,
) -> TransferCurve:
    """What a task of the model gets with few labels of a new domain: from scratch, transferred, and meta-learned.

    Starts: `scratch`, a net of the same architecture; `adapted`, the model after the steps that it learned to take;
    ``finetune NAME``, another model of the same task that is trained on, with its head, as every optimiser does.

    Args:
        model, spec, dataset: as `modelfile.load` gives them.
        task: one of the model's.
        frame: rows of one domain.
        counts: of labels.
        objective: by which the model was trained.
        optim, trainer: how weights move from scratch, and in fine-tuning.
        seeds, seed, progress: as `transfer_curve` has them.
        beside: name -> (model, spec, dataset) of other trained models that have the task.

    Raises:
        ConfigError: another model lacks the task, or a count does not fit.
    """
    refuse(objective)
    fresh = with_only(dataset, [])

    def adapted(few: pd.DataFrame, seed: int) -> Learned:
        source, rows = labelled(with_only(dataset, [task.name]), few, next(model.parameters()).dtype)
        return task, followed(objective, model, rows, source), dataset

    starts: dict[str, Begin] = {
        SCRATCH: partial(scratch, model, spec, fresh, task, optim, trainer),
        ADAPTED: adapted,
    }
    for name, (other, its_spec, its_dataset) in (beside or {}).items():
        if task.name not in other.tasks:
            raise ConfigError(f"A model beside this one should have the task `{task.name}`. Found none in `{name}`.")
        starts[f"finetune {name}"] = partial(_trained_on, other, its_spec, its_dataset, task.name, optim, trainer)
    return over_counts(task, frame, counts, starts, seeds=seeds, seed=seed, progress=progress)


def _trained_on(
    model: AnyModel, spec: ModelSpec, dataset: Dataset, name: str, optim: OptimSpec | None,
    trainer: TrainerSpec | None, few: pd.DataFrame, seed: int,
) -> Learned:  # fmt: skip
    """A model after fine-tuning on more rows of one of its own tasks."""
    task, way = model.tasks[name], FineTune(pace=1.0)
    source, rows = labelled(with_only(dataset, [name]), few, next(model.parameters()).dtype)
    layouts = dataset.preprocess.layouts
    old, found = members_of(model, spec, layouts), members_of(model, spec, layouts)
    for m, (was, own) in enumerate(zip(old, found, strict=True)):
        learn, held = own_fold(len(rows), len(old), seed)[m]
        train, valid = {source: rows.take(learn)}, {source: rows.take(held)} if len(held) else {}
        case = Case(
            was, own, task, frozenset(), train, valid, [task], optim or OptimSpec(), trainer or TrainerSpec(),
            batch_size(len(learn)), seed_of(seed, "member", m) if m else seed,
        )  # fmt: skip
        way.fit(case)
        own.cpu().eval()
    return task, joined(found), dataset
