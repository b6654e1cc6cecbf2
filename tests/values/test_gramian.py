"""The Gramian of the tasks' gradients, and the way back, against one plain backward pass per task."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from manyheads.blocks import BatchedLinear
from manyheads.gradients.gramian import Gradients
from manyheads.gradients.layers import accumulate

D = 6


@pytest.fixture(autouse=True)
def _float64(float64):
    """All of this is mathematics."""


# -- the slow, obvious way


def _each(losses, parameters):
    """task -> parameter -> gradient, of those that it reaches; one backward pass per task."""
    found = {}
    for task, loss in losses.items():
        g = [None] * len(parameters)
        if loss.requires_grad:
            g = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        found[task] = {p: a.to_dense() for p, a in zip(parameters, g, strict=True) if a is not None}
    return found


def _shared(each):
    """The parameters that two tasks or more reach."""
    every = dict.fromkeys(p for row in each.values() for p in row)
    return [p for p in every if sum(p in row for row in each.values()) > 1]


def _gram(each, shared):
    rows = [torch.cat([row.get(p, torch.zeros_like(p)).flatten() for p in shared]) for row in each.values()]
    jacobian = torch.stack(rows).double()
    return (jacobian @ jacobian.T).numpy()


def _agrees(step, parameters, mode="exact", tolerance=1e-10, scale=1.0, expected=None):
    """The Gramian and every `.grad` are those of plain autograd.

    Args:
        step: makes (losses, cut, features) anew, the same each time.
        parameters: all that there are.
        expected: the Gramian; by default that of the shared parameters.
    """
    parameters = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    losses, _, _ = step()
    each = _each(losses, parameters)
    shared = _shared(each)
    weights = {task: 0.5 + 1.3 * i for i, task in enumerate(losses)} if len(losses) > 1 else dict.fromkeys(losses, 1.0)
    losses, cut, features = step()
    found = Gradients(losses, cut, features, scale)
    gram = found.measure(mode)
    assert gram.dtype == np.float64
    assert gram.shape == (len(losses), len(losses))
    if len(losses) > 1:  # one alone shares nothing
        expected = _gram(each, shared) if expected is None else expected
        assert np.abs(gram - expected).max() <= tolerance * np.abs(expected).max()
    for p in parameters:
        p.grad = None
    found.backward(weights)
    for p in parameters:
        rows = {task: row[p] for task, row in each.items() if p in row}
        if not rows:
            assert p.grad is None
            continue
        right = sum(weights[t] * g for t, g in rows.items()) if len(rows) > 1 else next(iter(rows.values()))
        got = p.grad.to_dense() / scale
        assert torch.allclose(got, right, rtol=0, atol=tolerance * max(right.abs().max().item(), 1e-3)), p.shape
    return found


# -- trunks of every kind of layer, and heads


class Calls(nn.Module):
    """Modules and what is done with them."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.does = forward
        for name, module in modules.items():
            if isinstance(module, nn.Parameter):
                self.register_parameter(name, module)
            else:
                self.add_module(name, module)

    def forward(self, x):
        return self.does(self, x)


class Outside(torch.autograd.Function):
    """tanh by numpy: nothing that torch could do for several gradients at once."""

    @staticmethod
    def forward(ctx, x):
        y = torch.from_numpy(np.tanh(x.detach().numpy()))
        ctx.save_for_backward(y)
        ctx.variable = "a name that autograd's own leaves have as well"
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return torch.from_numpy(g.numpy() * (1 - y.numpy() ** 2))


def _weights(*shape):
    return nn.Parameter(torch.randn(shape) / 2)


def _frozen(module):
    return module.requires_grad_(False)


def _linear(*widths):
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers)


def _batched():
    layer = BatchedLinear(4, D)
    layer.weight, layer.bias = _weights(3, D, 4), _weights(3, D)
    return Calls(lambda s, x: s.a(x.expand(3, *x.shape)).tanh().mean(0), a=layer)


def _batchnorm():
    return nn.Sequential(nn.Linear(4, D), nn.BatchNorm1d(D, track_running_stats=False), nn.Tanh())


def _conv(kind, *norm):
    return Calls(lambda s, x: s.a(x).flatten(2).mean(-1), a=nn.Sequential(kind(2, D, 3), *norm, nn.Tanh()))


def _sequence(kind):
    return Calls(lambda s, x: s.a(x)[0].mean(1), a=kind(4, D, batch_first=True))


def _attention():
    return Calls(lambda s, x: s.a(x, x, x)[0].mean(1), a=nn.MultiheadAttention(D, 2, batch_first=True))


