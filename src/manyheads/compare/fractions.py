"""What do tasks gain from one another while labels are few? The comparison at ever larger shares of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import baselines
from ..blocks import seed_of
from ..catalog import hint
from ..data.splits import Split
from ..faults import ConfigError
from ..ledger import Ledger
from ..results import Fractions
from ..spec import RunSpec
from ..tasks import Task
from .rounds import Thin
from .study import Progress, Study
from .ways import Tuned, ways

if TYPE_CHECKING:
    import pandas as pd


def label_fractions(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    shares: Sequence[float],
    *,
    way: str | None = None,
    of: str | None = None,
    methods: Sequence[str] = (),
    tuned: Tuned | None = None,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    simple: Sequence[str] = tuple(baselines.BASELINES),
    n_jobs: int = 1,
    backend: str = "loky",
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> Fractions:
    """Learning curves of one model for all tasks, of one per task and of simple models, over shares of the labels.

    A share is of the rows of the training and of the validation part of each table (of groups, where the split is by
    group); all rows of a smaller share are in every larger one. The test parts stay whole. With `of`, that task alone
    loses labels, and the others have all of theirs: what they give to a task with few.

    Intervals and p values are as in `compare`, each share for itself; the corrected t has the share of test rows of the
    whole parts: test parts overlap as they do there, training parts less, so that intervals are rather too wide.

    Args:
        spec, tasks, tables, targets, parts, repeats, simple: as in `compare_methods`.
        n_jobs, backend, ledger, progress: as there.
        shares: in (0, 1]; 1 is added.
        way: the method of the joint side, by its name among `methods`; the first by default.
        of: the task that loses labels; all by default.
        methods, tuned: as in `compare_methods`.

    Raises:
        ConfigError: a share that is none, an unknown task or method.
        DataError: too few labels are left to learn from.
    """
    check(shares, of, [t.name for t in tasks])
    wanted = sorted({*shares, 1.0})
    every = ways(spec, methods, tuned)
    if way is not None and way not in every:
        raise ConfigError(f"The method of a learning curve should be one that is compared. {hint(way, every)}")
    name = way if way is not None else next(iter(every))
    own = {k.partition(":")[2]: v for k, v in (tuned or {}).items() if k.startswith("single:")}
    found, ratio = {}, None
    for share in reversed(wanted):
        study = Study(
            spec,
            tasks,
            tables,
            {"joint": every[name]},
            targets=targets,
            parts=parts,
            repeats=repeats,
            simple=simple,
            alone_with=own,
            thin=None if share == 1 else thinned(spec, tasks, share, of),
        )
        told = None if progress is None else _told(progress, share)
        study.train(n_jobs, told, backend=backend, ledger=ledger)
        study.look()
        study.read()
        study.fit_simple(n_jobs, told, ledger)
        ratio = study.ratios() if ratio is None else ratio
        verdicts, _ = study.judged(ratio)
        comparison = verdicts.comparisons["joint"]
        lost = "each table" if of is None else f"`{of}`"
        note = "" if share == 1 else f" {100 * share:g} % of the labels of {lost} in training and validation."
        found[share] = comparison.model_copy(update={"protocol": comparison.protocol + note})
    return Fractions(shares=tuple(wanted), comparisons=tuple(found[share] for share in wanted), method=name)


def check(shares: Sequence[float], of: str | None, names: Sequence[str]) -> None:
    """See that shares are shares and that the task which loses labels is one, before anything is trained.

    Args:
        shares: in (0, 1].
        of: a task; None for all.
        names: the tasks.

    Raises:
        ConfigError: they are not.
    """
    if not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"Shares of the labels should lie in (0, 1]. Found {', '.join(f'{s:g}' for s in shares)}.")
    if of is not None and of not in names:
        raise ConfigError(f"The task that loses labels should be one of the tasks. {hint(of, names)}")


def _told(progress: Progress, share: float) -> Progress:
    return lambda text, done, n: progress(f"{100 * share:g} % of the labels, {text}", done, n)


def thinned(spec: RunSpec, tasks: Sequence[Task], share: float, of: str | None = None) -> Thin:
    """Takes labels away from training and validation rows, so that a share of them is left.

    The rows (or groups) of each part stand in an order that repeat and table alone decide, those first that have a
    class which no row before has, and these stay in any case; then the first of all. So shares are nested, and every
    class can be learned.

    Args:
        spec: the run; a split by group is thinned by group.
        tasks: all.
        share: in (0, 1).
        of: the task that loses labels, its column emptied elsewhere; by default whole rows leave their part.
    """

    def thin(
        tables: Mapping[str, pd.DataFrame], parts: Mapping[str, np.ndarray], repeat: int
    ) -> tuple[Mapping[str, pd.DataFrame], Mapping[str, np.ndarray]]:
        frames, words = dict(tables), {name: part.copy() for name, part in parts.items()}
        for name, frame in tables.items():
            here = [t for t in tasks if set(t.targets) <= set(frame.columns)]
            if of is not None:
                here = [t for t in here if t.name == of]
                if not here:
                    continue
            gone = np.zeros(len(frame), dtype=bool)
            units = _units(spec, frame)
            for part in ("train", "valid"):
                rows = np.flatnonzero(np.asarray(parts[name]) == part)
                if of is not None:
                    rows = rows[~frame[list(here[0].targets)].isna().all(axis=1).to_numpy()[rows]]
                random = np.random.default_rng(seed_of(spec.data.split.seed, "labels", name, part, repeat))
                ordered, least = _ordered(rows, units, here if part == "train" else (), frame, random)
                gone[ordered[max(_count(ordered, units, share), least) :]] = True
            if of is None:
                words[name][gone] = ""
            else:
                frames[name] = _emptied(frame, here[0], gone)
        return frames, words

    return thin


def _units(spec: RunSpec, frame: pd.DataFrame) -> np.ndarray:
    """What is taken or left as a whole: the number of each row's group, or of the row itself."""
    if spec.data.split.kind != "group":
        return np.arange(len(frame))
    keys = [frame[c].astype(str).to_numpy() for c in Split("group", spec.data.split.by).columns]
    return np.unique(["\x1f".join(own) for own in zip(*keys, strict=True)], return_inverse=True)[1]


