"""Learning to learn: closed forms on quadratics, a hand-written second order, and what adapting must not touch."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from manyheads.adaptation import adapt
from manyheads.catalog import find, index
from manyheads.data import Batch, Block, Taskset
from manyheads.faults import ConfigError
from manyheads.objectives import Objective, Supervised
from manyheads.tasks.regression import Regression

EPISODIC = [w for w in index(Objective) if find(Objective, w)().shape is not None]
INNER = [w for w in EPISODIC if w != "proto"]
ALPHA = 0.05
pytestmark = pytest.mark.usefixtures("float64")


class Net(nn.Module):
    """A net that is not ours: {"x": (rows, d)} -> {"y": (rows, 1)}."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        z = self.body(x["x"])
        return {"y": z[0] if isinstance(z, tuple) else z}


def tanh_net(d=3, *between):
    return Net(nn.Sequential(nn.Linear(d, 5), nn.Tanh(), *between, nn.Linear(5, 1)))


TASK = Regression("y", transform="none")


def episodes(n=4, support=6, query=5, d=3, seed=0, x=None):
    """(batch, [(support x, support y, query x, query y)])."""
    random = torch.Generator().manual_seed(seed)
    each = support + query
    x = torch.randn(n * each, d, generator=random) if x is None else x
    y = torch.randn(n * each, generator=random)
    is_support = (torch.arange(each) < support).repeat(n)
    block = Block(("y",), y, torch.ones(n * each, dtype=torch.bool))
    rows = Taskset({"x": x}, (block,), domain=torch.arange(n).repeat_interleave(each), support=is_support)
    parts = [(x[i : i + support], y[i : i + support], x[i + support : i + each], y[i + support : i + each])
             for i in range(0, n * each, each)]  # fmt: skip
    return Batch({"t": rows}), parts


def make(word, **settings):
    known = {"tasks": [TASK], "inner_lr": ALPHA} | ({"adapt": "*"} if word == "anil" else {})
    return find(Objective, word)(**{**known, **settings})


def gradient(objective, model, batch):
    objective.attach(model)
    model.zero_grad(set_to_none=True)
    objective(model, batch)["y"].backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


# -- quadratics: L = mean (x theta - y)^2 = theta' A theta / 2 - b' theta + constant


def quadratic(x, y):
    return 2 * x.mT @ x / len(x), 2 * x.mT @ y / len(x)


def linear_net(d=3):
    return Net(nn.Linear(d, 1, bias=False))


def descended(x, y, theta, steps):
    """phi_S = theta* + (I - alpha A)^S (theta - theta*)."""
    a, b = quadratic(x, y)
    best = torch.linalg.solve(a, b)
    shrunk = torch.linalg.matrix_power(torch.eye(len(a)) - ALPHA * a, steps)
    return best + shrunk @ (theta - best), shrunk


def test_descent_on_a_quadratic():
    _, [(x, y, _, _), *_] = episodes()
    theta = {"w": torch.randn(3)}
    found = adapt(lambda p, rows: (rows[0] @ p["w"] - rows[1]).square().mean(), theta, (x, y), 7, ALPHA)
    torch.testing.assert_close(found["w"], descended(x, y, theta["w"], 7)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("word", ["maml", "fomaml", "reptile"])
def test_gradients_on_quadratics(word, steps):
    model, (batch, parts) = linear_net(), episodes()
    theta = model.body.weight.detach()[0]
    expected = []
    for x, y, qx, qy in parts:
        if word == "reptile":  # all rows of an episode
            expected.append(theta - descended(torch.cat([x, qx]), torch.cat([y, qy]), theta, steps)[0])
            continue
        phi, shrunk = descended(x, y, theta, steps)
        a, b = quadratic(qx, qy)
        expected.append(shrunk @ (a @ phi - b) if word == "maml" else a @ phi - b)
    found = gradient(make(word, inner_steps=steps), model, batch)["body.weight"][0]
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-12, atol=1e-12)


def test_reptile_is_the_rate_times_the_sum_of_gradients():
    model, (batch, parts) = linear_net(), episodes()
    total = torch.zeros(3)
    for x, y, qx, qy in parts:
        x, y, w = torch.cat([x, qx]), torch.cat([y, qy]), model.body.weight.detach()[0].clone()
        for _ in range(5):
            slope = 2 * x.mT @ (x @ w - y) / len(x)
            w, total = w - ALPHA * slope, total + ALPHA * slope / len(parts)
    found = gradient(make("reptile", inner_steps=5), model, batch)["body.weight"][0]
    torch.testing.assert_close(found, total, rtol=1e-12, atol=1e-12)


