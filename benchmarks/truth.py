"""Are the right groups found, and are claims true? Suites of tasks whose grouping is known, studies whose answer is.

`python -m benchmarks.truth` (`--suites groups8,equal`, `--seeds 20`, `--cache FILE`): for each suite of
`benchmarks.suites` and each seed, a table of its own. Estimators of relatedness look at single-task nets (RSA, CKA) or
at all pairs trained together, each recommends the best partition into three models at most, and every recommendation is
validated by training it beside one net for all and one for each, over re-drawn splits; the final word is chosen on
validation. It is told how often the right groups are recommended before and after that, what the estimates cost (in
updates of nets), and whether the final word is worse than the better of all together and all alone (the better on the
test parts, so that the comparison is with hindsight).

`python -m benchmarks.truth --studies 2000`: the statistics alone, on simulated studies (`benchmarks.studies`).

Nets of all seeds of a suite are trained together. `--cache FILE` keeps each seed of each suite, so that an interrupted
run goes on; delete it when the library has changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from manyheads.affinity import Estimator, Reading
from manyheads.affinity.pairs import Together
from manyheads.affinity.readings import gathered
from manyheads.affinity.singles import Singles
from manyheads.blocks import seed_of
from manyheads.build import Prepared, make_training, prepare, split_parts
from manyheads.catalog import make
from manyheads.compare import alone
from manyheads.config import tasks_of
from manyheads.evaluate import measure
from manyheads.grouping.groups import Study
from manyheads.grouping.ofgroup import labelled_rows
from manyheads.grouping.partition import advised
from manyheads.results import Comparison, Grouping
from manyheads.spec import RunSpec
from manyheads.stacking.stacked import run_all
from manyheads.statistics import resampled_t
from manyheads.train import Training

from . import studies
from .harness import Bench
from .quality import Cell, Cells, say
from .suites import SUITES, Suite

FROM_SINGLES = ("rsa", "cka")
MAIN = "rsa"
"""The estimator whose recommendation the checks are about."""
BUDGET = 3
"""Models at most."""
SEEDS, REPEATS, EPOCHS = 20, 3, 80
TOGETHER = 5
"""Seeds whose nets are trained at once."""


# ---- suites


class _Seed:
    """One table of a suite: what estimators look at."""

    def __init__(self, suite: Suite, seed: int, epochs: int) -> None:
        self.suite, self.seed = suite, seed
        self.table, self.spec = suite.table(seed), suite.spec(seed, epochs)
        self.tasks = tasks_of(self.spec)
        parts = split_parts(self.spec.data.split, {"t": self.table}, self.tasks)
        self.data = prepare(self.spec, self.tasks, {"t": self.table}, parts)
        few = alone(self.spec, int(self.spec.sampling.batch_size))
        names = suite.tasks
        self.singles = {t: _run(few, self.data, (t,), seed) for t in names}
        self.pairs = {pair: _run(few, self.data, pair, seed) for pair in combinations(names, 2)}

    def advised(self) -> dict[str, Grouping]:
        """The partition that each estimator speaks for."""
        train, held = self.data.tasksets["train"], self.data.tasksets["valid"]
        models = {t: run.model for t, run in self.singles.items()}
        tables = dict.fromkeys(models, ("t",))
        seen = Singles(models, {t.name: t for t in self.data.tasks}, train, held, tables, self.seed)
        found: dict[str, Grouping] = {}
        for word in FROM_SINGLES:
            estimator: Estimator[Any] = make(Estimator, word, {})  # type: ignore[type-abstract]
            found[word] = _advised(word, estimator, estimator.measure(seen), self.suite.tasks)
        estimator = make(Estimator, "pairs", {})  # type: ignore[type-abstract]
        found["pairs"] = _advised("pairs", estimator, estimator.measure(self._together()), self.suite.tasks)
        return found

    def _together(self) -> Together:
        by_itself = {t: _score(run, t) for t, run in self.singles.items()}
        paired: dict[tuple[str, str], float | None] = {}
        for (a, b), run in self.pairs.items():
            paired |= {(a, b): _score(run, a), (b, a): _score(run, b)}
        return Together(by_itself, paired, by_itself, dict.fromkeys(by_itself, False))

    def costs(self) -> dict[str, int]:
        """Updates of nets that each kind of estimate rests on."""
        singles = sum(run.step for run in self.singles.values())
        return {"singles": singles, "pairs": singles + sum(run.step for run in self.pairs.values())}


def _run(spec: RunSpec, data: Prepared, names: Sequence[str], seed: int) -> Training:
    train, held = (labelled_rows(data.tasksets[part], names) for part in ("train", "valid"))
    tasks = [replace(t, sees=()) for t in data.tasks if t.name in names]
    run = make_training(spec, data.dataset.preprocess.layouts, tasks, train, held, seed=seed_of(seed, "affinity"))
    assert isinstance(run, Training)
    run.primary_only = True
    return run


def _score(run: Training, task: str) -> float | None:
    return measure(run.tasks[task], run.held_out()[task], run.tasks[task].metrics[:1])[0].value


def _advised(word: str, estimator: Estimator[Any], reading: Reading, tasks: Sequence[str]) -> Grouping:
    found = gathered(word, estimator, tasks, [[(0, reading)]], None)
    return advised(found, BUDGET, overlap=False)


def _same(groups: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> bool:
    return {frozenset(g) for g in groups} == {frozenset(g) for g in truth}


def run_suite(suite: Suite, seeds: Sequence[int], epochs: int, repeats: int) -> dict[int, Cell]:
    """Everything about some seeds of a suite, their nets trained together."""
    started = time.perf_counter()
    looked = [_Seed(suite, seed, epochs) for seed in seeds]
    run_all([run for one in looked for run in (*one.singles.values(), *one.pairs.values())])
    estimated = time.perf_counter() - started
    groupings: list[dict[str, Grouping]] = []
    trials = []
    for one in looked:
        told = one.advised()
        groupings.append(told)
        given: dict[str, Any] = {**told, "truth": suite.truth}
        trials.append(Study(one.spec, one.tasks, {"t": one.table}, given, repeats=repeats))
    run_all([run for trial in trials for run in trial.runs()])
    cells = {}
    for one, told, trial in zip(looked, groupings, trials, strict=True):
        trial.finish()
        cell: Cell = {"costs": one.costs(), "found": {}}
        for word, grouping in told.items():
            cell["found"][word] = _judged(trial, word, grouping, suite)
        cell["truth"] = trial.result(["truth"]).comparisons["truth"].delta_m
        cells[one.seed] = cell
    spent = time.perf_counter() - started
    for cell in cells.values():
        cell["seconds"] = [estimated / len(cells), spent / len(cells)]
    return cells


def _judged(trial: Study, word: str, grouping: Grouping, suite: Suite) -> Cell:
    """What became of one estimator's recommendation."""
    study = trial.result([word])
    joint = study.comparisons["joint"].delta_m or 0.0
    over = study.over.get("joint" if joint > 0 else "single")
    return {
        "advised": _same(grouping.groups, suite.truth),
        "groups": [list(g) for g in grouping.groups],
        "choice": study.choice,
        "recovered": _same(study.groups, suite.truth),
        "agreement": study.agreement[word],
        "delta_m": 0.0 if study.choice == "single" else study.comparisons[study.choice].delta_m,
        "joint": joint,
        "against_better": _change(over),
    }


