"""New schools of which few pupils are known: School (MANYHEADS_DATA), for `benchmarks.meta`.

139 schools: 100 to learn from, 39 held out, of which 5, 10 or 20 pupils are known and the others are to be foretold.
Linear models: of a school little more than its own intercept can be told from so few. Rates, numbers of steps, which
weights follow (all, or the intercept alone), and the meta-learner are chosen with 80 of the 100 schools to learn from
and the other 20 held out; then everything is learned once more from all 100, and the 39 are read. A first attempt with
32 hidden units and all weights following had read them before (`RESULTS.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import vmap

from manyheads import objectives
from manyheads.adaptation import adapt
from manyheads.data import Block, Taskset, datasets
from manyheads.data.episodes import EpisodeSampler, Shape
from manyheads.objectives import Objective
from manyheads.tasks.regression import Regression

from .adapting import Net, outputs, step, weights_of

PUPILS = (5, 10, 20)
WORDS = {
    "scratch": ("scratch",),
    "pooled": ("pooled",),
    "pooled intercept": ("pooled intercept",),
    "meta": ("maml", "maml intercept", "metasgd"),
}
"""Kind of start -> its variants, of which one is chosen."""
SHAPE = Shape((PUPILS[0], PUPILS[-1]), 20, 16)
STEPS = (0, 1, 2, 3, 5, 10, 20)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3)
LONG = (10, 30, 100)
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Numbers of steps and rates that are tried; from scratch the long ones; learned rates are multiplied."""
INTERCEPT = ("body.bias",)
Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Start:
    """A net that is to follow few pupils: its weights, those that move, and rates of its own where it learned some."""

    model: nn.Module
    weights: dict[str, Tensor]
    rates: Mapping[str, Tensor] | None = None
    only: Sequence[str] | None = None


@dataclass(frozen=True)
class Few:
    """Draws of known pupils from each school, padded to one length.

    Attributes:
        known, rest: (x, y, weight) of (episodes, rows, ...), the weights of an episode summing to 1.
        school: (episodes,) the number of the school.
    """

    known: tuple[Tensor, Tensor, Tensor]
    rest: tuple[Tensor, Tensor, Tensor]
    school: Tensor


