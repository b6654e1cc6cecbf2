"""The command `tune`: a search for settings, its folder, and what people see of it."""

from __future__ import annotations

import csv
import io
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import config
from ..faults import ConfigError
from ..files import write_atomically
from ..intake import take_in
from ..parallel import check as check_backend
from ..report.words import number
from ..results import Tuned, TunedSide
from ..spec import RunSpec, dumped
from ..tune import JOINT, Side, best_of, read, search, sides_of, sort_out
from ..tune.study import check_installed
from ..tune.trial import made_ready
from ..verdicts import counted
from .door import Door
from .pages import write_page
from .runfolder import RunFolder, differences
from .runs import warn_of_unseen

EVERY = 10.0
"""Seconds between two lines of progress, at least."""


def tune(
    spec: RunSpec, output: Path, door: Door, backend: str | None = None, n_jobs: int | None = None
) -> dict[str, Any]:
    """Search the settings of a run, into a folder.

    Args:
        spec: the run; its section `tune` says how.
        output: the folder; with ``--resume`` trials that it holds are not done again.
        backend, n_jobs: who carries trials out, and how many at a time.

    Raises:
        ConfigError, DataError, MissingExtra: as their names say.
    """
    check_installed()
    check_backend(backend or "loky")
    folder = RunFolder(output)
    there = False if door.dry_run else folder.claim(spec, door.resume, door.force)
    if there:
        _same_length(output, spec)
        if (output / "tune.json").exists() and _over(found := read(output), spec):
            door.screen.say(f"The search in {output} is finished; nothing is left to do.")
            return summary(found, output)
    with door.hearing():
        tasks = config.tasks_of(spec)
        intake = take_in(spec, tasks)
        settled, rows = sort_out(spec, intake.tables, intake.parts, intake.targets)
        sides = sides_of(settled)
        warn_of_unseen(made_ready(rows, settled), door)
        _announce(settled, sides, door)
        if door.dry_run:
            return {"sides": {side.name: side.space.to_json() for side in sides}, "dry_run": True}
        folder.begin(spec)
        door.screen.log = folder.log
        teller = _Teller(output, spec, door)
        try:
            found = search(
                spec,
                intake.tables,
                intake.parts,
                targets=intake.targets,
                store=output / "study.db",
                n_jobs=n_jobs,
                backend=backend or "loky",
                tell=teller,
                ready=(settled, rows),
            )
        except (KeyboardInterrupt, SystemExit):
            done = f"{teller.done} trials are kept" if teller.done else "no trial has ended yet"
            door.screen.say(f"Interrupted: {done}. manyheads tune -o {shlex.quote(str(output))} --resume goes on.")
            raise
        write(found, spec, output)
        write_page(spec, output, tuned=found, warnings=door.warned)
    if all(side.best is None for side in found.sides):
        why = next((t.why for side in found.sides for t in side.trials if t.why), "no trial came to its end")
        raise ConfigError(f"A trial or more should come to its end. Found that none did: {why}")
    _show(found, door)
    door.screen.end(door.warned, _next(output))
    return summary(found, output)


def _same_length(output: Path, spec: RunSpec) -> None:
    """Trials of other lengths are no trials of the same search."""
    path = output / "config.yaml"
    if path.exists():
        before = dumped(config.load([path]))["trainer"]
        changed = differences(before, dumped(spec)["trainer"], "trainer")
        if changed:
            key, old, new = changed[0]
            raise ConfigError(
                f"--resume should have the config that the search in `{output}` began with (tune.trials and "
                f"tune.timeout may grow). Found that `{key}` was {old!r} and is {new!r}; start anew in another folder, "
                "or with --force."
            )


def _over(found: Tuned, spec: RunSpec) -> bool:
    tune = spec.tune
    wanted = 1 + (len(spec.tasks) > 1) * (tune.weights + tune.single * len(spec.tasks))
    enough = min(len(side.trials) for side in found.sides) >= tune.trials
    timed = found.timeout is not None and found.timeout == tune.timeout and found.trials == tune.trials
    return found.finished and len(found.sides) == wanted and (enough or timed)


# ---- files


def write(found: Tuned, spec: RunSpec, output: Path) -> None:
    """trials.csv, tune.json and best.yaml, each whole or not at all.

    Args:
        spec: what was tuned.
        output: the folder.
    """
    write_atomically(output / "trials.csv", trials_csv(found).encode("utf-8"))
    best = leading(found)
    if best is not None:
        write_atomically(output / "best.yaml", config.dump(best_of(spec, best)).encode("utf-8"))
    text = found.model_dump_json(indent=1) + "\n"
    write_atomically(output / "tune.json", text.encode("utf-8"))


def trials_csv(found: Tuned) -> str:
    """One row per trial: side, trial, state, value, skills and settings; no clock times, so that equal is equal."""
    tasks = dict.fromkeys(task for side in found.sides for t in side.trials for task in t.values)
    settings = dict.fromkeys(name for side in found.sides for name in side.space)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["side", "trial", "state", "epochs", "value", *(f"skill:{t}" for t in tasks), *settings])
    for side in found.sides:
        for t in side.trials:
            epochs = max((epoch for epoch, _ in t.course), default=0)
            cells = [t.value, *(t.values.get(k) for k in tasks), *(t.settings.get(k) for k in settings)]
            writer.writerow([side.name, t.number, t.state, epochs, *("" if c is None else c for c in cells)])
    return buffer.getvalue()


