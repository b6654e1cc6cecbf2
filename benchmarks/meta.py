"""What learning to learn is worth: ``python -m benchmarks.meta``.

Sinusoids: y = a sin(x - p), 10 points to adapt to; the squared error on 100 others after 0, 1, 5 and 10 steps, over
1,000 new curves: mean with its 95 % interval, median, and the share of curves that are worse after 10 steps than after
none. Omniglot (`characters`): an alphabet held out. School (`schools`): new schools of which few pupils are known.
Speed: meta-steps of MAML with episodes side by side, against one after the other.

Seconds are those of the processor: one thread, so that of two cores the other one is free for a second run.

``--cache FILE`` keeps what was found cell by cell, and takes it up again; ``--only maml,proto`` runs some cells;
``--held Greek`` holds out another alphabet and leaves Korean out, which is how settings are to be chosen.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from manyheads import objectives
from manyheads.adaptation import adapt
from manyheads.data import Batch, Block, Taskset
from manyheads.objectives import Objective
from manyheads.tasks.regression import Regression

from . import characters, schools
from .adapting import Net, outputs, step
from .harness import Bench, ratio, timed

SHOTS, TOGETHER, RATE = 10, 25, 0.01
STEPS = (0, 1, 5, 10)
SNAPSHOTS = (300, 900)
"""Updates of a start for schools, of which one number is chosen."""
NUMBER = Regression("y", transform="none")
BOUNDS = {"maml": (0.47, 0.14), "fomaml": (0.80, 0.18), "reptile": (0.65, 0.13)}
"""Mean squared error after 1 and 10 steps."""


# -- sinusoids


def curve_net(seed: int) -> Net:
    """Two hidden layers of 40."""
    torch.manual_seed(seed)
    return Net(nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)))


def curves(random: torch.Generator, n: int, points: int) -> tuple[Tensor, Tensor]:
    """x (n, points, 1) within -5 and 5, y (n, points) of amplitudes .1 to 5 and phases 0 to pi."""
    height = 0.1 + 4.9 * torch.rand(n, 1, generator=random)
    phase = math.pi * torch.rand(n, 1, generator=random)
    x = 10 * torch.rand(n, points, generator=random) - 5
    return x.unsqueeze(-1), height * torch.sin(x - phase)


def curve_objective(word: str) -> Objective:
    """An objective by its word; `joint` is supervised training on all curves."""
    if word == "joint":
        return objectives.Supervised([NUMBER])
    more: dict[str, Any] = {"adapt": "body.4.*"} if word == "anil" else {}
    more |= {"inner_steps": 5} if word == "reptile" else {}
    cls = {"maml": "MAML", "fomaml": "FOMAML", "anil": "ANIL", "metasgd": "MetaSGD", "reptile": "Reptile"}[word]
    return getattr(objectives, cls)([NUMBER], inner_lr=RATE, **more)


def curve_batch(random: torch.Generator) -> Batch:
    """A meta-batch: as many points to adapt to as to be judged by, of each curve."""
    x, y = curves(random, TOGETHER, 2 * SHOTS)
    number = torch.arange(TOGETHER).repeat_interleave(2 * SHOTS)
    support = (torch.arange(2 * SHOTS) < SHOTS).repeat(TOGETHER)
    block = Block(("y",), y.flatten(), torch.ones(y.numel(), dtype=torch.bool))
    return Batch({"t": Taskset({"x": x.flatten(0, 1)}, (block,), domain=number, support=support)})


def sinusoid(word: str, seed: int, iterations: int, n_test: int) -> dict[str, Any]:
    """Train, then the errors of new curves after some steps."""
    model, objective = curve_net(seed), curve_objective(word)
    objective.attach(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    random = torch.Generator().manual_seed(seed)
    started = time.process_time()
    for _ in range(iterations):
        step(model, objective, curve_batch(random), optimizer)
    seconds = time.process_time() - started
    x, y = curves(torch.Generator().manual_seed(10_000 + seed), n_test, SHOTS + 100)
    found: dict[str, Any] = {"iterations": iterations, "seconds": seconds}
    weights = {n: p.detach() for n, p in model.named_parameters()}
    only = objective.moving(model) if hasattr(objective, "moving") else list(weights)
    rates = objective.rates(weights) if hasattr(objective, "rates") else RATE

    def loss(own: Mapping[str, Tensor], rows: tuple[Tensor, Tensor]) -> Tensor:
        return (outputs(model, own, rows[0])[:, 0] - rows[1]).square().mean()

    errors = {}
    for n in STEPS:

        def after(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor, n: int = n) -> Tensor:
            return loss(adapt(loss, weights, (sx, sy), n, rates, True, only), (qx, qy))

        with torch.no_grad():
            e = vmap(after)(x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:])
        errors[n] = e
        found |= {f"mse_{n}": number(e.mean()), f"ci_{n}": number(1.96 * e.std() / len(e) ** 0.5)}
    last = errors[STEPS[-1]]
    found["median_10"] = number(last.median())
    found["diverged"] = float((~last.isfinite() | (last > errors[0])).float().mean())
    return found


def number(value: Tensor) -> float | None:
    """A number; None where it is not finite, or too large to mean anything."""
    return float(value) if bool(value.isfinite()) and float(value) < 1e9 else None


# -- speed


def speed(bench: Bench, steps: int) -> float:
    """Median ratio of seconds, one after the other over side by side, 25 curves and three inner steps."""
    sides = {}
    for name, vectorised in (("side by side", True), ("one by one", False)):
        model = curve_net(0)
        objective = objectives.MAML([NUMBER], inner_steps=3, inner_lr=RATE, vectorised=vectorised)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        sides[name] = partial(some_steps, model, objective, optimizer, steps)
    seconds = bench.rounds(sides)
    for name, found in seconds.items():
        bench.result(f"speed: {name}", milliseconds=1e3 * float(np.median(found)))
    return ratio(seconds, "one by one", "side by side")


def some_steps(model: Net, objective: Objective, optimizer: torch.optim.Optimizer, n: int) -> float:
    """The seconds of a step."""
    random = torch.Generator().manual_seed(0)
    return timed(lambda: [step(model, objective, curve_batch(random), optimizer) for _ in range(n)]) / n


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cache", type=Path, help="keeps what was found, cell by cell")
    parser.add_argument("--held", default=characters.NEW, help="the alphabet of the test")
    parser.add_argument("--only", help="cells by commas (default all)")
    given, rest = parser.parse_known_args(list(sys.argv[1:] if argv is None else argv))
    bench = Bench("meta", "what learning to learn is worth", packages=("torch", "numpy"), rounds=5, argv=rest)
    quick, there = bench.quick, os.environ.get("MANYHEADS_DATA")
    n, n_test = (20, 50) if quick else (15_000, 1000)
    cells: dict[str, Callable[[], dict[str, Any]]] = {
        word: partial(sinusoid, word, 0, n, n_test)
        for word in ("maml", "fomaml", "reptile", "anil", "metasgd", "joint")
    }
    if there:
        held, few, many = given.held, 1, 2 if quick else 200
        cells["nearest"] = lambda: characters.of_pixels(held, many)
        cells["proto"] = lambda: characters.of_prototypes(held, few if quick else 400, many)
        cells["maml-conv"] = lambda: characters.of_maml(held, few if quick else 800, many)
        cells["school"] = lambda: schools.school((20,) if quick else SNAPSHOTS, 2 if quick else 10, quick)
    cache: dict[str, Any] = json.loads(given.cache.read_text()) if given.cache and given.cache.exists() else {}
    wanted = given.only.split(",") if given.only else [*cells, "speed"]
    for word, cell in cells.items():
        if word in wanted and word not in cache:
            started = time.process_time()
            cache[word] = cell()
            cache[word]["whole"] = time.process_time() - started
            if given.cache:
                given.cache.write_text(json.dumps(cache, indent=1))
        for name, figures in cache.get(word, {}).items() if word == "school" and word in wanted else ():
            bench.result(f"school: {name}", **(figures if isinstance(figures, dict) else {"seconds": figures}))
        if word in wanted and word != "school":
            bench.result(word, **cache[word])
    if "speed" in wanted:
        bench.check("speed: one by one / side by side", speed(bench, 1 if quick else 20), ">=", 3.0)
    judge(bench, {w: cache[w] for w in wanted if w in cache})
    return bench.finish()


def judge(bench: Bench, found: Mapping[str, Mapping[str, Any]]) -> None:
    """The checks."""
    if len(found) > 1:
        minutes = sum(own["whole"] for own in found.values()) / 60
        bench.check("minutes of one core, of all that is above but speed", minutes, "<=", 15.0)
    for word, bounds in BOUNDS.items():
        for n, bound in zip((1, 10), bounds, strict=True):
            if word in found:
                value = found[word][f"mse_{n}"]
                bench.check(f"sinusoid: {word}, mse after {n}", 1e9 if value is None else value, "<=", bound)
    for word, which, bound in (("proto", "5w1s", 0.84), ("proto", "5w5s", 0.95), ("maml-conv", "5w1s", 0.70)):
        if word in found:
            bench.check(f"omniglot: {word} {which}", found[word][which], ">=", bound)
    for n in schools.PUPILS:
        for other in ("scratch", "pooled", "pooled intercept"):
            if "school" in found:
                low = found["school"][f"{n} pupils"][f"meta - {other}"][1]
                bench.check(f"school: meta-learned - {other}, {n} pupils, low end", low, ">", 0.0)


if __name__ == "__main__":
    sys.exit(main())
