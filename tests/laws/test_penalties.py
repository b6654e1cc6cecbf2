"""The laws of a Penalty, over every penalty: its step is the minimum that it says, for any stack of weights."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from cases import catalogue
from scipy.optimize import minimize

from manyheads.catalog import make
from manyheads.penalties import Penalty

EVERY = catalogue(Penalty)
ON_WEIGHTS = [c for c in EVERY if "features" not in c.cls.places]
TASKS = ("a", "b", "c", "d")
SHAPES = [(4, 3, 5), (4, 6), (3, 2, 3, 2), (1, 3, 4)]


def bound(case, n=4):
    """The penalty for a stack of n tasks."""
    return case().among(TASKS[:n], TASKS)


def stack(shape, seed=0, scale=1.0):
    """Weights with a part that tasks have in common."""
    g = torch.Generator().manual_seed(seed)
    common, own = (torch.randn(n, *shape[1:], generator=g, dtype=torch.float64) for n in (1, shape[0]))
    return scale * (common + own)


def _of_mean(case):
    return case.settings.get("of") == "mean" or case.word in ("mean", "pairwise")


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_step_is_the_minimum(case, shape, float64):
    """W* minimises 1/2 ||V - W||^2 + t R(V): no other V is below, neither near nor towards zero or the mean."""
    penalty = bound(case, shape[0])
    start = torch.zeros(shape)
    for scale, lr in ((1.0, 0.3), (1.0, 0.02), (10.0, 5.0))[: 1 if hasattr(penalty, "iterations") else 3]:
        w = stack(shape, scale=scale)
        penalty.strength = 1.0

        def goal(v, w=w, lr=lr):
            return float((v - w).square().sum() / 2 + lr * penalty.loss(v, start))

        new = penalty.shrunk(w, lr, start)
        least = goal(new)
        assert least <= goal(w) + 1e-12
        for v in (torch.zeros(shape), w.mean(0, keepdim=True).expand(shape), w):
            for share in (1e-3, 0.03, 1.0):
                assert goal(new + share * (v - new)) >= least - 1e-6
        for seed in range(3 if hasattr(penalty, "iterations") else 20):
            way = stack(shape, seed=seed + 5)
            for length in (1e-3, 1e-2, 0.1):
                assert goal(new + length * way) >= least - 1e-7


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
def test_the_step_against_a_slow_minimiser(case, float64):
    """Searches without gradients, which know nothing of the structure of R."""
    penalty = bound(case, 3)
    if hasattr(penalty, "iterations"):
        pytest.skip("its value is an iteration; tests/values has a search over both parts")
    w = stack((3, 1, 2), seed=3)
    start = torch.zeros(w.shape)
    penalty.strength = 1.0

    def goal(v):
        v = torch.tensor(v.reshape(w.shape))
        return float((v - w).square().sum() / 2 + 0.4 * penalty.loss(v, start))

    new = penalty.shrunk(w, 0.4, start)
    found = min(
        (
            minimize(goal, begin, method=method, tol=1e-12, options={"maxiter": 200})
            for begin in (w.numpy().ravel(), np.zeros(w.numel()))
            for method in ("Powell",)
        ),
        key=lambda r: r.fun,
    )
    assert goal(new.numpy()) <= found.fun + 1e-6


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_rest_of_the_step_is_a_subgradient(case, shape, float64):
    """U = (W - W*) / t has R(V) >= R(W*) + <U, V - W*> for all V; where R is a norm, <U, W*> = R(W*) (Moreau)."""
    if _of_mean(case):
        pytest.skip("of deviations, tested through the minimum")
    penalty = bound(case, shape[0])
    for t in (0.05, 0.7):
        w = stack(shape, seed=1)
        new = penalty.prox(w, t)
        u = (w - new) / t
        value = penalty.value(new)
        for seed in range(4 if hasattr(penalty, "iterations") else 30):
            v = stack(shape, seed=seed, scale=10.0 ** (seed % 4 - 2))
            assert penalty.value(v) >= value + (u * (v - new)).sum() - 1e-5 * (1 + value)
        if torch.allclose(penalty.value(2 * w), 2 * penalty.value(w), rtol=1e-4):
            assert (u * new).sum() == pytest.approx(float(value), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
@pytest.mark.parametrize("step", ["prox", "value"])
def test_runs_side_by_side(case, step):
    penalty = bound(case)
    w = stack((3, 4, 2, 5), seed=2).float()
    function = penalty.value if step == "value" else (lambda v: penalty.prox(v, 0.2))
    together = torch.func.vmap(function)(w)
    torch.testing.assert_close(together, torch.stack([function(one) for one in w]), rtol=1e-4, atol=1e-5)
    if step == "value":
        slopes = torch.func.vmap(torch.func.grad(penalty.value))(w)
        alone = torch.stack([torch.func.grad(penalty.value)(one) for one in w])
        torch.testing.assert_close(slopes, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", EVERY, ids=str)
@pytest.mark.parametrize("kind", ["zero", "alike", "one zero"])
def test_the_gradient_is_finite(case, kind):
    penalty = bound(case, 2)
    w = {"zero": torch.zeros(2, 3, 5), "alike": torch.ones(2, 3, 5), "one zero": stack((2, 3, 5)).float()}[kind]
    w[0, 0] = w[0, 0] if kind != "one zero" else 0.0
    for dtype in (torch.float32, torch.float64):
        v = w.to(dtype, copy=True).requires_grad_()
        penalty.value(v).backward()
        assert torch.isfinite(v.grad).all()


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_the_gradient_is_that_of_the_value(case, float64):
    penalty = bound(case)
    w, way = stack((4, 3, 5), seed=4), stack((4, 3, 5), seed=9)
    if "features" in penalty.places:
        w, way = w[:2], way[:2]
    v = w.clone().requires_grad_()
    penalty.value(v).backward()
    slope = (penalty.value(w + 1e-3 * way) - penalty.value(w - 1e-3 * way)) / 2e-3
    assert float((v.grad * way).sum()) == pytest.approx(float(slope), rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_strength_nothing_moves(case, dtype):
    penalty = bound(case)
    w = stack((4, 2, 5)).to(dtype)
    torch.testing.assert_close(penalty.prox(w, 0.0), w, rtol=0, atol=2 * torch.finfo(dtype).eps * 8)


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
def test_the_order_of_tasks_does_not_matter(case, float64):
    w, order = stack((4, 2, 5), seed=7), torch.tensor([2, 0, 3, 1])
    one, other = bound(case), case().among([TASKS[i] for i in order], TASKS)
    if case.word == "graph" and not case.settings:
        pytest.skip("a chain is an order of tasks")
    assert float(one.value(w)) == pytest.approx(float(other.value(w[order])), rel=1e-6)
    torch.testing.assert_close(one.prox(w, 0.3)[order], other.prox(w[order], 0.3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
def test_weights_that_are_not_finite_do_not_stop_the_other_runs(case):
    w = torch.stack([stack((4, 2, 5)).float(), torch.full((4, 2, 5), torch.nan)])
    penalty = bound(case)
    both = torch.func.vmap(lambda v: penalty.prox(v, 0.1))(w)
    torch.testing.assert_close(both[0], penalty.prox(w[0], 0.1), rtol=1e-4, atol=1e-5)
    assert not torch.isfinite(both[1]).all()


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_settings_are_seen(case):
    """Runs that differ in a setting are not trained as one."""
    assert all(k in repr(case()) for k in case.settings)
    with pytest.raises(ValueError, match="`strength`"):
        case.cls(-1.0)


@pytest.mark.parametrize("case", ON_WEIGHTS, ids=str)
def test_a_step_that_would_move_the_mean_is_refused(case, float64):
    """With `of: mean` the mean over tasks stays where it is."""
    if "of" not in inspect.signature(case.cls).parameters:
        return
    settings = {**case.settings, "of": "mean"}
    if case().keeps_mean:
        w = stack((4, 2, 5))
        new = make(Penalty, case.word, settings).shrunk(w, 200.0)
        torch.testing.assert_close(new.mean(0), w.mean(0))
    else:
        with pytest.raises(ValueError, match="`step: loss`"):
            make(Penalty, case.word, settings)
        make(Penalty, case.word, settings | {"step": "loss"})
