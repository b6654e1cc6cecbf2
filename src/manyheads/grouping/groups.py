"""Do groups of tasks keep what was promised? Each is trained, beside one model for all tasks and one for each."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics
from ..blocks import seed_of
from ..build import Prepared, make_training, prepare, split_parts
from ..compare import Progress, alone
from ..evaluate import Result, measure, results
from ..faults import ConfigError
from ..members import Members
from ..parallel import run_over
from ..results import Grouping, GroupingStudy, Method
from ..spec import Part, RunSpec
from ..statistics import Change, from_draws, paired_draws
from ..tasks import Task
from ..train import Training
from ..verdicts import Direction, chosen
from ..verdicts import compare as judge
from .ofgroup import labelled_rows, of_group
from .plans import Model, Plan, checked, plans_of, stages_of
from .recommend import BRANCHED, agreement, recommendation

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class _Repeat:
    """One split, its models, and what they are worth on its parts."""

    prepared: Prepared
    seed: int
    runs: dict[Model, Training | Members] = field(default_factory=dict)
    tuned: dict[Model, dict[str, Task]] = field(default_factory=dict)
    valid: dict[Model, dict[str, float | None]] = field(default_factory=dict)
    found: dict[Model, dict[str, Result]] = field(default_factory=dict)
    """Outputs on the test rows, once the choice is made."""


def validate(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    groupings: Mapping[str, Grouping | Sequence[Sequence[str]]],
    *,
    targets: Mapping[str, Sequence[str]] | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    repeats: int = 5,
    branches_from: int | str | None = None,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> GroupingStudy:
    r"""Trains groupings of tasks beside one model for all and one for each, and says what to share.

    Every repeat re-draws the split. In each, every group is trained as a model of its own (one that several groupings
    name, once), with the joint model's encoder, sharing scheme, balance, epochs at most, patience, learning rate and
    batch size; a group of one is the single-task model of `compare`. Where a task is in several groups, the one that
    was best for it on the repeat's validation part serves it.

    What is recommended is chosen on validation, with a bias to the simpler: with :math:`m_r` the mean over tasks of the
    deltas against single-task models in repeat r, the method with the fewest parameters is taken whose :math:`m` is not
    under the best one's by more than a standard error of their paired difference, :math:`s / \sqrt n` (the plain one: a
    choice is no claim, and an error corrected for what splits have in common would favour the simpler far too much).
    Then the test parts are read, once.

    Args:
        spec: the run; its split is re-drawn with seeds ``split.seed + repeat``.
        tasks: not fitted; two at least.
        tables: {name: frame}.
        groupings: name -> groups; a `Grouping` brings what was predicted of it. Without any, together and alone remain.
        targets: {table: tasks it labels}.
        parts: a split of the user's own; then it is kept, repeats differ by their seed alone, and intervals are over
            test rows.
        repeats: splits (or seeds).
        branches_from: the stage at which the groups of each grouping part as branches of a single model (sharing
            `tree`), which is compared as well; by default no such model is made.
        n_jobs: processes; one per core by default.
        progress: told what is being done.

    Raises:
        ConfigError: fewer than two tasks, a group that names an unknown task, a task in no group.

    Reference:
        Which Tasks Should Be Learned Together in Multi-task Learning? Standley, Zamir, Chen, Guibas, Malik, Savarese,
        2020. The standard-error rule: Classification and Regression Trees, Breiman, Friedman, Olshen, Stone, 1984; the
        factor of re-drawn splits: Inference for the Generalization Error, Nadeau, Bengio, 2003.
    """
    n_jobs = len(os.sched_getaffinity(0)) if n_jobs is None and hasattr(os, "sched_getaffinity") else n_jobs or 1
    study = Study(
        spec, tasks, tables, groupings, targets=targets, parts=parts, repeats=repeats, branches_from=branches_from
    )
    study.train(n_jobs, progress)
    return study.result()


def _rounds(
    spec: RunSpec,
    tasks: Sequence[Task],
    tables: Mapping[str, pd.DataFrame],
    targets: Mapping[str, Sequence[str]] | None,
    parts: Mapping[str, np.ndarray] | None,
    repeats: int,
    fixed: bool,
) -> list[_Repeat]:
    rounds: list[_Repeat] = []
    for r in range(repeats):
        if fixed and rounds:
            prepared = rounds[0].prepared
        else:
            split = spec.data.split
            here = parts if parts is not None else split_parts(split, tables, tasks, split.seed + (0 if fixed else r))
            prepared = prepare(spec, tasks, tables, here, targets=targets)
        rounds.append(_Repeat(prepared, seed_of(spec.seed, "repeat", r)))
    return rounds


class Study:
    """The runs that `validate` trains, and what becomes of them: many studies can be trained as one.

    Args:
        spec, tasks, tables, groupings, targets, parts, repeats, branches_from: as in `validate`.

    Attributes:
        models: per repeat and model, its run; `finish` is to be called when they have ended.
    """

    def __init__(
        self,
        spec: RunSpec,
        tasks: Sequence[Task],
        tables: Mapping[str, pd.DataFrame],
        groupings: Mapping[str, Grouping | Sequence[Sequence[str]]],
        *,
        targets: Mapping[str, Sequence[str]] | None = None,
        parts: Mapping[str, np.ndarray] | None = None,
        repeats: int = 5,
        branches_from: int | str | None = None,
    ) -> None:
        names = [t.name for t in tasks]
        self.spec, self.given = spec, {name: checked(name, one, names) for name, one in groupings.items()}
        if len(names) < 2 or repeats < 1:
            raise ConfigError(
                "Groups should be validated for two tasks or more, with a repeat at least. Found "
                f"{len(names)} task{'s' if len(names) != 1 else ''} and {repeats} repeats."
            )
        self.fixed = parts is not None or spec.data.split.kind in ("column", "time")
        self.rounds = _rounds(spec, tasks, tables, targets, parts, repeats, self.fixed)
        self.plans = plans_of(self.given, names, branches_from is not None)
        self.stages = stages_of(self.plans)
        for one in self.rounds:
            joint = one.runs[Model(tuple(names))] = _made(spec, one, Model(tuple(names)), None, None)
            size = _lead(joint).sampler.batch_size
            for key in dict.fromkeys(key for plan in self.plans for key in plan.models()):
                if key not in one.runs:
                    one.runs[key] = _made(spec, one, key, size, branches_from)
        self.seconds: dict[str, float] = {}

    def runs(self, stage: str | None = None) -> list[Training]:
        """All runs, members one by one; those of a stage alone (``joint model``, ``groups of tasks``) where asked."""
        keys = [key for text, own in self.stages.items() if stage in (None, text) for key in own]
        whole = [one.runs[key] for one in self.rounds for key in keys]
        found = [run for one in whole for run in (one.runs if isinstance(one, Members) else [one])]
        for run in found:
            run.primary_only = True
        return found

    def train(self, n_jobs: int = 1, progress: Progress | None = None) -> None:
        """Train every model of every repeat, once, and look at what they are worth on validation."""
        took: dict[Model, float] = {}
        for text, keys in self.stages.items():
            started = time.perf_counter()
            tell = None if progress is None else lambda done, n, text=text: progress(text, done, n)
            run_over(self.runs(text), tell, n_jobs)
            steps = {key: sum(_updates(one.runs[key]) for one in self.rounds) for key in keys}
            each = (time.perf_counter() - started) / max(sum(steps.values()), 1) / len(self.rounds)
            took |= {key: each * n for key, n in steps.items()}
        self.seconds = {plan.name: sum(took[key] for key in plan.models()) for plan in self.plans}
        self.finish()

    def finish(self) -> None:
        """Take the ended runs in: what every model is worth on the rows that it was stopped on."""
        for one in self.rounds:
            for run in one.runs.values():
                if isinstance(run, Members):
                    run.close()
            _look(one)

    def result(self, only: Sequence[str] | None = None) -> GroupingStudy:
        """The choice, on validation, and then what the test parts say.

        Args:
            only: groupings that may be chosen; all by default. What the others are worth is not looked at.
        """
        given = {n: g for n, g in self.given.items() if only is None or n in only}
        plans = [p for p in self.plans if p.name in ("joint", "single") or p.name.removesuffix(BRANCHED) in given]
        return _judged(self.spec, self.rounds, plans, given, self.seconds, self.fixed)


# ---- training


def _made(
    spec: RunSpec, one: _Repeat, key: Model, batch_size: int | None, branches_from: int | str | None
) -> Training | Members:
    """A run of a model's tasks on the rows that label them."""
    data, whole = one.prepared, len(key.tasks) == len(one.prepared.tasks)
    train, valid = data.tasksets["train"], data.tasksets["valid"]
    if batch_size is not None and not whole:
        one_task = len(key.tasks) == 1
        spec = alone(spec, batch_size) if one_task else of_group(spec, key.tasks, _names(data), batch_size)
        train, valid = (labelled_rows(rows, key.tasks) for rows in (train, valid))
    if key.branches:
        settings = {"name": "tree", "groups": [list(g) for g in key.branches], "from_stage": branches_from}
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"sharing": Part.of(settings)})})
    mine = [replace(t, sees=tuple(s for s in t.sees if s in key.tasks)) for t in data.tasks if t.name in key.tasks]
    return make_training(spec, data.dataset.preprocess.layouts, mine, train, valid, seed=one.seed)


