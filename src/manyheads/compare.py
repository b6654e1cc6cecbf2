"""Should these tasks share a model? Same-budget single-task models and simple baselines, beside the joint model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import baselines, metrics
from .blocks import seed_of
from .build import Prepared, make_training, prepare, split_parts
from .catalog import make
from .data import Taskset
from .evaluate import Result, measure, results
from .members import Members
from .parallel import run_over
from .penalties import Penalty
from .results import Comparison, Method
from .spec import Part, RunSpec
from .statistics import Change, from_draws, paired_draws
from .tasks import Task
from .train import Training
from .verdicts import Direction, Verdicts
from .verdicts import compare as judge

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, of how many)."""

NETS = ("joint", "single")
SIMPLE = tuple(baselines.BASELINES)
MOST_NOTES = 5
"""Remarks on simple models that a protocol has at most."""


@dataclass
class _Repeat:
    """One split: its rows, its runs, and what each method got on the test part."""

    prepared: Prepared
    seed: int
    joint: Training | Members | None = None
    singles: dict[str, Training | Members] = field(default_factory=dict)
    found: dict[str, dict[str, Result]] = field(default_factory=dict)
    """net -> task -> outputs on the test rows."""
    tuned: dict[str, dict[str, Task]] = field(default_factory=dict)
    """net -> task, with what its held-out rows taught it."""
    values: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """method -> task -> primary metric."""
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    """(task, simple model) -> why it is not what its name says."""


