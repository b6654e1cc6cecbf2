"""Balances on the Gramian with closed forms or with a memory: what defines each, computed another way in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from manyheads.balance import Balance
from manyheads.balance.pcgrad import turns
from manyheads.catalog import find

SCALES = (1e-8, 1.0, 1e8)
RATIOS = (1.0, 1e3, 1e6)
UNSOLVED = ("pcgrad", "gradvac", "gradnorm")


def make(word, **settings):
    """A fresh balance; the primary task of PCD is the first."""
    return find(Balance, word)(**({"primary": "0"} if word == "pcd" else {}) | settings)


def gradients(rng, tasks, n=60, scale=1.0, ratio=1.0, against=0.0):
    """(tasks, n), each row moved against the mean of all, from `scale` to `scale` * `ratio` long."""
    rows = rng.normal(size=(tasks, n))
    rows -= against * rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return scale * np.logspace(0, math.log10(ratio), tasks)[rng.permutation(tasks), None] * rows


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("word", UNSOLVED)
def test_a_procedure_has_no_equation_to_miss(word, rng):
    rows = gradients(rng, 5, against=1.0)
    balance = make(word)
    balance.weights(rows @ rows.T, np.ones(5))
    assert math.isnan(balance.residual)
    assert not balance.note


# -- IMTL-G and ConFIG


@pytest.mark.parametrize("tasks", [2, 3, 7, 40])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("against", [0.0, 0.9])
def test_imtlg_has_equal_projections(tasks, scale, ratio, against, rng):
    balance = make("imtlg")
    rows = gradients(rng, tasks, scale=scale, ratio=ratio, against=against)
    weights = balance.weights(rows @ rows.T)
    assert not balance.note
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    direction = weights @ rows
    along = unit(rows) @ unit(direction)
    assert np.ptp(along) <= 1e-8
    assert along.min() > 0
    assert balance.residual <= 1e-10


def test_imtlg_projects_in_proportion_to_the_preferences(rng):
    rows = gradients(rng, 4, ratio=50.0)
    preference = np.array([1.0, 3.0, 0.5, 2.0])
    weights = make("imtlg").weights(rows @ rows.T, preference=preference)
    along = unit(rows) @ (weights @ rows)
    assert along / along[0] == pytest.approx(preference, rel=1e-10)


@pytest.mark.parametrize("tasks", [3, 5, 12])
def test_imtlg_of_dependent_rows(tasks, rng):
    """Equal projections where a direction has them; the nearest otherwise, by a slow pseudo-inverse of the rows."""
    basis = rng.normal(size=(tasks - 1, 60))
    rows = np.vstack([basis, basis[0]])  # the last one is a copy: equal projections exist
    rows *= rng.uniform(0.01, 100, size=(tasks, 1))
    balance = make("imtlg")
    direction = balance.weights(rows @ rows.T) @ rows
    assert np.ptp(unit(rows) @ unit(direction)) <= 1e-8
    assert not balance.note
    flat = rng.uniform(0.2, 1.5, size=(tasks, 2)) @ rng.normal(size=(2, 60))
    direction = balance.weights(flat @ flat.T) @ flat
    nearest = np.linalg.pinv(unit(flat), rcond=1e-8) @ np.ones(tasks)
    assert unit(direction) == pytest.approx(unit(nearest), abs=1e-9)
    assert balance.note == "no direction has equal projections"


def test_imtlg_stops_between_opposite_gradients():
    balance = make("imtlg")
    weights = balance.weights([[4.0, -2.0], [-2.0, 1.0]])
    assert weights == pytest.approx([1 / 3, 2 / 3])
    assert balance.note == "Pareto-stationary"


def test_imtlg_does_not_climb():
    """Three gradients whose equal-projection weights sum to less than 0: the direction is kept, downhill for all."""
    cosines = np.array([[1.0, 0.9, 0.75], [0.9, 1.0, 0.95], [0.75, 0.95, 1.0]])
    lengths = np.array([1.0, 0.01, 1.0])
    assert np.linalg.eigvalsh(cosines)[0] > 0
    balance = make("imtlg")
    weights = balance.weights(cosines * lengths[:, None] * lengths)
    raw = np.linalg.solve(cosines, np.ones(3)) / lengths
    assert raw.sum() < 0
    assert weights == pytest.approx(raw / np.abs(raw).sum())
    assert (cosines @ (weights * lengths) > 0).all()
    assert balance.note == "weights cannot sum to 1"


@pytest.mark.parametrize("ratio", RATIOS)
def test_config_has_equal_cosines_and_the_length_of_its_definition(ratio, rng):
    rows = gradients(rng, 6, ratio=ratio, against=0.5)
    direction = make("config").weights(rows @ rows.T) @ rows
    q = unit(np.linalg.pinv(unit(rows)) @ np.ones(6))
    assert direction == pytest.approx((rows @ q).sum() * q, rel=1e-8, abs=1e-10 * ratio)
    assert np.ptp(unit(rows) @ unit(direction)) <= 1e-8


# -- Aligned-MTL


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_aligned_is_the_mean_along_singular_directions(scale, ratio, rng):
    """From a singular value decomposition of the rows themselves, direction by direction."""
    rows = gradients(rng, 5, ratio=ratio, against=0.5)
    preference = rng.uniform(0.5, 2, 5)
    left, sigma, right = np.linalg.svd(rows, full_matrices=False)
    size = {"min": sigma[-1], "median": np.median(sigma), "rmse": math.sqrt((sigma**2).mean())}[scale]
    slow = sum(size * (preference / preference.sum() @ left[:, k]) * right[k] for k in range(5))
    balance = make("alignedmtl", scale=scale)
    direction = balance.weights(rows @ rows.T, preference=preference) @ rows
    assert direction == pytest.approx(slow, abs=1e-8 * np.linalg.norm(slow))
    assert balance.residual <= 1e-8


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("ratio", RATIOS)
def test_aligned_rows_have_condition_one(rank, ratio, rng):
    """The aligned rows, one by one from preferences that name one task; dependent rows do not count as directions."""
    tasks = 4
    rows = rng.normal(size=(tasks, rank)) @ rng.normal(size=(rank, 60))
    rows *= np.logspace(0, math.log10(ratio), tasks)[:, None]
    balance = make("alignedmtl")
    aligned = np.array([balance.weights(rows @ rows.T, preference=p) @ rows for p in np.eye(tasks)])
    found = np.linalg.svd(aligned, compute_uv=False)
    assert found[rank - 1] == pytest.approx(found[0], rel=1e-6)
    assert np.all(found[rank:] <= 1e-6 * found[0])
    assert found[0] == pytest.approx(np.linalg.svd(rows, compute_uv=False)[rank - 1], rel=1e-6)


def test_aligned_settings():
    with pytest.raises(ValueError, match=r"`scale`.*min, median, rmse.*`max`"):
        make("alignedmtl", scale="max")


# -- surgery


def slow_pcgrad(rows, order, preference):
    """On vectors, as the paper has it; `order(i)` gives the other tasks in turn."""
    altered = rows.copy()
    for i in range(len(rows)):
        for j in order(i):
            along = altered[i] @ rows[j]
            if along < 0:
                altered[i] -= along / (rows[j] @ rows[j]) * rows[j]
    return preference @ altered


def slow_gradvac(rows, order, targets, beta):
    altered = rows.copy()
    for i in range(len(rows)):
        for j in order(i):
            v, g = altered[i], rows[j]
            c, t = v @ g / math.sqrt((v @ v) * (g @ g)), targets[i, j]
            if c < t:
                rise = t * math.sqrt(1 - c**2) - c * math.sqrt(1 - t**2)
                altered[i] = v + math.sqrt(v @ v) * rise / (math.sqrt(g @ g) * math.sqrt(1 - t**2)) * g
            targets[i, j] = (1 - beta) * t + beta * c
    return altered.sum(0)


def drawn(seed, tasks, step):
    def order(i):
        others = [t for t in tasks if t != tasks[i]]
        return [tasks.index(others[k]) for k in turns(seed, tasks[i], step, others)]

    return order


@pytest.mark.parametrize("tasks", [2, 3, 6, 12])
@pytest.mark.parametrize("ratio", RATIOS)
def test_pcgrad_is_surgery_on_vectors(tasks, ratio, rng):
    names = [f"task {i}" for i in range(tasks)]
    preference = rng.uniform(0.5, 2, tasks)
    balance = make("pcgrad", seed=3)
    for step in range(5):
        rows = gradients(rng, tasks, n=20, ratio=ratio, against=1.2)
        fast = balance.weights(rows @ rows.T, tasks=names, preference=preference) @ rows
        slow = slow_pcgrad(rows, drawn(3, names, step), preference)
        assert np.linalg.norm(fast - slow) <= 1e-12 * np.linalg.norm(slow) + 1e-13 * np.abs(rows).sum()


def test_pcgrad_of_two_tasks_in_closed_form():
    a, b, c = 4.0, 9.0, -3.0
    assert make("pcgrad").weights([[a, c], [c, b]]) == pytest.approx([1 - c / a, 1 - c / b], abs=1e-14)
    assert make("pcgrad").weights([[a, -c], [-c, b]]) == pytest.approx([1, 1], abs=0)
    assert make("pcgrad").weights([[a, -6.0], [-6.0, b]]) == pytest.approx([2.5, 5 / 3])  # opposite: the update is 0


def test_orders_are_fair_and_know_nothing_of_places():
    names = list("abcd")
    counts = {}
    for step in range(6000):
        order = tuple(names[1:][k] for k in turns(0, "a", step, names[1:]))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert max(abs(n - 1000) for n in counts.values()) < 150
    for step in range(50):
        full = ["bcd"[k] for k in turns(0, "a", step, "bcd")]
        assert ["db"[k] for k in turns(0, "a", step, "db")] == [t for t in full if t != "c"]
    assert [turns(0, "a", s, "bcd") for s in range(9)] != [turns(1, "a", s, "bcd") for s in range(9)]
    assert [turns(0, "a", s, "bcd") for s in range(9)] != [turns(0, "e", s, "bcd") for s in range(9)]


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_gradvac_is_surgery_on_vectors_over_eight_calls(tasks, rng):
    names = [f"task {i}" for i in range(tasks)]
    balance = make("gradvac", seed=5, beta=0.3)
    targets = np.zeros((tasks, tasks))
    base = rng.normal(size=20)  # in common, so that targets leave 0
    for step in range(8):
        rows = gradients(rng, tasks, n=20, ratio=30.0) * 3 + base
        if step % 2:
            rows[0] -= 2 * base
        fast = balance.weights(rows @ rows.T, tasks=names) @ rows
        slow = slow_gradvac(rows, drawn(5, names, step), targets, 0.3)
        assert np.linalg.norm(fast - slow) <= 1e-10 * np.linalg.norm(slow)
        for i, j in itertools.permutations(range(tasks), 2):
            assert balance.state[names[i]]["cosines"][names[j]] == pytest.approx(targets[i, j], abs=1e-12)
    assert targets.max() > 0.03


def test_gradvac_meets_its_targets():
    """Two gradients, targets learnt from agreement, then a conflict: the altered one has the target's cosine."""
    balance = make("gradvac", beta=0.5)
    for _ in range(3):
        balance.weights([[1.0, 0.8], [0.8, 1.0]])
    target = balance.state["0"]["cosines"]["1"]
    assert target == pytest.approx(0.8 * (1 - 0.5**3))
    rows = np.array([[1.0, 0.0], [-0.5, 2.0]])
    weights = balance.weights(rows @ rows.T, preference=[1.0, 0.0])  # the altered first one alone
    assert unit(weights @ rows) @ unit(rows[1]) == pytest.approx(target, abs=1e-12)


