"""The laws of an Aggregation, over every one there is, from a Gramian to weights."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import catalogue
from torch import nn

from manyheads.balance import Balance
from manyheads.balance.aggregation import Aggregation

TIGHT = 1e-8
COUNTS = (1, 2, 3, 5, 8, 40)
NAMES = tuple("abcdef")
VALUES = Path(__file__).parent.parent / "values"


@pytest.fixture(params=[c for c in catalogue(Balance) if issubclass(c.cls, Aggregation)], ids=str)
def case(request):
    return request.param


def independent(rows):
    pass


def equal(rows):
    rows[:] = rows[0]


def parallel(rows):
    rows[1::2] = 3 * rows[0]


def opposite(rows):
    rows[1::2] = -2 * rows[0]


def nearly_opposite(rows):
    rows[1::2] = -rows[0] + 1e-4 * rows[1::2]


def in_a_plane(rows):
    rows[:, 2:] = 0


def cancelling(rows):
    rows -= rows.mean(0)


def conflicting(rows):
    rows -= 0.9 * rows.mean(0)


def one_zero(rows):
    rows[len(rows) // 2] = 0


def all_zero(rows):
    rows[:] = 0


KINDS = (
    independent,
    equal,
    parallel,
    opposite,
    nearly_opposite,
    in_a_plane,
    cancelling,
    conflicting,
    one_zero,
    all_zero,
)
SIZES = {"1": 0, "1e-8": -8, "1e8": 8, "1 to 1e6": (0, 6), "1e-3 to 1e3": (-3, 3)}
"""Powers of ten: of every gradient, or of the first and the last."""


OF_EQUAL = {
    "alignedmtl": lambda k: 1,
    "cagrad": lambda k: 1.5,
    "config": lambda k: k,
    "dualproj": lambda k: 1,
    "fairgrad": lambda k: k ** (1 / 3),
    "gradnorm": lambda k: k,
    "gradvac": lambda k: k,
    "imtlg": lambda k: 1,
    "mgda": lambda k: 1,
    "nashmtl": math.sqrt,
    "pcd": lambda k: 1,
    "pcgrad": lambda k: k,
    "upgrad": lambda k: 1,
}
"""The sum of the weights of K equal gradients of length 1, in the normalisation of each method's paper."""


def gradients(rng, tasks, kind=independent, sizes="1"):
    """(tasks, tasks + 8), rows of one kind, of length 1 before they get their sizes."""
    rows = rng.normal(size=(tasks, tasks + 8))
    kind(rows)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-12)
    return rows * np.logspace(*np.broadcast_to(SIZES[sizes], 2), tasks)[rng.permutation(tasks), None]


def names_of(tasks):
    return [*NAMES[:tasks], *map(str, range(tasks - len(NAMES)))]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_finite_and_solved_or_it_is_said(case, kind, sizes, rng):
    """Three steps each, for what has a memory. A residual of NaN claims nothing: there is no equation to miss."""
    claims = set()
    for tasks in COUNTS:
        balance = case()
        for _ in range(3):
            rows = gradients(rng, tasks, kind, sizes)
            preference = rng.uniform(0.2, 5, tasks)
            weights = balance.weights(
                rows @ rows.T, rng.exponential(size=tasks), tasks=names_of(tasks), preference=preference
            )
            assert weights.shape == (tasks,)
            assert np.isfinite(weights).all()
            claims.add(not math.isnan(balance.residual))
            assert math.isnan(balance.residual) or balance.residual >= 0
            assert balance.note or not balance.residual > TIGHT, (tasks, balance.residual)
            update = balance.sized(weights, preference) @ rows
            assert np.linalg.norm(update) <= 1e4 * tasks * np.linalg.norm(rows, axis=1).sum()
    assert len(claims) == 1


