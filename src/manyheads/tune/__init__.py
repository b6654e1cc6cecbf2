"""Search settings within a budget, fairly for all sides: as many trials and the same ranges for each.

Trials see the training and the validation part; the test part is read once, at the end, by the chosen settings.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compare import alone
from ..config import applied
from ..evaluate import measure, results
from ..faults import DataError
from ..optim import device_of
from ..parallel import cluster, workers
from ..results import Scores, Tuned, TunedSide
from ..spec import Part, RunSpec, TuneSpec, settled
from .space import of_one_task, space_of
from .study import JOINT, SINGLE, WEIGHTS, Proposal, Side, Study, check_installed, chosen, front
from .trial import Outcome, Past, Rows, carried, forget, made_ready, only, runs_of, training_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["JOINT", "SINGLE", "WEIGHTS", "Side", "best_of", "search", "settings_of", "sides_of", "sort_out"]

Tell = Callable[[Tuned, int, int], None]
"""Called with (what is known, trials done, trials in all) after each trial."""


def sides_of(spec: RunSpec) -> list[Side]:
    """Who is tuned: the joint model, and what `tune.weights` and `tune.single` ask for.

    Args:
        spec: a run whose encoder is decided.

    Raises:
        ConfigError: `tune.space` names what does not exist, or what a setting cannot have.
    """
    space = space_of(spec)
    sides = [Side(JOINT, spec, space)]
    if spec.tune.weights and len(spec.tasks) > 1:
        equal = spec.optim.model_copy(update={"balance": Part(name="equal")})
        own = spec.model_copy(update={"optim": equal, "tune": _without_balance(spec.tune)})
        sides.append(Side(WEIGHTS, own, space_of(own, weights=True)))
    if spec.tune.single and len(spec.tasks) > 1:
        kept = alone(spec, 1).optim.penalties
        sides += [Side(SINGLE + t, spec, of_one_task(space, spec, t, kept), t) for t in spec.tasks]
    return sides


def _without_balance(tune: TuneSpec) -> TuneSpec:
    space = {path: r for path, r in tune.space.items() if not path.strip().startswith("optim.balance")}
    return tune.model_copy(update={"space": space})


def sort_out(
    spec: RunSpec,
    tables: Mapping[str, pd.DataFrame],
    parts: Mapping[str, np.ndarray],
    targets: Mapping[str, Sequence[str]] | None = None,
) -> tuple[RunSpec, Rows]:
    """(the run with its encoder decided, the rows that trials may see).

    Args:
        tables: {name: frame}.
        parts: {name: the part of each row}.
        targets: {table: tasks it labels}.

    Raises:
        ConfigError, DataError: see `prepare`.
    """
    rows = Rows.of(tables, parts, targets)
    prepared = made_ready(rows, spec)
    spec = spec.model_copy(update={"model": settled(spec.model, prepared.dataset.preprocess.layouts)})
    lead = runs_of(training_of(prepared, spec, None, 0))[0]
    rows.batch_size = lead.sampler.batch_size
    return spec, rows


def search(
    spec: RunSpec,
    tables: Mapping[str, pd.DataFrame],
    parts: Mapping[str, np.ndarray],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    store: Path | None = None,
    n_jobs: int | None = None,
    backend: str = "loky",
    tell: Tell | None = None,
    ready: tuple[RunSpec, Rows] | None = None,
) -> Tuned:
    """Search the settings of a run.

    In each round every side proposes `tune.batch` trials, from its own former rounds (the first of all is what the
    config says), so that whenever the search ends each side has had as many. The value of a trial is the mean skill
    that early stopping follows, on the validation part (without one, on the folds that members hold out). All trials
    have the seed of the run.

    Args:
        spec: the run; `tune` says how.
        tables: {name: frame}.
        parts: {name: the part of each row}.
        targets: {table: tasks it labels}.
        store: an SQLite file; trials that it holds are not done again.
        n_jobs: processes; by default one per core, and one beside a GPU. What is found does not depend on it.
        backend: as in `parallel.run_over`; under `threading`, trials come one after the other.
        tell: told after each trial.
        ready: what `sort_out` gave for the same, so that tables are not made ready twice.

    Raises:
        ConfigError, DataError: see `prepare`; a range that a setting cannot have; or every trial failed.
        MissingExtra: optuna is not installed.
    """
    check_installed()
    spec, rows = ready or sort_out(spec, tables, parts, targets)
    if n_jobs is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        n_jobs = cores if device_of(spec.trainer.accelerator).type == "cpu" else 1
    studies = [Study(side, store) for side in sides_of(spec)]
    clock = _Clock(studies)
    try:
        with cluster(backend, n_jobs):
            while jobs := _round(studies, clock):
                for study, proposal, outcome in _carry(rows, jobs, n_jobs, backend):
                    study.tell(proposal, outcome)
                    clock.note()
                    if tell is not None:
                        tell(_tuned(spec, studies, clock.seconds), *_count(studies))
        found = _tuned(spec, studies, clock.seconds, last=True)
        tests = _tests(Rows(tables, parts, targets, rows.batch_size), spec, [s.side for s in studies], found)
    finally:
        forget()
    clock.note()
    sides = tuple(side.model_copy(update={"test": tests[side.name]}) for side in found.sides)
    return found.model_copy(update={"sides": sides, "finished": True, "seconds": clock.seconds})


class _Clock:
    """Seconds that the search has taken, former calls included."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self._lead = studies[0]
        self._before = max(s.seconds for s in studies)
        self._started = self.last = time.perf_counter()
        self.longest = 0.0

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._started

    def note(self) -> None:
        """Keep it, for a call that goes on after an interruption."""
        self._lead.spent(self.seconds)

    def lap(self) -> None:
        """A round begins."""
        now = time.perf_counter()
        self.longest, self.last = max(self.longest, now - self.last), now


