"""Where balances end on the toy problem of two losses that CAGrad, Nash-MTL and FAMO are shown on.

Adam takes 50,000 steps from each of five starts. Closed forms for two tasks, written independently here, drive the runs
of every day, and each balance has to agree with its closed form along the way, and drives its own first steps; with
`--slow` the balances themselves drive to the end, from all five starts.

What is exact is the direction at a point, not the end: from starts 1 and 3 the way leads along a crease of the losses,
where a change of the start by 1e-12 moves the end of some methods by 0.1 and more. Such rows have a wider tolerance.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))
from cases import catalogue

from manyheads.balance import Balance
from manyheads.balance.aggregation import Aggregation
from manyheads.catalog import find

STARTS = {1: (-8.5, 7.5), 2: (0.0, 0.0), 3: (9.0, 9.0), 4: (-7.5, -0.5), 5: (9.0, -1.0)}
STEPS = 50_000


def problem(x, y):
    """The two losses, and their slopes along x and y: of the first, then of the second."""
    t, h = math.tanh(y), math.tanh(y / 2)
    u, v = (-x - 7) / 2 + t, (3 - x) / 2 - t + 2
    upper = math.log(max(abs(u), 5e-6)) + 6, math.log(max(abs(v), 5e-6)) + 6
    steep = 1 / u if abs(u) >= 5e-6 else 0.0, 1 / v if abs(v) >= 5e-6 else 0.0
    bowl, slide = 0.1 * (y + 8) ** 2, 0.02 * (y + 8)
    lower = ((7 - x) ** 2 + bowl) / 10 - 20, ((7 + x) ** 2 + bowl) / 10 - 20
    up, down = max(h, 0.0), max(-h, 0.0)
    rise, dt = (1 - h * h) / 2, 1 - t * t
    more, less = (rise if y >= 0 else 0.0), (-rise if y <= 0 else 0.0)
    return (
        0.1 * (up * upper[0] + down * lower[0]),
        up * upper[1] + down * lower[1],
        0.1 * (-up * steep[0] / 2 + down * (x - 7) / 5),
        0.1 * (more * upper[0] + up * steep[0] * dt + less * lower[0] + down * slide),
        -up * steep[1] / 2 + down * (x + 7) / 5,
        more * upper[1] - up * steep[1] * dt + less * lower[1] + down * slide,
    )


def end(weights, start, watch=None, steps=STEPS):
    """The losses after Adam; `weights` takes |g_1|^2, |g_2|^2, <g_1, g_2> and the losses."""
    (x, y), lr = start, 1e-3
    mx = my = vx = vy = 0.0
    for step in range(1, steps + 1):
        one, two, ax, ay, bx, by = problem(x, y)
        gram = ax * ax + ay * ay, bx * bx + by * by, ax * bx + ay * by
        w, z = weights(*gram, one, two)
        dx, dy = w * ax + z * bx, w * ay + z * by
        if watch is not None and step % 250 == 1:
            watch(gram, (one, two), (ax, ay, bx, by), (dx, dy))
        mx, my = mx + 0.1 * (dx - mx), my + 0.1 * (dy - my)
        vx, vy = vx + 0.001 * (dx * dx - vx), vy + 0.001 * (dy * dy - vy)
        size, r = lr / (1 - 0.9**step), 1 - 0.999**step
        x -= size * mx / (math.sqrt(vx / r) + 1e-8)
        y -= size * my / (math.sqrt(vy / r) + 1e-8)
    return problem(x, y)[:2]


# -- two tasks in closed form: a = |g_1|^2, b = |g_2|^2, c = <g_1, g_2>


def cosine(a, b, c):
    return min(max(c / math.sqrt(a * b), -1.0), 1.0)


def equal(a, b, c, *losses):
    return 1.0, 1.0


def mgda(a, b, c, *losses):
    between = a + b - 2 * c
    w = min(max((b - c) / between, 0.0), 1.0) if between > 0 else 0.5
    return w, 1 - w


def pcgrad(a, b, c, *losses):
    return (1 - c / a, 1 - c / b) if c < 0 else (1.0, 1.0)


def cagrad(a, b, c, *losses):
    """min over w in 0..1 of <g_w, g_0> + 0.4 |g_0| |g_w|, g_0 the mean: a hyperbola along the line."""
    reach, between = 0.4 * math.sqrt(max(a + b + 2 * c, 0.0)) / 2, a + b - 2 * c
    if between <= 1e-14 * (a + b):
        w = 0.5
    else:
        tilt = (a - b) / 2 / (reach * math.sqrt(between)) if reach > 0 else math.copysign(2.0, a - b)
        w = 0.0 if tilt >= 1 else 1.0
        if abs(tilt) < 1:
            off = max(a * b - c * c, 0.0) / between
            w = (b - c) / between - tilt * math.sqrt(off / (1 - tilt * tilt) / between)
        w = min(max(w, 0.0), 1.0)
    length = math.sqrt(max(w * w * a + 2 * w * (1 - w) * c + (1 - w) ** 2 * b, 0.0))
    s = reach / length if length > 0 else 0.0
    return 0.5 + s * w, 0.5 + s * (1 - w)


def dualproj(a, b, c, *losses):
    """The mean; where it is against one gradient, without its part along that one."""
    return 0.5 - min((a + c) / a, 0) / 2, 0.5 - min((b + c) / b, 0) / 2


def imtlg(a, b, c, *losses):
    p, q = math.sqrt(a), math.sqrt(b)
    return q / (p + q), p / (p + q)


def config(a, b, c, *losses):
    """Along the bisector, as long as both gradients are along it."""
    p, q = math.sqrt(a), math.sqrt(b)
    return (p + q) / (2 * p), (p + q) / (2 * q)


def nash(a, b, c, *losses):
    s = 1 / math.sqrt(max(1 + cosine(a, b, c), 1e-15))
    return s / math.sqrt(a), s / math.sqrt(b)


def fairgrad(a, b, c, *losses):
    """(G w)_k = w_k^(-1/2), alpha = 2: one equation for the ratio of the weights of unit rows, then their size."""
    p, q, k = math.sqrt(a), math.sqrt(b), cosine(a, b, c)
    x = brentq(lambda x: (k + math.exp(x)) * q * math.sqrt(math.exp(x) * p / q) - (1 + k * math.exp(x)) * p, -40, 40)
    ratio = math.exp(x)
    size = (1 / (math.sqrt(p) * (1 + k * ratio))) ** (2 / 3)
    return size / p, size * ratio / q


def aligned(a, b, c, *losses):
    """sigma_2 G^(-1/2) (1/2, 1/2); of dependent rows the only direction there is."""
    k, total = cosine(a, b, c), a + b
    largest = (total + math.sqrt((a - b) ** 2 + 4 * c * c)) / 2
    if 1 - abs(k) <= 1e-10 * (1 + abs(k)):
        return (a + c) / largest / 2, (b + c) / largest / 2
    root = math.sqrt(a * b - c * c)
    s = 0.5 / math.sqrt(largest) / math.sqrt(total + 2 * root)
    return s * (b + root - c), s * (a + root - c)


FORMS = {
    "equal": (equal, {}),
    "mgda": (mgda, {}),
    "pcgrad": (pcgrad, {}),
    "upgrad": (pcgrad, {}),  # of two gradients, both projections are the same
    "dualproj": (dualproj, {}),
    "cagrad": (cagrad, {"c": 0.4}),
    "imtlg": (imtlg, {}),
    "config": (config, {}),
    "nashmtl": (nash, {}),
    "fairgrad": (fairgrad, {"alpha": 2.0}),
    "alignedmtl": (aligned, {}),
}

ENDS = {
    "equal": {1: (-0.380, -19.83), 2: (-0.380, -19.83), 4: (-0.380, -19.83), 5: (-0.380, -19.83)},
    "mgda": {1: (-1.193, -17.47), 2: (-1.991, -2.85), 3: (-1.999, -0.46), 4: (-0.732, -19.24), 5: (-1.999, -0.41)},
    "pcgrad": {1: (-0.692, -19.33), 2: (-0.928, -18.66), 4: (-0.829, -18.98), 5: (-1.960, -5.52)},
    "upgrad": {1: (-0.701, -19.31), 2: (-0.928, -18.66), 4: (-0.829, -18.98), 5: (-1.960, -5.52)},
    "cagrad": {1: (-0.380, -19.83), 2: (-0.380, -19.83), 4: (-0.380, -19.83), 5: (-0.380, -19.83)},
    "imtlg": {1: (-1.153, -17.69), 2: (-1.509, -15.10), 3: (-1.790, -11.09), 4: (-0.919, -18.69), 5: (-1.970, -4.87)},
    "nashmtl": {1: (-1.013, -18.34), 2: (-1.509, -15.09), 3: (-1.834, -10.12), 4: (-0.940, -18.61), 5: (-1.955, -5.83)},
    "fairgrad": {1: (-1.059, -18.14), 2: (-1.880, -8.87), 3: (-1.924, -7.30), 4: (-0.862, -18.88), 5: (-1.983, -3.78)},
    "alignedmtl": {1: (-0.380, -19.83), 2: (-0.380, -19.83), 4: (-0.380, -19.83), 5: (-0.380, -19.83)},
}
"""Ends of exact weightings, recorded from another implementation."""
STUCK = ("equal", "pcgrad", "upgrad", "dualproj", "cagrad")
"""From start 3 these do not come to the front."""
WIDE = {
    ("mgda", 2): 0.04,
    ("pcgrad", 1): 0.4,
    ("upgrad", 1): 0.4,
    ("imtlg", 1): 0.2,
    ("nashmtl", 1): 0.05,
    ("nashmtl", 3): 0.1,
    ("nashmtl", 5): 0.1,
    ("fairgrad", 1): 0.5,
    ("fairgrad", 2): 0.1,
    ("fairgrad", 3): 0.1,
    ("fairgrad", 4): 0.15,
    ("fairgrad", 5): 0.1,
}
"""Rows whose end depends on rounding; all others are held to 0.02. FairGrad's weights go to infinity at the front, so
that the point where it comes to rest shows the precision of the solver: a floor of 1e-8 under 1 + cos moves it by 1."""


def from_front(one, two):
    """How far from the Pareto front, in units of the first loss; the second is ten times as large."""
    x, y = np.linspace(-7, 7, 14001), -8.4
    down, bowl = np.tanh(-y / 2), 0.1 * (y + 8) ** 2
    first = 0.1 * down * (((7 - x) ** 2 + bowl) / 10 - 20)
    second = down * (((7 + x) ** 2 + bowl) / 10 - 20)
    return np.hypot(first - one, (second - two) / 10).min()


def check_end(word, start, found):
    if start == 3 and word in STUCK:
        assert from_front(*found) > 0.1
        return
    assert from_front(*found) < 0.004
    if start in ENDS.get(word, {}):
        away = WIDE.get((word, start), 0.02) + 0.0051  # the record has two decimals
        assert found == pytest.approx(ENDS[word][start], abs=away)


def test_slopes_are_those_of_the_losses(rng):
    for x, y in rng.normal(scale=5, size=(100, 2)):
        h = 1e-6
        along_x = np.subtract(problem(x + h, y)[:2], problem(x - h, y)[:2]) / (2 * h)
        along_y = np.subtract(problem(x, y + h)[:2], problem(x, y - h)[:2]) / (2 * h)
        assert problem(x, y)[2:] == pytest.approx((along_x[0], along_y[0], along_x[1], along_y[1]), rel=1e-4, abs=1e-6)


def test_the_front_is_where_no_step_helps_both():
    for x in (-6.9, -3.0, 0.0, 6.0):
        one, two, *_ = problem(x, -8.4)
        assert from_front(one, two) < 1e-3
        for dx, dy in np.random.default_rng(0).normal(size=(200, 2)):
            other = problem(x + dx, -8.4 + dy)
            assert other[0] > one - 1e-3 or other[1] > two - 1e-2
    assert from_front(0.0, 0.0) > 1


class Agreement:
    """Compares a balance's updates with those of its closed form, up to one constant factor."""

    def __init__(self, balance):
        self.balance, self.sizes, self.compared = balance, [], 0

    def __call__(self, gram, losses, slopes, update):
        a, b, c = gram
        w = self.balance.weights(np.array([[a, c], [c, b]]), losses)
        if 1 + cosine(a, b, c) < 1e-6:  # hardly more than rounding is left of the update
            return
        rows = np.array(slopes).reshape(2, 2)
        ours, theirs = w @ rows, np.array(update)
        self.compared += 1
        self.sizes.append(ours @ theirs / (theirs @ theirs))
        assert not self.balance.note
        assert np.linalg.norm(ours - self.sizes[-1] * theirs) <= 1e-7 * np.linalg.norm(ours)