def few_of(schools: Sequence[Rows], n: int, draws: int) -> Few:
    """Some draws of n pupils (half of a school at most) and the others, of each school."""
    longest = max(len(y) for _, y in schools)
    found: list[list[Tensor]] = [[] for _ in range(6)]
    for s, (x, y) in enumerate(schools):
        random = torch.Generator().manual_seed(s)
        first = min(n, len(y) // 2)
        for _ in range(draws):
            pick = torch.randperm(len(y), generator=random)
            for at, (own, size) in enumerate(((pick[:first], n), (pick[first:], longest))):
                blank = size - len(own)
                found[3 * at].append(nn.functional.pad(x[own], (0, 0, 0, blank)))
                found[3 * at + 1].append(nn.functional.pad(y[own], (0, blank)))
                found[3 * at + 2].append(nn.functional.pad(torch.full((len(own),), 1 / len(own)), (0, blank)))
    a, b, c, d, e, f = (torch.stack(own) for own in found)
    return Few((a, b, c), (d, e, f), torch.arange(len(schools)).repeat_interleave(draws))


def errors(start: Start, few: Few, rate: float, steps: Sequence[int]) -> dict[int, np.ndarray]:
    """Steps -> the mean squared error of each school's other pupils after so many (schools,).

    Args:
        start: the net.
        few: known pupils and the others.
        rate: of the steps; a factor where the start has rates of its own.
        steps: ascending.
    """

    def loss(own: Mapping[str, Tensor], rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, y, weight = rows
        return (weight * (outputs(start.model, own, x)[:, 0] - y).square()).sum()

    rates: Any = rate if start.rates is None else {n: rate * r for n, r in start.rates.items()}
    answer, done = {}, 0
    with torch.no_grad():
        own = {n: w.expand(len(few.school), *w.shape) for n, w in start.weights.items()}
        for n in steps:
            for _ in range(n - done):
                own = vmap(lambda w, rows: adapt(loss, w, rows, 1, rates, True, start.only))(own, few.known)
            done = n
            each = vmap(loss)(own, few.rest).nan_to_num(1e6, 1e6).clamp(max=1e6)
            total = torch.zeros(int(few.school.max()) + 1).index_add_(0, few.school, each)
            answer[n] = (total / few.school.bincount()).double().numpy()
    return answer


def learned(word: str, schools: Sequence[Rows], snapshots: Sequence[int]) -> list[Start]:
    """Starts by their word, from these schools, after some numbers of steps: the mean of the weights since the last.

    Args:
        word: `scratch`, `pooled` (supervised training on the rows of all), or an objective; ` intercept` where it alone
            moves.
        schools: columns and marks.
        snapshots: steps, ascending.
    """
    train = Taskset(
        {"x": torch.cat([x for x, _ in schools])},
        (Block(("y",), y := torch.cat([y for _, y in schools]), torch.ones(len(y), dtype=torch.bool)),),
        domain=torch.arange(len(schools)).repeat_interleave(torch.tensor([len(y) for _, y in schools])),
        domains=tuple(f"s{i}" for i in range(len(schools))),
    )
    torch.manual_seed(0)
    model = Net(nn.Linear(train.inputs["x"].shape[1], 1))
    kind, _, part = word.partition(" ")
    only = INTERCEPT if part else None
    if kind == "scratch":
        return [Start(model, weights_of(model))]
    task = Regression("y", transform="none")
    settings: dict[str, Any] = {"support": list(SHAPE.sizes), "query": SHAPE.query, "episodes": SHAPE.episodes}
    objective: Objective = objectives.Supervised([task])
    if kind == "maml":
        lr, moving = (0.2, "body.bias") if part else (0.03, "all")
        objective = objectives.MAML([task], inner_lr=lr, inner_steps=1 if part else 3, adapt=moving, **settings)
    if kind == "metasgd":
        objective = objectives.MetaSGD([task], inner_lr=0.03, inner_steps=1, **settings)
    objective.attach(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
    sampler, found = EpisodeSampler({"t": train}, SHAPE), []
    total: dict[str, Tensor] = {}
    for done, draw in enumerate((draw for epoch in count() for draw in sampler.plan(epoch)), 1):
        step(model, objective, sampler.batch(draw), optimizer)
        with torch.no_grad():
            total = {n: p + total[n] if n in total else p.clone() for n, p in model.named_parameters()}
        if done in snapshots:
            since = done - max((s for s in snapshots if s < done), default=0)
            mean = {n: w / since for n, w in total.items()}
            rates = objective.rates(mean) if kind == "metasgd" else None  # type: ignore[attr-defined]
            own = {n: w for n, w in mean.items() if not n.startswith("_rates")}
            found.append(Start(model, own, None if rates is None else dict(rates), only))
            total = {}
        if done == snapshots[-1]:
            break
    return found


def grid_of(word: str) -> tuple[Sequence[float], Sequence[int]]:
    """Rates and steps that are tried."""
    return (FACTORS, STEPS[:5]) if word == "metasgd" else (RATES, LONG if word == "scratch" else STEPS)


def tables() -> list[Rows]:
    """The schools in random order: columns and marks, standardised by the first 100."""
    found, _ = datasets.load("school")
    raw = [(t.iloc[:, :-1].to_numpy(np.float32), t.iloc[:, -1].to_numpy(np.float32)) for t in found.values()]
    raw = [raw[i] for i in np.random.default_rng(0).permutation(len(raw))]
    x_all, y_all = (np.concatenate([own[j] for own in raw[:100]]) for j in (0, 1))
    mean, sd = x_all.mean(0), x_all.std(0) + (x_all.std(0) == 0)
    return [(torch.from_numpy((x - mean) / sd), torch.from_numpy((y - y_all.mean()) / y_all.std())) for x, y in raw]


def school(snapshots: Sequence[int], draws: int, quick: bool = False) -> dict[str, Any]:
    """Held-out schools: explained variance of the other pupils by each start, and paired differences.

    Args:
        snapshots: numbers of training steps, one of which is chosen for each start.
        draws: of known pupils from each school.
        quick: whether hardly anything is tried.
    """
    rows = tables()
    words = [word for variants in WORDS.values() for word in variants]
    first = {word: learned(word, rows[:80], snapshots) for word in words}
    starts = {word: learned(word, rows[:100], snapshots) for word in words}
    spread = float(np.mean([float(y.var()) for _, y in rows[100:]]))
    found: dict[str, Any] = {}
    for n in PUPILS:
        choosing, new = few_of(rows[80:100], n, draws), few_of(rows[100:], n, draws)
        own: dict[str, Any] = {}
        came = {}
        for kind, variants in WORDS.items():
            tried = {
                (word, at, rate, k): float(mean.mean())
                for word in variants
                for at, start in enumerate(first[word])
                for rate in (grid_of(word)[0][:1] if quick else grid_of(word)[0])
                for k, mean in errors(start, choosing, rate, (0, 1) if quick else grid_of(word)[1]).items()
            }
            word, at, rate, k = min(tried, key=lambda key: tried[key])
            came[kind] = errors(starts[word][at], new, rate, (k,))[k]
            own[kind] = round(1 - float(came[kind].mean()) / spread, 4)
            own[f"{kind}, chosen"] = f"{word}, {snapshots[at]} updates, rate {rate:g}, {k} steps"
        for other in ("scratch", "pooled", "pooled intercept"):
            own[f"meta - {other}"] = gap(came[other] - came["meta"], spread)
        found[f"{n} pupils"] = own
    return found


def gap(values: np.ndarray, spread: float) -> list[float]:
    """[mean, low, high] over schools of what one start gains on another, in shares of the marks' variance."""
    values = values / spread
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / len(values) ** 0.5
    mean = float(values.mean())
    return [round(v, 4) for v in (mean, mean - half, mean + half)]
