"""What a step costs that looks at every task's gradient, over one that does not: ``python -m benchmarks.step_cost``.

Plain is forward and backward of the summed losses, without an optimiser. Everybody loops over the heads, and everybody
fills `.grad` of trunk and heads. Trunks: three layers of 512 (K = 2, 8, 40 tasks at a batch of 256; K = 8 at 32), three
of 256 (K = 8 at 2,048), three convolutions on 32 x 32 images (K = 2, 8 at 64). Heads: linear, or with one hidden layer.

* manyheads: `features` (each task's gradient at its own view of the shared activation) and `exact` (over all shared
  parameters), each with a method of the catalogue and with weights of 1, which leaves the engine's cost without the
  solver's;
* torchjd: `mtl_backward` one task after the other and under vmap, `autogram`, and `autogram` over the trunk's last
  layer alone (partial Jacobian, an approximation), with weights of 1; some of them also with its own solver of the same
  method;
* loop: K backward passes, their gradients copied into a matrix (K, P); and K backward passes to the representation
  followed by one through the trunk (an approximation), as LibMTL does with `rep_grad`.

With weights of 1 all sides have the same `.grad`, which is verified before they are timed. Disjoint rows: a table of
B / K rows per task, with a forward pass each.

Memory is the highest sum of live allocations in one step, above that of a plain step; the unit is the Jacobian, K x P
numbers of four bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from torch.profiler import ProfilerActivity, profile

from manyheads.balance import Balance, Losses
from manyheads.balance.aggregation import Aggregation, Problem, Solution
from manyheads.catalog import find
from manyheads.gradients.gramian import MODES
from manyheads.sharing import Trace, hand

from .harness import Bench, Side, labels, ratio, timed

METHOD = "MGDA"
"""A method that both have, torchjd without further packages."""
N_NUMERIC, HIDDEN = 128, 64
"""Columns of the table, and width of the heads' hidden layer."""
TOLERANCE = 1e-3
"""How far two sides that should compute the same may lie apart, relative, in float32."""


@dataclass(frozen=True)
class Setting:
    """One trunk, one number of tasks, one batch.

    Attributes:
        trunk: its words in the table.
        width: of the layers; 0 for the convolutions.
        steps: in each round.
    """

    trunk: str
    width: int
    tasks: int
    batch: int
    steps: int = 1

    def __str__(self) -> str:
        return f"{self.trunk}, K = {self.tasks}, batch {self.batch}"

    def bound(self) -> float:
        """What `features` may cost over plain, with heads of one hidden layer."""
        if not self.width:
            return 1.15
        return 1.9 if self.tasks == 40 else 1.6 if self.batch == 32 else 1.4


SETTINGS = (
    Setting("3 x 512", 512, 2, 256, steps=4),
    Setting("3 x 512", 512, 8, 256, steps=2),
    Setting("3 x 512", 512, 40, 256),
    Setting("3 x 512", 512, 8, 32, steps=8),
    Setting("3 x 256", 256, 8, 2048),
    Setting("conv", 0, 2, 64),
    Setting("conv", 0, 8, 64),
)
QUICK_SETTINGS = (Setting("3 x 64", 64, 8, 32), Setting("conv", 0, 2, 4))
DISJOINT, QUICK_DISJOINT = Setting("3 x 512", 512, 8, 256, steps=4), QUICK_SETTINGS[0]


class Net(nn.Module):
    """A trunk that all tasks share and a head for each.

    Args:
        hidden: width of the heads' hidden layer, 0 for linear heads.
    """

    def __init__(self, setting: Setting, hidden: int) -> None:
        super().__init__()
        if setting.width:
            widths = [N_NUMERIC] + [setting.width] * 3
            layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
            self.trunk, d = nn.Sequential(*layers), setting.width
        else:
            self.trunk, d = _convolutions(), 128
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, 1)) if hidden else nn.Linear(d, 1)
            for _ in range(setting.tasks)
        )


