"""Learning to learn: closed forms on quadratics, a hand-written second order, and what adapting must not touch."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from manyheads import objectives
from manyheads.adaptation import adapt, linear_head, prototypes
from manyheads.catalog import find, index
from manyheads.data import Batch, Block, Taskset
from manyheads.data.episodes import EpisodeSampler, Shape
from manyheads.faults import ConfigError, DataError
from manyheads.objectives import Objective, Supervised
from manyheads.objectives.episodic import mean_error
from manyheads.tasks.classification import Binary, Multiclass
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


def test_an_unknown_label_teaches_nothing():
    """Rows without a label, in support and query, are as rows that are not there."""
    model, (batch, parts) = tanh_net(), episodes()
    part = batch["t"]
    (block,) = part.blocks
    position = torch.arange(11).repeat(4)
    known = (position != 0) & (position != 8)
    wild = block.target.masked_fill(~known, 1e6)
    found = gradient(make("maml", inner_steps=2), model, Batch({"t": replace(
        part, blocks=(Block(("y",), wild, known),)
    )}))  # fmt: skip
    fewer = [(x[1:], y[1:], qx[[0, 1, 3, 4]], qy[[0, 1, 3, 4]]) for x, y, qx, qy in parts]
    for name, value in by_hand(model, fewer, 2, second=True).items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_episodes_of_unequal_length_are_groups_of_one_shape():
    model, (long, _), (short, _) = tanh_net(), episodes(3, 6, 5), episodes(2, 2, 4, seed=1)
    objective = make("maml", inner_steps=2)
    one, other = (objective(model, b)["y"] for b in (long, short))
    parts = [long["t"], short["t"]]
    both = Taskset(
        {"x": torch.cat([p.inputs["x"] for p in parts])},
        (Block(("y",), *(torch.cat([getattr(p.blocks[0], n) for p in parts]) for n in ("target", "known"))),),
        domain=torch.cat([parts[0].domain, parts[1].domain + 3]),
        support=torch.cat([p.support for p in parts]),
    )
    torch.testing.assert_close(objective(model, Batch({"t": both}))["y"], (3 * one + 2 * other) / 5)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.out = kind(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_net_goes_one_episode_after_the_other_and_says_so_once(kind):
    model, (batch, _) = Net(Recurrent(kind)), episodes(x=torch.randn(44, 7, 3))
    objective, plain = make("maml"), make("maml", vectorised=False)
    with pytest.warns(UserWarning, match="one after the other"):
        found = gradient(objective, model, batch)
    again = gradient(objective, model, batch)  # without a word
    expected = gradient(plain, model, batch)
    assert all(torch.equal(found[n], again[n]) and torch.equal(found[n], expected[n]) for n in expected)
    assert found["body.rnn.weight_hh_l0"].abs().sum() > 0


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.layer(x).mean(1))


def test_attention_has_a_second_order():
    model, (batch, _) = Net(Attentive()), episodes(x=torch.randn(44, 5, 4))
    found, alone = (gradient(make("maml", vectorised=v), model, batch) for v in (True, False))
    first = gradient(make("fomaml"), model, batch)
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-11)
    name = "body.layer.self_attn.in_proj_weight"
    assert (found[name] - first[name]).abs().max() > 1e-8


def test_dropout_side_by_side_drops_other_units_in_each_episode():
    model = Net(nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 1)))
    x = torch.randn(11, 3).repeat(4, 1)
    batch, _ = episodes(x=x)
    same = batch["t"].blocks[0].target[:11].repeat(4)
    rows = Taskset(
        {"x": x}, (Block(("y",), same, torch.ones(44, dtype=torch.bool)),), domain=batch["t"].domain,
        support=batch["t"].support,
    )  # fmt: skip
    objective, values = make("maml"), []
    one = rows.take(torch.arange(11))
    for part in (rows, one):
        torch.manual_seed(0)
        values.append(float(objective(model, Batch({"t": part}))["y"].detach()))
    assert abs(values[0] - values[1]) > 1e-6  # four episodes of the same rows: a mean over four masks
    assert all(torch.isfinite(g).all() for g in gradient(objective, model, Batch({"t": rows})).values())


NORMING = {
    "layer": lambda: (nn.LayerNorm(6),),
    "batch": lambda: (nn.BatchNorm1d(6),),
    "instance": lambda: (nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()),
    "group": lambda: (nn.GroupNorm(2, 6),),
}


@pytest.mark.parametrize("word", ["maml", "fomaml"])
@pytest.mark.parametrize("kind", NORMING)
def test_layers_that_norm_have_a_right_second_order_side_by_side(kind, word):
    """Of torch's own layers it is wrong under `vmap`, save those that norm by groups."""
    model = Net(nn.Sequential(nn.Linear(3, 6), *NORMING[kind](), nn.Tanh(), nn.Linear(6, 1)))
    batch, parts = episodes()
    expected = by_hand(model, parts, 2, second=word == "maml")
    found = gradient(make(word, inner_steps=2, norm="batch"), model, batch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-10)


