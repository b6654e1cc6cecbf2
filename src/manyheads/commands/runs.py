"""What the commands do, as plain functions: each returns the object that ``--json`` prints."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config, gates
from ..build import Prepared, make_training, prepare
from ..callback import Callback
from ..catalog import word
from ..evaluate import measure, results, score
from ..faults import DataError
from ..intake import Intake, equal_rows, take_in
from ..ledger import Ledger
from ..members import Members
from ..model import Model
from ..modelfile import save
from ..report.balances import undecided
from ..results import Comparison, Delivery, Examples, History, Report, Scores, TaskInfo
from ..spec import RunSpec
from ..tasks import Task
from ..train import Training
from .apply import of_part, out_of_fold
from .card import card
from .display import Watch, penalty_line, plan_lines
from .door import Door, comparison_json, scores_json, settings_of
from .examples import gather
from .runfolder import RunFolder, environment, now


@dataclass(frozen=True)
class Ready:
    """A run that is ready to train."""

    spec: RunSpec
    tasks: list[Task]
    intake: Intake
    prepared: Prepared
    training: Training | Members
    infos: list[TaskInfo]

    @property
    def planned(self) -> dict[str, Any]:
        """What a dry run answers machines."""
        return {"tasks": [i.model_dump(mode="json") for i in self.infos], "dry_run": True}

    @property
    def remarks(self) -> list[str]:
        """What should be known before the first step."""
        one = sum(p.numel() for p in self.training.model.parameters())
        parameters = one * (len(self.training.runs) if isinstance(self.training, Members) else 1)
        rows = sum(len(part) for part in self.intake.parts.values())
        sizes = f"{rows:,} rows, {parameters:,} parameters, at most {self.training.n_epochs} epochs."
        lead = self.training.runs[0] if isinstance(self.training, Members) else self.training
        plan = plan_lines(lead.model.sharing.plan()) if isinstance(lead.model, Model) else []
        penalties = lead.penalties.penalties if lead.penalties is not None else []
        return [
            sizes,
            *([f"Sharing {self.spec.model.sharing.name}:"] if plan else []),
            *plan,
            *(penalty_line(word(type(p)), p) for p in penalties if p.strength),
        ]


def make_ready(
    spec: RunSpec, door: Door, folder: Path | None = None, callbacks: Sequence[Callback] = (), merged: bool = False
) -> Ready:
    """Read the files, learn the columns, build the model.

    Args:
        spec: the run.
        folder: where checkpoints go.
        callbacks: who is told of the training.
        merged: validation rows will be learned from as well.

    Raises:
        ConfigError, DataError: see `prepare`.
    """
    tasks = config.tasks_of(spec)
    intake = take_in(spec, tasks)
    prepared = prepare(spec, tasks, intake.tables, intake.parts, targets=intake.targets)
    features = {t: prepared.dataset.preprocess.features(s) for t, s in prepared.dataset.preprocess.sources.items()}
    for name, n in equal_rows(intake, features).items():
        outside = int((intake.parts[name] != "train").sum())
        door.warn(
            f"Table `{name}` should have rows of its own outside the training part. Found {n} of {outside} "
            "whose features equal a training row's: their scores are partly memory; a split by group would keep them "
            "together."
        )
    layouts = prepared.dataset.preprocess.layouts
    training = make_training(
        spec,
        layouts,
        prepared.tasks,
        prepared.tasksets["train"],
        prepared.tasksets["valid"],
        folder=folder,
        callbacks=callbacks,
    )
    if not merged:
        warn_of_unseen(prepared, door)
    return Ready(spec, tasks, intake, prepared, training, prepared.describe(training.sampler))


def warn_of_unseen(prepared: Prepared, door: Door) -> None:
    """Say which tasks a validation part cannot judge."""
    counts = {t: c["labels"] for t, c in prepared.dataset.coverage(prepared.tasksets["valid"]).items()}
    if any(map(len, prepared.tasksets["valid"].values())) and not any(counts.values()):
        door.warn(
            "The validation part has no label of any task: nothing says when to stop, and the last weights are kept."
        )
    if any(counts.values()) and not all(counts.values()):
        unseen = ", ".join(t for t, n in counts.items() if not n)
        door.warn(
            f"The validation part has no label of {unseen}: when to stop, and what to choose, is up to other tasks."
        )


# ---- train


def train(spec: RunSpec, output: Path, door: Door, demands: Sequence[gates.Gate] = ()) -> dict[str, Any]:
    """Train one joint model into a run's folder.

    Args:
        spec: the run.
        output: its folder.
        demands: gates to be met at the end.

    Raises:
        ConfigError, DataError, Diverged, GateError: as their names say.
        SystemExit: after SIGINT (130) and SIGTERM (143).
    """
    gates.named(demands, list(spec.tasks))
    folder = RunFolder(output)
    there = False if door.dry_run else folder.claim(spec, door.resume, door.force)
    if there and folder.finished and not _grown(folder, spec):
        door.screen.say(f"The run in {output} is finished; nothing is left to do.")
        report = read_report(output)
        return gates.check(demands, report.scores, _summary(output, report), _skill(report.history))
    watch = Watch(door.screen)
    with door.hearing():
        ready = make_ready(spec, door, None if door.dry_run else folder.checkpoints, [folder, watch])
        door.screen.begin(ready.infos, ready.training.sampler.objective(), ready.remarks)
        if door.dry_run:
            return ready.planned
        folder.begin(spec, ready.infos, ready.intake.splits())
        door.screen.log = folder.log
        _learn(ready.training, there, watch)
        report = finish(ready, folder, door)
    door.screen.scores(report.scores)
    door.screen.end(door.warned, _next(output, spec))
    return gates.check(demands, report.scores, _summary(output, report), _skill(report.history))


def _grown(folder: RunFolder, spec: RunSpec) -> bool:
    before = config.load([folder.path / "config.yaml"]).trainer
    return (before.max_epochs, before.max_steps) != (spec.trainer.max_epochs, spec.trainer.max_steps)


def _learn(training: Training | Members, resume: bool, watch: Watch) -> None:
    """Run to the end, or to a signal: then there is a checkpoint, and the exit code says which signal it was."""
    if resume and training.resume():
        _reopen(training)
    with stoppable(training) as received:
        try:
            training.run()
        except KeyboardInterrupt:
            pass
        finally:
            watch.close()
    if received:
        raise SystemExit(128 + received[0])


def _reopen(training: Training | Members) -> None:
    """A run that ended because its epochs ran out goes on where there are more of them now."""
    runs = training.runs if isinstance(training, Members) else [training]
    steps = training.settings.max_steps
    for run in runs:
        if not any(event["event"] == "stopped" for event in run.events):
            run.finished = run.epoch >= run.n_epochs or (steps is not None and run.step >= steps)
    training.finished = all(run.finished for run in runs)


@contextmanager
def stoppable(training: Training | Members) -> Iterator[list[int]]:
    """SIGINT and SIGTERM end the training after its step, with a checkpoint; a second signal ends it at once."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise SystemExit(128 + number)
        training.interrupted = True

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish(ready: Ready, folder: RunFolder, door: Door, delivery: Delivery | None = None) -> Report:
    """Scores, predictions, model and report of a trained run.

    Args:
        delivery: who taught it, where it was taught.
    """
    from ..compare.rounds import lead

    training, prepared, spec = ready.training, ready.prepared, ready.spec
    model: Any = training.model
    held_out = training.held_out()
    for name, result in held_out.items():
        model.tasks[name] = model.tasks[name].tuned(result.output, result.target, result.known)
    learner, dtype = lead(training).objective, next(model.parameters()).dtype
    learner.conclude(model, {t: rows.to(dtype) for t, rows in prepared.tasksets["train"].items()})
    dataset = prepared.dataset.with_tasks(list(model.tasks.values()))
    by = spec.data.split.by if spec.data.split.kind == "group" else None
    redraw = learner.redraw or (by if isinstance(by, str) else None)
    found = []
    for part in ("valid", "test"):
        if rows := {t: taskset.to(dtype) for t, taskset in prepared.tasksets[part].items()}:
            judged = None if learner.shape is None else learner.held_out(model, rows)  # it adapts, as it learned to
            found.append(score(model, rows, part, redraw=redraw, judged=judged))
            folder.parquet(f"predictions/{part}.parquet", of_part(ready, model, part))
        elif part == "valid":
            own = (measure(model.tasks[t], r, None, 1000, redraw, part, True) for t, r in held_out.items())
            scores = [s for some in own for s in some]
            found.append(Scores(split=part, scores=tuple(scores)))
            folder.parquet(f"predictions/{part}.parquet", out_of_fold(ready))
    history, settings = History(records=tuple(training.history)), settings_of(spec)
    if said := undecided(history.courses(), settings):
        door.warn(said)
    title = f"manyheads: {', '.join(list(spec.tasks)[:4])}{', ...' if len(spec.tasks) > 4 else ''}"
    notes = {"scores": [s.model_dump(mode="json") for s in found], "seed": spec.seed}
    save(folder.path / "model", model, spec.model, dataset, card(title, ready.infos, found), notes)
    report = Report(
        title=title, created=now(), tasks=tuple(ready.infos), history=history,
        scores=tuple(found), settings=settings, environment=environment(), warnings=tuple(door.warned),
        delivery=delivery,
        examples=gather(model, dataset, ready.intake.tables, ready.intake.parts, spec.seed),
    )  # fmt: skip
    folder.report(report)
    return report


