"""Real data: do estimators of relatedness say who gains, and does grouping pay? ``python -m benchmarks.related_real``.

For each data set the road of `manyheads group`, by its code: estimators look at single-task models and at a joint run
(training and validation rows alone), each proposes groups for three models at most, and all proposals are trained
beside one model for all and one for each on three re-drawn splits; what to do is chosen on validation, and then the
test parts are read, once. It is told how far what was predicted of each task came true (Spearman's correlation over
tasks, of each estimator's proposal), and what the choice is worth on the test parts against all together and all alone.
The choice is among the proposals of `rsa`, `cka` and `transfer`, as where nobody says; `cosine` and `lookahead` are
trained to be correlated.

* ``card``: six tasks of 3,010 men (test scores, schooling, wage, marriage, enrolment), some labels missing.
* ``school``: examination scores in the twelve largest of 139 London schools, a task each, rows of their own.
* ``landmine``: six mine fields on foliated and six on bare ground, a task each, rows of their own, 6 % positive.
* ``diabetes130``: nine tasks of 8,000 hospital stays, no patient in two parts.
* ``tox21``: twelve laboratory tests of 7,831 compounds read as runs of characters, no compound in two parts.

Settings are the library's defaults, or the recipes' where there is one, with fewer members of each model (two; one for
diabetes130 and tox21) and, for tox21, fewer runs of characters (512) and a narrower net (64), so that all takes some
ten minutes.

All but `card` need their files (environment variable MANYHEADS_DATA). `--cache FILE` keeps each data set's figures, so
that an interrupted run goes on; delete it when the library has changed. `--only tox21,card` runs some, `--repeats 5`
re-draws as many splits as `manyheads group` does where nobody says.

The checks: the choice is at least as good on the mean as all together and as all alone, or it is one of these two
("nothing to group").
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyheads import config
from manyheads.affinity.related import estimators_of, related
from manyheads.build import prepare, split_parts
from manyheads.commands.divide import METHODS
from manyheads.config import tasks_of
from manyheads.data.datasets import load
from manyheads.grouping.groups import Study
from manyheads.grouping.partition import advised
from manyheads.intake import take_in
from manyheads.results import Comparison
from manyheads.spec import RunSpec

from .harness import Bench
from .quality import Cell, Cells, say

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
ASKED = (*METHODS, "cosine", "lookahead")
BUDGET, SEEDS, REPEATS = 3, 3, 3
ROWS = 8000
"""Hospital stays."""
LARGEST = 12
"""Schools."""
FIELDS = (*range(1, 7), *range(16, 22))
"""Mine fields: 1 to 15 are foliated ground, 16 to 29 bare."""


@dataclass(frozen=True)
class Ready:
    """A data set: how it is trained, and its rows.

    Attributes:
        targets: {table: tasks it labels}.
    """

    spec: RunSpec
    tables: Mapping[str, pd.DataFrame]
    targets: Mapping[str, Sequence[str]] | None = None


def _plain(frame: pd.DataFrame, tasks: Mapping[str, str], split: Mapping[str, Any], members: int) -> Ready:
    """The library's defaults on a table, with so many members."""
    described = {name: {"type": kind} for name, kind in tasks.items()}
    spec = config.check({"tasks": described, "data": {"split": dict(split)}, "model": {"members": members}})
    return Ready(spec, {"t": frame})


def _card(members: int) -> Ready:
    frame, tasks = load("card")
    return _plain(frame, {t.name: t.kind for t in tasks}, {"sizes": [0.7, 0, 0.3]}, members)


def _school(members: int) -> Ready:
    tables, _ = load("school")
    names = sorted(tables, key=lambda name: -len(tables[name]))[:LARGEST]
    return _plain(_joined(tables, names), dict.fromkeys(names, "regression"), {"sizes": [0.7, 0, 0.3]}, members)


def _landmine(members: int) -> Ready:
    tables, _ = load("landmine")
    names = [f"field_{i}" for i in FIELDS]
    split = {"kind": "stratified", "sizes": [0.5, 0, 0.5]}
    return _plain(_joined(tables, names), dict.fromkeys(names, "binary"), split, members)