def test_gradvac_stays_finite_after_long_agreement():
    balance = make("gradvac", beta=1.0)
    tasks = [str(i) for i in range(40)]
    balance.weights(np.ones((40, 40)))
    assert balance.state["0"]["cosines"]["1"] == 1.0
    for cosine in (0.0, -0.5 / 39, -1 / 39, 0.999):
        balance.load_state_dict(balance.state_dict() | {"state": dict.fromkeys(tasks, _agreed(tasks))})
        weights = balance.weights(np.full((40, 40), cosine) + (1 - cosine) * np.eye(40))
        assert np.isfinite(weights).all()
    for one in balance.state.values():
        assert all(-1 <= c <= 1 for c in one["cosines"].values())


def _agreed(tasks):
    return {"steps": 1, "cosines": dict.fromkeys(tasks, 1.0)}


def test_gradvac_settings():
    with pytest.raises(ValueError, match=r"`beta`.*0 to 1.*-0.1"):
        make("gradvac", beta=-0.1)


# -- GradNorm


def test_gradnorm_moves_as_written_by_hand(rng):
    """The gradient of the paper's loss by autograd, and torch's Adam."""
    alpha, lr = 1.5, 0.05
    balance = make("gradnorm", alpha=alpha, lr=lr)
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=lr)
    first = None
    for _ in range(40):
        rows, losses = gradients(rng, 3, ratio=10.0), rng.uniform(0.5, 2, 3)
        first = losses if first is None else first
        assert balance.weights(rows @ rows.T, losses) == pytest.approx(w.detach().numpy(), rel=1e-9)
        lengths = torch.tensor(np.linalg.norm(rows, axis=1))
        ratios = torch.tensor(losses / first)
        pulls = w * lengths
        mean = pulls.mean().detach()
        due = mean * (ratios / ratios.mean()) ** alpha
        adam.zero_grad()
        ((pulls - due).abs().sum() / mean).backward()
        adam.step()
        with torch.no_grad():
            w.copy_(w.clamp(min=1e-3) * 3 / w.clamp(min=1e-3).sum())