def _skill(history: History) -> float | None:
    return max((v for _, v in history.series("skill") if v is not None), default=None)


def _summary(output: Path, report: Report) -> dict[str, Any]:
    return {
        "run": str(output),
        "epochs": max((r.epoch for r in report.history), default=-1) + 1,
        "skill": _skill(report.history),
        "scores": scores_json(report.scores),
        "warnings": list(report.warnings),
        "report": str(output / "report.html"),
    }


def _next(output: Path, spec: RunSpec) -> list[str]:
    run = shlex.quote(str(output))
    table = shlex.quote(os.path.relpath(spec.data.test or spec.data.train or "TABLE.csv"))
    return [
        f"manyheads predict {run} {table} -o predictions.csv",
        f"manyheads compare -c {shlex.quote(str(output / 'config.yaml'))} -o {shlex.quote(str(output) + '-compared')}",
        f"open {shlex.quote(str(output / 'report.html'))}",
    ]


# ---- check


def check(spec: RunSpec, door: Door) -> dict[str, Any]:
    """Everything before the first step: schema, labels, leakage, one tiny forward pass.

    Args:
        spec: the run.

    Raises:
        ConfigError, DataError: something is wrong.
    """
    import torch

    with door.hearing():
        ready = make_ready(spec, door)
        door.screen.begin(ready.infos, ready.training.sampler.objective(), ready.remarks)
        tiny = {t: rows.take(torch.arange(min(len(rows), 8))) for t, rows in ready.prepared.tasksets["train"].items()}
        results(ready.training.model, tiny)
    door.screen.say(f"All is well: {len(ready.tasks)} tasks, and rows pass through the model.")
    door.screen.end(door.warned, [])
    return {"tasks": [i.model_dump(mode="json") for i in ready.infos], "warnings": door.warned, "ok": True}


