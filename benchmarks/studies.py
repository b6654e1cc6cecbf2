"""Simulated studies whose true answer is known: how often are claims false, and intervals right?

A study has K linear tasks on common inputs, y_k = w_k . x + noise with x ~ N(0, I), and a data set of its own. Two
methods are compared on it over re-drawn splits: ``single`` is a ridge regression per task, and ``joint`` shrinks the
tasks towards their mean, both in closed form:

    minimise sum_k |y_k - X w_k|^2 + mu |w_k|^2        and        ... + mu K |m|^2 + (mu + nu) |w_k - m|^2,

m the tasks' mean. There are two families. In the first the methods are of different *classes*: each reads inputs that
the other cannot (single s, joint q, both c), as nets of limited capacity find other features when they serve other
tasks. In the second they are of one class and differ in *shrinkage* alone.

With w_k = (m, s_k, q_k) and tasks in pairs of opposite s_k and q_k, what a method cannot read is noise to it, and the
expected error of a new training set of this size is, with b and v moments of ridge regressions over random designs,

    single: e (1 + v_1) + b_1 (|m|^2 + |s_k|^2 [+ |q_k|^2]),     e = noise [+ |q_k|^2],
    joint:  noise + |s_k|^2 + v_1 noise / K + v_2 (noise (1 - 1 / K) + |s_k|^2) + b_1 |m|^2 + b_2 |q_k|^2.

So the true delta of each task, (single - joint) / single, is known: *the expected change for a training set of this
size*, which is what the intervals claim to cover. It is 0 at one length of q_k that a line of algebra gives.

What is found: where classes differ, the correction of Nadeau and Bengio is right, and coverage is nominal. Where
methods differ in shrinkage alone it is conservative: an error of the shrunken fit on the training rows and one of the
opposite sign on the test rows cancel in the mean over splits, whose true variance is then near s^2 / n instead of
s^2 (1 / n + n_test / n_train).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manyheads.results import Method
from manyheads.verdicts import Direction, compare

Array = NDArray[np.float64]
METRIC = Direction("mean_squared_error", False)


BLOCK = 3
"""Inputs that both methods read, that single alone reads, and that joint alone reads: so many each."""


@dataclass(frozen=True)
class Setting:
    """What studies have in common.

    Attributes:
        rows: of the data set; a fifth of them are the test part of each split.
        kinds: per pair of tasks, ``null`` (sharing changes nothing), ``helps`` or ``hurts``.
        classes: whether the methods read different inputs, or differ in shrinkage alone.
    """

    name: str
    rows: int
    repeats: int
    kinds: tuple[str, ...]
    classes: bool = True
    noise: float = 1.0
    mu: float = 2.0
    nu: float = 20.0

    @property
    def tasks(self) -> int:
        """Two of each kind, whose own parts are opposite, so that their mean is m."""
        return 2 * len(self.kinds)

    @property
    def test(self) -> int:
        """Rows of a test part."""
        return self.rows // 5

    @property
    def read(self) -> tuple[list[int], list[int]]:
        """The inputs that single and joint read: m lies in the first block, s in the second, q in the third."""
        common, own, other = (list(range(i * BLOCK, (i + 1) * BLOCK)) for i in range(3))
        return (common + own, common + other) if self.classes else (common + other, common + other)


SETTINGS = (
    Setting("classes, nothing is there, 100 rows, 10 repeats", 100, 10, ("null", "null")),
    Setting("classes, nothing is there, 400 rows, 5 repeats", 400, 5, ("null", "null", "null")),
    Setting("classes, helped, hurt and nothing, 200 rows, 10 repeats", 200, 10, ("null", "helps", "hurts")),
    Setting("shrinkage, nothing is there, 150 rows, 10 repeats", 150, 10, ("null", "null"), False),
    Setting("shrinkage, helped, hurt and nothing, 300 rows, 5 repeats", 300, 5, ("null", "helps", "hurts"), False),
)


@dataclass(frozen=True)
class Moments:
    """Of a ridge regression with this penalty on n rows: the share of a weight's square that is bias, the variance."""

    bias: float
    variance: float


