"""How related are these tasks? The study: what estimators look at is trained once for all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics, statistics
from ..blocks import seed_of
from ..build import Prepared, held_out, make_training, prepare, split_parts
from ..catalog import make, word
from ..compare import Progress, alone
from ..data import Taskset
from ..evaluate import measure
from ..faults import ConfigError
from ..grouping.ofgroup import labelled_rows, of_group
from ..ledger import Ledger
from ..parallel import run_over, workers
from ..results import Relatedness
from ..spec import Part, RunSpec
from ..tasks import Task
from ..train import Training
from . import Estimator, Reading
from .pairs import Together
from .readings import gathered
from .singles import Singles
from .watch import Watch

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("cosine", "lookahead", "rsa", "cka")
"""What is asked where nobody says: one joint run and one single-task model per task, for each seed."""
TEXTS = {"single": "single-task models", "pairs": "pairs of tasks"}
"""What is trained beside joint runs."""


def affinity(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    methods: Sequence[str | Part] = METHODS,
    seeds: int = 3,
    every: int | None = None,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> tuple[Relatedness, ...]:
    """How related some tasks are, as several estimators see it, with intervals over seeds.

    For each seed a joint model is trained as the config says and watched, single-task models with the same encoder and
    budget, and pairs where they are asked: whatever an estimator needs, and nothing twice. All nets are single members.
    Estimators see training rows, and the validation part (without one, a fold of the training part that is drawn anew
    for each seed, the same for all models); the test part is never touched, so that a choice of groups can still be
    judged on it. All models of a seed start from the same trunk. The intervals are over seeds: another table of the
    same kind is not part of them.

    Args:
        spec: the run.
        tasks: not fitted; two at least.
        tables: {name: frame}.
        targets: {table: tasks it labels}.
        parts: a split of the user's own.
        methods: words of `manyheads.affinity`, or words with settings; the answer is in their order.
        seeds: trainings of each model.
        every: steps between two looks at a joint run.
        n_jobs: processes; one per core by default.
        progress: told what is being done.

    Raises:
        ConfigError: fewer than two tasks, no seed, an unknown word or setting, a method twice.
    """
    asked = estimators_of(methods)
    n_jobs = len(os.sched_getaffinity(0)) if n_jobs is None and hasattr(os, "sched_getaffinity") else n_jobs or 1
    given = parts if parts is not None else split_parts(spec.data.split, tables, tasks)
    prepared = prepare(spec, tasks, tables, given, targets=targets)
    return related(spec, prepared, asked, seeds, every=every, n_jobs=n_jobs, progress=progress)


def estimators_of(methods: Sequence[str | Part]) -> dict[str, Estimator[Any]]:
    """The estimators that words (with settings, or without) name, by their word.

    Raises:
        ConfigError: an unknown word or setting; none, or one twice.
    """
    found: dict[str, Estimator[Any]] = {}
    for method in map(Part.of, methods):
        one = make(Estimator, method.name, method.settings)  # type: ignore[type-abstract]
        if word(type(one)) in found:
            raise ConfigError(f"Each method should be asked once. Found `{word(type(one))}` twice.")
        found[word(type(one))] = one
    if not found:
        raise ConfigError("`methods` should name an estimator of relatedness. Found none.")
    return found


def enough(tasks: int, seeds: int = 1) -> None:
    """See that there is something to relate.

    Raises:
        ConfigError: fewer than two tasks, or no seed.
    """
    if tasks < 2 or seeds < 1:
        raise ConfigError(
            f"Relatedness should be asked of two tasks or more, with one seed or more. Found {tasks} and {seeds}."
        )


def related(
    spec: RunSpec,
    prepared: Prepared,
    estimators: Mapping[str, Estimator[Any]],
    seeds: int = 3,
    *,
    every: int | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> tuple[Relatedness, ...]:
    """The study of `affinity`, on tables that are ready.

    Args:
        estimators: by their word, as `estimators_of` gives them.
        backend, ledger: as in `parallel.run_over`; joint runs are watched here, whoever carries out the others.

    Raises:
        ConfigError: fewer than two tasks, or no seed.
    """
    study = Study(spec, prepared, estimators, seeds, every=every)
    study.watch(n_jobs, progress, ledger)
    for kind, runs in study.runs().items():
        tell = None if progress is None else partial(progress, TEXTS[kind])
        study.seconds[kind] = run_over(runs, tell, n_jobs, backend=backend, ledger=ledger)
    return study.result()


@dataclass
class _Seed:
    """What is trained with one seed."""

    seed: int
    train: Mapping[str, Taskset]
    held: Mapping[str, Taskset]
    singles: dict[str, Training] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Training] = field(default_factory=dict)


class Study:
    """A study whose models are to be trained by the caller, so that those of many studies can be trained together.

    ``watch()``, then all of ``runs()`` to their end, then ``result()``.

    Args:
        spec: the run.
        prepared: tables that are ready.
        estimators: by their word.
        seeds: trainings of each model.
        every: steps between two looks at a joint run.

    Attributes:
        seconds: what training took, by kind of run; whoever trains them says so.

    Raises:
        ConfigError: fewer than two tasks, or no seed.
    """

    def __init__(
        self,
        spec: RunSpec,
        prepared: Prepared,
        estimators: Mapping[str, Estimator[Any]],
        seeds: int = 3,
        *,
        every: int | None = None,
    ) -> None:
        enough(len(prepared.tasks), seeds)
        self.spec = spec.model_copy(update={"model": spec.model.model_copy(update={"members": 1})})
        self.prepared, self.estimators, self.every = prepared, dict(estimators), every
        self.rounds = [self._round(seed_of(spec.seed, "affinity", r)) for r in range(seeds)]
        self.seconds = dict.fromkeys(TEXTS, 0.0)
        self._watched: list[tuple[Watch, int]] = []

    def of(self, kind: str) -> dict[str, Estimator[Any]]:
        """The estimators that look at joint runs, at single-task models or at pairs."""
        return {w: e for w, e in self.estimators.items() if e.looks_at == kind}

    def watch(self, n_jobs: int = 1, progress: Progress | None = None, ledger: Ledger | None = None) -> None:
        """Train the joint models of all seeds, watched, where an estimator asks for them.

        Args:
            n_jobs: processes.
            progress: told what is being done.
            ledger: what it has of a run that was watched alike is not read again.
        """
        if not self.of("joint"):
            return
        work = [(self._training(self.prepared.tasks, one), Watch(self.of("joint"), self.every)) for one in self.rounds]
        n_jobs, folder = min(n_jobs, len(work)), None if ledger is None else ledger.folder
        with nullcontext() if n_jobs == 1 else workers("loky", n_jobs):
            found: Any = (_carry(run, watch, folder) for run, watch in work)
            if n_jobs != 1:
                from joblib import Parallel, delayed

                calls = (delayed(_carry)(run, watch, folder) for run, watch in work)
                found = Parallel(n_jobs, return_as="generator")(calls)
            for answer in found:
                self._watched.append(answer)
                if progress is not None:
                    progress("joint model", len(self._watched), len(work))

    def runs(self) -> dict[str, list[Training]]:
        """The runs that estimators ask for beside joint ones, by kind: ``single`` and ``pairs``."""
        if not self.of("single") and not self.of("pairs"):
            return {}
        size = self._training(self.prepared.tasks, self.rounds[0]).sampler.batch_size
        names, single = [t.name for t in self.prepared.tasks], alone(self.spec, size)
        for one in self.rounds:
            one.singles = {t.name: self._training([t], one, single) for t in self.prepared.tasks}
        found = {"single": [run for one in self.rounds for run in one.singles.values()]}
        if self.of("pairs"):
            for one in self.rounds:
                for a, b in combinations(self.prepared.tasks, 2):
                    pair = a.name, b.name
                    one.pairs[pair] = self._training([a, b], one, of_group(self.spec, pair, names, size))
            found["pairs"] = [run for one in self.rounds for run in one.pairs.values()]
        return found

    def result(self) -> tuple[Relatedness, ...]:
        """What each estimator says, in their order."""
        answers: dict[str, Relatedness] = {}
        names = [t.name for t in self.prepared.tasks]
        until = [kept for _, kept in self._watched]
        for w, joint in self.of("joint").items():
            looks = [watch.readings[w] for watch, _ in self._watched]
            answers[w] = gathered(w, joint, names, looks, sum(watch.seconds[w] for watch, _ in self._watched), until)
        seconds = dict.fromkeys(self.of("single"), self.seconds["single"])
        found: dict[str, list[list[tuple[int, Reading]]]] = {w: [] for w in seconds}
        for one in self.rounds if seconds else ():
            seen = self._singles(one)
            for w, single in self.of("single").items():
                started = time.perf_counter()
                found[w].append([(0, single.measure(seen))])
                seconds[w] += time.perf_counter() - started
        answers |= {w: gathered(w, e, names, found[w], seconds[w]) for w, e in self.of("single").items()}
        for w, pairs in self.of("pairs").items():
            readings = [[(0, pairs.measure(seen))] for seen in self._together()]
            answers[w] = gathered(w, pairs, names, readings, sum(self.seconds.values()))
        return tuple(answers[w] for w in self.estimators)

    def _round(self, seed: int) -> _Seed:
        """The rows to learn from, and those that no model of this seed learns from."""
        train, valid = self.prepared.tasksets["train"], self.prepared.tasksets["valid"]
        if any(map(len, valid.values())):
            return _Seed(seed, train, valid)
        ((within, held),) = held_out(self.spec, train, 1, seed)
        return _Seed(seed, {t: rows.take(within[t]) for t, rows in train.items()}, held)

    def _training(self, tasks: Sequence[Task], one: _Seed, spec: RunSpec | None = None) -> Training:
        """A run of some of the tasks on the rows that label them, as `compare` and `groups` train them."""
        names = [t.name for t in tasks]
        train, held = one.train, one.held
        if len(tasks) < len(self.prepared.tasks):
            train, held = labelled_rows(train, names), labelled_rows(held, names)
        mine = [replace(t, sees=tuple(other for other in t.sees if other in names)) for t in tasks]
        layouts = self.prepared.dataset.preprocess.layouts
        made = make_training(spec or self.spec, layouts, mine, train, held, seed=one.seed)
        assert isinstance(made, Training)  # of one member
        made.primary_only = True
        return made

    def _singles(self, one: _Seed) -> Singles:
        tables = {name: tuple(run.sampler.tasksets) for name, run in one.singles.items()}
        models = {name: run.model for name, run in one.singles.items()}
        dtype = next(p.dtype for model in models.values() for p in model.parameters())
        train, held = ({t: rows.to(dtype) for t, rows in own.items()} for own in (one.train, one.held))
        return Singles(models, {t.name: t for t in self.prepared.tasks}, train, held, tables, one.seed)

    def _together(self) -> list[Together]:
        """The scores on held-out rows, of each seed; what changes are relative to is decided over all seeds."""
        scores: list[tuple[dict[str, float | None], dict[tuple[str, str], float | None]]] = []
        for one in self.rounds:
            by_itself = {name: _score(run, name) for name, run in one.singles.items()}
            paired: dict[tuple[str, str], float | None] = {}
            for (a, b), run in one.pairs.items():
                paired |= {(a, b): _score(run, a), (b, a): _score(run, b)}
            scores.append((by_itself, paired))
        baseline: dict[str, float | None] = {}
        up: dict[str, bool] = {}
        for task in self.prepared.tasks:
            own = np.array([s[task.name] for s, _ in scores], dtype=np.float64)  # None becomes NaN
            up[task.name] = metrics.find(task.metrics[0]).greater_is_better
            absolute = statistics.is_absolute(own, task.metrics[0])
            baseline[task.name] = None if absolute else abs(float(own[~np.isnan(own)].mean()))
        return [Together(by_itself, paired, baseline, up) for by_itself, paired in scores]


def _carry(run: Training, watch: Watch, folder: Path | None = None) -> tuple[Watch, int]:
    """What was read of a run, and the step whose weights it kept; it is trained to its end, or known from a ledger."""

    def ended() -> dict[str, Any]:
        run.callbacks.append(watch)
        run.run()
        each = -(-run.sampler.n_steps // run.settings.accumulate_grad_batches)
        watch.forget()
        return {"until": (run.best.epoch + 1) * each if run.best.epoch >= 0 else run.step, "told": watch.told()}

    if folder is None:
        return watch, ended()["until"]
    ledger = Ledger(folder)
    estimators = {word: [type(e).__name__, vars(e)] for word, e in watch.estimators.items()}
    kept = ledger.values(["watched", ledger.key(run), estimators, watch.every], ended)
    watch.recall(kept["told"])
    return watch, kept["until"]


def _score(run: Training, name: str) -> float | None:
    """A task's primary metric on the rows that its run held out."""
    task, found = run.tasks[name], run.held_out().get(name)
    return None if found is None else measure(task, found, task.metrics[:1])[0].value