@pytest.mark.parametrize("start", [2, 4])
@pytest.mark.parametrize("word", FORMS)
def test_ends_of_the_closed_forms_and_balances_along_the_way(word, start):
    form, settings = FORMS[word]
    agreement = None if word == "equal" else Agreement(find(Balance, word)(**settings))
    check_end(word, start, end(form, STARTS[start], agreement))
    if agreement is not None:
        assert agreement.compared > 15
        assert agreement.sizes == pytest.approx([agreement.sizes[0]] * agreement.compared, rel=1e-4)


def driver(balance):
    """The balance's weights, for `end`."""
    return lambda a, b, c, *losses: balance.weights(np.array([[a, c], [c, b]]), losses, tasks=("a", "b")).tolist()


@pytest.mark.parametrize("case", [c for c in catalogue(Balance) if issubclass(c.cls, Aggregation)], ids=str)
def test_balances_go_the_way_of_their_closed_forms(case):
    """Every aggregation for 500 steps; one that remembers nothing of a step has a closed form in `FORMS`."""
    start, steps = STARTS[4], 500
    if case.word not in FORMS:
        balance = case()
        found = end(driver(balance), start, steps=steps)
        assert balance.state, f"`FORMS` should have the weights of `{case.word}` for two gradients. Found none; add it."
        assert sum(found) < sum(problem(*start)[:2]) - 0.2
        return
    form, settings = FORMS[case.word]
    found = end(driver(case.cls(**settings)), start, steps=steps)
    assert found == pytest.approx(end(form, start, steps=steps), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("word", FORMS)
def test_ends_of_the_balances(word, start):
    form, settings = FORMS[word]
    found = end(form if word == "equal" else driver(find(Balance, word)(**settings)), STARTS[start])
    print(f"{word} from start {start}: {found[0]:.3f}, {found[1]:.2f}")
    check_end(word, start, found)
