"""Grouping: against every grouping there is, on gains with a known answer, and the tree against scipy."""

import itertools
import time

import numpy as np
import pytest
import scipy.cluster.hierarchy
from scipy.spatial.distance import squareform

from manyheads.grouping.partition import advised, best, centred, dendrogram, gains_of, value_of
from manyheads.results import Dendrogram, Grouping, Relatedness


def named(z):
    names = [f"t{i}" for i in range(len(z))]
    return {a: {b: float(z[i, j]) for j, b in enumerate(names) if i != j} for i, a in enumerate(names)}


def blocks(sizes, within=0.9, between=0.3, noise=0.0, seed=0):
    """Similarities of groups of these sizes."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    s = np.where(label[:, None] == label, within, between)
    e = noise * np.random.default_rng(seed).normal(size=s.shape)
    return s + (e + e.T) / 2


def gain_in(gains, group, task):
    others = [j for j in group if j != task]
    return sum(gains[j][task] for j in others) / len(others) if others else 0.0


def brute(gains, budget, overlap, cost):
    """The largest total over every family of groups that covers the tasks and can be paid for."""
    tasks = list(gains)
    every = [g for n in range(1, len(tasks) + 1) for g in itertools.combinations(tasks, n)]
    worth = {(g, t): gain_in(gains, g, t) for g in every for t in g}
    top = -np.inf
    for n in range(1, len(tasks) + 1):
        if cost is None and n > budget:
            break
        for family in itertools.combinations(every, n):
            if sum(map(len, family)) < len(tasks) or (not overlap and sum(map(len, family)) != len(tasks)):
                continue
            if cost is not None and sum(map(cost, family)) > budget + 1e-9:
                continue
            best_of = [max((worth[g, t] for g in family if t in g), default=-np.inf) for t in tasks]
            top = max(top, sum(best_of))
    return top


def prices(kind):
    return {
        "one each": None,
        "by size": lambda group: 0.5 + 0.25 * len(group),
        "a dear one": lambda group: 2.0 if "t0" in group else 1.0,
        "halves": lambda group: 0.5 if len(group) < 3 else 1.0,
    }[kind]


@pytest.mark.parametrize("kind", ["one each", "by size", "a dear one", "halves"])
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("k", "budget"), [(1, 2), (2, 2), (3, 2), (3, 3), (4, 1.9), (4, 2.3), (4, 4), (5, 3)])
def test_equals_the_best_of_all_groupings(k, budget, overlap, kind):
    cost = prices(kind)
    for seed in range(2):
        z = np.random.default_rng([seed, k]).normal(size=(k, k))
        gains, known = named(z), -np.inf
        if k < 5 or budget < 3 or cost is None:
            known = brute(gains, budget, overlap, cost)
        if known == -np.inf and k < 5:
            with pytest.raises(ValueError, match="`budget` should"):
                best(gains, budget, overlap=overlap, cost=cost)
            continue
        found = best(gains, budget, overlap=overlap, cost=cost)
        assert found.exact
        if known > -np.inf:
            assert found.total == pytest.approx(known, abs=1e-9)
        check(found, gains, cost)


@pytest.mark.parametrize("overlap", [True, False])
def test_six_tasks(overlap):
    gains = named(np.random.default_rng(6).normal(size=(6, 6)))
    for budget in (1, 2, 3):
        found = best(gains, budget, overlap=overlap)
        assert found.total == pytest.approx(brute(gains, budget, overlap, None), abs=1e-9)
        check(found, gains, None)


def check(found, gains, cost):
    """What a grouping says of itself is so."""
    assert set(found.serves) == set(gains)
    for task, group in found.serves.items():
        assert task in found.groups[group]
        assert found.gains[task] == pytest.approx(gain_in(gains, found.groups[group], task))
        assert found.gains[task] == pytest.approx(value_of(gains, found.groups)[task])
    assert set(found.serves.values()) == set(range(len(found.groups)))
    assert found.total == pytest.approx(sum(found.gains.values()))
    assert found.cost == pytest.approx(sum(map(cost, found.groups)) if cost else len(found.groups))
    assert found.cost <= found.budget + 1e-9
    if not found.overlap:
        assert sum(map(len, found.groups)) == len(gains)
    assert Grouping.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("overlap", [True, False])
def test_fifteen_tasks_take_seconds_and_beat_the_search_for_many(overlap, monkeypatch):
    gains = named(np.random.default_rng(0).normal(size=(15, 15)))
    for budget in (3, 6):
        started = time.perf_counter()
        found = best(gains, budget, overlap=overlap)
        assert time.perf_counter() - started < 20
        assert found.exact
        check(found, gains, None)
        with monkeypatch.context() as patch:
            patch.setattr("manyheads.grouping.partition.EXACT", 0)
            near = best(gains, budget, overlap=overlap)
        assert not near.exact
        assert "not for certain the best" in near.note
        assert 0.9 * found.total <= near.total <= found.total + 1e-9


@pytest.mark.parametrize("kind", ["by size", "a dear one"])
def test_the_search_keeps_to_the_budget(kind, monkeypatch):
    gains, cost = named(np.random.default_rng(1).normal(size=(9, 9))), prices(kind)
    exact = best(gains, 5, cost=cost)
    monkeypatch.setattr("manyheads.grouping.partition.EXACT", 0)
    found = best(gains, 5, cost=cost)
    check(found, gains, cost)
    assert 0.8 * exact.total <= found.total <= exact.total + 1e-9


@pytest.mark.parametrize("overlap", [True, False])
def test_many_tasks_in_known_groups(overlap):
    sizes = (7, 6, 5, 5, 1)
    order = np.random.default_rng(0).permutation(sum(sizes))
    z = blocks(sizes, 0.2, -0.2, 0.05)[np.ix_(order, order)]
    found = best(named(z), 5, overlap=overlap)
    label = np.repeat(np.arange(5), sizes)[order]
    for group in found.groups:
        if not overlap:
            assert len({int(label[int(t[1:])]) for t in group}) == 1
    assert len(found.groups) == 5
    for task, g in found.serves.items():
        assert len({int(label[int(t[1:])]) for t in found.groups[g]}) == 1, task
    assert best(named(z), 5, overlap=overlap) == found


def test_unknown_gains_count_as_none_and_are_told():
    found = best({"a": {"b": None, "c": float("nan")}, "b": {"a": 0.5}, "c": {"a": -1.0, "b": -1.0}}, 3)
    assert found.groups == (("a", "b"), ("c",))
    assert found.gains == {"a": 0.5, "b": 0.0, "c": 0.0}
    assert found.note == "3 of 6 gains are not known and count as 0."


def test_ties_go_to_fewer_models_and_smaller_groups():
    none = named(np.zeros((4, 4)))
    assert best(none, 4).groups == (("t0", "t1", "t2", "t3"),)
    alike = named(np.ones((5, 5)))
    assert best(alike, 3, overlap=True).groups == (("t0", "t1", "t2", "t3", "t4"),)
    apart = best(named(-np.ones((4, 4))), 4)
    assert apart.groups == (("t0",), ("t1",), ("t2",), ("t3",))
    assert best(named(-np.ones((4, 4))), 1).total == -4


def test_a_helper_sits_in_two_groups():
    z = -np.ones((3, 3))
    z[0, 1] = z[0, 2] = 1.0  # the first helps both others, who harm one another, and it
    both, apart = (best(named(z), 3, overlap=o) for o in (True, False))
    assert both.groups == (("t0",), ("t0", "t1"), ("t0", "t2"))
    assert both.serves == {"t0": 0, "t1": 1, "t2": 2}
    assert both.total == 2
    assert apart.total == 0


@pytest.mark.parametrize("overlap", [True, False])
def test_a_model_has_to_add_its_margin(overlap, monkeypatch):
    gains = named(np.random.default_rng(2).normal(size=(6, 6)))
    totals = {n: best(gains, n, overlap=overlap).total for n in range(1, 7)}
    for margin in (0.3, 1.0, 3.0):
        known = max(total - margin * n for n, total in totals.items())
        found = best(gains, 6, overlap=overlap, margin=margin)
        assert found.total - margin * found.cost == pytest.approx(known)
        check(found, gains, None)
    with monkeypatch.context() as patch:
        patch.setattr("manyheads.grouping.partition.EXACT", 0)
        assert best(gains, 6, overlap=overlap, margin=50.0).cost == 1


def test_order_of_tasks_does_not_matter():
    z = np.random.default_rng(0).normal(size=(7, 7))
    order = np.random.default_rng(1).permutation(7)
    gains = named(z)
    mixed = {f"t{i}": gains[f"t{i}"] for i in order}
    sets = [{frozenset(g) for g in best(one, 3).groups} for one in (gains, mixed)]
    assert sets[0] == sets[1]


def test_mistakes():
    with pytest.raises(ValueError, match=r"for a task or more\. Found none\."):
        best({}, 1)
    with pytest.raises(ValueError, match="Found `c` under `a` alone"):
        best({"a": {"c": 1.0}}, 1)
    with pytest.raises(ValueError, match=r"which costs 1 at least\. Found 0\.5\."):
        best({"a": {}}, 0.5)
    with pytest.raises(ValueError, match=r"a number above 0\. Found 0\.0 for a\."):
        best({"a": {}}, 1, cost=lambda _: 0.0)
    with pytest.raises(ValueError, match="Found none with `t2`"):
        value_of(named(np.zeros((3, 3))), [("t0", "t1")])


class TestCentred:
    @pytest.mark.parametrize("sizes", [(3, 3), (3, 3, 1), (2, 2, 2, 2), (5, 1, 1), (4, 2), (2, 2, 1), (3, 1)])
    @pytest.mark.parametrize(("within", "between"), [(0.9, 0.3), (0.72, 0.55), (-0.1, -0.4)])
    @pytest.mark.parametrize("overlap", [True, False])
    def test_known_groups(self, sizes, within, between, overlap):
        z = blocks(sizes, within, between, 0.1 * (within - between))
        label = np.repeat(np.arange(len(sizes)), sizes)
        found = best(centred(named(z)), len(sizes), overlap=overlap)
        served = [sorted({t for t, g in found.serves.items() if g == i}) for i in range(len(found.groups))]
        expected = [[f"t{i}" for i in np.flatnonzero(label == c)] for c in range(len(sizes))]
        assert sorted(served) == sorted(expected)

    def test_more_models_than_groups_are_not_used(self):
        gains = centred(named(blocks((3, 3), noise=0.02)))
        assert set(best(gains, 5, margin=0.5).groups) == {("t0", "t1", "t2"), ("t3", "t4", "t5")}

    def test_the_scale_does_not_matter(self):
        z = blocks((3, 2, 1), noise=0.05)
        once, twice = (centred(named(s)) for s in (z, 7 * z - 20))
        for a, b in itertools.permutations(once, 2):
            assert twice[a][b] == pytest.approx(once[a][b])

    def test_nothing_to_tell_apart(self):
        gains = centred(named(np.full((4, 4), 0.7)))
        assert {v for row in gains.values() for v in row.values()} == {0.0}
        assert best(gains, 3).groups == (("t0", "t1", "t2", "t3"),)
        assert centred({"a": {"b": None}, "b": {"a": None}}) == {"a": {"b": None}, "b": {"a": None}}
        assert centred({"a": {"b": 0.4}, "b": {"a": None}}) == {"a": {"b": 0.0}, "b": {"a": None}}

    def test_an_estimator_says_whether_its_zero_is_one(self):
        z = blocks((2, 1))
        matrix = tuple(tuple(None if i == j else float(z[i, j]) for j in range(3)) for i in range(3))
        common = {"method": "x", "tasks": ("t0", "t1", "t2"), "matrix": matrix, "low": matrix, "high": matrix}
        more = {"own": (None, None, None), "unit": "", "directed": False, "seeds": 1}
        assert gains_of(Relatedness(**common, **more, gain=True)) == named(z)
        assert gains_of(Relatedness(**common, **more, gain=False)) == centred(named(z))


class TestAdvised:
    def found(self, z, gain=False, lasting=True):
        n = len(z)
        matrix = tuple(tuple(None if i == j else float(z[i, j]) for j in range(n)) for i in range(n))
        return Relatedness(
            method="x", tasks=tuple(f"t{i}" for i in range(n)), matrix=matrix, low=matrix, high=matrix,
            own=(None,) * n, unit="", gain=gain, lasting=lasting, directed=False, seeds=1,
        )  # fmt: skip

    def test_likenesses_are_summed_and_gains_averaged(self):
        z = np.random.default_rng(0).normal(size=(5, 5))
        z = z + z.T
        assert advised(self.found(z, gain=True), 2) == best(named(z), 2)
        assert advised(self.found(z), 2) == best(centred(named(z)), 2, overlap=False, total=True)

    def test_a_step_that_helps_everybody_a_little_still_tells_groups_apart(self):
        z = blocks((2, 3), 0.003, 0.001)
        assert z.min() > 0
        gains = gains_of(self.found(z, gain=True, lasting=False))
        assert gains["t0"]["t1"] > 0 > gains["t0"]["t2"]
        step = advised(self.found(z, gain=True, lasting=False), 3)
        assert step.groups == (("t0", "t1"), ("t2", "t3", "t4"))
        assert step == advised(self.found(z), 3)

    def test_an_odd_task_and_noise_do_not_part_a_group(self):
        # four tasks and three that are alike more or less, and one that is not: by means, likest pairs go apart and
        # the odd task joins a group in which it weighs little
        truth = {("t0", "t1", "t2", "t3"), ("t4", "t5", "t6"), ("t7",)}
        summed, averaged = 0, 0
        for seed in range(20):
            z = blocks((4, 3, 1), 0.5, 0.2, 0.16, seed)
            summed += set(advised(self.found(z), 3, overlap=False).groups) == truth
            averaged += set(best(centred(named(z)), 3, overlap=False).groups) == truth
        assert summed >= 15
        assert averaged <= summed - 5

    @pytest.mark.parametrize("overlap", [True, False])
    def test_sums_equal_the_best_of_all_partitions(self, overlap, monkeypatch):
        gains = centred(named(blocks((2, 2, 1), noise=0.4)))
        found = best(gains, 3, overlap=overlap, total=True)
        every = [g for n in range(1, 6) for g in itertools.combinations(gains, n)]
        known = max(
            sum(max((sum(gains[j][t] for j in g if j != t) for g in family if t in g), default=-np.inf) for t in gains)
            for n in (1, 2, 3)
            for family in itertools.combinations(every, n)
            if {t for g in family for t in g} == set(gains) and (overlap or sum(map(len, family)) == 5)
        )
        assert found.total == pytest.approx(known)
        monkeypatch.setattr("manyheads.grouping.partition.EXACT", 0)
        assert best(gains, 3, overlap=overlap, total=True).total == pytest.approx(known)


class TestDendrogram:
    def test_equals_scipy_on_a_symmetric_matrix(self):
        z = np.random.default_rng(0).normal(size=(9, 9))
        z = z + z.T
        found = dendrogram(named(z))
        far = 10.0 - z
        np.fill_diagonal(far, 0)
        known = scipy.cluster.hierarchy.linkage(squareform(far), "average")
        np.testing.assert_array_equal([(m.left, m.right, m.size) for m in found.merges], known[:, [0, 1, 3]])
        np.testing.assert_allclose([m.height for m in found.merges], 10.0 - known[:, 2])
        assert list(found.leaves) == list(scipy.cluster.hierarchy.leaves_list(known))
        assert Dendrogram.model_validate_json(found.model_dump_json()) == found

    def test_by_hand(self):
        found = dendrogram({"a": {"b": 4.0, "c": 0.0}, "b": {"a": 2.0, "c": 1.0}, "c": {"a": None, "b": 1.0}})
        assert [(m.left, m.right) for m in found.merges] == [(0, 1), (2, 3)]
        # a-b: (4 + 2) / 2; the missing gain counts as the mean of the others, 1.6; c joins at the mean of .8 and 1
        assert [m.height for m in found.merges] == pytest.approx([3.0, 0.9])
        assert found.tasks == ("a", "b", "c")

    def test_one_task(self):
        assert dendrogram({"a": {}}).leaves == (0,)