def compare(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    methods: Sequence[str] = SIMPLE,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """The joint model against one single-task network per task of the same budget, and against simple models.

    Each repeat re-draws the split as the config says; the joint and the single-task networks have the same encoder,
    epochs at most, batch size, patience and learning rate, are chosen on the validation part, and the test part is read
    once, at the end. Constant, linear and boosting baselines learn from training and validation rows together and tune
    themselves there. All networks of all repeats are trained together where their shapes allow.

    Args:
        spec: the run; its split is re-drawn with seeds ``split.seed + repeat``.
        tasks: not fitted.
        tables: {name: frame}.
        targets: {table: tasks it labels}.
        parts: a split of the user's own; then it is kept, repeats differ by their seed alone, and intervals are over
            test rows: the claim is about this training set.
        repeats: splits (or seeds).
        methods: simple baselines to show.
        n_jobs: processes; one per core by default.
        progress: told what is being done.

    Raises:
        ConfigError: the split has no test part.
    """
    verdicts, _ = verdicts_of(
        spec,
        tasks,
        tables,
        targets=targets,
        parts=parts,
        repeats=repeats,
        methods=methods,
        n_jobs=n_jobs,
        progress=progress,
    )
    return verdicts.comparisons["joint"]


def verdicts_of(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    methods: Sequence[str] = SIMPLE,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> tuple[Verdicts, list[Method]]:
    """What `compare` rests on: every method's values, and the judgement."""
    n_jobs = len(os.sched_getaffinity(0)) if n_jobs is None and hasattr(os, "sched_getaffinity") else n_jobs or 1
    baselines.check(methods)
    fixed = parts is not None or spec.data.split.kind in ("column", "time")  # there is but one such split
    rounds = []
    shared: Prepared | None = None
    for r in range(repeats):
        if shared is None or not fixed:
            seed = spec.data.split.seed + (0 if fixed else r)
            shared = prepare(
                spec,
                tasks,
                tables,
                parts if parts is not None else split_parts(spec.data.split, tables, tasks, seed),
                targets=targets,
            )
        rounds.append(_Repeat(shared, seed_of(spec.seed, "repeat", r)))
    seconds = _train(spec, rounds, progress, n_jobs)
    for one in rounds:
        _score(one)
    seconds |= _baselines(rounds, methods, fixed, n_jobs, progress)
    fitted = rounds[0].prepared.tasks
    names = [t.name for t in fitted]
    described = [
        Method(
            name=name,
            values={t: tuple(one.values[name].get(t) for one in rounds) for t in names},
            parameters=_parameters(rounds[0], name),
            seconds=seconds.get(name),
        )
        for name in (*NETS, *methods)
    ]
    directions = {t.name: Direction(t.metrics[0], metrics.find(t.metrics[0]).greater_is_better) for t in fitted}
    ratio = None if fixed else {t: _ratio(rounds[0].prepared, t) for t in names}
    tests = _row_tests(rounds, fitted, spec) if fixed else None
    verdicts = judge(
        described,
        directions,
        "single",
        ratio,
        tests,
        " ".join([_protocol(spec, rounds, fixed), *_simple(rounds, methods)]),
        "seed" if fixed else "repeat",
    )
    budget = _budget(spec, rounds, seconds)
    comparisons = {n: c.model_copy(update={"budget": budget}) for n, c in verdicts.comparisons.items()}
    return verdicts.model_copy(update={"comparisons": comparisons}), described


def _train(spec: RunSpec, rounds: Sequence[_Repeat], progress: Progress | None, n_jobs: int) -> dict[str, float]:
    """All networks of all repeats; seconds per kind."""
    seconds = {}
    for kind in NETS:
        started = time.perf_counter()
        whole: list[Training | Members] = []
        for one in rounds:
            data, layouts = one.prepared, one.prepared.dataset.preprocess.layouts
            train, valid = data.tasksets["train"], data.tasksets["valid"]
            if kind == "joint":
                one.joint = make_training(spec, layouts, data.tasks, train, valid, seed=one.seed)
                whole.append(one.joint)
                continue
            settings = alone(spec, _lead(one.joint).sampler.batch_size)  # type: ignore[arg-type]
            for task in data.tasks:
                mine = {
                    table: rows for table, own in train.items() if (rows := labelled_part(own, task.name)) is not None
                }
                one.singles[task.name] = make_training(
                    settings, layouts, [replace(task, sees=())], mine, _only(valid, task.name), seed=one.seed
                )
                whole.append(one.singles[task.name])
        runs = [run for one in whole for run in (one.runs if isinstance(one, Members) else [one])]
        for run in runs:
            run.primary_only = True
        text = "joint model" if kind == "joint" else "single-task models"
        run_over(runs, None if progress is None else lambda done, n, text=text: progress(text, done, n), n_jobs)  # type: ignore[misc]
        for ended in whole:
            if isinstance(ended, Members):
                ended.close()
        seconds[kind] = (time.perf_counter() - started) / max(len(rounds), 1)
    return seconds


def alone(spec: RunSpec, batch_size: int) -> RunSpec:
    """The run of a single task: the joint model's batch size, nothing that speaks of other tasks."""
    made = [make(Penalty, p.name, p.settings) for p in spec.optim.penalties]  # type: ignore[type-abstract]
    own = tuple(p for p, one in zip(spec.optim.penalties, made, strict=True) if one.on in ("shared", "heads", "all"))
    plain = {"weights": {}, "mode": "proportional", "schedule": "joint", "batch_size": batch_size}
    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"sharing": Part(name="hard")}),
            "sampling": spec.sampling.model_copy(update=plain),
            "optim": spec.optim.model_copy(update={"balance": Part(name="equal"), "penalties": own}),
        }
    )


def labelled_part(rows: Taskset, task: str) -> Taskset | None:
    """The rows that a single-task model of this task learns from: all of them where at least half have a label.

    With half the labels or more, batches stay those of the joint model (the same updates, unknown labels left out);
    with fewer, as in disjoint tables, rows without a label would only make epochs longer.
    """
    if task not in rows.tasks:
        return None
    known = rows.known_rows(task)
    if not len(known):
        return None
    return rows.only([task]) if 2 * len(known) >= len(rows) else rows.only([task]).take(known)


def _only(tasksets: Mapping[str, Taskset], task: str) -> dict[str, Taskset]:
    return {t: part for t, rows in tasksets.items() if (part := labelled_part(rows, task)) is not None}