@pytest.mark.parametrize("scale", SCALES)
def test_gradnorm_comes_to_rest_where_pulls_have_their_due(scale):
    """Constant gradients and rates: w_k |g_k| follows r_k^alpha, whatever the scale of gradients and losses."""
    lengths = scale * np.array([1.0, 3.0, 0.5])
    balance = make("gradnorm", alpha=1.5, lr=1e-3)
    losses = np.array([2.0, 1.0, 4.0])
    balance.weights(np.diag(lengths**2), scale * losses)
    for _ in range(4000):
        weights = balance.weights(np.diag(lengths**2), scale * losses * np.array([0.5, 0.4, 0.6]))
    pulls = weights * lengths
    due = np.array([0.5, 0.4, 0.6]) ** 1.5
    assert pulls / pulls.mean() == pytest.approx(due / due.mean(), rel=0.02)
    assert weights.sum() == pytest.approx(3)


def test_gradnorm_starts_as_the_sum_and_takes_preferences():
    weights = make("gradnorm").weights(np.diag([1.0, 100.0]), [1.0, 2.0], preference=[3.0, 0.5])
    assert weights == pytest.approx([3.0, 0.5])


def test_gradnorm_of_losses_that_say_nothing():
    balance = make("gradnorm")
    for losses in ([0.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1e300, -1e300, 1e-300], [1e-300, 1e300, 1e300]):
        for _ in range(300):
            weights = balance.weights(np.diag([1.0, 0.0, 1e12]), losses)
            assert np.isfinite(weights).all()
            assert (weights > 0).all()
    with pytest.raises(ValueError, match=r"`GradNorm`.*losses"):
        balance.weights(np.eye(3))
    with pytest.raises(ValueError, match=r"`alpha`.*-1"):
        make("gradnorm", alpha=-1)
    with pytest.raises(ValueError, match=r"`lr`.*0"):
        make("gradnorm", lr=0)