def _names(data: Prepared) -> list[str]:
    return [t.name for t in data.tasks]


def _lead(run: Training | Members) -> Training:
    return run.runs[0] if isinstance(run, Members) else run


def _updates(run: Training | Members) -> int:
    return sum(r.step for r in run.runs) if isinstance(run, Members) else run.step


def _weights(run: Training | Members) -> int:
    return sum(p.numel() for p in run.model.parameters())


# ---- judging


def _look(one: _Repeat) -> None:
    """What every model is worth on the rows that it was stopped on."""
    fitted = {t.name: t for t in one.prepared.tasks}
    for key, run in one.runs.items():
        held = run.held_out()
        one.tuned[key] = {
            t: fitted[t].tuned(held[t].output, held[t].target, held[t].known) if t in held else fitted[t]
            for t in key.tasks
        }
        one.valid[key] = _measured(one.tuned[key], held)


def _read(one: _Repeat) -> dict[Model, dict[str, float | None]]:
    """The test part, once."""
    test = one.prepared.tasksets["test"]
    values = {}
    for key, run in one.runs.items():
        one.found[key] = results(run.model, labelled_rows(test, key.tasks), key.tasks)
        values[key] = _measured(one.tuned[key], one.found[key])
    return values


def _measured(tasks: Mapping[str, Task], found: Mapping[str, Result]) -> dict[str, float | None]:
    return {n: measure(t, found[n], t.metrics[:1])[0].value if n in found else None for n, t in tasks.items()}


