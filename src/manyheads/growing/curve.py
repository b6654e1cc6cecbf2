"""What a trained model is worth to a new task: its score over the number of labels, beside a start from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..blocks import seed_of
from ..catalog import make, word
from ..data import Taskset
from ..data.assemble import Dataset
from ..evaluate import measure, results
from ..faults import ConfigError
from ..model import AnyModel, Model
from ..results import Score
from ..results.added import CurvePoint, TransferCurve
from ..spec import ModelSpec, OptimSpec, Part, TrainerSpec, build_model
from ..statistics import resampled_t
from ..tasks import Task
from ..transfer import Case, Way, freeze
from ..transfer.finetune import FineTune
from .adding import case_of, encoded, learned
from .grown import joined, single, without
from .oldrows import Kept

if TYPE_CHECKING:
    import pandas as pd

SCRATCH = "scratch"
TEST = 3
"""One labelled row in so many is a test row."""
Progress = Callable[[str, int, int], None]
Learned = tuple[Task, AnyModel, Dataset]
"""(the fitted task, a model that has it, the dataset with it)."""
Begin = Callable[["pd.DataFrame", int], Learned]
"""From (few rows, seed) to what came of them."""
Model3 = tuple[AnyModel, ModelSpec, Dataset]


class _Scratch(Way):
    """Everything is new."""

    def prepare(self, case: Case) -> None:
        freeze(case.model, {name for name, _ in case.model.named_parameters()})


def transfer_curve(
    model: AnyModel,
    spec: ModelSpec,
    dataset: Dataset,
    task: Task,
    frame: pd.DataFrame,
    counts: Sequence[int],
    ways: Sequence[str | Part] = ("probe", "finetune", "lowrank"),
    *,
    kept: Kept | None = None,
    optim: OptimSpec | None = None,
    trainer: TrainerSpec | None = None,
    seeds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
    beside: Mapping[str, Model3] | None = None,
) -> TransferCurve:
    """How good a new task gets with few labels, started from a trained model in several ways, and from scratch.

    A third of the labelled rows are test rows, the same throughout. For each seed and count so many of the others are
    drawn (at least one of each class), the smaller draws within the larger ones; every start learns from the same rows,
    with the same architecture, columns, folds, optimiser and epochs. The intervals are over seeds, that is over draws
    of the labels and over starting weights; other test rows are not part of them, and draws of more than about half of
    the rows overlap, so that theirs are too narrow.

    Args:
        model, spec, dataset: as `modelfile.load` gives them.
        task: not fitted.
        frame: the model's feature columns, and the task's target.
        counts: of labels.
        ways: words of `manyheads.transfer`, or words with settings.
        kept: old rows, for ways that replay them.
        optim, trainer: how weights move.
        seeds: draws.
        seed: of the test rows.
        progress: called with (what, done, of how many).
        beside: name -> (model, spec, dataset) of further trained models, each a start of its own by `finetune`.

    Raises:
        ConfigError: no count, fewer than two rows of one, more than there are rows; an unknown way.
        DataError: see `add_task`.
    """
    starts: dict[str, Begin] = {SCRATCH: partial(scratch, model, spec, dataset, task, optim, trainer)}
    for part in map(Part.of, ways):
        way = make(Way, part.name, part.settings)  # type: ignore[type-abstract]
        starts[word(type(way))] = _begin(model, spec, dataset, task, way, kept, optim, trainer)
    for name, (other, its_spec, its_dataset) in (beside or {}).items():
        starts[f"finetune {name}"] = _begin(other, its_spec, its_dataset, task, FineTune(), None, optim, trainer)
    return over_counts(task, frame, counts, starts, seeds=seeds, seed=seed, progress=progress)


def _begin(
    model: AnyModel, spec: ModelSpec, dataset: Dataset, task: Task, way: Way, kept: Kept | None,
    optim: OptimSpec | None, trainer: TrainerSpec | None,
) -> Begin:  # fmt: skip
    """A trained model as a start, in one way."""

    def begin(few: pd.DataFrame, seed: int) -> Learned:
        fitted, grown, _, cases = learned(
            model, spec, dataset, task, few, way, kept=kept, optim=optim, trainer=trainer, seed=seed, hold=not way.whole
        )
        return fitted, joined([case.model for case in cases]), grown.with_tasks([*dataset.tasks, fitted])

    return begin


def over_counts(
    task: Task,
    frame: pd.DataFrame,
    counts: Sequence[int],
    starts: Mapping[str, Begin],
    *,
    seeds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> TransferCurve:
    """The score of a task over numbers of labels, from several starts that learn from the same draws.

    Args:
        task: not fitted.
        frame: rows with the features and the target.
        counts: of labels.
        starts: name -> what becomes of it: (rows, seed) -> (fitted task, model, its dataset); `SCRATCH` is among them.
        seeds, seed, progress: as `transfer_curve` has them.

    Raises:
        ConfigError: no count, fewer than two rows of one, or more than there are rows.
    """
    labelled = frame[frame[[c for c in task.targets if c in frame.columns]].notna().any(axis=1)].reset_index(drop=True)
    order = np.random.default_rng(seed_of(seed, "curve", "test")).permutation(len(labelled))
    test, pool = labelled.iloc[order[: len(order) // TEST]], labelled.iloc[order[len(order) // TEST :]]
    classes = task.classes_in(pool)
    least = max(2, len(classes))
    if not counts or min(counts) < least or max(counts) > len(pool):
        raise ConfigError(
            f"Counts of labels should be between {least} and {len(pool)} (two thirds of the labelled rows). Found "
            f"{', '.join(map(str, counts)) or 'none'}."
        )
    counts = sorted(set(counts))
    values: dict[str, list[list[float | None]]] = {start: [[] for _ in counts] for start in starts}
    score = None
    for s in range(seeds):
        rows = _drawn(len(pool), list(classes.values()), seed_of(seed, "curve", s))
        for i, n in enumerate(counts):
            few = pool.iloc[rows[:n]]
            for start, begin in starts.items():
                fitted, whole, grown = begin(few, seed + s)
                score = _score(whole, grown, fitted, test)
                values[start][i].append(score.value)
        if progress is not None:
            progress("draws of labels", s + 1, seeds)
    assert score is not None
    sign = 1 if score.greater_is_better else -1
    gains = {
        start: tuple(_point(_less(own, base, sign)) for own, base in zip(values[start], values[SCRATCH], strict=True))
        for start in starts
        if start != SCRATCH
    }
    points = {start: tuple(map(_point, own)) for start, own in values.items()}
    return TransferCurve(
        task=task.name, metric=score.metric, greater_is_better=score.greater_is_better, counts=tuple(counts),
        starts=points, gains=gains, seeds=seeds, test_labels=score.labels,
        protocol=f"{seeds} draws of labels, one test set of {score.labels} labels; plain 95 % t intervals over draws, "
        "gains paired by draw, not adjusted for the number of counts and ways. Draws of more than half of the labels "
        "overlap, so that their intervals are too narrow.",
        summary=_summary(task.name, counts, gains),
    )  # fmt: skip


def _drawn(n: int, classes: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """All rows in random order, one of each class first."""
    random = np.random.default_rng(seed)
    first = [int(random.choice(rows)) for rows in classes if len(rows)]
    rest = [row for row in random.permutation(n).tolist() if row not in set(first)]
    return np.array([*dict.fromkeys(first), *rest])


def scratch(
    model: AnyModel, spec: ModelSpec, dataset: Dataset, task: Task, optim: OptimSpec | None,
    trainer: TrainerSpec | None, frame: pd.DataFrame, seed: int,
) -> Learned:  # fmt: skip
    """A model of the same architecture for the new task alone; of a trained one its columns are all that is used.

    Args:
        model, spec, dataset, task, optim, trainer: as for `transfer_curve`.
        frame: rows to learn from.
        seed: of the weights.
    """
    dtype = next(model.parameters()).dtype
    task, grown, rows = encoded(dataset, task, frame, dtype)
    part = Part.of({"name": spec.sharing.name} | without(spec.sharing.settings, set(model.tasks)))
    alone = single(spec.model_copy(update={"sharing": part}))
    n = getattr(model, "n_members", 1)
    way, found = _Scratch(), []
    for m in range(n):
        made = build_model(alone, dataset.preprocess.layouts, [task], seed_of(seed, "member", m) if m else seed)
        assert isinstance(made, Model)
        made.to(dtype)
        fresh = frozenset(name for name, _ in made.named_parameters())
        way.fit(case_of(made, made, task, fresh, rows, None, way, m, n, seed, None, optim, trainer))
        found.append(made.cpu().eval())
    return task, joined(found), grown.with_tasks([*dataset.tasks, task])


def _score(model: AnyModel, dataset: Dataset, task: Task, frame: pd.DataFrame) -> Score:
    dtype = next(model.parameters()).dtype
    rows: Mapping[str, Taskset] = dataset.tasksets({"the test rows of a curve": frame}, tasks=[task.name])
    with torch.no_grad():
        result = results(model, {s: r.to(dtype) for s, r in rows.items()}, [task.name])[task.name]
    return measure(task, result, task.metrics[:1], split="the test rows")[0]


def _less(own: Sequence[float | None], base: Sequence[float | None], sign: int) -> list[float | None]:
    return [None if a is None or b is None else sign * (a - b) for a, b in zip(own, base, strict=True)]


def _point(values: Sequence[float | None]) -> CurvePoint:
    there = [v for v in values if v is not None]
    found = resampled_t(there)
    return CurvePoint(mean=found.mean, low=found.low, high=found.high, values=tuple(values))


def _summary(task: str, counts: Sequence[int], gains: Mapping[str, Sequence[CurvePoint]]) -> str:
    """Where the trained model helps beyond the noise of draws, in a sentence."""
    better = [f"{w} at {_listed(counts, own, 1)}" for w, own in gains.items() if _listed(counts, own, 1)]
    worse = [f"{w} at {_listed(counts, own, -1)}" for w, own in gains.items() if _listed(counts, own, -1)]
    said = f"For `{task}` a trained model is a better start than none: {'; '.join(better)} labels." if better else ""
    if worse:
        said += f"{' ' if said else ''}It is a worse one: {'; '.join(worse)} labels."
    return said or f"For `{task}` no way beats a start from scratch beyond the noise of draws."


def _listed(counts: Sequence[int], points: Sequence[CurvePoint], sign: int) -> str:
    def sure(p: CurvePoint) -> bool:
        return p.low is not None and p.high is not None and (p.low > 0 if sign > 0 else p.high < 0)

    return ", ".join(str(n) for n, p in zip(counts, points, strict=True) if sure(p))
