"""Five fields: does one model for all tasks of a data set beat one model per task? Every recipe of `recipes/`.

A recipe is read as ``manyheads train -c`` reads it. The joint model stands beside single-task models of the same
budget (the same encoder, batches, epochs at most, learning rate, patience, augmentation), a constant, and what one
would try first in that field (`benchmarks.simple`; linear models and boosting for tables). All of them learn from the
same rows and are scored on the same test rows, which are read once, at the end.

Where a recipe draws its split at random, each repeat draws another one, and intervals are of the corrected resampled t.
Where the split is given, repeats differ in their seed, and intervals are over test rows and seeds: a draw of the paired
bootstrap takes the test rows anew, the same for both models, and the seeds as well. Changes are relative (absolute for
R2, and where the single-task model has less than .05); p values are Holm-adjusted over the tasks of a recipe.

Budgets are smaller than the recipes' own (`RECIPES`: fewer epochs, members or training rows), the same on both sides,
so that the whole takes about an hour of one thread; the pages name them. Every recipe has its first repeat before any
has its second. Recipes on a pretrained backbone run by ``--only`` alone; where the backbone is, is said by ``--set``.

    python -m benchmarks.fields --cache cells.json                       # all of it: about an hour of one thread
    python -m benchmarks.fields --cache cells.json --only snips,fsdd     # these
    python -m benchmarks.fields --cache cells.json --markdown            # trains nothing: figures and pages

``--cache FILE`` keeps what is done, cell by cell, so that an interrupted run goes on; delete it when the library has
changed. ``--markdown`` puts the repeats that are complete there into `benchmarks/fields.json`, and writes the tables of
the pages in `docs/` anew from that file. The data are looked for in the folder MANYHEADS_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manyheads import baselines, config, metrics
from manyheads.blocks import seed_of
from manyheads.build import Prepared, make_training, prepare, split_parts
from manyheads.catalog import hint
from manyheads.compare import alone, labelled_part
from manyheads.evaluate import Result, measure, results
from manyheads.intake import Intake, take_in
from manyheads.results import Comparison, Method, TaskComparison
from manyheads.spec import RunSpec
from manyheads.statistics import Change, from_draws, is_absolute
from manyheads.tasks import Task
from manyheads.verdicts import Direction, counted
from manyheads.verdicts import compare as judge

from . import simple
from .harness import Bench, machine, versions
from .quality import Cell, Cells, runs_of, say, train

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "benchmarks" / "fields.json"
PACKAGES = ("torch", "numpy", "scikit-learn")
DRAWS = 1000
TABLES = ("constant", "linear", "boosting")
OTHERS = ("constant", "simple")
REPEATS = 3


class Recipe(NamedTuple):
    """A recipe as it runs here.

    Attributes:
        page: the page of `docs/` that shows its figures.
        beside: methods shown beside the nets.
        field: where `simple` is among them, whose.
        changes: what differs from the recipe as it stands, on both sides.
        rows: training rows of a table at most, drawn at random, the same for all; 0 for all there are.
        words: what `simple` is, for people.
        extra: runs where it is asked for alone.
    """

    page: str
    beside: tuple[str, ...] = TABLES
    field: str = ""
    changes: tuple[str, ...] = ()
    words: str = ""
    rows: int = 0
    extra: bool = False


_WORDS = "TF-IDF with logistic regression; the most frequent tag of each word; the most frequent relation of two types"
_PICTURES = "logistic regression on 12 x 12 pixels; the majority class of each pixel; the mean box of each class"
_SOUND = "logistic regression on the mean log spectrum; what was heard, as it is"

_FORMULAS = "TF-IDF of runs of 1 to 4 characters, with logistic regression"

RECIPES = {
    "online_shoppers": Recipe("recommendation", changes=("model.members=4",)),
    "hillstrom": Recipe("recommendation", changes=("model.members=1",)),
    "hillstrom_esmm": Recipe("recommendation", changes=("model.members=1",)),
    "tox21": Recipe("health", OTHERS, "formulas", ("model.members=1", "trainer.max_epochs=12"), _FORMULAS),
    "mimic3_demo": Recipe("health"),
    "diabetes130": Recipe("health", changes=("model.members=1", "trainer.max_epochs=10"), rows=8_000),
    "movielens": Recipe("recommendation", OTHERS, "ratings", (), "a bias for each user and each film"),
    "snips": Recipe("language", OTHERS, "text", ("trainer.max_epochs=3", "optim.scheduler.gamma=0.5"), _WORDS),
    "fsdd_digits": Recipe("speech", OTHERS, "sound", ("trainer.max_epochs=8", "optim.scheduler.T_max=8"), _SOUND),
    "multifashion": Recipe("vision", OTHERS, "pictures", ("trainer.max_epochs=10",), _PICTURES),
    "pets": Recipe("vision", OTHERS, "pictures", ("trainer.max_epochs=14",), _PICTURES),
    "ewt": Recipe("language", OTHERS, "text", ("trainer.max_epochs=6",), _WORDS),
    "fsdd": Recipe(
        "speech",
        OTHERS,
        "sound",
        (
            "data.format.strings.passes.train=1", "data.format.strings.passes.valid=1",
            "data.format.strings.passes.test=2", "trainer.max_epochs=10", "optim.scheduler.T_max=10",
        ),
        _SOUND,
    ),
    "language": Recipe("language", OTHERS, "text", ("trainer.max_epochs=7", "optim.scheduler.gamma=0.8"), _WORDS),
    "camvid": Recipe("vision", OTHERS, "pictures", ("trainer.max_epochs=8",), _PICTURES),
    "snips_minilm": Recipe("language", OTHERS, "text", ("trainer.max_epochs=1",), _WORDS, extra=True),
    "ewt_minilm": Recipe("language", OTHERS, "text", ("trainer.max_epochs=3",), _WORDS, extra=True),
    "language_minilm": Recipe("language", OTHERS, "text", ("trainer.max_epochs=3",), _WORDS, extra=True),
}  # fmt: skip
PAGES = tuple(dict.fromkeys(recipe.page for recipe in RECIPES.values()))


# -- running


class Run:
    """One recipe: its rows, and what each method gets on each repeat.

    Args:
        name: of the recipe.
        root: the folder with the data.
        cells: what is done already.
        changes: config overrides.
    """

    def __init__(self, name: str, root: Path, cells: Cells, changes: Sequence[str] = ()) -> None:
        self.name, self.recipe, self.cells = name, RECIPES[name], cells
        overrides = [f"data.root={root}", *self.recipe.changes, *changes]
        self.spec: RunSpec = config.load([ROOT / "recipes" / f"{name}.yaml"], overrides)
        self.described = config.tasks_of(self.spec)
        self.intake: Intake = take_in(self.spec, self.described)
        self.fixed = self.intake.given or self.spec.data.split.kind in ("column", "time")
        self._ready: tuple[int, Prepared] | None = None

    def prepared(self, repeat: int) -> Prepared:
        """The rows of a repeat."""
        drawn = 0 if self.fixed else repeat
        if self._ready is None or self._ready[0] != drawn:
            tables, split = self.intake.tables, self.spec.data.split
            parts = self.intake.parts if drawn == 0 else split_parts(split, tables, self.described, split.seed + drawn)
            parts = {table: self._fewer(own, table, drawn) for table, own in parts.items()}
            self._ready = drawn, prepare(self.spec, self.described, tables, parts, targets=self.intake.targets)
        return self._ready[1]

    def _fewer(self, parts: np.ndarray, table: str, drawn: int) -> np.ndarray:
        """The same with `Recipe.rows` training rows at most; the others belong to no part."""
        train = np.flatnonzero(parts == "train")
        if not 0 < self.recipe.rows < len(train):
            return parts
        rng = np.random.default_rng(seed_of(drawn, "rows", table))
        fewer = parts.astype(object)
        fewer[rng.permutation(train)[self.recipe.rows :]] = ""
        return fewer

    def go(self, repeat: int) -> None:
        """Whatever of a repeat is not done yet."""
        names = [t.name for t in self.described]
        if (self.name, "joint", repeat) not in self.cells:
            self._joint(repeat)
        left = [n for n in names if (self.name, "single", repeat, n) not in self.cells]
        tabular = self.recipe.page in ("recommendation", "health")
        for group in [left] if tabular and left else [[n] for n in left]:
            self._single(repeat, group)
        for method, task in beside(self.name, names, repeat, self.fixed):
            if (self.name, method, repeat, task) not in self.cells:
                self._beside(repeat, method, task)

    def _joint(self, repeat: int) -> None:
        data, seed = self.prepared(repeat), seed_of(self.spec.seed, "repeat", repeat)
        layouts, rows = data.dataset.preprocess.layouts, data.tasksets
        net = make_training(self.spec, layouts, data.tasks, rows["train"], rows["valid"], seed=seed)
        seconds, held = _trained([net]), net.held_out()
        found = results(net.model, rows["test"])
        scored = {t.name: self._scored(_tuned(t, held), found.get(t.name)) for t in data.tasks}
        coverage = {part: data.dataset.coverage(own) for part, own in rows.items() if own}
        self.cells[self.name, "joint", repeat] = {
            "values": {task: value for task, (value, _) in scored.items()},
            "draws": {task: draws for task, (_, draws) in scored.items()},
            "labels": {t: coverage["test"][t]["labels"] for t in scored},
            "ratio": None if self.fixed else {t: _ratio(coverage, t) for t in scored},
            "metrics": {t.name: t.metrics[0] for t in data.tasks},
            "batch": runs_of([net])[0].sampler.batch_size,
            **_cost(net, seconds),
        }
        say(f"{self.name}, joint, repeat {repeat}: {seconds:.0f} s, {self._shown(scored)}")

    def _single(self, repeat: int, group: Sequence[str]) -> None:
        data, seed = self.prepared(repeat), seed_of(self.spec.seed, "repeat", repeat)
        layouts, rows = data.dataset.preprocess.layouts, data.tasksets
        settings = alone(self.spec, self.cells[self.name, "joint", repeat]["batch"])
        fitted = {t.name: t for t in data.tasks}
        nets = {}
        for name in group:
            own = [replace(fitted[name], sees=())]
            nets[name] = make_training(
                settings, layouts, own, _only(rows["train"], name), _only(rows["valid"], name), seed=seed
            )
        seconds = _trained(list(nets.values())) / len(nets)
        for name, net in nets.items():
            found = results(net.model, _only(rows["test"], name), [name])
            value, draws = self._scored(_tuned(fitted[name], net.held_out()), found.get(name))
            cell = {"value": value, "draws": draws, **_cost(net, seconds)}
            self.cells[self.name, "single", repeat, name] = cell
        say(f"{self.name}, single, repeat {repeat}: {', '.join(group)}, {seconds:.0f} s each")

    def _beside(self, repeat: int, method: str, name: str) -> None:
        data, start = self.prepared(repeat), time.process_time()
        task = next(t for t in data.tasks if t.name == name)
        seed = seed_of(self.spec.seed, "repeat", repeat) % 2**31
        both = [data.tasksets[part] for part in ("train", "valid")]
        value: float | None = None
        if method in TABLES:
            layouts = data.dataset.preprocess.layouts
            found = baselines.run((method,), task, both, data.tasksets["test"], layouts, seed)
            value = found[method].score.value if method in found else None
        elif (fit := simple.simple(self.recipe.field)(task)) is not None:
            learn = simple.labelled(data, self.intake.tables, task, ("train", "valid"))
            test = simple.labelled(data, self.intake.tables, task, ("test",))
            if learn is not None and test is not None:
                value = simple.measured(task, test, fit(task, learn, seed)(test)).value
        seconds = time.process_time() - start
        self.cells[self.name, method, repeat, name] = {"value": value, "seconds": seconds}
        say(f"{self.name}, {method}, repeat {repeat}: {name} {_number(value)}, {seconds:.1f} s")

    def _scored(self, task: Task, found: Result | None) -> tuple[float | None, list[float | None] | None]:
        """The first metric on the test rows, and on bootstrap draws of them where the split is given."""
        if found is None:
            return None, None
        value = measure(task, found, task.metrics[:1])[0].value
        if not self.fixed or value is None:
            return value, None
        output, target, known, rows = found.labelled()
        metric = metrics.find(task.metrics[0])
        groups = None if metric.column is None else found.extra[metric.column][rows.numpy()]
        several = known.numpy() if known.dim() > 1 else None
        drawn = metrics.redraws(metric, task.truth(target), task.predict(output), groups=groups, known=several)
        return value, [None if np.isnan(v) else float(f"{v:.6g}") for v in drawn[:DRAWS]]

    def _shown(self, scored: Mapping[str, tuple[float | None, Any]]) -> str:
        return ", ".join(f"{task} {_number(value)}" for task, (value, _) in scored.items())


def beside(name: str, tasks: Sequence[str], repeat: int, fixed: bool) -> list[tuple[str, str]]:
    """(method, task) of what a repeat has beside the nets: nothing anew where the rows are those of the first."""
    return [] if fixed and repeat else [(method, task) for method in RECIPES[name].beside for task in tasks]


def missing(name: str, cells: Cells, repeat: int) -> bool:
    """Whether a cell of this repeat is not done."""
    if (name, "joint", repeat) not in cells:
        return True
    joint = cells[name, "joint", repeat]
    tasks = list(joint["values"])
    wanted = [("single", t) for t in tasks]
    wanted += beside(name, tasks, repeat, joint["ratio"] is None)
    return any((name, method, repeat, task) not in cells for method, task in wanted)


def _only(rows: Mapping[str, Any], task: str) -> dict[str, Any]:
    return {t: part for t, own in rows.items() if (part := labelled_part(own, task)) is not None}


def _tuned(task: Task, held: Mapping[str, Result]) -> Task:
    own = held.get(task.name)
    return task if own is None else task.tuned(own.output, own.target, own.known)


def _trained(nets: Sequence[Any]) -> float:
    """Carry nets to their end; the processor's seconds it took, which do not depend on what else the machine does."""
    start = time.process_time()
    train(nets)
    return time.process_time() - start