def _round(studies: Sequence[Study], clock: _Clock) -> list[tuple[Study, Proposal]]:
    """The next trials of the sides that are behind; none where the budget is spent."""
    tune = studies[0].side.spec.tune
    behind = min(s.round for s in studies)
    due = [s for s in studies if s.round == behind and len(s.trials) < tune.trials]
    clock.lap()
    begun = any(len(s.trials) for s in studies)
    level = len({len(s.trials) for s in studies}) == 1
    if tune.timeout is not None and begun and level and clock.seconds + clock.longest > tune.timeout:
        return []
    return [(s, p) for s in due for p in s.proposals()]


def _count(studies: Sequence[Study]) -> tuple[int, int]:
    return sum(len(s.trials) for s in studies), sum(max(s.side.spec.tune.trials, len(s.trials)) for s in studies)


def _carry(
    rows: Rows, jobs: Sequence[tuple[Study, Proposal]], n_jobs: int, backend: str = "loky"
) -> Iterator[tuple[Study, Proposal, Outcome]]:
    """Train the trials of a round; each is given back when it ends."""
    past = {study.side.name: study.past() for study, _ in jobs}
    specs = [study.side.space.applied(study.side.spec, p.settings) for study, p in jobs]
    if backend == "threading" or (backend == "loky" and (n_jobs == 1 or len(jobs) == 1)):
        for (study, proposal), spec in zip(jobs, specs, strict=True):
            yield study, proposal, carried(rows, spec, study.side.task, past[study.side.name])
        return
    from joblib import Parallel, delayed

    with tempfile.TemporaryDirectory() as folder, workers(backend, n_jobs):
        file = Path(folder) / "rows"
        there: str | Rows = str(file)
        if backend == "loky":
            file.write_bytes(pickle.dumps(rows))
        else:  # another machine does not see the file
            there = rows
        whole = backend.partition("=")[0] == "ray"  # its results come all at once
        ended = Parallel(n_jobs=n_jobs, return_as="list" if whole else "generator_unordered")(
            delayed(_apart)(i, there, spec, study.side.task, past[study.side.name])
            for i, ((study, _), spec) in enumerate(zip(jobs, specs, strict=True))
        )
        for i, outcome in ended:
            yield *jobs[i], outcome


def _apart(i: int, rows: Rows | str, spec: RunSpec, task: str | None, past: Sequence[Past]) -> tuple[int, Outcome]:
    """What a process of one thread does."""
    import torch

    torch.set_num_threads(1)
    return i, carried(rows, spec, task, past)


# ---- what came of it


