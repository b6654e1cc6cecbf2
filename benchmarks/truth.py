"""Are the right groups found, and are claims true? Suites of tasks whose grouping is known, studies whose answer is.

`python -m benchmarks.truth` (`--suites groups8,equal`, `--seeds 20`, `--cache FILE`): for each suite of
`benchmarks.suites` and each seed, a table of its own. Estimators of relatedness look at single-task nets (RSA, CKA,
transfer), at a joint run (look-ahead), or at all pairs trained together; each recommends the best partition into three
models at most, and every recommendation is validated by training it beside one net for all and one for each, over
re-drawn splits; the final word is chosen on validation. `group` is what `manyheads group` does where nobody says: the
recommendations of RSA, CKA and transfer are trained, and one of them, all together or all apart is chosen.

It is told how often the right groups are recommended before training (`advised`; of `group`: by one of the three) and
by the final word (`recovered`), what the estimates cost (in updates of nets), and whether the final word is worse than
the better of all together and all alone. The better is that on the test parts, so the comparison is with hindsight.
Three splits have wide intervals, so `against_better` stands beside it: the mean over tables, which are independent,
with its interval.

`python -m benchmarks.truth --studies 2000`: the statistics alone, on simulated studies (`benchmarks.studies`).

Nets of some seeds of a suite are trained together. `--cache FILE` keeps each seed of each suite, so that an interrupted
run goes on; delete it when the library has changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyheads.affinity.related import Study as Relations
from manyheads.commands.divide import METHODS
from manyheads.config import tasks_of
from manyheads.grouping.groups import Study
from manyheads.grouping.partition import advised
from manyheads.results import Comparison
from manyheads.stacking.stacked import run_all
from manyheads.statistics import resampled_t

from . import studies
from .affinity_recovery import same, studied
from .harness import Bench
from .quality import Cell, Cells, say
from .suites import SUITES, Suite

MAIN = "group"
"""The word for what the command does: the one that the checks are about."""
WORDS = {MAIN: METHODS} | {word: (word,) for word in (*METHODS, "lookahead", "pairs")}
"""Word -> the estimators whose recommendations are trained for it."""
ASKED = tuple(dict.fromkeys(word for own in WORDS.values() for word in own))
BUDGET = 3
"""Models at most."""
SEEDS, REPEATS, EPOCHS = 20, 3, 80
TOGETHER = 10
"""Seeds whose nets are trained at once."""


# ---- suites


def run_suite(suite: Suite, seeds: Sequence[int], epochs: int, repeats: int) -> dict[int, Cell]:
    """Everything about some seeds of a suite, their nets trained together."""
    started = time.process_time()
    looked = studied(suite, seeds, ASKED, epochs)
    answers = [study.result() for study in looked]
    estimated = time.process_time() - started
    trials = []
    for seed, found in zip(seeds, answers, strict=True):
        spec = suite.spec(seed, epochs)
        told = {answer.method: advised(answer, BUDGET, overlap=False) for answer in found}
        given: dict[str, Any] = {**told, "truth": suite.truth}
        trials.append(Study(spec, tasks_of(spec), {"t": suite.table(seed)}, given, repeats=repeats))
    run_all([run for trial in trials for run in trial.runs()])
    cells = {}
    for seed, study, trial in zip(seeds, looked, trials, strict=True):
        trial.finish()
        found = {word: judged(trial, own, suite) for word, own in WORDS.items()}
        truth = trial.result(["truth"]).comparisons["truth"].delta_m
        cells[seed] = {"costs": costs(study), "found": found, "truth": truth}
    spent = time.process_time() - started
    for cell in cells.values():
        cell["seconds"] = [estimated / len(cells), spent / len(cells)]
    return cells


def costs(study: Relations) -> dict[str, int]:
    """Updates of nets that estimates rest on: of single-task nets alone, and of pairs beside them."""
    singles = sum(run.step for one in study.rounds for run in one.singles.values())
    return {"singles": singles, "pairs": singles + sum(r.step for one in study.rounds for r in one.pairs.values())}


def judged(trial: Study, words: Sequence[str], suite: Suite) -> Cell:
    """What became of the recommendations of some estimators."""
    study = trial.result(words)
    joint = study.comparisons["joint"].delta_m or 0.0
    over = study.over.get("joint" if joint > 0 else "single")
    agreed = [rho for word in words if (rho := study.agreement[word]) is not None]
    return {
        "advised": any(same(trial.given[word].groups, suite.truth) for word in words),
        "groups": {word: [list(g) for g in trial.given[word].groups] for word in words},
        "choice": study.choice,
        "recovered": same(study.groups, suite.truth),
        "agreement": float(np.mean(agreed)) if agreed else None,
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
            say(f"{suite.name}: seeds {part[0]} to {part[-1]}, {cell['seconds'][1]:.1f} s each")
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
    """One row of a suite for each word."""
    for word in WORDS:
        found = [cell["found"][word] for cell in cells]
        choices = [f["choice"] if f["choice"] in ("joint", "single") else "groups" for f in found]
        agreed = [f["agreement"] for f in found if f["agreement"] is not None]
        against = [f["against_better"][0] for f in found]
        change = resampled_t(against)
        bench.result(
            f"{name}, {word}",
            advised=_mean(cells, word, "advised"),
            recovered=_mean(cells, word, "recovered"),
            groups=choices.count("groups") / len(found),
            joint=choices.count("joint") / len(found),
            single=choices.count("single") / len(found),
            delta_m=float(np.mean([f["delta_m"] for f in found])),
            against_better=change.mean or 0.0,
            low=change.low,
            high=change.high,
            lowest=float(min(against)),
            worse=float(np.mean([_worse(f) for f in found])),
            agreement=float(np.mean(agreed)) if agreed else None,
        )
    deltas: Mapping[str, float] = {
        "joint": float(np.mean([cell["found"][MAIN]["joint"] for cell in cells])),
        "truth": float(np.mean([cell["truth"] for cell in cells])),
    }
    seconds = np.mean([cell["seconds"] for cell in cells], 0)
    bench.result(f"{name}, delta-m of", **deltas, seconds_of_estimates=float(seconds[0]), seconds=float(seconds[1]))


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
        suites(bench, names, 1 if bench.quick else given.seeds, cells)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