def _cost(net: Any, seconds: float) -> Cell:
    runs = runs_of([net])
    return {
        "seconds": seconds,
        "parameters": sum(p.numel() for p in net.model.parameters()),
        "epochs": float(np.mean([run.epoch for run in runs])),
        "steps": max(run.step for run in runs),
    }


def _ratio(coverage: Mapping[str, Mapping[str, Mapping[str, int]]], task: str) -> float | None:
    """Test rows per row of training and validation, of the tables that label a task."""
    count = {part: own[task]["rows"] for part, own in coverage.items()}
    learnt = count.get("train", 0) + count.get("valid", 0)
    return count.get("test", 0) / learnt if learnt else None


# -- figures


def figures(name: str, cells: Cells, repeats: int) -> dict[str, Any] | None:
    """All that a table of a recipe is made of, as plain values, over the repeats that are whole; None where none is."""
    done = next((r for r in range(repeats) if missing(name, cells, r)), repeats)
    if not done:
        return None
    recipe, every = RECIPES[name], range(done)
    joint = [cells[name, "joint", r] for r in every]
    tasks, fixed = list(joint[0]["values"]), joint[0]["ratio"] is None
    once = {m: [0] * done if fixed else list(every) for m in recipe.beside}
    single = {t: [cells[name, "single", r, t] for r in every] for t in tasks}
    methods: dict[str, Any] = {
        "joint": _described({t: [c["values"][t] for c in joint] for t in tasks}, [joint]),
        "single": _described({t: [c["value"] for c in own] for t, own in single.items()}, list(single.values())),
    }
    for method, own in once.items():
        values = {t: [cells[name, method, r, t]["value"] for r in own] for t in tasks}
        seconds = sum(cells[name, method, r, t]["seconds"] for r in set(own) for t in tasks) / len(set(own))
        methods[method] = {"values": values, "seconds": _short(seconds)}
    entry = {
        "fixed": fixed,
        "repeats": done,
        "changes": list(recipe.changes),
        "rows": recipe.rows,
        "metrics": joint[0]["metrics"],
        "labels": joint[0]["labels"],
        "methods": methods,
    }
    if fixed:
        return entry | {"tests": {t: _short_all(c) for t, c in _tests(joint, single, joint[0]["metrics"]).items()}}
    ratios = {t: [c["ratio"][t] for c in joint if c["ratio"][t] is not None] for t in tasks}
    return entry | {"ratio": {t: _short(float(np.mean(r))) if r else None for t, r in ratios.items()}}