def _tied():
    return Calls(lambda s, x: s.b(s.a(s.a(x).tanh())).tanh(), a=nn.Linear(D, D), b=nn.Linear(D, D, bias=False))


def _elsewhere():
    """A weight that is used as such, as it is, and by its norm."""
    return Calls(lambda s, x: (s.a(x).tanh() @ s.a.weight) / s.a.weight.norm(), a=nn.Linear(D, D))


def _partly():
    """Frozen weights, a frozen bias, parameters that nothing uses."""
    net = Calls(lambda s, x: s.c(s.b(s.a(x).tanh()).tanh()), a=nn.Linear(4, D), b=nn.Linear(D, D), c=nn.Linear(D, D))
    _frozen(net.b)
    net.c.bias.requires_grad_(False)
    net.unused, net.never = nn.Linear(3, 3), _weights(2)
    return net


def _rows(n, *shape):
    return torch.randn(n, *shape)


def _ids(n):
    return torch.arange(n) * 7 % 11


NETS = {
    "linear": (lambda: nn.Linear(4, D), lambda n: _rows(n, 4)),
    "mlp": (lambda: _linear(4, 8, D), lambda n: _rows(n, 4)),
    "3-d": (lambda: Calls(lambda s, x: s.a(x).mean(1), a=_linear(4, 8, D)), lambda n: _rows(n, 5, 4)),
    "no bias": (
        lambda: Calls(lambda s, x: s.b(s.a(x).tanh()), a=nn.Linear(4, 5, bias=False), b=nn.Linear(5, D, bias=False)),
        lambda n: _rows(n, 4),
    ),
    "3-d, no bias": (
        lambda: Calls(lambda s, x: s.a(x).tanh().mean(1), a=nn.Linear(4, D, False)),
        lambda n: _rows(n, 5, 4),
    ),
    "one bias for all": (
        lambda: Calls(lambda s, x: F.linear(x, s.w, s.b).tanh(), w=_weights(D, 4), b=_weights(1)),
        lambda n: _rows(n, 4),
    ),
    "scaled product": (
        lambda: Calls(lambda s, x: torch.addmm(s.b, x, s.w.T, alpha=2, beta=3), w=_weights(D, 4), b=_weights(D)),
        lambda n: _rows(n, 4),
    ),
    "layernorm": (lambda: nn.Sequential(nn.Linear(4, D), nn.LayerNorm(D), nn.Tanh()), lambda n: _rows(n, 4)),
    "batchnorm": (_batchnorm, lambda n: _rows(n, 4)),
    "conv1d": (lambda: _conv(nn.Conv1d), lambda n: _rows(n, 2, 7)),
    "conv2d, groupnorm": (lambda: _conv(nn.Conv2d, nn.GroupNorm(2, D)), lambda n: _rows(n, 2, 5, 5)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(11, D), nn.Tanh()), _ids),
    "embedding, padded": (lambda: nn.Sequential(nn.Embedding(11, D, padding_idx=0), nn.Tanh()), _ids),
    "embedding, sparse": (lambda: nn.Sequential(nn.Embedding(11, D, sparse=True), nn.Linear(D, D)), _ids),
    "gru": (lambda: _sequence(nn.GRU), lambda n: _rows(n, 5, 4)),
    "lstm": (lambda: _sequence(nn.LSTM), lambda n: _rows(n, 5, 4)),
    "attention": (_attention, lambda n: _rows(n, 3, D)),
    "bare": (
        lambda: Calls(lambda s, x: (x @ s.w + s.b).tanh() * s.b, w=_weights(4, D), b=_weights(D)),
        lambda n: _rows(n, 4),
    ),
    "tied": (_tied, lambda n: _rows(n, D)),
    "elsewhere": (_elsewhere, lambda n: _rows(n, D)),
    "partly frozen": (_partly, lambda n: _rows(n, 4)),
    "residual": (
        lambda: Calls(lambda s, x: (h := s.a(x).tanh()) + s.b(h).tanh(), a=nn.Linear(4, D), b=nn.Linear(D, D)),
        lambda n: _rows(n, 4),
    ),
    "checkpointed": (
        lambda: Calls(lambda s, x: checkpoint(s.a, x, use_reentrant=False), a=_linear(4, 8, D)),
        lambda n: _rows(n, 4),
    ),
    "outside torch": (lambda: Calls(lambda s, x: Outside.apply(s.a(x)), a=nn.Linear(4, D)), lambda n: _rows(n, 4)),
    "several weights": (_batched, lambda n: _rows(n, 4)),
}


