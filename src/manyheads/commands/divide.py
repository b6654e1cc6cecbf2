"""The command `group`: which tasks should share a model, promised by estimators and then decided by training."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..affinity.related import enough, estimators_of, related
from ..build import make_training
from ..compare import processes
from ..faults import ConfigError, DataError
from ..files import write_atomically
from ..grouping.groups import validate
from ..grouping.partition import advised
from ..ledger import Ledger
from ..parallel import check as check_backend
from ..parallel import cluster
from ..results import Grouping, GroupingStudy, Relatedness
from ..spec import Part, RunSpec
from .display import change, change_span
from .door import Door, interruptible
from .pages import write_page
from .relate import FILE as MATRICES
from .relate import read as read_matrices
from .relate import write as write_matrices
from .runs import Ready
from .studies import study_in

FILE, RUNS = "groups.json", "runs"
METHODS = ("rsa", "cka", "transfer")
"""Estimators that propose groups where nobody says: those that found known groups most often, at the price of one
single-task model per task."""


def group(
    spec: RunSpec,
    output: Path,
    door: Door,
    budget: int,
    methods: Sequence[str] | None = None,
    measured: Path | None = None,
    seeds: int = 3,
    repeats: int = 5,
    branches_from: str | None = None,
    backend: str | None = None,
    n_jobs: int | None = None,
) -> dict[str, Any]:
    """Groups of tasks for at most so many models, trained beside one model for all and one for each, into a folder.

    Args:
        spec: the run.
        output: the folder; with ``--resume`` runs that it holds are not done again.
        budget: models at most.
        methods: estimators that propose groups; `METHODS` where nobody says.
        measured: a folder of `manyheads affinity` whose answers are taken instead.
        seeds: trainings of each model that estimators look at.
        repeats: splits that are drawn to train the groups.
        branches_from: the stage from which groups are tried as branches of one model as well.
        backend, n_jobs: who carries runs out, and how many at a time.

    Raises:
        ConfigError, DataError: as their names say.
    """
    if budget < 1:
        raise ConfigError(f"`--budget` should be one model or more. Found {budget}.")
    enough(len(spec.tasks), seeds)
    check_backend(backend or "loky")
    kept = None if measured is None else _kept(measured, methods, list(spec.tasks))
    estimators = {} if kept is not None else estimators_of(METHODS if methods is None else methods)
    with study_in(output, spec, door) as (folder, ready):
        if door.dry_run:
            return ready.planned
        branching = _stage(ready, branches_from)
        folder.begin(spec)
        door.screen.log = folder.log
        how: dict[str, Any] = {
            "n_jobs": processes(n_jobs), "backend": backend or "loky", "ledger": Ledger(output / RUNS),
        }  # fmt: skip
        with interruptible(door), cluster(how["backend"], how["n_jobs"]):
            if kept is None:
                with door.screen.progress() as progress:
                    found = related(ready.spec, ready.prepared, estimators, seeds, progress=progress, **how)
            else:
                found = kept
            write_matrices(found, output)
            tried = _proposed(found, budget, door)
            study = _trained(ready, door, distinct(tried), repeats, branching, how)
    write_atomically(output / FILE, (study.model_dump_json(indent=1) + "\n").encode("utf-8"))
    page = write_page(
        spec, output, relatedness=found, budget=budget, study=study, tasks=ready.infos, warnings=door.warned
    )
    _tell(study, door)
    door.screen.end(door.warned, [f"open {shlex.quote(str(page))}"])
    return {
        "choice": study.choice,
        "groups": [list(g) for g in study.groups],
        "recommendation": study.recommendation,
        "reason": study.reason,
        "summary": study.summary,
        "valid": dict(study.valid),
        "test": {name: [c.delta_m, list(c.interval)] for name, c in study.comparisons.items()},
        "agreement": dict(study.agreement),
        "proposed": {method: [list(g) for g in grouping.groups] for method, grouping in tried.items()},
        "repeats": study.repeats,
        "study": str(output / FILE),
        "report": str(page),
    }


def _proposed(found: Sequence[Relatedness], budget: int, door: Door) -> dict[str, Grouping]:
    """Estimator -> the groups that it speaks for, told as they are found."""
    proposals = {answer.method: advised(answer, budget) for answer in found}
    for method, grouping in proposals.items():
        door.screen.say(f"{method}: {_told(grouping)}")
    if not distinct(proposals):
        door.screen.say("Every estimator says all together or all apart: these two are trained.")
    return proposals


def _kept(measured: Path, methods: Sequence[str] | None, names: Sequence[str]) -> tuple[Relatedness, ...]:
    """The answers of estimators that a folder keeps."""
    if not (measured / MATRICES).exists():
        raise ConfigError(
            f"`--affinity` should be a folder that `manyheads affinity` wrote. Found no {MATRICES} in `{measured}`."
        )
    found = read_matrices(measured)
    kept = tuple(a for a in found if methods is None or a.method in methods)
    if not kept:
        raise ConfigError(
            f"`--methods` should name estimators that `{measured}` has. It has {', '.join(a.method for a in found)}."
        )
    for answer in kept:
        if set(answer.tasks) != set(names):
            raise ConfigError(
                f"`{measured}` should be of the tasks of this config, {', '.join(sorted(names))}. Found "
                f"{', '.join(sorted(answer.tasks))}."
            )
    return kept


def _stage(ready: Ready, text: str | None) -> int | str | None:
    """The stage at which groups part as branches, once a model with a branch for every task could be made so."""
    if text is None:
        return None
    at = int(text) if text.removeprefix("-").isdigit() else text
    spec, data = ready.spec, ready.prepared
    tree = Part.of({"name": "tree", "groups": [[t.name] for t in ready.tasks], "from_stage": at})
    branched = spec.model_copy(update={"model": spec.model.model_copy(update={"sharing": tree})})
    rows = data.tasksets["train"], data.tasksets["valid"]
    make_training(branched, data.dataset.preprocess.layouts, data.tasks, *rows)
    return at


def distinct(proposals: Mapping[str, Grouping]) -> dict[str, Grouping]:
    """The groupings worth training: neither all together nor all apart, each once, under the names of who proposed it.

    Args:
        proposals: estimator -> its groups.
    """
    by_groups: dict[frozenset[frozenset[str]], list[str]] = {}
    for name, grouping in proposals.items():
        by_groups.setdefault(frozenset(map(frozenset, grouping.groups)), []).append(name)
    return {
        "+".join(names): proposals[names[0]]
        for groups, names in by_groups.items()
        if len(groups) > 1 and any(len(g) > 1 for g in groups)
    }


def _trained(
    ready: Ready,
    door: Door,
    tried: Mapping[str, Grouping],
    repeats: int,
    branches_from: int | str | None,
    how: Mapping[str, Any],
) -> GroupingStudy:
    more: dict[str, Any] = dict(how) | {"parts": ready.intake.parts if ready.intake.given else None}
    more["branches_from"] = branches_from
    with door.screen.progress() as progress:
        return validate(
            ready.spec,
            ready.tasks,
            ready.intake.tables,
            tried,
            targets=ready.intake.targets,
            repeats=repeats,
            progress=progress,
            **more,
        )


def _told(grouping: Grouping) -> str:
    groups = "; ".join(" + ".join(g) for g in grouping.groups)
    return f"{groups}. {grouping.note}".strip()


def _tell(study: GroupingStudy, door: Door) -> None:
    """What each way is worth against single-task models, and what is advised."""
    for name, comparison in study.comparisons.items():
        test = f"{change(comparison.delta_m)} {change_span(comparison.interval)}"
        chosen = "  <- chosen on validation" if name == study.choice else ""
        valid = change(study.valid.get(name))
        door.screen.say(f"{name}: {test} against single-task models on test rows, {valid} on validation{chosen}")
    for name, rank in study.agreement.items():
        if rank is not None:
            door.screen.say(f"{name}: promised and realised gains have a rank correlation of {rank:.2f} over tasks.")
    sentence = study.recommendation
    door.screen.say(f"{sentence[:1].upper()}{sentence[1:]} {study.reason}".strip())
    if study.summary:
        door.screen.say(study.summary)


def read(output: Path) -> GroupingStudy:
    """The study that a folder keeps.

    Args:
        output: the folder.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return GroupingStudy.model_validate(json.loads((output / FILE).read_text(encoding="utf-8")))
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise DataError(f"`{output / FILE}` should be a study of groups. Found it damaged: {said}.") from None
