"""Mixing: the textbook's step, its four limits, what each penalty does, and the gate that shares unless it hurts."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from manyheads.blocks import initialise
from manyheads.catalog import find
from manyheads.encoders import Encoder
from manyheads.optim import parameter_groups
from manyheads.sharing import Trace
from manyheads.sharing.mixing import Mixing
from manyheads.spec import OptimSpec
from manyheads.tasks import Task


class Chain(Encoder):
    """Linear stages (and a tanh between them) over plain tensors."""

    def __init__(self, *widths):
        super().__init__()
        pairs = list(pairwise(widths))
        ends = [nn.Tanh() if i < len(pairs) - 1 else nn.Identity() for i in range(len(pairs))]
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(*p), end) for p, end in zip(pairs, ends, strict=True))
        self.widths = list(widths[1:])


def tasks_of(names):
    return [find(Task, "regression")(name) for name in names]


def mixing(names="ab", widths=(3, 5, 4, 2), seed=0, **settings):
    sharing = Mixing(lambda: Chain(*widths), tasks_of(names), **settings)
    initialise(sharing, seed)
    return sharing


def gates_of(sharing):
    return [p for gate in sharing.gates.values() for p in gate.parameters()]


# -- the mathematics


@pytest.mark.parametrize("drawn", ["a", "ab"])
def test_a_step_is_the_textbooks(drawn, float64):
    """Theta_s -= eta (grad_1 L + a_k g2), Theta_k -= eta (1 - a_k) g2, a_k -= eta (<g2, Theta_s' - Theta_k> + 2 l a_k);
    where both tasks are there, the shared weights take the sum."""
    eta, strength, start = 0.1, 0.3, {"a": 0.3, "b": 0.8}
    sharing = mixing(from_stage=1, penalty="l2", strength=strength, noise=0.5)
    with torch.no_grad():
        for task, value in start.items():
            sharing.gates[task].a.fill_(value)
    x, y = torch.randn(7, 3), {t: torch.randn(7, 2) for t in "ab"}
    before = {n: p.detach().clone() for n, p in sharing.named_parameters()}
    shared = dict(sharing.shared.named_parameters())
    expected = dict(before)
    for task in drawn:
        a, key = start[task], sharing.own.keys_of[task]
        low = {n: p.detach().clone().requires_grad_() for n, p in sharing.lower.named_parameters()}
        second = {n: (a * p + (1 - a) * before[f"own.{key}.{n}"]).detach().requires_grad_() for n, p in shared.items()}
        z = functional_call(sharing.lower.stages[0], {n.removeprefix("stages.0."): p for n, p in low.items()}, (x,))
        loss = (functional_call(sharing.shared, second, (z,)) - y[task]).square().mean()
        first_grad = dict(zip(low, torch.autograd.grad(loss, list(low.values()), retain_graph=True), strict=True))
        g2 = dict(zip(second, torch.autograd.grad(loss, list(second.values())), strict=True))
        for n, g in first_grad.items():
            expected[f"lower.{n}"] = expected[f"lower.{n}"] - eta * g
        inner = sum((g2[n] * (before[f"shared.{n}"] - before[f"own.{key}.{n}"])).sum() for n in g2)
        for n, g in g2.items():
            expected[f"shared.{n}"] = expected[f"shared.{n}"] - eta * a * g
            expected[f"own.{key}.{n}"] = before[f"own.{key}.{n}"] - eta * (1 - a) * g
        gate = f"gates.{sharing.gates.keys_of[task]}.a"
        expected[gate] = before[gate] - eta * (inner + 2 * strength * a)
    trace = Trace()
    out = sharing(x, list(drawn), None, trace)
    loss = sum((out[t] - y[t]).square().mean() for t in drawn) + sum(trace.aux.values())
    loss.backward()
    torch.optim.SGD(sharing.parameters(), lr=eta).step()
    for name, p in sharing.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=1e-12, msg=name)
        assert torch.equal(p, before[name]) == (drawn == "a" and ("t1" in name and not name.startswith("lower")))


@pytest.mark.parametrize("j", [0, 1])
@pytest.mark.parametrize("a", [0.0, 1.0])
@pytest.mark.parametrize("penalty", ["l2", "l0"])
def test_the_four_limits_are_other_schemes(j, a, penalty, float64):
    """Plain nets, built as the limit says, trained beside it: hard, independent, and a trunk that branches at j."""
    names = "abc"
    sharing = mixing(names, from_stage=j, start=a, penalty=penalty, noise=1.0).eval()  # l0: no draws in eval
    tops = [sharing.shared] * 3 if a else [sharing.own[t] for t in names]
    oracle = deepcopy(nn.ModuleList(nn.Sequential(*sharing.lower.stages, top) for top in tops))
    assert len(list(oracle.parameters())) == (6 if a else 2 * j + 3 * (6 - 2 * j))  # what is one stays one
    for p in gates_of(sharing):
        p.requires_grad_(False)
    x, y = torch.randn(9, 3), torch.randn(3, 9, 2)
    steps = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.2) for m in (sharing, oracle)]
    found = []
    for _ in range(20):
        outputs = list(sharing(x, list(names)).values()), [net(x) for net in oracle]
        torch.testing.assert_close(torch.stack(outputs[0]), torch.stack(outputs[1]), rtol=0, atol=1e-12)
        for step, output in zip(steps, outputs, strict=True):
            step.zero_grad()
            loss = sum((z - t).square().mean() for z, t in zip(output, y, strict=True))
            loss.backward()
            step.step()
        found.append(loss.item())
    assert found[-1] < 0.9 * found[0]


@pytest.mark.parametrize("penalty", ["l2", "l0"])
@pytest.mark.parametrize("per", ["task", "stage", "tensor"])
@pytest.mark.parametrize("a", [0.0, 1.0])
def test_the_unused_copy_can_be_anything(penalty, per, a):
    sharing, x = mixing(start=a, penalty=penalty, per=per).eval(), torch.randn(5, 3)
    before = sharing(x, ["a", "b"])
    with torch.no_grad():
        for p in (sharing.own if a else sharing.shared).parameters():
            p.copy_(1e3 * torch.randn_like(p))
    after = sharing(x, ["a", "b"])
    assert all(torch.equal(before[t], after[t]) for t in "ab")
    with torch.no_grad():
        for p in (sharing.shared if a else sharing.own).parameters():
            p.copy_(1e3 * torch.randn_like(p))
    assert not torch.equal(sharing(x, ["a"])["a"], after["a"])


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_own_weights_start_beside_the_shared_ones_so_that_the_gate_learns(noise, float64):
    sharing = mixing(penalty="l2", noise=noise)
    shared = list(sharing.shared.parameters())
    for own in sharing.own.values():
        for p, q in zip(own.parameters(), shared, strict=True):
            assert (p - q).square().mean().sqrt() <= 2 * noise * q.square().mean().sqrt()
    sharing(torch.randn(6, 3), ["a"])["a"].square().sum().backward()
    assert (sharing.gates["a"].a.grad.item() == 0) == (noise == 0)


def test_there_is_a_coefficient_per_task_stage_or_tensor(float64):
    x = torch.randn(4, 3)
    for per, n in (("task", 1), ("stage", 3), ("tensor", 6)):
        sharing = mixing(per=per, penalty="l2", noise=1.0)
        a = torch.rand(n)
        with torch.no_grad():
            sharing.gates["a"].a.copy_(a)
        trace = Trace()
        out = sharing(x, ["a"], None, trace)["a"]
        own = dict(sharing.own["a"].named_parameters())
        each = a.repeat_interleave(6 // n)
        mixed = {
            name: a_i * p + (1 - a_i) * own[name]
            for a_i, (name, p) in zip(each, sharing.shared.named_parameters(), strict=True)
        }
        torch.testing.assert_close(out, functional_call(sharing.own["a"], mixed, (x,)), rtol=0, atol=1e-12)
        assert list(trace.use["a"].values()) == list(a)
        torch.testing.assert_close(trace.aux["a"], 0.1 * a.square().mean())
    assert list(trace.use["a"])[1] == "fraction shared, stage 0: 0.bias"


class Recurrent(Encoder):
    """A stage that torch cannot run for several sets of weights at once."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.GRU(3, 2, batch_first=True)])
        self.widths = [2]


def test_recurrent_stages_are_mixed_as_well(float64):
    sharing = Mixing(Recurrent, tasks_of("ab"), penalty="l2", start=0.3, noise=1.0)
    x = torch.randn(4, 5, 3)
    out = sharing(x, ["a", "b"])
    for task in "ab":
        mixed = nn.GRU(3, 2, batch_first=True)
        pairs = zip(sharing.shared.parameters(), sharing.own[task].parameters(), strict=True)
        with torch.no_grad():
            for p, (q, own) in zip(mixed.parameters(), pairs, strict=True):
                p.copy_(0.3 * q + 0.7 * own)
        torch.testing.assert_close(out[task][0], mixed(x)[0], rtol=0, atol=1e-12)


# -- penalties and gates

FORMULAS = {
    "l2": lambda a: a**2,
    "share": lambda a: (1 - a) ** 2,
    "binary": lambda a: a * (1 - a),
    "entropy": lambda a: -a * math.log(a) - (1 - a) * math.log(1 - a),
    "l0": lambda a: 1 / (1 + math.exp(2 / 3 * math.log(0.1 / 1.1)) * (a + 0.1) / (1.1 - a)),
}


@pytest.mark.parametrize(
    ("penalty", "ends"),
    [("l2", (0, 0)), ("share", (1, 1)), ("binary", (0, 1)), ("entropy", (0, 1)), ("l0", (1, 1))],
)
def test_where_a_penalty_drives_a(penalty, ends, float64):
    """From a = .3 and a = .7, with nothing else to be minimised."""
    for start, end in zip((0.3, 0.7), ends, strict=True):
        sharing = mixing("a", penalty=penalty, start=start, strength=0.5).eval()
        step = torch.optim.SGD(gates_of(sharing), lr=0.3)
        for i in range(400):
            trace = Trace()
            sharing(torch.randn(2, 3), ["a"], None, trace)
            if i == 0:
                assert trace.aux["a"].item() == pytest.approx(0.5 * FORMULAS[penalty](start), abs=1e-12)
            step.zero_grad()
            trace.aux["a"].backward()
            step.step()
        assert trace.use["a"]["fraction shared"].item() == pytest.approx(end, abs=1e-3)


def test_a_coefficient_stays_within_its_bounds_and_comes_back():
    """Projected descent: it leaves [0, 1] by one step at most, and a gradient inwards is felt at once."""
    gate = mixing("a", penalty="l2", start=0.5).gates["a"]
    step = torch.optim.SGD(gate.parameters(), lr=0.2)
    seen = []
    for slope in [1.0] * 20 + [-1.0] * 20 + [1.0] * 3:
        step.zero_grad()
        (slope * gate()).sum().backward()
        step.step()
        assert -0.2 <= gate.a.item() <= 1.2
        seen.append(gate().item())
    assert seen[19] == 0
    assert seen[20] > 0
    assert seen[39] == 1
    assert seen[41] < 1


def test_bounds_under_vmap():
    gate = mixing("a", penalty="l2").gates["a"]
    values = torch.tensor([[-0.1], [0.0], [0.4], [1.0], [1.3]], requires_grad=True)
    out = vmap(lambda a: functional_call(gate, {"a": a}))(values)
    assert out.flatten().tolist() == pytest.approx([0, 0, 0.4, 1, 1])
    (up,) = torch.autograd.grad(out.sum(), values, retain_graph=True)  # a step against it goes down
    (down,) = torch.autograd.grad(-out.sum(), values)
    assert up.flatten().tolist() == [0, 0, 1, 1, 1]
    assert down.flatten().tolist() == [-1, -1, -1, 0, 0]


@pytest.mark.parametrize("log_alpha", [-2.0, 0.3, 1.5])
def test_the_hard_concrete_gate_has_its_probabilities(log_alpha):
    """P(z > 0) = sigmoid(log alpha - beta log(-low / high)); P(z = 1) = 1 - sigmoid(beta log((1 - low) / (high - 1))
    - log alpha)."""
    gate = mixing("a", penalty="l0").gates["a"]
    gate.log_alpha = nn.Parameter(torch.full((400_000,), log_alpha))
    z = 1 - gate.train()()
    sigmoid = torch.tensor(log_alpha - 2 / 3 * math.log(0.1 / 1.1)).sigmoid().item()
    assert (z > 0).double().mean().item() == pytest.approx(sigmoid, abs=3e-3)
    assert gate.penalty(gate.log_alpha, z)[0].item() == pytest.approx(sigmoid, abs=1e-6)
    one = 1 - torch.tensor(2 / 3 * math.log(1.1 / 0.1) - log_alpha).sigmoid().item()
    assert (z == 1).double().mean().item() == pytest.approx(one, abs=3e-3)


def test_l0_draws_in_training_alone_and_tells_what_holds_without_chance():
    sharing, x = mixing(start=0.6), torch.randn(4, 3)
    traces = [Trace(), Trace()]
    outputs = [sharing(x, ["a"], None, trace)["a"] for trace in traces]
    assert not torch.equal(*outputs)
    assert all(t.use["a"]["fraction shared"].item() == pytest.approx(0.6) for t in traces)
    assert torch.equal(traces[0].aux["a"], traces[1].aux["a"])
    sharing.eval()
    assert torch.equal(sharing(x, ["a"])["a"], sharing(x, ["a"])["a"])


@pytest.mark.parametrize("penalty", ["l0", "l2"])
@pytest.mark.parametrize("per", ["task", "tensor"])
def test_coefficients_are_not_decayed(penalty, per):
    sharing = mixing(penalty=penalty, per=per)
    kept = next(g for g in parameter_groups(sharing, OptimSpec()) if g.get("weight_decay") == 0)
    assert all(any(p is q for q in kept["params"]) for p in gates_of(sharing))


def related_and_outlier(penalty, seed):
    """(fraction shared, test error) of five related linear tasks, on average, and of a sixth that has nothing to do
    with them; 15 rows of each, 20 columns, weight decay on matrices alone as in the library's own training."""
    g = torch.Generator().manual_seed(seed)
    common, other = torch.randn(2, 20, generator=g)
    truth = torch.stack([*(common + 0.1 * torch.randn(20, generator=g) for _ in range(5)), other]) / math.sqrt(20)
    x, x_new = torch.randn(6, 15, 20, generator=g), torch.randn(6, 500, 20, generator=g)
    y = torch.einsum("knd,kd->kn", x, truth) + 0.1 * torch.randn(6, 15, generator=g)
    y_new = torch.einsum("knd,kd->kn", x_new, truth)
    names = list("abcdef")
    sharing = mixing(names, (20, 1), seed, penalty=penalty)
    groups = parameter_groups(sharing, OptimSpec(weight_decay=0.1))
    optimizer = torch.optim.AdamW(groups, lr=0.05, weight_decay=0.1)

    def errors(x, y, trace=None):
        z = sharing(x.flatten(0, 1), names, None, trace)
        own = torch.stack([z[t].view(6, -1)[i] for i, t in enumerate(names)])
        return (own - y).square().mean(1)

    for _ in range(200):
        trace = Trace()
        loss = errors(x, y, trace).sum() + sum(trace.aux.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sharing.eval()
    trace = Trace()
    with torch.no_grad():
        found = errors(x_new, y_new, trace)
    a = torch.stack([trace.use[t]["fraction shared"] for t in names])
    return torch.stack([a[:5].mean(), a[5], found[:5].mean(), found[5]])


def test_l0_shares_unless_it_hurts():
    means = {
        penalty: torch.stack([related_and_outlier(penalty, seed) for seed in range(3)]).mean(0).tolist()
        for penalty in ("l0", "share", "l2")
    }
    (related, outlier, error, error_outlier), share, l2 = means["l0"], means["share"], means["l2"]
    assert related > 0.9  # measured: 1.0, and the outlier 0.0
    assert outlier < 0.1
    assert error < 0.1  # measured: .014, with (1 - a)^2 .031, with a^2 .44
    assert share[2] < 0.1
    assert l2[2] > 0.3
    assert max(l2[:2]) < 0.1  # the survey's penalty: nobody shares
    assert share[1] > 0.3  # an outlier that is drawn in ...
    assert error_outlier < share[3]  # ... and suffers: measured .39 and .48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per": "channel"}, "`per` should be one of task, stage, tensor"),
        ({"penalty": "l1"}, "`penalty` should be one of l0, share"),
        ({"start": 1.5}, "`start` between 0 and 1"),
        ({"strength": -1.0}, "`strength` and `noise` should be 0 or more"),
        ({"from_stage": 3}, "`from_stage` should be the number of one of the encoder's 3 stages"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        mixing(**settings)


def test_nothing_to_mix():
    class Bare(Encoder):
        def __init__(self):
            super().__init__()
            self.stages, self.widths = nn.ModuleList([nn.Identity()]), [3]

    with pytest.raises(ValueError, match="should have weights to mix"):
        Mixing(Bare, tasks_of("a"))
