"""The engine: every way to train, on every repeat; validation chooses, and then the test parts are read, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import baselines
from ..build import Prepared, make_training
from ..config import applied
from ..evaluate import Result, results
from ..ledger import Ledger
from ..members import Members
from ..parallel import run_over
from ..results import Method
from ..spec import RunSpec
from ..statistics import Change
from ..tasks import Task
from ..train import Training
from ..verdicts import Direction, Verdicts, chosen
from ..verdicts import compare as judge
from . import words
from .rounds import (
    Side,
    Thin,
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
from .single import alone, labelled_part, only

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, of how many)."""
SINGLE = "single"


@dataclass
class Repeat:
    """One split: its rows, its runs, and what each method got on the test part."""

    prepared: Prepared
    seed: int
    runs: dict[str, dict[str, Training | Members]] = field(default_factory=dict)
    """Method -> task (``""`` for a model of all) -> its run."""
    found: dict[str, dict[str, Result]] = field(default_factory=dict)
    """Net -> task -> outputs on the test rows."""
    tuned: dict[str, dict[str, Task]] = field(default_factory=dict)
    """Net -> task, with what its held-out rows taught it."""
    valid: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Net -> task -> primary metric on the rows that it was stopped on."""
    values: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Method -> task -> primary metric."""
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    """(task, simple model) -> why it is not what its name says."""