def _joined(tables: Mapping[str, pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    """One table with a column per task, empty in the rows of others."""
    import pandas as pd

    return pd.concat([tables[name] for name in names], ignore_index=True)


def _recipe(name: str, changes: Sequence[str]) -> Ready:
    path = ROOT / "recipes" / f"{name}.yaml"
    spec = config.load([path], [f"data.root={os.environ['MANYHEADS_DATA']}", *changes])
    taken = take_in(spec, tasks_of(spec))
    return Ready(spec, taken.tables, taken.targets)


def _diabetes(members: int) -> Ready:
    ready = _recipe("diabetes130", [f"model.members={members}"])
    ((name, frame),) = ready.tables.items()
    order = np.random.default_rng(0).permutation(frame["patient_nbr"].unique())
    stays = frame["patient_nbr"].value_counts().reindex(order).cumsum()
    kept = frame[frame["patient_nbr"].isin(stays[stays <= ROWS].index)].reset_index(drop=True)
    return replace(ready, tables={name: kept})


def _tox21(members: int) -> Ready:
    types = "features.types={smiles: {type: ngrams, longest: 4, most: 512}}"
    return _recipe("tox21", [f"model.members={members}", "model.encoder.d_hidden=64", types])


SETS: dict[str, tuple[Callable[[int], Ready], int]] = {
    "card": (_card, 2),
    "school": (_school, 2),
    "landmine": (_landmine, 2),
    "diabetes130": (_diabetes, 1),
    "tox21": (_tox21, 1),
}
"""Word -> (its rows, members of each model)."""


def studied(ready: Ready, seeds: int, repeats: int, asked: Sequence[str] = ASKED) -> Cell:
    """What estimators predict of a data set, and what came of it."""
    started = time.process_time()
    spec, tasks = ready.spec, tasks_of(ready.spec)
    parts = split_parts(spec.data.split, ready.tables, tasks)
    prepared = prepare(spec, tasks, ready.tables, parts, targets=ready.targets)
    answers = related(spec, prepared, estimators_of(asked), seeds)
    looked = time.process_time() - started
    told = {answer.method: advised(answer, BUDGET) for answer in answers}
    study = Study(spec, tasks, ready.tables, told, targets=ready.targets, repeats=repeats)
    study.train()
    every, found = study.result(), study.result([m for m in METHODS if m in told])
    return {
        "tasks": len(tasks),
        "rows": sum(map(len, ready.tables.values())),
        "metrics": sorted({t.metrics[0] for t in prepared.tasks}),
        "proposed": {method: [list(g) for g in grouping.groups] for method, grouping in told.items()},
        "agreement": dict(every.agreement),
        "valid": dict(every.valid),
        "test": {name: _change(c) for name, c in every.comparisons.items()},
        "choice": found.choice,
        "groups": [list(g) for g in found.groups],
        "over": {name: _change(c) for name, c in found.over.items()},
        "recommendation": found.recommendation,
        "summary": found.summary,
        "seconds": [looked, time.process_time() - started],
    }


def _change(found: Comparison) -> list[float | None]:
    return [found.delta_m, *found.interval]


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--only", default=",".join(SETS), help="data sets, by commas (default all)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"re-drawn splits (default {REPEATS})")
    parser.add_argument("--cache", type=Path, help="JSON file that keeps what is done")
    given, rest = parser.parse_known_args(list(sys.argv[1:] if argv is None else argv))
    about = "on real data: who gains, as predicted and as it came, and whether grouping pays"
    bench = Bench("related_real", about, packages=("torch", "numpy", "scipy"), rounds=1, argv=rest)
    cells = Cells(given.cache, "quick" if bench.quick else "full")
    names = ["card"] if bench.quick else given.only.split(",")
    if unknown := set(names) - set(SETS):
        parser.error(f"no data set is called {', '.join(sorted(unknown))}")
    for name in names:
        if name != "card" and "MANYHEADS_DATA" not in os.environ:
            bench.absent(name, "MANYHEADS_DATA does not say where its files are")
            continue
        key = (name, given.repeats)
        if key not in cells:
            cells[key] = _smoke() if bench.quick else studied(SETS[name][0](SETS[name][1]), SEEDS, given.repeats)
            say(f"{name}: {cells[key]['seconds'][1]:.0f} s, {cells[key]['recommendation']}")
        _told(bench, name, cells[key])
    return bench.finish()


def _smoke() -> Cell:
    """A tenth of `card`, hardly trained."""
    ready = _card(1)
    trainer = ready.spec.trainer.model_copy(update={"max_epochs": 1})
    few = {name: frame[:300] for name, frame in ready.tables.items()}
    return studied(Ready(ready.spec.model_copy(update={"trainer": trainer}), few), 1, 2, ("rsa", "lookahead"))


def _told(bench: Bench, name: str, cell: Cell) -> None:
    """The rows of a data set, and its check."""
    bench.result(name, tasks=cell["tasks"], rows=cell["rows"], choice=cell["choice"], seconds=cell["seconds"][1])
    for method, change in cell["test"].items():
        if method != "single":
            figures = dict(zip(("delta_m", "low", "high"), change, strict=True))
            rank = {"agreement": cell["agreement"][method]} if method in cell["agreement"] else {}
            bench.result(f"{name}, {method}", **figures, valid=cell["valid"][method], **rank)
    for other, change in cell["over"].items():
        bench.result(f"{name}, the choice over {other}", **dict(zip(("delta_m", "low", "high"), change, strict=True)))
    print(f"{name}: {cell['recommendation']} {cell['summary']}")
    grouped = cell["choice"] not in ("joint", "single")
    behind = min((change[0] or 0.0 for change in cell["over"].values()), default=0.0) if grouped else 0.0
    bench.check(f"{name}: the choice over the better of together and alone (0: nothing to group)", behind, ">=", 0.0)


if __name__ == "__main__":
    sys.exit(main())