def _change(over: Comparison | None) -> list[float | None]:
    """Delta-m with its interval; 0 where the recommendation is the better one itself."""
    return [0.0, 0.0, 0.0] if over is None else [over.delta_m, *over.interval]


def suites(bench: Bench, names: Sequence[str], n_seeds: int, cells: Cells) -> None:
    """All suites, from the cache where they are there, and the checks."""
    epochs, repeats = (2, 2) if bench.quick else (EPOCHS, REPEATS)
    everything: list[Cell] = []
    for suite in (s for s in SUITES if s.name in names):
        todo = [seed for seed in range(n_seeds) if (suite.name, seed) not in cells]
        for start in range(0, len(todo), TOGETHER):
            part = todo[start : start + TOGETHER]
            for seed, cell in run_suite(suite, part, epochs, repeats).items():
                cells[suite.name, seed] = cell
            say(f"{suite.name}: seeds {part[0]} to {part[-1]}")
        own = [cells[suite.name, seed] for seed in range(n_seeds)]
        everything += own
        _told(bench, suite.name, own)
    _told(bench, "all", everything)
    both = {word: _mean(everything, word, "recovered") for word in (MAIN, "pairs")}
    bench.check(f"right groups recommended: {MAIN} - pairs", both[MAIN] - both["pairs"], ">=", 0.0)
    singles, pairs = (sum(c["costs"][kind] for c in everything) for kind in ("singles", "pairs"))
    bench.check("updates of nets: single-task / all pairs", singles / pairs, "<=", 0.25)
    fine = np.mean([not _worse(cell["found"][MAIN]) for cell in everything])
    bench.check("not worse than the better of together and alone, share of runs", float(fine), ">=", 0.95)


