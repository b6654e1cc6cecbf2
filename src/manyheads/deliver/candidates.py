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
from .between import PLAIN
from .parts import Fold, take
from .spaces import label, natural, of_predicted

CONSTANT = "constant"
SINGLE = ("alone", "linear", "boosting", CONSTANT)
"""Candidates that know one task each."""
WORDS = ("joint", "group", *SINGLE, "blend")
"""All candidates, from what shares most to what shares least: of equals the first is taken."""

Says = dict[str, dict[str, Tensor]]
"""Task -> table -> natural outputs (rows, units), NaN in rows that nobody was asked about."""


@dataclass(frozen=True)
class Candidate:
    """A model, or one model per task.

    Attributes:
        name: ``joint``, ``alone``, ``linear``, ``boosting``, ``constant``, or the tasks of a group.
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
    found += [Candidate(CONSTANT, whole, CONSTANT)] if CONSTANT in words else []
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
        return any(x.shape[-1] for rows in self.rows.values() for k, x in rows.inputs.items() if k in PLAIN)

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
    backend: str = "loky",
    progress: Progress | None = None,
    ledger: Ledger | None = None,
    what: str = "candidates",
    extra: Mapping[str, Taskset] | None = None,
) -> tuple[dict[str, Says], dict[str, Says]]:
    """What each candidate says of every row that a fold holds out, by models that saw none of the fold.

    Each net holds out rows of its own from those it learns from, to know when to stop: what it is asked about has no
    part in that either.

    Args:
        found: folds.
        n_jobs, backend, ledger: as in `parallel.run_over`.
        progress: told what is being done.
        what: the word for it.
        extra: further rows, without labels: what is said of them is a mean over the folds' models.

    Returns:
        candidate -> task -> table -> natural outputs, of held-out rows and of the further ones.
    """
    nets = [c for c in candidates if c.word not in BASELINES]
    made = [(c, fold, _nets(source, c, fold, number)) for number, fold in enumerate(found) for c in nets]
    carry([run for _, _, runs in made for run in runs.values()], n_jobs, progress, ledger, f"{what}: nets", backend)
    answer = {c.name: _blank(source, c.tasks) for c in candidates}
    beyond: dict[str, _Means] = {c.name: _Means() for c in candidates}
    for c, fold, runs in made:
        held = take(source.rows, fold.held)
        for names, trained in runs.items():
            _take_in(answer[c.name], fold, says(trained.model, source.tasks, names, held))
            for table, own in _labelling(source, extra, names).items():
                wanted = [t for t in names if t in source.rows[table].tasks]
                beyond[c.name].add(says(trained.model, source.tasks, wanted, {table: own}))
    rest = [c for c in candidates if c.word in BASELINES]
    total, done = sum(len(c.tasks) for c in rest) * len(found), 0
    for c in rest:
        for number, fold in enumerate(found):
            for name in c.tasks:
                held, more = take(source.rows, fold.held), _labelling(source, extra, [name])
                for table in held:
                    said = _simple(source, c.word, name, fold, number, ledger, table, held, more)
                    if said is not None:
                        _take_in(answer[c.name], fold, {name: {table: said[: len(held[table])]}})
                        if table in more:
                            beyond[c.name].add({name: {table: said[len(held[table]) :]}})
                done += 1
                if progress is not None:
                    progress(f"{what}: simple models", done, total)
    return answer, {name: means.values() for name, means in beyond.items()}


class _Means:
    """Means over models of what they say."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], Tensor] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def add(self, said: Mapping[str, Mapping[str, Tensor]]) -> None:
        for task, by_table in said.items():
            for table, values in by_table.items():
                key = task, table
                self.sums[key] = self.sums[key] + values if key in self.sums else values
                self.counts[key] = self.counts.get(key, 0) + 1

    def values(self) -> Says:
        found: Says = {}
        for (task, table), values in self.sums.items():
            found.setdefault(task, {})[table] = values / self.counts[task, table]
        return found