def _convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Case:
    """A net, a batch, and the losses; half of the tasks are binary.

    Args:
        hidden: width of the heads' hidden layer, 0 for linear heads.
    """

    def __init__(self, setting: Setting, hidden: int) -> None:
        torch.manual_seed(0)
        self.setting = setting
        self.net = Net(setting, hidden)
        shape = (N_NUMERIC,) if setting.width else (3, 32, 32)
        self.x = torch.randn(setting.batch, *shape)
        self.y = labels(self.x.flatten(1)[:, :N_NUMERIC], setting.tasks)
        self.tasks = [f"task {k}" for k in range(setting.tasks)]

    def features(self) -> Tensor:
        """What all heads read."""
        return self.net.trunk(self.x)

    def losses(self, trace: Trace | None = None) -> list[Tensor]:
        """One mean loss per task, from one forward pass through the trunk."""
        return self.above(self.features(), trace)

    def above(self, z: Tensor, trace: Trace | None = None) -> list[Tensor]:
        """One mean loss per task, from the features."""
        return [self.loss(k, hand(trace, task, z), self.y[k]) for k, task in enumerate(self.tasks)]

    def loss(self, k: int, z: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a task on some rows."""
        output = self.net.heads[k](z).squeeze(1)
        return (binary_cross_entropy_with_logits if k % 2 else mse_loss)(output, y)

    def shared(self) -> list[nn.Parameter]:
        """The trunk's parameters."""
        return list(self.net.trunk.parameters())

    def jacobian_bytes(self) -> int:
        """Of one gradient of the trunk per task."""
        return 4 * self.setting.tasks * sum(p.numel() for p in self.shared())


class Tables(Case):
    """Disjoint rows: each task has a table of its own, and a forward pass through the trunk."""

    def losses(self, trace: Trace | None = None) -> list[Tensor]:
        return [
            self.loss(k, hand(trace, task, self.net.trunk(self.x[rows])), self.y[k][rows])
            for k, (task, rows) in enumerate(zip(self.tasks, self.parts(), strict=True))
        ]

    def parts(self) -> list[slice]:
        """Which rows belong to which task."""
        size = self.setting.batch // self.setting.tasks
        return [slice(k * size, (k + 1) * size) for k in range(self.setting.tasks)]


class Joined(Tables):
    """The same tables in one forward pass."""

    def above(self, z: Tensor, trace: Trace | None = None) -> list[Tensor]:
        return [self.loss(k, z[rows], self.y[k][rows]) for k, rows in enumerate(self.parts())]

    def losses(self, trace: Trace | None = None) -> list[Tensor]:
        return self.above(self.features())


@dataclass(frozen=True)
class Step:
    """From no gradients to every `.grad` of a net."""

    net: Net
    work: Callable[[], Any]

    def __call__(self) -> None:
        self.net.zero_grad()
        self.work()


class Ones(Aggregation):
    """Weights of 1, whatever the Gramian says, which it keeps: the engine without a solver."""

    gram = np.zeros((0, 0))

    def solve(self, problem: Problem) -> Solution:
        self.gram = problem.gram
        return Solution(np.ones(len(problem.gram)), 0.0)


def plain(case: Case) -> Step:
    """The sum of the losses."""
    return Step(case.net, lambda: torch.stack(case.losses()).sum().backward())


def ours(case: Case, balance: Balance) -> Step:
    """Each task reads its own view of the features."""

    def work() -> None:
        trace = Trace(cut=True)
        losses = case.losses(trace)
        apart = dict(zip(case.tasks, losses, strict=True))
        balance.backward(Losses(case.tasks, torch.stack(losses), cut=trace.cut, apart=apart))

    return Step(case.net, work)


class Loop:
    """A backward pass per task, all gradients in one matrix, their Gramian, and weights of 1."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.gram = torch.zeros(0, 0)

    def __call__(self) -> None:
        shared, losses = self.case.shared(), self.case.losses()
        sizes = [p.numel() for p in shared]
        rows = torch.empty(len(losses), sum(sizes))
        for k, loss in enumerate(losses):
            loss.backward(retain_graph=k + 1 < len(losses))
            for p, part in zip(shared, rows[k].split(sizes), strict=True):
                part.copy_(p.grad.view(-1))
                p.grad = None
        self.gram = rows @ rows.T
        update = torch.ones(len(losses)) @ rows
        for p, part in zip(shared, update.split(sizes), strict=True):
            p.grad = part.view_as(p)


def representation(case: Case) -> Step:
    """A backward pass per task to the representation, their Gramian, and one through the trunk, with weights of 1."""

    def work() -> None:
        z = case.features()
        copies = [z.detach().requires_grad_() for _ in case.tasks]
        for loss in [case.loss(k, own, y) for k, (own, y) in enumerate(zip(copies, case.y, strict=True))]:
            loss.backward()
        rows = torch.stack([own.grad.flatten() for own in copies])
        weights = torch.ones_like(rows @ rows.T)[0]
        z.backward((weights @ rows).view_as(z))

    return Step(case.net, work)


def torchjd_sides(case: Case) -> tuple[dict[str, Step], dict[str, Step], dict[str, Step]]:
    """Sides of torchjd: (exact, with weights of 1; approximate, with weights of 1; exact, with `METHOD`).

    Raises:
        ImportError: it is not installed.
    """
    from torchjd import aggregation
    from torchjd.autogram import Engine
    from torchjd.autojac import jac_to_grad, mtl_backward

    class OnesWeighting(aggregation.Weighting):  # type: ignore[misc]
        def forward(self, gramian: Tensor, /) -> Tensor:
            return torch.ones(len(gramian))

    shared = case.shared()
    heads = [list(head.parameters()) for head in case.net.heads]

    def jacobian(aggregator: Any, chunk: int | None, summed: bool = False) -> Step:
        def work() -> None:
            z = case.features()
            losses = case.above(z)
            mtl_backward(losses, z, tasks_params=heads, shared_params=shared, parallel_chunk_size=chunk)
            jac_to_grad(shared, aggregator, optimize_gramian_computation=summed)

        return Step(case.net, work)

    def gramian(weighting: Any, last: bool = False) -> Step:
        own = copy.copy(case)
        own.net = copy.deepcopy(case.net)  # the engine hooks into it for ever
        layers = [m for m in own.net.trunk if list(m.parameters())]
        engine = Engine(layers[-1] if last else own.net.trunk, batch_dim=None)

        def work() -> None:
            losses = torch.stack(own.losses())
            losses.backward(weighting(engine.compute_gramian(losses)))

        return Step(own.net, work)

    ones = aggregation.GramianWeightedAggregator(OnesWeighting())
    exact = {
        "torchjd one by one": jacobian(ones, 1),
        "torchjd one by one, no concatenation": jacobian(ones, 1, summed=True),
        "torchjd vmap": jacobian(ones, None),
        "torchjd vmap, no concatenation": jacobian(ones, None, summed=True),
        "torchjd autogram": gramian(OnesWeighting()),
    }
    approximate = {"torchjd autogram, last layer": gramian(OnesWeighting(), last=True)}
    solved = {
        f"torchjd one by one, {METHOD}": jacobian(getattr(aggregation, METHOD)(), 1, summed=True),
        f"torchjd autogram, {METHOD}": gramian(getattr(aggregation, f"{METHOD}Weighting")()),
    }
    return exact, approximate, solved


def distance(found: Tensor, truth: Tensor) -> float:
    """Of two arrays, relative to the second."""
    return float((found - truth).norm() / truth.norm())


def verify(label: str, sides: Mapping[str, Step]) -> None:
    """Sides that do not compute the same thing are not worth timing.

    Raises:
        RuntimeError: one of them has another gradient than the first.
    """
    gradients = {}
    for name, step in sides.items():
        step()
        gradients[name] = torch.cat([p.grad.flatten() for p in step.net.parameters()])
    (first, truth), *others = gradients.items()
    for name, found in others:
        if not (gap := distance(found, truth)) <= TOLERANCE:
            raise RuntimeError(f"`{name}` should have the gradient of `{first}` ({label}). Found them {gap:.2g} apart.")


def gramian_errors(label: str, mode: str, engine: Ones, loop: Loop) -> dict[str, float]:
    """The distance of an engine's Gramian to that of all gradients, and the largest difference of two cosines.

    Raises:
        RuntimeError: `exact` is not exact.
    """
    found, truth = torch.from_numpy(engine.gram), loop.gram.double()
    gap = distance(found, truth)
    if mode == "exact" and not gap <= TOLERANCE:
        raise RuntimeError(f"`exact` should have the loop's Gramian ({label}). Found them {gap:.2g} apart.")
    cosines = [g / (g.diag().outer(g.diag())).sqrt() for g in (found, truth)]
    return {"gramian_error": gap, "cosine_error": float((cosines[0] - cosines[1]).abs().max())}


@contextlib.contextmanager
def mute() -> Iterator[None]:
    """Nothing on the process's stderr, where the profiler of some builds says when it starts and stops."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def peak(step: Step) -> int:
    """The highest sum of live allocations, in bytes, in one step that starts without gradients."""
    step()
    step.net.zero_grad()
    with mute(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e["name"] == "[memory]"]
    live = highest = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        highest = max(highest, live)
    return highest


def race(bench: Bench, sides: Mapping[str, Step], times: int) -> dict[str, list[float]]:
    """The seconds of one step of each side in each round, from several in a row."""

    def side(step: Step) -> Side:
        return lambda: timed(lambda: [step() for _ in range(times)]) / times

    gc.collect()
    gc.freeze()  # what is there by now: looking through it before each side would take longer than the sides do
    try:
        return bench.rounds({name: side(step) for name, step in sides.items()})
    finally:
        gc.unfreeze()


def same_rows(bench: Bench, setting: Setting, hidden: int) -> None:
    """All tasks label the same rows."""
    case = Case(setting, hidden)
    label = f"{setting}, {f'hidden {hidden}' if hidden else 'linear'} heads"
    modes = [mode for mode in MODES if mode != "auto"]
    engines = {mode: Ones(gramian=mode) for mode in modes}
    loop = Loop(case)
    sides = {"plain": plain(case)} | {f"{mode}, ones": ours(case, engine) for mode, engine in engines.items()}
    peers = {"loop": Step(case.net, loop)}
    others = {"loop to the representation": representation(case)}
    solved = {f"{mode}, {METHOD}": ours(case, method(mode)) for mode in modes}
    try:
        theirs = torchjd_sides(case)
        peers, others, solved = peers | theirs[0], others | theirs[1], solved | theirs[2]
    except ImportError as error:
        bench.absent(f"{label}, torchjd", str(error))
    sides |= peers | others
    verify(label, sides)
    errors = {mode: gramian_errors(label, mode, engine, loop) for mode, engine in engines.items()}
    memory = {name: peak(step) for name, step in sides.items()}
    sides |= solved
    seconds = race(bench, sides, setting.steps)
    for name in sides:
        figures = {"ms": 1e3 * median(seconds[name]), "over_plain": ratio(seconds, name, "plain")}
        if name in memory:
            figures["jacobians"] = (memory[name] - memory["plain"]) / case.jacobian_bytes()
        bench.result(f"{label}, {name}", **figures)
    for mode, error in errors.items():
        bench.result(f"{label}, {mode}", **error)

    best = min(peers, key=lambda name: median(seconds[name]))
    extra = (memory["exact, ones"] - memory["plain"]) / case.jacobian_bytes()
    value = ratio(seconds, f"features, {METHOD}", "plain")
    bench.check(f"{label}, features / plain", value, "<=", setting.bound() if hidden else 1.1)
    value = ratio(seconds, "exact, ones", best)
    bench.check(f"{label}, exact / best peer", value, "<=", 0.5 if setting.batch == 32 else 1.0)
    bench.check(f"{label}, memory of exact above plain / Jacobian", extra, "<", 1.0)
    if "sketch" in modes and setting.tasks == 40:
        bench.check(f"{label}, sketch / best peer", ratio(seconds, "sketch, ones", best), "<=", 0.5)
        bench.check(f"{label}, error of sketch's Gramian", errors["sketch"]["gramian_error"], "<=", 0.1)


def disjoint_rows(bench: Bench, setting: Setting, hidden: int) -> None:
    """Each task has a table of its own, and a forward pass through the trunk."""
    tables, joined = Tables(setting, hidden), Joined(setting, hidden)
    label = f"disjoint rows, {setting}, hidden {hidden} heads"
    engine, loop = Ones(gramian="exact"), Loop(tables)
    sides = {
        "plain": plain(tables),
        "plain, one forward pass": plain(joined),
        "exact, ones": ours(tables, engine),
        "auto, ones": ours(tables, Ones()),
        "loop": Step(tables.net, loop),
        "loop, one forward pass": Step(joined.net, Loop(joined)),
    }
    verify(label, sides)
    gramian_errors(label, "exact", engine, loop)
    sides[f"exact, {METHOD}"] = ours(tables, method("exact"))
    seconds = race(bench, sides, setting.steps)
    for name in sides:
        bench.result(
            f"{label}, {name}",
            ms=1e3 * median(seconds[name]),
            over_plain=ratio(seconds, name, "plain"),
            over_one_pass=ratio(seconds, name, "plain, one forward pass"),
        )
    bench.check(f"{label}, exact / plain", ratio(seconds, f"exact, {METHOD}", "plain"), "<=", 2.3)


def method(gramian: str) -> Balance:
    """The method of the catalogue."""
    found: type[Any] = find(Balance, METHOD)  # type: ignore[type-abstract]
    return found(gramian=gramian)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, usage="python -m benchmarks.step_cost [options]"
    )
    parser.add_argument("--only", default="", help="settings whose name has this in it, such as `K = 40`")
    given, rest = parser.parse_known_args(words)
    about = "what a step costs that looks at every task's gradient (--only WORDS: those settings alone)"
    bench = Bench("step_cost", about, packages=("torch", "torchjd"), rounds=21, argv=rest)
    warnings.filterwarnings("ignore", message="There is a performance drop")  # vmap over what it has no rule for
    for setting in QUICK_SETTINGS if bench.quick else SETTINGS:
        if given.only in str(setting):
            for hidden in (0, HIDDEN):
                same_rows(bench, setting, hidden)
    disjoint = QUICK_DISJOINT if bench.quick else DISJOINT
    if given.only in f"disjoint rows, {disjoint}":
        disjoint_rows(bench, disjoint, HIDDEN)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
