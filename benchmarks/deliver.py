"""Is a delivered model worse than the best single model of some task? On every kind of data there is.

`manyheads deliver` promises one model in which no task is worse, beyond noise, than the best model that knows this task
alone. Here the promise is checked on test rows that nothing of it has seen. Beside the student stand, on the same rows,
the single-task candidates (a net, a linear model, boosting), of which the one that was best on validation is the best
single model, and the plain joint model. Each of them learns from all training rows, in full size.

A student is *worse beyond noise* on a task where the corrected resampled t over splits says so, Holm-adjusted over the
tasks of the data set; with three splits that is a blunt tool, and so each split's paired bootstrap over test rows is
counted as well, Holm-adjusted over the tasks of the split.

    python -m benchmarks.deliver --cache cells.json                     # about a quarter of an hour of one thread
    python -m benchmarks.deliver --cache cells.json --only card,tox21   # these

``--cache FILE`` keeps what is done, cell by cell, so that an interrupted run goes on; delete it when the library has
changed. All data but `card` are looked for in the folder MANYHEADS_DATA. Large tables are cut (`SETS` says to what).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from manyheads import config, metrics
from manyheads.baselines import boosting
from manyheads.build import Prepared, split_parts
from manyheads.catalog import hint
from manyheads.data.datasets import load
from manyheads.deliver import Settings, deliver
from manyheads.deliver.candidates import SINGLE, Source, ask, candidates_of, says
from manyheads.deliver.check import BEST, STUDENT, TEACHER, judge, worse
from manyheads.deliver.choice import evidence, value_of
from manyheads.deliver.parts import Fold, Rows, take
from manyheads.intake import take_in
from manyheads.results import Method
from manyheads.spec import RunSpec, settled
from manyheads.tasks import Task
from manyheads.tasks.regression import Regression
from manyheads.verdicts import Direction
from manyheads.verdicts import compare as verdicts

from .harness import Bench
from .quality import Cell, Cells, say

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 3
JOINT = "joint"

Tables = Mapping[str, pd.DataFrame]
Loaded = tuple[RunSpec, list[Task], Tables]


class Set(NamedTuple):
    """A data set as it is delivered here.

    Attributes:
        load: gives config, tasks and tables.
        settings: of the delivery.
        words: what it is, for people.
    """

    load: Callable[[bool], Loaded]
    settings: dict[str, Any]
    words: str


def _spec(tasks: Sequence[Task], **more: Any) -> RunSpec:
    described = {t.name: {k: v for k, v in t.to_json().items() if k in ("type", "target")} for t in tasks}
    return config.check({"tasks": described} | more, "the benchmark")


def _card(quick: bool) -> Loaded:
    frame, tasks = load("card")
    return _spec(tasks), tasks, {"table": _cut(frame, 300 if quick else 2000, None)}


def _school(quick: bool) -> Loaded:
    tables, tasks = load("school")
    largest = sorted(tables, key=lambda name: -len(tables[name]))[: 3 if quick else 6]
    return _chosen(tables, tasks, largest)


def _patients(quick: bool) -> Loaded:
    table = _parkinsons_table().drop(columns="motor_UPDRS")
    tables = {}
    for number, own in list(table.groupby("subject#"))[: 3 if quick else 4]:
        name = f"patient_{number}"
        tables[name] = own.drop(columns="subject#").rename(columns={"total_UPDRS": name}).reset_index(drop=True)
    return _chosen(tables, [Regression(name) for name in tables], list(tables))


def _chosen(tables: Tables, tasks: Sequence[Task], names: Sequence[str]) -> Loaded:
    kept = {name: tables[name] for name in names}
    columns = {c for frame in kept.values() for c in frame.columns}
    own = [t for t in tasks if set(t.targets) <= columns]
    return _spec(own), own, kept


def _parkinsons(quick: bool) -> Loaded:
    tasks = [Regression("motor_UPDRS"), Regression("total_UPDRS")]
    split = {"split": {"kind": "group", "by": "subject#", "sizes": [0.7, 0.0, 0.3]}}
    return _spec(tasks, data=split), tasks, {"table": _cut(_parkinsons_table(), 300 if quick else 3000, "subject#")}


def _parkinsons_table() -> pd.DataFrame:
    return pd.read_csv(Path(os.environ["MANYHEADS_DATA"]) / "parkinsons_telemonitoring" / "parkinsons_updrs.data")


def _recipe(
    name: str, rows: int, by: str | None = None, changes: Sequence[str] = (), of: Sequence[str] = ()
) -> Callable[[bool], Loaded]:
    def loaded(quick: bool) -> Loaded:
        overrides = [f"data.root={os.environ['MANYHEADS_DATA']}", *changes]
        spec = config.load([ROOT / "recipes" / f"{name}.yaml"], overrides)
        tasks = [t for t in config.tasks_of(spec) if not of or t.name in of]
        spec = spec.model_copy(update={"tasks": {t.name: spec.tasks[t.name] for t in tasks}})
        tables = take_in(spec, tasks).tables
        return spec, tasks, {t: _cut(frame, 300 if quick else rows, by) for t, frame in tables.items()}

    return loaded


def _cut(frame: pd.DataFrame, rows: int, by: str | None) -> pd.DataFrame:
    """So many rows drawn at random, groups whole."""
    random = np.random.default_rng(0)
    if by is None:
        return frame.iloc[np.sort(random.permutation(len(frame))[:rows])].reset_index(drop=True)
    codes, names = pd.factorize(frame[by])
    order = random.permutation(len(names))
    sizes = np.bincount(codes)[order]
    kept = order[: int(np.searchsorted(sizes.cumsum(), rows)) + 1]
    return frame[np.isin(codes, kept)].reset_index(drop=True)


SETS = {
    "card": Set(_card, {}, "2,000 men, 6 tasks, half of some labels missing"),
    "online_shoppers": Set(_recipe("online_shoppers", 3000), {}, "3,000 visits, 3 tasks"),
    "tox21": Set(
        _recipe("tox21", 2000, "smiles", ["features.types.smiles.most=256"]),
        {"words": ("alone", "linear", "blend")}, "2,000 compounds, 12 tasks, 17 % of labels missing, without boosting",
    ),
    "diabetes130": Set(
        _recipe("diabetes130", 3000, "patient_nbr", of=("diagnosis", "a1c_high", "readmitted_any", "insulin", "stay")),
        {}, "3,000 hospital stays, 5 tasks",
    ),
    "parkinsons": Set(_parkinsons, {}, "22 patients, 2 tasks, of which patients are unseen"),
    "school": Set(_school, {}, "6 largest of 139 schools, a task each"),
    "patients": Set(_patients, {}, "4 patients of the same data as parkinsons, a task each, of which days are unseen"),
}  # fmt: skip
CHANGES = ["model.members=4", "trainer.max_epochs=40"]
"""On both sides: what would otherwise take hours. Boosting has one size of trees here, on both sides as well."""
SETTINGS: dict[str, Any] = {"folds": 3}
QUICK_SETTINGS = {"folds": 3, "members": 2, "words": ("alone", "blend")}
QUICK_CHANGES = ["trainer.max_epochs=2", "model.members=2"]


# -- running


@contextmanager
def one_size_of_trees() -> Iterator[None]:
    """Boosting tries one size of trees, and how many of them: a third of its time."""
    before = boosting.Boosting.budget

    def budget(self: boosting.Boosting, problem: Any) -> Any:
        shapes, folds, run = before(self, problem)
        return shapes[:1], min(folds, 3), min(run, 3)

    boosting.Boosting.budget = budget  # type: ignore[method-assign]
    try:
        yield
    finally:
        boosting.Boosting.budget = before  # type: ignore[method-assign]


def cell(name: str, repeat: int, quick: bool) -> Cell:
    """One split of a data set: the student, the single models and the joint one on its test rows."""
    own = SETS[name]
    spec, tasks, tables = own.load(quick)
    spec = config.applied(spec, QUICK_CHANGES if quick else CHANGES)
    split = spec.data.split
    parts = split_parts(split, tables, tasks, split.seed + repeat)
    spec = spec.model_copy(update={"seed": repeat})
    start = time.process_time()
    how = Settings(**(SETTINGS | own.settings | (QUICK_SETTINGS if quick else {})))
    found = deliver(spec, tasks, tables, parts, settings=how, progress=None)
    seconds = time.process_time() - start
    prepared = found.prepared
    rows = prepared.dataset.tasksets(tables)
    fold = Fold(index(prepared, parts, ("train", "valid")), index(prepared, parts, ("test",)))
    members = int(settled(spec.model, prepared.dataset.preprocess.layouts).members)
    source = Source(spec, prepared, rows, spec.seed, members)
    start = time.process_time()
    candidates = candidates_of([w for w in how.words if w in SINGLE], list(source.tasks), (), source.simple)
    said, _ = ask(source, candidates, [fold])
    alone = time.process_time() - start
    student = says(found.training.model, source.tasks, list(source.tasks), take(rows, fold.held))
    for task, by_table in student.items():
        whole = {t: torch.full_like(v, torch.nan) for t, v in said[JOINT][task].items()}
        for t, values in by_table.items():
            whole[t][fold.held[t]] = values
        said.setdefault(STUDENT, {})[task] = whole
    by = split.by if split.kind == "group" and isinstance(split.by, str) else None
    return _figures(source, said, fold, found.delivery, by) | {
        "seconds": seconds, "seconds alone": alone, "ratio": _ratios(prepared, list(source.tasks)),
        "parameters": sum(p.numel() for p in found.training.model.parameters()),
    }  # fmt: skip


def _figures(source: Source, said: Any, fold: Fold, delivery: Any, by: str | None) -> Cell:
    found, values = {}, {}
    for task, own in delivery.tasks.items():
        e = evidence(source, said, [fold], task)
        e = e.of(e.labelled)
        single = own.single if own.single in e.said else next(c for c in SINGLE if c in e.said)
        values[task] = {c: value_of(e, c) for c in e.said} | {"single": value_of(e, single)}
        e.said[TEACHER] = e.said[JOINT]  # what is of interest here is the joint model
        e.said[BEST] = e.said[single]
        found[task] = e
    judged = judge(found, by)
    return {
        "values": values,
        "metrics": {t: source.tasks[t].metrics[0] for t in values},
        "single": {t: own.single for t, own in delivery.tasks.items()},
        "chosen": {t: own.chosen for t, own in delivery.tasks.items()},
        "branch": {t: own.branch for t, own in delivery.tasks.items()},
        "said kept": {t: own.kept for t, own in delivery.tasks.items()},
        "student": delivery.student,
        "behind": {word: list(own) for word, own in delivery.behind.items()},
        "worse": {t: worse(own.single) for t, own in judged.items()},
        "rows": {t: [own.single.mean, own.single.low, own.single.high, own.single.p] for t, own in judged.items()},
    }


def index(prepared: Prepared, parts: Mapping[str, np.ndarray], words: Sequence[str]) -> Rows:
    """The rows of some parts among all rows, per source."""
    found: dict[str, list[np.ndarray]] = {}
    start: dict[str, int] = {}
    for table, source in prepared.dataset.preprocess.sources.items():
        here = start.get(source, 0)
        found.setdefault(source, []).append(here + np.flatnonzero(np.isin(parts[table].astype(str), words)))
        start[source] = here + len(parts[table])
    return {s: torch.from_numpy(np.concatenate(own)) for s, own in found.items()}


def _ratios(prepared: Prepared, names: Sequence[str]) -> dict[str, float | None]:
    count = {part: prepared.dataset.coverage(own) for part, own in prepared.tasksets.items() if own}
    return {t: count["test"][t]["rows"] / max(count["train"][t]["rows"], 1) for t in names}


# -- figures


def report(bench: Bench, name: str, cells: Cells, repeats: int) -> tuple[int, int, int]:
    """One row per task; (tasks, worse beyond noise over splits, worse in a split beyond noise)."""
    every = [cells[name, r] for r in range(repeats)]
    tasks = list(every[0]["values"])
    directions = {t: Direction(m, metrics.find(m).greater_is_better) for t, m in every[0]["metrics"].items()}
    methods = [
        Method(name=m, values={t: tuple(c["values"][t].get(m) for c in every) for t in tasks})
        for m in (STUDENT, "single", JOINT)
    ]
    ratios = {t: float(np.mean([c["ratio"][t] for c in every])) for t in tasks}
    found = verdicts([methods[0], methods[1]], directions, "single", ratios)
    joint = verdicts([methods[2], methods[1]], directions, "single", ratios).comparisons[JOINT]
    own = found.comparisons[STUDENT]
    for t in tasks:
        row = own.tasks[t]
        bench.result(
            f"{name}: {t}", metric=row.metric, single="/".join(sorted({c["single"][t] for c in every})),
            value=row.single, student=row.joint, joint=joint.tasks[t].joint, delta=row.delta,
            low=row.interval[0], high=row.interval[1], verdict=row.verdict,
            taught="/".join(sorted({c["chosen"][t] for c in every})),
            own_branch=sum(c["branch"][t] == "own" for c in every),
            worse_in_splits=sum(bool(c["worse"][t]) for c in every),
            by_rows=[[None if v is None else float(f"{v:.3g}") for v in c["rows"][t][:3]] for c in every],
            said_kept=sum(bool(c["said kept"][t]) for c in every),
        )  # fmt: skip
    beyond = sum(row.verdict == "hurts" for row in own.tasks.values())
    splits = sum(bool(c["worse"][t]) for c in every for t in tasks)
    bench.result(
        f"{name}: all", words=SETS[name].words, tasks=len(tasks), delta_m=own.delta_m, low=own.interval[0],
        high=own.interval[1], delta_m_of_joint=joint.delta_m, worse=beyond, worse_in_splits=splits,
        of=len(tasks) * repeats, seconds=float(np.mean([c["seconds"] for c in every])),
        seconds_alone=float(np.mean([c["seconds alone"] for c in every])), parameters=every[0]["parameters"],
    )  # fmt: skip
    return len(tasks), beyond, splits


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given, rest = parser.parse_known_args(argv)
    bench = Bench(
        "deliver", "One model against the best single model of each task.", ("torch", "scikit-learn"), argv=rest
    )
    names = [word for word in given.only.split(",") if word] or (["card"] if bench.quick else list(SETS))
    for name in names:
        if name not in SETS:
            parser.error(f"there is no data set `{name}`. {hint(name, SETS)}")
    if "MANYHEADS_DATA" not in os.environ and set(names) - {"card"}:
        parser.error("the environment variable MANYHEADS_DATA should name the folder with the data. Found none.")
    repeats = 1 if bench.quick else given.repeats
    cells = Cells(given.cache, "deliver-quick" if bench.quick else "deliver")
    for repeat in range(repeats):
        for name in names:
            if (name, repeat) not in cells:
                start = time.process_time()
                with one_size_of_trees():
                    cells[name, repeat] = cell(name, repeat, bench.quick)
                say(f"{name}, split {repeat}: {time.process_time() - start:.0f} s")
    counts = [report(bench, name, cells, repeats) for name in names]
    tasks, beyond, splits = (sum(c[i] for c in counts) for i in range(3))
    bench.check("tasks worse than their best single model beyond noise", beyond, "<=", 0)
    bench.check("tasks worse in a split, of all", splits / max(tasks * repeats, 1), "<=", 0.05)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