def _serving(one: _Repeat, plan: Plan, directions: Mapping[str, Direction]) -> dict[str, int]:
    """Task -> the number of the group that serves it: the best on validation, the first of equals."""
    if plan.branched:
        return {t: i for i, g in enumerate(plan.groups) for t in g}
    chosen = {}
    for task, direction in directions.items():
        scores = {i: one.valid[Model(g)].get(task) for i, g in enumerate(plan.groups) if task in g}
        known = {i: v if direction.greater_is_better else -v for i, v in scores.items() if v is not None}
        chosen[task] = max(known, key=lambda i: known[i]) if known else next(iter(scores))
    return chosen


def _judged(
    spec: RunSpec,
    rounds: Sequence[_Repeat],
    plans: Sequence[Plan],
    given: Mapping[str, Grouping],
    seconds: Mapping[str, float],
    fixed: bool,
) -> GroupingStudy:
    fitted = rounds[0].prepared.tasks
    directions = {t.name: Direction(t.metrics[0], metrics.find(t.metrics[0]).greater_is_better) for t in fitted}
    served = {plan.name: [_serving(one, plan, directions) for one in rounds] for plan in plans}
    weights = {plan.name: sum(_weights(rounds[0].runs[k]) for k in plan.models()) for plan in plans}

    def key_of(plan: Plan, r: int, task: str) -> Model:
        return plan.models()[0] if plan.branched else Model(plan.groups[served[plan.name][r][task]])

    def methods(values: Sequence[Mapping[Model, Mapping[str, float | None]]]) -> dict[str, Method]:
        return {
            plan.name: Method(
                name=plan.name,
                values={t: tuple(values[r][key_of(plan, r, t)].get(t) for r in range(len(rounds))) for t in directions},
                parameters=weights[plan.name],
                seconds=seconds.get(plan.name),
            )
            for plan in plans
        }

    data = rounds[0].prepared
    on_valid = methods([one.valid for one in rounds])
    choice, valid, reason = chosen(on_valid, directions)
    on_test = methods([_read(one) for one in rounds])
    ratios = {t: _ratio(data, t) for t in directions}
    unit = "seed" if fixed else "repeat"
    protocol = _protocol(spec, len(rounds), fixed)

    def judged(compared: Sequence[str], baseline: str) -> dict[str, Any]:
        tests = None
        if fixed:
            by = {p.name: p for p in plans}
            pairs = [(by[n], by[baseline]) for n in compared if n != baseline]
            tests = {k: v for a, b in pairs for k, v in _row_tests(rounds, fitted, a, b, key_of, spec).items()}
        them = [on_test[n] for n in compared]
        return judge(them, directions, baseline, None if fixed else ratios, tests, protocol, unit).comparisons

    comparisons = judged([*on_test], "single")
    over = {other: judged([choice, other], other)[choice] for other in ("joint", "single") if other != choice}
    realised = {name: {t: c.delta for t, c in comparisons[name].tasks.items()} for name in given}
    plan = next(p for p in plans if p.name == choice)
    return GroupingStudy(
        groupings=dict(given),
        choice=choice,
        groups=plan.groups,
        recommendation=recommendation(choice, plan.groups, given.get(choice.removesuffix(BRANCHED)), plan.branched),
        reason=reason,
        comparisons=comparisons,
        over=over,
        valid=valid,
        realised=realised,
        agreement={name: agreement(given[name].gains, realised[name]) for name in given},
        served={name: {t: tuple(one[t] for one in served[name]) for t in directions} for name in given},
        repeats=len(rounds),
        protocol=protocol,
    )