class Scaled(nn.Module):
    """A linear layer and, after it, parameters of the head's own."""

    def __init__(self):
        super().__init__()
        self.a, self.scale, self.shift = nn.Linear(D, 2), _weights(2), _weights(2)

    def forward(self, z):
        return self.a(z) * self.scale + self.shift


def _without(part):
    head = nn.Linear(D, 2)
    getattr(head, part).requires_grad_(False)
    return head


HEADS = {
    "linear": lambda: nn.Linear(D, 1),
    "two outputs": lambda: nn.Linear(D, 2),
    "wide": lambda: nn.Linear(D, 40),
    "no bias": lambda: nn.Linear(D, 1, bias=False),
    "mlp": lambda: nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 1)),
    "after a function": lambda: nn.Sequential(nn.Tanh(), nn.Linear(D, 1)),
    "twice": lambda: Calls(lambda s, z: s.a(z) + s.a(z.tanh()), a=nn.Linear(D, 1)),
    "scaled": Scaled,
    "frozen weight": lambda: _without("weight"),
    "frozen bias": lambda: _without("bias"),
    "frozen": lambda: _frozen(nn.Linear(D, 1)),
    "weight of a norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(D, 1)),
}
WAYS = ("cut", "features", "neither")


def _world(trunk, x, heads, way, known=None):
    """(step, parameters): all tasks read the trunk's output; `known` are the rows that each has labels of."""
    heads = nn.ModuleList(heads)

    def step():
        z = trunk(x)
        losses, cut = {}, {}
        for i, head in enumerate(heads):
            view = z.view_as(z) if way == "cut" else z
            error = (head(view) - i).square().mean(1)
            losses[f"t{i}"] = error.mean() if known is None else error[known[i]].mean()
            cut[f"t{i}"] = [(z, view)]
        return losses, cut if way == "cut" else None, [z] if way == "features" else None

    return step, [*trunk.parameters(), *heads.parameters()]