def leading(found: Tuned) -> TunedSide | None:
    """The better of the models of all tasks, by validation; the joint one where they are equal."""
    there = [side for side in found.sides if side.task is None and side.best is not None]
    return max(there, key=lambda side: _value(side) or 0.0, default=None)


def _value(side: TunedSide) -> float | None:
    return next((t.value for t in side.trials if t.number == side.best), None)


def summary(found: Tuned, output: Path) -> dict[str, Any]:
    """What ``--json`` prints: per side the trials and how they ended, the best settings and what they are worth.

    Args:
        output: the folder.
    """
    sides = {}
    for side in found.sides:
        test = None if side.test is None else {task: s.value for task, s in side.test.primary().items()}
        states = {state: side.count(state) for state in ("done", "pruned", "failed")}
        own = next((t.value for t in side.trials if t.number == 0), None)
        sides[side.name] = {
            "trials": len(side.trials), **states, "value": _value(side), "first": own,
            "settings": next((t.settings for t in side.trials if t.number == side.best), None),
            "overrides": list(side.overrides), "front": list(side.front), "test": test,
        }  # fmt: skip
    lead = leading(found)
    return {
        "run": str(output), "objective": found.objective, "sides": sides, "seconds": found.seconds,
        "chosen": None if lead is None else lead.name, "best": None if lead is None else str(output / "best.yaml"),
    }  # fmt: skip


# ---- what people see


class _Teller:
    """Writes the folder and a line of progress, now and then."""

    def __init__(self, output: Path, spec: RunSpec, door: Door) -> None:
        self.output, self.spec, self.door = output, spec, door
        self.started = self.last = time.perf_counter()
        self.first: int | None = None
        self.done = 0

    def __call__(self, found: Tuned, done: int, total: int) -> None:
        now, self.done = time.perf_counter(), done
        self.first = done - 1 if self.first is None else self.first
        if now - self.last < EVERY and done < total:
            return
        self.last = now
        write(found, self.spec, self.output)
        each = (now - self.started) / max(done - self.first, 1)
        left = (total - done) * each
        if found.timeout is not None and found.seconds is not None:
            left = min(left, max(found.timeout - found.seconds, 0.0))
        lead = leading(found)
        best = "none yet" if lead is None else f"{number(_value(lead))} ({lead.name}, trial {lead.best})"
        self.door.screen.say(f"{done} of {total} trials, best mean skill {best}, about {_span(left)} left")


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _announce(spec: RunSpec, sides: Sequence[Side], door: Door) -> None:
    tune = spec.tune
    limit = "" if tune.timeout is None else f", or {_span(tune.timeout)} for all"
    inside = sides[0].space.own(sides[0].spec) is not None
    first = "the first is what the config says" if inside else "what the config says is outside the ranges"
    door.screen.say(f"{tune.trials} trials for each of {', '.join(side.name for side in sides)}{limit}; {first}.")
    shown: set[str] = set()
    for side in sides:
        name, lines = side.name, side.space.lines()
        new = [line for line in lines if line not in shown]
        shown.update(new)
        if not lines:
            door.screen.say(f"{name}: nothing has a range; give one under `tune.space`.")
        elif new:
            door.screen.say(f"{name} is tuned over:" if name == JOINT else f"{name} is tuned over as well:")
            for line in new:
                door.screen.say(f"  {line}")
    goal = "one axis per task" if tune.objective == "pareto" else "the mean skill over tasks"
    door.screen.say(f"Objective: {goal}, on validation; pruning: {tune.pruner}.")


def _show(found: Tuned, door: Door) -> None:
    say = door.screen.say
    for side in found.sides:
        counts = f"{side.count('done')} done, {side.count('pruned')} pruned, {side.count('failed')} failed"
        first = next((t.value for t in side.trials if t.number == 0), None)
        say(
            f"{side.name}: {len(side.trials)} trials ({counts}); mean skill on validation {number(_value(side))}, of "
            f"the first trial {number(first)}"
        )
        for line in side.overrides:
            say(f"  {line}")
        if side.test is not None:
            scores = side.test.primary().values()
            say("  test: " + ", ".join(f"{s.task} {s.metric} {number(s.value)}" for s in scores))
        if side.front:
            say(f"  Pareto front, {counted(len(side.front), 'trial')}:")
            for t in side.trials:
                if t.number in side.front:
                    say(f"    trial {t.number}: " + ", ".join(f"{k} {number(v)}" for k, v in t.values.items()))
        if side.importance:
            shares = sorted(side.importance.items(), key=lambda item: -(item[1] or 0.0))
            say("  what mattered: " + ", ".join(f"{name} {share:.0%}" for name, share in shares[:5]))


def _next(output: Path) -> list[str]:
    best = shlex.quote(os.path.join(str(output), "best.yaml"))
    page = shlex.quote(os.path.join(str(output), "report.html"))
    return [f"manyheads train -c {best} -o {shlex.quote(str(output) + '-best')}", f"open {page}"]
