"""The laws of a Balance, over every one there is."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from cases import catalogue
from torch import nn

from manyheads.balance import Balance, Losses, Weighting
from manyheads.catalog import find

BALANCES = catalogue(Balance)
WEIGHTINGS = [c for c in BALANCES if issubclass(c.cls, Weighting)]
TASKS = ("a", "b", "c")


@pytest.fixture(params=BALANCES, ids=str)
def case(request):
    return request.param


class Net(nn.Module):
    """A trunk and one head per task, without dropout."""

    def __init__(self, tasks=TASKS, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Linear(5, 4)
        self.heads = nn.ModuleList()
        self.of = {}
        for task in sorted(tasks):
            torch.manual_seed(sum(map(ord, task)))
            self.of[task] = nn.Linear(4, 1)
            self.heads.append(self.of[task])

    def forward(self, x):
        z = self.trunk(x).tanh()
        return {task: head(z).squeeze(-1) for task, head in self.of.items()}


def _losses(net, step=0, tasks=TASKS, scale=1.0):
    g = torch.Generator().manual_seed(step)
    x = torch.randn(16, 5, generator=g, dtype=net.trunk.weight.dtype)
    out = net(x)
    factor = {"a": 1.0, "b": 5.0, "c": 0.2}
    return {t: scale * factor[t] * (out[t] - x[:, i]).square().mean() for i, t in enumerate(TASKS) if t in tasks}


def _gradients(net):
    return {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def _same(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for name, g in one.items():
        h = other[name]
        assert (g is None) == (h is None), name
        if g is not None:
            assert torch.equal(g, h) if not tolerance else torch.allclose(g, h, rtol=tolerance, atol=tolerance), name


def _backward(balance, losses, look=None, **how):
    """With a look that sees the same losses again, for the balances that want one."""
    return balance.backward(losses, look or (lambda tasks=None: losses), **how)


def _update(balance, losses):
    balance.update(losses, lambda: {task: torch.tensor(loss) for task, loss in losses.items()})
    balance.stepped()


def _train(balance, steps, net=None, tasks=TASKS, order=None, lr=0.05, start=0):
    net = net or Net()
    for step in range(start, start + steps):
        net.zero_grad()
        losses = _losses(net, step, tasks)
        if order is not None:
            losses = {t: losses[t] for t in order if t in losses}
        assert _backward(balance, losses, lambda tasks=None, step=step: _losses(net, step, tasks or TASKS))
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= lr * p.grad
    return net


def _plain(state):
    """State as it comes back from a checkpoint."""
    return pickle.loads(pickle.dumps(state))


def test_a_bare_dict_in_a_bare_loop_learns(case, float64):
    net = Net()
    before = {t: v.item() for t, v in _losses(net, 0).items()}
    _train(case(), 100, net)
    after = {t: v.item() for t, v in _losses(net, 0).items()}
    assert sum(after.values()) < sum(before.values())


def test_gradients_lie_in_memory_as_their_weights_do(case):
    """A fused optimiser reads both side by side. Also in two parts, and where a head has a hidden layer."""
    net = Net()
    for head in list(net.of):
        net.of[head] = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    net.heads = nn.ModuleList(net.of.values())
    for parts in (1, 2):
        net.zero_grad()
        balance = case()
        for part in range(parts):
            _backward(balance, _losses(net, part), last=part == parts - 1)
        assert all(p.grad.stride() == p.stride() for p in net.parameters())


def test_with_one_task_it_is_plain_descent(case):
    """At the start, at least: what has learnt a scale may use it later, along the same direction."""
    net, plain = Net(), Net()
    assert _backward(case(), {"c": _losses(net)["c"]})
    _losses(plain)["c"].backward()
    _same(_gradients(net), _gradients(plain), 1e-6)


def test_with_one_task_the_direction_is_always_that_of_descent(case, float64):
    balance = case()
    net = _train(balance, 20, tasks=("c",))
    plain = copy.deepcopy(net)
    plain.of = dict(zip(sorted(TASKS), plain.heads, strict=True))
    net.zero_grad()
    plain.zero_grad()
    _backward(balance, {"c": _losses(net, 99)["c"]})
    _losses(plain, 99)["c"].backward()
    a = torch.cat([g.flatten() for g in _gradients(net).values() if g is not None])
    b = torch.cat([g.flatten() for g in _gradients(plain).values() if g is not None])
    assert torch.cosine_similarity(a, b, dim=0).item() == pytest.approx(1, abs=1e-9)


def test_the_order_of_tasks_does_not_matter(case, float64):
    one, other = case(), case()
    a, b = _train(one, 12), _train(other, 12, order=("c", "a", "b"))
    _same(dict(a.named_parameters()), dict(b.named_parameters()), 1e-12)
    assert one.last_weights.keys() == other.last_weights.keys()
    for task, weight in one.last_weights.items():
        assert other.last_weights[task] == pytest.approx(weight, rel=1e-9)


def test_state_round_trips_mid_run(case):
    straight = case()
    whole = _train(straight, 12)
    first = case()
    half = _train(first, 6)
    fresh = case()
    fresh.load_state_dict(_plain(first.state_dict()))
    both = _train(fresh, 6, half, start=6)
    _same(dict(whole.named_parameters()), dict(both.named_parameters()))
    assert fresh.state_dict() == straight.state_dict()
    assert fresh.last_weights == straight.last_weights


def test_state_is_kept_by_the_names_of_tasks(case):
    balance = case()
    _train(balance, 3)
    assert set(balance.state) <= set(TASKS)


def test_a_state_dict_is_a_copy(case):
    balance = case()
    _train(balance, 3)
    kept = balance.state_dict()
    before = _plain(kept)
    _train(balance, 3)
    assert kept == before
    other = case()
    other.load_state_dict(kept)
    _train(other, 3)
    assert kept == before


def test_a_missing_task_is_one_that_was_never_there(case, float64):
    """Steps of a and b alone, whatever the balance knows about c; and afterwards c comes as if nothing had been."""
    with_c, without = Net(), Net()
    one, other = case(), case()
    _train(one, 5, with_c, tasks=("a", "b"))
    _train(other, 5, without, tasks=("b", "a"))
    _same(dict(with_c.named_parameters()), dict(without.named_parameters()), 1e-12)
    assert "c" not in one.state
    assert with_c.of["c"].weight.grad is None
    balance = case()
    net = _train(balance, 5)
    balance.stepped()
    before = _plain(balance.state.get("c"))
    _train(balance, 5, net, tasks=("a", "b"))
    assert balance.state.get("c") == before


def test_scale_scales_the_gradient_and_nothing_else(case, float64):
    one, other = case(), case()
    net, scaled = _train(one, 5), _train(other, 5)
    net.zero_grad()
    scaled.zero_grad()
    assert _backward(one, _losses(net, 7))
    assert _backward(other, _losses(scaled, 7), scale=1024.0)
    large = {n: None if g is None else g / 1024 for n, g in _gradients(scaled).items()}
    _same(_gradients(net), large, 1e-12)
    assert one.state_dict() == other.state_dict()


def test_parts_of_a_step_add_up(case, float64):
    """A step in three parts whose losses sum to the whole's: the same gradient and the same state."""
    one, other = case(), case()
    whole, parts = _train(one, 5), _train(other, 5)
    whole.zero_grad()
    parts.zero_grad()
    shares = (0.5, 0.3, 0.2)
    _backward(one, _losses(whole, 7))
    for i, share in enumerate(shares):
        assert _backward(other, {t: share * v for t, v in _losses(parts, 7).items()}, last=i == 2)
    _same(_gradients(whole), _gradients(parts), 1e-12)
    _close(one.state_dict(), other.state_dict())