def _tuned(spec: RunSpec, studies: Sequence[Study], seconds: float, last: bool = False) -> Tuned:
    return Tuned(
        objective=spec.tune.objective,
        sides=tuple(_side(study, last) for study in studies),
        trials=spec.tune.trials,
        timeout=spec.tune.timeout,
        seconds=seconds,
        protocol=_protocol(spec),
    )


def _side(study: Study, last: bool) -> TunedSide:
    side, trials = study.side, study.values()
    best = chosen(trials)
    return TunedSide(
        name=side.name,
        task=side.task,
        space=side.space.to_json(),
        trials=trials,
        best=None if best is None else best.number,
        overrides=() if best is None else tuple(_overrides(side, best.settings)),
        front=front(trials, side.axes) if side.axes else (),
        importance=study.importance() if last else {},
    )


def _overrides(side: Side, settings: Mapping[str, object]) -> list[str]:
    """The chosen settings, and what makes the side what it is."""
    lines = side.space.overrides(side.spec, settings)
    return [*lines, 'optim.balance={"name": "equal"}'] if side.name == WEIGHTS else lines


def _protocol(spec: RunSpec) -> str:
    tune = spec.tune
    text = (
        f"Every side had the same number of trials within the same ranges ({tune.batch} proposed at a time, the first "
        "as the config says where that is within), all with the seed of the run. Trials were measured on the "
        "validation part, or the folds that members hold out, by the skill that early stopping follows; the value of "
        "the best is therefore too good by its choice. The test part was read once, by the chosen settings."
    )
    if tune.objective == "pareto":
        text += " Each task was an objective of its own; the chosen trial is that of the front with the best mean."
        if tune.pruner != "none":
            text += " Pruners know one objective: they went by the mean."
    return text


def best_of(spec: RunSpec, side: TunedSide) -> RunSpec:
    """The config with the chosen settings of a side; for one task alone still the config of all.

    Args:
        spec: what was tuned.
    """
    return applied(spec.model_copy(update={"tune": TuneSpec()}), side.overrides)


def _tests(rows: Rows, spec: RunSpec, sides: Sequence[Side], found: Tuned) -> dict[str, Scores | None]:
    """Train the chosen settings of each side once more, and read the test part."""
    answer: dict[str, Scores | None] = {}
    for side in sides:
        own = found.side(side.name)
        if own.best is None or not any((part == "test").any() for part in rows.parts.values()):
            answer[side.name] = None
            continue
        best = next(t for t in own.trials if t.number == own.best)
        answer[side.name] = scored(rows, side.space.applied(side.spec, best.settings), side.task)
    return answer


def scored(rows: Rows, spec: RunSpec, task: str | None = None) -> Scores:
    """Train, and score on the test part: thresholds are chosen on held-out rows, as everywhere.

    Args:
        rows: all rows.
        spec: the run.
        task: the task that is alone; None for the joint model.
    """
    prepared = made_ready(rows, spec)
    training = training_of(prepared, spec, task, rows.batch_size)
    training.run()
    held = training.held_out()
    test = prepared.tasksets["test"]
    by = spec.data.split.by if spec.data.split.kind == "group" else None
    scores = []
    for name, result in results(
        training.model, test if task is None else only(test, task), list(training.tasks)
    ).items():
        own = training.tasks[name]
        own = own.tuned(held[name].output, held[name].target, held[name].known) if name in held else own
        scores += measure(own, result, draws=1000, redraw=by if isinstance(by, str) else None, split="test")
    return Scores(split="test", scores=tuple(scores))


def settings_of(folder: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The chosen settings of each side of a search: side -> ``a.b=value``, as `config.load` lays them over a config.

    Those of ``single:<task>`` are laid over the same config, before `compare.alone` makes it the run of one task.

    Args:
        folder: of `manyheads tune`.

    Raises:
        DataError: there is no finished search.
    """
    return {side.name: list(side.overrides) for side in read(folder).sides if side.best is not None}


def read(folder: str | os.PathLike[str]) -> Tuned:
    """What a search has found so far.

    Args:
        folder: of `manyheads tune`.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(folder) / "tune.json"
    if not path.is_file():
        raise DataError(
            f"`{folder}` should be the folder of a search. Found no tune.json there; `manyheads tune` writes it."
        )
    try:
        return Tuned.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise DataError(f"`{path}` should be what a search found. Found it damaged: {said}.") from None
