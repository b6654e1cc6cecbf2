"""`add-task` without a task: a run that learned to learn follows a few rows of a new domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..catalog import make
from ..faults import ConfigError
from ..files import write_atomically
from ..gates import MissedGateError
from ..growing.adapted import adapt, domain_curve, refuse
from ..growing.oldrows import config_of, history
from ..intake import of_file
from ..objectives import Objective
from ..verdicts import counted
from .door import Door
from .later import CURVE
from .opened import Opened, curve_table, free, kept_table, number, write


def follow(
    path: Path, data: Path, output: Path, door: Door, tolerance: float = 0.0, seed: int | None = None,
    trust: Sequence[str] = (), curve: Sequence[str] = (), beside: Sequence[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """A model of a new domain, into a folder of its own: the run's model after the steps that it learned to take.

    Args:
        path: the folder of a run with an objective such as `maml`.
        data: rows of one new domain, with the model's feature columns and targets.
        output: the folder.
        tolerance: by how much a task may be worse on rows that were not followed than without any following.
        seed: of the parts that the rows are divided into; the run's by default.
        trust: modules from which classes may be imported.
        curve: numbers of labels at which the start is set beside one from scratch.
        beside: other trained models of the same task, each a further start of the curve.

    Raises:
        ConfigError, DataError: as their names say.
        GateError: a task got worse; nothing is written.
    """
    free(path, output, door)
    opened, config = Opened.of(path, trust), config_of(path)
    if config is None:
        raise ConfigError(
            "What a model learned to follow by should be known from its run. Found no config.yaml; give the run's "
            "folder, or name a new task (--task, --type)."
        )
    objective: Any = make(Objective, config.optim.objective.name, config.optim.objective.settings)  # type: ignore[type-abstract]
    refuse(objective)
    others = {one.name: (o.model, o.spec, o.dataset) for one in beside for o in (Opened.of(one, trust),)}
    seed = seed if seed is not None else int(opened.notes.get("seed") or 0)
    with door.hearing():
        frame = of_file(data)
        model, result = adapt(opened.model, opened.dataset, frame, objective, seed)
        course = None
        if curve:
            task = model.tasks[result.kept[0].task] if result.kept else next(iter(model.tasks.values()))
            counts = [int(n) if n.isdecimal() else 0 for n in curve]
            with door.screen.progress() as progress:
                course = domain_curve(
                    opened.model, opened.spec, opened.dataset, task, frame, counts, objective, optim=config.optim,
                    trainer=config.trainer, seed=seed, progress=progress, beside=others,
                )  # fmt: skip
            door.screen.show(curve_table(course))
            door.screen.say(course.summary)
    told = f"What stands below was foretold from the others of them, in {result.folds} parts."
    told = told if result.folds else "What that is worth cannot be told without a second row."
    door.screen.say(f"Followed: {counted(result.rows, 'row')}, by {result.objective}. {told}")
    if result.kept:
        door.screen.show(kept_table("Tasks on the new rows, before and after", result.kept, tolerance))
    answer = {
        "output": str(output), **result.model_dump(mode="json"), "tolerance": tolerance, "warnings": door.warned,
        **({} if course is None else {"curve": course.model_dump(mode="json")}),
    }  # fmt: skip
    if fallen := [k for k in result.kept if k.fell > tolerance]:
        listed = "; ".join(f"`{k.task}` fell from {k.before:.6g} to {number(k.after)} ({k.metric})" for k in fallen)
        raise MissedGateError(
            f"Gate not met: following should make no task worse by more than {tolerance:g}. Found that {listed}; "
            "nothing was written. Give more rows, or raise --tolerance.",
            answer,
        )
    if door.dry_run:
        return answer
    origin = history(path)
    origin["adapted"] = {"data": str(data.resolve()), "by": result.objective}
    notes = {"seed": seed, "adapted": result.model_dump(mode="json")}
    page = {"title": f"A new domain: {data.stem}", "adapted": result, "curves": () if course is None else (course,)}
    write(output, door, model, opened.spec, opened.dataset, notes, origin, page)
    if course is not None:
        write_atomically(output / CURVE, (course.model_dump_json(indent=1) + "\n").encode("utf-8"))
    return answer
