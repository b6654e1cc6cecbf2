"""The commands of a model's later life: a task more, tasks fewer, several models in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..catalog import hint, make
from ..config import override
from ..faults import ConfigError, DataError
from ..files import write_atomically
from ..gates import MissedGateError
from ..growing.adding import add_task as add
from ..growing.adding import scored
from ..growing.grown import joined, members_of, shrink, with_only
from ..growing.merge import fingerprint
from ..growing.oldrows import Kept, config_of, history, of_frame, of_model
from ..intake import of_file
from ..results.added import Added, Merged
from ..results.added import Kept as KeptScore
from ..spec import Part
from ..tasks import Task
from .door import Door
from .opened import Opened, curve_table, free, kept_table, number, write

CURVE = "curve.json"


def add_task(
    path: Path, data: Path, output: Path, door: Door, name: str | None, kind: str | None, target: str | None = None,
    way: str | None = None, settings: Sequence[str] = (), old_data: Path | None = None, tolerance: float = 0.0,
    seed: int | None = None, trust: Sequence[str] = (), curve: Sequence[str] = (), beside: Sequence[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """A trained model with a task more, into a folder of its own; without a name the model's own tasks adapt.

    Args:
        path: a run's folder, or a model folder.
        data: rows with the model's feature columns and the new target.
        output: the folder.
        name, kind, target: of the task; the target is its name by default. Without a name the rows are of a new
            domain, which a model that learned to learn follows (`follow`).
        way: a word of `manyheads.transfer`; `probe` by default.
        settings: ``key=value`` of the way.
        old_data: rows that label the other tasks, where those of the run are gone.
        tolerance: by how much another task's primary metric may fall on its own validation rows.
        seed: of what is new; the run's by default.
        trust: modules from which classes may be imported.
        curve: numbers of labels at which the way, and `probe`, are set beside a start from scratch.
        beside: other trained models, each a further start of the curve.

    Raises:
        ConfigError, DataError: as their names say.
        GateError: another task fell; nothing is written.
    """
    if name is None:
        if given := [w for w, v in (("--type", kind), ("--target", target), ("--way", way), ("--set", settings)) if v]:
            raise ConfigError(f"A new task should have a name (--task). Found {', '.join(given)} without one.")
        from .follow import follow

        return follow(path, data, output, door, tolerance, seed, trust, curve, beside)
    if kind is None:
        raise ConfigError(f"A new task should have a type (--type binary, say). Found none for `{name}`.")
    way = way or "probe"
    free(path, output, door)
    opened = Opened.of(path, trust)
    others = {one.name: (o.model, o.spec, o.dataset) for one in beside for o in (Opened.of(one, trust),)}
    task = Task.from_json({"type": kind, "name": name} | ({} if target is None else {"target": target}))
    config = config_of(path)
    own = config.optim.objective.settings if config is not None and way == "adapt" else {}
    learnt = {k: v for k, v in own.items() if k in ("inner_steps", "inner_lr", "adapt", "norm")}  # as the run took them
    part = Part.of({"name": way} | learnt | {k: v for text in settings for k, v in override(text).items()})
    with door.hearing():
        frame = of_file(data)
        kept = _kept(opened, old_data, part, door)
        more: dict[str, Any] = {} if config is None else {"optim": config.optim, "trainer": config.trainer}
        seed = seed if seed is not None else int(opened.notes.get("seed") or 0)
        found = add(opened.model, opened.spec, opened.dataset, task, frame, part, kept=kept, seed=seed, **more)
        course = None
        if curve:
            from ..growing.curve import transfer_curve

            counts = [int(n) if n.isdecimal() else 0 for n in curve]
            ways = list({p.name: p for p in (Part(name="probe"), part)}.values())
            with door.screen.progress() as progress:
                course = transfer_curve(
                    opened.model, opened.spec, opened.dataset, task, frame, counts, ways, kept=kept, seed=seed,
                    progress=progress, beside=others, **more,
                )  # fmt: skip
            door.screen.show(curve_table(course))
            door.screen.say(course.summary)
    result = found.result
    _say(result, tolerance, door)
    answer = {
        "output": str(output), **result.model_dump(mode="json"), "tolerance": tolerance, "warnings": door.warned,
        **({} if course is None else {"curve": course.model_dump(mode="json")}),
    }  # fmt: skip
    if fallen := result.fallen(tolerance):
        listed = "; ".join(f"`{k.task}` fell from {k.before:.6g} to {number(k.after)} ({k.metric})" for k in fallen)
        raise MissedGateError(
            f"Gate not met: no other task should fall by more than {tolerance:g}. Found that {listed}; nothing was "
            "written. Use a way that moves nothing (`probe`, `lowrank`), or raise --tolerance.",
            answer,
        )
    if door.dry_run:
        return answer
    told = history(path)
    told["added"] = [*told["added"], {"task": name, "data": str(data.resolve()), "way": way, "seed": seed}]
    told["from"] = str(path.resolve())
    told["start"] = fingerprint(members_of(opened.model, opened.spec, opened.layouts))
    notes = {"seed": seed, "added": result.model_dump(mode="json")}
    page = {"title": f"A task more: {name}", "added": result, "curves": () if course is None else (course,)}
    write(output, door, found.model, found.spec, found.dataset, notes, told, page)
    if course is not None:
        write_atomically(output / CURVE, (course.model_dump_json(indent=1) + "\n").encode("utf-8"))
    return answer


def remove(
    path: Path, names: Sequence[str], output: Path, door: Door, keep: bool = False, trust: Sequence[str] = ()
) -> dict[str, Any]:
    """A trained model with tasks fewer; what the others give stays the same, to the bit.

    Args:
        path: a run's folder, or a model folder.
        names: tasks that go; or those that stay, with `keep`.
        output: the folder.
        keep: whether the names are of tasks that stay.
        trust: modules from which classes may be imported.

    Raises:
        ConfigError, DataError: as their names say.
    """
    free(path, output, door)
    opened = Opened.of(path, trust)
    known = list(opened.model.tasks)
    for name in names:
        if name not in known:
            raise ConfigError(f"The model has no task `{name}`. {hint(name, known)}")
    stay = [t for t in known if (t in names) == keep]
    members, spec = shrink(members_of(opened.model, opened.spec, opened.layouts), opened.spec, opened.layouts, stay)
    answer = {"output": str(output), "tasks": stay, "removed": [t for t in known if t not in stay]}
    door.screen.say(f"Kept: {', '.join(stay)}. Removed: {', '.join(answer['removed']) or 'nothing'}.")
    if not door.dry_run:
        notes = {"seed": opened.notes.get("seed", 0)}
        write(output, door, joined(members), spec, with_only(opened.dataset, stay), notes, history(path))
    return answer


def merge(
    paths: Sequence[Path], output: Path, door: Door, how: str = "average", settings: Mapping[str, Any] | None = None,
    base: Path | None = None, tolerance: float | None = None, trust: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Several models of one start into one, and what each task lost by it.

    Args:
        paths: folders of runs, or model folders.
        output: the folder.
        how: a word of `manyheads.merge`.
        settings: of it.
        base: the model that all began as; by default the one that they were all made from.
        tolerance: by how much a task's primary metric may fall on its validation rows; None for any.
        trust: modules from which classes may be imported.

    Raises:
        ConfigError, DataError: as their names say.
        GateError: a task fell; nothing is written.
    """
    from ..growing.merge import Merging, Source, nearness
    from ..growing.merge import merge as merged

    for path in paths:
        free(path, output, door)
    way: Merging = make(Merging, how, dict(settings or {}))  # type: ignore[type-abstract]
    opened = [Opened.of(path, trust) for path in paths]
    sources = [Source(str(o.path), o.model, o.spec, o.dataset) for o in opened]
    begun = base if base is not None else _start_of(opened, door, trust)
    start = None if begun is None else Opened.of(begun, trust)
    origin = None if start is None else Source(str(start.path), start.model, start.spec, start.dataset)
    with door.hearing():
        rows = [_kept(one, None, Part(name=how), door) for one in opened]
        train = next((kept.train[0] for kept in rows if kept is not None and kept.train), None)
        model, spec, dataset = merged(sources, way, origin, train)
        members = members_of(model, spec, dataset.preprocess.layouts)
        found: list[KeptScore] = []
        for source, kept in zip(sources, rows, strict=True):
            if kept is not None:
                scores = scored(kept, source.members(), source.model, members, model)
                found += [one.model_copy(update={"model": source.name}) for one in scores]
    checked = {(k.model, k.task) for k in found}
    result = Merged(
        how=how, settings=dict(vars(way)), models=tuple(s.name for s in sources), kept=tuple(found),
        start=None if origin is None else origin.name,
        nearness={b.name: cosine for _, b, cosine in nearness(sources, origin)},
        unchecked=tuple(f"{s.name}: {t}" for s in sources for t in s.model.tasks if (s.name, t) not in checked),
    )  # fmt: skip
    if found:
        door.screen.show(kept_table("Tasks on their own validation rows", found, tolerance or 0.0))
    answer = {"output": str(output), **result.model_dump(mode="json"), "tasks": list(model.tasks)}
    if tolerance is not None and (fallen := result.fallen(tolerance)):
        listed = "; ".join(f"`{k.task}` fell from {k.before:.6g} to {number(k.after)} ({k.metric})" for k in fallen)
        raise MissedGateError(
            f"Gate not met: no task should fall by more than {tolerance:g}. Found that {listed}; nothing was written.",
            answer,
        )
    if not door.dry_run:
        told = [history(path) for path in paths]
        added = {one["task"]: one for own in told for one in own["added"]}
        runs = list(dict.fromkeys(run for own in told for run in own["runs"]))
        notes = {"seed": opened[0].notes.get("seed", 0), "merged": result.model_dump(mode="json")}
        page = {"title": "Several models in one", "merged": result}
        write(output, door, model, spec, dataset, notes, {"runs": runs, "added": list(added.values())}, page)
    return answer