def test_a_last_part_without_labels_still_ends_the_step(case, float64):
    one, other = case(), case()
    whole, parts = Net(), Net()
    _backward(one, _losses(whole))
    assert _backward(other, _losses(parts), last=False)
    assert _backward(other, {}, last=True)
    _close(one.state_dict(), other.state_dict())
    _backward(one, _losses(whole, 1))
    _backward(other, _losses(parts, 1))
    _close(one.state_dict(), other.state_dict())
    assert one.last_weights == pytest.approx(other.last_weights, rel=1e-9)


def _close(one, other):
    one, other = _flat(one), _flat(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        number = isinstance(value, float)
        assert other[path] == (pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True) if number else value), path


def _flat(state, prefix=""):
    """Numbers by their path; what is no number as it is."""
    if isinstance(state, dict):
        return {k: v for name, inner in state.items() for k, v in _flat(inner, f"{prefix}/{name}").items()}
    if isinstance(state, list | tuple):
        return _flat(dict(enumerate(state)), prefix)
    if isinstance(state, torch.Tensor):
        return _flat(state.flatten().tolist(), prefix)
    return {prefix: state}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_dropped_and_counted(case, bad):
    one, other = case(), case()
    net, rest = Net(), Net()
    losses = _losses(net)
    losses["b"] = losses["b"] * bad  # reaches the trunk, with a slope that is not finite either
    assert _backward(one, losses)
    assert _backward(other, _losses(rest, tasks=("a", "c")))
    _same(_gradients(net), _gradients(rest), 1e-6)
    assert one.dropped == {"b": 1}
    assert one.state_dict()["state"] == other.state_dict()["state"]
    assert "b" not in one.last_weights


