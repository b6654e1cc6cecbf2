"""What may teach: one model for all tasks, groups, one for each, linear models and boosting, on rows they never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..baselines import BASELINES
from ..blocks import seed_of
from ..build import Prepared, make_training
from ..compare import Progress, alone
from ..data import Taskset
from ..evaluate import run
from ..grouping.ofgroup import labelled_rows, of_group
from ..ledger import Ledger
from ..members import Members
from ..parallel import run_over
from ..spec import RunSpec, settled
from ..tasks import Task
from ..train import Training
from .parts import Fold, take
from .spaces import natural, of_predicted

SINGLE = ("alone", "linear", "boosting")
"""Candidates that know one task each."""
WORDS = ("joint", "group", *SINGLE, "blend")
"""All candidates, from what shares most to what shares least: of equals the first is taken."""

Says = dict[str, dict[str, Tensor]]
"""Task -> table -> natural outputs (rows, units), NaN in rows that nobody was asked about."""


@dataclass(frozen=True)
class Candidate:
    """A model, or one model per task.

    Attributes:
        name: ``joint``, ``alone``, ``linear``, ``boosting``, or the tasks of a group.
        tasks: those that it can teach.
        word: of `WORDS`.
    """

    name: str
    tasks: tuple[str, ...]
    word: str


def candidates_of(
    words: Sequence[str], names: Sequence[str], groups: Sequence[Sequence[str]], simple: bool = True
) -> list[Candidate]:
    """The candidates of these words, the simplest first; the joint model is always one.

    Args:
        words: of `WORDS`.
        names: all tasks.
        groups: proposed groups; those of one task or of all are the other candidates' already.
        simple: whether the inputs are numbers and categories, which linear models and boosting read.
    """
    whole = tuple(names)
    found = [Candidate("joint", whole, "joint")]
    if "group" in words:
        some = [tuple(t for t in names if t in g) for g in groups]
        some = [g for g in dict.fromkeys(some) if 1 < len(g) < len(names)]
        found += [Candidate(" + ".join(g), g, "group") for g in some]
    if "alone" in words and len(names) > 1:
        found.append(Candidate("alone", whole, "alone"))
    found += [Candidate(word, whole, word) for word in ("linear", "boosting") if word in words and simple]
    return found


@dataclass(frozen=True)
class Source:
    """What candidates learn from.

    Attributes:
        spec: the run.
        prepared: its tables, of which the training part is learned from.
        rows: the learning rows, per table.
        seed: of everything.
        members: nets of a model that is asked about a fold.
    """

    spec: RunSpec
    prepared: Prepared
    rows: Mapping[str, Taskset]
    seed: int
    members: int

    @property
    def tasks(self) -> dict[str, Task]:
        """The fitted tasks by name."""
        return {t.name: t for t in self.prepared.tasks}

    @property
    def layouts(self) -> dict[str, Any]:
        """Table -> what its inputs look like."""
        return self.prepared.dataset.preprocess.layouts

    @property
    def simple(self) -> bool:
        """Whether some inputs are numbers or categories."""
        kinds = ("numeric", "categorical")
        return any(x.shape[-1] for rows in self.rows.values() for k, x in rows.inputs.items() if k in kinds)

    def smaller(self) -> RunSpec:
        """The run with as many members as a model of a fold has."""
        own = settled(self.spec.model, self.layouts).members
        return self.spec.model_copy(
            update={"model": self.spec.model.model_copy(update={"members": min(int(own), self.members)})}
        )


def ask(
    source: Source,
    candidates: Sequence[Candidate],
    found: Sequence[Fold],
    *,
    n_jobs: int = 1,
    progress: Progress | None = None,
    ledger: Ledger | None = None,
    what: str = "candidates",
) -> dict[str, Says]:
    """What each candidate says of every row that a fold holds out, by models that saw none of the fold.

    Each net holds out rows of its own from those it learns from, to know when to stop: what it is asked about has no
    part in that either.

    Args:
        found: folds.
        n_jobs, ledger: as in `parallel.run_over`.
        progress: told what is being done.
        what: the word for it.

    Returns:
        candidate -> task -> table -> natural outputs.
    """
    nets = [c for c in candidates if c.word not in BASELINES]
    made = [(c, fold, _nets(source, c, fold, number)) for number, fold in enumerate(found) for c in nets]
    carry([run for _, _, runs in made for run in runs.values()], n_jobs, progress, ledger, f"{what}: nets")
    answer = {c.name: _blank(source, c.tasks) for c in candidates}
    for c, fold, runs in made:
        for names, trained in runs.items():
            _take_in(source, answer[c.name], fold, says(trained.model, source, names, fold))
    rest = [c for c in candidates if c.word in BASELINES]
    total, done = len(rest) * len(found) * len(source.tasks), 0
    for c in rest:
        for number, fold in enumerate(found):
            for name in c.tasks:
                _take_in(source, answer[c.name], fold, _simple(source, c.word, name, fold, number, ledger))
                done += 1
                if progress is not None:
                    progress(f"{what}: simple models", done, total)
    return answer


def carry(
    runs: Sequence[Training | Members], n_jobs: int, progress: Progress | None, ledger: Ledger | None, what: str
) -> None:
    """Train nets to their end, all of them together where their shapes allow."""
    each = [one for whole in runs for one in (whole.runs if isinstance(whole, Members) else [whole])]
    for one in each:
        one.primary_only = True
    tell = None if progress is None else lambda done, n: progress(what, done, n)
    run_over(each, tell, n_jobs, ledger=ledger)
    for whole in runs:
        if isinstance(whole, Members):
            whole.close()


def _nets(source: Source, c: Candidate, fold: Fold, number: int) -> dict[tuple[str, ...], Training | Members]:
    """The runs of a candidate on the rows of a fold, by the tasks of each."""
    train, tasks = take(source.rows, fold.within), source.tasks
    spec, seed = source.smaller(), seed_of(source.seed, "fold", number)
    if c.word == "joint":
        return {c.tasks: make_training(spec, source.layouts, list(tasks.values()), train, {}, seed=seed)}
    joint = make_training(spec, source.layouts, list(tasks.values()), train, {}, seed=seed)
    size = joint.sampler.batch_size
    runs: dict[tuple[str, ...], Training | Members] = {}
    for names in [c.tasks] if c.word == "group" else [(t,) for t in c.tasks]:
        own = alone(spec, size) if len(names) == 1 else of_group(spec, names, tasks, size)
        mine = [replace(tasks[t], sees=()) for t in names]
        part = labelled_rows(train, names)
        if part:
            runs[names] = make_training(own, source.layouts, mine, part, {}, seed=seed)
    return runs


def says(model: Any, source: Source, names: Sequence[str], fold: Fold) -> dict[str, dict[str, Tensor]]:
    """What a net says of the rows that a fold holds out, task by task, in the natural space."""
    answer: dict[str, dict[str, Tensor]] = {}
    for table, rows in take(source.rows, fold.held).items():
        wanted = [t for t in names if t in rows.tasks]
        dtype = next(model.parameters()).dtype
        for task, output in run(model, rows.to(dtype), wanted, table).items() if wanted else ():
            answer.setdefault(task, {})[table] = natural(source.tasks[task], output)
    return answer


def _simple(
    source: Source, word: str, name: str, fold: Fold, number: int, ledger: Ledger | None
) -> dict[str, dict[str, Tensor]]:
    """What a simple model of one task says of the rows that a fold holds out."""
    task, seed = source.tasks[name], seed_of(source.seed, "fold", number) % 2**31
    answer: dict[str, Tensor] = {}
    train, held = take(source.rows, fold.within), take(source.rows, fold.held)
    for table, rows in held.items():
        if name not in rows.tasks or table not in train:
            continue
        index = train[table].known_rows(name)
        if not len(index):
            continue
        target, known, weight = (None if v is None else v[index] for v in train[table].labels(name))
        x = {k: v[index] for k, v in train[table].inputs.items() if k in ("numeric", "categorical")}
        asked = {k: v for k, v in rows.inputs.items() if k in ("numeric", "categorical")}

        def values(
            x: Any = x, asked: Any = asked, target: Any = target, known: Any = known, weight: Any = weight,
            table: str = table,
        ) -> list[list[float]]:  # fmt: skip
            fit = BASELINES[word](task, x, source.layouts[table], target, known, weight, seed)
            return of_predicted(task, fit(asked)).tolist()

        found = values() if ledger is None else ledger.values(
            [word, task.to_json(), x, asked, target, known, weight, seed, "out of fold"], values
        )  # fmt: skip
        answer[table] = torch.tensor(found, dtype=torch.float64)
    return {name: answer}


def _blank(source: Source, names: Sequence[str]) -> Says:
    answer: Says = {}
    for name in names:
        task = source.tasks[name]
        for table, rows in source.rows.items():
            if name in rows.tasks:
                answer.setdefault(name, {})[table] = torch.full((len(rows), units(task)), torch.nan).double()
    return answer


def units(task: Task) -> int:
    """Natural outputs of a row."""
    if task.kind == "multiclass":
        return len(task.parts)
    if task.kind == "ordinal":
        return len(task.parts) - 1
    return len(task.targets) if task.kind == "multilabel" else 1


def _take_in(source: Source, whole: Says, fold: Fold, part: Mapping[str, Mapping[str, Tensor]]) -> None:
    for task, by_table in part.items():
        for table, values in by_table.items():
            whole[task][table][fold.held[table]] = values