def _described(values: Mapping[str, list[float | None]], models: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    """Values by task; seconds, parameters and epochs of one repeat, summed over models (epochs: their mean)."""
    return {
        "values": {t: [_short(v) for v in own] for t, own in values.items()},
        "seconds": _short(sum(map(_seconds_of, models))),
        "parameters": int(sum(own[0]["parameters"] for own in models)),
        "epochs": _short(float(np.mean([c["epochs"] for own in models for c in own]))),
    }


def _tests(joint: Sequence[Cell], single: Mapping[str, Sequence[Cell]], names: Mapping[str, str]) -> dict[str, Change]:
    """The change on each task of a split that is given, and under "" the mean of all: over test rows and seeds.

    A draw is the mean over seeds of the paired change on rows that are drawn anew, plus how far the mean of n seeds
    drawn anew is from theirs, times the root of n / (n - 1), for a bootstrap of few shows too little spread.
    """
    means, draws = {}, {}
    n = len(joint)
    picked = np.random.default_rng(0).integers(0, n, size=(DRAWS, n))
    for task, own in single.items():
        said = [(c["values"][task], s["value"], c["draws"][task], s["draws"]) for c, s in zip(joint, own, strict=True)]
        if any(one is None for pair in said for one in pair):
            continue
        base = [s for _, s, _, _ in said]
        sign = 1 if metrics.find(names[task]).greater_is_better else -1
        size = sign * (1.0 if is_absolute(base, names[task]) else abs(float(np.mean(base))))
        seeds = np.array([(j - s) / size for j, s, _, _ in said])
        rows = np.stack([(_floats(a) - _floats(b)) / size for _, _, a, b in said])
        widened = (n / (n - 1)) ** 0.5 if n > 1 else 0.0
        means[task] = float(seeds.mean())
        draws[task] = rows.mean(0) + widened * (seeds[picked].mean(1) - seeds.mean())
    found = {t: from_draws(means[t], draws[t]) for t in means}
    if means:
        found[""] = from_draws(float(np.mean(list(means.values()))), np.mean(list(draws.values()), axis=0))
    return found


def judged(entry: Mapping[str, Any]) -> Comparison:
    """The verdicts on a recipe, from its figures alone."""
    found = {n: m for n, m in entry["methods"].items() if n != "simple"}
    methods = [
        Method(
            name=n, values={t: tuple(v) for t, v in m["values"].items()},
            parameters=m.get("parameters"), seconds=m["seconds"],
        )
        for n, m in found.items()
    ]  # fmt: skip
    directions = {t: Direction(m, metrics.find(m).greater_is_better) for t, m in entry["metrics"].items()}
    tests = {("joint", t): Change(*c) for t, c in entry["tests"].items()} if entry["fixed"] else None
    unit = "seed" if entry["fixed"] else "repeat"
    verdicts = judge(methods, directions, "single", entry.get("ratio"), tests, unit=unit)
    return verdicts.comparisons["joint"]


def report(bench: Bench, name: str, entry: Mapping[str, Any]) -> None:
    """A row of the benchmark's results per task, and one for all."""
    found, methods = judged(entry), entry["methods"]
    print(f"\n{table(name, entry)}\n")
    for task, row in found.tasks.items():
        means = {m: _mean(own["values"][task]) for m, own in methods.items()}
        bench.results.append(
            {"name": f"{name}, {task}", "metric": row.metric, **means, "delta": _short(row.delta)}
            | {"interval": [_short(v) for v in row.interval], "p": _short(row.p), "verdict": row.verdict}
        )
    seconds = {f"seconds_{m}": own["seconds"] for m, own in methods.items()}
    span = [_short(v) for v in found.interval]
    bench.results.append(
        {"name": name, "delta_m": _short(found.delta_m), "interval": span, "repeats": entry["repeats"], **seconds}
    )


def _seconds_of(cells: Sequence[Cell]) -> float:
    """The mean over repeats, without those whose time was not taken (null)."""
    return float(np.mean([c["seconds"] for c in cells if c["seconds"] is not None]))


# -- pages

SAYS = {"helps": "helped", "hurts": "hurt", "undecided": "within noise"}
NAMES = {"constant": "constant", "linear": "linear", "boosting": "boosting", "simple": "simple"}


def table(name: str, entry: Mapping[str, Any]) -> str:
    """What stands on a page: the table of a recipe, and what it says in words."""
    found, methods, recipe = judged(entry), entry["methods"], RECIPES[name]
    heads = ["task", "metric", *(NAMES[m] for m in recipe.beside), "single-task", "joint", "change [95 %]", "sharing"]
    lines = [heads, ["---"] * len(heads)]
    for task, row in found.tasks.items():
        means = [_number(_mean(methods[m]["values"][task])) for m in (*recipe.beside, "single", "joint")]
        change = _change(row.delta, row.interval, row.absolute)
        arrow = "" if row.greater_is_better else " (less is better)"
        lines.append([f"`{task}`", f"{row.metric}{arrow}", *means, change, _word(row)])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{' '.join(_sentences(name, entry, found))}"


def _word(row: TaskComparison) -> str:
    """What sharing did, in a word."""
    spread = row.delta is None or row.interval[0] is not None or row.delta == 0
    return SAYS[row.verdict] if spread or row.verdict != "undecided" else "not judged"


def _sentences(name: str, entry: Mapping[str, Any], found: Comparison) -> Iterator[str]:
    """The verdict in words, from the intervals; what it cost; how it was measured."""
    recipe, methods = RECIPES[name], entry["methods"]
    for word, verb in (("helps", "helped"), ("hurts", "hurt")):
        own = [f"`{t}`" for t, row in found.tasks.items() if row.verdict == word]
        if own:
            yield f"Sharing {verb} {_listed(own)}."
    noise = [f"`{t}`" for t, row in found.tasks.items() if _word(row) == SAYS["undecided"]]
    if len(noise) == len(found.tasks):
        yield "Sharing neither helped nor hurt any task beyond noise."
    elif noise:
        yield f"Within noise: {_listed(noise)}."
    low, high = found.interval
    if found.delta_m is not None and low is not None and high is not None:
        word = "above noise" if low > 0 else "below noise" if high < 0 else "within noise"
        yield f"The mean change over tasks is {_change(found.delta_m, found.interval, False)}, {word}."
    ahead: dict[str, list[str]] = {}
    for task, row in found.tasks.items():
        means = {m: _mean(methods[m]["values"][task]) for m in (*recipe.beside, "joint")}
        there = {m: v if row.greater_is_better else -v for m, v in means.items() if v is not None}
        best = max(there, key=lambda m: there[m], default="joint")
        if _number(means[best]) != _number(means["joint"]):
            gap = f"`{task}` ({_number(means[best])} against {_number(means['joint'])})"
            ahead.setdefault(best, []).append(gap)
    for method, gaps in ahead.items():
        which = {"simple": "The simple model", "constant": "A constant", "linear": "A linear model"}
        yield f"{which.get(method, 'Boosting')} has the better mean on {_listed(gaps)}; not tested."
    joint, single = methods["joint"], methods["single"]
    n = len(found.tasks)
    yield (
        f"One joint model takes {_seconds(joint['seconds'])} of one thread and has {_count(joint['parameters'])} "
        f"parameters; {counted(n, 'single-task model')} together: {_seconds(single['seconds'])} and "
        f"{_count(single['parameters'])}."
    )
    n_repeats = entry["repeats"]
    if entry["fixed"]:
        how = f"{counted(n_repeats, 'seed')} on the given split; intervals over test rows and seeds"
    else:
        how = f"{counted(n_repeats, 're-drawn split')}; intervals of the corrected resampled t"
    yield f"{how}; verdicts Holm-adjusted over {counted(n, 'task')}."
    if n_repeats == 1:
        yield (
            "One seed tells nothing of seeds."
            if entry["fixed"]
            else "One split has no spread to judge by: what sharing does is not judged."
        )
    if recipe.words:
        yield f"Simple: {recipe.words}."
    budget = [f"`{c}`" for c in entry["changes"]]
    if entry.get("rows"):
        budget.append(f"at most {entry['rows']:,} training rows")
    if budget:
        yield f"The budget, on both sides, where it is not the recipe's own: {', '.join(budget)}."


def with_results(text: str, found: Mapping[str, Any]) -> str:
    """A page whose tables say what the figures say, between ``<!-- results: NAME -->`` and ``<!-- end -->``."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        body = table(name, found[name]) if name in found else f"Not measured yet: `--only {name}`."
        return f"<!-- results: {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- results: (\S+) -->\n.*?<!-- end -->", fill, text, flags=re.S)


def write(cells: Cells, repeats: int) -> list[str]:
    """Put complete recipes into `FIGURES`, and all that it has on the pages; the names of the recipes."""
    kept = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {"recipes": {}}
    new = {name: entry for name in RECIPES if (entry := figures(name, cells, repeats)) is not None}
    found = kept["recipes"] | new
    about = (
        {"machine": machine(), "versions": versions(PACKAGES)} if new else {k: kept[k] for k in kept if k != "recipes"}
    )
    kept = about | {"recipes": {name: found[name] for name in RECIPES if name in found}}
    _replace(FIGURES, json.dumps(kept, indent=1, allow_nan=False) + "\n")
    for page in PAGES:
        path = ROOT / "docs" / f"{page}.md"
        _replace(path, with_results(path.read_text(encoding="utf-8"), kept["recipes"]))
    return list(new)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# -- small pieces


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values])


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(f"{np.mean(there):.5g}") if there else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _short_all(change: Change) -> list[float | int | None]:
    return [*(_short(v) for v in change[:4]), change.n]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(mean: float | None, interval: Sequence[float | None], absolute: bool) -> str:
    low, high = interval
    if mean is None:
        return "-"
    form: Callable[[float], str] = (lambda v: f"{v:+.3f}") if absolute else (lambda v: f"{100 * v:+.1f}")
    unit = "" if absolute else " %"
    return f"{form(mean)}{unit}" + ("" if low is None or high is None else f" [{form(low)}, {form(high)}]")


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def _count(value: int) -> str:
    return f"{value / 1e6:.1f} million" if value >= 1e6 else f"{round(value, -3):,}" if value >= 1e4 else f"{value:,}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# -- the command


@contextmanager
def made() -> Iterator[Path]:
    """A folder with made data for the smoke run: commands with slots, and a shop's customers."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part, n in (("train", 60), ("dev", 20), ("test", 30)):
            (root / "snips" / part).mkdir(parents=True)
            things = rng.integers(0, 8, n)
            lines = {
                "seq.in": [f"{'play' if t % 2 else 'book'} the song{t} now" for t in things],
                "seq.out": [f"O O B-{'song' if t % 2 else 'place'} O" for t in things],
                "label": ["Play" if t % 2 else "Book" for t in things],
            }
            for name, rows in lines.items():
                (root / "snips" / part / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
        (root / "hillstrom").mkdir()
        head = "recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend"
        rows = [head]
        for money in rng.gamma(2.0, 100.0, 300):
            visit = int(rng.random() < 0.4 + money / 1000)
            buys = int(visit and rng.random() < 0.5)
            first = f"{rng.integers(1, 12)},a,{money:.2f},{rng.integers(2)},1,Rural,{rng.integers(2)},Web,No E-Mail"
            rows.append(f"{first},{visit},{buys},{buys * money * rng.uniform(0.5, 1.5):.2f}")
        (root / "hillstrom" / "hillstrom.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        yield root


QUICK = {"hillstrom_esmm": ("model.members=1", "trainer.max_epochs=2"), "snips": ("trainer.max_epochs=2",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    words = list(sys.argv[1:] if argv is None else argv)
    usage = "python -m benchmarks.fields [options]"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=usage)
    parser.add_argument("--only", help="recipes by commas (default: all but those on a pretrained backbone)")
    parser.add_argument("--cache", type=Path, help="JSON file that keeps what is done")
    parser.add_argument("--repeats", type=int, help=f"splits or seeds (default {REPEATS})")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="a change to the configs")
    parser.add_argument("--markdown", action="store_true", help="train nothing; write the figures and the pages")
    if {"-h", "--help"} & set(words):
        parser.print_help()
    given, rest = parser.parse_known_args(words)
    about = "one model for all tasks against one per task, over five fields"
    bench = Bench("fields", about, packages=PACKAGES, rounds=1, quick_rounds=1, argv=rest)
    repeats = given.repeats or (2 if bench.quick else REPEATS)
    cells = Cells(given.cache, "quick" if bench.quick else "full")
    names = given.only.split(",") if given.only else [n for n, r in RECIPES.items() if not r.extra]
    for name in names:
        if name not in RECIPES:
            parser.error(f"there is no recipe `{name}`. {hint(name, RECIPES)}")
    if given.markdown:
        print(f"written: {', '.join(write(cells, repeats)) or 'the pages, from the figures there were'}")
    elif bench.quick:
        with made() as root:
            for repeat in range(repeats):
                for name, changes in QUICK.items():
                    if missing(name, cells, repeat):
                        Run(name, root, cells, changes).go(repeat)
    else:
        if "MANYHEADS_DATA" not in os.environ:
            parser.error("the environment variable MANYHEADS_DATA should name the folder with the data. Found none.")
        root = Path(os.environ["MANYHEADS_DATA"])
        for repeat in range(repeats):  # the first of every recipe before the second of any
            for name in names:
                if missing(name, cells, repeat):
                    Run(name, root, cells, given.set).go(repeat)
    for name in QUICK if bench.quick else RECIPES:
        if (entry := figures(name, cells, repeats)) is not None:
            report(bench, name, entry)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