def _row_tests(
    rounds: Sequence[_Repeat], tasks: Sequence[Task], plan: Plan, base: Plan, key_of: Any, spec: RunSpec
) -> dict[tuple[str, str], Change]:
    """Paired bootstrap over the test rows of a fixed split, means over seeds; the same draws for every task."""
    by = spec.data.split.by if spec.data.split.kind == "group" else None
    changes: dict[str, float] = {}
    draws: dict[str, np.ndarray] = {}
    for task in tasks:
        pairs = []
        for r, one in enumerate(rounds):
            keys = key_of(plan, r, task.name), key_of(base, r, task.name)
            sides = [one.found[key].get(task.name) for key in keys]
            if sides[0] is None or sides[1] is None or not len(sides[0].labelled()[3]):
                continue
            output, target, known, rows = sides[0].labelled()
            metric, extra = metrics.find(task.metrics[0]), sides[0].extra
            groups = None if metric.column is None else extra[metric.column][rows.numpy()]
            more: dict[str, Any] = {"known": known.numpy()} if known.dim() > 1 else {}
            if isinstance(by, str):
                more["redraw"] = extra[by][rows.numpy()]
            said = one.tuned[keys[0]][task.name].predict(output)
            other = one.tuned[keys[1]][task.name].predict(sides[1].labelled()[0])
            pairs.append(paired_draws(metric, task.truth(target), said, other, groups, **more))
        there = [(c, d) for c, d in pairs if c is not None]
        if there:
            changes[task.name] = float(np.mean([c for c, _ in there]))
            draws[task.name] = np.mean([d for _, d in there], axis=0)
    tests = {(plan.name, t): from_draws(changes[t], draws[t]) for t in changes}
    if changes:
        whole = float(np.mean(list(changes.values())))
        tests[plan.name, ""] = from_draws(whole, np.mean(list(draws.values()), axis=0))
    return tests


def _ratio(data: Prepared, task: str) -> float | None:
    """Test rows per row of training and validation, of the tables that label a task."""
    rows = {part: data.dataset.coverage(own).get(task, {}).get("rows", 0) for part, own in data.tasksets.items()}
    learnt = rows.get("train", 0) + rows.get("valid", 0)
    return rows.get("test", 0) / learnt if learnt else None


# ---- words


def _protocol(spec: RunSpec, repeats: int, fixed: bool) -> str:
    where = "on validation" if spec.data.split.sizes[1] else "on the rows that each model holds out"
    chosen_there = f"Nets are stopped, the model that serves a task and the recommendation are chosen {where}; each"
    if fixed:
        return (
            f"The split is the one given; {repeats} seeds, whose deltas are averaged. Intervals are over test rows. "
            f"{chosen_there} test part was read once."
        )
    return (
        f"{repeats} re-drawn {spec.data.split.kind} splits; intervals and p values are of the corrected resampled t "
        f"(Nadeau and Bengio 2003), p values Holm-adjusted. {chosen_there} test part was read once, after that."
    )