def test_nothing_finite_is_a_skipped_step(case):
    balance = case()
    net = _train(balance, 3)
    state = _plain(balance.state_dict()["state"])
    net.zero_grad()
    assert not _backward(balance, {t: v * math.nan for t, v in _losses(net).items()})
    assert all(g is None for g in _gradients(net).values())
    assert balance.state_dict()["state"] == state
    assert balance.dropped == dict.fromkeys(TASKS, 1)


def test_under_a_gradscaler_a_loss_that_is_not_finite_skips_the_step(case):
    balance = case()
    net = _train(balance, 3)
    net.zero_grad()
    state = _plain(balance.state_dict()["state"])
    losses = _losses(net)
    losses["a"] = losses["a"] * math.inf
    assert not _backward(balance, losses, scale=2.0)
    assert balance.state_dict()["state"] == state


def test_no_loss_is_no_step(case):
    balance = case()
    assert not _backward(balance, {})
    assert balance.state == {}
    assert balance.dropped == {}


def test_a_loss_is_a_scalar(case):
    with pytest.raises(ValueError, match=r"`a`.*scalar.*\(3,\)"):
        _backward(case(), {"a": torch.ones(3, requires_grad=True)})


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e12, 1e30])
def test_finite_on_losses_of_any_size(case, scale):
    balance = case()
    net = Net().double()
    for step in range(100):
        net.zero_grad()
        assert _backward(balance, _losses(net, step, scale=scale))
        assert all(torch.isfinite(g).all() for g in _gradients(net).values())
        assert all(math.isfinite(w) for w in balance.last_weights.values())


def test_a_loss_of_zero_for_ever_stays_finite(case):
    """20,000 steps, of which only the state is carried on."""
    balance = case()
    for _ in range(20_000):
        _update(balance, {"a": 0.0, "b": 1e30, "c": 1.0})
    net = Net()
    losses = _losses(net)
    losses["a"] = losses["a"] * 0
    assert _backward(balance, losses)
    assert all(torch.isfinite(g).all() for g in _gradients(net).values())


def test_where_all_tasks_agree_the_update_is_that_of_equal_weights(case):
    """Equal losses, equal gradients, at the start: nobody has to give way. Constant weights are what they are."""
    balance, size = case(), 3.0
    if case.cls.constant:
        _backward(balance, _losses(Net()))
        size = sum(balance.last_weights.values())
    x = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    _backward(balance, {t: x.square().sum() for t in TASKS})
    assert torch.allclose(x.grad, size * 2 * x.detach(), rtol=1e-5)