def moments(rows: int, inputs: int, penalty: float, draws: int, random: np.random.Generator) -> Moments:
    """Averages over designs: the eigenvalues of X'X say all."""
    found = []
    for part in np.array_split(np.arange(draws), max(1, draws // 1000)):
        x = random.normal(size=(len(part), rows, inputs))
        found.append(np.linalg.eigvalsh(np.swapaxes(x, 1, 2) @ x))
    values = np.concatenate(found)
    bias = (penalty / (values + penalty)) ** 2
    variance = values / (values + penalty) ** 2
    return Moments(float(bias.mean()), float(variance.sum(1).mean()))


@dataclass(frozen=True)
class Population:
    """The truth of a setting: |s_k|, |q_k| and the true delta of each task."""

    own: float
    other: Array
    deltas: Array


def population(setting: Setting, draws: int = 20000) -> Population:
    """Lengths that make sharing change nothing, help or hurt, and the true deltas."""
    random = np.random.default_rng([7, setting.rows])
    learnt, noise, k = setting.rows - setting.test, setting.noise, setting.tasks
    one = moments(learnt, 2 * BLOCK, setting.mu, draws, random)
    two = moments(learnt, 2 * BLOCK, setting.mu + setting.nu, draws, random)
    own = 0.5 if setting.classes else 0.0
    saved = noise * (1 - 1 / k) * (one.variance - two.variance)
    if setting.classes:
        null = (own * (1 + two.variance - one.bias) - saved) / (1 + one.variance - two.bias)
        factor = {"null": 1.0, "helps": 1.4, "hurts": 0.6}
    else:
        null = saved / (two.bias - one.bias)  # at which the bias of sharing eats what it saves
        factor = {"null": 1.0, "helps": 0.0, "hurts": 3.0}
    other = np.repeat([null * factor[kind] for kind in setting.kinds], 2)
    unread = other if setting.classes else np.zeros_like(other)
    single = (noise + unread) * (1 + one.variance) + one.bias * (1.0 + own + other - unread)
    joint = noise + own + one.variance * noise / k + two.variance * (noise * (1 - 1 / k) + own)
    joint = joint + one.bias + two.bias * other
    return Population(own**0.5, np.sqrt(other), (single - joint) / single)


def scores(setting: Setting, truth: Population, random: np.random.Generator) -> tuple[Array, Array]:
    """One study: the errors (tasks, repeats) of single and joint on the test parts of a fresh data set."""
    n, k = setting.rows, setting.tasks
    sides = np.tile([1.0, -1.0], k // 2)
    weights = np.zeros((k, 3 * BLOCK))
    weights[:, 0] = 1.0
    angle = random.normal(size=(k // 2, 2, BLOCK))
    angle = np.repeat(angle / np.linalg.norm(angle, axis=2, keepdims=True), 2, 0) * sides[:, None, None]
    weights[:, BLOCK : 2 * BLOCK] = truth.own * angle[:, 0]
    weights[:, 2 * BLOCK :] = truth.other[:, None] * angle[:, 1]
    x = random.normal(size=(n, 3 * BLOCK))
    y = x @ weights.T + setting.noise**0.5 * random.normal(size=(n, k))
    orders = np.argsort(random.random((setting.repeats, n)), 1)
    test, train = orders[:, : setting.test], orders[:, setting.test :]
    ys = y[train]
    mean = ys.mean(2, keepdims=True)
    errors = []
    for read, penalty, toward in zip(setting.read, (setting.mu, setting.mu + setting.nu), (0.0, mean), strict=True):
        xs = x[:, read][train]
        gram, moment = np.swapaxes(xs, 1, 2) @ xs, np.swapaxes(xs, 1, 2)
        eye = np.eye(len(read))
        w = np.linalg.solve(gram + penalty * eye, moment @ (ys - toward))
        w = w + np.linalg.solve(gram + setting.mu * eye, moment @ (np.zeros_like(ys) + toward))
        errors.append(((y[test] - x[:, read][test] @ w) ** 2).mean(1).T)
    return errors[0], errors[1]


@dataclass(frozen=True)
class Outcome:
    """What many studies of a setting showed, as shares."""

    false_claims: float
    """Of studies: one task or more is said to be helped or hurt that is not (or the other way round)."""
    coverage: float
    """Of the tasks' intervals: the true delta is inside."""
    coverage_m: float
    """Of delta-m's intervals."""
    found: float
    """Of the tasks that are helped or hurt: it is said so. None there: 0."""


def outcome(setting: Setting, studies: int, seed: int = 0) -> Outcome:
    """Simulate studies of a setting and judge them as the library does."""
    truth = population(setting)
    signs = np.repeat([{"null": 0, "helps": 1, "hurts": -1}[kind] for kind in setting.kinds], 2)
    names = [f"t{i}" for i in range(setting.tasks)]
    ratio = setting.test / (setting.rows - setting.test)
    wrong = inside = overall = said = 0
    for s in range(studies):
        single, joint = scores(setting, truth, np.random.default_rng([seed, setting.rows, s]))
        methods = [
            Method(name=name, values={t: tuple(row) for t, row in zip(names, errors.tolist(), strict=True)})
            for name, errors in (("single", single), ("joint", joint))
        ]
        found = compare(methods, dict.fromkeys(names, METRIC), "single", ratio).comparisons["joint"]
        words = np.array([{"helps": 1, "hurts": -1, "undecided": 0}[found.tasks[t].verdict] for t in names])
        wrong += bool(((words != 0) & (words != signs)).any())
        said += int(((words == signs) & (signs != 0)).sum())
        inside += sum(_within(found.tasks[t].interval, delta) for t, delta in zip(names, truth.deltas, strict=True))
        overall += _within(found.interval, float(truth.deltas.mean()))
    real = int((signs != 0).sum())
    return Outcome(
        wrong / studies, inside / studies / setting.tasks, overall / studies, said / studies / real if real else 0.0
    )


def _within(interval: tuple[float | None, float | None], value: float) -> bool:
    low, high = interval
    return low is not None and high is not None and low <= value <= high