def _labelling(source: Source, rows: Mapping[str, Taskset] | None, names: Sequence[str]) -> dict[str, Taskset]:
    """The tables among these whose learning rows may label one of the tasks."""
    return {t: own for t, own in (rows or {}).items() if set(names) & set(source.rows[t].tasks)}


def carry(
    runs: Sequence[Training | Members],
    n_jobs: int,
    progress: Progress | None,
    ledger: Ledger | None,
    what: str,
    backend: str = "loky",
) -> None:
    """Train nets to their end, all of them together where their shapes allow."""
    each = [one for whole in runs for one in (whole.runs if isinstance(whole, Members) else [whole])]
    for one in each:
        one.primary_only = True
    tell = None if progress is None else lambda done, n: progress(what, done, n)
    run_over(each, tell, n_jobs, backend=backend, ledger=ledger)
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


def says(
    model: Any, tasks: Mapping[str, Task], names: Sequence[str], rows: Mapping[str, Taskset]
) -> dict[str, dict[str, Tensor]]:
    """What a net says of rows, task -> table -> natural outputs (rows, units).

    Args:
        model: trained.
        tasks: fitted, by name.
        names: those that are asked.
        rows: per table; where they have labels, the tasks that they may label are asked alone.
    """
    answer: dict[str, dict[str, Tensor]] = {}
    for table, own in rows.items():
        wanted = [t for t in names if not own.blocks or t in own.tasks]
        dtype = next(model.parameters()).dtype
        for task, output in run(model, own.to(dtype), wanted, table).items() if wanted else ():
            answer.setdefault(task, {})[table] = natural(tasks[task], output)
    return answer


def _simple(
    source: Source, word: str, name: str, fold: Fold, number: int, ledger: Ledger | None, table: str,
    held: Mapping[str, Taskset], more: Mapping[str, Taskset],
) -> Tensor | None:  # fmt: skip
    """What a simple model of one task says of a table's held-out rows, and of the further ones; None without labels."""
    task, seed = source.tasks[name], seed_of(source.seed, "fold", number) % 2**31
    rows = source.rows[table].take(fold.within[table])
    if name not in rows.tasks or not len(index := rows.known_rows(name)):
        return None
    target, known, weight = rows.labels(name)
    target, known, weight = target[index], known[index], None if weight is None else weight[index]
    if word == CONSTANT:
        count = len(held[table]) + (len(more[table]) if table in more else 0)
        return mean_label(task, target, known, weight).expand(count, -1)
    x = {k: v[index] for k, v in rows.inputs.items() if k in PLAIN}
    asked = {k: v for k, v in held[table].inputs.items() if k in PLAIN}
    if table in more:
        asked = {k: torch.cat([v, more[table].inputs[k]]) for k, v in asked.items()}

    def values() -> list[list[float]]:
        fit = BASELINES[word](task, x, source.layouts[table], target, known, weight, seed)
        return of_predicted(task, fit(asked)).tolist()

    what = [word, task.to_json(), x, asked, target, known, weight, seed, "out of fold"]
    return torch.tensor(values() if ledger is None else ledger.values(what, values), dtype=torch.float64)


def mean_label(task: Task, target: Tensor, known: Tensor, weight: Tensor | None) -> Tensor:
    """What is best said without looking at the input: the mean of numbers, the shares of classes; (1, units)."""
    m = known.double() if weight is None else known * weight.double()
    m = m if m.dim() > 1 else m.unsqueeze(1)
    return (label(task, target) * m).sum(0, keepdim=True) / m.sum(0, keepdim=True).clamp(min=1e-12)


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


def _take_in(whole: Says, fold: Fold, part: Mapping[str, Mapping[str, Tensor]]) -> None:
    for task, by_table in part.items():
        for table, values in by_table.items():
            whole[task][table][fold.held[table]] = values