@pytest.mark.parametrize(("rows", "tasks"), [(3, 2), (80, 5), (12, 1)], ids=["few rows", "many rows", "one task"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("net", NETS)
def test_exact_is_plain_autograd_whatever_the_trunk(net, way, rows, tasks):
    make, inputs = NETS[net]
    heads = [HEADS["linear" if i % 2 else "mlp"]() for i in range(tasks)]
    _agrees(*_world(make(), inputs(rows), heads, way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", HEADS)
def test_exact_is_plain_autograd_whatever_the_heads(head, way):
    _agrees(*_world(_linear(4, D), _rows(9, 4), [HEADS[head]() for _ in range(3)], way), scale=1024.0)


def _upper(step):
    """MGDA-UB's Gramian: of each task's gradient at the shared activation, by autograd."""
    losses, cut, features = step()
    z = features[0] if cut is None else next(iter(cut.values()))[0][0]
    rows = [torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses.values()]
    return (torch.stack(rows) @ torch.stack(rows).T).numpy()


@pytest.mark.parametrize("way", ["cut", "features"])
@pytest.mark.parametrize("head", [*HEADS, "all kinds"])
def test_features_is_the_gramian_at_the_activation(head, way):
    kinds = HEADS.values() if head == "all kinds" else [HEADS[head]] * 3
    step, parameters = _world(_linear(4, D), _rows(50, 4), [kind() for kind in kinds], way)
    found = _agrees(step, parameters, "features", expected=_upper(step))
    assert found.mode == "features"
    assert _agrees(step, parameters, "auto", expected=_upper(step)).mode == "features"


@pytest.mark.parametrize("way", ["cut", "features"])
def test_features_of_images_and_sequences(way):
    trunk, heads = nn.Conv2d(2, 20, 3), [nn.Linear(20, 1) for _ in range(3)]
    pooled = [Calls(lambda s, z: s.a(z.amax((-1, -2))), a=head) for head in heads]  # most of dL/dz is 0
    step, parameters = _world(trunk, _rows(5, 2, 12, 12), pooled, way)
    _agrees(step, parameters, "features", expected=_upper(step))
    assert _agrees(step, parameters, "auto", expected=_upper(step)).mode == "features"


# -- rows


def _masks(n, *parts):
    return [torch.isin(torch.arange(n), torch.arange(a, b)) for a, b in parts]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_disjoint_rows_are_exact_and_never_features(head, way):
    heads = [HEADS[head]() for _ in range(3)]
    step, parameters = _world(_linear(4, D), _rows(30, 4), heads, way, _masks(30, (0, 10), (10, 20), (20, 30)))
    assert _agrees(step, parameters, "auto").mode == "exact"
    with pytest.raises(ValueError, match=r"`gramian: features` should have .* use auto or exact"):
        Gradients(*step()).measure("features")


def test_auto_wants_nearly_all_rows_in_common():
    """Rows that one task alone has look orthogonal to the other's, whatever it wants."""
    for parts, mode in (
        ([(0, 20), (1, 21)], "features"),
        ([(0, 20), (3, 23)], "exact"),
        ([(0, 3), (0, 40)], "exact"),
        ([(0, 37), (0, 40)], "features"),
    ):
        step, _ = _world(_linear(4, D), _rows(40, 4), [HEADS["linear"]() for _ in range(2)], "cut", _masks(40, *parts))
        found = Gradients(*step())
        found.measure()
        assert found.mode == mode, parts


@pytest.mark.parametrize("way", ["cut", "features"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_task_that_wants_nothing_does_not_forbid_features(head, way):
    heads = [HEADS[head]() for _ in range(3)]
    last = heads[1] if head == "linear" else heads[1][-1]
    nn.init.zeros_(last.weight)  # as heads may start
    step, parameters = _world(_linear(4, D), _rows(10, 4), heads, way)
    found = _agrees(step, parameters, "features", expected=_upper(step))
    assert found.measure()[1, 1] == 0
    assert found.mode == "features"


def test_clear_cosines_of_features_have_the_signs_of_the_exact_ones():
    """The bound itself says nothing about signs, and near 0 they differ often: in a third of all pairs here."""
    found = {"features": [], "exact": []}
    for seed in range(4):
        torch.manual_seed(seed)
        x, trunk, heads = _rows(800, 8), _linear(8, 48, 48), nn.ModuleList(nn.Linear(48, 1) for _ in range(4))
        truth = (x @ torch.randn(8, 2)).tanh() + x[:, :2] * x[:, 4:6]
        truth = torch.cat([truth, truth], 1) + 0.3 * torch.randn(800, 4)  # two kinds of task, each seen twice
        optimiser = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=3e-3)
        for i in range(100):
            rows = torch.randint(0, 800, (128,))
            z = trunk(x[rows])
            losses = {str(k): (h(z).squeeze(1) - truth[rows, k]).square().mean() for k, h in enumerate(heads)}
            if i % 10 == 0:
                for mode, cosines in found.items():
                    gram = Gradients(losses, features=[z]).measure(mode)
                    size = np.sqrt(gram.diagonal())
                    cosines.append((gram / size / size[:, None])[np.triu_indices(4, 1)])
            optimiser.zero_grad()
            sum(losses.values()).backward()
            optimiser.step()
    features, exact = (np.concatenate(cosines) for cosines in found.values())
    clear = np.abs(features) > 0.2
    assert clear.sum() > 40
    assert (features * exact < 0)[clear].mean() <= 0.02
    assert np.corrcoef(features, exact)[0, 1] > 0.9


# -- nets that are not one trunk


def _towers():
    """Stages a, b, c; heads at each of them."""
    torch.manual_seed(1)
    return nn.ModuleDict({"a": _linear(4, D), "b": _linear(D, D), "c": _linear(D, D)}), nn.ModuleList(
        nn.Linear(D, 1) for _ in range(4)
    )


def _loss(head, z, target):
    return (head(z) - target).square().mean()


@pytest.mark.parametrize("way", WAYS)
def test_tasks_at_different_depths(way):
    """The uppermost stage is one task's own: it gets its own gradient, and is no part of the Gramian."""
    stages, heads = _towers()
    x = _rows(7, 4)

    def step():
        z = [stages["a"](x)]
        z += [stages["b"](z[0])]
        z += [stages["c"](z[1])]
        at = {"low": 0, "mid": 1, "mid too": 1, "top": 2}
        views = {t: z[i].view_as(z[i]) if way == "cut" else z[i] for t, i in at.items()}
        losses = {t: _loss(heads[i], views[t], i) for i, t in enumerate(at)}
        cut = {t: [(z[i], views[t])] for t, i in at.items()}
        return losses, cut if way == "cut" else None, z if way == "features" else None

    found = _agrees(step, [*stages.parameters(), *heads.parameters()])
    assert set(stages["c"].parameters()) <= set(found.own["top"])
    assert found.shared is not None
    assert not set(stages["c"].parameters()) & set(found.shared)
    with pytest.raises(ValueError, match="`gramian: features`"):
        found.measure("features")


@pytest.mark.parametrize("way", ["cut", "neither"])
@pytest.mark.parametrize("entrances", ["shared", "own"])
def test_tables_of_their_own(entrances, way):
    """Two graphs with the same weights; stage 0 may be each table's own, a task may have labels in both."""
    first = nn.ModuleList(_linear(4, D) for _ in range(3))
    trunk, heads = _linear(D, 8, D), nn.ModuleList(nn.Linear(D, 1) for _ in range(4))
    tables = [_rows(5, 4), _rows(40, 4), _rows(9, 4)]
    asked = {"a": [0], "b": [1], "both": [0, 1], "c": [2]}

    def step():
        z = [trunk(first[i if entrances == "own" else 0](x)) for i, x in enumerate(tables)]
        losses, cut = {}, {}
        for i, (task, where) in enumerate(asked.items()):
            views = [z[j].view_as(z[j]) for j in where]
            losses[task] = sum(_loss(heads[i], v, i) for v in views)
            cut[task] = [(z[j], v) for j, v in zip(where, views, strict=True)]
        return losses, cut if way == "cut" else None, None

    found = _agrees(step, [*first.parameters(), *trunk.parameters(), *heads.parameters()])
    assert set(found.own["c"]) == {*heads[3].parameters(), *(first[2].parameters() if entrances == "own" else ())}
    assert not found.own["a"] or set(found.own["a"]) == set(heads[0].parameters())


@pytest.mark.parametrize("way", WAYS)
def test_an_entrance_that_one_task_alone_reaches(way):
    """Below the cut, and yet a task's own: exactly its own gradient, whatever the weights."""
    own, common = nn.ModuleList(nn.Linear(4, D) for _ in range(2)), _linear(D, D)
    x = [_rows(5, 4), _rows(6, 4)]

    def step():
        z = [common(f(rows)) for f, rows in zip(own, x, strict=True)]
        views = [v.view_as(v) if way == "cut" else v for v in z]
        losses = {t: _loss(nn.Identity(), v[:, i], 1.0) for i, (t, v) in enumerate(zip("ab", views, strict=True))}
        cut = {t: [(a, v)] for t, a, v in zip("ab", z, views, strict=True)}
        return losses, cut if way == "cut" else None, z if way == "features" else None

    found = _agrees(step, [*own.parameters(), *common.parameters()])
    for i, task in enumerate("ab"):
        assert set(found.own[task]) == set(own[i].parameters())
    unmeasured = Gradients(*step())
    for p in own.parameters():
        p.grad = None
    unmeasured.backward({"a": 3.0, "b": 5.0})
    plain = _each(step()[0], list(own.parameters()))
    for i, task in enumerate("ab"):
        for p in own[i].parameters():
            assert torch.allclose(p.grad, plain[task][p], rtol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_reaches_a_part_of_the_trunk(way):
    stages, heads = _towers()
    x = _rows(7, 4)

    def step():
        z = stages["a"](x)
        v = [z.view_as(z) if way == "cut" else z for _ in range(2)]
        losses = {"a": _loss(heads[0], v[0], 0.0), "b": _loss(heads[1], stages["b"](v[1]), 1.0)}
        losses["c"] = stages["a"][0].bias.square().sum()  # past the cut
        cut = {"a": [(z, v[0])], "b": [(z, v[1])], "c": []}
        return losses, cut if way == "cut" else None, [z] if way == "features" else None

    _agrees(step, [*stages.parameters(), *heads.parameters()])


@pytest.mark.parametrize("way", WAYS)
def test_a_head_that_uses_a_weight_of_the_trunk(way):
    """As language models do: what a head alone reaches past the cut is shared all the same."""
    words, trunk, head, ids = nn.Embedding(11, D), _linear(D, D), nn.Linear(D, 1), _ids(7)

    def step():
        z = trunk(words(ids))
        v = [z.view_as(z) if way == "cut" else z for _ in range(2)]
        losses = {"a": _loss(head, v[0], 1.0), "words": F.cross_entropy(v[1] @ words.weight.T, ids)}
        cut = {"a": [(z, v[0])], "words": [(z, v[1])]}
        return losses, cut if way == "cut" else None, [z] if way == "features" else None

    _agrees(step, [*words.parameters(), *trunk.parameters(), *head.parameters()])


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_past_the_cut(way):
    stages, heads = _towers()
    x = _rows(7, 4)

    def step():
        below = stages["a"](x)
        z = stages["b"](below)
        v = [z.view_as(z) if way == "cut" else z for _ in range(2)]
        losses = {"a": _loss(heads[0], v[0] + below, 0.0), "b": _loss(heads[1], v[1], 1.0)}
        cut = {"a": [(z, v[0])], "b": [(z, v[1])]}
        return losses, cut if way == "cut" else None, [z] if way == "features" else None

    _agrees(step, [*stages.parameters(), *heads.parameters()])


@pytest.mark.parametrize("way", WAYS)
def test_a_head_that_reads_another_task(way):
    trunk, heads, x = _linear(4, D), nn.ModuleList([nn.Linear(D, 1), nn.Linear(D + 1, 1)]), _rows(7, 4)

    def step():
        z = trunk(x)
        v = [z.view_as(z) if way == "cut" else z for _ in range(2)]
        first = heads[0](v[0])
        losses = {"a": (first - 1).square().mean(), "b": heads[1](torch.cat([v[1], first], 1)).square().mean()}
        cut = {"a": [(z, v[0])], "b": [(z, v[1])]}
        return losses, cut if way == "cut" else None, [z] if way == "features" else None

    _agrees(step, [*trunk.parameters(), *heads.parameters()])


def test_features_at_several_places():
    """Side by side they are features; one made from another, named twice, or in part unnamed, it stays exact."""
    one, other, top = _linear(4, D), _linear(4, D), _linear(D, D)
    heads, x = nn.ModuleList(nn.Linear(D, 1) for _ in range(3)), _rows(7, 4)
    parameters = [*one.parameters(), *other.parameters(), *top.parameters(), *heads.parameters()]

    def step(kind):
        a, b = one(x), other(x)
        if kind == "nested":
            b = top(a)
        losses = {
            str(i): _loss(head, (a if i == 0 and kind == "one each" else a * b), i) for i, head in enumerate(heads)
        }
        named = {"unnamed": [a], "twice": [a, b, a], "one each": [a, b]}.get(kind, [a, b])
        if kind == "halves":
            a, b = one(x).chunk(2, 1)
            losses = {"a": a.square().mean(), "b": (b - 1).square().mean(), "ab": (a * b).exp().mean()}
            named = [a, b]
        if kind == "one half":
            a, b = one(x).chunk(2, 1)
            losses, named = {"a": a.square().mean(), "b": (a - b).square().mean()}, [a]
        return losses, None, named

    for kind in ("side by side", "nested", "unnamed", "twice", "one each", "halves", "one half"):
        _agrees(lambda kind=kind: step(kind), parameters)
    found = Gradients(*step("side by side"))
    found.measure()
    assert found.mode == "features"


def test_a_module_that_several_tasks_share_above_the_cut():
    trunk, tower, heads, x = _linear(4, D), _linear(D, D), nn.ModuleList(nn.Linear(D, 1) for _ in range(3)), _rows(7, 4)

    def step():
        z = trunk(x)
        v = [z.view_as(z) for _ in range(3)]
        read = [tower(v[0]), tower(v[1]), v[2]]
        losses = {str(i): _loss(head, r, i) for i, (head, r) in enumerate(zip(heads, read, strict=True))}
        return losses, {str(i): [(z, v[i])] for i in range(3)}, None

    _agrees(step, [*trunk.parameters(), *tower.parameters(), *heads.parameters()])


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_has_nothing_to_learn(way):
    """A task that only watches: constants, and heads without a way down."""
    trunk, heads, x = _linear(4, D), nn.ModuleList(nn.Linear(D, 1) for _ in range(3)), _rows(7, 4)

    def step():
        z = trunk(x)
        v = [z.view_as(z) if way == "cut" else z for _ in range(2)]
        losses = {str(i): _loss(heads[i], v[i], i) for i in range(2)}
        losses |= {"watches": _loss(heads[2], z.detach(), 2.0), "constant": torch.tensor(2.0)}
        cut = {str(i): [(z, v[i])] for i in range(2)} | {"watches": [], "constant": []}
        return losses, cut if way == "cut" else None, [z] if way == "features" else None

    _agrees(step, [*trunk.parameters(), *heads.parameters()])


@pytest.mark.parametrize("way", WAYS)
def test_a_trunk_that_does_not_learn(way):
    step, parameters = _world(_frozen(_linear(4, D)), _rows(7, 4), [nn.Linear(D, 1) for _ in range(2)], way)
    losses, cut, features = step()
    found = Gradients(losses, cut, features)
    assert found.shared == []
    found.backward({"t0": 3.0, "t1": 5.0})
    plain = _each(losses, [p for p in parameters if p.requires_grad])
    for row in plain.values():
        for p, g in row.items():
            assert torch.allclose(p.grad, g, rtol=1e-12)


def test_an_input_that_asks_for_its_gradient_is_no_parameter():
    """A gradient penalty in a task's loss: a graph of gradients of gradients, and inputs that are leaves of it."""
    trunk, heads, rows = _linear(4, 8, D), nn.ModuleList(nn.Linear(D, 1) for _ in range(2)), _rows(9, 4)

    def step():
        x = rows.clone().requires_grad_()
        z = trunk(x)
        slope = torch.autograd.grad(heads[1](z).sum(), x, create_graph=True)[0]
        return {"a": _loss(heads[0], z, 1.0), "b": heads[1](z).mean() + slope.square().mean()}, None, None

    _agrees(step, [*trunk.parameters(), *heads.parameters()])


def test_leaves_count_where_there_is_no_parameter():
    theta = torch.tensor([1.0, -2.0], requires_grad=True)
    losses = {"a": theta.square().sum(), "b": theta.prod()}
    assert Gradients(losses).measure("exact") == pytest.approx(np.array([[20.0, -8.0], [-8.0, 5.0]]))


def test_a_single_number_as_the_activation():
    q = _weights(3)

    def step():
        z = q.square().sum()
        return {"a": z.square(), "b": z.exp()}, None, [z]

    _agrees(step, [q])
    _agrees(step, [q], "features", expected=_upper(step))


# -- the way back


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_added_to_those_that_are_there(way):
    step, parameters = _world(_linear(4, D), _rows(9, 4), [HEADS["linear"](), HEADS["mlp"]()], way)
    grads = []
    for before in (None, 1.0):
        found = Gradients(*step())
        found.measure()
        for p in parameters:
            p.grad = None if before is None else torch.full_like(p, before)
        found.backward({"t0": 2.0, "t1": 0.5}, [parameters[0].square().sum()])
        grads.append([p.grad for p in parameters])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a + 1, b, rtol=1e-12)


@pytest.mark.parametrize("mode", ["features", "exact"])
def test_sparse_gradients_stay_sparse(mode):
    words = nn.Embedding(50, D, sparse=True)
    step, _ = _world(words, _ids(9), [HEADS["linear"]() for _ in range(2)], "features")
    found = Gradients(*step())
    found.measure(mode)
    found.backward({"t0": 2.0, "t1": 0.5})
    assert words.weight.grad.is_sparse
    torch.optim.SparseAdam(words.parameters()).step()


@pytest.mark.parametrize("measured", ["auto", "exact", None])
@pytest.mark.parametrize("way", WAYS)
def test_every_gradient_has_memory_of_its_own(way, measured):
    """So that what changes gradients in place, as clipping does, changes each once."""
    trunk, x = _linear(4, D), _rows(9, 4)
    own = [nn.ParameterList([_weights(D), _weights(D), _weights(3)]) for _ in range(2)]

    def step():
        z = trunk(x)
        v = [z.view_as(z) if way == "cut" else z for _ in range(2)]
        losses = {str(i): (v[i].mean(0) * (p[0] + p[1])).sum() + p[2].sum() for i, p in enumerate(own)}
        cut = {str(i): [(z, v[i])] for i in range(2)}
        return losses, cut if way == "cut" else None, [z] if way == "features" else None

    found = Gradients(*step())
    if measured:
        found.measure(measured)
    found.backward({"0": 1.0, "1": 1.0})
    every = [*trunk.parameters(), *own[0], *own[1]]
    before = [p.grad.clone() for p in every]
    norm = nn.utils.clip_grad_norm_(every, 0.1)
    for p, g in zip(every, before, strict=True):
        assert torch.allclose(p.grad, g * 0.1 / norm, rtol=1e-4)
    rows = Gradients(*step()).rows()
    for i, p in enumerate(own):
        assert len({rows[str(i)][q].untyped_storage().data_ptr() for q in p}) == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_task_that_is_left_out_adds_nothing(way):
    """Not even 0 times what is not finite."""
    step, parameters = _world(_linear(4, D), _rows(9, 4), [HEADS["linear"]() for _ in range(3)], way)
    losses, cut, features = step()
    losses["t1"] = losses["t1"] * torch.tensor(torch.inf)
    found = Gradients(losses, cut, features)
    gram = found.measure()
    assert np.isfinite(gram.diagonal()).tolist() == [True, False, True]
    assert np.isfinite(gram[np.ix_([0, 2], [0, 2])]).all()
    found.backward({"t0": 1.0, "t2": 3.0})
    losses, _, _ = step()
    (losses["t0"] + 3 * losses["t2"]).backward(inputs=(shared := parameters[:2]), retain_graph=True)
    for p in shared:
        assert torch.isfinite(p.grad).all()
    for p in parameters[2:]:
        p.plain = p.grad
    assert parameters[4].grad is None
    plain = _each(losses, parameters)
    for p in shared:
        assert torch.allclose(p.grad, 2 * (plain["t0"][p] + 3 * plain["t2"][p]), rtol=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_the_gradients(way):
    stages, heads = _towers()
    x = _rows(7, 4)

    def step():
        a = stages["a"](x)
        b = stages["b"](a)
        v = [z.view_as(z) if way == "cut" else z for z in (a, b, b)]
        losses = {str(i): _loss(heads[i], v[i], i) for i in range(3)}
        cut = {str(i): [(z, v[i])] for i, z in enumerate((a, b, b))}
        return losses, cut if way == "cut" else None, [a, b] if way == "features" else None

    parameters = [*stages.parameters(), *heads.parameters()]
    plain = _each(step()[0], parameters)
    found = Gradients(*step(), 4.0).rows()
    for task, row in plain.items():
        assert found[task].keys() == row.keys()
        for p, g in row.items():
            assert torch.allclose(found[task][p], 4 * g, rtol=1e-10)


def test_reentrant_checkpoints_are_for_features_only():
    """Torch does not say what is inside them."""
    inside, first = _linear(D, D), nn.Linear(4, D)
    trunk = Calls(lambda s, x: checkpoint(s.b, s.a(x), use_reentrant=True), a=first, b=inside)
    step, parameters = _world(trunk, _rows(9, 4), [HEADS["linear"]() for _ in range(2)], "features")
    found = Gradients(*step())
    found.measure("features")
    found.backward({"t0": 2.0, "t1": 0.5})
    got = [p.grad.clone() for p in parameters[:6]]
    trunk.does = lambda s, x: s.b(s.a(x))
    losses, _, _ = step()
    right = torch.autograd.grad(2 * losses["t0"] + 0.5 * losses["t1"], parameters[:4])
    for a, b in zip(got, right, strict=False):
        assert torch.allclose(a, b, rtol=1e-10)
    trunk.does = lambda s, x: checkpoint(s.b, s.a(x), use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        Gradients(*step()).measure("exact")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_are_of_numbers_wide_enough(dtype):
    """Halves hold neither 3 digits of a sum nor the square of 300."""
    p = nn.Parameter(torch.ones(500, dtype=dtype))
    x = (torch.randn(2, 500) * 100).to(dtype)
    plain = (x.double() @ x.double().T).numpy()
    losses = {str(i): (p * row).sum() for i, row in enumerate(x)}
    assert Gradients(losses).measure("exact") == pytest.approx(plain, abs=1e-6 * plain.max())
    z = p * 1
    losses = {str(i): (z * row).sum() for i, row in enumerate(x)}
    assert Gradients(losses, features=[z]).measure("features") == pytest.approx(plain, abs=1e-6 * plain.max())


# -- what it costs


def _peak(action):
    """The largest number of bytes that were alive at once."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = action()
    now = most = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    assert kept is not None
    return most


def test_exact_is_smaller_than_the_gradients_it_is_made_of():
    """With fewer rows than the layers are wide."""
    width, rows, tasks = 200, 10, 8
    trunk = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))
    x = _rows(rows, width)

    def losses():
        z = trunk(x)
        views = [z.view_as(z) for _ in heads]
        cut = {str(i): [(z, v)] for i, v in enumerate(views)}
        return {str(i): _loss(h, v, i) for i, (h, v) in enumerate(zip(heads, views, strict=True))}, cut

    step = losses()
    n = sum(p.numel() for p in trunk.parameters())
    matrix = tasks * n * x.element_size()
    assert _peak(lambda: Gradients(*step).measure("exact")) < 0.25 * matrix
    assert _peak(lambda: Gradients(step[0]).measure("exact")) < 0.5 * matrix


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_gradient_lies_in_memory_as_its_weight_does(optimizer):
    """A fused optimiser moves weights by the numbers that lie side by side."""
    weight, plain = (nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    wanted = torch.arange(6.0).view(2, 3)
    plain.grad = wanted.clone()
    accumulate(weight, torch.arange(6.0).view(2, 3).T.contiguous().T)
    assert weight.grad.stride() == weight.stride()
    for p in (weight, plain):
        optimizer([p], lr=0.1, fused=True).step()
    assert torch.equal(weight, plain)