@pytest.mark.parametrize("alone", [1e-140, 1e-30, 1e30, 1e140])
def test_finite_for_gradients_of_extreme_sizes(case, alone, rng):
    rows = gradients(rng, 4)
    for sizes in ([alone] * 4, [alone, 1, 1, 1]):
        scaled = rows * np.array(sizes)[:, None]
        balance = case()
        weights = balance.weights(scaled @ scaled.T, np.ones(4), tasks=NAMES[:4])
        assert np.isfinite(weights).all()
        assert not math.isinf(balance.residual)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gramian_of_less_precision_is_solved(case, kind, rng):
    """Gradients and their products in float32: G has negative eigenvalues of 1e-7."""
    for tasks in COUNTS:
        rows = gradients(rng, tasks, kind).astype(np.float32)
        weights = case().weights(rows @ rows.T, np.ones(tasks), tasks=names_of(tasks))
        assert np.isfinite(weights).all()


@pytest.mark.parametrize("sizes", ["1", "1e-3 to 1e3"])
@pytest.mark.parametrize("kind", [independent, conflicting, one_zero, parallel, opposite])
def test_the_order_of_tasks_does_not_matter(case, kind, sizes, rng):
    """Over six steps: the same update, and the same weights where the gradients leave no choice of them."""
    one, other = case(), case()
    preference = dict(zip(NAMES, rng.uniform(0.5, 2, 6), strict=True))
    for _ in range(6):
        rows, losses, order = gradients(rng, 6, kind, sizes), rng.exponential(size=6), rng.permutation(6)
        shuffled = [NAMES[i] for i in order]
        a = one.weights(rows @ rows.T, losses, tasks=NAMES, preference=preference)
        b = other.weights(rows[order] @ rows[order].T, losses[order], tasks=shuffled, preference=preference)
        assert one.note == other.note
        assert b @ rows[order] == pytest.approx(a @ rows, abs=1e-6 * (np.abs(a) @ np.linalg.norm(rows, axis=1)))
        if kind in (independent, conflicting):
            assert b == pytest.approx(a[order], rel=1e-6, abs=1e-9 * np.abs(a).max())
    assert one.state.keys() == other.state.keys()


def test_a_task_that_is_away_leaves_no_trace(case, rng):
    """Steps without c: the same as for a balance that never heard of c; and what is kept of c stays."""
    rows, losses, here = gradients(rng, 4, conflicting), rng.exponential(size=4), [0, 1, 3]
    gram = rows @ rows.T
    without = {"tasks": list("abd"), "gram": gram[np.ix_(here, here)], "losses": losses[here]}
    one, other = case(), case()
    for _ in range(3):
        assert one.weights(**without).tolist() == other.weights(**without).tolist()
    one.weights(gram, losses, tasks=list("abcd"))
    kept = dict(one.state.get("c", {}))
    one.weights(**without)
    assert one.state.get("c", {}) == kept


@pytest.mark.parametrize("tasks", COUNTS)
@pytest.mark.parametrize("preferred", [False, True])
def test_where_all_agree_the_update_has_the_size_of_equal_weighting(case, tasks, preferred, rng):
    """Equal gradients of length 1 and equal losses, at the start; preferences sum to the update's size."""
    preference = rng.uniform(0.5, 2, tasks) if preferred else np.ones(tasks)
    balance, gram = case(), np.ones((tasks, tasks))
    weights = np.asarray(balance.weights(gram, np.ones(tasks), tasks=names_of(tasks), preference=preference))
    assert balance.sized(weights, preference).sum() == pytest.approx(preference.sum())
    assert preferred or not balance.note


@pytest.mark.parametrize("tasks", COUNTS)
def test_equal_gradients_have_the_weights_of_the_paper(case, tasks):
    weights = case().weights(np.ones((tasks, tasks)), np.ones(tasks), tasks=names_of(tasks))
    assert weights.sum() == pytest.approx(OF_EQUAL[case.word](tasks))


def test_gradients_of_one_length_without_conflict_are_as_equal_ones(case):
    """What treats equal gradients alike (nobody is named) treats these alike."""
    one, other = (case().weights(gram, np.ones(3), tasks=NAMES[:3]) for gram in (np.ones((3, 3)), 4 * np.eye(3)))
    if np.ptp(one) < 1e-12:
        assert other == pytest.approx(np.full(3, other[0]))


