"""The whole road: candidates, a choice per task, one student that learns from them, and the check."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..blocks import seed_of
from ..build import Prepared, prepare
from ..catalog import hint
from ..compare import Progress
from ..data import Taskset
from ..faults import ConfigError
from ..ledger import Ledger
from ..members import Members
from ..parallel import cluster
from ..results import DeliveredTask, Delivery
from ..spec import RunSpec
from ..statistics import is_absolute
from ..tasks import Task
from ..train import Training
from . import spaces
from .between import between
from .candidates import CONSTANT, SINGLE, WORDS, Candidate, Says, Source, ask, candidates_of, carry, says
from .check import BEST, STUDENT, TEACHER, Judged, judge, worse
from .choice import BLEND, Choice, blended, choose, evidence, part_of
from .parts import Fold, Rows, levels, take
from .student import Further, Targets, branched, richer, student, wider

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Settings:
    """How a model is delivered.

    Args:
        words: candidates beside the joint model: of ``group``, ``alone``, ``linear``, ``boosting``, ``constant``,
            ``blend``.
        groups: proposed groups of tasks, such as those of `manyheads group`.
        folds: every candidate is asked about each of so many parts of the rows, having learned from the others.
        members: nets of a model that is asked about a part, at most.
        trust: lambda: the share of the teacher in the student's loss, 0 to 1; a constant, which is the best there is
            where inputs tell nothing, is trusted wholly.
        capacity: the student's hidden width over the joint model's.
        between: made-up rows per row, on which the student hears its teachers.
        richer: whether a student with tasks behind is tried with piecewise-linear embeddings and twice the width.
        branches: whether tasks that are behind still are given a branch of their own.

    Raises:
        ConfigError: a number that cannot be, an unknown word.
    """

    words: tuple[str, ...] = ("group", "alone", "linear", "boosting", "constant", "blend")
    groups: tuple[tuple[str, ...], ...] = ()
    folds: int = 5
    members: int = 4
    trust: float = 0.5
    capacity: float = 1.0
    between: float = 1.0
    richer: bool = True
    branches: bool = True

    def __post_init__(self) -> None:
        for word in self.words:
            if word not in WORDS:
                raise ConfigError(
                    f"Candidates should be words of {', '.join(WORDS)}. Found `{word}`. {hint(word, WORDS)}"
                )
        if self.folds < 3 or self.members < 1 or not 0 <= self.trust <= 1 or not self.capacity > 0 or self.between < 0:
            raise ConfigError(
                "A model should be delivered with 3 folds or more, a member at least, a trust between 0 and 1, a "
                "capacity above 0 and a share of made-up rows of 0 or more. Found "
                f"{self.folds}, {self.members}, {self.trust}, {self.capacity} and {self.between}."
            )

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has them."""
        return dict(json.loads(json.dumps(asdict(self))))


@dataclass(frozen=True)
class Delivered:
    """The model, and how it came about.

    Attributes:
        spec: the student's run.
        prepared: the tables; training and validation rows are one part.
        training: the student, trained.
        delivery: who taught it, and how it compares.
    """

    spec: RunSpec
    prepared: Prepared
    training: Training | Members
    delivery: Delivery