def _worse(found: Cell) -> bool:
    high = found["against_better"][2]
    return high is not None and high < 0


def _mean(cells: Sequence[Cell], word: str, key: str) -> float:
    return float(np.mean([cell["found"][word][key] for cell in cells]))


def _told(bench: Bench, name: str, cells: Sequence[Cell]) -> None:
    """One row of a suite for each estimator."""
    for word in (*FROM_SINGLES, "pairs"):
        found = [cell["found"][word] for cell in cells]
        choices = [f["choice"] if f["choice"] in ("joint", "single") else "groups" for f in found]
        agreed = [f["agreement"] for f in found if f["agreement"] is not None]
        change = resampled_t([f["against_better"][0] for f in found])
        bench.result(
            f"{name}, {word}",
            advised=_mean(cells, word, "advised"),
            recovered=_mean(cells, word, "recovered"),
            groups=choices.count("groups") / len(found),
            joint=choices.count("joint") / len(found),
            single=choices.count("single") / len(found),
            delta_m=float(np.mean([f["delta_m"] for f in found])),
            against_better=change.mean or 0.0,
            worse=float(np.mean([_worse(f) for f in found])),
            agreement=float(np.mean(agreed)) if agreed else None,
        )
    deltas: Mapping[str, float] = {
        "joint": float(np.mean([cell["found"][MAIN]["joint"] for cell in cells])),
        "truth": float(np.mean([cell["truth"] for cell in cells])),
    }
    seconds = np.mean([cell["seconds"] for cell in cells], 0)
    bench.result(f"{name}, delta-m of", **deltas, seconds_per_seed=float(seconds[1]))


# ---- studies


def simulated(bench: Bench, count: int, cells: Cells) -> None:
    """The statistics alone."""
    for setting in studies.SETTINGS:
        key = (setting.name, count)
        if key not in cells:
            found = studies.outcome(setting, count)
            cells[key] = {k: float(v) for k, v in vars(found).items()}
            say(setting.name)
        cell = cells[key]
        bench.result(f"{setting.name}, {count} studies", **cell)
        bench.check(f"{setting.name}: false claims", cell["false_claims"], "<=", 0.05)
        bench.check(f"{setting.name}: coverage", cell["coverage"], ">=", 0.93)
        if setting.classes:  # where methods differ in shrinkage alone intervals are wider than they need be
            bench.check(f"{setting.name}: coverage, at most", cell["coverage"], "<=", 0.97)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage="python -m benchmarks.truth [options]")
    parser.add_argument("--suites", default=",".join(s.name for s in SUITES), help="by commas (default all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"tables of each suite (default {SEEDS})")
    parser.add_argument("--studies", type=int, help="simulate so many studies of each setting instead")
    parser.add_argument("--cache", type=Path, help="JSON file that keeps what is done")
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        parser.print_help()
    given, rest = parser.parse_known_args(words)
    about = "are the right groups found, and are claims true"
    bench = Bench("truth", about, packages=("torch", "numpy", "scipy"), rounds=1, argv=rest)
    cells = Cells(given.cache, "quick" if bench.quick else "full")
    if unknown := set(given.suites.split(",")) - {s.name for s in SUITES}:
        parser.error(f"no suite is called {', '.join(sorted(unknown))}")
    if given.studies is not None or bench.quick:
        simulated(bench, 20 if bench.quick else given.studies, cells)
    if given.studies is None:
        names = ["equal"] if bench.quick else given.suites.split(",")
        suites(bench, names, 2 if bench.quick else given.seeds, cells)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