# -- PCD


def enumerated(rows, tau):
    """The nearest point to rows[0] that leaves every other row its share, by trying every set of tight constraints."""
    first, others = rows[0], unit(rows[1:])
    wanted = tau * np.linalg.norm(rows[1:], axis=1)
    away, found = math.inf, None
    for size in range(len(others) + 1):
        for tight in map(list, itertools.combinations(range(len(others)), size)):
            a = others[tight]
            d = first + (np.linalg.pinv(a) @ (wanted[tight] - a @ first) if tight else 0)
            met = others @ d - wanted >= -1e-9 * np.linalg.norm(d)
            if met.all() and np.linalg.norm(d - first) < away:
                away, found = np.linalg.norm(d - first), d
    return found


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("ratio", RATIOS)
def test_pcd_is_the_nearest_direction_that_leaves_the_shares(tau, tasks, ratio, rng):
    balance = make("pcd", primary="0", tau=tau, beta=0.6, eps=0.0)
    mean = np.zeros(tasks)
    for step in range(1, 6):
        rows = gradients(rng, tasks, ratio=ratio, against=1.1) * rng.uniform(0.5, 2, size=(tasks, 1))
        mean = 0.6 * mean + 0.4 * (rows**2).sum(1)
        slow = enumerated(rows / np.sqrt(mean / (1 - 0.6**step))[:, None], tau)
        direction = balance.weights(rows @ rows.T) @ rows
        assert np.linalg.norm(direction) == pytest.approx(np.linalg.norm(rows[0]))
        assert unit(direction) == pytest.approx(unit(slow), abs=1e-8)
        assert balance.residual <= 1e-9
        assert not balance.note