def deliver(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    parts: Mapping[str, np.ndarray],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    settings: Settings | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> Delivered:
    """One model for all tasks that has learned from the best there is for each: never worse, still one model.

    Candidates (one model for all tasks, proposed groups, one net, one linear model and one booster per task) are asked
    about rows that they have not seen, fold by fold. For each task the simplest one is chosen that is within a standard
    error of the best, or a mixture of them; it becomes the teacher. The student, an ordinary model of all tasks, learns
    from the labels and from what the teachers say of the same rows, which they had not seen.

    Whether the promise holds is seen in a rehearsal: the chosen candidates and the student are made once more from rows
    that leave the first fold (or the validation part that was given) out, and that fold judges the student against the
    best single-task model and against its teacher. Where tasks are behind beyond noise, a richer encoder is tried, and
    then branches of their own in the same model; the student that fewest are behind with is taken. Then it is trained
    on all rows. The test part is never read.

    Args:
        spec: the run.
        tasks: not fitted.
        tables: {name: frame}.
        parts: {name: the part of each row}; training and validation rows are learned from.
        targets: {table: tasks it labels}.
        settings: how.
        n_jobs, backend, ledger: as in `parallel.run_over`; simple models are fitted here.
        progress: told what is being done.

    Raises:
        ConfigError: a task whose outputs cannot be mixed; settings that cannot be.
        DataError: see `prepare`.

    Reference:
        Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015. Bucila, Caruana, Niculescu-Mizil:
        Model compression, 2006. Wolpert: Stacked generalization, 1992.
    """
    spaces.check(tasks)
    if spec.optim.objective.name.lower() != "supervised":
        raise ConfigError(
            "`deliver` should be given the objective `supervised`, whose targets teachers can say. Found "
            f"`optim.objective: {spec.optim.objective.name}`; remove it."
        )
    how = settings or Settings()
    merged = {name: np.where(part == "valid", "train", part) for name, part in parts.items()}
    prepared = prepare(spec, tasks, tables, merged, targets=targets)
    rows = prepared.tasksets["train"]
    source = Source(spec, prepared, rows, seed_of(spec.seed, "deliver"), how.members)
    both = levels(spec, rows, how.folds, source.seed, given(prepared, parts))
    study = _Study(source, how, both, n_jobs, ledger, backend)
    study.tell = progress
    with cluster(backend, n_jobs):
        return study.result()


def given(prepared: Prepared, parts: Mapping[str, np.ndarray]) -> Rows | None:
    """The rows of the validation part among the learning rows, per source; None where there is none.

    Args:
        prepared: with training and validation rows in one part.
        parts: as they were.
    """
    found: dict[str, list[np.ndarray]] = {}
    for table, source in prepared.dataset.preprocess.sources.items():
        if table in parts:
            learning = parts[table][np.isin(parts[table].astype(str), ("train", "valid"))]
            found.setdefault(source, []).append(learning == "valid")
    joined = {s: np.flatnonzero(np.concatenate(masks)) for s, masks in found.items()}
    if not any(map(len, joined.values())):
        return None
    return {s: torch.from_numpy(index) for s, index in joined.items()}


class _Study:
    """One delivery on its way."""

    def __init__(
        self,
        source: Source,
        how: Settings,
        found: tuple[list[Fold], list[Fold]],
        n_jobs: int,
        ledger: Ledger | None,
        backend: str = "loky",
    ) -> None:
        self.source, self.how, (self.folds, self.inner) = source, how, found
        self.n_jobs, self.ledger, self.backend = n_jobs, ledger, backend
        self.tell: Progress | None = None
        split = source.spec.data.split
        self.by = split.by if split.kind == "group" and isinstance(split.by, str) else None
        self.candidates = candidates_of(how.words, list(source.tasks), how.groups, source.simple)

    def result(self) -> Delivered:
        """All of it."""
        rows, seed = self.source.rows, self.source.seed
        made = between(rows, self.how.between, seed)
        everything, beyond = self._ask(self.candidates, self.folds, "candidates", made)
        choices = {}
        for task in self.source.tasks:
            e = evidence(self.source, everything, self.folds, task)
            choices[task] = choose(e, BLEND in self.how.words, self.by)
        lessons = {t: self._by_table(t, choice.teacher) for t, choice in choices.items()}
        whole = lessons, Further(made, _together(beyond, {t: choice.weights for t, choice in choices.items()}))
        rehearsal = self._rehearsal(choices)
        best, tried = self._best(rehearsal, everything, choices)
        every = {t: torch.arange(len(own)) for t, own in rows.items()}
        run = self._trained(best.spec, whole, every, self.source.spec.seed, "student", choices)
        return Delivered(best.spec, self.source.prepared, run, self._told(choices, best, tried))

    # -- teachers

    def _ask(
        self, candidates: Sequence[Candidate], found: Sequence[Fold], what: str, extra: Mapping[str, Taskset]
    ) -> tuple[dict[str, Says], dict[str, Says]]:
        return ask(
            self.source, candidates, found,
            n_jobs=self.n_jobs, backend=self.backend, progress=self.tell, ledger=self.ledger, what=what, extra=extra,
        )  # fmt: skip

    def _rehearsal(self, choices: Mapping[str, Choice]) -> tuple[Targets, Further]:
        """What the same teachers say who know nothing of the first fold; shares of a mixture are found anew there."""
        made = between(take(self.source.rows, self.folds[0].within), self.how.between, self.source.seed)
        says, beyond = self._ask(_needed(self.candidates, choices), self.inner, "rehearsal", made)
        lessons: dict[str, dict[str, Tensor]] = {}
        shares: dict[str, dict[str, float]] = {}
        for task, choice in choices.items():
            e = evidence(self.source, {c: own for c, own in says.items() if c in choice.weights}, self.inner, task)
            if not e.said:  # too few labels are left
                lessons[task], shares[task] = {}, {}
                continue
            only = next(iter(e.said))
            values, shares[task] = blended(e) if len(e.said) > 1 else (e.said[only], {only: 1.0})
            lessons[task] = self._by_table(task, values)
        return lessons, Further(made, _together(beyond, shares))

    def _by_table(self, task: str, values: Tensor) -> dict[str, Tensor]:
        """Rows of all tables, one after the other, table by table."""
        tables = [t for t, rows in self.source.rows.items() if task in rows.tasks]
        return dict(zip(tables, values.split([len(self.source.rows[t]) for t in tables]), strict=True))

    # -- the student

    def _trained(
        self,
        spec: RunSpec,
        lessons: tuple[Targets, Further],
        within: Rows,
        seed: int,
        what: str,
        choices: Mapping[str, Choice],
    ) -> Training | Members:
        trust = {t: 1.0 if choice.name == CONSTANT else self.how.trust for t, choice in choices.items()}
        run = student(self.source, spec, lessons[0], within, trust, seed, lessons[1])
        carry([run], self.n_jobs, self.tell, self.ledger, what, self.backend)
        return run

    def _best(
        self, lessons: tuple[Targets, Further], everything: Mapping[str, Says], choices: Mapping[str, Choice]
    ) -> tuple[_Try, dict[str, tuple[str, ...]]]:
        """(the student that fewest tasks are behind with, what was tried -> the tasks that were behind with it)."""
        spec = wider(self.source.spec, self.source.layouts, self.how.capacity)
        best = _Try("plain", spec, (), self._rehearsed(spec, lessons, everything, choices))
        tried = {best.word: best.behind}
        for word in ("richer", "branches"):
            if not best.behind or not getattr(self.how, word):
                continue
            apart = best.behind if word == "branches" else ()
            other = branched(best.spec, self.source.tasks, apart) if apart else richer(best.spec, self.source.layouts)
            if other is None or len(self.source.tasks) == len(apart) == 1:
                continue
            again = _Try(word, other, apart, self._rehearsed(other, lessons, everything, choices))
            tried[word] = again.behind
            best = again if len(again.behind) < len(best.behind) else best
        return best, tried

    def _rehearsed(
        self,
        spec: RunSpec,
        lessons: tuple[Targets, Further],
        everything: Mapping[str, Says],
        choices: Mapping[str, Choice],
    ) -> dict[str, Judged]:
        """The student without the first fold, judged by it."""
        fold = self.folds[0]
        seed = seed_of(self.source.seed, "rehearsal")
        run = self._trained(spec, lessons, fold.within, seed, "rehearsal of the student", choices)
        tasks = self.source.tasks
        said = says(run.model, tasks, list(tasks), take(self.source.rows, fold.held))
        found = {}
        for task, choice in choices.items():
            e = evidence(self.source, everything, self.folds, task)
            here = part_of(self.source, task, fold.held)
            if task not in said:
                continue
            values = torch.full_like(choice.teacher, torch.nan)
            values[here] = torch.cat(list(said[task].values()))
            three = {STUDENT: values, TEACHER: choice.teacher, BEST: e.said[choice.single]}
            judges = torch.zeros_like(e.fold, dtype=torch.bool)
            judges[here] = True
            own = replace(e, said=three, fold=torch.where(judges, e.fold, -1))
            if len(own.labelled):
                found[task] = own.of(own.labelled)
        return judge(found, self.by)

    # -- words

    def _told(self, choices: Mapping[str, Choice], best: _Try, tried: dict[str, tuple[str, ...]]) -> Delivery:
        rows = {}
        for name, task in self.source.tasks.items():
            choice, own = choices[name], best.judged.get(name)
            metric = metrics.find(task.metrics[0])
            values = {} if own is None else own.values
            single, teacher = (None, None) if own is None else (own.single, own.teacher)
            rows[name] = DeliveredTask(
                metric=metric.name, greater_is_better=metric.greater_is_better, candidates=choice.values,
                single=choice.single, chosen=choice.name,
                weights=choice.weights if choice.name == BLEND else {},
                branch="own" if name in best.apart else "shared",
                single_value=values.get(BEST), teacher_value=values.get(TEACHER), student_value=values.get(STUDENT),
                delta=None if single is None else single.mean,
                absolute=is_absolute([v for v in [values.get(BEST)] if v is not None], metric.name),
                interval=(None, None) if single is None else (single.low, single.high),
                p=None if single is None else single.p,
                behind=None if teacher is None else teacher.mean,
                behind_interval=(None, None) if teacher is None else (teacher.low, teacher.high),
                behind_p=None if teacher is None else teacher.p,
                kept=None if single is None or single.p is None else not worse(single),
                behind_teacher=teacher is not None and worse(teacher),
            )  # fmt: skip
        held = sum(map(len, self.folds[0].held.values()))
        return Delivery(
            tasks=rows, folds=len(self.folds), rows=held, student=best.word, behind=tried, settings=self.how.plain,
            protocol=(
                f"Candidates were asked about {len(self.folds)} parts of the rows, having learned from the others. The "
                f"student was rehearsed without the {held:,} rows that judge it; intervals are over those rows (95 %), "
                "p values Holm-adjusted over tasks."
            ),
        )  # fmt: skip


class _Try(NamedTuple):
    """A student as it was rehearsed."""

    word: str
    spec: RunSpec
    apart: tuple[str, ...]
    judged: Mapping[str, Judged]

    @property
    def behind(self) -> tuple[str, ...]:
        """The tasks that are behind."""
        return tuple(t for t, own in self.judged.items() if worse(own.single) or worse(own.teacher))


def _needed(candidates: Sequence[Candidate], choices: Mapping[str, Choice]) -> list[Candidate]:
    """The candidates that teach, those of single tasks for the tasks that they teach."""
    found = []
    for c in candidates:
        own = tuple(t for t in c.tasks if c.name in choices[t].weights)
        if own:
            found.append(replace(c, tasks=own) if c.word in SINGLE else c)
    return found


def _together(said: Mapping[str, Says], shares: Mapping[str, Mapping[str, float]]) -> Targets:
    """What teachers say, where a task may have several: task -> table -> their mixture.

    Args:
        said: candidate -> what it says.
        shares: task -> candidate -> its share.
    """
    answer: dict[str, dict[str, Tensor]] = {}
    for task, own in shares.items():
        tables = dict.fromkeys(t for c in own for t in said.get(c, {}).get(task, {}))
        for table in tables:
            parts = {c: said[c][task][table] for c in own if table in said.get(c, {}).get(task, {})}
            total = sum(own[c] for c in parts)
            answer.setdefault(task, {})[table] = torch.stack([own[c] / total * v for c, v in parts.items()]).sum(0)
    return answer