def _ordered(
    rows: np.ndarray, units: np.ndarray, tasks: Sequence[Task], frame: pd.DataFrame, random: np.random.Generator
) -> tuple[np.ndarray, int]:
    """(rows in the order in which they are kept, unit by unit; how many at its head have all classes)."""
    place = {int(u): i for i, u in enumerate(random.permutation(np.unique(units[rows])))}
    order = rows[np.argsort([place[int(u)] for u in units[rows]], kind="stable")]
    rank = np.full(len(frame), len(frame), dtype=int)
    rank[order] = np.arange(len(order))
    first: set[int] = set()
    for task in tasks:
        if task.where is None:
            for own in task.classes_in(frame).values():
                there = own[rank[own] < len(frame)]
                if len(there):
                    first.add(int(units[there[np.argmin(rank[there])]]))
    ahead = np.isin(units[order], list(first))
    return np.concatenate([order[ahead], order[~ahead]]), int(ahead.sum())


def _count(ordered: np.ndarray, units: np.ndarray, share: float) -> int:
    """How many of the ordered rows stay: whole units, as near to the share as they come, one at least."""
    if not len(ordered):
        return 0
    ends = np.flatnonzero(np.append(np.diff(units[ordered]) != 0, True)) + 1
    return int(ends[np.argmin(np.abs(ends - share * len(ordered)))])


def _emptied(frame: pd.DataFrame, task: Task, gone: np.ndarray) -> pd.DataFrame:
    changed = {}
    for target in task.targets:
        column = frame[target]
        if column.dtype != object and not str(column.dtype).startswith(("float", "Float", "Int", "string", "category")):
            column = column.astype("float64" if column.dtype.kind in "biu" else object)
        changed[target] = column.mask(gone)
    return frame.assign(**changed)