def test_pcd_without_conflict_is_the_primary_gradient_alone():
    assert make("pcd").weights([[4.0, 1.0], [1.0, 9.0]]) == pytest.approx([1, 0], abs=0)


def test_pcd_scales_shares_by_preference(rng):
    """Just enough is done: where the constraint binds, the share of each task is tau p_j."""
    rows = unit(gradients(rng, 3, against=1.3))
    weights = make("pcd", primary="0", tau=0.1, eps=0.0).weights(rows @ rows.T, preference=[5.0, 1.0, 3.0])
    nearest = weights @ rows / weights[0]  # q, before it is brought to the length of g_1
    assert rows[1:] @ nearest == pytest.approx([0.1, 0.3])


def test_pcd_where_there_is_nothing_to_do():
    balance = make("pcd", primary="b")
    three = {"tasks": ["a", "b", "c"]}
    contradictory = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    assert balance.weights(contradictory, **three) == pytest.approx([0, 1, 0])
    assert balance.note == "contradictory shares: primary gradient"
    assert balance.weights(np.diag([1.0, 0.0, 1.0]), **three) == pytest.approx([0, 0, 0])
    assert balance.note == "primary gradient is zero"
    assert balance.weights(np.eye(2), tasks=["a", "c"]) == pytest.approx([0.5, 0.5])
    assert balance.note == "primary task absent: mean"
    with pytest.raises(ValueError, match=r"`primary`.*`bb`.*`b`"):
        make("pcd", primary="bb").check(["a", "b"])
    make("pcd", primary="b").check(["a", "b"])
    for setting in ({"tau": 1.5}, {"beta": 1.0}, {"eps": -1.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            make("pcd", **setting)


# -- against another library, where that is exact


@pytest.mark.parametrize("word", ["imtlg", "config", "alignedmtl", "pcgrad", "pcd", "gradvac"])
@pytest.mark.parametrize("size", [0.1, 1.0, 1e3])
def test_as_another_library_has_it(word, size, rng):
    aggregation = pytest.importorskip("torchjd.aggregation")
    peer = {
        "imtlg": lambda: aggregation.IMTLG(),
        "config": lambda: aggregation.ConFIG(),
        "alignedmtl": lambda: aggregation.AlignedMTL(),
        "pcgrad": lambda: aggregation.PCGrad(),
        "gradvac": lambda: aggregation.GradVac(beta=0.2),
        "pcd": lambda: aggregation.PCD(tau=0.3),
    }[word]()
    settings = {"pcd": {"primary": "0", "tau": 0.3}, "gradvac": {"beta": 0.2}}.get(word, {})
    balance = make(word, **settings)
    tasks = 2 if word in ("pcgrad", "gradvac") else 5  # with more, their order is drawn otherwise
    for _ in range(8):
        rows = gradients(rng, tasks, scale=size, ratio=10.0, against=0.95)
        theirs = peer(torch.tensor(rows)).numpy()
        ours = balance.weights(rows @ rows.T) @ rows
        away = 1e-5 if word == "gradvac" else 1e-9  # it adds 1e-8 to the lengths
        assert np.linalg.norm(ours - theirs) <= away * np.linalg.norm(theirs)