# -- a tiny net, by hand


def by_hand(model, parts, steps, second):
    """The MAML gradient with plain autograd, episode by episode."""
    own = dict(model.named_parameters())
    losses = []
    for x, y, qx, qy in parts:
        phi = dict(own)
        for _ in range(steps):
            loss = (functional_call(model, phi, ({"x": x},))["y"][:, 0] - y).square().mean()
            slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=second)
            phi = {n: p - ALPHA * g for (n, p), g in zip(phi.items(), slopes, strict=True)}
        losses.append((functional_call(model, phi, ({"x": qx},))["y"][:, 0] - qy).square().mean())
    return dict(zip(own, torch.autograd.grad(torch.stack(losses).mean(), list(own.values())), strict=True))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("word", ["maml", "fomaml"])
def test_the_gradient_is_that_of_a_loop(word, steps):
    model, (batch, parts) = tanh_net(), episodes()
    expected = by_hand(model, parts, steps, second=word == "maml")
    found = gradient(make(word, inner_steps=steps), model, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_the_second_order_of_one_step_from_finite_differences():
    """d/d theta of L_q(theta - alpha grad L_s(theta)), to 1e-6."""
    model, (batch, _) = tanh_net(), episodes()
    objective = make("maml", inner_steps=1)
    found, h = gradient(objective, model, batch), 1e-5
    for name, p in model.named_parameters():
        for i in range(p.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    p.view(-1)[i] += sign * h
                    values.append(float(objective(model, batch)["y"]))
                    p.view(-1)[i] -= sign * h
            assert abs((values[0] - values[1]) / (2 * h) - float(found[name].view(-1)[i])) < 1e-6


def test_first_and_second_order_differ():
    model, (batch, _) = tanh_net(), episodes()
    one, other = (gradient(make(word, inner_steps=3), model, batch) for word in ("maml", "fomaml"))
    assert any((one[n] - other[n]).abs().max() > 1e-4 for n in one)


@pytest.mark.parametrize("word", ["maml", "fomaml", "anil", "metasgd"])
def test_no_steps_are_supervised_training(word):
    model, (batch, parts) = tanh_net(), episodes()
    x, y = torch.cat([p[2] for p in parts]), torch.cat([p[3] for p in parts])
    plain = Batch({"t": Taskset({"x": x}, (Block(("y",), y, torch.ones(len(y), dtype=torch.bool)),))})
    expected = gradient(Supervised([TASK]), model, plain)
    found = gradient(make(word, inner_steps=0), model, batch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_anil_adapts_the_head_alone():
    model, (batch, _) = tanh_net(), episodes()
    objective = make("anil", inner_steps=3, adapt="body.2.*")
    own = objective.fit(model, batch["t"])
    for name, p in own.named_parameters():
        assert torch.equal(p, model.get_parameter(name)) != name.startswith("body.2.")
    assert all(g.abs().sum() > 0 for g in gradient(objective, model, batch).values())  # yet all of it learns


def test_metasgd_learns_a_rate_for_each_weight():
    """d L_query(theta - alpha * g) / d alpha = -g * grad L_query(phi), elementwise, with g at theta."""
    model, (batch, [(x, y, qx, qy), *_]) = linear_net(), episodes(1)
    theta = model.body.weight.detach()[0]
    (a, b), (qa, qb) = quadratic(x, y), quadratic(qx, qy)
    slope = a @ theta - b
    found = gradient(make("metasgd"), model, batch)
    expected = -slope * (qa @ (theta - ALPHA * slope) - qb)
    torch.testing.assert_close(found["_rates.body/weight"], expected, rtol=1e-12, atol=1e-12)
    twice = dict(model.named_parameters())
    assert twice["_rates.body/weight"].dim() == 1  # so that no weight decay shrinks it


def test_metasgd_without_rates_says_what_to_do():
    with pytest.raises(ConfigError, match=r"objective\.attach"):
        make("metasgd")(tanh_net(), episodes()[0])


# -- side by side, one by one


@pytest.mark.parametrize("word", INNER)
def test_side_by_side_is_one_after_the_other(word):
    model, (batch, _) = tanh_net(), episodes()
    found = [gradient(make(word, inner_steps=2, vectorised=v), deepcopy(model), batch) for v in (True, False)]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-10, atol=1e-13)
