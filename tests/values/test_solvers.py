"""The float64 solvers: every answer is checked from the gradients themselves, in unit rows, not from what it says."""

from __future__ import annotations

import sys
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

sys.path.insert(0, str(Path(__file__).parent.parent / "laws"))
from cases import catalogue

from manyheads.balance import Balance
from manyheads.catalog import find
from manyheads.gradients import solvers

TIGHT = 1e-8
KINDS = (
    "free",
    "square",
    "dependent",
    "plane",
    "parallel",
    "opposite",
    "nearly parallel",
    "alike",
    "conflict",
    "cancel",
)
SIZES = ("1", "1e-8", "1e8", "1..1e6", "zeros")
QUADRATIC, FAIR = ("mgda", "upgrad", "dualproj", "cagrad"), ("nashmtl", "fairgrad")
METHODS = sorted({c.word for c in catalogue(Balance) if hasattr(sys.modules[c.cls.__module__], "solvers")})
"""The words whose module asks a solver; each has its definition in `_missed`."""


def _rows(kind: str, count: int, rng: np.random.Generator, sizes: str = "1") -> np.ndarray:
    """Gradients (count, parameters)."""
    width = {"square": count, "dependent": max(1, count // 2), "plane": 2}.get(kind, count + 8)
    rows = rng.normal(size=(count, width))
    for k in range(1, count):
        if rng.random() < 0.5:
            if kind == "parallel":
                rows[k] = rows[k - 1] * rng.uniform(0.1, 3)
            elif kind == "opposite":
                rows[k] = -rows[k - 1] * rng.uniform(0.1, 3)
            elif kind == "nearly parallel":
                rows[k] = rows[k - 1] + 1e-6 * rng.normal(size=width)
    if kind == "alike":
        rows += 3 * rng.normal(size=width)
    if kind == "conflict":
        rows -= 0.9 * rows.mean(0)
    if kind == "cancel":
        rows -= rows.mean(0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    if sizes == "1..1e6":
        return rows * 10 ** rng.uniform(-3, 3, (count, 1))
    if sizes == "zeros":
        return rows * (rng.random((count, 1)) < 0.7)
    return rows * float(sizes)


def _solve(word: str, rows: np.ndarray, preference: np.ndarray | None = None, **settings) -> solvers.Solved:
    balance = find(Balance, word)(**settings)
    weights = balance.weights(rows @ rows.T, preference=preference)
    assert np.isfinite(weights).all()
    return solvers.Solved(weights, balance.residual, balance.note)


def _beyond(z: np.ndarray, slack: np.ndarray) -> float:
    return float(np.abs(np.minimum(z, slack)).max())


def _missed(word: str, rows: np.ndarray, found: solvers.Solved, p: np.ndarray, **settings) -> float:
    """What the definition of a method misses, from the gradients, in units of unit rows."""
    live = rows.any(1)
    count, norms = len(rows), np.linalg.norm(rows[live], axis=1)
    unit, w, p = rows[live] / norms[:, None], found.weights[live], p[live]
    gains = unit @ (unit.T @ (w * norms))
    if word == "mgda":
        assert found.weights.sum() == pytest.approx(1.0)
        v, b = w * norms, p / norms
        return _beyond(v / v.sum(), (gains - v @ gains / (b @ v) * b) / v.sum())
    if word == "dualproj":
        mean = p * norms / count
        return _beyond((w * norms - mean) / mean.sum(), gains / mean.sum())
    if word == "upgrad":
        mean, total, worst = p * norms / count, np.zeros(len(p)), 0.0
        for i in range(len(p)):
            one = solvers.project_mean(rows[live] @ rows[live].T, np.eye(len(p))[i] * len(p) * p[i])
            worst = max(worst, _missed("dualproj", rows[live], one, np.eye(len(p))[i] * len(p) * p[i]))
            total = total + one.weights / count
        return max(worst, np.linalg.norm(unit.T @ ((total - w) * norms)) / mean.sum())
    if word == "cagrad":
        c = settings.get("c", 0.5)
        mean = p * norms / count
        size = np.linalg.norm(unit.T @ mean)
        if size < solvers.FLAT * mean.sum():
            return size / mean.sum()
        v, gains, b = (w * norms - mean) / size, gains / size, norms.min() / norms
        rho, level = np.linalg.norm(unit.T @ v), v @ gains / max(b @ v, 1e-300)
        if found.note:
            assert rho <= c * (1 + 1e-12)
            return max(_beyond(v, gains), np.linalg.norm(unit.T @ solvers.min_norm(unit @ unit.T).weights))
        return max(_beyond(v, gains - level * b), rho * abs(rho - c) / max(1, v.sum()))
    assert word in FAIR, f"`_missed` should have the definition of `{word}`. Found none; add it."
    x = w * norms
    if found.note:
        return np.linalg.norm(unit.T @ x) / x.sum()
    beta = 1 / settings.get("alpha", {"nashmtl": 1.0, "fairgrad": 2.0}[word])
    return np.abs(gains - (p / w) ** beta / norms).max() / x.mean()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", METHODS)
def test_the_definition_holds(word, kind, sizes):
    for count in (1, 2, 3, 4, 5, 6, 8, 13, 40):
        for seed in range(1 if count > 8 else 4):
            rng = np.random.default_rng([seed, count])
            rows = _rows(kind, count, rng, sizes)
            p = np.ones(count) if seed % 2 else rng.uniform(0.2, 5, count)
            found = _solve(word, rows, p)
            if not rows.any():
                assert found.residual == 0
                continue
            missed = _missed(word, rows, found, p)
            assert missed <= TIGHT, (count, seed, found)
            assert found.residual == pytest.approx(missed, abs=TIGHT), (count, seed)


@pytest.mark.parametrize("settings", [{"c": 0.1}, {"c": 0.4}, {"c": 0.99}, {"c": 1.0}, {"c": 1.7}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_cagrad_within_any_distance(kind, settings):
    for seed in range(15):
        rng = np.random.default_rng(seed)
        rows = _rows(kind, int(rng.integers(1, 9)), rng, SIZES[seed % 4])
        found = _solve("cagrad", rows, **settings)
        assert _missed("cagrad", rows, found, np.ones(len(rows)), **settings) <= TIGHT, seed


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9, 1.0, 1.5, 5.0, 20.0, 100.0])
@pytest.mark.parametrize("kind", KINDS)
def test_fairgrad_for_any_alpha(kind, alpha):
    for seed in range(15):
        rng = np.random.default_rng(seed)
        rows = _rows(kind, int(rng.integers(1, 9)), rng, SIZES[seed % (4 if 0.5 <= alpha <= 20 else 3)])
        found = _solve("fairgrad", rows, alpha=alpha)
        assert _missed("fairgrad", rows, found, np.ones(len(rows)), alpha=alpha) <= TIGHT, seed


@pytest.mark.parametrize("word", METHODS)
def test_a_gramian_of_less_precision_is_solved(word):
    """float32 gradients, products in float32: G has negative eigenvalues of 1e-7."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = _rows("dependent", 8, rng).astype(np.float32)
        balance = find(Balance, word)()
        w = balance.weights(rows @ rows.T)
        assert np.isfinite(w).all()
        d = rows.astype(float).T @ w
        assert (rows @ d).min() > -1e-5 * max(1.0, np.abs(w).sum()) or word == "cagrad"


# -- slow, obvious answers


def _least_squares(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """z >= 0 with the least |A z - q|, by all sets of positive entries."""
    count = columns.shape[1]
    best, least = np.zeros(count), np.linalg.norm(target)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            z = np.zeros(count)
            z[list(chosen)] = np.linalg.lstsq(columns[:, chosen], target, rcond=None)[0]
            distance = np.linalg.norm(columns @ z - target)
            if (z >= -1e-12).all() and distance < least - 1e-14:
                best, least = z, distance
    return best


def _shortest(rows: np.ndarray) -> np.ndarray:
    """The shortest vector of the rows' convex hull, by all its faces."""
    best = rows[np.argmin(np.linalg.norm(rows, axis=1))]
    for size in range(2, len(rows) + 1):
        for chosen in map(list, combinations(range(len(rows)), size)):
            edges = rows[chosen[1:]] - rows[chosen[0]]
            w = np.linalg.lstsq(edges.T, -rows[chosen[0]], rcond=None)[0]
            if (w >= 0).all() and w.sum() <= 1:
                point = rows[chosen[0]] + w @ edges
                best = min(best, point, key=np.linalg.norm)
    return best


@pytest.mark.parametrize("kind", ["free", "square", "dependent", "plane", "alike", "conflict"])
def test_quadratic_programs_equal_the_enumeration_of_active_sets(kind):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = _rows(kind, int(rng.integers(1, 6)), rng) * rng.uniform(0.5, 2)
        count = len(rows)
        assert rows.T @ _solve("mgda", rows).weights == pytest.approx(_shortest(rows), abs=1e-7), seed
        mean = rows.mean(0)
        nearest = mean + rows.T @ _least_squares(rows.T, -mean)
        assert rows.T @ _solve("dualproj", rows).weights == pytest.approx(nearest, abs=1e-7), seed
        each = sum(row + rows.T @ _least_squares(rows.T, -row) for row in rows) / count
        assert rows.T @ _solve("upgrad", rows).weights == pytest.approx(each, abs=1e-7), seed


def test_mgda_of_two_is_the_closed_form():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a, b = _rows("free", 2, rng) * 10 ** rng.uniform(-1, 1, (2, 1))
        share = np.clip((b - a) @ b / ((a - b) @ (a - b)), 0, 1)
        assert _solve("mgda", np.stack([a, b])).weights == pytest.approx([share, 1 - share], abs=1e-12)


def test_two_opposing_gradients_are_projected_as_pcgrad_does():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(2, 2))
        b = b if a @ b < 0 else -b
        d = (a - (a @ b) / (b @ b) * b + b - (a @ b) / (a @ a) * a) / 2
        assert np.stack([a, b]).T @ _solve("upgrad", np.stack([a, b])).weights == pytest.approx(d, abs=1e-12)


@pytest.mark.parametrize("word", ["upgrad", "dualproj"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_task_is_set_back(word, kind):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = _rows(kind, int(rng.integers(2, 9)), rng, SIZES[seed % 5])
        p = rng.uniform(0, 5, len(rows))
        d = rows.T @ _solve(word, rows, p).weights
        size = p @ np.linalg.norm(rows, axis=1) / len(rows)
        assert (rows @ d >= -1e-9 * np.linalg.norm(rows, axis=1) * size).all()


def test_cagrad_of_two_is_the_best_of_a_grid():
    share = np.linspace(0, 1, 1_000_001)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = _rows("free", 2, rng) * 10 ** rng.uniform(-0.5, 0.5, (2, 1))
        c, mean = rng.uniform(0.1, 0.9), rows.mean(0)
        (a, b), h = rows, rows @ mean
        square = share**2 * (a @ a) + 2 * share * (1 - share) * (a @ b) + (1 - share) ** 2 * (b @ b)
        w = share[np.argmin(share * h[0] + (1 - share) * h[1] + c * np.linalg.norm(mean) * np.sqrt(square))]
        g = w * a + (1 - w) * b
        d = mean + c * np.linalg.norm(mean) * g / np.linalg.norm(g)
        assert rows.T @ _solve("cagrad", rows, c=c).weights == pytest.approx(d, abs=1e-5)


def test_cagrad_equals_a_general_optimiser():
    """The paper's dual problem bounds min_k <g_k, d> from above, and touches it."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = _rows("free", int(rng.integers(2, 7)), rng)
        c, mean, count = rng.uniform(0.1, 0.9), rows.mean(0), len(rows)
        d = rows.T @ _solve("cagrad", rows, c=c).weights
        dual = minimize(
            lambda w, rows=rows, mean=mean, c=c: (
                w @ rows @ mean + c * np.linalg.norm(mean) * np.linalg.norm(rows.T @ w)
            ),
            np.full(count, 1 / count),
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        assert np.linalg.norm(d - mean) <= c * np.linalg.norm(mean) * (1 + 1e-9)
        assert (rows @ d).min() == pytest.approx(dual.fun, abs=1e-6)
        assert (rows @ d).min() <= dual.fun + 1e-9


# -- what follows from the definitions


def test_cagrad_of_no_distance_is_the_mean():
    rows = _rows("conflict", 5, np.random.default_rng(0), "1..1e6")
    assert _solve("cagrad", rows, c=0).weights.tolist() == [0.2] * 5


def test_fairgrad_of_one_is_nash():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = _rows(KINDS[seed % len(KINDS)], 5, rng, SIZES[seed % 5])
        p = rng.uniform(0.2, 5, 5)
        nash, fair = _solve("nashmtl", rows, p), _solve("fairgrad", rows, p, alpha=1.0)
        assert fair.weights == pytest.approx(nash.weights, rel=1e-12)


def test_nash_is_the_largest_product_of_gains():
    """No direction of the same length has a larger sum of the logarithms of the gains."""
    rng = np.random.default_rng(0)
    rows = _rows("free", 4, rng, "1..1e6")
    d = rows.T @ _solve("nashmtl", rows).weights
    best = np.log(rows @ d).sum()
    for _ in range(200):
        other = d + 0.01 * np.linalg.norm(d) * rng.normal(size=len(d)) / np.sqrt(len(d))
        other *= np.linalg.norm(d) / np.linalg.norm(other)
        assert np.log(rows @ other).sum() < best


def test_fairness_goes_from_the_sum_to_the_worst_served():
    rows = _rows("free", 4, np.random.default_rng(0))
    unit = lambda d: d / np.linalg.norm(d)  # noqa: E731
    d = {alpha: unit(rows.T @ _solve("fairgrad", rows, alpha=alpha).weights) for alpha in (0.1, 100.0)}
    assert d[0.1] @ unit(rows.sum(0)) > 0.99
    assert d[100.0] @ unit(rows.T @ _solve("mgda", rows).weights) > 0.999


@pytest.mark.parametrize("word", METHODS)
def test_dependent_rows_have_one_update_in_any_order(word):
    for kind in ("parallel", "plane", "dependent", "opposite"):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            rows, order = _rows(kind, 5, rng), rng.permutation(5)
            one, other = _solve(word, rows), _solve(word, rows[order])
            assert one.note == other.note
            d, e = rows.T @ one.weights, rows[order].T @ other.weights
            assert e == pytest.approx(d, abs=1e-6 * max(1.0, np.linalg.norm(d)))


@pytest.mark.parametrize(
    ("word", "settings", "alpha"),
    [
        *((word, {}, 0.0) for word in QUADRATIC),
        ("nashmtl", {}, 1.0),
        ("fairgrad", {}, 2.0),
        ("fairgrad", {"alpha": 5.0}, 5.0),
    ],
)
def test_the_size_of_all_gradients_changes_what_it_must(word, settings, alpha):
    """Gradients of s times the size: fair weights are s^(-2 alpha / (1 + alpha)) times, the others' do not change."""
    for seed in range(10):
        rows = _rows("free", 5, np.random.default_rng(seed), "1..1e6")
        one = _solve(word, rows, **settings).weights
        for s in (1e-5, 1e-3, 1e3, 1e5):
            factor = s ** (-2 * alpha / (1 + alpha))
            assert _solve(word, rows * s, **settings).weights == pytest.approx(
                one * factor, rel=1e-7, abs=1e-12 * factor
            )


def test_nash_does_not_know_the_size_of_any_gradient():
    rng = np.random.default_rng(0)
    rows = _rows("free", 5, rng)
    sizes = 10 ** rng.uniform(-3, 3, 5)
    one, other = _solve("nashmtl", rows).weights, _solve("nashmtl", rows * sizes[:, None]).weights
    assert other * sizes == pytest.approx(one, rel=1e-9)


def test_preferences_say_what_the_docstrings_say():
    rows = _rows("free", 4, np.random.default_rng(2))
    p = np.array([1.0, 2.0, 0.5, 1.0])
    gains = rows @ rows.T @ _solve("mgda", rows, p).weights
    assert (gains / p) == pytest.approx(np.full(4, (gains / p).min()), rel=0.5)
    w = _solve("mgda", rows, p).weights
    assert (gains / p)[w > 1e-9] == pytest.approx((gains / p).min(), rel=1e-9)
    for word in ("upgrad", "dualproj"):
        apart = _rows("free", 4, np.random.default_rng(2))
        apart[:, :4] += 10 * np.eye(4)[:, : apart.shape[1]] + 10  # nobody conflicts
        assert _solve(word, apart, p).weights == pytest.approx(p / 4)
    assert _solve("cagrad", rows, p, c=0.0).weights == pytest.approx(p / 4)
    a = _solve("nashmtl", rows, p).weights
    assert a * (rows @ rows.T @ a) == pytest.approx(p)


@pytest.mark.parametrize("word", METHODS)
@pytest.mark.parametrize("preference", [[1.0, 1.0, 1.0, 1.0], [0.5, 1.0, 2.0, 3.0]])
def test_a_gradient_of_zero_is_as_one_that_is_not_there(word, preference):
    """In the size of the library, where all weights are of one convention."""
    for kind in ("free", "plane", "alike"):
        rows = _rows(kind, 4, np.random.default_rng(4), "1..1e6")
        rows[1] = 0
        p, rest = np.array(preference), [0, 2, 3]
        balance = find(Balance, word)()
        one = balance.sized(np.asarray(_solve(word, rows, p).weights), p)
        other = balance.sized(np.asarray(_solve(word, rows[rest], p[rest]).weights), p[rest])
        assert np.isfinite(one).all()
        assert rows.T @ one == pytest.approx(rows[rest].T @ other, rel=1e-6)


# -- points at which no direction helps all


@pytest.mark.parametrize("kind", ["opposite", "cancel", "with a third"])
@pytest.mark.parametrize("word", FAIR)
def test_where_there_is_no_solution_there_is_a_certificate(word, kind):
    rng = np.random.default_rng(0)
    a, b, c = _rows("free", 3, rng)
    rows = np.stack({"opposite": [a, -3 * a], "cancel": [a, b, -a - b], "with a third": [a, -1e-3 * a, c]}[kind])
    found = _solve(word, rows)
    assert found.note == "Pareto-stationary"
    x = found.weights * np.linalg.norm(rows, axis=1)
    assert (x >= 0).all()
    assert np.linalg.norm(rows.T @ found.weights) / x.sum() <= TIGHT
    assert found.residual <= TIGHT


@pytest.mark.parametrize("near", [1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-10, 1e-14])
@pytest.mark.parametrize("word", METHODS)
def test_nearly_opposite_gradients(word, near):
    rng = np.random.default_rng(0)
    a, b, c = _rows("free", 3, rng)
    for rows in (np.stack([a, near * b - a]), np.stack([a, near * b - a, c])):
        found = _solve(word, rows)
        assert np.isfinite(found.weights).all()
        assert found.residual <= solvers.FLAT
        if near >= 1e-6:
            assert not found.note
            assert _missed(word, rows, found, np.ones(len(rows))) <= TIGHT


# -- numbers that others got wrong


def _three(sizes) -> np.ndarray:
    """Unit gradients with cosines -0.82, 0.70, -0.58."""
    cosines = np.array([[1, -0.82, 0.70], [-0.82, 1, -0.58], [0.70, -0.58, 1]])
    return np.linalg.cholesky(cosines) * np.asarray(sizes, dtype=float)[:, None]


def _least_cosine(rows: np.ndarray) -> float:
    d = rows.T @ _solve("upgrad", rows).weights
    return float((rows @ d / np.linalg.norm(rows, axis=1)).min() / np.linalg.norm(d))


@pytest.mark.parametrize("size", [1e-8, 1e-5, 1e-3, 1.0, 1e3, 1e8])
def test_upgrad_of_three_conflicting_gradients_of_any_size(size):
    assert _least_cosine(_three([size] * 3)) == pytest.approx(0.20, abs=0.01)


@pytest.mark.parametrize(("ratio", "cosine"), [(1e2, 0.053), (1e3, 0.0), (1e4, 0.0), (1e6, 0.0)])
def test_upgrad_of_unequal_gradients_sets_nobody_back(ratio, cosine):
    found = max(_least_cosine(_three([ratio**-s for s in order])) for order in permutations((0, 0.5, 1)))
    if ratio == 1e2:
        assert _least_cosine(_three([1, ratio**-0.5, 1 / ratio])) == pytest.approx(cosine, abs=0.005)
    assert found > cosine * 0.9


@pytest.mark.parametrize("word", METHODS)
@pytest.mark.parametrize(
    ("name", "count", "width", "sizes"),
    [
        ("A", 2, 10, [1, 1]),
        ("B", 3, 50, [1, 1, 1]),
        ("C", 3, 3, [1, 1, 1]),
        ("D", 3, 10, [1e4, 1e2, 1]),
        ("E", 8, 200, [1] * 8),
        ("F", 3, 2, [1, 1, 1]),
        ("G", 3, 10, [7e-5] * 3),
        ("H", 3, 10, [1e5] * 3),
    ],
)
def test_the_cases_that_libraries_get_wrong(word, name, count, width, sizes):
    for seed in range(10):
        rows = np.random.default_rng(seed).normal(size=(count, width))
        if name == "C":
            rows = _three([1, 1, 1])
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.array(sizes)[:, None]
        found = _solve(word, rows)
        assert max(found.residual, _missed(word, rows, found, np.ones(count))) <= 1e-12


# -- what is said


def test_a_wrong_answer_is_told(monkeypatch):
    """A residual that no wrong weights could raise would say nothing."""
    rows = _rows("conflict", 5, np.random.default_rng(0))
    monkeypatch.setattr(solvers, "nnls", lambda a, q: (np.full(a.shape[1], 0.3), 0.0))
    assert {*QUADRATIC, *FAIR} == set(METHODS)
    for word in QUADRATIC:
        assert _solve(word, rows).residual > 1e-3, word
    monkeypatch.undo()
    monkeypatch.setattr(solvers, "_balanced", lambda cosines, q, beta: np.full(len(q), 0.3))
    for word in FAIR:
        assert _solve(word, rows).residual > 1e-3, word


def test_settings_out_of_range():
    with pytest.raises(ValueError, match=r"`c`.*0 or more.*-1"):
        find(Balance, "cagrad")(c=-1)
    with pytest.raises(ValueError, match=r"`alpha`.*between.*0\."):
        find(Balance, "fairgrad")(alpha=0.0)


def test_tensors_come_back_as_tensors():
    rows = torch.eye(3, dtype=torch.float64)
    assert torch.equal(find(Balance, "upgrad")().weights(rows @ rows.T), torch.full((3,), 1 / 3, dtype=torch.float64))
