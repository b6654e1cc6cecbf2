"""The command `deliver`: one model that is no worse than the best there is for each task."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from .. import config, yaml12
from ..catalog import hint
from ..compare import processes
from ..deliver import Delivered, Settings
from ..deliver import deliver as delivered
from ..deliver.spaces import check as suited
from ..faults import ConfigError
from ..files import write_atomically
from ..ledger import Ledger
from ..parallel import check as check_backend
from ..results import Delivery
from ..spec import RunSpec
from .display import change, change_span
from .divide import FILE as GROUPS
from .divide import read as read_groups
from .door import Door, scores_json
from .runfolder import RunFolder
from .runs import Ready, finish, make_ready, read_report

FILE, RUNS = "deliver.json", "runs"
KEPT = {True: "kept", False: "not kept", None: "not judged"}
"""What became of the promise, in words."""


def deliver(
    spec: RunSpec,
    output: Path,
    door: Door,
    candidates: Sequence[str] | None = None,
    groups: Path | None = None,
    texts: Sequence[str] = (),
    backend: str | None = None,
    n_jobs: int | None = None,
) -> dict[str, Any]:
    """Candidates, a choice per task, one student, the check; the student into a run's folder.

    Args:
        spec: the run.
        output: its folder, which `predict`, `evaluate` and `report` read as any other; with ``--resume`` nets that it
            holds are not trained again.
        candidates: words beside the joint model; all by default.
        groups: a folder of `manyheads group` whose groups are candidates too.
        texts: further settings, ``key=value``.
        backend, n_jobs: who carries nets out, and how many at a time.

    Raises:
        ConfigError, DataError: as their names say.
    """
    how, carriers = settings_of(candidates, groups, texts), (backend or "loky", processes(n_jobs))
    check_backend(carriers[0])
    if strange := sorted({t for group in how.groups for t in group} ^ set(spec.tasks)) if how.groups else []:
        raise ConfigError(
            f"`--groups` should be of the tasks of this config. Found {', '.join(f'`{t}`' for t in strange)} in one of "
            f"the two alone: config and `{groups}`."
        )
    suited(config.tasks_of(spec))
    folder = RunFolder(output)
    there = False if door.dry_run else folder.claim(spec, door.resume, door.force)
    if there and folder.finished:
        _same_settings(how, read(output), output)
        door.screen.say(f"The run in {output} is finished; nothing is left to do.")
        return summary(read(output), output)
    with door.hearing():
        ready = make_ready(spec, door, merged=True)
        door.screen.begin(ready.infos, ready.training.sampler.objective(), ready.remarks)
        if door.dry_run:
            return ready.planned
        folder.begin(spec, ready.infos, ready.intake.splits())
        door.screen.log = folder.log
        try:
            found = _made(ready, door, how, output, carriers)
        except (KeyboardInterrupt, SystemExit):
            door.screen.say("Interrupted: nets that ended are kept; the same command with --resume goes on.")
            raise
        for text in remarks(found.delivery):
            door.warn(text)
        write_atomically(output / FILE, (found.delivery.model_dump_json(indent=1) + "\n").encode("utf-8"))
        folder.on_start(found.training)  # type: ignore[arg-type]
        report = finish(_student(ready, found), folder, door, found.delivery)
    door.screen.show(table_of(found.delivery))
    door.screen.say(found.delivery.summary)
    door.screen.scores([s for s in report.scores if s.split == "test"])
    run = shlex.quote(str(output))
    door.screen.end(door.warned, [f"manyheads predict {run} TABLE.csv -o predictions.csv", f"open {run}/report.html"])
    return summary(found.delivery, output)


def _same_settings(how: Settings, found: Delivery, output: Path) -> None:
    """See that what is finished was delivered as it is asked for now.

    Raises:
        ConfigError: it was not.
    """
    asked = how.plain
    if changes := [key for key, value in found.settings.items() if asked.get(key) != value]:
        key = changes[0]
        raise ConfigError(
            f"--resume should have the settings that `{output}` was delivered with. Found that `{key}` was "
            f"{found.settings[key]!r} and is {asked.get(key)!r}; deliver into another folder, or with --force."
        )


def _made(ready: Ready, door: Door, how: Settings, output: Path, carriers: tuple[str, int]) -> Delivered:
    with door.screen.progress() as progress:
        return delivered(
            ready.spec,
            ready.tasks,
            ready.intake.tables,
            ready.intake.parts,
            targets=ready.intake.targets,
            settings=how,
            backend=carriers[0],
            n_jobs=carriers[1],
            ledger=Ledger(output / RUNS),
            progress=progress,
        )


def _student(ready: Ready, found: Delivered) -> Ready:
    """The student as a run that is ready; validation rows are learned from as well."""
    parts = {name: np.where(part == "valid", "train", part) for name, part in ready.intake.parts.items()}
    return replace(
        ready,
        spec=found.spec,
        prepared=found.prepared,
        training=found.training,
        intake=replace(ready.intake, parts=parts),
        infos=found.prepared.describe(found.training.sampler),
    )


def settings_of(candidates: Sequence[str] | None, groups: Path | None, texts: Sequence[str]) -> Settings:
    """How to deliver, from what was typed.

    Args:
        candidates: words of candidates.
        groups: a folder of `manyheads group`.
        texts: ``key=value``.

    Raises:
        ConfigError: an unknown key or word, a value that does not fit, no groups there.
    """
    given: dict[str, Any] = {}
    known = [f.name for f in fields(Settings) if f.name not in ("words", "groups")]
    for text in texts:
        key, _, value = text.partition("=")
        if key not in known:
            raise ConfigError(f"`--set` should be one of {', '.join(known)}. Found `{key}`. {hint(key, known)}")
        given[key] = yaml12.parse(value)
        kind = type(getattr(Settings(), key))
        whole = isinstance(given[key], int) and not isinstance(given[key], bool)
        if not (isinstance(given[key], kind) or (kind is float and whole)) or (kind is int and not whole):
            raise ConfigError(f"`--set {key}` should be like {getattr(Settings(), key)}. Found `{value}`.")
    if candidates is not None:
        given["words"] = tuple(candidates)
    if groups is not None:
        if not (groups / GROUPS).exists():
            raise ConfigError(
                f"`--groups` should be a folder that `manyheads group` wrote. Found no {GROUPS} in `{groups}`."
            )
        study = read_groups(groups)
        given["groups"] = tuple(dict.fromkeys(g for one in study.groupings.values() for g in one.groups))
    return Settings(**given)


def remarks(found: Delivery) -> list[str]:
    """What should not go unsaid: promises that are not kept, branches, students behind their teachers."""
    said = []
    late = next(iter(found.behind.values()), ())
    if late:
        now = f"The student is `{found.student}`, the best of {', '.join(f'`{word}`' for word in found.behind)}."
        said.append(f"{', '.join(late)}: behind with the joint model's own architecture. {now}")
    for task, own in found.tasks.items():
        if own.kept is None:
            said.append(
                f"{task}: the promise is not judged: its labels among the {found.rows:,} rows of the rehearsal are too "
                "few, or all of one kind."
            )
        elif not own.kept:
            said.append(
                f"{task}: the promise is not kept: {change(own.delta, own.absolute)} against {own.single} alone, "
                f"{change_span(own.interval, own.absolute)}; a {own.single} model of its own would be better."
            )
        elif own.behind_teacher:
            span = change_span(own.behind_interval, own.absolute)
            said.append(f"{task}: behind its teacher ({own.chosen}), {change(own.behind, own.absolute)} {span}.")
    return said


def table_of(found: Delivery) -> Table:
    """One row per task: the best single model, who taught, the student, the difference, the promise."""
    title = f"the student against the best single model, on {found.rows:,} rows that neither had seen"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("task", "metric", "best single model", "taught by", "student", "difference", "95 % interval", ""):
        table.add_column(heading, justify="right" if heading in ("student", "difference") else "left", overflow="fold")
    for task, own in found.tasks.items():
        table.add_row(task, own.metric, f"{own.single} {_number(own.single_value)}", own.teacher,
                      _number(own.student_value), change(own.delta, own.absolute),
                      change_span(own.interval, own.absolute), KEPT[own.kept])  # fmt: skip
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def read(output: Path) -> Delivery:
    """The delivery that a folder keeps.

    Args:
        output: the folder.
    """
    return Delivery.model_validate_json((output / FILE).read_text(encoding="utf-8"))


def summary(found: Delivery, output: Path) -> dict[str, Any]:
    """What ``--json`` prints.

    Args:
        output: the run's folder.
    """
    report = read_report(output)
    return {
        "run": str(output),
        "kept": found.kept,
        **found.model_dump(mode="json"),
        "scores": scores_json(report.scores),
        "report": str(output / "report.html"),
    }