def test_losses_and_dict_are_one(case, float64):
    net, other = Net(), Net()
    _backward(case(), _losses(net))
    _backward(case(), Losses.of(_losses(other)))
    _same(_gradients(net), _gradients(other), 1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=str)
def test_preferences_and_auxiliary_losses(weighting, float64):
    """A weighting is sum_k w_k L_k, with the preferences in w_k; auxiliary losses are added as they are."""
    net, literal = Net(), Net()
    losses, preferred = _losses(net), {"weight": {"a": 3.0, "b": 0.5}}
    balance = _warm(weighting())
    weights = balance.weights(Losses.of(losses, **preferred))
    if not weighting.cls.own_preference:
        plain = balance.weights(Losses.of(losses))
        assert torch.allclose(weights, torch.tensor([3.0, 0.5, 1.0]) * plain, rtol=1e-12)
    aux = net.trunk.weight.square().sum()
    _backward(balance, Losses(TASKS, torch.stack(list(losses.values())), **preferred, aux={"p": aux}))
    total = torch.stack(list(_losses(literal).values())) @ weights + literal.trunk.weight.square().sum()
    total.backward()
    _same(_gradients(net), _gradients(literal), 1e-12)


def _warm(balance):
    for _ in range(10):
        _update(balance, {"a": 3.0, "b": 0.2, "c": 1.0})
    return balance


def test_equal_is_the_sum():
    net, plain = Net(), Net()
    balance = find(Balance, "equal")()
    _backward(balance, _losses(net))
    sum(_losses(plain).values()).backward()
    _same(_gradients(net), _gradients(plain), 1e-6)
    assert balance.last_weights == dict.fromkeys(TASKS, 1.0)


def test_fixed_is_the_weighted_sum():
    net, plain = Net(), Net()
    balance = find(Balance, "fixed")({"a": 2.0, "b": 0.0})
    _backward(balance, _losses(net))
    losses = _losses(plain)
    (2 * losses["a"] + 0 * losses["b"] + losses["c"]).backward()
    _same(_gradients(net), _gradients(plain), 1e-6)
    with pytest.raises(ValueError, match=r"`a`.*0 or more.*-1"):
        find(Balance, "fixed")({"a": -1.0})
    with pytest.raises(ValueError, match=r"`aa`.*`a`"):
        find(Balance, "fixed")({"aa": 1.0}).check(["a", "b"])


def test_uncertainty_comes_to_rest_at_one_over_the_loss():
    balance = find(Balance, "uncertainty")()
    constant = {"a": 4.0, "b": 0.02, "c": 1.0}
    for _ in range(5_000):
        balance.update(constant, None)
    for task, loss in constant.items():
        assert math.exp(-balance.state[task]["s"]) == pytest.approx(1 / loss, rel=0.02)
    x = nn.Parameter(torch.ones(()))
    _backward(balance, {t: x * v for t, v in constant.items()})
    assert x.grad.item() == pytest.approx(3.0, rel=0.02)


def test_uncertainty_is_equal_at_the_start_and_moves_as_adam_would():
    balance = find(Balance, "uncertainty")(lr=0.1)
    x = nn.Parameter(torch.ones(()))
    s = nn.Parameter(torch.zeros((), dtype=torch.float64))
    adam = torch.optim.Adam([s], lr=0.1)
    for step in range(30):
        loss = 2.0 + math.sin(step)
        assert balance.weights(Losses.of({"a": x * loss})).item() == pytest.approx(math.exp(-s.item()), rel=1e-5)
        _backward(balance, {"a": x * loss})
        adam.zero_grad()
        (torch.exp(-s) * float(torch.tensor(loss)) + s).backward()
        adam.step()
        assert balance.state["a"]["s"] == pytest.approx(s.item(), rel=1e-6)
    with pytest.raises(ValueError, match="`lr`"):
        find(Balance, "uncertainty")(lr=0)