@pytest.mark.parametrize("scale", [1e-3, 10.0, 1e3])
def test_one_scale_for_all_gradients_changes_no_sized_weight(case, scale, rng):
    """Over four steps; and the paper's weights change where the class says `scale_free`, and nowhere else."""
    one, other, ones = case(), case(), np.ones(5)
    for _ in range(4):
        rows, losses = 1e6 * gradients(rng, 5, conflicting, "1 to 1e6"), rng.exponential(size=5)
        a = one.weights(rows @ rows.T, losses, tasks=NAMES[:5])
        b = other.weights(scale * rows @ rows.T * scale, scale * losses, tasks=NAMES[:5])
        assert other.sized(b, ones) == pytest.approx(one.sized(a, ones), rel=1e-6, abs=1e-9)
        assert (abs(b.sum() / a.sum() - 1) > 1e-3) == case.cls.scale_free


def test_preferences_of_one_are_none(case, rng):
    rows, losses = gradients(rng, 5, conflicting, "1e-3 to 1e3"), rng.exponential(size=5)
    plain = case().weights(rows @ rows.T, losses, tasks=NAMES[:5])
    assert case().weights(rows @ rows.T, losses, tasks=NAMES[:5], preference=np.ones(5)).tolist() == plain.tolist()


def test_preferences_of_zero_stay_finite(case, rng):
    rows = gradients(rng, 4)
    for preference in ([0.0, 1.0, 2.0, 1.0], [1.0, 1.0, 0.0, 0.0], np.zeros(4)):
        balance = case()
        weights = balance.weights(rows @ rows.T, np.ones(4), tasks=NAMES[:4], preference=preference)
        assert np.isfinite(weights).all()
        assert np.isfinite(balance.sized(weights, np.asarray(preference))).all()
        assert balance.note or not balance.residual > TIGHT


def test_losses_are_read_where_that_is_said(case, rng):
    """With `needs_losses` they are asked for and matter; without, neither."""
    rows = gradients(rng, 4, conflicting)
    gram, found = rows @ rows.T, []
    for losses in ([1.0, 2.0, 3.0, 4.0], [4.0, 1.0, 0.5, 2.0]):
        balance = case()
        balance.weights(gram, np.ones(4), tasks=NAMES[:4])
        balance.weights(gram, losses, tasks=NAMES[:4])
        found.append(balance.weights(gram, losses, tasks=NAMES[:4]).tolist())
    assert (found[0] != found[1]) == case.cls.needs_losses
    if case.cls.needs_losses:
        with pytest.raises(ValueError, match=rf"`{case.cls.__name__}`.*losses"):
            case().weights(gram, tasks=NAMES[:4])
    else:
        case().weights(gram, tasks=NAMES[:4])


def test_its_weights_are_computed_another_way_somewhere(case):
    """A new method comes with figures of its own: some file of `tests/values` names it."""
    word = re.compile(rf"['\"]{case.word}['\"]")
    assert any(word.search(path.read_text(encoding="utf-8")) for path in VALUES.glob("test_*.py")), (
        f"The weights of `{case.word}` should be checked against another computation. Found the word in no file of "
        "tests/values; add one there."
    )


def test_rounding_is_no_direction(case):
    """Two tasks opposite but for the last bit of float32, and one between: the update stays of the gradients' size."""
    for seed in range(10):
        random = torch.Generator().manual_seed(seed)
        rows = torch.randn(4, 200, generator=random)
        rows[1] = -3 * rows[0] * (1 + 1e-7 * torch.randn(200, generator=random))
        rows[3] = (rows[2] + rows[0]) / 2
        p = nn.Parameter(torch.zeros(200))
        balance = case()
        names = ("a", "b", "c", "d")
        assert balance.backward({task: row @ p + 1 for task, row in zip(names, rows, strict=True)})
        assert p.grad.norm() < 3 * rows.norm(dim=1).sum()
        assert max(map(abs, balance.last_weights.values())) < 1e3