def _start_of(opened: Sequence[Opened], door: Door, trust: Sequence[str]) -> Path | None:
    """The model that all were made from, as their folders say; None where they do not, or it is gone or another."""
    told = [history(one.path) for one in opened]
    starts = {(own.get("from"), own.get("start")) for own in told}
    if len(starts) != 1:
        return None
    ((path, print_),) = starts
    if path is None or not Path(path).is_dir():
        return None
    found = Opened.of(Path(path), trust)
    if fingerprint(members_of(found.model, found.spec, found.layouts)) != print_:
        door.warn(f"`{path}` should be the model that others were made from. Found that it has changed since.")
        return None
    return Path(path)


# ---- what they share


def _kept(opened: Opened, old_data: Path | None, way: Part, door: Door) -> Kept | None:
    """Rows of the other tasks: those that are given, or else those of the run."""
    if old_data is not None:
        learn = way.name.lower() == "replay"
        return of_frame(of_file(old_data), opened.dataset, opened.dtype, learn)
    try:
        return of_model(opened.path, opened.dataset, opened.spec, opened.dtype)
    except DataError as error:
        door.warn(f"The other tasks cannot be scored again. {error}")
        return None


def _say(result: Added, tolerance: float, door: Door) -> None:
    score = result.score
    if score is not None:
        door.screen.say(
            f"{result.task}: {score.metric} {number(score.value)} on rows that members held out "
            f"({result.labels:,} labels in all, way {result.way})."
        )
    if result.kept:
        door.screen.show(kept_table("Other tasks on their own validation rows", result.kept, tolerance))
    if result.identical:
        door.screen.say("Outputs of the other tasks on the new rows: the same, to the bit.")
    elif result.frozen:
        door.warn("Outputs of the other tasks should be the same to the bit. Found that their last digits differ.")
    if result.unchecked:
        door.screen.say(f"Not scored, for want of rows with their labels: {', '.join(result.unchecked)}.")