def _score(one: _Repeat) -> None:
    """Read the test part, once. Thresholds are chosen on the rows that each network was stopped on."""
    test = one.prepared.tasksets["test"]
    assert one.joint is not None
    fitted = {t.name: t for t in one.prepared.tasks}
    held = one.joint.held_out()
    one.found["joint"] = results(one.joint.model, test)
    one.tuned["joint"] = {n: _tuned(t, held) for n, t in fitted.items()}
    one.found["single"], one.tuned["single"] = {}, {}
    for name, training in one.singles.items():
        one.found["single"] |= results(training.model, _only(test, name), [name])
        one.tuned["single"][name] = _tuned(fitted[name], training.held_out())
    for kind, found in one.found.items():
        one.values[kind] = {
            name: measure(task, found[name], task.metrics[:1])[0].value if name in found else None
            for name, task in one.tuned[kind].items()
        }


def _tuned(task: Task, held: Mapping[str, Result]) -> Task:
    own = held.get(task.name)
    return task if own is None else task.tuned(own.output, own.target, own.known)


def _baselines(
    rounds: Sequence[_Repeat], methods: Sequence[str], fixed: bool, n_jobs: int, progress: Progress | None
) -> dict[str, float]:
    seconds = dict.fromkeys(methods, 0.0)
    done, total = 0, len(rounds) * len(rounds[0].prepared.tasks) if not fixed else len(rounds[0].prepared.tasks)

    def tell(_: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("simple baselines", done, total)

    for r, one in enumerate(rounds):
        if fixed and r:
            one.values |= {method: rounds[0].values[method] for method in methods}
            continue
        data = one.prepared
        both = [data.tasksets[part] for part in ("train", "valid")]
        found = baselines.run_all(
            methods, data.tasks, both, data.tasksets["test"], data.dataset.preprocess.layouts,
            seed=one.seed % 2**31, n_jobs=n_jobs, progress=tell,
        )  # fmt: skip
        for method in methods:
            one.values[method] = {task: own[method].score.value for task, own in found.items() if method in own}
            one.notes |= {
                (t, method): own[method].note for t, own in found.items() if method in own and own[method].note
            }
            seconds[method] += sum(own[method].seconds for own in found.values() if method in own) / len(rounds)
    return seconds


def _row_tests(rounds: Sequence[_Repeat], tasks: Sequence[Task], spec: RunSpec) -> dict[tuple[str, str], Change]:
    """Paired bootstrap over test rows of a fixed split, means over seeds; the same draws for every task."""
    by = spec.data.split.by if spec.data.split.kind == "group" else None
    changes: dict[str, float] = {}
    draws: dict[str, np.ndarray] = {}
    for task in tasks:
        found = []
        for one in rounds:
            if task.name not in one.found["joint"]:
                continue
            joint, single = one.found["joint"][task.name], one.found["single"][task.name]
            output, target, known, rows = joint.labelled()
            mine = single.labelled()[0]
            if not len(rows):
                continue
            metric = metrics.find(task.metrics[0])
            groups = None if metric.column is None else joint.extra[metric.column][rows.numpy()]
            more: dict[str, Any] = {"known": known.numpy()} if known.dim() > 1 else {}
            if isinstance(by, str):
                more["redraw"] = joint.extra[by][rows.numpy()]
            says = one.tuned["joint"][task.name].predict(output)
            apart = one.tuned["single"][task.name].predict(mine)
            found.append(paired_draws(metric, task.truth(target), says, apart, groups, **more))
        values = [c for c, _ in found if c is not None]
        if values:
            changes[task.name] = float(np.mean(values))
            draws[task.name] = np.mean([d for c, d in found if c is not None], axis=0)
    tests = {("joint", t): from_draws(changes[t], draws[t]) for t in changes}
    if changes:
        tests["joint", ""] = from_draws(float(np.mean(list(changes.values()))), np.mean(list(draws.values()), axis=0))
    return tests


def _ratio(data: Prepared, task: str) -> float | None:
    """Test rows per row of training and validation, of the tables that label a task."""
    count = {part: data.dataset.coverage(rows).get(task, {}).get("rows", 0) for part, rows in data.tasksets.items()}
    learnt = count.get("train", 0) + count.get("valid", 0)
    return count.get("test", 0) / learnt if learnt else None


def _parameters(one: _Repeat, method: str) -> int | None:
    if method == "joint" and one.joint is not None:
        return sum(p.numel() for p in one.joint.model.parameters())
    if method == "single":
        return sum(p.numel() for t in one.singles.values() for p in t.model.parameters())
    return None


def _lead(run: Training | Members) -> Training:
    return run.runs[0] if isinstance(run, Members) else run


def _updates(run: Training | Members) -> int:
    """Steps of a run; of the member that took most."""
    return max(r.step for r in run.runs) if isinstance(run, Members) else run.step


def _budget(spec: RunSpec, rounds: Sequence[_Repeat], seconds: Mapping[str, float]) -> dict[str, Any]:
    joint = [one.joint for one in rounds if one.joint is not None]
    singles = [t for one in rounds for t in one.singles.values()]
    return {
        "epochs at most": spec.trainer.max_epochs,
        "batch size": _lead(joint[0]).sampler.batch_size,
        "patience": spec.trainer.patience,
        "members": len(joint[0].runs) if isinstance(joint[0], Members) else 1,
        "tuning trials": 0,
        "updates of the joint model (mean)": round(float(np.mean([_updates(t) for t in joint])), 1),
        "updates of all single-task models (mean)": round(
            float(np.sum([_updates(t) for t in singles])) / len(rounds), 1
        ),
        "parameters of the joint model": _parameters(rounds[0], "joint"),
        "parameters of all single-task models": _parameters(rounds[0], "single"),
        "seconds per repeat": {k: round(v, 2) for k, v in seconds.items()},
    }


def _simple(rounds: Sequence[_Repeat], methods: Sequence[str]) -> list[str]:
    """What simple models could not do, in sentences."""
    values = [one.values for one in rounds]
    learnt = [m for m in methods if m != "constant"]
    lost = [t.name for t in rounds[0].prepared.tasks if not any(t.name in v[m] for v in values for m in learnt)]
    layouts = rounds[0].prepared.dataset.preprocess.layouts
    said = []
    if learnt and lost:
        named = ", ".join([*lost[:8], *(["..."] if len(lost) > 8 else [])])
        said.append(
            f"There is no {' and no '.join(learnt)} for {named}: they read columns of numbers and categories, and say "
            "numbers and classes."
        )
    elif learnt and any(":" in kind for layout in layouts.values() for kind in layout):
        said.append(f"Of the columns, {' and '.join(learnt)} read numbers and categories alone.")
    noted = dict.fromkeys(f"{task}, {method}: {note}" for one in rounds for (task, method), note in one.notes.items())
    return [*said, *list(noted)[:MOST_NOTES]]


def _protocol(spec: RunSpec, rounds: Sequence[_Repeat], fixed: bool) -> str:
    split, repeats = spec.data.split, len(rounds)
    held = any(len(rows) for rows in rounds[0].prepared.tasksets["valid"].values())
    chosen = "on validation" if held else "on the rows that each member holds out of the training part"
    if fixed:
        return (
            f"The split is the one given; {repeats} seeds, whose deltas are averaged. Intervals are over test rows "
            "(paired bootstrap), so the claim is about this training set. Networks are stopped "
            f"{chosen}; the test part was read once."
        )
    by = f" by {split.by if isinstance(split.by, str) else ', '.join(split.by)}" if split.by else ""
    shares = zip(("train", "validation", "test"), split.sizes, strict=True)
    parts = ", ".join(f"{name} {100 * share / sum(split.sizes):.0f} %" for name, share in shares if share)
    return (
        f"{repeats} re-drawn {split.kind} splits{by} ({parts}). Intervals and p values are of the corrected resampled "
        "t (Nadeau and Bengio 2003); p values are Holm-adjusted over the tasks, the printed intervals are plain 95 % "
        f"ones. Networks are stopped {chosen}; the simple baselines learn and tune on all rows but the test part's; "
        "each test part was read once."
    )