# ---- compare, demo


def compared(
    ready: Ready, door: Door, repeats: int, methods: Sequence[str] | None = None, ledger: Ledger | None = None
) -> Comparison:
    """The joint model against single-task models and simple baselines.

    Args:
        repeats: splits that are drawn.
        methods: simple baselines to show; None for all.
        ledger: runs that it has are not done again.
    """
    from ..compare import compare

    more: dict[str, Any] = {} if methods is None else {"methods": tuple(methods)}
    if ready.intake.given:
        more["parts"] = ready.intake.parts
    with door.screen.progress() as progress:
        return compare(
            ready.spec,
            ready.tasks,
            ready.intake.tables,
            targets=ready.intake.targets,
            repeats=repeats,
            ledger=ledger,
            progress=progress,
            **more,
        )


def demo(
    output: Path,
    door: Door,
    repeats: int = 5,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """The whole road on built-in real data: train, compare, report.

    Args:
        output: the run's folder.
        repeats: splits that the comparison draws.
        overrides: as on the command line.
        seed: of the run.
        strict: fail where sharing hurts a task.

    Raises:
        ConfigError: the folder is not empty.
        MissingExtra: the package with the data is not installed.
    """
    from ..data.datasets import load
    from ..data.readers import write

    folder = RunFolder(output)
    folder.claim(None, force=door.force)
    frame, tasks = load("card")
    described = {t.name: {k: v for k, v in t.to_json().items() if k in ("type", "target")} for t in tasks}
    values: dict[str, Any] = {"schema_version": 1, "seed": seed or 0, "tasks": described}
    changes = [config.override(text) for text in (f"data.train={output.resolve() / 'table.csv'}", *overrides)]
    for change in changes:
        values = config.merged(values, change)
    spec = config.check(values, "the demo")
    door.screen.say("3,010 young men in 1976 (Card 1995): six things to predict from what was known ten years before.")
    watch = Watch(door.screen)
    with door.hearing():
        folder.begin(None)
        write(frame, folder.path / "table.csv")
        ready = make_ready(spec, door, folder.checkpoints, [folder, watch])
        folder.begin(spec, ready.infos, ready.intake.splits())
        door.screen.log = folder.log
        door.screen.begin(ready.infos, ready.training.sampler.objective(), ready.remarks)
        _learn(ready.training, False, watch)
        report = finish(ready, folder, door)
        door.screen.scores([s for s in report.scores if s.split == "test"])
        door.screen.say(
            f"Should these tasks share a model? {repeats} splits are drawn, and every method sees the same rows."
        )
        comparison = compared(ready, door, repeats)
        page = folder.report(report.model_copy(update={"comparison": comparison, "warnings": tuple(door.warned)}))
    door.screen.verdicts(comparison)
    door.screen.end(door.warned, [f"open {page}", *_next(output, spec)[:1]])
    return gates.not_worse(comparison, comparison_json(comparison, page), strict)


# ---- report


def read_report(run: Path) -> Report:
    """The report of a run.

    Args:
        run: its folder, or its report.json.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = run / "report.json" if run.is_dir() else run
    if not path.is_file():
        raise DataError(f"`{run}` should be the folder of a finished run. Found no report.json there.")
    beside = path.with_name("examples.json")
    try:
        report = Report.model_validate_json(path.read_text(encoding="utf-8"))
        if not beside.is_file():
            return report
        path = beside
        return report.model_copy(update={"examples": Examples.model_validate_json(path.read_text(encoding="utf-8"))})
    except ValueError as error:
        raise DataError(f"`{path}` should be a run's report. Found it damaged: {str(error).splitlines()[0]}.") from None


def report(runs: Sequence[Path], output: Path, door: Door) -> dict[str, Any]:
    """One page about one run, or several side by side.

    Args:
        runs: their folders.
        output: the page's file.

    Raises:
        ConfigError: the page exists.
        DataError: a run has no report.
    """
    from ..report import write_pages
    from .pages import redrawn

    door.claim(output)
    if not output.parent.is_dir():
        raise DataError(
            f"`{output}` should be in a folder that exists. Found no folder `{output.parent}`; create it first."
        )
    if not redrawn(runs, output):
        found = [read_report(run) for run in runs]
        if len(found) > 1:
            titled = zip(runs, found, strict=True)
            found = [r.model_copy(update={"title": f"{run.name}: {r.title}"}) for run, r in titled]
        write_pages(found, output)
    door.screen.say(f"Written: {output}")
    return {"report": str(output), "runs": [str(run) for run in runs]}
