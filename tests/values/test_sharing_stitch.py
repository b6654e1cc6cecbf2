"""Cross-stitch and sluice networks against the formulas written out: stage by stage, task by task, in loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manyheads.blocks import initialise
from manyheads.encoders import Encoder
from manyheads.encoders.tabular import Tabular
from manyheads.penalties.orthogonal import Orthogonal
from manyheads.sharing import Trace, by_task
from manyheads.sharing.crossstitch import CrossStitch, Mix
from manyheads.sharing.sluice import Sluice
from manyheads.sharing.soft import Soft
from manyheads.tasks.regression import Regression

pytestmark = pytest.mark.usefixtures("float64")

TASKS = [Regression(name) for name in ("a", "b", "c")]
NAMES = tuple(t.name for t in TASKS)


def tabular(n_layers=2, **more):
    settings = {"d_hidden": 6, "dropout": 0.0, "n_layers": n_layers} | more
    return Tabular({"t": {"numeric": 4}}, **settings)


def rows(n=7):
    return {"numeric": torch.randn(n, 4)}


class Shapes(Encoder):
    """Maps whose size and width change from stage to stage, or sequences with padding."""

    def __init__(self, kind):
        super().__init__()
        self.widths = [3, 5, 4, 4]
        layer = {"map": lambda i, o, s: nn.Conv2d(i, o, 3, s, 1), "sequence": lambda i, o, s: _PerToken(i, o)}[kind]
        steps = [layer(3, 5, 1), layer(5, 4, 2), layer(4, 4, 2)]
        self.stages = nn.ModuleList([_Given(kind), *steps])


class _Given(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return x["values"] if self.kind == "map" else (x["values"], x["mask"])


class _PerToken(nn.Linear):
    def forward(self, z):
        return torch.tanh(super().forward(z[0])), z[1]


def shaped(kind, n=3):
    if kind == "map":
        return {"values": torch.randn(n, 3, 8, 8)}
    return {"values": torch.randn(n, 5, 3), "mask": torch.rand(n, 5) > 0.3}


def made(cls, encoder=tabular, tasks=TASKS, shaken=0.0, **settings):
    """A scheme that starts as in a model; `shaken` moves every parameter, so that nothing is alike any more."""
    scheme = cls(encoder, tasks, **settings)
    initialise(scheme, 0)
    with torch.no_grad():
        for p in scheme.parameters():
            p.add_(shaken * torch.randn_like(p))
    return scheme.eval()


def values(z):
    return z[0] if isinstance(z, tuple) else z


def by_hand(scheme, x, names=NAMES):
    """What every stage gives each task when mixed: x~_is = sum_jt alpha_is,jt x_jt, in loops."""
    z = x
    for stage in scheme.lower.stages:
        z = stage(z)
    current, seen = dict.fromkeys(names, z), []
    for copies, mix in zip(scheme.copies, scheme.mixes, strict=True):
        given = {i: copies[i](current[i]) for i in names}
        alpha = mix.alpha(names)
        s_n = alpha.shape[1]
        current = {}
        for a, i in enumerate(names):
            like = values(given[i])
            channels = like.shape[1] if like.dim() == 4 else like.shape[-1]
            width = -(-channels // s_n)
            result = torch.zeros_like(like)
            for c in range(channels):
                s, at = c // width, c % width
                for b, j in enumerate(names):
                    for t in range(s_n):
                        if t * width + at < channels:
                            weight = alpha[a, s, b, t, at if alpha.shape[-1] > 1 else 0]
                            pick = (slice(None), c) if like.dim() == 4 else (..., c)
                            from_ = (slice(None), t * width + at) if like.dim() == 4 else (..., t * width + at)
                            result[pick] += weight * values(given[j])[from_]
            current[i] = (result, given[i][1]) if isinstance(given[i], tuple) else result
        seen.append(current)
    return seen


ENCODERS = {"tabular": (tabular, rows), "map": (lambda: Shapes("map"), lambda: shaped("map"))}
ENCODERS["sequence"] = (lambda: Shapes("sequence"), lambda: shaped("sequence"))


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


@pytest.mark.parametrize(
    "settings", [{}, {"per": "channel"}, {"own": 0.5, "from_stage": -1}, {"from_stage": 0}], ids=str
)
def test_cross_stitch_is_its_formula(encoder, settings):
    scheme = made(CrossStitch, encoder[0], shaken=0.3, **settings)
    x = encoder[1]()
    expected = by_hand(scheme, x)[-1]
    for trace in (None, Trace(), Trace(cut=True)):
        features = scheme(x, NAMES, trace=trace)
        for task in NAMES:
            torch.testing.assert_close(values(features[task]), values(expected[task]), rtol=0, atol=1e-12)
            if isinstance(features[task], tuple):
                assert torch.equal(features[task][1], x["mask"])
        alone = scheme(x, ["b"], trace=trace)
        torch.testing.assert_close(values(alone["b"]), values(expected["b"]), rtol=0, atol=1e-12)


def test_one_step_of_mixing():
    mix = Mix(("a", "b"), own=0.9)
    with torch.no_grad():
        mix.moved["a"].by[0, 1].fill_(0.2)  # alpha_ab = 0.1 + 0.2
        mix.moved["b"].by[0, 1].fill_(-0.5)  # alpha_bb = 0.9 - 0.5
    x = torch.tensor([[[1.0, 2.0]], [[10.0, 20.0]]])
    torch.testing.assert_close(mix(x, ("a", "b")), torch.tensor([[[3.9, 7.8]], [[4.1, 8.2]]]))
    torch.testing.assert_close(mix.shares(("b",)), torch.tensor([[0.1, 0.4]]))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("own", [0.9, 0.8, 0.0, 1.0])
@pytest.mark.parametrize("n_subspaces", [1, 2])
def test_rows_sum_to_1_at_the_start(n, own, n_subspaces):
    names = tuple(f"task {i}" for i in range(n))
    alpha = Mix(names, own, n_subspaces).alpha(names).detach()
    torch.testing.assert_close(alpha.sum((2, 3)), torch.ones(n, n_subspaces, 1))
    for i in range(n):
        for s in range(n_subspaces):
            assert alpha[i, s, i, s] == pytest.approx(own if n > 1 else 1)
    if n == 5 and own == 0.8 and n_subspaces == 1:
        torch.testing.assert_close(alpha[0].flatten(), torch.tensor([0.8, 0.05, 0.05, 0.05, 0.05]))


@pytest.mark.parametrize("cls", [CrossStitch, Sluice])
def test_where_tasks_read_themselves_only_they_are_independent(cls):
    more = {"last": 1.0} if cls is Sluice else {}
    scheme, soft = made(cls, own=1.0, **more), made(Soft, strength=0.0, from_stage=1)
    with torch.no_grad():
        for own, other in zip(scheme.copies.parameters(), soft.copies.parameters(), strict=True):
            own.add_(0.3 * torch.randn_like(own))
            other.copy_(own)
    x = rows()
    for task, features in scheme(x, NAMES).items():
        torch.testing.assert_close(features, soft(x, NAMES)[task], rtol=0, atol=1e-12)
    scheme(x, NAMES)["a"].sum().backward()
    for copies in scheme.copies:
        for task in NAMES:
            assert any(p.grad.abs().sum() > 1e-6 for p in copies[task].parameters()) == (task == "a")


def test_where_all_weights_are_equal_all_tasks_read_the_same():
    scheme = made(CrossStitch, own=1 / 3)
    with torch.no_grad():
        for p in scheme.copies.parameters():
            p.add_(0.3 * torch.randn_like(p))
    features = scheme(rows(), NAMES)
    for task in NAMES:
        torch.testing.assert_close(features[task], features["a"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", [CrossStitch, Sluice])
def test_at_the_start_it_is_one_trunk(cls):
    """All copies are alike and rows sum to 1, so any weight of a task's own features gives the same."""
    x = rows()
    one, other = made(cls, own=0.9)(x, NAMES), made(cls, own=0.4)(x, NAMES)
    for task in NAMES:
        torch.testing.assert_close(one[task], other[task], rtol=0, atol=1e-15)
        torch.testing.assert_close(one[task], one["a"], rtol=0, atol=1e-15)