class Study:
    """Ways to train one model for all tasks, beside single-task networks of the same budget and simple models.

    Args:
        spec: the run; its split is re-drawn with seeds ``split.seed + repeat``.
        tasks: not fitted.
        tables: {name: frame}.
        ways: name -> the run of that method; `spec` itself, as ``joint``, by default.
        targets: {table: tasks it labels}.
        parts: a split of the user's own; then it is kept, and repeats differ by their seed alone.
        repeats: splits (or seeds).
        simple: simple baselines to show.
        alone_with: task -> overrides for its single-task network (its own tuned settings, say).
        thin: takes labels away before anything is learned.
    """

    def __init__(
        self,
        spec: RunSpec,
        tasks: Sequence[Task],
        tables: Mapping[str, pd.DataFrame],
        ways: Mapping[str, RunSpec] | None = None,
        *,
        targets: Mapping[str, Sequence[str]] | None = None,
        parts: Mapping[str, np.ndarray] | None = None,
        repeats: int = 5,
        simple: Sequence[str] = (),
        alone_with: Mapping[str, Sequence[str]] | None = None,
        thin: Thin | None = None,
    ) -> None:
        baselines.check(simple)
        self.spec, self.simple, self.alone_with = spec, tuple(simple), dict(alone_with or {})
        self.ways = dict(ways or {"joint": spec})
        self.fixed = is_fixed(spec, parts)
        self.thin = thin
        drawn = redrawn(spec, tasks, tables, targets=targets, parts=parts, repeats=repeats, thin=thin)
        self.rounds = [Repeat(prepared, seed) for prepared, seed in drawn]
        self.seconds: dict[str, float] = {}
        """Method -> seconds per repeat."""

    @property
    def names(self) -> list[str]:
        """The networks: every way, and the single-task ones."""
        return [*self.ways, SINGLE]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, as the first repeat fitted them."""
        return self.rounds[0].prepared.tasks

    @property
    def directions(self) -> dict[str, Direction]:
        """Task -> its metric and which way is up."""
        return directions_of(self.tasks)

    # -- training

    def made(self, one: Repeat, name: str) -> dict[str, Training | Members]:
        """The runs of a method in a repeat, not begun."""
        data, layouts = one.prepared, one.prepared.dataset.preprocess.layouts
        train, valid = data.tasksets["train"], data.tasksets["valid"]
        if name != SINGLE:
            return {"": make_training(self.ways[name], layouts, data.tasks, train, valid, seed=one.seed)}
        settings = alone(self.spec, lead(next(iter(one.runs.values()))[""]).sampler.batch_size)
        runs: dict[str, Training | Members] = {}
        for task in data.tasks:
            mine = {table: rows for table, own in train.items() if (rows := labelled_part(own, task.name)) is not None}
            own = self.alone_with.get(task.name)
            settled = applied(settings, own) if own else settings
            runs[task.name] = make_training(
                settled, layouts, [replace(task, sees=())], mine, only(valid, task.name), seed=one.seed
            )
        return runs

    def train(
        self,
        n_jobs: int = 1,
        progress: Progress | None = None,
        *,
        backend: str = "loky",
        ledger: Ledger | None = None,
    ) -> None:
        """Train all networks of all repeats: those of a method together."""
        for name in self.names:
            for one in self.rounds:
                one.runs[name] = self.made(one, name)
            whole = [run for one in self.rounds for run in one.runs[name].values()]
            runs = [run for one in whole for run in each(one)]
            for run in runs:
                run.primary_only = True
            text = {"joint": "joint model", SINGLE: "single-task models"}.get(name, name)
            tell = None if progress is None else lambda done, n, text=text: progress(text, done, n)
            took = run_over(runs, tell, n_jobs, backend=backend, ledger=ledger)
            for ended in whole:
                closed(ended)
            self.seconds[name] = took / max(len(self.rounds), 1)

    def fit_simple(self, n_jobs: int = 1, progress: Progress | None = None, ledger: Ledger | None = None) -> None:
        """Fit the simple baselines, which learn from training and validation rows; they read the test part."""
        once = self.fixed and self.thin is None
        rounds, seconds = self.rounds, dict.fromkeys(self.simple, 0.0)
        done, total = 0, len(rounds[0].prepared.tasks) * (1 if once else len(rounds))

        def tell(_: str) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress("simple baselines", done, total)

        for r, one in enumerate(rounds):
            if once and r:
                one.values |= {method: rounds[0].values[method] for method in self.simple}
                continue
            data = one.prepared
            both = [data.tasksets[part] for part in ("train", "valid")]
            layouts, seed = data.dataset.preprocess.layouts, one.seed % 2**31

            def run(
                data: Prepared = data, both: Any = both, layouts: Any = layouts, seed: int = seed
            ) -> dict[str, dict[str, list[Any]]]:
                found = baselines.run_all(
                    self.simple, data.tasks, both, data.tasksets["test"], layouts,
                    seed=seed, n_jobs=n_jobs, progress=tell,
                )  # fmt: skip
                return {
                    task: {method: [b.score.value, b.seconds, b.note] for method, b in own.items()}
                    for task, own in found.items()
                }

            what = [self.simple, [t.to_json() for t in data.tasks], both, data.tasksets["test"], layouts, seed]
            found = run() if ledger is None else ledger.values(what, run)
            for method in self.simple:
                mine = {task: own[method] for task, own in found.items() if method in own}
                one.values[method] = {task: value for task, (value, _, _) in mine.items()}
                one.notes |= {(task, method): note for task, (_, _, note) in mine.items() if note}
                seconds[method] += sum(took for _, took, _ in mine.values()) / len(rounds)
        self.seconds |= seconds

    # -- looking

    def look(self) -> None:
        """What held-out rows teach the tasks of every network (thresholds), and what it is worth there."""
        for one in self.rounds:
            fitted = {t.name: t for t in one.prepared.tasks}
            for name in self.names:
                held = {t: result for run in one.runs[name].values() for t, result in run.held_out().items()}
                one.tuned[name] = {n: tuned(t, held) for n, t in fitted.items()}
                one.valid[name] = measured(one.tuned[name], held)

    def choose(self) -> tuple[str, dict[str, float | None], str]:
        """(the method to take, its delta-m on validation and all others', why): the test part has no say."""
        on_valid = {
            name: Method(
                name=name,
                values={t: tuple(one.valid[name].get(t) for one in self.rounds) for t in self.directions},
                parameters=self.parameters(name),
            )
            for name in self.names
        }
        return chosen(on_valid, self.directions)

    def read(self) -> None:
        """Read the test parts, once."""
        for one in self.rounds:
            test = one.prepared.tasksets["test"]
            for name in self.names:
                found: dict[str, Result] = {}
                for task, run in one.runs[name].items():
                    found |= results(run.model, only(test, task), [task]) if task else results(run.model, test)
                one.found[name] = found
                one.values[name] = measured(one.tuned[name], found)

    # -- judging

    def methods(self) -> list[Method]:
        """Every method's test values, and what it cost."""
        return [
            Method(
                name=name,
                values={t: tuple(one.values[name].get(t) for one in self.rounds) for t in self.directions},
                parameters=self.parameters(name),
                seconds=self.seconds.get(name),
            )
            for name in (*self.names, *self.simple)
        ]

    def judged(self, ratio: Mapping[str, float | None] | None = None) -> tuple[Verdicts, list[Method]]:
        """Every method against the single-task networks.

        Args:
            ratio: test rows per row to learn from, by task; by default those of the first repeat.
        """
        described = self.methods()
        tests = {k: v for name in self.ways for k, v in self.row_tests(name).items()} if self.fixed else None
        verdicts = judge(
            described,
            self.directions,
            SINGLE,
            None if self.fixed else self.ratios() if ratio is None else ratio,
            tests,
            " ".join([words.protocol(self), *words.remarks(self)]),
            "seed" if self.fixed else "repeat",
        )
        comparisons = {
            n: c.model_copy(update={"budget": words.budget(self, n)}) if n in self.ways else c
            for n, c in verdicts.comparisons.items()
        }
        return verdicts.model_copy(update={"comparisons": comparisons}), described

    def ratios(self) -> dict[str, float | None]:
        """Test rows per row of training and validation, of the tables that label a task."""
        return ratios(self.rounds[0].prepared)

    def parameters(self, name: str) -> int | None:
        """Those of a method's models together; None for simple models."""
        runs = self.rounds[0].runs.get(name)
        return None if runs is None else sum(p.numel() for run in runs.values() for p in run.model.parameters())

    def row_tests(self, name: str) -> dict[tuple[str, str], Change]:
        """A method against the single-task networks on the rows of a fixed split, by (method, task)."""

        def sides(r: int, task: str) -> tuple[Side, Side] | None:
            one = self.rounds[r]
            if any(task not in one.found[net] for net in (name, SINGLE)):
                return None
            mine, apart = ((one.tuned[net][task], one.found[net][task]) for net in (name, SINGLE))
            return mine, apart

        tests = row_tests(self.spec, [t.name for t in self.tasks], len(self.rounds), sides)
        return {(name, task): change for task, change in tests.items()}