def with_norm():
    return tanh_net(3, nn.BatchNorm1d(5))


def test_batch_normalisation_is_asked_about():
    with pytest.raises(ConfigError, match="norm: frozen"):
        make("maml")(with_norm(), episodes()[0])


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("word", INNER)
def test_no_buffer_moves_and_the_model_stays_as_it_is(word, norm):
    model, (batch, _) = with_norm(), episodes()
    objective = make(word, norm=norm, inner_steps=2)
    objective.attach(model)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    state = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    objective(model, batch)["y"].backward()
    own = objective.fit(model, batch["t"])
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert state == [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    theirs = {p.data_ptr() for p in (*own.parameters(), *own.buffers())}
    assert not theirs & {p.data_ptr() for p in (*model.parameters(), *model.buffers())}


def test_a_batch_norms_each_episode_by_its_own_rows():
    model, (batch, parts) = with_norm(), episodes()
    found, first = (make(word, norm="batch", inner_steps=0)(model, batch)["y"] for word in ("maml", "fomaml"))
    layer = model.body[2]
    layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    expected = torch.stack([(model({"x": x})["y"][:, 0] - y).square().mean() for _, _, x, y in parts]).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(first, expected)


def test_frozen_statistics_are_those_that_evaluation_uses():
    model, (batch, parts) = with_norm(), episodes()
    model.body[2].running_mean.normal_()
    found = [make(word, norm="frozen", inner_steps=0)(model, batch)["y"] for word in ("maml", "fomaml")]
    model.eval()
    expected = torch.stack([(model({"x": x})["y"][:, 0] - y).square().mean() for _, _, x, y in parts]).mean()
    for value in found:
        torch.testing.assert_close(value, expected)


# -- prototypes


def test_prototypes_are_a_linear_head():
    features, classes, new = torch.randn(12, 7), torch.arange(12) % 4, torch.randn(9, 7)
    centres = prototypes(features, classes, 4)
    for k in range(4):
        torch.testing.assert_close(centres[k], features[classes == k].mean(0))
    weight, bias = linear_head(centres)
    expected = (-torch.cdist(new, centres).square()).softmax(1)
    torch.testing.assert_close((new @ weight.mT + bias).softmax(1), expected, rtol=1e-12, atol=1e-14)


CLASSES = Multiclass("y", classes=(0, 1, 2, 3, 4))


def classed(n_classes=8, each=6, d=3):
    y = torch.arange(n_classes).repeat_interleave(each)
    return {"t": Taskset({"x": torch.randn(len(y), d) + y[:, None]}, (Block(("y",), y, torch.ones_like(y) > 0),))}


def test_the_prototypical_loss_of_an_episode():
    tables, model = classed(), tanh_net()
    objective = objectives.Proto([CLASSES], ways=5, support=2, query=3)
    sampler = EpisodeSampler(tables, objective.shape)
    (batch,) = [sampler.batch(draw) for draw in sampler.plan(0)[:1]]
    part = batch["t"]
    z, y = model(part.inputs)["y"], part.blocks[0].target
    centres = torch.stack([z[part.support & (y == k)].mean(0) for k in range(5)])
    chance = (-torch.cdist(z[~part.support], centres).square()).log_softmax(1)
    expected = -chance.gather(1, y[~part.support, None]).mean()
    torch.testing.assert_close(objective(model, batch)["y"], expected)


# -- episodes


def domains(sizes, seed=0):
    random = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    y = torch.randn(n, generator=random)
    domain = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    names = tuple(f"d{i}" for i in range(len(sizes)))
    x = torch.stack([torch.arange(n, dtype=y.dtype), domain.to(y.dtype)], 1)
    return {"t": Taskset({"x": x}, (Block(("y",), y, torch.ones(n, dtype=torch.bool)),), domain=domain, domains=names)}


def test_episodes_are_a_function_of_seed_and_epoch():
    sampler, other = (EpisodeSampler(domains([30, 20, 25, 9]), Shape(4, 3, 2), seed=s) for s in (1, 2))
    assert len(sampler.plan(3)) == sampler.n_steps == 6
    for a, b, c in zip(sampler.plan(3), sampler.plan(3), other.plan(3), strict=True):
        assert torch.equal(a.rows, b.rows)
        assert a.rows.tolist() != c.rows.tolist()


def test_an_episode_has_rows_of_one_domain_once():
    sampler = EpisodeSampler(domains([30, 20, 25, 5]), Shape((2, 6), 3, 2))
    sizes, seen = set(), []
    for epoch in range(4):
        for batch in sampler.batches(epoch):
            part = batch["t"]
            assert len(part.inputs["x"][:, 0].unique()) == len(part)
            for e in part.domain.unique():
                own = part.inputs["x"][part.domain == e, 1].unique()
                assert len(own) == 1
                seen.append(int(own))
                n = int(part.support[part.domain == e].sum())
                sizes.add(n)
                assert n <= 2 or own != 3  # a domain of five rows gives half of them at most
    assert min(sizes) == 2
    assert max(sizes) == 6
    counts = np.bincount(seen)
    assert counts.max() - counts.min() <= 1  # domains take turns


def test_ways_number_classes_anew():
    tables = classed()
    sampler = EpisodeSampler(tables, Shape(2, 3, 2, ways=5))
    numbers = set()
    for batch in sampler.batches(0):
        part = batch["t"]
        for e in range(2):
            own = part.domain == e
            y, support = part.blocks[0].target[own], part.support[own]
            assert torch.bincount(y[support]).tolist() == [2] * 5
            assert torch.bincount(y[~support]).tolist() == [3] * 5
            old = (tables["t"].inputs["x"][:, None] == part.inputs["x"][own][None]).all(2).nonzero()
            true = tables["t"].blocks[0].target[old[:, 0]][old[:, 1].argsort()]
            numbers |= set(zip(true.tolist(), y.tolist(), strict=True))
            assert len(set(zip(true.tolist(), y.tolist(), strict=True))) == 5
    assert len(numbers) > 8  # one class has several numbers


@pytest.mark.parametrize(
    ("tables", "shape", "kind", "words"),
    [
        (domains([30]), Shape(), ConfigError, "name a column in `by`"),
        (domains([1, 1]), Shape(), DataError, "two rows"),
        (classed(3), Shape(2, 2, ways=5), DataError, "5 classes of two rows"),
        (domains([9, 9]), Shape(2, 2, ways=5), ConfigError, "one class per row"),
        (domains([9, 9]), Shape(by="school"), ConfigError, "Found `school`; known: none"),
    ],
)
def test_what_no_episodes_can_come_from(tables, shape, kind, words):
    with pytest.raises(kind, match=words):
        EpisodeSampler(tables, shape)


def test_plain_rows_are_no_episodes():
    with pytest.raises(ConfigError, match="EpisodeSampler"):
        make("maml")(tanh_net(), Batch(domains([9, 9])))
    with pytest.raises(ConfigError, match="accumulate_grad_batches"):
        make("maml")(tanh_net(), episodes()[0], totals={"y": 3.0})
    with pytest.raises(ConfigError, match="fits none"):
        make("maml", adapt="head")(tanh_net(), episodes()[0])


def test_the_error_is_that_of_the_task():
    n = 9
    for task in (TASK, Binary("b", classes=(0, 1)), CLASSES):
        output = torch.randn(9, task.head([4]).out_features)
        target = torch.randint(0, 2, (n,))
        target = target.to(output.dtype) if task.kind != "multiclass" else target
        known, weight = torch.rand(n) > 0.3, torch.rand(n)
        found, total = mean_error(task, output, target, known, weight)
        torch.testing.assert_close(found, task.mean_loss(output, target, known, weight))
        torch.testing.assert_close(total, (known * weight).sum())
        found, total = mean_error(task, output, target)
        torch.testing.assert_close(found, task.mean_loss(output, target, known | True))
        assert float(total) == n
        none, total = mean_error(task, output, target, known & False)
        assert float(none) == float(total) == 0
