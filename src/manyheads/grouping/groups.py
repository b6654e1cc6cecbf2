"""Do groups of tasks keep what was promised? Each is trained, beside one model for all tasks and one for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..build import Prepared, make_training
from ..compare import Progress, alone, processes
from ..compare.rounds import (
    Side,
    closed,
    directions_of,
    each,
    is_fixed,
    lead,
    measured,
    ratios,
    redrawn,
    row_tests,
    tuned,
)
from ..evaluate import Result, results
from ..faults import ConfigError
from ..ledger import Ledger
from ..members import Members
from ..parallel import cluster, run_over
from ..results import Grouping, GroupingStudy, Method
from ..spec import Part, RunSpec
from ..tasks import Task
from ..train import Training
from ..verdicts import Direction, chosen
from ..verdicts import compare as judge
from .ofgroup import labelled_rows, of_group
from .plans import Model, Plan, checked, plans_of, stages_of
from .recommend import BRANCHED, agreement, outcome, recommendation

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
    backend: str = "loky",
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> GroupingStudy:
    r"""Trains groupings of tasks beside one model for all and one for each, and says what to share.

    Every repeat re-draws the split. In each, every group is trained as a model of its own (one that several groupings
    name, once), with the joint model's encoder, sharing scheme, balance, epochs at most, patience, learning rate and
    batch size; a group of one is the single-task model of `compare`. Where a task is in several groups, the one that
    was best for it on the repeat's validation part serves it.

    What is recommended is chosen on validation (`verdicts.chosen`): one model for all or one for each, unless a
    grouping beats both by more than the best of so many groupings would by chance. The standard errors are the plain
    ones of the paired difference over repeats: a choice is no claim, and errors corrected for what splits have in
    common would leave next to nothing to choose.
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
        backend, ledger: as in `parallel.run_over`.
        progress: told what is being done.

    Raises:
        ConfigError: fewer than two tasks, a group that names an unknown task, a task in no group.

    Reference:
        Which Tasks Should Be Learned Together in Multi-task Learning? Standley, Zamir, Chen, Guibas, Malik, Savarese,
        2020. The factor of re-drawn splits: Inference for the Generalization Error, Nadeau, Bengio, 2003.
    """
    study = Study(
        spec, tasks, tables, groupings, targets=targets, parts=parts, repeats=repeats, branches_from=branches_from
    )
    with cluster(backend, processes(n_jobs)):
        study.train(processes(n_jobs), progress, backend=backend, ledger=ledger)
    return study.result()


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
        self.fixed = is_fixed(spec, parts)
        drawn = redrawn(spec, tasks, tables, targets=targets, parts=parts, repeats=repeats)
        self.rounds = [_Repeat(prepared, seed) for prepared, seed in drawn]
        self.plans = plans_of(self.given, names, branches_from is not None)
        self.stages = stages_of(self.plans)
        for one in self.rounds:
            joint = one.runs[Model(tuple(names))] = _made(spec, one, Model(tuple(names)), None, None)
            size = lead(joint).sampler.batch_size
            for key in dict.fromkeys(key for plan in self.plans for key in plan.models()):
                if key not in one.runs:
                    one.runs[key] = _made(spec, one, key, size, branches_from)
        self.seconds: dict[str, float] = {}

    def runs(self, stage: str | None = None) -> list[Training]:
        """All runs, members one by one; those of a stage alone (``joint model``, ``groups of tasks``) where asked."""
        keys = [key for text, own in self.stages.items() if stage in (None, text) for key in own]
        whole = [one.runs[key] for one in self.rounds for key in keys]
        found = [run for one in whole for run in each(one)]
        for run in found:
            run.primary_only = True
        return found

    def train(
        self,
        n_jobs: int = 1,
        progress: Progress | None = None,
        *,
        backend: str = "loky",
        ledger: Ledger | None = None,
    ) -> None:
        """Train every model of every repeat, once, and look at what they are worth on validation.

        Args:
            n_jobs, backend, ledger: as in `parallel.run_over`.
            progress: told what is being done.
        """
        took: dict[Model, float] = {}
        for text, keys in self.stages.items():
            tell = None if progress is None else lambda done, n, text=text: progress(text, done, n)
            seconds = run_over(self.runs(text), tell, n_jobs, backend=backend, ledger=ledger)
            steps = {key: sum(r.step for one in self.rounds for r in each(one.runs[key])) for key in keys}
            step = seconds / max(sum(steps.values()), 1) / len(self.rounds)
            took |= {key: step * n for key, n in steps.items()}
        self.seconds = {plan.name: sum(took[key] for key in plan.models()) for plan in self.plans}
        self.finish()

    def finish(self) -> None:
        """Take the ended runs in: what every model is worth on the rows that it was stopped on."""
        for one in self.rounds:
            for run in one.runs.values():
                closed(run)
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


def _weights(run: Training | Members) -> int:
    return sum(p.numel() for p in run.model.parameters())


# ---- judging


def _look(one: _Repeat) -> None:
    """What every model is worth on the rows that it was stopped on."""
    fitted = {t.name: t for t in one.prepared.tasks}
    for key, run in one.runs.items():
        held = run.held_out()
        one.tuned[key] = {t: tuned(fitted[t], held) for t in key.tasks}
        one.valid[key] = measured(one.tuned[key], held)


def _read(one: _Repeat) -> dict[Model, dict[str, float | None]]:
    """The test part, once."""
    test = one.prepared.tasksets["test"]
    values = {}
    for key, run in one.runs.items():
        if key not in one.found:
            one.found[key] = results(run.model, labelled_rows(test, key.tasks), key.tasks)
        values[key] = measured(one.tuned[key], one.found[key])
    return values


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
    directions = directions_of(fitted)
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

    on_valid = methods([one.valid for one in rounds])
    choice, valid, reason = chosen(on_valid, directions)
    on_test = methods([_read(one) for one in rounds])
    shares = None if fixed else ratios(rounds[0].prepared)
    unit = "seed" if fixed else "repeat"
    protocol = _protocol(spec, len(rounds), fixed)

    def sides(plan: Plan, base: Plan) -> Callable[[int, str], tuple[Side, Side] | None]:
        def found(r: int, task: str) -> tuple[Side, Side] | None:
            one, keys = rounds[r], (key_of(plan, r, task), key_of(base, r, task))
            if any(task not in one.found[key] for key in keys):
                return None
            mine, other = ((one.tuned[key][task], one.found[key][task]) for key in keys)
            return mine, other

        return found

    def judged(compared: Sequence[str], baseline: str) -> dict[str, Any]:
        tests = None
        if fixed:
            by = {p.name: p for p in plans}
            tests = {
                (n, task): change
                for n in compared
                if n != baseline
                for task, change in row_tests(spec, [*directions], len(rounds), sides(by[n], by[baseline])).items()
            }
        them = [on_test[n] for n in compared]
        return judge(them, directions, baseline, shares, tests, protocol, unit).comparisons

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
        summary=outcome(over),
        repeats=len(rounds),
        protocol=protocol,
    )


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
