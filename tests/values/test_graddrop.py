"""GradDrop against a slow loop, and in the mean over its draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from manyheads.balance import Losses
from manyheads.balance.graddrop import GradDrop
from manyheads.blocks import seed_of
from manyheads.catalog import make
from manyheads.faults import ConfigError

ROWS = torch.tensor([[1.0, -2.0, 3.0, 0.0, -1.0], [-1.0, 4.0, 2.0, 0.0, -5.0], [0.5, -1.0, 1.0, 0.0, 0.0]]).double()
TASKS = ("a", "b", "c")


def _slow(rows, uniform, leak, preference):
    """Just pick a sign, entry by entry and task by task."""
    total = [0.0] * rows.shape[1]
    for j in range(rows.shape[1]):
        h = [p * g for p, g in zip(preference, rows[:, j].tolist(), strict=True)]
        size = sum(abs(x) for x in h)
        purity = 0.5 * (1 + sum(h) / size) if size else 0.5
        for x, part in zip(h, leak, strict=True):
            mask = float((x > 0 and uniform[j] < purity) or (x < 0 and uniform[j] >= purity))
            total[j] += (part + (1 - part) * mask) * x
    return torch.tensor(total)


def _linear(x, rows=ROWS):
    """Losses whose gradients at x are these rows."""
    return {t: (x * row).sum() for t, row in zip(TASKS, rows, strict=True)}


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0, {"b": 0.5}])
def test_it_is_the_slow_loop(leak, float64):
    balance = GradDrop(leak, seed=5)
    leaks = [leak.get(t, 0.0) if isinstance(leak, dict) else leak for t in TASKS]
    preference = [1.0, 0.5, 3.0]
    for step in range(20):
        x = nn.Parameter(torch.zeros(5))
        losses = _linear(x)
        assert balance.backward(
            Losses(
                TASKS,
                torch.stack(list(losses.values())),
                apart=losses,
                weight=dict(zip(TASKS, preference, strict=True)),
            )
        )
        draw = torch.Generator().manual_seed(seed_of(5, "graddrop", step))
        uniform = torch.rand(5, generator=draw, dtype=torch.float32).tolist()
        assert torch.allclose(x.grad, _slow(ROWS, uniform, leaks, preference).double(), rtol=1e-12, atol=1e-12)


def test_the_mean_over_many_draws_is_the_sum(float64):
    """P a - (1 - P) b = a - b for positive parts a and negative parts b: four standard errors of 20,000 draws."""
    n = 20_000
    balance = GradDrop(0.2)
    found = balance.combine(ROWS.repeat(1, n), TASKS, torch.ones(3)).view(n, 5)
    error = found.std(0) / math.sqrt(n)
    assert bool(((found.mean(0) - ROWS.sum(0)).abs() <= 4 * error + 1e-12).all())
    assert found.std(0)[0] > 0.1


def test_each_entry_has_one_sign_or_the_leak():
    balance = GradDrop()
    positive, negative = ROWS.clamp(min=0).sum(0), ROWS.clamp(max=0).sum(0)
    seen = set()
    for _ in range(100):
        found = balance.combine(ROWS, TASKS, torch.ones(3).double())
        balance._age += 1
        assert bool(((found == positive) | (found == negative)).all())
        seen.add(tuple(found.tolist()))
    assert len(seen) == 4  # two entries in conflict


def test_own_parameters_get_their_own_gradient_and_weights_say_what_was_heard(float64):
    shared, own = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(2))
    losses = _linear(shared)
    losses["a"] = losses["a"] + own.square().sum()
    balance = GradDrop()
    assert balance.backward(losses)
    assert torch.equal(own.grad, 2 * own.detach())
    for task, row in zip(TASKS, ROWS, strict=True):
        heard = [g for g, d in zip(row.tolist(), shared.grad.tolist(), strict=True) if g * d > 0]
        assert balance.last_weights[task] == pytest.approx(sum(map(abs, heard)) / row.abs().sum().item())


def test_parts_add_up_to_the_whole_step(float64):
    one, other = GradDrop(), GradDrop()
    x, y = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
    one.backward(_linear(x))
    for i, share in enumerate((0.5, 0.3, 0.2)):
        losses = {t: share * v for t, v in _linear(y).items()}
        if i == 1:
            del losses["b"]
        elif i == 2:
            losses["b"] = losses["b"] * 2.5
        assert other.backward(losses, last=i == 2)
        assert (y.grad is None) == (i < 2)
    assert torch.allclose(x.grad, y.grad, rtol=1e-12)
    assert one.state_dict()["age"] == other.state_dict()["age"] == 1


def test_a_gradient_that_is_not_finite_is_dropped_or_left_to_the_scaler():
    def losses(x):
        return _linear(x) | {"b": (x.abs().sum() + 1).sqrt() + (x[0] - x[0]).abs().sqrt()}

    x, y = nn.Parameter(torch.zeros(5).double()), nn.Parameter(torch.zeros(5).double())
    balance, other = GradDrop(), GradDrop()
    found = losses(x)
    assert torch.isfinite(found["b"])
    assert balance.backward(found)
    assert balance.dropped == {"b": 1}
    other.backward({t: v for t, v in _linear(y).items() if t != "b"})
    assert torch.equal(x.grad, y.grad)
    x.grad = None
    state = balance.state_dict()
    assert not balance.backward(losses(x), scale=2.0)
    assert not torch.isfinite(x.grad).all()
    assert balance.state_dict()["age"] == state["age"]


def test_the_order_in_which_tasks_come_does_not_matter_where_they_reach_different_parameters(float64):
    def run(order):
        torch.manual_seed(0)
        layers = {name: nn.Linear(4, 4) for name in ("ab", "bc", "ca")}
        x = torch.randn(8, 4)
        outs = {
            "a": layers["ab"](x).tanh() + layers["ca"](x),
            "b": layers["bc"](layers["ab"](x).tanh()),
            "c": layers["ca"](x).tanh() - layers["bc"](x),
        }
        GradDrop(seed=1).backward({t: (outs[t] - TASKS.index(t)).square().mean() for t in order})
        return [p.grad for layer in layers.values() for p in layer.parameters()]

    for one, other in zip(run(TASKS), run(("c", "a", "b")), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_it_reports_what_it_saw():
    balance = GradDrop()
    for _ in range(3):
        balance.backward(_linear(nn.Parameter(torch.zeros(5).double())))
    found = balance.report()
    assert found[None]["steps, exact"] == 3
    assert found[None]["conflicting pairs"] == pytest.approx(1 / 3)
    assert found["a"]["cosine with b"] == pytest.approx(2 / math.sqrt(15 * 46))
    assert found["a"]["gradient norm"] == pytest.approx(math.sqrt(15))
    assert balance.report() == {}


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_finite_at_any_size_and_exact_at_any_scale(scale):
    balance = GradDrop()
    one, other = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
    balance.backward(_linear(one, scale * ROWS.float()))
    balance._age = 0
    balance.backward(_linear(other, ROWS.float()))
    assert torch.allclose(one.grad, other.grad * scale, rtol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match=r"`leak` should be 0 to 1. Found 1.5"):
        GradDrop(1.5)
    with pytest.raises(ValueError, match=r"`leak`.*-1"):
        GradDrop({"a": -1})
    with pytest.raises(ConfigError, match=r"`aa`.*`a`"):
        GradDrop({"aa": 0.5}).check(["a", "b"])


def test_a_config_makes_it():
    from manyheads.balance import Balance

    assert make(Balance, "graddrop", {"leak": 0.1, "seed": 3}).seed == 3