def test_the_gradient_of_a_weight_is_that_of_the_formula():
    scheme = made(CrossStitch, lambda: tabular(1), shaken=0.3)
    x, g = rows(), torch.randn(7, 6)
    (scheme(x, NAMES)["a"] * g).sum().backward()
    z = scheme.lower.stages[0](x)
    for i, j in enumerate(NAMES):
        expected = (scheme.copies[0][j](z) * g).sum()  # d/d alpha_aj of <g, sum_j alpha_aj x_j>
        assert scheme.mixes[0].moved["a"].by.grad[0, i].item() == pytest.approx(expected.item(), abs=1e-12)
        assert scheme.mixes[0].moved["b"].by.grad[0, i].item() == 0


def test_a_trace_tells_who_reads_from_whom():
    scheme, trace = made(CrossStitch, shaken=0.3), Trace()
    scheme(rows(), ["b"], trace=trace)
    assert set(trace.use) == {"b"}
    assert list(trace.use["b"]) == ["from a", "from b", "from c"]
    for k, other in enumerate(NAMES):
        expected = sum(mix.alpha(("b",))[0, 0, k, 0, 0] for mix in scheme.mixes) / 2
        assert trace.use["b"][f"from {other}"].item() == pytest.approx(expected.item())
    many = [Regression(f"task {i}") for i in range(13)]
    trace = Trace()
    made(CrossStitch, tasks=many)(rows(), ["task 3"], trace=trace)
    assert list(trace.use["task 3"]) == ["from task 3"]
    assert trace.use["task 3"]["from task 3"].item() == pytest.approx(0.9)


def test_each_task_has_its_own_view_of_every_copy():
    scheme, trace = made(CrossStitch, shaken=0.3), Trace(cut=True)
    features = scheme(rows(), NAMES, trace=trace)
    assert {task: len(pairs) for task, pairs in trace.cut.items()} == dict.fromkeys(NAMES, 3)
    alpha = scheme.mixes[-1].alpha(NAMES)[:, 0, :, 0, 0]
    for a, task in enumerate(NAMES):
        views = [view for _, view in trace.cut[task]]
        torch.testing.assert_close(features[task], sum(w * v for w, v in zip(alpha[a], views, strict=True)))
        found = torch.autograd.grad(features[task].sum(), views, retain_graph=True)
        for weight, g in zip(alpha[a], found, strict=True):
            torch.testing.assert_close(g, weight.expand_as(g))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"own": 1.2}, "`own`.*1.2"), ({"per": "row"}, "`per`.*`row`"), ({"from_stage": 7}, "`from_stage`.*7")],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CrossStitch(tabular, TASKS, **settings)


# -- sluice


def test_sluice_of_two_tasks_and_two_subspaces_is_its_formula():
    """K = 2, S = 2 and L = 2, every product written out."""
    tasks = TASKS[:2]
    scheme = made(Sluice, tasks=tasks, shaken=0.3)
    x = rows()
    z = scheme.lower.stages[0](x)
    a1, b1 = scheme.copies[0]["a"](z), scheme.copies[0]["b"](z)
    first = torch.cat([a1, b1], 1).unflatten(1, (4, 3))  # a's subspaces 1 and 2, then b's
    mixed = torch.einsum("xy,ryc->rxc", scheme.mixes[0].alpha(("a", "b"))[..., 0].reshape(4, 4), first)
    a1, b1 = mixed[:, :2].flatten(1), mixed[:, 2:].flatten(1)
    a2, b2 = scheme.copies[1]["a"](a1), scheme.copies[1]["b"](b1)
    second = torch.cat([a2, b2], 1).unflatten(1, (4, 3))
    mixed = torch.einsum("xy,ryc->rxc", scheme.mixes[1].alpha(("a", "b"))[..., 0].reshape(4, 4), second)
    a2, b2 = mixed[:, :2].flatten(1), mixed[:, 2:].flatten(1)
    for trace in (None, Trace(cut=True)):
        features = scheme(x, ("a", "b"), trace=trace)
        for task, (one, two) in {"a": (a1, a2), "b": (b1, b2)}.items():
            beta = scheme.beta[task].weight
            torch.testing.assert_close(features[task], beta[0] * one + beta[1] * two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"n_subspaces": 3}, {"n_subspaces": 1, "from_stage": 0}], ids=str)
def test_sluice_is_its_formula_on_every_shape(encoder, settings):
    """Widths that S does not divide, earlier maps of another size, padded sequences."""
    scheme = made(Sluice, encoder[0], shaken=0.3, **settings)
    x = encoder[1]()
    seen = by_hand(scheme, x)
    for trace in (None, Trace(cut=True)):
        for wanted in (NAMES, ["b"], ["c", "a"]):
            features = scheme(x, wanted, trace=trace)
            for task in wanted:
                top = values(seen[-1][task])
                expected = torch.zeros_like(top)
                for beta, i in zip(scheme.beta[task].weight, scheme.read, strict=True):
                    z = values(seen[i][task])
                    if z.dim() == 4 and z.shape != top.shape:
                        z = z.reshape(*top.shape[:3], 2, top.shape[3], 2).mean((3, 5))
                    expected += beta * z
                torch.testing.assert_close(values(features[task]), expected, rtol=0, atol=1e-12)


def test_sluice_with_one_subspace_that_reads_the_last_stage_is_cross_stitch():
    stitch, sluice = made(CrossStitch, own=0.7), made(Sluice, own=0.7, n_subspaces=1, last=1.0)
    x = rows()
    with torch.no_grad():
        for name, p in stitch.named_parameters():
            p.add_(0.3 * torch.randn_like(p))
            sluice.get_parameter(name).copy_(p)
    for task, features in stitch(x, NAMES).items():
        torch.testing.assert_close(sluice(x, NAMES)[task], features, rtol=0, atol=1e-12)


def test_betas_start_on_the_last_stage_and_sum_to_1():
    scheme = made(Sluice, lambda: tabular(3), last=0.8)
    for task in NAMES:
        torch.testing.assert_close(scheme.beta[task].weight.detach(), torch.tensor([0.1, 0.1, 0.8]))
    assert not made(Sluice, lambda: tabular(1)).beta  # one stage: nothing to weigh


def test_subspaces_are_offered_to_penalties_on_features():
    scheme, trace = made(Sluice, shaken=0.3), Trace()
    x = rows()
    scheme(x, ["b"], trace=trace)
    assert len(trace.pairs) == 2  # two stages, one pair each
    every = by_task(NAMES, scheme.copies[0](scheme.lower.stages[0](x)))
    torch.testing.assert_close(torch.cat(trace.pairs[0], 1), every["b"])
    assert {*trace.use["b"]} == {"from a", "from b", "from c", "stage 1", "stage 2"}
    trace = Trace()
    made(Sluice, n_subspaces=3, shaken=0.3)(x, NAMES, trace=trace)
    assert len(trace.pairs) == 3 * 2 * 3  # tasks, stages, pairs of subspaces


def test_the_penalty_makes_subspaces_orthogonal():
    scheme = made(Sluice, shaken=0.3)
    x, step = rows(40), torch.optim.Adam(scheme.copies.parameters(), 0.01)
    found = []
    for _ in range(60):
        trace = Trace()
        scheme(x, NAMES, trace=trace)
        loss = torch.stack([Orthogonal(1.0).loss(torch.stack(pair)) for pair in trace.pairs]).mean()
        step.zero_grad()
        loss.backward()
        step.step()
        found.append(loss.item())
    assert found[-1] < 0.5 * found[0]


@pytest.mark.parametrize("settings", [{"n_subspaces": 0}, {"last": 1.5}, {"own": -0.1}])
def test_wrong_settings_of_sluice_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        Sluice(tabular, TASKS, **settings)
